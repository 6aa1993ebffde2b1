"""Tasks of images: digits, and the user's folders and tables of images."""

import io
import os
import shutil
import sys

import datasets
import numpy
import pytest
from PIL import Image

from lora2.data.loading.images import load_image_rows, load_image_task
from lora2.data.own.image_folders import read_image_table
from lora2.data.own.images import decoded, without_content
from lora2.data.tables import hub
from lora2.errors import UserError
from vision_model import save_images


def png(mode="RGB", color=0):
    content = io.BytesIO()
    Image.new(mode, (8, 8), color).save(content, format="PNG")
    return content.getvalue()


def test_digits_of_five_classes():
    task = load_image_task()
    assert task.label_names == ("5", "6", "7", "8", "9")
    assert (len(task.train), len(task.validation["validation"])) == (627, 269)
    assert decoded(task.train[0]["image"]).size == (8, 8)
    other = load_image_task(data_seed=1)
    assert other.train["image"][:9] != task.train["image"][:9]


def test_a_folder_has_one_folder_for_each_class(tmp_path):
    folder = save_images(tmp_path / "colours")
    (folder / "red" / "notes.txt").write_text("no image")
    task = load_image_task(train_file=folder)
    assert (task.name, task.label_names) == ("colours", ("blue", "red"))
    assert (len(task.train), len(task.validation["validation"])) == (18, 2)
    row = load_image_rows(folder, task.describe())[10]
    assert row["label"] == 1
    assert decoded(row["image"]).getpixel((5, 5)) == (255, 0, 0)


def test_the_only_image_of_a_class_is_for_training(tmp_path):
    save_images(tmp_path, each=9)
    save_images(tmp_path, classes=["green"], each=1)
    for seed in range(20):
        assert 1 in load_image_task(train_file=tmp_path, data_seed=seed).train["label"]


def test_folders_whose_names_look_the_same_are_refused(tmp_path):
    save_images(tmp_path, classes=["caf\u00e9", "cafe\u0301"], each=2)
    with pytest.raises(UserError, match="which look the same and are different characters"):
        load_image_task(train_file=tmp_path)


def test_a_table_names_images_from_its_folder_on(tmp_path):
    save_images(tmp_path)
    (tmp_path / "mine.csv").write_text("photo,colour\nred/0.png,r\nblue/0.png,b\n")
    task = load_image_task(
        train_file=tmp_path / "mine.csv",
        validation_file=tmp_path / "mine.csv",
        image_column="photo",
        label_column="colour",
    )
    assert task.label_names == ("b", "r")
    assert decoded(task.train[1]["image"]).getpixel((5, 5)) == (0, 0, 255)


@pytest.mark.parametrize("kind", ["image", "bytes"])
def test_parquet_holds_the_content_of_images(kind, tmp_path):
    cells = [{"bytes": png(), "path": None} if kind == "image" else png()] * 4
    rows = {"image": cells, "label": ["a", "b"] * 2}
    file = tmp_path / "mine.parquet"
    datasets.Dataset.from_dict(rows).to_parquet(file)
    assert len(load_image_task(train_file=file).train) == 3
    assert without_content(read_image_table(file)) == [{"label": each} for each in rows["label"]]


def test_the_hubs_images_are_read_as_they_are_stored(monkeypatch):
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    rows = {"image": [{"bytes": png(), "path": None}] * 4, "label": [0, 1] * 2}
    split = datasets.Dataset.from_dict(rows, features=features)
    monkeypatch.setattr(hub, "load_from_hub", lambda *_: {"train": split})
    task = load_image_task(dataset="somebody/pets")
    assert task.label_names == ("cat", "dog")
    # Next to its content stands what names it in a message.
    named = {"bytes": png(), "path": "row 1 of somebody/pets (train)"}
    assert task.train[0]["image"] == named


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_image_becomes_rgb(mode, tmp_path):
    file = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (8, 8)).save(file)
    assert decoded({"bytes": None, "path": str(file)}).mode == "RGB"


def wide_images():
    """Name: an image with the values 0, 128 and 255 in 8 bits."""
    in_16_bits = numpy.array([[0, 32768, 65535]])
    return {
        "16 bits": Image.fromarray(in_16_bits.astype("uint16")),
        "32 bits": Image.fromarray(in_16_bits.astype("int32")),
        "32 bits, in use 8": Image.fromarray(numpy.array([[0, 128, 255]], "int32")),
    }


@pytest.mark.parametrize("name", wide_images())
def test_wide_values_are_scaled_to_eight_bits(name):
    content = io.BytesIO()
    wide_images()[name].save(content, format="TIFF")
    image = decoded({"bytes": content.getvalue(), "path": None})
    assert [image.getpixel((x, 0)) for x in range(3)] == [(v, v, v) for v in (0, 128, 255)]


def test_transparent_colours_of_a_palette_are_read():
    image, content = Image.new("P", (2, 1), 1), io.BytesIO()
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.save(content, format="PNG", transparency=b"\x00\x80")
    read = decoded({"bytes": content.getvalue(), "path": None})
    assert read.getpixel((0, 0)) == (0, 0, 255)


def folder_of_one_class(folder):
    shutil.rmtree(folder / "red")
    return {}


def folder_without_classes(folder):
    for file in list((folder / "red").iterdir()):
        file.rename(folder / file.name)
    return {}


