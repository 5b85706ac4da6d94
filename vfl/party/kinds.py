"""The kinds of files in a party's store, and where they lie."""

from typing import Literal

DocumentKind = Literal[
    "alignment",
    "model",
    "run",
    "batch",
    "checkpoint",
    "hint",
    "draw",
    "output",
    "sums",
    "directory",
    "kept",
    "cells",
    "table",
    "worth",
    "search",
    "project",
    "screen",
    "evidence",
    "audit",
]
CountKind = Literal["usage", "labels", "fetched", "refusals", "correlated", "inferred", "approved"]
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
    "directory": "directories",
    "kept": "kept",
    "cells": "cells",
    "table": "tables",
    "worth": "worth",
    "search": "searches",
    "project": "projects",
    "screen": "screens",
    "evidence": "evidence",
    "audit": "audits",
}
COUNTS: dict[CountKind, str] = {
    "usage": "usage.json",
    "labels": "labels.json",
    "fetched": "fetched.json",
    "refusals": "refusals.json",
    "correlated": "correlated.json",
    "inferred": "inferred.json",
    "approved": "approved.json",
}
"""One file each, in the store's own folder."""
ENCRYPTED: frozenset[FileKind] = frozenset(
    {
        "alignment",
        "approved",
        "audit",
        "batch",
        "cells",
        "checkpoint",
        "correlated",
        "directory",
        "draw",
        "evidence",
        "fetched",
        "hint",
        "inferred",
        "kept",
        "labels",
        "project",
        "refusals",
        "sums",
        "table",
        "usage",
    }
)
"""Kinds that no person need read; they are encrypted where the store has a key."""
