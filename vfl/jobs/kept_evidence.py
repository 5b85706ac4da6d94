"""What a party keeps so that its runs can be replayed: listed, forgotten, removed with its subject."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from msgspec import UNSET, UnsetType

from vfl.errors import ModelError
from vfl.jobs.audits import waiting_for
from vfl.jobs.evidence import (
    Evidence,
    files_of_evidence,
    find_evidence,
    remove_evidence,
    save_evidence,
    tapes_of,
)
from vfl.jobs.offer import Task
from vfl.jobs.record import now
from vfl.jobs.removal import Removal, size_of
from vfl.jobs.tape_share import KeptSteps
from vfl.net.hello import PROTOCOL
from vfl.party.store import Store

OF_MODEL: Sequence[Task] = ("train", "score", "oneway")
OF_ALIGNMENT: Sequence[Task] = ("align", "oneway", "screen", "worth", "tune")


@dataclass(frozen=True)
class KeptEvidence:
    """What is kept of a run."""

    run: str
    task: str
    subject: str  # a model, or an alignment
    begun: str  # ISO 8601, UTC
    commitments: list[str]  # the parties that have committed to what they bring
    replay: str  # whether this party's part can be replayed, in a word or two
    went_on_after: int  # steps
    bytes: int
    kept: KeptSteps | None = None  # of which trees the tape has all, where that is a share


def list_evidence(store: Store) -> list[KeptEvidence]:
    """Of all runs, the oldest first."""
    return [
        KeptEvidence(
            one.run,
            one.agreement.terms.task,
            one.subject,
            one.begun,
            list(one.agreement.commitments),
            _replay(one),
            one.agreement.terms.done,
            size_of(files_of_evidence(store, one.run)),
            _steps(one),
        )
        for one in find_evidence(store)
    ]


def evidence_about(store: Store, tasks: Sequence[Task], subject: str) -> list[Evidence]:
    """Of the runs of these tasks that are about a model or an alignment."""
    return [
        one
        for one in find_evidence(store)
        if one.agreement.terms.task in tasks and one.subject == subject
    ]


def files_about(store: Store, tasks: Sequence[Task], subject: str) -> list[Path]:
    """All that is kept of these runs."""
    found = evidence_about(store, tasks, subject)
    return [path for one in found for path in files_of_evidence(store, one.run)]


def remove_about(store: Store, tasks: Sequence[Task], subject: str) -> None:
    """Remove all that is kept of these runs."""
    for one in evidence_about(store, tasks, subject):
        remove_evidence(store, one.run)


def plan_forgetting(store: Store, runs: Sequence[Evidence], name: str) -> Removal:
    """What goes with the secrets of some runs. Raises ModelError where none has a secret."""
    have = [one for one in runs if one.opening is not None]
    if not have:
        raise ModelError(f"no secret of a run of {name} is kept here")
    notes = ["none of these runs can be replayed any more; what all parties signed stays"]
    for peer in dict.fromkeys(one for run in have for one in waiting_for(store, run)):
        notes.append(f"{peer} waits for a replay of it, and lets the model be used no more without")
    tapes = [path for one in have for path in tapes_of(store, one.run)]
    documents = [path for one in have for path in store.files("evidence", one.name)]
    parts = [("the secrets in", documents), ("the tapes", tapes)]
    return Removal(name, "secret", [part for part in parts if part[1]], notes)


def forget(store: Store, runs: Sequence[Evidence]) -> None:
    """Remove the secrets of runs and their tapes. Raises DataError where the store cannot be written."""
    for one in runs:
        if one.opening is None:
            continue
        save_evidence(store, replace(one, opening=None, tape=None, forgotten=now()))
        store.remove_unfinished("evidence", one.name)  # they have the secret, too
        for path in tapes_of(store, one.run):
            path.unlink(missing_ok=True)


def _replay(evidence: Evidence) -> str:
    if evidence.forgotten:
        return "forgotten"
    if evidence.opening is None or evidence.tape is None:
        return "no tape"
    if not evidence.ended:
        return "cut off"
    if evidence.tape.why_ended:
        return "in part"
    text = "yes" if evidence.whole else "as far as it went"
    if evidence.protocol != PROTOCOL:
        text += f", by a version of protocol {evidence.protocol}"
    return text if (steps := _steps(evidence)) is None else f"{text}, {steps}"


def _steps(evidence: Evidence) -> KeptSteps | None:
    steps = UNSET if evidence.tape is None else evidence.tape.steps
    return None if isinstance(steps, UnsetType) else steps
