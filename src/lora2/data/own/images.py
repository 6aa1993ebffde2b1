"""Images of the user's: where a cell of a table or a folder has one, and whether it can be read.

Every image becomes RGB, upright by what its camera has noted.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lora2.data.tables.files import read_table
from lora2.data.tables.table import DataTable, listed
from lora2.data.tasks.image_task import EXTRA, IMAGE_COLUMN, StoredImage
from lora2.errors import UserError
from lora2.support.error_text import clause_of
from lora2.support.extras import require
from lora2.support.shown import as_shown

_LABEL = "label"
# Pillow's modes that have no range: whole numbers of 32 bits, and floating-point ones.
_WIDE_MODES = ("I", "F")
_EIGHT_BITS, _SIXTEEN_BITS = 255, 65535
# Characters of a path that a message shows: a cell may hold a whole file.
_SHOWN = 200
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
# The same formats have these endings, too.
_RARE_ENDINGS = (".jfif", ".jpe", ".apng", ".pbm", ".pnm", ".dib")
# Pillow reads them in some builds alone: elsewhere, such a file is named instead of left out.
_OTHER_ENDINGS = (".avif", ".heic", ".heif", ".jp2", ".jxl")
_IMAGE_ENDINGS = _ENDINGS + _RARE_ENDINGS + _OTHER_ENDINGS


def decoded(image: StoredImage) -> Any:
    """Return an image as one of Pillow, in RGB.

    Raises:
        Exception: whatever Pillow raises for a file that is damaged, or is no image; a ValueError
            for values of an unknown range.
    """
    pillow = require("PIL.Image", extra=EXTRA)
    operations = require("PIL.ImageOps", extra=EXTRA)
    content = image["bytes"]
    with pillow.open(image["path"] if content is None else io.BytesIO(content)) as opened:
        # Opening reads the header alone; this reads all.
        return _in_eight_bits(operations.exif_transpose(opened)).convert("RGB")


def _in_eight_bits(image: Any) -> Any:
    """Return an image of Pillow, scaled to values from 0 to 255; its own conversion would cut them.

    Raises:
        ValueError: the range of its values is not known.
    """
    if image.mode == "P" and "transparency" in image.info:
        # Pillow warns of the other way.
        return image.convert("RGBA")
    if image.mode not in _WIDE_MODES and not image.mode.startswith("I;16"):
        return image
    wide = image.convert("I") if image.mode.startswith("I;16") else image
    lowest, highest = wide.getextrema()
    if image.mode == "I" and lowest >= 0 and highest <= _EIGHT_BITS:
        return wide
    if image.mode == "F" or lowest < 0 or highest > _SIXTEEN_BITS:
        raise ValueError(
            f"its values of mode {image.mode} are from {lowest:g} to {highest:g}, and which of "
            "them is white is not known; save it with 8 or 16 bits a channel"
        )
    return wide.point(lambda value: value * (1 / (_EIGHT_BITS + 1)))


def read_image_table(path: Path | str, role: str = "file") -> DataTable:
    """Read a folder of images, one image, or a table with a column of images.

    A folder has one folder for each class, or images alone.

    Raises:
        UserError: there is none, or no image in it.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, role)
    if path.suffix.lower() in _IMAGE_ENDINGS and path.is_file():
        return _table(path, [path], None, role)
    if not path.exists():
        raise UserError(f"{role}: there is no folder or file {path}; correct the path.")
    return read_table(path, role)


def _read_folder(path: Path, role: str) -> DataTable:
    found, classes = list(_images_in(path)), _folders_in(path)
    if found:
        _check_has_no_images(path, classes, role, "images outside of folders")
        return _table(path, found, None, role)
    by_class = {each.name: list(_images_in(each)) for each in classes}
    empty = next((name for name, files in by_class.items() if not files), None)
    if not by_class or empty is not None:
        where = path if empty is None else path / empty
        raise UserError(
            f"{role}: {where} holds no images; give a folder with one folder for each class, with "
            f"files that end in {', '.join(_ENDINGS)}."
        )
    for each in classes:
        _check_has_no_images(each, _folders_in(each), role, "images")
    files = [file for name in by_class for file in by_class[name]]
    labels = [name for name in by_class for _ in by_class[name]]
    return _table(path, files, labels, role)


