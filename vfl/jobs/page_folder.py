"""Folders in which commands leave a page and its tables."""

from collections.abc import Collection, Mapping
from pathlib import Path

from vfl.errors import DataError
from vfl.party.files import replacing_folder


def is_page(path: Path) -> bool:
    """Whether a file is a page of vfl's, by what it says of itself."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return '<meta name="generator" content="vfl' in text or "<footer><p>vfl " in text


def check_folder(folder: Path, files: Collection[str], what: str) -> None:
    """Raise DataError for a folder that is none, or holds something else than `what`, of these files."""
    try:
        if not folder.parent.is_dir():
            raise DataError(f"{folder} cannot be written: there is no folder {folder.parent}")
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder} cannot be written: it is a file")
        other = folder.is_dir() and any(path.name not in files for path in folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror}") from None
    if other:
        raise DataError(
            f"{folder} holds other files than {what}: name a new folder with --out, or empty this one"
        )


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make the folder of these files, in place of an earlier one. Readable by its owner only."""
    with replacing_folder(folder) as new:
        for name, content in files.items():
            (new / name).write_bytes(content)
