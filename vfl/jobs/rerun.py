"""A run that is over, to be played again by one of its parties from what it keeps (evidence.py).

Opening one holds what is kept against what was signed and against the party's ledger; players
(replay_training.py, for one) play the party's role in it. Nothing of a replay is written into the store,
counted, sent or put into the ledger.
"""

import hashlib
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from pydantic import ValidationError

from vfl.crypto.randomness import Randomness
from vfl.errors import DataError, IdentityError, ModelError, VflError
from vfl.jobs.agreement import Agreement
from vfl.jobs.alignments import Alignment
from vfl.jobs.commitments import COMMITTED, Opening, digest_of_model, with_settings
from vfl.jobs.connect import Site
from vfl.jobs.evidence import (
    ALIGNMENT,
    HALF,
    OWN,
    Evidence,
    Replayed,
    Taken,
    file_of_kept,
    find_evidence,
    run_of,
    tape_file,
)
from vfl.jobs.offer import Offer
from vfl.jobs.record import noted_seals
from vfl.jobs.show import Show
from vfl.jobs.tape_share import (
    SENT,
    KeptSteps,
    OverTrainings,
    StepsOnTape,
    places_left_out,
    stand_in,
    steps_on_tape,
)
from vfl.net.hello import PROTOCOL
from vfl.net.replay import BrokenOff, ReplayedPeer, Sent
from vfl.party.audit.conversations import STOP, Conversation, RunLines, lines_of_run
from vfl.party.audit.verify import verify
from vfl.party.config import Job
from vfl.party.identity import Certificate, parse_certificate
from vfl.party.ledger import FOLDER, kept_beside
from vfl.party.store import Store
from vfl.party.tapes import read_tape
from vfl.protocols.common.checkpoints import State
from vfl.protocols.common.clock import STEP
from vfl.protocols.common.participant import LooksAt, Participant, every_step
from vfl.protocols.trees.paillier_messages import LEFT_OUT
from vfl.text import counted

T = TypeVar("T")
_LONGEST = 7 * 86400  # seconds that a party tells of one piece of work


class EvidenceDiffers(VflError):
    """What a party keeps of a run is not what it was in the run."""

    def __init__(self, what: str) -> None:
        super().__init__(what, for_peer="the evidence of a run differs")


