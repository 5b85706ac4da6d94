"""What all parties of a job sign before it starts, kept with the model.

The guest signs the terms (offer.py: Terms) in its Offer. Each host checks them against what it knows
itself and signs the same terms in its Accept; the guest passes all signatures on in Agreed. A
coordinator signs when all have come to it (coordinator.py). A change of one character of the job makes
other terms, under which no signature holds.

Who pins a certificate checks its signatures, and keeps it with them: so an agreement can be verified
later, with no other party there. Signatures of others are kept as the guest passed them on.

Guest and hosts also tell each other the hash of their ledger's newest seal. Each keeps it with the run:
a ledger that does not have the seal any more was cut back (`noted_seals`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from msgspec import UNSET, UnsetType

from vfl.errors import IdentityError, ModelError, PeerError, Refused
from vfl.jobs.approved import answers_of, approval_statement
from vfl.jobs.audit_draw import check_demand, demand_statement
from vfl.jobs.connect import Site
from vfl.jobs.offer import Accept, Agreed, Approved, AuditDemand, Offer, Terms, bind
from vfl.jobs.show import Show
from vfl.models.kinds import kind_of_job
from vfl.net.peer import Peer, together
from vfl.party.config import Job, Party
from vfl.party.documents import canonical_json
from vfl.party.identity import load_certificate, parse_certificate, paths
from vfl.party.rotation import formerly
from vfl.text import counted


@dataclass(frozen=True)
class Agreement:
    """Terms and who signed them."""

    terms: Terms
    signatures: dict[str, bytes]  # by party; a coordinator's is added when it comes
    certificates: dict[str, str]  # PEM, of parties that are pinned here, and one's own
    ledgers: dict[str, str] = field(default_factory=dict)
    """The hash of the newest seal of a party's ledger then, in hex, of those who told it and one's own;
    of runs since it is told."""
    queries: dict[str, str] = field(default_factory=dict)
    """In hex, the digest of the query that made a party's table (kept_query.py), of those who had one;
    each signed its own with the terms."""
    approvals: dict[str, Approved] = field(default_factory=dict)
    """When a person approved the job, by party, of those where one was asked: at the guest of all hosts,
    at a host its own."""
    commitments: dict[str, str] = field(default_factory=dict)
    """In hex, what a party has committed to (commitments.py), of those who keep a tape; each signed its
    own with the terms."""
    audits: dict[str, AuditDemand] = field(default_factory=dict)
    """What hosts have said of an audit (audits.py), by host: at the guest of all, at a host its own."""

    @classmethod
    def of(
        cls,
        site: Site,
        terms: Terms,
        signatures: Sequence[bytes],
        ledgers: Mapping[str, bytes] | None = None,
        queries: Sequence[bytes] | UnsetType = UNSET,
        approvals: Mapping[str, Approved | UnsetType | None] | None = None,
        commitments: Sequence[bytes] | UnsetType = UNSET,
    ) -> "Agreement":
        """From signatures, digests of queries, and commitments, in the order of `terms.signers`."""
        known = {**site.pinned, site.party.name: site.identity.certificate}
        return cls(
            terms,
            dict(zip(terms.signers, signatures, strict=True)),
            {name: known[name].pem.decode() for name in terms.fingerprints if name in known},
            {name: seal.hex() for name, seal in (ledgers or {}).items() if seal},
            _by_signer(terms, queries),
            {name: one for name, one in (approvals or {}).items() if isinstance(one, Approved)},
            _by_signer(terms, commitments),
        )

    def statement_of(self, name: str) -> bytes:
        """What a party has signed."""
        query, commitment = (of.get(name, "") for of in (self.queries, self.commitments))
        return self.terms.statement_of(bytes.fromhex(query), bytes.fromhex(commitment))

    @property
    def told_queries(self) -> list[bytes] | UnsetType:
        """The digests of all, as messages have them."""
        return self._told(self.queries)

    @property
    def told_commitments(self) -> list[bytes] | UnsetType:
        """The same of commitments."""
        return self._told(self.commitments)

    def _told(self, of: Mapping[str, str]) -> list[bytes] | UnsetType:
        signers = self.terms.signers
        told = [bytes.fromhex(of.get(name, "")) for name in signers]
        return told if any(told) else UNSET

    def add(self, name: str, signature: bytes, commitment: bytes = b"") -> None:
        """A coordinator's signature, which has been checked, and its commitment, if it has one."""
        self.signatures[name] = signature
        if commitment:
            self.commitments[name] = commitment.hex()


