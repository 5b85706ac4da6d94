"""Checks before any job: what would fail, and what to do about it.

Nothing is made or changed, but for the lines of the ledger about peers that are greeted.
"""

import asyncio
import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec

from vfl.errors import ConfigError, PeerUnreachable, VflError, not_installed
from vfl.jobs.audits import auditor_of, list_audits
from vfl.jobs.check_result import CheckResult, Reporter
from vfl.jobs.cluster import check_cluster
from vfl.jobs.connect import OPENING, PERIOD, Site, faults_of_keys, of_unnamed, store_of
from vfl.jobs.directory_check import check_directories
from vfl.jobs.evidence import SPARE
from vfl.jobs.pooled import check_pool
from vfl.jobs.removal import size_of
from vfl.jobs.source_check import check_source
from vfl.jobs.storage import who_is_online, who_serves
from vfl.jobs.table_check import check_table
from vfl.net.addresses import is_relay
from vfl.net.peer import together
from vfl.net.rendezvous import DIALS, WAITS, keys_of
from vfl.net.websocket import Listener, dial, listen
from vfl.party.config import Job, Party
from vfl.party.linear_rules import check_pairs
from vfl.party.permissions import SETTING, check_keys, check_store
from vfl.party.policy import broken_by_job, broken_by_pool, today, widened
from vfl.party.service_certificate import ServiceCertificate
from vfl.party.store import Store
from vfl.party.tokens import load_tokens
from vfl.text import counted

_SOON = 30  # days before a certificate ends in which it is said


async def examine(party: Party, wait: float, report: Reporter, job: Job | None = None) -> bool:
    """Report on table, keys and peers, each thing once; True when a job could start now.

    job: the one for which a guest's table is to be, if any.
    """
    report = _once(report)
    if party.role == "coordinator":
        healthy = _check_server(party, job, report)
    else:
        size = list[tuple[int, int]]()
        healthy = check_source(party.data, report) and check_table(
            party, report, job, lambda *found: size.append(found)
        )
        healthy = check_cluster(party, size, report) and healthy
        healthy = _check_policy(party, job, report) and healthy
        healthy = _check_across(party, job, report) and healthy
    if party.role == "host" and (wider := widened(party.policy)):
        report(CheckResult("note", "policy", f"policy: wider than by default: {', '.join(wider)}"))
    healthy = _check_online(party, report) and healthy
    healthy = _check_metrics(party, report) and healthy
    stored = _check_store(party, report)
    if stored:
        _report_tapes(party, report)
        healthy = _check_audits(party, report) and healthy
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
        _report_authority(site, name, report)
    for line in site.invalid_certificates():
        report(CheckResult("FAIL", "certificates", line))
        healthy = False
    for line in site.ending_certificates():
        report(CheckResult("note", "certificates", line))
    healthy = (not stored or check_directories(site, report)) and healthy
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
    dialled = [(n, p.address, False) for n, p in party.peers.items() if p.address is not None]
    dialled += [(n, p.online, True) for n, p in party.peers.items() if p.online is not None]
    reached = await together(
        [_reach(site, name, address, wait, report, online=online) for name, address, online in dialled]
    )
    if party.role == "coordinator":
        # Others dial it for a job, and not before.
        return healthy and all(reached) and await _listens(site, report)
    # Peers that are pinned to check what others relay never dial: clients, and fellows of a host that
    # names its guests.
    silent = set(site.awaited) - set(party.clients)
    arrived = await together([_await(site, place, silent, wait, report) for place in _places(party)])
    return healthy and all(reached) and all(arrived)


def _report_authority(site: Site, name: str, report: Reporter) -> None:
    """Say what a peer's authority, if the party file names one, stands for; where it does not stand for
    the certificate it is among those that are not valid."""
    authority, der = site.authorities.get(name), site.pinned[name].der
    if authority is not None and authority.why_refused(der) is None:
        report(CheckResult("ok", name, f"certificate of {name}: {authority.in_words(der)}"))


