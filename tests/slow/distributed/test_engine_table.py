"""Two and four processes on a CPU, on each engine: same kept set, same adapter as one process."""

import sys
from pathlib import Path
from typing import Any

import pytest

from forked_commands import ForkedCommands

sys.path.insert(0, str(Path(__file__).parent))
import engine_run
import engine_table
from engine_table import CASES, FORMS, OF_OTHER_MODELS, RESUMED, Row

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, forked: ForkedCommands) -> Path:
    """The folder in which all trainings are."""
    path = tmp_path_factory.mktemp("engines")
    engine_table.run_all(path, forked)
    return path


def test_the_table_has_no_other_no_than_these(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = engine_table.table(folder)
    with capsys.disabled():
        print("\n" + engine_table.as_text(rows))
    for case in (*CASES, *OF_OTHER_MODELS):
        row = rows[case]
        if case.startswith("fsdp2-mixed"):
            assert (row.trains, row.resumed_bit_for_bit) == ("yes", "yes")
        else:
            moves = ("yes" if case in RESUMED else "not run",) * 2
            assert row == Row(*["yes"] * 6, *moves), case


@pytest.mark.parametrize("form", FORMS)
def test_one_process_prunes_to_the_target_and_learns(form: str, folder: Path) -> None:
    end = engine_table.adapter(folder / "1" / "one" / form, "adapter-0")
    values = [tensor for name, tensor in end.items() if name.endswith("lora2_lambda")]
    assert sum(int((value != 0).sum()) for value in values) == engine_run.TARGET
    start = engine_run.adapted_model(form).state_dict()
    moved = [(t - start[f"{name}.default"]).abs().max() for name, t in end.items()]
    assert min(moved) > 1e-3


@pytest.mark.parametrize("engine", ["one-mixtral", "one-qwen3moe"])
def test_some_experts_get_tokens_in_one_of_two_processes_alone(engine: str) -> None:
    model = engine_run.adapted_model("exact", engine).get_base_model()
    chosen: list[set[int]] = []
    experts: Any = model.model.layers[0].mlp.experts
    experts.register_forward_pre_hook(
        lambda module, args: chosen.append(set(args[1].flatten().tolist()))
    )
    for half in engine_run.batch(0).chunk(2):
        model(input_ids=half)
    first, second = chosen
    assert first ^ second
    assert len(first | second) < 16


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("fsdp1-orig/exact", "this engine flattens parameters"),
        # torch's own: it flattens trained and frozen parameters together.
        ("fsdp1/exact", "Must flatten tensors with uniform `requires_grad`"),
        ("tp-dropout/exact", "lora_dropout=0.1: the weight of model.layers.0.self_attn.q_proj"),
        ("apart/exact", "do not keep the same singular values of adapter 'default' at step 3"),
        ("fsdp2-nan/exact", "NaN or infinity in the gradient of"),
        (
            "fsdp2-merge/exact",
            "cannot be merged into a weight that is split over several processes",
        ),
        (
            "fsdp2-late/exact",
            "is split over several processes, and an adapter must be added before",
        ),
    ],
)
def test_every_process_is_refused_with_one_sentence(
    case: str, words: str, rank: int, folder: Path
) -> None:
    sentence = engine_table.refusal(folder, case, rank)
    assert sentence is not None
    assert words in sentence
