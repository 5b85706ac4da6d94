"""Checks before any job: what would fail, and what to do about it.

Nothing is made or changed, but for the lines of the ledger about peers that are greeted.
"""

import asyncio
from collections.abc import Callable

import numpy as np

from vfl.errors import PeerUnreachable, VflError
from vfl.jobs.alignment import ids_of
from vfl.jobs.connect import Office
from vfl.jobs.storage import who_serves
from vfl.net.peer import together
from vfl.net.websocket import dial, listen
from vfl.party.config import Party
from vfl.party.id_report import profile_ids
from vfl.party.linear import check_levels, check_rules
from vfl.party.permissions import SETTING, check_keys, check_store
from vfl.party.policy import allowed_columns
from vfl.party.store import Store
from vfl.party.table import read_table


async def examine(party: Party, wait: float, say: Callable[[str], None]) -> bool:
    """Report on table, store, keys and peers; True when a job could start now."""
    healthy = True
    if party.role != "coordinator":
        healthy = _check(say, "table", lambda: _table(party))
        _ids(party, say)
    stored = _check(say, "store", lambda: _store(party))
    try:
        check_keys(party)
        office = Office.open(party)
    except VflError as error:
        say(f"FAIL  keys: {error}")
        return False
    say(f"ok    keys: fingerprint {office.identity.certificate.fingerprint_groups}")
    for name, certificate in office.pinned.items():
        say(f"ok    certificate of {name}: fingerprint {certificate.fingerprint_groups}")
    if stored:  # else it has been said what is wrong with the folder
        try:
            office.journal.ledger.check()
        except VflError as error:
            say(f"FAIL  ledger: {error}")
            stored = False
    if not stored:
        say("note  peers are not tried: every greeting is written into the ledger")
        return False
    dialled = {n: p.address for n, p in party.peers.items() if p.address is not None}
    reached = await together(
        [_reach(office, name, address, wait, say) for name, address in dialled.items()]
    )
    if party.role == "coordinator":
        # Others dial it for a job, and not before.
        return healthy and all(reached) and await _listens(office, say)
    awaited = set(party.peers) - set(dialled)
    arrived = not awaited or await _await(office, awaited, wait, say)
    return healthy and all(reached) and arrived


def _check(say: Callable[[str], None], what: str, check: Callable[[], str]) -> bool:
    try:
        say(f"ok    {what}: {check()}")
    except VflError as error:
        say(f"FAIL  {what}: {error}")
        return False
    return True


def _store(party: Party) -> str:
    store = Store(party.party.store)
    check_store(party)
    store.check()
    unchecked = f"; note: who else can write there is not checked ({SETTING})"
    serving = who_serves(store.root)
    return (
        f"{store.root} can be {'written' if store.root.exists() else 'made'}"
        + (unchecked if party.party.others_may_write else "")
        + ("" if serving is None else f"; {serving} runs in it")
    )


def _table(party: Party) -> str:
    guest = party.role == "guest"
    table = read_table(party.data, role=party.role, need_label=guest)
    features = table.features
    if not guest:
        features = allowed_columns(party.policy, features, table.path.name)
    check_rules(party.glm, features, table.path.name)
    check_levels(party.glm, features, table.path.name)
    ids = ids_of(table, party.data)
    kinds = [v.dtype == object for v in table.features.values()]
    label = "" if table.label is None else f", label mean {table.label.mean():.4f}"
    notes = "".join(f"; note: {w}" for w in (*table.warnings, *ids.notes))
    distinct = sum(len(np.unique(key.of_row[key.of_row >= 0])) for key in ids.keys[:1])
    return (
        f"{table.path.name}, {table.rows:,} rows, {distinct:,} distinct ids, "
        f"{len(kinds) - sum(kinds)} numeric and {sum(kinds)} categorical columns{label}{notes}"
    )


def _ids(party: Party, say: Callable[[str], None]) -> None:
    """What the rule for ids does not mend, a line for each column."""
    try:
        report = profile_ids(party.data)
    except VflError:  # a table that cannot be read has failed already
        return
    for column in [column for key in (report, *report.further) for column in key.columns]:
        found = [f"{f.rows:,} {f.what}" for f in column.findings if not f.mended]
        if found:
            say(
                f"note  id column '{column.name}', rows: {'; '.join(found)} "
                "(vfl align --dry-run says which and what to do)"
            )


async def _reach(
    office: Office, name: str, address: str, wait: float, say: Callable[[str], None]
) -> bool:
    try:
        peer = await dial(office.credentials, name, address, office.party.role, wait)
    except PeerUnreachable as error:
        hint = ""
        if office.party.role == "host" and office.party.peers[name].role is None:
            hint = " (a guest listens only while one of its commands runs)"
        say(f"FAIL  {name}: {error}{hint}")
        return False
    except VflError as error:
        say(f"FAIL  {name}: {error}")
        return False
    coordinates = office.party.peers[name].role == "coordinator"
    healthy = coordinates == (peer.hello.role == "coordinator")
    say(
        f"{'ok  ' if healthy else 'FAIL'}  {name} at {address}: vfl {peer.hello.version}, "
        f"{peer.hello.role}"
        + ("" if healthy else f", where [peers.{name}] {'has' if coordinates else 'lacks'} that role")
    )
    await peer.close()
    return healthy


async def _listens(office: Office, say: Callable[[str], None]) -> bool:
    address = office.party.party.listen or ""
    try:
        async with listen(office.credentials, address, office.party.role, say):
            say(f"ok    {address} can be listened on")
    except VflError as error:
        say(f"FAIL  {error}: does `vfl serve` run already?")
        return False
    return True


async def _await(office: Office, awaited: set[str], wait: float, say: Callable[[str], None]) -> bool:
    address = office.party.party.listen
    if address is None:
        return False
    missing = set(awaited)
    try:
        async with listen(office.credentials, address, office.party.role, say) as listener:
            say(
                f"ok    listening on {address}, waiting {wait:.0f} s for {' and '.join(sorted(awaited))}"
            )
            async with asyncio.timeout(wait):
                while missing:
                    peer = await listener.accept()
                    if peer.name in missing:
                        missing.discard(peer.name)
                        say(f"ok    {peer.name} dialled in: vfl {peer.hello.version}, {peer.hello.role}")
                    await peer.close()
    except TimeoutError:
        say(f"FAIL  {' and '.join(sorted(missing))} did not dial in: is `vfl serve` running there?")
    except VflError as error:
        say(f"FAIL  {error}")
    return not missing
