"""The kinds of files in a party's store, and where they lie."""

from typing import Literal

DocumentKind = Literal[
    "alignment", "model", "run", "batch", "checkpoint", "hint", "draw", "output", "sums"
]
CountKind = Literal["usage", "labels"]
FileKind = DocumentKind | CountKind

FOLDERS: dict[DocumentKind, str] = {
    "alignment": "alignments",
    "model": "models",
    "run": "runs",
    "batch": "batches",
    "checkpoint": "checkpoints",
    "hint": "hints",
    "draw": "draws",
    "output": "outputs",
    "sums": "sums",
}
COUNTS: dict[CountKind, str] = {"usage": "usage.json", "labels": "labels.json"}
"""One file each, in the store's own folder."""
ENCRYPTED: frozenset[FileKind] = frozenset(
    {"alignment", "batch", "checkpoint", "draw", "hint", "sums", "usage", "labels"}
)
"""Kinds that no person need read; they are encrypted where the store has a key."""