async def offer_to(
    site: Site, hosts: Sequence[Peer], offer: Offer, show: Show
) -> tuple[list[Accept], Agreement]:
    """The guest's part: offer, collect what the hosts answer and sign, pass the signatures on.

    Where a person of a host decides on the job, `show` says so. Raises PeerError for a signature that
    does not hold and for a host that does not decide in time, IdentityError when a host's certificate
    was revoked, and what sessions raise.
    """
    site.check_not_revoked(offer.hosts)
    known = site.fingerprints
    named = [site.party.name, *offer.hosts, *_coordinator(offer)]
    offer = msgspec.structs.replace(offer, fingerprints={name: known[name] for name in named})
    site.activity.offered(offer.run, leads=True)
    terms = offer.terms(site.party.name)
    own_signature = site.identity.sign(_statement(terms, offer))
    offer = msgspec.structs.replace(
        offer, signature=own_signature, ledger=site.journal.ledger.newest_seal
    )
    await together([host.send(offer) for host in hosts])
    answers = await answers_of(hosts, show)
    for host, answer in zip(hosts, answers, strict=True):
        if not site.pinned[host.name].verify(answer.signature, _statement(terms, answer)):
            raise host.breach("Accept with a signature that does not hold")
        _check_seal(host, answer)
        _check_approval(site, host, terms, answer)
        check_demand(host, site.pinned[host.name], terms, answer)
        bind(host, offer)
    signatures = [own_signature, *(answer.signature for answer in answers)]
    said: list[Offer | Accept] = [offer, *answers]
    queries, commitments = [given(one.query) for one in said], [given(one.commitment) for one in said]
    seals = {host.name: answer.ledger for host, answer in zip(hosts, answers, strict=True)}
    ledgers = {site.party.name: offer.ledger, **seals}
    approvals = {host.name: answer.approved for host, answer in zip(hosts, answers, strict=True)}
    agreement = Agreement.of(site, terms, signatures, ledgers, queries, approvals, commitments)
    demands = {host.name: answer.audit for host, answer in zip(hosts, answers, strict=True)}
    agreement.audits.update({n: one for n, one in demands.items() if isinstance(one, AuditDemand)})
    agreed = Agreed(signatures, agreement.told_queries, agreement.told_commitments)
    await together([host.send(agreed) for host in hosts])
    return answers, agreement


def check_aligned(hosts: Sequence[Peer], answers: Sequence[Accept], alignment: str, rows: int) -> None:
    """Raises PeerError for a host that has another number of rows in the alignment."""
    for host, answer in zip(hosts, answers, strict=True):
        if answer.rows != rows:
            raise PeerError(
                f"{host.name} has {counted(answer.rows or 0, 'row')} in alignment {alignment}, "
                f"this party {rows:,}: align again",
                for_peer="the parties hold different alignments",
            )


def check_offer(site: Site, guest: Peer, offer: Offer) -> None:
    """Raises PeerError for an Offer that does not fit what this host knows, or is not signed; Refused
    when the guest pins another certificate of a further party."""
    name = site.party.name
    if name not in offer.hosts or len(set(offer.hosts)) < len(offer.hosts):
        raise guest.breach("an Offer that does not name this party once")
    terms = offer.terms(guest.name)
    if set(offer.fingerprints) != {*terms.signers, *_coordinator(offer)}:
        raise guest.breach("an Offer without the certificates of its parties")
    known = site.fingerprints
    if any(offer.fingerprints[one] != known[one] for one in (name, guest.name)):
        raise guest.breach("an Offer with other certificates than those of this session")
    if not site.pinned[guest.name].verify(offer.signature, _statement(terms, offer)):
        raise guest.breach("an Offer with a signature that does not hold")
    _check_seal(guest, offer)
    check_certificates(site, terms)


