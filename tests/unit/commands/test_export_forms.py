"""The command line offers every form of the table, in the table's words."""

import pytest

from command_line import lora2, refused
from lora2.commands.export_forms import EXPORT_FORMS


def test_the_help_has_every_form(capsys):
    with pytest.raises(SystemExit):
        lora2("export", "--help")
    said = " ".join(capsys.readouterr().out.split())
    for name, form in EXPORT_FORMS.items():
        assert f"{name}: {form.words}" in said


@pytest.mark.parametrize("name", EXPORT_FORMS)
def test_what_exists_is_refused_by_the_kind_of_thing_that_is_written(
    name, finished_run, tmp_path, capsys
):
    output = tmp_path / "there"
    output.touch()
    said = refused(capsys, "export", finished_run, f"--to={name}", "--output", output)
    assert str(output) in said
    assert EXPORT_FORMS[name].written in said
