"""What PEFT's comparison takes from the hub, of datasets made here."""

import numpy as np
from datasets import Dataset

from peft_comparison import task_data

ASKED = {"question": [f"{i}?" for i in range(60)], "answer": [f"#### {i}" for i in range(60)]}
HUB = {
    ("meta-math/MetaMathQA", None): {"query": ["q", "q" * 1300], "response": ["r", "r"]},
    ("openai/gsm8k", "main"): ASKED,
}


class Unreachable:
    def dataset_info(self, name: str) -> None:
        raise ConnectionError(name)


def test_metamath_is_learnt_and_rows_of_gsm8k_are_asked(monkeypatch):
    def load(name: str, configuration: str | None = None) -> dict[str, Dataset]:
        rows = Dataset.from_dict(HUB[name, configuration])
        return {"train": rows, "test": rows}

    pages = Dataset.from_dict({"text": [f"page {i}" for i in range(120)]})
    monkeypatch.setattr(task_data, "load_from_hub", load)
    monkeypatch.setattr(task_data.datasets, "load_dataset", lambda *_, **__: pages)
    monkeypatch.setattr(task_data, "HfApi", Unreachable)
    data = task_data.load_metamath()
    # A row of more than 1,300 characters is left out.
    assert data.train == [("q", "r")]
    # PEFT's fifty, drawn as its data.py draws them.
    np.random.seed(0)
    order = np.arange(60)
    np.random.shuffle(order)
    assert data.validation == [(f"{i}?", f"#### {i}") for i in order[:50]]
    assert len(data.test) == 60
    assert list(data.other) == [f"page {i}" for i in range(100)]
    assert data.accuracy(["The answer is: 3"], ["#### 3"]) == 1
    assert data.info["gsm8k"] == {"sha": None, "created_at": None}
