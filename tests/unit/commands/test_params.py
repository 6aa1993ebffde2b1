import pytest
from transformers import MixtralConfig

from command_line import lora2, refused


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        ("--arch deberta-v3-base --weights Q,K --k 1 --r 8", "37,440"),
        ("--arch deberta-v3-base --weights Q,V --k 1 --init_r 8", "37,440"),
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


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        # LoRA's of rank 4, DoRA's with a magnitude for each output.
        ("--method rslora", 4 * (48 * 1536 + 24 * 3840)),
        ("--method dora", 4 * (48 * 1536 + 24 * 3840) + 60 * 768 + 12 * 3072),
        ("--method pissa", 4 * (48 * 1536 + 24 * 3840)),
        ("--method peft", 4 * (48 * 1536 + 24 * 3840)),
    ],
)
def test_params_counts_other_methods_of_peft(arguments, printed, capsys):
    config = '--peft_config={"peft_type": "LORA", "r": 4}'
    assert lora2("params", "--arch=deberta-v3-base", config, *arguments.split()) == 0
    assert capsys.readouterr().out == f"{printed:,}\n"


@pytest.mark.parametrize(
    ("arguments", "at_the_end", "kilobytes"),
    [
        # A value of each matrix on average: 72 of those of 768 to 768 that cost least, or of the
        # 24 feed-forward matrices, which have eight each.
        ("--target_r 1", f"{48 * 1536 + 24 * 1536:,} to {72 * 3840:,}", "442 to 1,106"),
        ("--target_r 1 --budget_unit parameters", f"at most {48 * 1536 + 24 * 3840:,}", "664"),
        ("--k 1 --target_r 8", "at most 165,888", "664"),
    ],
)
def test_params_says_how_small_pruning_makes_an_adapter(arguments, at_the_end, kilobytes, capsys):
    assert lora2("params", "--arch=deberta-v3-base", *arguments.split()) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first in ("1,336,896", "167,616")
    assert second == f"at the end: {at_the_end}, as a LoRA (about {kilobytes} kB)"


def test_none_prunes_none(capsys):
    assert lora2("params", "--arch=deberta-v3-base", "--target_r=none") == 0
    assert capsys.readouterr().out == "1,336,896\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--method lora --target_r 1", "target_r"),
        ("--method adalora --target_r 1", "target_r"),
        ("--budget_unit parameters", "budget_unit"),
        ("--k 1 --target_r 1 --budget_unit parameters", "needs a k of at least init_r=8"),
        ("--target_r 9", "target_r=9.0 is above init_r=8"),
        ("--target_r 0", "target_r=0.0 would leave nothing"),
    ],
)
def test_a_budget_that_has_no_effect_or_meaning_is_refused(arguments, said, capsys):
    assert said in refused(capsys, "params", "--arch=deberta-v3-base", *arguments.split())


# DeBERTaV3-base: twelve layers of four matrices 768 × 768 and two of 768 × 3072, biases, and two
# normalisations, in addition to those of the embeddings and of the relative positions.
SQUARE, LONG = 768 + 768, 768 + 3072
SUMS = 12 * (4 * SQUARE + 2 * LONG)
BIASES = 12 * (4 * 768 + 3072 + 768 + 2 * 768) + 2 * 768
ENCODER = 12 * (4 * 768**2 + 2 * 768 * 3072 + 2 * 768) + (128_100 + 512 + 2) * 768
ROBERTA_LAYER = 4 * (1024**2 + 1024) + 2 * 1024 * 4096 + 4096 + 1024 + 4 * 1024
METHODS_ON_DEBERTA = {
    "--method lora --k 1": 165_888,
    "--method lora": 8 * SUMS,
    "--method lora --k 8 --weights Q,V": 8 * 24 * SQUARE,
    "--method sora --k 1": SUMS + 72,
    "--method sora": 8 * SUMS + 8 * 72,
    "--method adalora": 12 * SUMS + 12 * 72,
    # What AdaLoRA prunes to has no part in what it trains.
    "--method adalora --r 2": 2 * SUMS + 2 * 72,
    "--method lora2 --k 1 --r 8": SUMS + 72 * (16 + 8),
    "--method bottleneck": 24 * (2 * 8 * 768 + 8 + 768) + 26 * 2 * 768,
    "--method bottleneck --bottleneck_size 64": 24 * (2 * 64 * 768 + 64 + 768) + 26 * 2 * 768,
    "--method prompt": 20 * 768,
    "--method prompt --virtual_tokens 100": 76_800,
    "--method bitfit": BIASES,
    "--method full": ENCODER + BIASES,
    "--method head": 0,
}