def _folders_in(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.is_dir() and each.name[0] != ".")


def _images_in(folder: Path) -> Iterator[Path]:
    # In the order of their names, which is that of no file system.
    for file in sorted(folder.iterdir()):
        # A link to nowhere is no folder, and is reported when it is read.
        is_image = file.suffix.lower() in _IMAGE_ENDINGS and not file.is_dir()
        if is_image and not file.name.startswith("."):
            yield file


def _check_has_no_images(folder: Path, folders: Sequence[Path], role: str, has: str) -> None:
    """Check that no images are left out because they are in folders next to others, at any depth.

    Links to folders are not followed, which may lead back.

    Raises:
        UserError: some would be.
    """
    for each in folders:
        if each.is_symlink():
            continue
        if any(_images_in(each)):
            raise UserError(
                f"{role}: {folder} has {has}, and {each.relative_to(folder)} in it has more, "
                "which would not be read; put all images into one folder for each class, or all "
                "into one folder if they have no classes."
            )
        _check_has_no_images(folder, _folders_in(each), role, has)


def _check_name(file: Path, role: str) -> None:
    """Check that a path is text: a file system may have any bytes in it."""
    try:
        str(file).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{role}: the name of {str(file)!a} is no UTF-8 text; rename it."
        ) from error


def _table(source: Path, files: Sequence[Path], labels: list[Any] | None, role: str) -> DataTable:
    for file in files:
        _check_name(file, role)
    columns: dict[str, list[object]] = {
        IMAGE_COLUMN: [StoredImage(bytes=None, path=str(file.absolute())) for file in files]
    }
    if labels is not None:
        columns[_LABEL] = labels
    return DataTable(str(source), tuple(columns), len(files), columns.__getitem__)


def has_no_names(table: DataTable) -> bool:
    """Whether images come as a folder or a file, whose columns nobody has named."""
    path = Path(table.source)
    return path.is_dir() or path.suffix.lower() in _IMAGE_ENDINGS


def check_classes(table: DataTable, role: str, least: int = 1) -> None:
    """Check that images come with so many classes; of tables there is no check.

    Raises:
        UserError: there are fewer.
    """
    path = Path(table.source)
    if path.suffix.lower() in _IMAGE_ENDINGS and not path.is_dir():
        raise UserError(
            f"{role}: {path} is one image, whose class is not known; give a folder with one folder "
            "for each class, or a table of images."
        )
    if not path.is_dir():
        return
    names = set(table.read_column(_LABEL)) if _LABEL in table.column_names else set()
    if len(names) < least:
        has = f"one folder, {listed(map(str, names))}" if names else "images outside of folders"
        more = ", two at least," if least == 2 else ""
        raise UserError(
            f"{role}: {table.source} has {has}; make one folder for each class{more} and put the "
            "images there."
        )


def read_images(table: DataTable, column: str) -> list[StoredImage]:
    """Return the images of a column, each of which can be read.

    Raises:
        UserError: naming the first that cannot.
    """
    pillow = require("PIL", extra=EXTRA)
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
            # Pillow's sentence for an unknown format has the path again, or an address in memory.
            is_unknown = isinstance(error, pillow.UnidentifiedImageError)
            unknown_format = "it has none of the formats that Pillow reads"
            reason = unknown_format if is_unknown else clause_of(error)
            raise UserError(
                f"image_column: {named} is no image that can be read ({reason}); save it as PNG or "
                "JPEG, or remove it."
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
            f"image_column: {place} holds {as_shown(value)}; write the path of an image, or its "
            "content in Parquet."
        )
    # Paths in a table are from its folder on.
    file = folder / path
    if not _is_file(file):
        raise UserError(
            f"image_column: {place} names {path[:_SHOWN]!r}, and there is no such file; correct "
            f"the path, which is from the table's folder {folder} on."
        )
    return StoredImage(bytes=None, path=str(file.absolute()))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    # A name may be longer than the file system allows.
    except OSError:
        return False


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