async def accept_offer(
    site: Site,
    guest: Peer,
    offer: Offer,
    rows: int | None = None,
    query: bytes = b"",
    approved: Approved | None = None,
    commitment: bytes = b"",
    audit: AuditDemand | None = None,
) -> Agreement:
    """A host's part, after `check_offer`: sign, and receive what all have signed.

    `rows` is the number of aligned rows, for training; `query` the digest of the query that made the
    table, `commitment` this host's, empty without one; `approved` what `approval.approve` gave; `audit`
    what this host demands. Raises PeerError for a signature that does not hold, and what sessions raise.
    """
    decided = approved is not None or offer.task == "audit"  # which asks for nothing
    if not decided and site.party.policy.approve == "person":
        raise AssertionError("a job on which nobody was asked")
    terms = offer.terms(guest.name)
    own_signature = site.identity.sign(terms.statement_of(query, commitment))
    seal = site.journal.ledger.newest_seal
    given_here = query or UNSET, approved or UNSET, commitment or UNSET, audit or UNSET
    accept = Accept(rows, own_signature, seal, *given_here)
    await guest.send(accept)
    bind(guest, offer)
    agreed = await guest.recv(Agreed)
    if len(agreed.signatures) != len(terms.signers):
        raise guest.breach("Agreed with another number of signatures than parties")
    check_queries(guest, "Agreed", terms, agreed.queries)
    check_commitments(guest, "Agreed", terms, agreed.commitments)
    ledgers = {guest.name: offer.ledger, site.party.name: seal}
    own = {site.party.name: approved}
    agreement = Agreement.of(
        site, terms, agreed.signatures, ledgers, agreed.queries, own, agreed.commitments
    )
    for name, signature, one in (
        (guest.name, offer.signature, offer),
        (site.party.name, own_signature, accept),
    ):
        found = agreement.signatures[name], agreement.queries.get(name), agreement.commitments.get(name)
        if found == (signature, given(one.query).hex() or None, given(one.commitment).hex() or None):
            continue
        raise guest.breach("Agreed with another signature than was given")
    check_signatures(site, guest, "Agreed", agreement)
    agreement.audits.update({} if audit is None else {site.party.name: audit})
    return agreement


def check_queries(peer: Peer, message: str, terms: Terms, queries: Sequence[bytes] | UnsetType) -> None:
    """Raises PeerError for another number of digests than parties, and for what is no digest."""
    if isinstance(queries, UnsetType):
        return
    if len(queries) != len(terms.signers) or any(len(query) not in (0, 32) for query in queries):
        raise peer.breach(f"{message} with digests of queries that are none")


def check_commitments(
    peer: Peer, message: str, terms: Terms, commitments: Sequence[bytes] | UnsetType
) -> None:
    """Raises PeerError for another number of commitments than parties, and for what is none."""
    if isinstance(commitments, UnsetType):
        return
    if len(commitments) != len(terms.signers) or any(len(one) not in (0, 32) for one in commitments):
        raise peer.breach(f"{message} with commitments that are none")


def given(digest: bytes | UnsetType) -> bytes:
    """The digest of a message, empty without one."""
    return b"" if isinstance(digest, UnsetType) else digest


def _statement(terms: Terms, message: Offer | Accept) -> bytes:
    """What the sender of a message has signed with it."""
    return terms.statement_of(given(message.query), given(message.commitment))


def _by_signer(terms: Terms, digests: Sequence[bytes] | UnsetType) -> dict[str, str]:
    """Digests in hex by who has one, from those of all."""
    if isinstance(digests, UnsetType):
        return {}
    return {n: one.hex() for n, one in zip(terms.signers, digests, strict=True) if one}


def _check_seal(peer: Peer, message: Offer | Accept) -> None:
    """Raises PeerError for what is no hash."""
    if len(message.ledger) not in (0, 32):
        raise peer.breach(f"{type(message).__name__} with a hash of another size")


