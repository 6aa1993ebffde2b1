"""The search for learning rates: the same number of trials for every method, by Optuna.

A trial is a run like any other, with a record of its own. A study is not stored: it is given the
records there are, in the order in which they were asked for, and continues from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lora2.lab.experiments.description import RunDescription
from lora2.lab.experiments.record import RunRecord
from lora2.lab.experiments.setting import Experiment, as_tried
from lora2.support.extras import require

_SAMPLER_SEED = 0
# The usual learning rate, then one on each side of it; what follows is the sampler's choice.
_FIRST_FACTORS = (1.0, 1 / 3, 3.0)


@dataclass(frozen=True)
class Choice:
    """The result of a search.

    Attributes:
        experiment: name of the experiment.
        learning_rate: the one with the highest metric; None if all trials diverged, or one of them
            has no result: it failed for another reason, or another process is making it.
        trials: learning rates and what they reached (best evaluation, the mean of the seeds), in
            the order of trials; None where a run diverged or has no result.
    """

    experiment: str
    learning_rate: float | None
    trials: tuple[tuple[float, float | None], ...]


def tune(
    experiment: Experiment,
    trials: int,
    seed: int,
    run: Callable[[RunDescription], RunRecord],
) -> Choice:
    """Search the learning rate of one experiment and return the best.

    Args:
        experiment: what is tuned.
        trials: learning rates to try; the first is the method's usual one, the next two are
            a third and three times of it.
        seed: of the runs of each trial, or of the first of them; none that is reported.
        run: makes a run, or finds its record.
    """
    optuna = require("optuna", extra="tune")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = experiment.setting.search
    sampler = optuna.samplers.TPESampler(seed=_SAMPLER_SEED, n_startup_trials=len(_FIRST_FACTORS))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for factor in _FIRST_FACTORS:
        study.enqueue_trial({"learning_rate": factor * search.first})
    reached: list[tuple[float, float | None]] = []
    is_complete = True
    for _ in range(trials):
        trial: Any = study.ask()
        asked = trial.suggest_float("learning_rate", search.low, search.high, log=True)
        rate = as_tried(asked)
        records = [run(experiment.run(rate, seed + more)) for more in range(search.seeds)]
        value = _mean([best_value(record) for record in records])
        is_complete = is_complete and all(record.is_result for record in records)
        state = optuna.trial.TrialState.FAIL if value is None else None
        study.tell(trial, value, state=state)
        reached.append((rate, value))
    worked = [pair for pair in reached if pair[1] is not None and is_complete]
    # The earlier of equals is taken, because the usual learning rate comes first.
    best = max(worked, key=lambda pair: pair[1] or 0.0, default=None)
    return Choice(experiment.name, best and best[0], tuple(reached))


def _mean(values: list[float | None]) -> float | None:
    reached = [value for value in values if value is not None]
    return sum(reached) / len(reached) if len(reached) == len(values) else None


def best_value(record: RunRecord) -> float | None:
    """Return the best main metric of a run; None if it failed or has none that is a number."""
    if not record.finished or record.best is None:
        return None
    value: float = record.best[record.main_metric]
    return value if value == value else None
