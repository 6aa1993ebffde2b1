import pytest

from command_line import lora2, refused


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        ("--arch deberta-v3-base --weights Q,K --k 1 --r 8", "37,440"),
        ("--arch deberta-v3-base --weights Q,V --k 1 --r 8", "37,440"),
        ("--arch deberta-v3-base --weights Q,K,V --k 1 --r 8", "56,160"),
        ("--arch deberta-v3-base --weights all --k 1 --r 8", "167,616"),
        ("--arch deberta-v3-base --weights all --k 8 --r 8", "1,336,896"),
        ("--arch roberta-large --weights all --k 1 --r 8", "445,824"),
        ("--arch deberta-v3-base --weights q,k,v,o,f1,f2 --k 1 --r 8", "167,616"),
        # Twelve matrices of 768 to 768: 12 (1536 + 16 + 8).
        ("--arch deberta-v3-base --weights O --k 1 --r 8", "18,720"),
        ("--arch deberta-v3-base --target_modules query_proj --k 1 --r 8", "18,720"),
    ],
)
def test_params_prints_the_papers_numbers(arguments, printed, capsys):
    assert lora2("params", *arguments.split()) == 0
    assert capsys.readouterr().out == f"{printed}\n"


def test_params_of_a_folder_needs_no_weights(tiny_model, tmp_path, capsys):
    (tmp_path / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    assert lora2("params", "--model", tmp_path, "--k", 1, "--r", 4) == 0
    # Two layers: four matrices 16 × 16 and two 16 × 32, each with 2 k r + r more.
    assert capsys.readouterr().out == f"{2 * (4 * (32 + 12) + 2 * (48 + 12)):,}\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("", "--arch"),
        ("--arch bert-huge", "bert-huge"),
        ("--arch roberta-large --weights Q,X", "'X'"),
        ("--arch roberta-large --k 0", "k=0"),
        ("--arch roberta-large --target_modules nothing", "nothing"),
    ],
)
def test_params_refuses(arguments, named, capsys):
    assert named in refused(capsys, "params", *arguments.split())