def _check_approval(site: Site, host: Peer, terms: Terms, answer: Accept) -> None:
    """Raises PeerError for an approval that the host has not signed."""
    said = answer.approved
    if not isinstance(said, Approved):
        return
    if not site.pinned[host.name].verify(said.signature, approval_statement(terms, said.decided)):
        raise host.breach("Accept with a signature of an approval that does not hold")


def check_certificates(site: Site, terms: Terms) -> None:
    """Raises Refused when the parties know one of them by another certificate than this party does,
    IdentityError when one of the certificates was revoked here."""
    site.check_not_revoked(terms.fingerprints)
    for party, fingerprint in site.fingerprints.items():
        if terms.fingerprints.get(party, fingerprint) != fingerprint:
            raise Refused(
                f"{terms.guest} and {site.party.name} have pinned different certificates of {party}: "
                "compare fingerprints by phone; after a rotation who is behind runs `vfl keys accept` "
                "and starts `vfl serve` again"
            )


def check_signatures(site: Site, peer: Peer, message: str, agreement: Agreement) -> None:
    """Raises PeerError, naming the peer's message, when a signature of a pinned party does not hold."""
    for name, signature in agreement.signatures.items():
        try:
            site.verify(name, signature, agreement.statement_of(name))
        except ValueError:
            raise peer.breach(f"{message} with a signature of {name} that does not hold") from None


def verify_signatures(
    agreement: Agreement, job: Mapping[str, object], party: Party, what: str
) -> dict[str, str]:
    """What is known of each party's signature, in words, now and without any other party.

    `job` is the job as the record has it. Raises ModelError when it is not the job that was signed, or
    a signature does not hold.
    """
    terms = agreement.terms
    if hashlib.sha256(canonical_json(job)).digest() != terms.job:
        raise ModelError(f"the job in {what} is not the one that was signed")
    words = {}
    for name, fingerprint in terms.fingerprints.items():
        if (pem := agreement.certificates.get(name)) is None:
            words[name] = "not checked: this party had no certificate of it"
            continue
        try:
            certificate = parse_certificate(pem.encode(), Path(what))
        except IdentityError:
            raise ModelError(f"{what} is damaged: the certificate of {name} is none") from None
        signature = agreement.signatures.get(name, b"")
        if certificate.fingerprint != fingerprint or not certificate.verify(
            signature, agreement.statement_of(name)
        ):
            raise ModelError(f"{what} is damaged or forged: the signature of {name} does not hold")
        pinned = fingerprint in _fingerprints(party, name)
        words[name] = "signed" if pinned else "signed, with a certificate that is not pinned here now"
        if (said := agreement.approvals.get(name)) is not None:
            if not certificate.verify(said.signature, approval_statement(terms, said.decided)):
                raise ModelError(f"{what} is damaged or forged: the approval of {name} does not hold")
            words[name] += f"; a person there approved it on {said.decided}"
        if (asked := agreement.audits.get(name)) is not None:
            if not certificate.verify(asked.signature, demand_statement(terms, asked)):
                raise ModelError(f"{what} is damaged or forged: the audit of {name} does not hold")
            words[name] += f"; audits a share of {asked.probability:g} of it"
            if asked.auditor:
                words[name] += f", signed by the auditor with the fingerprint {asked.auditor}"
        if name in agreement.commitments:
            words[name] += "; committed to its secret, table and settings"
    return words


def _coordinator(offer: Offer) -> list[str]:
    """The name of the job's coordinator, if it has one."""
    if offer.task != "train":
        return []
    name = kind_of_job(Job.from_canonical(offer.job)).coordinator
    return [] if name is None else [name]


def _fingerprints(party: Party, name: str) -> frozenset[str]:
    """The fingerprints of a party's certificate, as its file is now and before its key was rotated."""
    own_path = paths(party.party.identity)[1]
    peer = party.peers.get(name)
    path = own_path if name == party.name else peer.certificate if peer is not None else None
    try:
        certificate = None if path is None else load_certificate(path)
    except IdentityError:
        return frozenset()
    if path is None or certificate is None:
        return frozenset()
    return formerly(certificate, path) | {certificate.fingerprint}
