"""Certificates of replays: what an auditor, or the party itself, signs, and a peer checks.

    signature over "vfl replay certificate\\0" || SHA-256(canonical JSON of the certificate)

A certificate is for one peer: it has the digests of what went to that peer, in order, and none of what
went to others, whose short messages could be guessed by their digests.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from msgspec import UNSET, UnsetType

from vfl.errors import ModelError
from vfl.jobs.agreement import Agreement
from vfl.jobs.arithmetic import Arithmetic
from vfl.jobs.commitments import Commitments
from vfl.jobs.connect import Site
from vfl.jobs.evidence import Evidence, Taken, find_evidence
from vfl.jobs.record import now
from vfl.jobs.rerun import EvidenceDiffers, check_ledger, check_signature
from vfl.jobs.signed_form import SignedForm
from vfl.jobs.tape_share import KeptSteps, kept_but_missing, places_left_out
from vfl.net.replay import Sent
from vfl.party.audit.conversations import conversations
from vfl.party.documents import parse_document
from vfl.party.files import reason
from vfl.party.identity import Certificate, Identity
from vfl.party.ledger import FOLDER
from vfl.text import counted


class Covered(msgspec.Struct, frozen=True, array_like=True):
    """A message that the program sends, too, or one that the replay did not look at."""

    type: str
    bytes: int
    digest: str  # as in the ledger; empty: of one that was not looked at

    @classmethod
    def of(cls, message: Sent) -> "Covered":
        return cls(message.kind, message.size, message.digest.hex())

    @classmethod
    def left_out(cls, message: Sent) -> "Covered":
        """Of one that the replay did not look at."""
        return cls(message.kind, message.size, "")


class NotedAnswers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a party's ledger has of what its own store has answered to a run."""

    answers: int
    sha256: str  # salted, of the newest line about them
    sealed: str = ""
    """The hash of a seal over that line that the party has told this peer in a later run, in hex."""


class ReplayCertificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """That a party's part of a run was replayed, for one of its peers."""

    run: str  # in hex
    task: str
    party: str
    peer: str
    made: str  # ISO 8601, UTC
    version: str  # of vfl in the run
    protocol: int
    statement: str  # what the party has signed before the run, in hex; it holds the commitment
    commitments: Commitments
    checked: list[str]
    """What the replay has held against the commitments."""
    went_on_after: int  # steps of an earlier attempt
    went_on_from: list[str]  # these attempts, in hex, the newest last
    replay: str
    """A salted digest of the messages with all peers, in hex: the same in the certificates for all of
    them, unless the party has shown one auditor other messages of a peer than another."""
    received: list[Covered]  # from the peer after the agreement, which the replay was played against
    messages: list[Covered]  # to the peer after the agreement
    of: int  # how many there were by the party's ledger
    relies: list[str]
    auditor: str  # PEM of whose key signs
    arithmetic: Arithmetic | None = None  # in which the run was computed, by what the party has kept
    steps: KeptSteps | UnsetType = UNSET
    """For the guest, at a host that keeps a share of trees on tape: of which ones sums were looked
    at."""
    answers: NotedAnswers | None = None  # None: of a run without any, or of an earlier version
    left: dict[str, str] = {}
    """What the run has left to later ones, a salted digest of each in hex: it follows from the run."""
    took: list[Taken] = []
    """What it went on with that earlier runs have left: their certificates have the same digests."""


_FORM = SignedForm("vfl/replay-certificate", 1, ReplayCertificate, "replay")


@dataclass(frozen=True)
class Checked:
    """What a peer found of a certificate that holds."""

    certificate: ReplayCertificate
    signed_by: str  # in words
    received: int  # messages that came from the party in the run after the agreement
    uncovered: list[tuple[int, str]] = field(default_factory=list)  # number and type
    on_the_way: int = 0  # covered ones at the end that have not arrived
    answers_sealed: bool = True
    """Whether this party was told, in a later run, a seal of the other's ledger that is over what its
    store has answered to the run, if it has answered anything."""

    @property
    def complete(self) -> bool:
        """Whether all that was received is covered."""
        return not self.uncovered

    @property
    def steps(self) -> KeptSteps | None:
        """Of which trees a replay has looked at sums, where not of all."""
        steps = self.certificate.steps
        return None if isinstance(steps, UnsetType) else steps

    @property
    def uncovered_by_type(self) -> dict[str, int]:
        return dict(Counter(kind for _, kind in self.uncovered))


