"""`lora2 train --objective image-classification`, and what other commands make of its run."""

import json
import shutil
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageClassification,
    ConvNextConfig,
    ConvNextModel,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    SiglipConfig,
    SiglipForImageClassification,
    ViTConfig,
    ViTModel,
)

from command_line import interrupt_at, lora2, refused, saved_weights
from lora2.commands.train import resolve
from lora2.commands.train_parser import TrainParser
from lora2.training.base_models import digits_model
from lora2.training.base_models.digits_model import digits_processor
from lora2.training.objectives import image_inputs
from lora2.training.objectives.image_classification import ImageClassification
from vision_model import save_images, save_vision_model

IMAGES = "--objective=image-classification"
SMALL = (
    "--k=2", "--init_r=4", "--target_r=2", "--tinit=1", "--tfinal=3", "--baseline=none",
    "--per_device_train_batch_size=128", "--num_train_epochs=2", "--learning_rate=1e-2",
)  # fmt: skip


@pytest.mark.slow
def test_a_run_on_a_model_of_its_own(tmp_path, monkeypatch, capsys):
    """Resumed, evaluated and exported from its folder alone, wherever that is."""
    monkeypatch.setattr(digits_model, "EPOCHS", 1)
    digits_model.pretrained_digits.cache_clear()
    run, other, images = tmp_path / "run", tmp_path / "other", tmp_path / "images"
    command = ["train", IMAGES, *SMALL, "--save_strategy=steps", "--save_steps=1"]
    assert lora2(*command, f"--output_dir={run}") == 0
    assert "No pretrained vision weights are at hand" in capsys.readouterr().out
    summary = json.loads((run / "summary.json").read_text())
    assert summary["before"]["accuracy"] < 0.5

    with monkeypatch.context() as patch:
        interrupt_at(5, patch)
        assert lora2(*command, f"--output_dir={other}") == 130
    # What this process has trained is not there when another resumes the run.
    digits_model.pretrained_digits.cache_clear()
    monkeypatch.setattr(digits_model, "_train", None)
    assert lora2("train", f"--output_dir={other}", "--resume") == 0
    ours, theirs = saved_weights(other), saved_weights(run)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    moved = shutil.move(run, tmp_path / "moved")
    capsys.readouterr()
    assert lora2("evaluate", moved) == 0
    assert f"{summary['last']['accuracy']:.4f}" in capsys.readouterr().out
    save_images(images, ["5", "6"], each=2)
    assert lora2("evaluate", moved, "--file", images) == 0
    capsys.readouterr()
    assert lora2("predict", moved, "--file", images) == 0
    first, *_, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["image"].endswith("images/5/0.png")
    assert (last["label"], last["predicted_label"]) == ("6", last["predicted_label"])
    assert sum(last["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert lora2("predict", moved, "--file", images / "5" / "1.png") == 0
    assert "the run labels images" in refused(capsys, "predict", moved, "--text=a")
    assert lora2("combine", moved, other, "--output", tmp_path / "sum") == 0
    assert lora2("evaluate", tmp_path / "sum") == 0
    assert lora2("inspect", moved) == 0
    assert lora2("export", moved, "--output", tmp_path / "lora") == 0
    assert lora2("export", moved, "--to=merged", "--output", tmp_path / "merged") == 0
    merged = AutoModelForImageClassification.from_pretrained(tmp_path / "merged")
    assert merged.config.id2label == dict(enumerate("56789"))
    assert (tmp_path / "merged" / "preprocessor_config.json").is_file()


def test_a_folder_is_read_by_a_run_whose_table_had_names_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, images = save_vision_model(tmp_path / "model"), save_images(tmp_path / "images", each=6)
    table = tmp_path / "images/mine.csv"
    paths = sorted(path.relative_to(images) for path in images.glob("*/*.png"))
    table.write_text("file,kind\n" + "".join(f"{path},{path.parent}\n" for path in paths))
    run = tmp_path / "run"
    names = ("--image_column=file", "--label_column=kind")
    data = (f"--train_file={table}", f"--validation_file={images}", *names)
    few = [option for option in SMALL if "batch_size" not in option]
    assert (
        lora2(
            "train",
            IMAGES,
            *few,
            *data,
            "--per_device_train_batch_size=2",
            f"--model={model}",
            f"--output_dir={run}",
        )
        == 0
    )
    assert lora2("evaluate", run, "--file", images) == 0
    capsys.readouterr()
    assert lora2("predict", run, "--file", images) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(paths)
    assert lora2("predict", run, "--file", images / paths[0]) == 0
    assert lora2("predict", run, "--file", table) == 0


@pytest.mark.slow
def test_own_images_on_another_model(tmp_path, capsys):
    model, images = save_vision_model(tmp_path / "vit"), save_images(tmp_path / "colours", each=20)
    options = [f"--model={model}", f"--train_file={images}", f"--output_dir={tmp_path / 'run'}"]
    small = [option for option in SMALL if "batch_size" not in option]
    assert lora2("train", IMAGES, *options, *small, "--per_device_train_batch_size=8") == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["last"]["accuracy"] == 1
    capsys.readouterr()
    assert lora2("params", "--model", model, "--k=2", "--init_r=4") == 0
    assert f"{summary['trainable_parameters']['adapter']:,}" in capsys.readouterr().out
    assert not (tmp_path / "run" / "base").exists()


@pytest.mark.slow
def test_a_distilled_model_gets_one_head_and_is_reloaded_with_it(tmp_path):
    config = DeiTConfig(image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=1,
                        num_attention_heads=2, intermediate_size=32)  # fmt: skip
    DeiTForImageClassificationWithTeacher(config).save_pretrained(tmp_path / "deit")
    digits_processor().save_pretrained(tmp_path / "deit")
    images, run = save_images(tmp_path / "colours", each=8), tmp_path / "run"
    options = [f"--model={tmp_path / 'deit'}", f"--train_file={images}", f"--output_dir={run}"]
    sizes = ("--per_device_train_batch_size=4", "--num_train_epochs=3")
    assert lora2("train", IMAGES, *options, *SMALL[:6], *sizes) == 0
    names = saved_weights(run)
    assert "base_model.model.classifier.weight" in names
    assert lora2("evaluate", run) == 0


def test_a_model_without_default_targets_needs_their_names(tmp_path, capsys):
    config = ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 1], image_size=8)
    ConvNextModel(config).save_pretrained(tmp_path / "model")
    digits_processor().save_pretrained(tmp_path / "model")
    images = save_images(tmp_path / "colours", each=4)
    options = [f"--model={tmp_path / 'model'}", f"--train_file={images}"]
    said = refused(capsys, "train", IMAGES, *options, f"--output_dir={tmp_path / 'run'}")
    assert "target_modules: there is no default for convnext" in said


SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
         "num_attention_heads": 2}  # fmt: skip
LARGER = {**SIZES, "image_size": 16, "patch_size": 4}
OF_ANOTHER_SIZE = {
    "vit": lambda: ViTModel(ViTConfig(**LARGER)),
    "siglip": lambda: SiglipForImageClassification(
        SiglipConfig(vision_config=LARGER, text_config={**SIZES, "vocab_size": 8})
    ),
}


@pytest.mark.parametrize("model", OF_ANOTHER_SIZE)
def test_a_model_that_reads_other_sizes_than_its_processor_makes(model, tmp_path, capsys):
    OF_ANOTHER_SIZE[model]().save_pretrained(tmp_path / "model")
    digits_processor().save_pretrained(tmp_path / "model")
    images, run = save_images(tmp_path / "colours", each=2), tmp_path / "run"
    options = [f"--model={tmp_path / 'model'}", f"--train_file={images}"]
    said = refused(capsys, "train", IMAGES, *options, f"--output_dir={run}")
    assert "does not read images of 3 × 8 × 8 numbers" in said
    assert not run.exists()


def save_model_of_the_shortest_edge(folder):
    """Save a model whose processor keeps the shape of images."""
    save_vision_model(folder)
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"size": {"shortest_edge": 8}}))
    return folder


def of_one_size(folder):
    """Save a folder of images of 8 × 8 pixels for each of two classes."""
    for name in ("blue", "red"):
        (folder / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8), name).save(folder / name / f"{number}.png")
    return folder


def add_a_turned_one(folder):
    """Save an image of 12 × 8 pixels that is 8 × 12 upright."""
    turned = Image.new("RGB", (12, 8))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "red" / "30.jpg", exif=exif)


@pytest.mark.parametrize("where", ["train_file", "validation_file", "a table"])
def test_images_that_no_batch_holds_together_are_refused_before_training(where, tmp_path, capsys):
    model = save_model_of_the_shortest_edge(tmp_path / "vit")
    train, validation = of_one_size(tmp_path / "train"), of_one_size(tmp_path / "validation")
    add_a_turned_one(validation if where == "validation_file" else train)
    named = f"{validation if where == 'validation_file' else train}/red/30.jpg"
    if where == "a table":
        files = sorted(train.rglob("*.*"))
        cells = {"image": [file.read_bytes() for file in files],
                 "label": [file.parent.name for file in files]}  # fmt: skip
        train = tmp_path / "train.parquet"
        datasets.Dataset.from_dict(cells).to_parquet(train)
        named = f"row 9 of {train}"
    run = tmp_path / "run"
    options = [f"--model={model}", f"--train_file={train}", f"--validation_file={validation}"]
    said = refused(capsys, "train", IMAGES, *options, f"--output_dir={run}")
    assert f"{named} preprocessor_config.json makes 3 × 12 × 8 numbers" in said
    assert not run.exists()


