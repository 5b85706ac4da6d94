"""Folders whose names are cells of all rows of the files in them: year=2026/month=01/part-0.parquet."""

import re
from pathlib import Path
from urllib.parse import unquote

_NAMED = re.compile("([^=]+)=(.*)")
_MISSING = "__HIVE_DEFAULT_PARTITION__"


def is_named(folder: Path) -> bool:
    """Whether the name of a folder is a column and a cell."""
    return _NAMED.fullmatch(folder.name) is not None


def folders_of(file: Path) -> dict[str, str | None]:
    """The columns and cells that the folders right above a file name, the outermost first."""
    found: dict[str, str | None] = {}
    for folder in file.parents:
        named = _NAMED.fullmatch(folder.name)
        if named is None:
            break
        name, cell = map(unquote, named.groups())
        found.setdefault(name, None if named[2] == _MISSING else cell)
    return dict(reversed(found.items()))


def file_name(file: Path) -> str:
    """What messages call a file: with the folders by which alone it may differ from others."""
    name = file.name
    for folder in file.parents:
        if not is_named(folder):
            break
        name = f"{folder.name}/{name}"
    return name
