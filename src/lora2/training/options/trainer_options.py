"""The options of `lora2 train` that are fields of transformers' TrainingArguments."""

from __future__ import annotations

from transformers import TrainingArguments

from lora2.training.options.derived_options import derived

# lora2 decides these fields itself, or they would break a run folder; not all versions have all.
TRAINING_LEFT_OUT = frozenset(
    {
        "output_dir",
        "resume_from_checkpoint",
        "do_train",
        "do_eval",
        "do_predict",
        "local_rank",
        "disable_tqdm",
        "label_names",
        "remove_unused_columns",
        "prediction_loss_only",
        "batch_eval_metrics",
        "include_for_metrics",
        "eval_do_concat_batches",
        "load_best_model_at_end",
        "metric_for_best_model",
        "greater_is_better",
        "auto_find_batch_size",
        "save_only_model",
        "restore_callback_states_from_checkpoint",
        "ignore_data_skip",
        "push_to_hub",
        "hub_token",
        "hub_private_repo",
        "hub_model_id",
        "hub_strategy",
        "hub_always_push",
        "hub_revision",
        "trackio_space_id",
        "trackio_bucket_id",
        "trackio_static_space_id",
        "parallelism_config",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "use_cache",
        # transformers evaluates in the precision of the training while it trains.
        "bf16_full_eval",
        "fp16_full_eval",
        # Rows that are encoded have no columns but those that the model reads.
        "length_column_name",
        # The order of the rows is part of what a run is.
        "dataloader_in_order",
        # One of its two kinds is of TPUs, the other stops at the first mask of truth values.
        "debug",
    }
)

TrainingOptions = derived(
    "TrainingOptions",
    TrainingArguments,
    TRAINING_LEFT_OUT,
    "The training: the fields of transformers.TrainingArguments.",
)