def test_a_finished_run_refuses_images_of_other_sizes(tmp_path, capsys):
    model = save_model_of_the_shortest_edge(tmp_path / "vit")
    images, run = of_one_size(tmp_path / "colours"), tmp_path / "run"
    options = [f"--model={model}", f"--train_file={images}", f"--output_dir={run}"]
    assert lora2("train", IMAGES, *options, "--method=lora", "--baseline=none") == 0
    add_a_turned_one(images)
    for command in ("predict", "evaluate"):
        said = refused(capsys, command, run, "--file", images)
        assert f"of {images}/red/30.jpg preprocessor_config.json makes 3 × 12 × 8 numbers" in said
    said = refused(capsys, "predict", run, "--file", images / "red" / "30.jpg")
    assert f"the model of {run} does not read images of 3 × 12 × 8 numbers" in said


def test_an_image_that_its_processor_refuses_is_named(tmp_path, monkeypatch, capsys):
    images = of_one_size(tmp_path / "colours")
    add_a_turned_one(images)
    read = image_inputs.inputs_of

    def refusing(processor, rows):
        if str(rows["image"][0]["path"]).endswith("30.jpg"):
            raise ValueError("aspect ratio")
        return read(processor, rows)

    monkeypatch.setattr(image_inputs, "inputs_of", refusing)
    options = [f"--model={save_vision_model(tmp_path / 'vit')}", f"--train_file={images}"]
    said = refused(capsys, "train", IMAGES, *options, f"--output_dir={tmp_path / 'run'}")
    assert f"refuses {images}/red/30.jpg (ValueError: aspect ratio)" in said


# Name: more options, what the sentence has.
REFUSED = {
    "a typo": (["--objective=images"], "image-classification"),
    "length of texts": (["--max_length=64"], "max_length=64 has no effect"),
    "columns of texts": (["--text_columns=a"], "--image_column names their column"),
    "prompts": (["--method=prompt"], "method: prompt tuning"),
    "groups by length": (["--train_sampling_strategy=group_by_length"], "images have no length"),
    "balances lengths": (["--train_sampling_strategy=batch_rebalance"], "images have no length"),
    "numbers": (["--kind=regression"], "kind=regression has no effect"),
    "the model of digits": (["--model=digits-vit"], "add --model with the folder"),
    "a model of texts": (["--model=TEXTS"], "nothing says how it reads images"),
    "a processor that makes no pixels": (["--model=ODD"], "of ODD has values that no image"),
    "a model without its processor": (["--model=BARE"], "BARE has no preprocessor_config.json"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_options_that_do_not_go_with_images(case, tiny_model, tmp_path, capsys):
    more, said = REFUSED[case]
    bare = save_vision_model(tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    odd = save_vision_model(tmp_path / "odd")
    size = {"size": {"height": 8, "width": "x"}, "image_processor_type": "ViTImageProcessor"}
    (odd / "preprocessor_config.json").write_text(json.dumps(size))
    places = {"TEXTS": str(tiny_model), "BARE": str(bare), "ODD": str(odd)}
    for name, place in places.items():
        more, said = [each.replace(name, place) for each in more], said.replace(name, place)
    images, run = save_images(tmp_path / "colours", each=2), tmp_path / "run"
    command = [IMAGES, f"--train_file={images}", f"--output_dir={run}"]
    if not any(each.startswith("--model") for each in more):
        command.append(f"--model={save_vision_model(tmp_path / 'vit')}")
    assert said in refused(capsys, "train", *command, *more)
    assert not run.exists()


def test_the_model_of_digits_is_announced_for_rows_that_it_reads():
    def announced(*words):
        return ImageClassification().announcement(resolve(TrainParser(), [IMAGES, *words]))

    assert announced("--train_file=photos") is None
    assert "No pretrained vision weights are at hand" in announced("--output_dir=nowhere")


def test_an_option_of_images_is_not_of_texts(tmp_path, capsys):
    said = refused(capsys, "train", "--image_column=a", "--train_file=x.csv")
    assert "without --objective image-classification" in said