@dataclass
class Rerun:
    """A run as one of its parties plays it again."""

    site: Site  # with the settings of the run
    evidence: Evidence
    opening: Opening
    talks: Mapping[str, Conversation]  # by peer
    peers: dict[str, ReplayedPeer]
    answers: Replayed
    show: Show
    looks_at: LooksAt = every_step
    on_tape: StepsOnTape | None = None  # of which steps a host has kept all; None: of all
    last: State | None = None  # the state that an attempt before this has kept, from which it went on
    before: Sequence[str] = ()  # the attempts that have led to it, in hex
    earlier: Sequence[State] = ()  # all that the attempts before it have kept, by age
    states: list[State] = field(default_factory=list)  # that this one keeps
    lines: RunLines = field(default_factory=RunLines)  # what the ledger has of it
    checked: list[str] = field(default_factory=lambda: ["secret", "settings"])
    """What was held against the commitments."""
    numbers: "Numbers" = field(default_factory=lambda: Numbers())
    """Of the messages on the tapes."""
    relies: list[str] = field(default_factory=list)
    """On what the outcome relies that neither the party has committed to nor this replay shows."""

    def __post_init__(self) -> None:
        self.randomness = Randomness(self.opening.secret)

    def participant(self, host: Participant, looks_at: LooksAt | None = None) -> Participant:
        """A host as it plays a training again. `looks_at`: of one of several (over_trainings)."""
        kept = every_step if self.on_tape is None else self.on_tape.keeps
        return host.asking(self.sign, self.say).uncounted.looking_at(looks_at or kept)

    @property
    def over_trainings(self) -> LooksAt:
        """Which steps a host can look at of one training of the run after the other."""
        return every_step if self.on_tape is None else OverTrainings(self.on_tape)

    @property
    def offer(self) -> Offer:
        """What was agreed to, as the roles have it."""
        terms = self.evidence.agreement.terms
        return Offer(
            terms.task,
            terms.run,
            terms.hosts,
            terms.normalise,
            terms.alignment,
            terms.model,
            self.evidence.job.encode(),
            terms.training,
            terms.done,
            terms.matching,
            terms.fingerprints,
        )

    @property
    def job(self) -> Job:
        """The job file. Raises ConfigError."""
        return Job.from_canonical(self.evidence.job.encode())

    def asked(self, kind: type[T]) -> T:
        """What a person has asked for beside the party file and the job. Raises ModelError."""
        try:
            return msgspec.convert(self.opening.settings.get("asked"), kind)
        except msgspec.ValidationError:
            raise ModelError(
                f"what was asked for in run {self.evidence.run[:12]} is of vfl {self.evidence.version}: "
                "replay it with that version"
            ) from None

    @property
    def hosts(self) -> list[ReplayedPeer]:
        """The peers of a guest that are hosts, in the order of the run."""
        return [self.peers[name] for name in self.evidence.agreement.terms.hosts if name in self.peers]

    def check_table(self, digests: Mapping[str, str], table: str) -> None:
        """Raises EvidenceDiffers unless these are the digests that the party has committed to."""
        before = self.opening.table
        self.checked.append("table")
        for part in dict.fromkeys([*before, *digests]):
            if before.get(part) != digests.get(part):
                why = "is another" if part in before and part in digests else "is there in one alone"
                raise EvidenceDiffers(
                    f"{table} is not the table that the party committed to: its {part} {why}"
                )

    def say(self, peer: str, seconds: float) -> float:
        """What the run has told a peer of the time that something took, in whole steps.

        Raises EvidenceDiffers for what no program tells: a number has room for much else.
        """
        told = self.answers.ask(f"seconds told to {peer}", float, lambda: seconds)
        if not 0 <= told <= _LONGEST or told % STEP:
            raise EvidenceDiffers(f"the run has told {peer} a time that the program does not tell")
        return told

    def sign(self, data: bytes) -> bytes:
        """What was signed in the run, which has to be a signature of this very data."""
        signature = self.answers.ask("signature", bytes, lambda: b"")
        certificate = own_certificate(self.evidence)
        if not certificate.verify(signature, data):
            raise EvidenceDiffers("a signature that the run has made is of something else")
        identity = self.site.identity
        if identity.certificate.fingerprint != certificate.fingerprint:
            self.relies.append(
                "on a signature under a key that was rotated: it holds, among others that would"
            )
        elif identity.sign(data) != signature:
            raise EvidenceDiffers(
                "a signature that the run has made is not the one that the program makes"
            )
        return signature

    def takes_half(self, name: str, model: object) -> None:
        """Note that the run goes on from the party's half of a model."""
        made = run_of(self.site.store, "train", name)
        self.answers.takes(HALF, made, digest_of_model(model))

    def takes_alignment(self, alignment: Alignment) -> None:
        """Note that the run is about the rows of an alignment."""
        made = run_of(self.site.store, "align", alignment.name)
        self.answers.takes(ALIGNMENT, made, alignment.digest)

    def leaves_alignment(self, alignment: Alignment) -> None:
        """Note that the run has left an alignment."""
        self.answers.leaves(ALIGNMENT, alignment.digest)

    def handed_on(self) -> tuple[dict[str, str], list[Taken]]:
        """What the run has left, and what it went on with that earlier ones have left, as certificates
        have it; of what nothing is kept `relies` says so."""
        left = {what: self.opening.handed_on(what, digest) for what, digest in self.answers.left.items()}
        taken = []
        for what, run, digest in sorted(set(self.answers.taken)):  # in any order with several peers
            opening = _opening_of(self.site.store, run)
            if opening is None:
                text = f"on the {what} that an earlier run has left, of which no tape is kept here"
                self.relies.append(text)
            else:
                taken.append(Taken(what, run, opening.handed_on(what, digest)))
        return left, taken

    def keep(self, state: State) -> None:
        """Keep a state, in the place of the job's checkpoint: the last three alone."""
        self.states = [*(one for one in self.states if one.done != state.done), state][-3:]

    @property
    def steps(self) -> KeptSteps | None:
        """Which of the steps that were played are on the tape; None: all that there is."""
        if self.on_tape is None:
            return None
        guest = self.evidence.agreement.terms.guest
        played = self.talks[guest].received[: self.peers[guest].played]
        _, steps = places_left_out(self.on_tape.keeps, (one.kind for one in played))
        return self.on_tape.of(steps)

    def check_end(self) -> None:
        """Unless the run was cut: raises MessageDiffers where it has sent more than the replay,
        EvidenceDiffers where the rest of a tape is not what arrived."""
        if self.evidence.whole:
            for peer in self.peers.values():
                peer.check_end()
            if self.evidence.tape is not None and not self.evidence.tape.why_ended:
                self.numbers.check()