@dataclass(frozen=True)
class _Place:
    """An address at which peers are awaited."""

    address: str
    online: bool
    """Whether it is that of `vfl online`, not of the other commands."""
    taken: bool
    """Whether `vfl online` listens there, if it runs."""


def _places(party: Party) -> list[_Place]:
    """Where peers that dial this party find it."""
    first = party.party.listen
    second = None if party.online is None else party.online.listen_for_hosts
    found = []
    if first is not None:
        found.append(_Place(first, online=False, taken=party.online is not None and second is None))
    if second is not None:
        found.append(_Place(second, online=True, taken=True))
    return found


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


def _check_across(party: Party, job: Job | None, report: Reporter) -> bool:
    """Whether a guest's job has pairs of columns of two parties that there are."""
    if job is None or job.over_rows:
        return True
    try:
        check_pairs(party.glm, party.data, job.linear.pairs, party.partners)
    except ConfigError as error:
        report(CheckResult("FAIL", "job", f"job {job.name}: {error}"))
        return False
    return True


def _check_metrics(party: Party, report: Reporter) -> bool:
    """Whether figures could be shown, where the party file wants that."""
    if party.party.metrics is None:
        return True
    name = "prometheus_client"
    if find_spec(name) is None:
        missing = not_installed(ModuleNotFoundError(name=name))
        report(CheckResult("FAIL", "metrics", f"metrics: {missing}"))
        return False
    where = f"figures at {party.party.metrics} while vfl serve runs"
    report(CheckResult("ok", "metrics", f"metrics: {where}"))
    return True


def _check_policy(party: Party, job: Job | None, report: Reporter) -> bool:
    """Whether a party allows a job over rows, which its server will start."""
    if job is None or not job.over_rows:
        return True
    starts = party.coordinators
    broken = broken_by_job(party.policy, job, starts[0] if len(starts) == 1 else None, today())
    broken += broken_by_pool(party.policy, len(party.clients) + 1)
    for text in broken:
        report(CheckResult("FAIL", "policy", f"job {job.name}: {text}"))
    return not broken


def _check_online(party: Party, report: Reporter) -> bool:
    """Whether `vfl online` has the files that [online] names."""
    section = party.online
    if section is None:
        return True
    found, now = [], datetime.now(UTC)
    try:
        if section.certificate is not None and section.key is not None:
            ends = ServiceCertificate(section.certificate, section.key).ends
            days = (ends - now).days
            if ends <= now:
                raise ConfigError(f"{section.certificate} ended on {ends:%Y-%m-%d}: put a new one there")
            found.append(f"certificate until {ends:%Y-%m-%d}")
            if days < _SOON:
                when = f"{ends:%Y-%m-%d}, {counted(days, 'day')} from now"
                text = f"online: {section.certificate} ends on {when}"
                report(CheckResult("note", "online", text))
        if not section.without_tokens:
            tokens = load_tokens(section.tokens).by_name
            of_use = sum(not token.has_expired(now.date()) for token in tokens.values())
            found.append(f"{counted(of_use, 'token')} of use")
    except VflError as error:
        report(CheckResult("FAIL", "online", f"online: {error}"))
        return False
    scheme = "http" if section.plain_http else "https"
    what = "".join(f"; {text}" for text in found)
    report(CheckResult("ok", "online", f"online: {scheme}://{section.listen}{what}"))
    return True


def _check_store(party: Party, report: Reporter) -> bool:
    try:
        report(CheckResult("ok", "store", f"store: {_store(party)}"))
    except VflError as error:
        report(CheckResult("FAIL", "store", f"store: {error}"))
        return False
    return True


