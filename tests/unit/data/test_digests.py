"""What tells rows from others: their content, not the place of a file."""

import shutil
from pathlib import Path

from lora2.data.loading.images import load_image_task
from lora2.data.loading.texts import load_text_task
from lora2.data.tasks.digests import digests_of
from vision_model import save_images


def test_images_are_told_by_their_content(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "images", each=5)
    first = digests_of(load_image_task(train_file=folder))
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    assert digests_of(load_image_task(train_file=moved)) == first
    for number in range(5):
        shutil.copy(moved / f"red/{number}.png", moved / f"blue/{number}.png")
    assert digests_of(load_image_task(train_file=moved)) != first


def test_one_other_row_is_noticed() -> None:
    one, other = (
        digests_of(load_text_task("rewrite", train_rows=20, validation_rows=5, data_seed=seed))
        for seed in (0, 1)
    )
    assert one.keys() == {"train", "validation"}
    assert one["train"] != other["train"]
