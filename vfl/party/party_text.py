"""A party file with another line in [data], all else of it as it was."""

import re
import tomllib
from codecs import BOM_UTF8
from pathlib import Path

from vfl.errors import DataError
from vfl.party.files import refuse_fixed, rewriting

_DATA = re.compile(r"^[ \t]*\[data\][ \t]*(#.*)?(?=\n|\Z)", re.MULTILINE)


def change_party(path: Path, line: str) -> None:
    """Write `line`, a key of [data] with its value, in place of the one that is there. Raises DataError
    for a file in which that cannot be done without touching anything else."""
    by_hand = f"put `{line}` into its [data] by hand"
    try:
        data = path.read_bytes()
        mark = BOM_UTF8 if data.startswith(BOM_UTF8) else b""
        text = data.removeprefix(mark).decode()
    except (OSError, UnicodeDecodeError):
        raise DataError(f"{path} cannot be read") from None
    end = "\r\n" if "\r\n" in text else "\n"
    changed = with_line(text.replace(end, "\n"), line)
    if changed is None:
        raise DataError(f"{path} could not be changed: {by_hand}")
    refuse_fixed(path, by_hand)
    with rewriting(path) as file:
        file.write(mark + changed.replace("\n", end).encode())


def with_line(text: str, line: str) -> str | None:
    """The file with this line; None where it would not come to that and nothing else."""
    found = _DATA.search(text)
    if found is None:
        return None
    key = line.partition(" = ")[0]
    wanted = tomllib.loads(text)
    is_there = key in wanted["data"]
    wanted["data"] = wanted["data"] | tomllib.loads(line)
    start = re.compile(rf"^[ \t]*{key}[ \t]*=", re.MULTILINE).search(text, found.end())
    tries = [text[: found.end()] + "\n" + line + text[found.end() :]]
    if is_there and start is not None:
        # The value may go on over several lines: to the first end that leaves the rest as it was.
        ends = [one.start() for one in re.finditer(r"\n|\Z", text[start.start() :])]
        tries = [text[: start.start()] + line + text[start.start() + end :] for end in ends]
    for one in tries:
        try:
            if tomllib.loads(one) == wanted:
                return one
        except tomllib.TOMLDecodeError:
            continue
    return None
