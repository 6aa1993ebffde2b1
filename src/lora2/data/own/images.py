"""Images of the user's: where a cell of a table has one, and whether it can be read.

Every image becomes RGB, upright by what its camera has noted.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from lora2.data.tables.table import DataTable
from lora2.data.tasks.image_task import EXTRA, StoredImage
from lora2.errors import UserError
from lora2.support.error_text import clause_of
from lora2.support.extras import require
from lora2.support.shown_values import as_shown

# Pillow's modes whose values have no fixed range: integers of 32 bits, and floats.
_WIDE_MODES = ("I", "F")
_EIGHT_BITS, _SIXTEEN_BITS = 255, 65535
# Exif's tag of how a camera was held, and the tag's values for a quarter turn.
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)
# Characters of a path that a message shows: a cell may hold a whole file.
_SHOWN = 200


def decoded(image: StoredImage) -> Any:
    """Return an image as one of Pillow, in RGB.

    Raises:
        Exception: whatever Pillow raises for a file that is damaged, or is no image; a ValueError
            for values of an unknown range.
    """
    operations = require("PIL.ImageOps", extra=EXTRA)
    with _opened(image) as opened:
        # Opening reads the header alone; this reads all.
        return _in_eight_bits(operations.exif_transpose(opened)).convert("RGB")


def upright_size(image: StoredImage) -> tuple[int, int]:
    """Return width and height of an image as `decoded` returns it, of most files by the header."""
    with _opened(image) as opened:
        width, height = opened.size
        is_turned = opened.getexif().get(_ORIENTATION) in _TURNED
    return (height, width) if is_turned else (width, height)


def name_of(image: StoredImage, otherwise: str) -> str:
    """Return where an image is, in words of a message."""
    return image["path"] or otherwise


def _opened(image: StoredImage) -> Any:
    pillow = require("PIL.Image", extra=EXTRA)
    content = image["bytes"]
    return pillow.open(image["path"] if content is None else io.BytesIO(content))


def _in_eight_bits(image: Any) -> Any:
    """Return an image of Pillow, scaled to values from 0 to 255; its own conversion would cut them.

    Raises:
        ValueError: the range of its values is not known.
    """
    if image.mode == "P" and "transparency" in image.info:
        # Pillow warns if such an image is converted to RGB.
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
        if image["bytes"] is not None:
            # Rows may be split or cut later, and are named by the table's number.
            image["path"] = place
        try:
            decoded(image)
        # Pillow raises errors of many types for a damaged file.
        except Exception as error:
            # Pillow's sentence for an unknown format has the path again, or an address in memory.
            is_unknown = isinstance(error, pillow.UnidentifiedImageError)
            unknown_format = "it has none of the formats that Pillow reads"
            reason = unknown_format if is_unknown else clause_of(error)
            raise UserError(
                f"image_column: {image['path']} is no image that can be read ({reason}); save it "
                "as PNG or JPEG, or remove it."
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
    # Paths in a table are relative to its folder.
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
