"""A folder as microsoft/deberta-v3-base has on the hub: pickled, and without tokenizer.json."""

import io
import json
from pathlib import Path

import sentencepiece
import torch
from transformers import DebertaV2Config, DebertaV2ForMaskedLM

_TEXTS = (
    "The cat sat on the mat near a dog that barks all day.",
    "It rains near the house and the street is wet today.",
    "A premise entails the hypothesis if it cannot be false.",
)
# What DeBERTa-v3's own file has; other models number their special tokens otherwise.
_DEBERTA_TOKENS = {
    "pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3,
    "pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]",
}  # fmt: skip


def save_sentencepiece(path: Path, **options: object) -> None:
    """Train a SentencePiece model on a few words."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_TEXTS * 10),
        model_writer=written,
        vocab_size=360,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    path.write_bytes(written.getvalue())


def save_deberta(folder: Path) -> Path:
    """Save a random DeBERTa-v3, with the masked-word head that the hub's weights have."""
    folder.mkdir()
    save_sentencepiece(folder / "spm.model", **_DEBERTA_TOKENS)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": False, "vocab_type": "spm"})
    )
    config = {
        "model_type": "deberta-v2",
        "vocab_size": 384,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "hidden_act": "gelu",
        "max_position_embeddings": 512,
        "relative_attention": True,
        "position_buckets": 256,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": "p2c|c2p",
        "layer_norm_eps": 1e-7,
        "max_relative_positions": -1,
        "position_biased_input": False,
        "type_vocab_size": 0,
        "pad_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = DebertaV2ForMaskedLM(DebertaV2Config(**config)).half()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


def save_rte(folder: Path, rows: int = 32) -> Path:
    """Write the official files of RTE, a few rows each, into a folder of GLUE's."""
    (folder / "RTE").mkdir(parents=True)
    lines = ["index\tsentence1\tsentence2\tlabel"]
    for index in range(rows):
        label, word = ("entailment", "wet") if index % 2 else ("not_entailment", "dry")
        lines.append(f"{index}\tIt rains near house {index}.\tThe street is {word}.\t{label}")
    (folder / "RTE" / "train.tsv").write_text("\n".join(lines) + "\n")
    (folder / "RTE" / "dev.tsv").write_text("\n".join(lines[:9]) + "\n")
    return folder