class Numbers:
    """The numbers on a run's tapes: all that arrived and all that the store answered is counted, and no
    number comes twice."""

    def __init__(self) -> None:
        self._what: dict[int, tuple[str, int]] = {}

    def see(self, number: int, tape: str, place: int) -> None:
        """The number of an entry of a tape, which are counted from 1. Raises EvidenceDiffers."""
        before = self._what.setdefault(number, (tape, place))
        if before != (tape, place):
            ends = " and ".join(map(_entry, (before, (tape, place))))
            raise EvidenceDiffers(f"{ends} have one number: a tape is not what was written")

    def check(self) -> None:
        """Raises EvidenceDiffers where some of them are not there."""
        for number, entry in self._what.items():
            if not 1 <= number <= len(self._what):
                raise EvidenceDiffers(
                    f"{_entry(entry)} has a number that none can have: its tape is damaged"
                )


def _entry(of: tuple[str, int]) -> str:
    tape, place = of
    return (
        f"answer {place:,} of the store" if tape == OWN else f"message {place:,} of {tape} on the tape"
    )


def open_rerun(site: Site, evidence: Evidence, show: Show, looks_at: LooksAt = every_step) -> Rerun:
    """A run to be played again, of which only some trees need be encrypted, if `looks_at` says so.

    Raises ModelError for one that cannot be, EvidenceDiffers where what is kept is not what was signed
    or what the ledger says.
    """
    store, run = site.store, evidence.run
    opening = _check_kept(evidence)
    check_ledger(site, "the ledger")
    lines = lines_of_run(store.root / FOLDER, run)
    talks = lines.talks
    if not talks:
        raise EvidenceDiffers(f"the ledger has nothing of run {run[:12]}")
    assert evidence.tape is not None  # noqa: S101 - _check_kept has seen it
    on_tape = steps_on_tape(evidence.agreement.terms, evidence.party, opening)
    left_out = () if looks_at is every_step else (LEFT_OUT,)
    numbers, cut = Numbers(), None if evidence.whole else _broken_off(evidence)
    peers = {
        name: ReplayedPeer(
            name,
            _received(store, evidence, talk, missing_of(on_tape, evidence, talk), numbers),
            [one for one in talk.sent if one.kind != STOP],
            cut=cut,
            left_out=left_out if on_tape is None else SENT,
        )
        for name, talk in talks.items()
    }
    own = _tape(store, evidence, OWN, numbers) if OWN in _there(store, evidence) else iter(())
    try:
        party = with_settings(site.party, opening.settings)
    except (ValidationError, KeyError, TypeError):
        raise ModelError(
            f"the settings of run {run[:12]} are of vfl {evidence.version}, and this version does not "
            "know all of them: replay it with that one"
        ) from None
    settled = replace(site, party=party)
    answers = Replayed(own, evidence.tape.answers, partial(_kept, store, evidence))
    _check_answers(evidence, opening, answers.digests, lines)
    given = settled, evidence, opening, talks, peers, answers, show
    rerun = Rerun(*given, looks_at=looks_at, on_tape=on_tape, numbers=numbers)
    rerun.lines = lines
    if len(answers.digests) > 1 and not lines.answers:
        rerun.relies.append("on what its store has answered, of which its ledger has nothing")
    return rerun


def _opening_of(store: Store, run: str) -> Opening | None:
    """What a run of this party has committed to, where that is kept."""
    found = [one.opening for one in find_evidence(store) if run and one.run == run]
    return found[0] if found else None


