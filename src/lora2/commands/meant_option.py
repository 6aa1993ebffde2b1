"""Says which option was meant by a name that a command does not have.

People know options from transformers' and TRL's scripts and from PEFT's configs, where some have
names whose letters do not lead to ours.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from lora2.support.nearest_name import nearest

# Each name may stand for these options, of which a command has one at most.
_ELSEWHERE: Mapping[str, tuple[str, ...]] = {
    "adapter": ("method",),
    "adapter_path": ("start_from",),
    "base_model": ("model",),
    "batch_size": ("per_device_train_batch_size",),
    "bs": ("per_device_train_batch_size",),
    "cpu": ("use_cpu",),
    "cutoff_len": ("max_length",),
    "dataset_config_name": ("dataset_config",),
    "dataset_name": ("dataset",),
    "device": ("use_cpu",),
    "epochs": ("num_train_epochs",),
    "eval_batch_size": ("per_device_eval_batch_size",),
    "eval_file": ("validation_file",),
    "labels": ("label_column",),
    "lora_r": ("k", "rank"),
    "lora_rank": ("k", "rank"),
    "max_seq_len": ("max_length",),
    "max_seq_length": ("max_length",),
    "model_id": ("model",),
    "model_name": ("model",),
    "model_name_or_path": ("model",),
    "no_cuda": ("use_cpu",),
    "o": ("output", "output_dir"),
    "out": ("output", "output_dir"),
    "overwrite_output_dir": ("overwrite",),
    "pretrained_model_name_or_path": ("model",),
    "r": ("k", "rank"),
    "rank": ("k",),
    "resume_from_checkpoint": ("resume",),
    "task_name": ("task",),
    "test_file": ("validation_file",),
    "text_field": ("text_columns",),
    "dataset_text_field": ("text_columns",),
    "torch_dtype": ("dtype",),
}

_BEST = (
    "a run keeps its last adapter, because pruning reaches its budget at the end, and summary.json "
    "has the best evaluation, too"
)
_EVALUATION = "a run is evaluated in the precision that it is trained in, which --bf16 sets"
_HUB = "a run stays on this machine, so upload the folder that `lora2 export` writes"
_IN_PYTHON = "quantized base models are trained from Python (docs/how-to/quantized.md)"
# `lora2 train` does not have these fields of TrainingArguments, nor others like them, because:
_DECIDED: Mapping[str, str] = {
    "auto_find_batch_size": "a run has the batch size that it is given by "
    "--per_device_train_batch_size",
    "bf16_full_eval": _EVALUATION,
    "dataloader_in_order": "rows always come in the order that the seed gives",
    "do_eval": "`lora2 train` evaluates a run, and `lora2 evaluate` a finished one",
    "do_predict": "`lora2 predict` does that with a finished run",
    "do_train": "`lora2 train` always trains",
    "early_stopping_patience": _BEST,
    "fp16_full_eval": _EVALUATION,
    "greater_is_better": _BEST,
    "hub_model_id": _HUB,
    "hub_token": _HUB,
    "length_column_name": "the lengths of rows are counted when they are encoded",
    "load_best_model_at_end": _BEST,
    "load_in_4bit": _IN_PYTHON,
    "load_in_8bit": _IN_PYTHON,
    "metric_for_best_model": _BEST,
    "push_to_hub": _HUB,
    "quantization": _IN_PYTHON,
    "remove_unused_columns": "options such as --text_columns name the columns that are used",
    "save_only_model": "a checkpoint has all that --resume needs, and --save_total_limit says how "
    "many are kept",
    "trust_remote_code": "code that comes with a model is never run",
}


def advice_on(name: str, known: Collection[str], *, prefix: str = "") -> str | None:
    """Return what to do about an unknown option, or why there is none like it; None if unclear.

    known: the options of the command. prefix: what an option is written with.
    """
    name = name.replace("-", "_").lower()
    # An option of several words has two names, of which the help shows this one first.
    known = {each for each in known if "-" not in each}
    if name in _DECIDED and "per_device_train_batch_size" in known:
        return f"{_DECIDED[name]}."
    elsewhere = [each for each in _ELSEWHERE.get(name, ()) if each in known]
    meant = elsewhere[0] if elsewhere else nearest(name, known)
    return f"did you mean {prefix}{meant}?" if meant else None