def _report_tapes(party: Party, report: Reporter) -> None:
    """Say what tapes there are, and whether the disk has room for more. They end where it has none: no
    job does."""
    if party.party.tape == "none":
        return
    store = Store(party.party.store)
    folder = store.folder("evidence")
    taken = size_of(folder.glob("*")) if folder.is_dir() else 0
    at = next(one for one in (folder, store.root, store.root.parent) if one.is_dir())
    free = shutil.disk_usage(at).free
    kept = party.party.tape
    share = "" if isinstance(kept, str) else f", of trees at a host a share of {kept:g} from now on"
    text = f"tapes: {taken / 1e6:,.0f} MB so far{share}, {free / 1e9:,.1f} GB free"
    if free < 4 * SPARE:
        text += f": a run's tape ends where less than {SPARE >> 20} MB are free; make room"
    report(CheckResult("ok" if free >= 4 * SPARE else "note", "tapes", text))


def _check_audits(party: Party, report: Reporter) -> bool:
    """Say which audits are due or were not drawn; whether the auditor's certificate can be read."""
    try:
        auditor = auditor_of(party)
        due = [one for one in list_audits(store_of(party)) if one.missing]
    except VflError as error:
        report(CheckResult("FAIL", "audits", f"audits: {error}"))
        return False
    if party.role == "host" and party.policy.audit:
        by = "the guest itself" if auditor is None else f"the auditor {auditor.name}"
        text = f"audits: of a share of {party.policy.audit:g} of trees, signed by {by}"
        report(CheckResult("ok", "audits", text))
    for one in due:
        said = "is due" if one.state == "due" else "was not drawn: its training is not over"
        advice = " (`vfl audit replay --drawn`, then `vfl audit send`)" if party.role == "guest" else ""
        text = f"audits: that of {one.model} with {one.peer} {said}{advice}"
        report(CheckResult("note", "audits", text))
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
        + "".join(f"; {one} runs in it" for one in (serving, who_is_online(store.root)) if one)
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


async def _reach(
    site: Site, name: str, address: str, wait: float, report: Reporter, *, online: bool
) -> bool:
    """online: whether the address is that of the peer's `vfl online`."""
    try:
        peer = await dial(site.credentials, name, address, site.party.role, wait, opening=OPENING)
    except PeerUnreachable as error:
        hint = ""
        role = site.party.peers[name].role
        if online and error.nobody_listens:
            hint = " (it listens there only while its `vfl online` runs)"
        elif site.party.role == "host" and role is None and error.nobody_listens:
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
            if trouble := listener.trouble:
                report(CheckResult("FAIL", "listen", trouble))
                return False
            can = "can be listened on" if listener.relay is None else "can be waited at"
            report(CheckResult("ok", "listen", f"{address} {can}"))
    except VflError as error:
        report(CheckResult("FAIL", "listen", f"{error}: does `vfl serve` run already?"))
        return False
    return True


async def _await(site: Site, place: _Place, awaited: set[str], wait: float, report: Reporter) -> bool:
    """Whether all that are awaited at a place dial in."""
    if not awaited:
        return True
    if place.taken and (serving := who_is_online(site.store.root)) is not None:
        text = f"{serving} awaits {' and '.join(sorted(awaited))} at {place.address}: not tried"
        report(CheckResult("note", "listen", text))
        return True
    address, missing = place.address, set(awaited)
    refused: dict[str, str] = {}
    listener: Listener | None = None
    try:
        async with _listening(site, address, report) as listener:
            refused = listener.refused
            if not listener.trouble:
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
        silent = missing - set(refused)
        if listener is not None and (trouble := listener.trouble) and silent & listener.troubles.keys():
            report(CheckResult("FAIL", "listen", trouble))
            silent -= listener.troubles.keys()
        if silent:
            text = f"{' and '.join(sorted(silent))} did not dial in: is `vfl serve` running there?"
            if place.online:
                text = f"{text[:-1]}, with {address} as `online` of [peers.{site.party.name}]?"
            if listener is not None:
                text += of_unnamed(listener, " or ".join(sorted(silent)))
            report(CheckResult("FAIL", "listen", text))
    except VflError as error:
        report(CheckResult("FAIL", "listen", str(error)))
    return not missing
