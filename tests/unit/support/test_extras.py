"""Without the optional packages the error names the extra to install."""

import sys

import pytest

from lora2.data.loading.classification import load_task
from lora2.errors import UserError
from lora2.support.extras import require
from lora2.training.scores.entity_metrics import compute_entity_metrics
from lora2.training.scores.metrics import compute_metrics


def test_data_without_datasets_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"'datasets'.*pip install 'lora2\[train\]'"):
        load_task(train_sentences=2, validation_sentences=2)


@pytest.mark.parametrize("module", ["sklearn.metrics", "scipy.stats"])
def test_metrics_without_their_packages_name_the_extra(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    package = module.partition(".")[0]
    with pytest.raises(UserError, match=rf"'{package}'.*lora2\[train\]"):
        compute_metrics(["accuracy"])


def test_tags_without_seqeval_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "seqeval.metrics", None)
    with pytest.raises(UserError, match=r"'seqeval'.*lora2\[tags\]"):
        compute_entity_metrics(["O", "B-x", "I-x"])


def test_an_installed_package_that_is_broken_keeps_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "halfinstalled.py").write_text("import surely_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="surely_not_there"):
        require("halfinstalled", extra="train")


def test_an_environment_that_a_package_refuses_is_one_sentence(tmp_path, monkeypatch):
    # Matplotlib raises this for a backend in MPLBACKEND that it does not know.
    (tmp_path / "strict.py").write_text("raise ValueError('Key backend: odd is no backend')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"'strict' cannot be imported \(Key backend: odd"):
        require("strict", extra="train")
