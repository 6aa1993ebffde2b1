"""A finished run in memory: its adapter on its base model, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from lora2.errors import UserError
from lora2.exchange.merge_support import reason_against_merging
from lora2.training.base_models.preprocessors import Preprocessor
from lora2.training.methods.registry import method_of
from lora2.training.on_disk.run_folder import RunFolder
from lora2.training.on_disk.summary import RunSummary
from lora2.training.options.arguments import RunSettings
from lora2.training.quiet import printing_on_standard_error
from lora2.tuners.base.finite_checks import check_finite_output


@dataclass(frozen=True)
class LoadedRun:
    """A run's adapter on its base model, or the model that was trained whole; in evaluation mode.

    Attributes:
        task: what task.json holds: metrics; kind, text columns and names of the labels, or form
            and system message of texts.
        summary: what summary.json holds.
        preprocessor: what makes inputs of rows.
        base_model: the name or folder that its base model was loaded from.
    """

    folder: RunFolder
    settings: RunSettings
    task: dict[str, Any]
    summary: RunSummary
    model: PeftModel | PreTrainedModel
    preprocessor: Preprocessor
    base_model: str

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The preprocessor of a run on texts, which is a tokenizer."""
        tokenizer: Any = self.preprocessor
        return tokenizer

    def check_merges(self) -> None:
        """Check that what was trained can be put into the weights.

        Raises:
            UserError: there is nothing to merge, or it cannot be.
        """
        method = method_of(self.settings)
        if method.whole:
            raise UserError(
                f"run: {self.folder.adapter} is a transformers checkpoint already; there is "
                "nothing to merge."
            )
        reason = None
        if method.merges and isinstance(self.model, PeftModel):
            reason = reason_against_merging(self.model)
        if not method.merges or reason is not None:
            of_peft = "" if reason is None else f" ({reason})"
            raise UserError(
                f"run: {method.label} cannot be merged into the weights{of_peft}; load the adapter "
                f"in {self.folder.adapter} on its base model."
            )

    @printing_on_standard_error()
    @torch.no_grad()
    def logits(self, batches: Iterable[BatchEncoding]) -> list[Tensor]:
        """Return the logits [rows, ...] of each batch, in float32.

        Raises:
            NumericalError: naming the layer that computes NaN or infinity.
        """
        parts = []
        for batch in batches:
            found = self.model(**batch).logits
            check_finite_output(found, self.model, partial(self.model, **batch))
            parts.append(found.float().cpu())
        return parts
