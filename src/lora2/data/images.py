"""Images of the user's: where a cell of a table or a folder has one, and whether it can be read.

Every image becomes RGB, upright by what its camera has noted.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

from lora2.data.columns import shortened
from lora2.data.table_files import DataTable, listed, read_table
from lora2.errors import UserError
from lora2.support.extras import require

EXTRA = "images"
IMAGE_COLUMN = "image"
_LABEL = "label"
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


class StoredImage(TypedDict):
    """An image as `datasets.Image` stores it: its content, or else the path of its file."""

    bytes: bytes | None
    path: str | None


def decoded(image: StoredImage) -> Any:
    """Return an image as one of Pillow, in RGB.

    Raises:
        Exception: whatever Pillow raises for a file that is damaged, or is no image.
    """
    pillow = require("PIL.Image", extra=EXTRA)
    operations = require("PIL.ImageOps", extra=EXTRA)
    content = image["bytes"]
    with pillow.open(image["path"] if content is None else io.BytesIO(content)) as opened:
        # Opening reads the header alone; this reads all.
        return operations.exif_transpose(opened).convert("RGB")


def read_image_table(path: Path | str, role: str = "file") -> DataTable:
    """Read a folder of images, one image, or a table with a column of images.

    A folder has one folder for each class, or images alone.

    Raises:
        UserError: there is none, or no image in it.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, role)
    if path.suffix.lower() in _ENDINGS and path.is_file():
        return _table(path, [path], None)
    return read_table(path, role)


def _read_folder(path: Path, role: str) -> DataTable:
    found = list(_images_in(path))
    if found:
        return _table(path, found, None)
    classes = sorted(each for each in path.iterdir() if each.is_dir() and each.name[0] != ".")
    by_class = {each.name: list(_images_in(each)) for each in classes}
    empty = next((name for name, files in by_class.items() if not files), None)
    if not by_class or empty is not None:
        where = path if empty is None else path / empty
        raise UserError(
            f"{role}: {where} holds no images; give a folder with one folder for each class, with "
            f"files that end in {', '.join(_ENDINGS)}."
        )
    files = [file for name in by_class for file in by_class[name]]
    return _table(path, files, [name for name in by_class for _ in by_class[name]])


def _images_in(folder: Path) -> Iterator[Path]:
    # In the order of their names, which is that of no file system.
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in _ENDINGS and file.is_file() and not file.name.startswith("."):
            yield file


def _table(source: Path, files: Sequence[Path], labels: list[Any] | None) -> DataTable:
    columns: dict[str, list[object]] = {
        IMAGE_COLUMN: [StoredImage(bytes=None, path=str(file.absolute())) for file in files]
    }
    if labels is not None:
        columns[_LABEL] = labels
    return DataTable(str(source), tuple(columns), len(files), columns.__getitem__)


def check_classes(table: DataTable, role: str) -> None:
    """Check that a folder has folders of classes, two at least; of other tables there is no check.

    Raises:
        UserError: it has fewer.
    """
    if not Path(table.source).is_dir():
        return
    names = set(table.read_column(_LABEL)) if _LABEL in table.column_names else set()
    if len(names) < 2:
        has = f"one folder, {listed(map(str, names))}" if names else "images and no folder"
        raise UserError(
            f"{role}: {table.source} has {has}; make one folder for each class, two at least, and "
            "put the images there."
        )


def read_images(table: DataTable, column: str) -> list[StoredImage]:
    """Return the images of a column, each of which can be read.

    Raises:
        UserError: naming the first that cannot.
    """
    require("PIL.Image", extra=EXTRA)
    folder = Path(table.source).parent
    images = []
    for number, value in enumerate(table.column(column, "image_column"), start=1):
        place = f"row {number} of {table.source}"
        image = _stored(value, folder, f"column {column!r}, {place}")
        try:
            decoded(image)
        # Pillow raises what it likes for a damaged file.
        except Exception as error:
            named = image["path"] or place
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise UserError(
                f"image_column: {named} is no image that can be read ({reason}); replace or remove "
                "it."
            ) from error
        images.append(image)
    return images


def _stored(value: object, folder: Path, place: str) -> StoredImage:
    fields = value if isinstance(value, dict) else {}
    content = value if isinstance(value, bytes) else fields.get("bytes")
    path = value if isinstance(value, str) else fields.get("path")
    if isinstance(content, bytes):
        return StoredImage(bytes=content, path=None)
    if not isinstance(path, str):
        raise UserError(
            f"image_column: {place} holds {shortened(value)}; write the path of an image, or its "
            "content in Parquet."
        )
    # Paths in a table are from its folder on.
    file = folder / path
    if not file.is_file():
        raise UserError(
            f"image_column: {place} names {path}, and there is no file {file}; correct the path, "
            "which is from the table's folder on."
        )
    return StoredImage(bytes=None, path=str(file.absolute()))


def without_content(table: DataTable) -> list[dict[str, object]]:
    """Return one dictionary a row, where images are their paths; those without are left out."""
    columns = {name: table.read_column(name) for name in table.column_names}
    shown = {name: [_path(value) for value in values] for name, values in columns.items()}
    kept = {
        name: values
        for name, values in shown.items()
        if not any(
            value is None and columns[name][row] is not None for row, value in enumerate(values)
        )
    }
    return [dict(zip(kept, row, strict=True)) for row in zip(*kept.values(), strict=True)] or [
        {} for _ in range(table.rows)
    ]


def _path(value: object) -> object:
    """Return a cell as it is shown: None of an image that is there as content alone."""
    if isinstance(value, bytes):
        return None
    if isinstance(value, dict) and set(value) == {"bytes", "path"}:
        return value["path"]
    return value
