"""All objectives by name."""

from __future__ import annotations

from lora2.training.objectives.classification import Classification
from lora2.training.objectives.dpo import PreferenceOptimization
from lora2.training.objectives.image_classification import ImageClassification
from lora2.training.objectives.objective import Objective
from lora2.training.objectives.sft import SupervisedFineTuning
from lora2.training.objectives.token_classification import TokenClassification
from lora2.training.options.arguments import RunSettings
from lora2.training.options.named_tasks import ObjectiveName

OBJECTIVES: dict[ObjectiveName, Objective] = {
    each.name: each
    for each in (
        Classification(),
        SupervisedFineTuning(),
        PreferenceOptimization(),
        TokenClassification(),
        ImageClassification(),
    )
}


def objective_of(settings: RunSettings) -> Objective:
    """Return the objective of a run."""
    return OBJECTIVES[settings.objective]