@dataclass(frozen=True)
class Replayed:
    """What a replay has shown of the messages to one peer."""

    peer: str
    messages: Sequence[Covered]
    of: int  # how many there were
    checked: Sequence[str]  # against the commitments
    relies: Sequence[str]
    received: Sequence[Covered]  # from the peer, against which it was played
    before: Sequence[str]  # the attempts that the run went on from, in hex
    replay: str  # a digest of the messages with all peers, in hex
    steps: KeptSteps | None = None  # on tape, where that is a share
    answers: NotedAnswers | None = None
    left: Mapping[str, str] = field(default_factory=dict)  # as certificates have it
    took: Sequence[Taken] = ()

    @property
    def compared(self) -> int:
        """Messages that were looked at, and are the program's."""
        return sum(bool(one.digest) for one in self.messages)


def make_certificate(evidence: Evidence, shown: Replayed, by: Identity) -> bytes:
    """The content of a certificate's file, signed by an identity."""
    if evidence.commitments is None:
        raise ValueError("a certificate of a run without commitments")
    terms = evidence.agreement.terms
    made = ReplayCertificate(
        evidence.run,
        terms.task,
        evidence.party,
        shown.peer,
        now(),
        evidence.version,
        evidence.protocol,
        evidence.agreement.statement_of(evidence.party).hex(),
        evidence.commitments,
        list(shown.checked),
        terms.done,
        list(shown.before),
        shown.replay,
        list(shown.received),
        list(shown.messages),
        shown.of,
        list(shown.relies),
        by.certificate.pem.decode(),
        evidence.arithmetic,
        UNSET if shown.steps is None else shown.steps,
        shown.answers,
        dict(shown.left),
        list(shown.took),
    )
    return _FORM.write(made, by)


