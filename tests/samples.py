"""The tables of data_samples/, of fewer policies."""

import re
from pathlib import Path

SAMPLES = Path(__file__).resolve().parents[1] / "data_samples"
NEW = 150  # policies to score


def copy_samples(folder: Path, policies: int) -> None:
    """A folder as data_samples/ with the insurer's first policies, and at the hosts the rows of those,
    of the new ones, and a tenth of all others."""
    for party in ("insurer", "registry", "bureau"):
        (folder / party).mkdir(parents=True)
    known: set[str] = set()
    for name, rows in (("policies.csv", policies), ("new_policies.csv", NEW)):
        lines = (SAMPLES / "insurer" / name).read_text().splitlines(keepends=True)[: rows + 1]
        (folder / "insurer" / name).write_text("".join(lines))
        known.update(map(_id, lines[1:]))
    for table in ("registry/vehicles.csv", "bureau/drivers.csv"):
        header, *lines = (SAMPLES / table).read_text().splitlines(keepends=True)
        kept = [line for k, line in enumerate(lines) if k % 10 == 0 or _id(line) in known]
        (folder / table).write_text("".join([header, *kept]))


def _id(line: str) -> str:
    """The id of a row, however it is written."""
    return re.sub(r"[^A-Z0-9]", "", line.partition(",")[0].upper())
