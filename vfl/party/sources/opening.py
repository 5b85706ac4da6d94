"""The source of a path, by its extension."""

import difflib
from pathlib import Path

from vfl.errors import DataError
from vfl.party.sources.parquet import Parquet
from vfl.party.sources.source import Source
from vfl.party.sources.text import Csv


def open_source(path: Path) -> Source:
    kind = {".csv": Csv, ".parquet": Parquet}.get(path.suffix.lower())
    if kind is None:
        raise DataError(f"{path.name}: a table must be a .csv or .parquet file")
    try:
        with path.open("rb"):
            pass
        source: Source = kind(path)
    except FileNotFoundError:
        raise DataError(f"no file {path}{_similar(path)}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    for number, name in enumerate(source.names, start=1):
        if not name and number > 1:  # the first are the labels of a data frame's rows
            raise source.error(f"column {number} has no name in the header: name it or remove it")
        if source.names.count(name) > 1:
            raise source.error(f"column '{name}' comes twice in the header")
    return source


def _similar(path: Path) -> str:
    if not path.parent.is_dir():
        return f": there is no folder {path.parent}"
    there = [p.name for p in path.parent.iterdir() if p.suffix.lower() in (".csv", ".parquet")]
    near = difflib.get_close_matches(path.name, there, n=1)
    return f": did you mean {near[0]}?" if near else ""
