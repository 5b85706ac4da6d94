"""Checks before any job: what would fail, and what to do about it.

Nothing is made or changed, but for the lines of the ledger about peers that are greeted.
"""

import asyncio
from collections.abc import Callable

from vfl.errors import PeerUnreachable, VflError
from vfl.jobs.connect import OPENING, PERIOD, Office, faults_of_keys
from vfl.jobs.finding import Finding
from vfl.jobs.storage import who_serves
from vfl.jobs.table_check import check_table
from vfl.net.peer import together
from vfl.net.websocket import dial, listen
from vfl.party.config import Party
from vfl.party.permissions import SETTING, check_keys, check_store
from vfl.party.store import Store

Report = Callable[[Finding], None]


async def examine(party: Party, wait: float, report: Report) -> bool:
    """Report on table, keys and peers, each thing once; True when a job could start now."""
    report = _once(report)
    healthy = party.role == "coordinator" or check_table(party, report)
    stored = _check_store(party, report)
    try:
        check_keys(party)
        office = Office.open(party)
    except VflError as error:
        for fault in (error, *faults_of_keys(party)):  # the first is among these, but for a folder's
            report(Finding("FAIL", "keys", f"keys: {fault}"))
        return False
    own = office.identity.certificate.fingerprint_groups
    report(Finding("ok", "keys", f"keys: fingerprint {own}"))
    for name, certificate in office.pinned.items():
        text = f"certificate of {name}: fingerprint {certificate.fingerprint_groups}"
        report(Finding("ok", name, text))
    for line in office.invalid_certificates():
        report(Finding("FAIL", "certificates", line))
        healthy = False
    for line in office.ending_certificates():
        report(Finding("note", "certificates", line))
    if stored:  # else it has been said what is wrong with the folder
        try:
            office.journal.ledger.check()
        except VflError as error:
            report(Finding("FAIL", "ledger", f"ledger: {error}"))
            stored = False
    if not stored:
        text = "peers are not tried: every greeting is written into the ledger"
        report(Finding("note", "peers", text))
        return False
    dialled = {n: p.address for n, p in party.peers.items() if p.address is not None}
    reached = await together(
        [_reach(office, name, address, wait, report) for name, address in dialled.items()]
    )
    if party.role == "coordinator":
        # Others dial it for a job, and not before.
        return healthy and all(reached) and await _listens(office, report)
    awaited = set(party.peers) - set(dialled)
    arrived = not awaited or await _await(office, awaited, wait, report)
    return healthy and all(reached) and arrived


def _check_store(party: Party, report: Report) -> bool:
    try:
        report(Finding("ok", "store", f"store: {_store(party)}"))
    except VflError as error:
        report(Finding("FAIL", "store", f"store: {error}"))
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


def _once(report: Report) -> Report:
    """A report that leaves out what was said before: a peer that is refused tries again and again."""
    told: set[Finding] = set()

    def tell(finding: Finding) -> None:
        if finding not in told:
            told.add(finding)
            report(finding)

    return tell


def _as_notes(report: Report) -> Callable[[str], None]:
    return lambda text: report(Finding("note", "listen", text))


async def _reach(office: Office, name: str, address: str, wait: float, report: Report) -> bool:
    try:
        peer = await dial(office.credentials, name, address, office.party.role, wait, opening=OPENING)
    except PeerUnreachable as error:
        hint = ""
        of_guest = office.party.role == "host" and office.party.peers[name].role is None
        if of_guest and error.nobody_listens:
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
    listening = listen(office.credentials, address, office.party.role, _as_notes(report), period=PERIOD)
    try:
        async with listening:
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
    refused: dict[str, str] = {}
    listening = listen(
        office.credentials,
        address,
        office.party.role,
        _as_notes(report),
        opening=OPENING,
        period=PERIOD,
    )
    try:
        async with listening as listener:
            refused = listener.refused
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
                    listener.dismiss(peer)
    except TimeoutError:
        for name in sorted(missing & set(refused)):
            text = f"{name} dialled in and was refused: {refused[name]}"
            report(Finding("FAIL", name, text))
        if silent := " and ".join(sorted(missing - set(refused))):
            text = f"{silent} did not dial in: is `vfl serve` running there?"
            report(Finding("FAIL", "listen", text))
    except VflError as error:
        report(Finding("FAIL", "listen", str(error)))
    return not missing
