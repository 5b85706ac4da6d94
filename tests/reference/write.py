"""Write tests/known_answers anew: `python -m tests.reference.write`, from the folder above tests."""

import importlib
import json
from pathlib import Path

from .data import VERSION

FOLDER = Path(__file__).parent.parent / "known_answers"
FILES = (
    "agreements",
    "alignment",
    "digests",
    "lattice",
    "linear",
    "masks",
    "matrices",
    "okvs",
    "paillier",
    "ristretto",
    "sessions",
    "totals",
    "transfers",
    "vole",
    "voprf",
)


def document(name: str) -> str:
    """The content of a file, by the module of that name."""
    module = importlib.import_module(f".{name}", __package__)
    cases = [
        {"case": case, "given": given, "answer": module.ANSWERS[case](given)}
        for case, given in module.CASES
    ]
    return json.dumps({"version": VERSION, "cases": cases}, indent=1) + "\n"


def main() -> None:
    for name in FILES:
        (FOLDER / f"{name}.json").write_text(document(name), "utf-8")


if __name__ == "__main__":
    main()
