"""A party that notes what it does when: the command line of `vfl`, as timeline.py starts it.

    python benchmarks/watched.py FOLDER serve host.toml

What is watched is wrapped from outside, so that a party that nobody watches runs none of this. Notes go
into FOLDER at the end, a file a process: which thread did what, from when to when by the clock that all
processes of the machine share, and how much processor time that thread had of it.
"""

import asyncio
import functools
import importlib
import json
import os
import sys
import threading
import time
from asyncio import events
from collections.abc import Callable
from pathlib import Path

LEAST = 2e-4
"""Seconds: what takes less is not noted."""
TREE = "tree"
LOOP = "connections"
"""What the thread of the event loop does: sockets and TLS, messages, and whatever runs between them."""

# Modules, what is watched of them, and what it is called.
WATCHED = {
    "vfl.protocols.trees.grower": {
        "Grower.grow": TREE,
        "Grower._gradients": "gradients",
        "Grower.gains": "gains",
    },
    "vfl.protocols.trees.columns": {
        "OwnColumns._sums": "own columns",
        "Growth.find_totals": "rows to nodes",
        "Growth.left": "rows to nodes",
        "Growth.told": "rows to nodes",
        "Growth.advance": "rows to nodes",
        "HostColumns.check_directions": "check answers",
    },
    "vfl.protocols.trees.questions": {
        "Questions._rows_of": "ask",
        "Answers._learn": "learn rows",
        "Answers._take": "answer",
    },
    "vfl.crypto.lattice.vectors": {"_encrypt": "encrypt"},
    "vfl.crypto.lattice.hint": {
        "EncryptedHint.multiply": "products",
        "HintKey.open": "open products",
    },
    "vfl.crypto.lattice.direct": {"EncryptedMatrix.multiply_vectors": "products"},
    "vfl.crypto.lattice.matrix": {"_sums": "sums", "Accumulator.result": "end of sums"},
    "vfl.protocols.common.lattice_sums": {
        "joined": "put together",
        "unseal": "decrypt",
    },
    "vfl.protocols.common.lattice_host": {"seal": "seal"},
    "vfl.protocols.common.rows": {"Training.mean_loss": "losses"},
    "vfl.protocols.common.checkpoints": {"Checkpoints.keep": "checkpoint"},
    "vfl.net.peer": {"Peer.send": "send", "Peer.recv": "wait"},
}

Note = tuple[str, str, float, float, float]
notes: list[Note] = []
"""What, by which thread (empty: none, it is waited for), from when to when, processor seconds."""


def watch() -> None:
    """Wrap all that is watched. Raises AttributeError for what is no longer there."""
    for module, names in WATCHED.items():
        for path, name in names.items():
            owner: object = importlib.import_module(module)
            *above, last = path.split(".")
            for part in above:
                owner = getattr(owner, part)
            inner = getattr(owner, last)
            wrap = waited if asyncio.iscoroutinefunction(inner) else done
            setattr(owner, last, wrap(inner, name))
    run = events.Handle._run
    events.Handle._run = done(run, LOOP)


def done(inner: Callable, name: str) -> Callable:
    """`inner`, of which a thread's work is noted."""

    @functools.wraps(inner)
    def noting(*args: object, **kwargs: object) -> object:
        processor, started = time.thread_time(), time.monotonic()
        try:
            return inner(*args, **kwargs)
        finally:
            ended = time.monotonic()
            if ended - started > LEAST:
                spent = time.thread_time() - processor
                notes.append((name, threading.current_thread().name, started, ended, spent))

    return noting


def waited(inner: Callable, name: str) -> Callable:
    """The same of what is awaited; of `recv` which messages were due."""

    @functools.wraps(inner)
    async def noting(self: object, *args: object, **kwargs: object) -> object:
        started = time.monotonic()
        try:
            return await inner(self, *args, **kwargs)
        finally:
            ended = time.monotonic()
            if ended - started > LEAST:
                kinds = [kind.__name__ for kind in args if isinstance(kind, type)]
                due = f" {' or '.join(kinds)}" if kinds else ""
                notes.append((name + due, "", started, ended, 0.0))

    return noting


def main() -> None:
    """Be a party."""
    folder = Path(sys.argv.pop(1)).absolute()
    from vfl import cli

    watch()
    try:
        cli.main()
    finally:
        party = Path.cwd().name
        (folder / f"{party}-{os.getpid()}.json").write_text(json.dumps({"party": party, "notes": notes}))


if __name__ == "__main__":
    main()
