"""Write tests/known_answers anew: `python -m tests.reference.write`, from the folder above tests."""

import json
from pathlib import Path
from types import ModuleType

from . import (
    agreements,
    alignment,
    digests,
    lattice,
    linear,
    masks,
    okvs,
    paillier,
    ristretto,
    sessions,
    transfers,
)
from .data import VERSION

FOLDER = Path(__file__).parent.parent / "known_answers"
MODULES: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        agreements,
        alignment,
        digests,
        lattice,
        linear,
        masks,
        okvs,
        paillier,
        ristretto,
        sessions,
        transfers,
    )
}


def document(name: str) -> str:
    """The content of a file."""
    module = MODULES[name]
    cases = [
        {"case": case, "given": given, "answer": module.ANSWERS[case](given)}
        for case, given in module.CASES
    ]
    return json.dumps({"version": VERSION, "cases": cases}, indent=1, ensure_ascii=True) + "\n"


def main() -> None:
    for name in MODULES:
        (FOLDER / f"{name}.json").write_text(document(name), "utf-8")


if __name__ == "__main__":
    main()