def read_certificate(path: Path) -> tuple[ReplayCertificate, Certificate]:
    """A certificate, and whose signature it has. Raises ModelError for what is none, EvidenceDiffers for
    a signature that does not hold."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"no file {path}") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {reason(error)}") from None
    return parse_certificate_of_replay(content, path)


def parse_certificate_of_replay(content: bytes, path: Path) -> tuple[ReplayCertificate, Certificate]:
    """The same of what a file of this name holds."""
    try:
        read = parse_document(content, path)
    except ModelError:
        if _FORM.name.encode() in content[:100]:
            raise
        read = None
    return _FORM.parse(read, path)


def check_certificate(site: Site, path: Path, auditor: Certificate | None = None) -> Checked:
    """Hold a peer's certificate against this party's agreement and ledger.

    `auditor`: whose signature it must have; without, that of the party it is about. Raises ModelError
    for what is no certificate or of a run that this party does not know, EvidenceDiffers where it does
    not hold.
    """
    return check_read(site, read_certificate(path), path, auditor)


def check_read(
    site: Site,
    read: tuple[ReplayCertificate, Certificate],
    path: Path,
    auditor: Certificate | None = None,
) -> Checked:
    """The same of a certificate that was read, from a file of this name."""
    made, signer = read
    signed_by = _check_signer(site, made, signer, auditor)
    if made.peer != site.party.name:
        own = site.party.name
        raise ModelError(f"{path} is for {made.peer}: ask {made.party} for the one for {own}")
    known = find_evidence(site.store)
    kept = [one for one in known if one.run == made.run]
    if not kept:
        there = site.store.root
        raise ModelError(f"nothing is kept in {there} of run {made.run[:12]}, which {path} is about")
    _check_agreement(kept[0].agreement, made)
    check_ledger(site, "this party's own ledger")
    ledger = site.store.root / FOLDER
    _check_attempts(known, made)
    sealed = _check_answers(known, made)
    talk = conversations(ledger, made.run).get(made.party)
    _check_played([] if talk is None else talk.sent, made, site.party.name)
    received = [] if talk is None else talk.received
    uncovered = []
    for number, (mine, theirs) in enumerate(zip(received, made.messages, strict=False), 1):
        if theirs == Covered.left_out(mine):
            uncovered.append((number, mine.kind))
        elif Covered.of(mine) != theirs:
            raise EvidenceDiffers(
                f"message {number:,} of {made.party} in the run is not the one of the replay: it was "
                f"{mine}, and the certificate has {_in_words(theirs, mine)}"
            )
    if not isinstance(made.steps, UnsetType):
        lacks = [(one.type, not one.digest) for one in made.messages]
        if (tree := kept_but_missing(made.steps, lacks)) is not None:
            raise EvidenceDiffers(
                f"the certificate names tree {tree + 1:,} of the run as replayed, and does not cover it"
            )
    rest = received[len(made.messages) :]
    uncovered += [(number, one.kind) for number, one in enumerate(rest, len(made.messages) + 1)]
    on_the_way = max(0, len(made.messages) - len(received))
    return Checked(made, signed_by, len(received), uncovered, on_the_way, sealed)


def _check_signer(
    site: Site, made: ReplayCertificate, signer: Certificate, auditor: Certificate | None
) -> str:
    if auditor is not None:
        if signer.fingerprint != auditor.fingerprint:
            named = auditor.name
            raise EvidenceDiffers(
                f"the certificate is signed by {signer.name}, and {named} was named"
                if signer.name != named
                else f"the certificate is signed by another {named} than was named, one whose own "
                f"certificate has the fingerprint {signer.fingerprint}"
            )
        return f"the auditor {signer.name}"
    if made.party not in site.pinned:
        raise ModelError(f"{made.party}, whom the certificate is about, is no peer of this party")
    if not site.same_party(made.party, signer.fingerprint):
        raise EvidenceDiffers(
            f"the certificate is not signed by {made.party} but by {signer.name}: name the auditor's "
            "own certificate by --auditor"
        )
    return f"{made.party} itself"


def _check_agreement(agreement: Agreement, made: ReplayCertificate) -> None:
    """Raises EvidenceDiffers unless the party has signed these commitments for this run."""
    check_signature(agreement, made.party)
    signed = agreement.commitments.get(made.party)
    if signed is None:
        raise EvidenceDiffers(f"{made.party} has committed to nothing for this run")
    if made.commitments.digest.hex() != signed:
        raise EvidenceDiffers(f"the certificate is about other commitments than {made.party} has signed")
    if made.statement != agreement.statement_of(made.party).hex():
        raise EvidenceDiffers(f"the certificate is about another agreement than {made.party} has signed")


def _check_answers(known: Sequence[Evidence], made: ReplayCertificate) -> bool:
    """Whether this party was told the seal that the party names over its answers. Raises EvidenceDiffers
    where it names one that it has not told here after the run."""
    if made.answers is None:
        return True
    if not made.answers.sealed:
        return False
    begun = next(one.begun for one in known if one.run == made.run)
    told = {one.agreement.ledgers.get(made.party) for one in known if one.begun > begun}
    if made.answers.sealed not in told:
        raise EvidenceDiffers(
            f"the certificate names a seal of {made.party}'s ledger that this party was not told in any "
            "run after this one"
        )
    return True


def _check_attempts(known: Sequence[Evidence], made: ReplayCertificate) -> None:
    """Raises EvidenceDiffers unless the attempts that the run went on from are attempts at it that this
    party knows, too: a party could make up others."""
    kept = {one.run: one for one in known}
    here = kept[made.run].agreement.terms
    of_columns = here.task == "train" and here.alignment is not None and made.party in here.signers
    if of_columns and made.went_on_after and not made.went_on_from:
        raise EvidenceDiffers("the certificate does not name the attempt that its run went on from")
    for run in made.went_on_from:
        one = kept.get(run)
        if one is None or (one.agreement.terms.model, one.agreement.terms.task) != (
            here.model,
            here.task,
        ):
            raise EvidenceDiffers(
                f"the run goes on from attempt {run[:12]}, which is none that this party had a part in"
            )


def _check_played(sent: Sequence[Sent], made: ReplayCertificate, own: str) -> None:
    """Raises EvidenceDiffers unless the replay was played against what this party has sent: what its
    ledger has of a peer's messages, a party writes itself."""
    missing = set[int]()
    if not isinstance(made.steps, UnsetType):
        kept, types = frozenset(made.steps.kept), [one.type for one in made.received]
        missing, steps = places_left_out(kept.__contains__, types)
        if steps != made.steps.steps:
            raise EvidenceDiffers("the certificate names another number of trees than the run had")
    for number, played in enumerate(made.received, 1):
        mine = sent[number - 1] if number <= len(sent) else None
        if mine is not None and number - 1 in missing and played == Covered.left_out(mine):
            continue
        if mine is None or Covered.of(mine) != played:
            was = "there was none" if mine is None else f"it was {mine}"
            raise EvidenceDiffers(
                f"message {number:,} of {own}, against which {made.party} was replayed, is not the one "
                f"that left here: {was}, and the replay had {_in_words(played, mine)}"
            )


def _in_words(covered: Covered, mine: Sent | None) -> str:
    """A message of a certificate, in place of which there is another one here."""
    if mine is not None and (covered.type, covered.bytes) == (mine.kind, mine.size):
        return "one of as many bytes and other content"
    return f"{covered.type} of {counted(covered.bytes, 'byte')}"
