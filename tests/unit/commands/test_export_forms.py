"""Every form of `lora2 export` is in one table, from which the command line is made."""

import dataclasses

import pytest

from command_line import lora2, refused
from lora2.commands.export_forms import EXPORT_FORMS, ExportForm, ExportRequest

each = pytest.mark.parametrize("form", EXPORT_FORMS.values(), ids=list(EXPORT_FORMS))


@each
def test_the_help_explains_it(form: ExportForm, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        lora2("export", "--help")
    assert f"{form.name}: {form.words}" in " ".join(capsys.readouterr().out.split())


@each
def test_what_is_there_is_not_overwritten(form: ExportForm, capsys) -> None:
    said = refused(capsys, "export", "run", f"--to={form.name}", f"--output={__file__}")
    assert f"give another {form.place}" in said


@each
def test_compact_is_refused_where_it_has_no_such_form(form: ExportForm, tmp_path, capsys) -> None:
    output = f"--output={tmp_path / 'out'}"
    said = refused(capsys, "export", tmp_path / "run", f"--to={form.name}", output, "--compact")
    assert said.startswith("lora2: compact: ") != form.may_be_compact


def test_a_new_entry_is_all_that_the_command_needs(monkeypatch, tmp_path) -> None:
    written: list[ExportRequest] = []
    form = dataclasses.replace(
        EXPORT_FORMS["gguf"],
        name="new",
        check=lambda run, name: None,
        write=lambda run, request: written.append(request),
    )
    monkeypatch.setitem(EXPORT_FORMS, "new", form)
    monkeypatch.setattr("lora2.commands.export.load_saved_run", lambda *_: None)
    monkeypatch.setattr("lora2.commands.export._rows_of_run", lambda _: None)
    assert lora2("export", "run", "--to=new", f"--output={tmp_path / 'out'}") == 0
    assert written == [ExportRequest(tmp_path / "out", None, compact=False)]
