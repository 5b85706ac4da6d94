"""A party's store, made ready before any peer is waited for.

What would end a job when its result is to be kept ends it here: a store that cannot be made, written or
locked, or that others can write to; a ledger that is not whole. Processes that share a store:

- any number of a guest's commands, and beside them `vfl serve`, if one party has both roles;
- one `vfl serve`: a second would take jobs of the first one's guests;
- any number of `vfl online`, which say that they run;
- one run of a job from its checkpoint, one writer of an output (Store.locked).
"""

import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar, cast

from vfl.jobs.connect import Site
from vfl.jobs.show import Show
from vfl.party import locks
from vfl.party.locks import alone
from vfl.party.permissions import check_keys, check_store
from vfl.party.store import Store

_SERVE, _ONLINE = "serve.lock", "online-*.lock"
P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def working(site: Site) -> Iterator[Store]:
    """The store, checked, for as long as a command works in it.

    Raises DataError for a store or ledger that cannot be used, IdentityError for keys that others can
    replace.
    """
    store = check_storage(site)
    with store.in_use(), site.activity.open():
        yield store


def in_store(
    work: Callable[Concatenate[Site, P], Coroutine[object, None, T]],
) -> Callable[Concatenate[Site, P], Coroutine[object, None, T]]:
    """A job that begins and ends as `working`, and whose `show` notes how far it is."""
    shown = cast(Callable[..., Coroutine[object, None, T]], work)

    @wraps(work)
    async def checked(site: Site, *arguments: P.args, **named: P.kwargs) -> T:
        with working(site), site.activity.job(work.__name__, cast(Show, named["show"])) as show:
            return await shown(site, *arguments, **{**named, "show": show})

    return cast(Callable[Concatenate[Site, P], Coroutine[object, None, T]], checked)


@contextmanager
def serving(site: Site) -> Iterator[Store]:
    """Like `working`, for `vfl serve`. Raises Refused when one serves from this store already."""
    with working(site) as store, alone(store.root / _SERVE, f"vfl serve in {store.root}"):
        yield store


@contextmanager
def online(site: Site) -> Iterator[Store]:
    """Like `working`, for `vfl online`, of which there may be several."""
    name = _ONLINE.replace("*", str(os.getpid()))
    with working(site) as store, alone(store.root / name, f"vfl online in {store.root}"):
        yield store


def check_storage(site: Site) -> Store:
    """The store, if a job could keep its results there. Leaves nothing behind; raises as `working`."""
    store = site.store
    check_keys(site.party)
    check_store(site.party)
    store.check()
    site.journal.ledger.check()
    return store


def who_serves(store: Path) -> locks.Holder | None:
    """The `vfl serve` that runs in a store, if there is one."""
    return locks.holder(store / _SERVE)


def who_is_online(store: Path) -> locks.Holder | None:
    """A `vfl online` that runs in a store, if there is one."""
    found = (locks.holder(path) for path in sorted(store.glob(_ONLINE)))
    return next((holder for holder in found if holder is not None), None)


def serves_an_older_file(store: Path, party_file: Path) -> str | None:
    """What to say where a `vfl serve` on this machine has read its party file before the last change."""
    serving = who_serves(store)
    if serving is None or serving.machine != socket.gethostname():
        return None
    if party_file.name not in serving.command:  # it has another one
        return None
    changed = datetime.fromtimestamp(party_file.stat().st_mtime, UTC)
    if changed.replace(microsecond=0) <= datetime.fromisoformat(serving.since):
        return None
    return f"{party_file.name} was changed after {serving} had read it: restart that, so that it counts"
