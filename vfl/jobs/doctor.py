"""Checks before any job: what would fail, and what to do about it.

Nothing is made or changed, but for the lines of the ledger about peers that are greeted.
"""

import asyncio
import contextlib
from collections.abc import Callable

from vfl.errors import ConfigError, PeerUnreachable, VflError
from vfl.jobs.check_result import CheckResult, Reporter
from vfl.jobs.connect import OPENING, PERIOD, Site, faults_of_keys
from vfl.jobs.pooled import check_pool
from vfl.jobs.storage import who_serves
from vfl.jobs.table_check import check_table
from vfl.net.addresses import is_relay
from vfl.net.peer import together
from vfl.net.rendezvous import DIALS, WAITS, keys_of
from vfl.net.websocket import Listener, dial, listen
from vfl.party.config import Job, Party
from vfl.party.permissions import SETTING, check_keys, check_store
from vfl.party.policy import widened
from vfl.party.store import Store


async def examine(party: Party, wait: float, report: Reporter, job: Job | None = None) -> bool:
    """Report on table, keys and peers, each thing once; True when a job could start now.

    job: the one for which a guest's table is to be, if any.
    """
    report = _once(report)
    if party.role == "coordinator":
        healthy = _check_server(party, job, report)
    else:
        healthy = check_table(party, report, job)
    if party.role == "host" and (wider := widened(party.policy)):
        report(CheckResult("note", "policy", f"policy: wider than by default: {', '.join(wider)}"))
    stored = _check_store(party, report)
    try:
        check_keys(party)
        site = Site.open(party)
    except VflError as error:
        for fault in (error, *faults_of_keys(party)):  # the first is among these, but for a folder's
            report(CheckResult("FAIL", "keys", f"keys: {fault}"))
        return False
    fingerprint = site.identity.certificate.fingerprint_groups
    report(CheckResult("ok", "keys", f"keys: fingerprint {fingerprint}"))
    for name, certificate in site.pinned.items():
        text = f"certificate of {name}: fingerprint {certificate.fingerprint_groups}"
        report(CheckResult("ok", name, text))
    for line in site.invalid_certificates():
        report(CheckResult("FAIL", "certificates", line))
        healthy = False
    for line in site.ending_certificates():
        report(CheckResult("note", "certificates", line))
    if stored:  # else it has been said what is wrong with the folder
        try:
            site.journal.ledger.check()
        except VflError as error:
            report(CheckResult("FAIL", "ledger", f"ledger: {error}"))
            stored = False
    if not stored:
        text = "peers are not tried: every greeting is written into the ledger"
        report(CheckResult("note", "peers", text))
        return False
    _report_places(site, report)
    dialled = {n: p.address for n, p in party.peers.items() if p.address is not None}
    reached = await together(
        [_reach(site, name, address, wait, report) for name, address in dialled.items()]
    )
    if party.role == "coordinator":
        # Others dial it for a job, and not before.
        return healthy and all(reached) and await _listens(site, report)
    # Peers that are pinned to check what others relay never dial: clients, and a host's fellows.
    silent = set(party.peers) - set(dialled) - set(party.clients)
    awaited = silent if party.party.listen is not None else set()
    arrived = not awaited or await _await(site, awaited, wait, report)
    return healthy and all(reached) and arrived


def _check_server(party: Party, job: Job | None, report: Reporter) -> bool:
    """Whether a coordinator has as many parties as a job over rows needs."""
    if job is None:
        return True
    try:
        check_pool(party, job)
    except ConfigError as error:
        report(CheckResult("FAIL", "job", f"job {job.name}: {error}"))
        return False
    text = f"job {job.name}: over the rows of {' and '.join(party.partners)}"
    report(CheckResult("note", "job", text))
    return True


def _check_store(party: Party, report: Reporter) -> bool:
    try:
        report(CheckResult("ok", "store", f"store: {_store(party)}"))
    except VflError as error:
        report(CheckResult("FAIL", "store", f"store: {error}"))
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


def _once(report: Reporter) -> Reporter:
    """A report that leaves out what was said before: a peer that is refused tries again and again."""
    reported: set[CheckResult] = set()

    def tell(finding: CheckResult) -> None:
        if finding not in reported:
            reported.add(finding)
            report(finding)

    return tell


