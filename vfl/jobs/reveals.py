"""What each message reveals, by its type's name, from the definitions: for reports and the ledger."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache, lru_cache

import vfl.net
import vfl.protocols
from vfl.net.wire import Message

# Messages are defined in these rooms, and in these modules of a room that has much else.
_ROOMS = (vfl.net, vfl.protocols)
_MODULES = ("vfl.jobs.offer", "vfl.jobs.audit_draw")

UNKNOWN = "this version of vfl has no such message"


@cache
def message_types() -> dict[str, type[Message]]:
    """All messages of this version by name, whichever of their modules have been imported so far."""
    names = list(_MODULES)
    for room in _ROOMS:
        names += [module.name for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}.")]
    for name in names:
        importlib.import_module(name)
    return _imported()


@lru_cache(256)
def message_type(name: str) -> type[Message] | None:
    """The message of that name: only one that no imported module defines takes the import of all."""
    return _imported().get(name) or message_types().get(name)


def reveals(kind: type[Message] | None) -> str:
    """What a message tells its receiver, as its docstring says."""
    said = re.search(r"Reveals: (.+?)\.?\Z", " ".join((inspect.getdoc(kind) or "").split()))
    return UNKNOWN if kind is None or said is None else said[1]


def _imported() -> dict[str, type[Message]]:
    return {kind.__name__: kind for kind in _kinds(Message) if kind.__module__.startswith("vfl.")}


def _kinds(kind: type[Message]) -> Iterator[type[Message]]:
    for sub in kind.__subclasses__():
        yield sub
        yield from _kinds(sub)