def empty_folder(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    return {}


def empty_class(folder):
    (folder / "green").mkdir()
    return {}


def broken_image(folder):
    (folder / "red" / "3.png").write_bytes(b"no image")
    return {}


def image_of_a_phone(folder):
    (folder / "red" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    return {}


def truncated_image(folder):
    file = folder / "red" / "3.png"
    Image.effect_noise((64, 64), 50).save(file)
    file.write_bytes(file.read_bytes()[:2000])
    return {}


def images_a_level_below(folder):
    shutil.copytree(folder / "blue", folder / "red" / "more")
    return {}


def images_deep_below(folder):
    (folder / "red/more/deep").mkdir(parents=True)
    (folder / "red/more/deep/0.jfif").write_bytes(png())
    return {}


def stray_image(folder):
    (folder / "stray.png").write_bytes(png())
    return {}


def link_to_nowhere(folder):
    (folder / "red" / "link.png").symlink_to(folder / "nowhere.png")
    return {}


def name_that_is_no_text(folder):
    (folder / "red").rename(os.fsdecode(os.fsencode(folder) + b"/\xff"))
    return {}


def floating_point_image(folder):
    Image.new("F", (8, 8), 0.5).save(folder / "red" / "a.tiff")
    return {}


def new_class(folder):
    return {"validation_file": save_images(folder.parent / "more", ["red", "green"])}


def broken_validation(folder):
    more = save_images(folder.parent / "more")
    (more / "blue" / "0.png").write_bytes(b"")
    return {"validation_file": more}


def table(content, **options):
    def write(folder):
        file = folder / "mine.csv"
        file.write_text(content)
        return {"train_file": file} | options

    return write


def parquet(cell):
    def write(folder):
        file = folder / "mine.parquet"
        datasets.Dataset.from_dict({"image": [cell] * 4, "label": ["a", "b"] * 2}).to_parquet(file)
        return {"train_file": file}

    return write


GOOD = "image,label\nred/0.png,r\nblue/0.png,b\n"
# Name: what is done to a folder of images, what the sentence has.
BAD = {
    "one class": (folder_of_one_class, "has one folder, blue; make one folder for each class"),
    "no classes": (folder_without_classes, "has images outside of folders"),
    "empty folder": (empty_folder, "colours holds no images"),
    "class without images": (empty_class, "green holds no images"),
    "no image": (broken_image, "3.png is no image that can be read"),
    "format that Pillow does not read": (
        image_of_a_phone,
        "IMG_1.HEIC is no image that can be read (it has none of the formats that Pillow reads); "
        "save it as PNG or JPEG, or remove it.",
    ),
    "image cut short": (truncated_image, "3.png is no image that can be read"),
    "images below those of a class": (images_a_level_below, "more in it has more"),
    "images two levels below a class": (images_deep_below, "red has images, and more/deep in it"),
    "images beside folders of classes": (stray_image, "has images outside of folders, and blue"),
    "link to nowhere": (link_to_nowhere, "link.png', and there is no such file"),
    "name that is no text": (name_that_is_no_text, "is no UTF-8 text; rename it"),
    "image of an unknown range": (floating_point_image, "values of mode F are from 0.5 to 0.5"),
    "one image": (
        lambda folder: {"train_file": folder / "red/0.png"},
        "0.png is one image, whose class",
    ),
    "new class in validation": (new_class, "the label 'green'"),
    "broken image in validation": (broken_validation, "0.png is no image"),
    "folder that is not there": (
        lambda _: {"train_file": "nowhere/here"},
        "there is no folder or file nowhere/here",
    ),
    "image of a folder that is not there": (
        lambda _: {"train_file": "nowhere/0.png"},
        "there is no folder or file nowhere/0.png",
    ),
    "no classes in validation": (
        lambda folder: {"validation_file": folder / "red"},
        "red has images outside of folders",
    ),
    "no validation folder": (lambda _: {"validation_file": "nowhere"}, "nowhere"),
    "no column of images": (table("photo,label\na.png,x\nb.png,y\n"), "no column 'image'"),
    "no column of classes": (table("image,colour\nred/0.png,r\n"), "no column 'label'"),
    "image that is not there": (table(GOOD + "red/99.png,r\n"), "there is no such file"),
    "path that is too long": (table(GOOD + "a" * 5000 + ",r\n"), "there is no such file"),
    "one column for both": (table(GOOD, label_column="image"), "also the column of images"),
    "image without a path": (table("image,label\n,r\nblue/0.png,b\n"), "holds None"),
    "image without a class": (table("image,label\nred/0.png,\nblue/0.png,b\n"), "empty values"),
    "one class in a table": (table("image,label\nred/0.png,r\nred/1.png,r\n"), "single value"),
    "classes that are fractions": (table("image,label\nred/0.png,0.5\nred/1.png,1.5\n"), "0.5"),
    "column that is not there": (table(GOOD, image_column="photo"), "no column 'photo'"),
    "label column that is not there": (table(GOOD, label_column="class"), "no column 'class'"),
    "images that are numbers": (parquet(3), "holds 3; write the path"),
    "broken content": (
        parquet({"bytes": b"no", "path": None}),
        "row 1 of {parquet} is no image that can be read (it has none of the formats",
    ),
    "task and data": (lambda _: {"task": "digits"}, "does not go with task=digits"),
    "no such task": (lambda _: {"task": "cola"}, "which is no task of images"),
    "dataset and folder": (lambda _: {"dataset": "a/b"}, "does not go with the file"),
}


@pytest.mark.parametrize("case", BAD)
def test_images_that_cannot_be_used_are_refused_in_one_sentence(case, tmp_path):
    change, said = BAD[case]
    folder = save_images(tmp_path / "colours", each=4)
    with pytest.raises(UserError) as raised:
        load_image_task(**{"train_file": folder} | change(folder))
    assert said.format(parquet=folder / "mine.parquet") in str(raised.value)


def test_without_pillow_the_extra_is_named(tmp_path, monkeypatch):
    folder = save_images(tmp_path / "colours")
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(UserError, match=r"'PIL'.*lora2\[images\]"):
        load_image_task(train_file=folder)
