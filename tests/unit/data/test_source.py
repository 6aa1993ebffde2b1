"""What the user's own data are called, after which the run's folder is named."""

import pytest

from lora2.data.own.source import dataset_name, file_name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/films.csv", "films"),
        ("films.tar.csv", "films.tar"),
        (".csv", "csv"),
        ("..csv", "csv"),
        ("photos", "photos"),
        ("photos.v2", "photos.v2"),
        ("photos/", "photos"),
        (".", "here"),
    ],
)
def test_name_of_a_file_or_folder(path, name, tmp_path, monkeypatch):
    here = tmp_path / "here"
    for folder in ("photos", "photos.v2"):
        (here / folder).mkdir(parents=True)
    monkeypatch.chdir(here)
    assert file_name(path) == name


def test_dataset_on_the_hub_keeps_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert dataset_name("owner/films.v2") == "owner/films.v2"
    (tmp_path / "films.v2").mkdir()
    assert dataset_name("./films.v2") == "films.v2"