def _as_notes(report: Reporter) -> Callable[[str], None]:
    return lambda text: report(CheckResult("note", "listen", text))


async def _reach(site: Site, name: str, address: str, wait: float, report: Reporter) -> bool:
    try:
        peer = await dial(site.credentials, name, address, site.party.role, wait, opening=OPENING)
    except PeerUnreachable as error:
        hint = ""
        role = site.party.peers[name].role
        if site.party.role == "host" and role is None and error.nobody_listens:
            hint = " (a guest listens only while one of its commands runs)"
        if site.party.clients and role == "coordinator" and error.nobody_listens:
            hint = " (the server of a job over rows listens only while its `vfl train` runs)"
        report(CheckResult("FAIL", name, f"{name}: {error}{hint}"))
        return False
    except VflError as error:
        report(CheckResult("FAIL", name, f"{name}: {error}"))
        return False
    coordinates = site.party.peers[name].role == "coordinator"
    healthy = coordinates == (peer.hello.role == "coordinator")
    text = f"{name} at {address}: vfl {peer.hello.version}, {peer.hello.role}"
    if not healthy:
        text += f", where [peers.{name}] {'has' if coordinates else 'lacks'} that role"
    report(CheckResult("ok" if healthy else "FAIL", name, text))
    await peer.close()
    return healthy


def _listening(
    site: Site, address: str, report: Reporter
) -> contextlib.AbstractAsyncContextManager[Listener]:
    return listen(
        site.credentials,
        address,
        site.party.role,
        _as_notes(report),
        opening=OPENING,
        period=PERIOD,
        waits_for=site.awaited,
    )


def _trouble(listener: Listener) -> str | None:
    """Why this party does not wait at the relay, if that is where peers should find it."""
    return next((f"{listener.relay}: {why}" for why in listener.troubles.values()), None)


def _report_places(site: Site, report: Reporter) -> None:
    """Say at which places of a relay this party meets its peers, for an operator who lists them."""
    dialled = [name for name, peer in site.party.peers.items() if is_relay(peer.address)]
    awaited = site.awaited if is_relay(site.party.party.listen) else []
    for seat, names in ((DIALS, dialled), (WAITS, awaited)):
        for name, key in keys_of(site.credentials, seat, names).items():
            report(CheckResult("ok", name, f"place of {name} at the relay: {key.place.hex()}"))


async def _listens(site: Site, report: Reporter) -> bool:
    address = site.party.party.listen or ""
    try:
        async with _listening(site, address, report) as listener:
            if trouble := _trouble(listener):
                report(CheckResult("FAIL", "listen", trouble))
                return False
            can = "can be listened on" if listener.relay is None else "can be waited at"
            report(CheckResult("ok", "listen", f"{address} {can}"))
    except VflError as error:
        report(CheckResult("FAIL", "listen", f"{error}: does `vfl serve` run already?"))
        return False
    return True


async def _await(site: Site, awaited: set[str], wait: float, report: Reporter) -> bool:
    address = site.party.party.listen
    if address is None:
        return False
    missing = set(awaited)
    refused: dict[str, str] = {}
    listener: Listener | None = None
    try:
        async with _listening(site, address, report) as listener:
            refused = listener.refused
            if not _trouble(listener):
                names = " and ".join(sorted(awaited))
                doing = "listening on" if listener.relay is None else "reached"
                text = f"{doing} {address}, waiting {wait:.0f} s for {names}"
                report(CheckResult("ok", "listen", text))
            async with asyncio.timeout(wait):
                while missing:
                    peer = await listener.accept()
                    if peer.name in missing:
                        missing.discard(peer.name)
                        text = f"{peer.name} dialled in: vfl {peer.hello.version}, {peer.hello.role}"
                        report(CheckResult("ok", peer.name, text))
                    listener.dismiss(peer)
    except TimeoutError:
        for name in sorted(missing & set(refused)):
            text = f"{name} dialled in and was refused: {refused[name]}"
            report(CheckResult("FAIL", name, text))
        if silent := " and ".join(sorted(missing - set(refused))):
            trouble = None if listener is None else _trouble(listener)
            text = f"{silent} did not dial in: is `vfl serve` running there?"
            report(CheckResult("FAIL", "listen", trouble or text))
    except VflError as error:
        report(CheckResult("FAIL", "listen", str(error)))
    return not missing