def _kept(store: Store, evidence: Evidence, digest: bytes) -> bytes:
    """What an earlier run has left, by its digest. Raises ModelError and EvidenceDiffers."""
    path = file_of_kept(store, evidence.run, digest)
    if not path.exists():
        raise ModelError(
            f"what an earlier run has left for run {evidence.run[:12]} is not there ({path}): it cannot "
            "be replayed"
        )
    content = b"".join(piece or b"" for _, piece in _entries(store, evidence, path, path.name))
    if hashlib.sha256(content).digest() != digest:
        raise EvidenceDiffers(f"what an earlier run has left is damaged: {path} is not what was written")
    return content


def _check_answers(
    evidence: Evidence, opening: Opening, digests: Sequence[bytes], lines: RunLines
) -> None:
    """Raises EvidenceDiffers where the answers are not those that the ledger has digests of. `digests`:
    of the first none, one, two ... of the answers that are kept."""
    cut = not evidence.ended or bool(evidence.tape and evidence.tape.why_ended)
    for line in lines.answers:
        if line.answers >= len(digests) and cut:
            return
        if line.answers >= len(digests) or opening.noted(digests[line.answers]) != line.sha256:
            raise EvidenceDiffers(
                "what the run has asked of the store is not what its ledger has a digest of in line "
                f"{line.n:,}"
            )
    if lines.answers and lines.answers[-1].answers < len(digests) - 1 and not cut:
        raise EvidenceDiffers("the run has asked more of the store than its ledger has a digest of")


def own_certificate(evidence: Evidence) -> Certificate:
    """The party's certificate at the time of the run. Raises EvidenceDiffers."""
    return certificate_of(evidence.agreement, evidence.party)


def certificate_of(agreement: Agreement, name: str) -> Certificate:
    """A party's certificate at the time of a run. Raises EvidenceDiffers."""
    pem = agreement.certificates.get(name, "")
    try:
        certificate = parse_certificate(pem.encode(), Path("an agreement"))
    except IdentityError:
        raise EvidenceDiffers(f"the agreement of the run has no certificate of {name}") from None
    if certificate.fingerprint != agreement.terms.fingerprints.get(name):
        raise EvidenceDiffers(f"the agreement of the run has another certificate of {name}")
    return certificate


def check_signature(agreement: Agreement, name: str) -> None:
    """Raises EvidenceDiffers unless a party has signed the agreement of a run, with its commitment."""
    certificate = certificate_of(agreement, name)
    try:
        held = certificate.verify(agreement.signatures.get(name, b""), agreement.statement_of(name))
    except (InvalidSignature, ValueError):
        held = False
    if not held:
        raise EvidenceDiffers(f"the signature of {name} under the agreement of the run does not hold")


def _check_kept(evidence: Evidence) -> Opening:
    """What the party has committed to, if it is what it has signed."""
    run = f"run {evidence.run[:12]}"
    if evidence.forgotten:
        removed = f"the secret of {run} was removed on {evidence.forgotten}"
        raise ModelError(f"{removed}: it cannot be replayed")
    if evidence.opening is None or evidence.tape is None or evidence.commitments is None:
        later = '[party] tape = "all" keeps those of later runs'
        raise ModelError(f"no tape of {run} was kept here ({later})")
    if evidence.protocol != PROTOCOL:
        raise ModelError(
            f"{run} is of vfl {evidence.version}, which speaks protocol {evidence.protocol}, where this "
            f"one speaks {PROTOCOL}: replay it with that version, in a copy of this party's folder from "
            "before the upgrade (an older version may not read this ledger)"
        )
    check_signature(evidence.agreement, evidence.party)
    if hashlib.sha256(evidence.job.encode()).digest() != evidence.agreement.terms.job:
        raise EvidenceDiffers(f"the job of {run} is not the one that was signed")
    if set(evidence.opening.salts) != set(COMMITTED):
        raise EvidenceDiffers(f"the salts that {run} keeps are not those of three commitments")
    signed = evidence.agreement.commitments.get(evidence.party)
    if evidence.commitments.digest.hex() != signed:
        raise EvidenceDiffers(f"the commitments that are kept of {run} are not those that were signed")
    opened = evidence.opening.commitments
    for what in COMMITTED:
        if getattr(opened, what) != getattr(evidence.commitments, what):
            kept = {"table": "digests of the table"}.get(what, what)
            raise EvidenceDiffers(f"the {kept} that {run} keeps is not what the party committed to")
    settings = evidence.opening.settings
    if (settings.get("version"), settings.get("protocol")) != (evidence.version, evidence.protocol):
        raise EvidenceDiffers(f"{run} is said to be of another version than the party committed to")
    return evidence.opening


