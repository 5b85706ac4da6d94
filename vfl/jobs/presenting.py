"""Certificates of replays, handed by a guest to the hosts that have a model audited (audits.py)."""

import asyncio
import zlib
from collections.abc import Mapping
from pathlib import Path

from vfl.errors import ModelError, Refused, VflError
from vfl.jobs.admission import accept, check_request
from vfl.jobs.agreement import offer_to
from vfl.jobs.audit_draw import Presented, Settled
from vfl.jobs.audits import (
    auditor_of,
    load_audits,
    missing_runs,
    note_presented,
    settle,
    to_present,
)
from vfl.jobs.certificate import Checked, check_read, parse_certificate_of_replay
from vfl.jobs.connect import Site, hosts_of
from vfl.jobs.offer import Offer, new_run
from vfl.jobs.rerun import EvidenceDiffers
from vfl.jobs.show import Show
from vfl.net.peer import Peer, together
from vfl.text import counted

LARGEST = 128 << 20  # bytes of a certificate


async def present(site: Site, model: str, *, wait: float, show: Show) -> list[str]:
    """Hand the certificates of a model that are kept here to the hosts that wait for them, one after the
    other; which hosts have got one.

    One that is away, or refuses its certificate, does not keep others from theirs. Raises at the end
    what sessions raise, of the first such host.
    """
    given, failed = list[str](), list[VflError]()
    for name, certificates in to_present(site.store, model).items():
        try:
            async with hosts_of(site, wait, show, [name]) as hosts:
                await together([present_to(site, host, model, certificates, show) for host in hosts])
        except VflError as error:
            if failed:
                show.say(str(error))
            failed.append(error)
        else:
            given.append(name)
    if failed:
        raise failed[0]
    return given


async def present_to(
    site: Site, host: Peer, model: str, certificates: Mapping[str, str], show: Show
) -> None:
    """Hand certificates of a model, by run, to a host, in a session that is about nothing else. Raises
    as `present`."""
    offer = Offer("audit", new_run(), [host.name], [], model=model)
    await offer_to(site, [host], offer, show)
    last = list(certificates)[-1]
    for run, content in certificates.items():
        await host.send(Presented(zlib.compress(content.encode()), run != last))
    missing = (await host.recv(Settled)).missing
    note_presented(site.store, model, host.name, list(certificates))
    show.say(
        f"{host.name} has the certificate of {model}"
        if not missing
        else f"{host.name} has a certificate of {model}, and lacks those of {counted(missing, 'run')}"
    )


async def serve_audit(site: Site, peer: Peer, offer: Offer, show: Show) -> str:
    """A host's part; what it came to, in words. It asks nobody's approval: nothing is given."""
    model = offer.model or ""
    check_request(site, peer, offer, show, f"hand over the audit of {model}")
    if peer.name not in load_audits(site.store, model):
        raise Refused(f"{site.party.name} has agreed with {peer.name} to no audit of a model {model}")
    await accept(site, peer, offer)
    more = True
    while more:
        said = await peer.recv(Presented)
        more = said.more
        checked = await asyncio.to_thread(_check, site, unpack(peer, said.certificate))
        run = checked.certificate.run
        of_model = load_audits(site.store, model)[peer.name].runs
        if checked.certificate.party != peer.name or run not in of_model:
            raise Refused(f"the certificate of run {run[:12]} is about no run of {model}")
        settle(site.store, checked)
        show.say(f"the audit of run {run[:12]} of {model} holds, signed by {checked.signed_by}")
        for one in checked.certificate.relies:
            show.say(f"note: the audit of run {run[:12]} relies {one}")
    missing = missing_runs(site, load_audits(site.store, model)[peer.name], peer.name)
    await peer.send(Settled(len(missing)))
    lacks = f"; {counted(len(missing), 'run')} left" if missing else ""
    return f"has the audit of {model} of {peer.name}{lacks}"


def unpack(peer: Peer, packed: bytes) -> bytes:
    """A certificate that was sent. Raises PeerError for what is not packed, or too large."""
    unpacking = zlib.decompressobj()
    try:
        content = unpacking.decompress(packed, LARGEST)
    except zlib.error:
        raise peer.breach("Presented with a certificate that is not packed") from None
    if not unpacking.eof:
        raise peer.breach("Presented with a certificate that is cut off or too large")
    return content


def _check(site: Site, content: bytes) -> Checked:
    """Hold a certificate against this host's ledger. Raises Refused for one that does not hold."""
    name = Path("the certificate")
    try:
        made, signer = read = parse_certificate_of_replay(content, name)
        auditor = auditor_of(site.party)
        if auditor is None and not site.same_party(made.party, signer.fingerprint):
            raise Refused(
                f"{site.party.name} wants the certificate signed by {made.party} itself, and it is "
                f"signed by {signer.name}: have it made by `vfl audit replay` anew"
            )
        return check_read(site, read, name, auditor)
    except (ModelError, EvidenceDiffers) as error:
        raise Refused(f"{site.party.name} refuses the certificate: {error}") from None
