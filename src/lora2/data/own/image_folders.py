"""Images of the user's as tables: a folder of them, a single one, or a table that names them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lora2.data.tables.files import read_table
from lora2.data.tables.table import DataTable, listed
from lora2.data.tasks.image_task import IMAGE_COLUMN, StoredImage
from lora2.data.tasks.task import LABEL_COLUMN
from lora2.errors import UserError

_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
# The same formats have these endings, too.
_RARE_ENDINGS = (".jfif", ".jpe", ".apng", ".pbm", ".pnm", ".dib")
# Pillow reads them in some builds alone: elsewhere, such a file is named instead of left out.
_OTHER_ENDINGS = (".avif", ".heic", ".heif", ".jp2", ".jxl")
_IMAGE_ENDINGS = _ENDINGS + _RARE_ENDINGS + _OTHER_ENDINGS


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
    # Files are sorted by name, because file systems differ in their order.
    for file in sorted(folder.iterdir()):
        # A broken link is not a folder, and is reported when it is read.
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
        columns[LABEL_COLUMN] = labels
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
    names = set(table.read_column(LABEL_COLUMN)) if LABEL_COLUMN in table.column_names else set()
    if len(names) < least:
        has = f"one folder, {listed(map(str, names))}" if names else "images outside of folders"
        more = ", two at least," if least == 2 else ""
        raise UserError(
            f"{role}: {table.source} has {has}; make one folder for each class{more} and put the "
            "images there."
        )