@pytest.mark.parametrize(("arguments", "number"), METHODS_ON_DEBERTA.items())
def test_params_of_every_method_is_its_formula(arguments, number, capsys):
    assert lora2("params", "--arch=deberta-v3-base", *arguments.split()) == 0
    assert capsys.readouterr().out == f"{number:,}\n"


def test_params_of_deberta_are_those_that_are_published():
    assert ENCODER + BIASES == 183_831_552


def test_params_of_a_whole_model_has_no_pooler_that_a_classifier_lacks(capsys):
    assert lora2("params", "--arch=roberta-large", "--method=full") == 0
    embeddings = (50_265 + 514 + 1 + 2) * 1024
    assert capsys.readouterr().out == f"{24 * ROBERTA_LAYER + embeddings:,}\n"


def test_params_counts_embeddings_and_all_linear_layers(tiny_model, capsys):
    command = ("params", "--model", tiny_model, "--k", 2, "--r", 4, "--target_modules")
    extra = 2 * 2 * 4 + 4
    assert lora2(*command, "word_embeddings") == 0
    assert capsys.readouterr().out == f"{2 * (100 + 16) + extra:,}\n"
    assert lora2(*command, "all-linear") == 0
    # Two layers as below, and the pooler.
    assert capsys.readouterr().out == f"{2 * (4 * 64 + 2 * 96 + 6 * extra) + 64 + extra:,}\n"


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
        ("--arch roberta-large --method lora --target_modules nothing", "nothing"),
        ("--arch roberta-large --method lora3", "lora3"),
        ("--arch roberta-large --method bottleneck --bottleneck_size 0", "bottleneck_size=0"),
        ("--arch roberta-large --method prompt --virtual_tokens 0", "virtual_tokens=0"),
    ],
)
def test_params_refuses(arguments, named, capsys):
    assert named in refused(capsys, "params", *arguments.split())


@pytest.mark.parametrize(
    ("arguments", "matrices"),
    [
        # Of each of four experts; a router and a head are no parameters of experts.
        ("--target_parameters experts.gate_up_proj experts.down_proj", 2),
        ("--target_parameters experts.down_proj", 1),
        ("--target_parameters", 0),
    ],
)
@pytest.mark.parametrize("method", ["lora2", "lora"])
def test_params_counts_experts_that_are_named(method, arguments, matrices, tmp_path, capsys):
    config = MixtralConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=4, vocab_size=32,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    command = ("params", "--model", tmp_path, "--method", method, "--k", 2)
    assert lora2(*command, "--target_modules", "q_proj", *arguments.split()) == 0
    counted = int(capsys.readouterr().out.replace(",", ""))
    shapes = [(16, 16), *4 * [(16, 48), (24, 16)][2 - matrices :]]
    more = 2 * 2 * 8 + 8 if method == "lora2" else 0
    assert counted == sum(2 * (d_in + d_out) + more for d_in, d_out in shapes)


def test_a_method_of_peft_that_would_train_nothing_is_refused(capsys):
    said = refused(capsys, "params", "--arch=deberta-v3-base", "--method=trainable_tokens")
    assert "method: trainable_tokens trains nothing with these options" in said