def check_ledger(site: Site, named: str) -> None:
    """Raises EvidenceDiffers for a ledger of this party's that was changed, also by who has its key and
    wrote it anew: its newest seal lies beside the key, others have come with runs."""
    party, ledger = site.party, site.store.root / FOLDER
    found = verify(
        ledger,
        site.identity.certificate,
        earlier=site.formerly.get(party.name, frozenset()),
        kept=kept_beside(party.party.identity.parent, party.name, ledger),
        noted=noted_seals(site.store, party.name),
    )
    if found.damage:
        raise EvidenceDiffers(f"{named} is not whole: {found.damage[0]} (see `vfl ledger verify`)")


def _broken_off(evidence: Evidence) -> BrokenOff:
    """Of a run of which all that arrived is on the tapes all that left can be played again."""
    complete = evidence.ended and evidence.tape is not None and not evidence.tape.why_ended
    return BrokenOff() if complete else BrokenOff(still=0)


def _there(store: Store, evidence: Evidence) -> Sequence[str]:
    names = [OWN, *evidence.agreement.terms.fingerprints]
    return [name for name in names if tape_file(store, evidence.run, name).exists()]


def missing_of(kept: StepsOnTape | None, evidence: Evidence, talk: Conversation) -> set[int]:
    """Which messages of a peer are not on the tape, as the party has committed to, by place."""
    if kept is None or talk.peer != evidence.agreement.terms.guest:
        return set()
    return places_left_out(kept.keeps, (one.kind for one in talk.received))[0]


def _received(
    store: Store,
    evidence: Evidence,
    talk: Conversation,
    missing: Container[int],
    numbers: Numbers,
) -> Iterator[bytes]:
    """What came from a peer, each message held against the ledger. `missing`: those that a share leaves
    out, by place: others stand for them."""
    if talk.peer not in _there(store, evidence):
        if talk.received and evidence.tape is not None and not evidence.tape.why_ended:
            raise EvidenceDiffers(f"the tape of {talk.peer} is not there")
        return
    count = 0
    for count, (_, payload) in enumerate(_tape(store, evidence, talk.peer, numbers), 1):
        was = talk.received[count - 1] if count <= len(talk.received) else None
        if was is not None and count - 1 in missing:
            yield stand_in(was.kind)
            continue
        if payload is None:
            raise EvidenceDiffers(
                f"message {count:,} of {talk.peer} is not on the tape, and the party has committed to "
                "keep it"
            )
        if was is None or was != Sent.of(was.kind, payload):
            raise EvidenceDiffers(
                f"message {count:,} of {talk.peer} on the tape is not the one that arrived by the ledger"
                + ("" if was is None else f", {was} (line {talk.lines[count - 1]:,})")
            )
        yield payload
    ended = evidence.tape is not None and evidence.tape.why_ended
    if count < len(talk.received) and evidence.whole and not ended:
        arrived = counted(len(talk.received), "message")
        raise EvidenceDiffers(f"the tape of {talk.peer} has {count:,} of {arrived} that arrived")


def _tape(
    store: Store, evidence: Evidence, peer: str, numbers: Numbers
) -> Iterator[tuple[int, bytes | None]]:
    what = "what the run asked of the store" if peer == OWN else f"the tape of {peer}"
    entries = _entries(store, evidence, tape_file(store, evidence.run, peer), what)
    for place, (number, payload) in enumerate(entries, 1):
        numbers.see(number, peer, place)
        yield number, payload


def _entries(
    store: Store, evidence: Evidence, path: Path, what: str
) -> Iterator[tuple[int, bytes | None]]:
    """The entries of a file. Raises EvidenceDiffers for a damaged one."""
    try:
        with store.open("evidence", path) as source:
            yield from read_tape(source)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except ModelError:
        if evidence.ended:
            raise EvidenceDiffers(f"{what} is damaged: {path} is not what was written") from None
        # A process that was killed has not finished its last block.
