"""Certificates of several parties of a run, held together: whether they show all of it.

What A's certificate for B says that A has sent has to be what B's certificate for A says that it was
played against, and the other way round; all certificates of A have the same digest of its replay; all
are about the agreement that this party has signed, too. Those that are for this party are held against
its ledger besides. What one run went on with that another has left has the same digest in both.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vfl.errors import ModelError
from vfl.jobs.agreement import Agreement
from vfl.jobs.certificate import Checked, Covered, ReplayCertificate, check_read, read_certificate
from vfl.jobs.connect import Site
from vfl.jobs.evidence import Evidence, Taken, find_evidence
from vfl.jobs.offer import Terms
from vfl.jobs.rerun import EvidenceDiffers, check_signature
from vfl.party.audit.conversations import STOP
from vfl.party.identity import Certificate
from vfl.text import counted

_DIGITS = 12  # of a run that are shown


@dataclass(frozen=True)
class Uncovered:
    """What no certificate shows of the messages from one party of a run to another."""

    sender: str
    receiver: str
    number: int = 0  # of the message; 0: of none is there a certificate
    type: str = ""  # empty where no certificate says it


@dataclass(frozen=True)
class Held:
    """A certificate whose signature and agreement hold."""

    made: ReplayCertificate
    signed_by: str  # in words
    checked: Checked | None = None  # of one for this party


@dataclass(frozen=True)
class RunTogether:
    """What the certificates of a run show together."""

    run: str  # in hex
    task: str
    certificates: list[Held]
    uncovered: list[Uncovered]
    notes: list[str] = field(default_factory=list)

    @property
    def proven(self) -> bool:
        """Whether every message of all others in the run is the program's, by their certificates."""
        return not self.uncovered


def hold_together(
    site: Site, paths: Sequence[Path], auditor: Certificate | None = None
) -> list[RunTogether]:
    """Hold certificates together, by run in the order of the first of each.

    `auditor`: whose signature all must have; without, each that of the party it is about. Raises as
    `check_certificate`, and EvidenceDiffers where two do not fit each other.
    """
    known = {one.run: one for one in find_evidence(site.store)}
    by_run: dict[str, dict[tuple[str, str], Held]] = defaultdict(dict)
    for path in paths:
        one = _held(site, known, path, auditor)
        of = by_run[one.made.run]
        before = of.setdefault((one.made.party, one.made.peer), one).made
        if _said(before) != _said(one.made):
            raise EvidenceDiffers(
                f"two certificates of {one.made.party} for {one.made.peer} about run "
                f"{one.made.run[:_DIGITS]} differ"
            )
    made = {(one.made.run, one.made.party): one.made for of in by_run.values() for one in of.values()}
    found = []
    for run, of in by_run.items():
        _check_replays([one.made for one in of.values()])
        notes = [note for one in of.values() for note in _notes(one.made, made)]
        uncovered = _uncovered(site.party.name, known[run].agreement.terms, of)
        task = known[run].agreement.terms.task
        found.append(RunTogether(run, task, [*of.values()], uncovered, list(dict.fromkeys(notes))))
    return found


def _said(made: ReplayCertificate) -> tuple[object, ...]:
    """What two certificates of one party for another have in common, whoever has signed them when."""
    return made.messages, made.received, made.replay, made.left, made.took, made.commitments


def _held(site: Site, known: dict[str, Evidence], path: Path, auditor: Certificate | None) -> Held:
    """A certificate that is for this party or another one."""
    read = read_certificate(path)
    made, signer = read
    if made.peer == site.party.name:
        checked = check_read(site, read, path, auditor)
        return Held(made, checked.signed_by, checked)
    if made.run not in known:
        raise ModelError(f"nothing is kept here of run {made.run[:_DIGITS]}, which {path} is about")
    agreement = known[made.run].agreement
    wanted = agreement.terms.fingerprints.get(made.party)
    if auditor is not None:
        wanted = auditor.fingerprint
    if wanted is None or made.peer not in agreement.terms.fingerprints:
        raise EvidenceDiffers(f"{path} is about a party that has no part in run {made.run[:_DIGITS]}")
    if signer.fingerprint != wanted:
        whom = made.party if auditor is None else f"the {signer.name} that was named"
        raise EvidenceDiffers(
            f"{path} is not signed by {whom}: name the auditor's certificate by --auditor"
        )
    _check_agreement(agreement, made)
    return Held(made, f"{made.party} itself" if auditor is None else f"the auditor {signer.name}")


