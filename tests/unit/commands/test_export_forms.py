"""Every form of `lora2 export` has what the command asks of it."""

import pytest

from lora2.commands.export_forms import EXPORT_FORMS


@pytest.mark.parametrize("form", EXPORT_FORMS.values(), ids=EXPORT_FORMS)
def test_a_form_says_what_it_is_and_what_it_writes(form) -> None:
    assert form.words
    assert form.written in ("file", "folder")
    assert callable(form.check)
    assert callable(form.write)
