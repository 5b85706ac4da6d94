"""Files of TOML, read with what is wrong with them in one line."""

import re
import tomllib
from pathlib import Path

from vfl.errors import ConfigError
from vfl.party.config_values import FileKind
from vfl.text import nearest_file

MAX_FILE = 1024 * 1024  # bytes of a TOML file
_TABLES = frozenset((".csv", ".txt", ".tsv", ".gz", ".xz", ".zst", ".zip", ".parquet", ".xlsx", ".xls"))


def read_toml(path: Path, kind: FileKind) -> dict[str, object]:
    """What a file of this kind says. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        raise ConfigError(f"no {kind} file {path}{_others(path, kind)}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise ConfigError(f"{path} cannot be read: {reason}") from None
    try:
        return _parse(path.name, data, kind)
    except ConfigError:
        if path.suffix.lower() not in _TABLES:
            raise
        draft = {"party": "NAME --data TABLE", "job": "NAME --job PARTY.toml"}.get(kind)
        advice = f", which `vfl init {draft}` drafts" if draft else ""
        raise ConfigError(
            f"{path.name} seems to be a table: a {kind} file is needed here{advice}"
        ) from None


def _parse(name: str, data: bytes, kind: FileKind) -> dict[str, object]:
    if len(data) > MAX_FILE:
        raise ConfigError(f"{name} is over 1 MiB: this is no {kind} file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}: line {line} is not UTF-8: save the file as UTF-8") from None
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{name}: {_syntax(error, text)}") from None


def _syntax(error: Exception, text: str) -> str:
    """Where a file stops being TOML. The parser's own words may quote the file: left out."""
    at = re.search(r"at line (\d+), column (\d+)", str(error))
    where = f"line {at[1]}, column {at[2]}" if at else f"line {max(1, len(text.splitlines()))}"
    advice = ""
    if "\\" in (text.splitlines()[int(at[1]) - 1] if at else ""):
        advice = "; write paths with / instead of \\"
    elif "overwrite" in str(error) or "twice" in str(error):
        advice = "; a key or section is given twice"
    return f"{where} is not valid TOML{advice}"


def _others(path: Path, kind: FileKind) -> str:
    """What else the folder offers."""
    if not path.parent.is_dir():
        return f": there is no folder {path.parent}"
    there = sorted(p.name for p in path.parent.glob("*.toml"))
    near = nearest_file(path.name, there)
    if near:
        return f": did you mean {near}?"
    fit = [name for name in there if _seems_to_be(path.parent / name, kind)]
    return f": the folder has {', '.join(fit[:5])}" if fit else ""


def _seems_to_be(path: Path, kind: FileKind) -> bool:
    try:
        with path.open("rb") as file:
            return re.search(rb"(?m)^[ \t]*\[ *%b *\]" % kind.encode(), file.read(MAX_FILE)) is not None
    except OSError:
        return False
