"""What each message reveals, by its type's name, from the definitions: for reports and the ledger."""

import inspect
import re
from collections.abc import Iterator

from vfl.net.wire import Message


def message_types() -> dict[str, type[Message]]:
    """The messages of the modules imported so far, by name."""
    return {kind.__name__: kind for kind in _kinds(Message) if kind.__module__.startswith("vfl.")}


def reveals(kind: type[Message] | None) -> str:
    """What a message tells its receiver, as its docstring says."""
    said = re.search(r"Reveals: (.+?)\.?\Z", " ".join((inspect.getdoc(kind) or "").split()))
    return "this version of vfl has no such message" if kind is None or said is None else said[1]


def _kinds(kind: type[Message]) -> Iterator[type[Message]]:
    for sub in kind.__subclasses__():
        yield sub
        yield from _kinds(sub)
