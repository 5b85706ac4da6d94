"""Checks before any job: what would fail, and what to do about it."""

import asyncio
from collections.abc import Callable

import numpy as np

from vfl.errors import PeerUnreachable, VflError
from vfl.jobs.alignment import ids_of
from vfl.jobs.connect import Office
from vfl.jobs.finding import Finding
from vfl.net.peer import together
from vfl.net.websocket import dial, listen
from vfl.party.config import Party
from vfl.party.id_report import profile_ids
from vfl.party.policy import allowed_columns
from vfl.party.table import read_table
from vfl.text import counted

Report = Callable[[Finding], None]


async def examine(party: Party, wait: float, report: Report) -> bool:
    """Report on table, keys and peers, each thing once; True when a job could start now."""
    report = _once(report)
    healthy = party.role == "coordinator" or _check_table(party, report)
    try:
        office = Office.open(party)
    except VflError as error:
        report(Finding("FAIL", "keys", f"keys: {error}"))
        return False
    own = office.identity.certificate.fingerprint_groups
    report(Finding("ok", "keys", f"keys: fingerprint {own}"))
    for name, certificate in office.pinned.items():
        text = f"certificate of {name}: fingerprint {certificate.fingerprint_groups}"
        report(Finding("ok", name, text))
    dialled = {n: p.address for n, p in party.peers.items() if p.address is not None}
    reached = await together(
        [_reach(office, name, address, wait, report) for name, address in dialled.items()]
    )
    if party.role == "coordinator":
        # Others dial it for a job, and not before.
        return all(reached) and await _listens(office, report)
    awaited = set(party.peers) - set(dialled)
    arrived = not awaited or await _await(office, awaited, wait, report)
    return healthy and all(reached) and arrived


def _once(report: Report) -> Report:
    """A report that leaves out what was said before: a peer that is refused tries again and again."""
    told: set[Finding] = set()

    def tell(finding: Finding) -> None:
        if finding not in told:
            told.add(finding)
            report(finding)

    return tell


def _check_table(party: Party, report: Report) -> bool:
    try:
        report(Finding("ok", "table", f"table: {_table(party)}"))
    except VflError as error:
        report(Finding("FAIL", "table", f"table: {error}"))
        return False
    finally:
        _ids(party, report)
    return True


def _table(party: Party) -> str:
    guest = party.role == "guest"
    table = read_table(party.data, role=party.role, need_label=guest)
    if not guest:
        allowed_columns(party.policy, table.features, table.path.name)
    ids = ids_of(table, party.data)
    kinds = [v.dtype == object for v in table.features.values()]
    label = "" if table.label is None else f", label mean {table.label.mean():.4f}"
    notes = "".join(f"; note: {w}" for w in (*table.warnings, *ids.notes))
    distinct = sum(len(np.unique(key.of_row[key.of_row >= 0])) for key in ids.keys[:1])
    names = counted(sum(kinds), "categorical column")
    return (
        f"{table.path.name}, {counted(table.rows, 'row')}, {counted(distinct, 'distinct id')}, "
        f"{len(kinds) - sum(kinds)} numeric and {names}{label}{notes}"
    )


def _ids(party: Party, report: Report) -> None:
    """What the rule for ids does not mend, a line for each column."""
    try:
        profile = profile_ids(party.data)
    except VflError:  # a table that cannot be read has failed already
        return
    for column in [column for key in (profile, *profile.further) for column in key.columns]:
        found = [f"{f.rows:,} {f.what}" for f in column.findings if not f.mended]
        if found:
            text = (
                f"id column '{column.name}', rows: {'; '.join(found)} "
                "(vfl align --dry-run says which and what to do)"
            )
            report(Finding("note", "ids", text))


def _as_notes(report: Report) -> Callable[[str], None]:
    return lambda text: report(Finding("note", "listen", text))


async def _reach(office: Office, name: str, address: str, wait: float, report: Report) -> bool:
    try:
        peer = await dial(office.credentials, name, address, office.party.role, wait)
    except PeerUnreachable as error:
        hint = ""
        if office.party.role == "host" and office.party.peers[name].role is None:
            hint = " (a guest listens only while one of its commands runs)"
        report(Finding("FAIL", name, f"{name}: {error}{hint}"))
        return False
    except VflError as error:
        report(Finding("FAIL", name, f"{name}: {error}"))
        return False
    coordinates = office.party.peers[name].role == "coordinator"
    healthy = coordinates == (peer.hello.role == "coordinator")
    text = f"{name} at {address}: vfl {peer.hello.version}, {peer.hello.role}"
    if not healthy:
        text += f", where [peers.{name}] {'has' if coordinates else 'lacks'} that role"
    report(Finding("ok" if healthy else "FAIL", name, text))
    await peer.close()
    return healthy


async def _listens(office: Office, report: Report) -> bool:
    address = office.party.party.listen or ""
    try:
        async with listen(office.credentials, address, office.party.role, _as_notes(report)):
            report(Finding("ok", "listen", f"{address} can be listened on"))
    except VflError as error:
        report(Finding("FAIL", "listen", f"{error}: does `vfl serve` run already?"))
        return False
    return True


async def _await(office: Office, awaited: set[str], wait: float, report: Report) -> bool:
    address = office.party.party.listen
    if address is None:
        return False
    missing = set(awaited)
    try:
        async with listen(office.credentials, address, office.party.role, _as_notes(report)) as listener:
            names = " and ".join(sorted(awaited))
            text = f"listening on {address}, waiting {wait:.0f} s for {names}"
            report(Finding("ok", "listen", text))
            async with asyncio.timeout(wait):
                while missing:
                    peer = await listener.accept()
                    if peer.name in missing:
                        missing.discard(peer.name)
                        text = f"{peer.name} dialled in: vfl {peer.hello.version}, {peer.hello.role}"
                        report(Finding("ok", peer.name, text))
                    await peer.close()
    except TimeoutError:
        names = " and ".join(sorted(missing))
        text = f"{names} did not dial in: is `vfl serve` running there?"
        report(Finding("FAIL", "listen", text))
    except VflError as error:
        report(Finding("FAIL", "listen", str(error)))
    return not missing