def _check_agreement(agreement: Agreement, made: ReplayCertificate) -> None:
    """Raises EvidenceDiffers unless the certificate is about what this party knows of the agreement."""
    if made.party in agreement.certificates:
        check_signature(agreement, made.party)
    if agreement.commitments.get(made.party) != made.commitments.digest.hex():
        raise EvidenceDiffers(
            f"the certificate of {made.party} for {made.peer} is about other commitments than it signed"
        )
    if agreement.statement_of(made.party).hex() != made.statement:
        raise EvidenceDiffers(
            f"the certificate of {made.party} for {made.peer} is about another agreement"
        )


def _check_replays(made: Sequence[ReplayCertificate]) -> None:
    """Raises EvidenceDiffers where a party's certificates are of different replays."""
    first: dict[str, ReplayCertificate] = {}
    for one in made:
        before = first.setdefault(one.party, one)
        if (before.replay, before.left, before.took) != (one.replay, one.left, one.took):
            raise EvidenceDiffers(
                f"the certificates of {one.party} for {before.peer} and for {one.peer} are of two "
                f"replays of run {one.run[:_DIGITS]} that differ"
            )


def _notes(made: ReplayCertificate, others: dict[tuple[str, str], ReplayCertificate]) -> list[str]:
    """What is to be said of a certificate beside what it covers. Raises as `links_of`."""
    notes = [f"{made.party} relies {one}" for one in made.relies]
    notes += links_of(made.party, f"run {made.run[:_DIGITS]} of {made.party}", made.took, others)
    for run in made.went_on_from:
        if (run, made.party) not in others:
            notes.append(
                f"{made.party} went on from run {run[:_DIGITS]}, of which no certificate is here"
            )
    return notes


def links_of(
    party: str,
    what: str,
    took: Sequence[Taken],
    certificates: dict[tuple[str, str], ReplayCertificate],
) -> list[str]:
    """Notes about what something of a party was made of that earlier runs have left, of which no
    certificate is there. `certificates`: by run and party. Raises EvidenceDiffers where one says that
    the earlier run has left something else."""
    notes = []
    for taken in took:
        before = certificates.get((taken.run, party))
        if before is None:
            notes.append(
                f"{what} goes on with the {taken.what} that run {taken.run[:_DIGITS]} has left, of "
                "which no certificate is here"
            )
        elif before.left.get(taken.what) != taken.sha256:
            raise EvidenceDiffers(
                f"{what} does not go on with the {taken.what} that run {taken.run[:_DIGITS]} has left"
            )
    return notes


def _uncovered(own: str, terms: Terms, of: dict[tuple[str, str], Held]) -> list[Uncovered]:
    """What no certificate shows. Raises EvidenceDiffers where two parties' certificates differ."""
    found: list[Uncovered] = []
    for sender, receiver in _ways(terms):
        here, there = of.get((sender, receiver)), of.get((receiver, sender))
        if sender == own:  # which knows what it has sent
            continue
        if here is None:
            found.append(Uncovered(sender, receiver))
            continue
        made = here.made
        if here.checked is not None:
            lacks = here.checked.uncovered
        else:
            heard = [] if there is None else there.made.received
            lacks = _not_covered(made, heard)
        found += [Uncovered(sender, receiver, number, kind) for number, kind in lacks if kind != STOP]
        if there is not None:
            _compare(made, there.made)
    return found


def _ways(terms: Terms) -> list[tuple[str, str]]:
    """Who speaks to whom in a run."""
    coordinators = [name for name in terms.fingerprints if name not in terms.signers]
    pairs = [(terms.guest, host) for host in terms.hosts]
    pairs += [(one, signer) for one in coordinators for signer in terms.signers]
    return [way for one, other in pairs for way in ((one, other), (other, one))]


def _not_covered(made: ReplayCertificate, heard: Sequence[Covered]) -> list[tuple[int, str]]:
    """The messages to another peer that were not looked at, by what the party itself counts and what the
    peer was played against."""
    lacks = [(n, one.type) for n, one in enumerate(made.messages, 1) if not one.digest]
    for number in range(len(made.messages) + 1, max(made.of, len(heard)) + 1):
        lacks.append((number, heard[number - 1].type if number <= len(heard) else ""))
    return lacks


def _compare(sent: ReplayCertificate, other: ReplayCertificate) -> None:
    """Raises EvidenceDiffers unless what one has sent is what the other was played against."""
    for number, (mine, theirs) in enumerate(zip(sent.messages, other.received, strict=False), 1):
        same = (mine.type, mine.bytes) == (theirs.type, theirs.bytes)
        if same and mine.digest in ("", theirs.digest):
            continue
        raise EvidenceDiffers(
            f"message {number:,} of {sent.party} to {other.party} is {mine.type} of "
            f"{counted(mine.bytes, 'byte')} in the certificate of {sent.party}, and {other.party} was "
            f"replayed against {'another one' if same else f'{theirs.type} of {theirs.bytes:,}'}"
        )
