"""Make the records of a folder here, one run at a time; records that are there are kept.

In a checkout of commit 725747d, after `patch -p1 < scales.patch`:
LORA2_SCALES=2 python run.py GLUE_FOLDER records/notebook/scales/2-scales WORK_FOLDER
"""

import sys
from pathlib import Path

from lora2.lab.experiments.presets import minilm, small
from lora2.lab.experiments.record import RecordFolder
from lora2.lab.experiments.running.execution import Place
from lora2.lab.experiments.running.jobs import LocalRunner


def runs():
    """Yield LoRA² of two widths on three tasks, for three seeds, at the usual learning rate."""
    settings = [each for each in small.TUNED_SETTINGS if each.key in KEYS]
    for experiment in minilm.experiments(settings, ["agreement", "cola", "stsb"]):
        for seed in range(3):
            yield experiment.run(experiment.setting.search.first, seed)


KEYS = ("lora2-k8-same-head", "lora2-k1-same-head")

if __name__ == "__main__":
    data, records, work = map(Path, sys.argv[1:])
    place = Place(work, str(data), 1)
    with LocalRunner(RecordFolder(records), place, 1, print, print) as runner:
        for run in runs():
            if not (records / f"{run.name}.json").exists():
                runner.run(run)
