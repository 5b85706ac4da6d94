"""Replays and their certificates, as tables and lines."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vfl.terminal.kept import room, when
from vfl.terminal.sheets import Sheet, SheetCell, put_sheet
from vfl.terminal.streams import stdout
from vfl.text import counted, in_words

if TYPE_CHECKING:
    from vfl.jobs.audits import ListedAudit
    from vfl.jobs.certificate import Checked
    from vfl.jobs.certificates import RunTogether
    from vfl.jobs.kept_evidence import KeptEvidence
    from vfl.jobs.replaying import Replay
    from vfl.jobs.tape_share import KeptSteps

_DIGITS = 12  # of a run that are shown
_NAMED = 5  # messages that are named one by one


def put_evidence(found: "Sequence[KeptEvidence]") -> None:
    """The runs of which something is kept, a line each."""
    heads = ("run", "begun (UTC)", "task", "about", "committed", "replay", "disk")
    rows: list[list[SheetCell]] = [
        [
            one.run[:_DIGITS],
            when(one.begun),
            one.task,
            one.subject,
            ", ".join(one.commitments),
            one.replay,
            room(one.bytes),
        ]
        for one in found
    ]
    put_sheet(Sheet(heads, rows, numbers=frozenset(("disk",))))


def put_audits(found: "Sequence[ListedAudit]") -> None:
    """The models that hosts may have audited, a line each."""
    heads = ("model", "with", "begun (UTC)", "share", "audit", "missing")
    rows: list[list[SheetCell]] = [
        [
            one.model,
            one.peer,
            when(one.begun),
            f"{one.probability:g}",
            one.state,
            ", ".join(run[:_DIGITS] for run in one.missing),
        ]
        for one in found
    ]
    put_sheet(Sheet(heads, rows, numbers=frozenset(("share",))))


def put_replay(done: "Replay", files: Sequence[Path]) -> None:
    """What came of a replay in which nothing differs."""
    evidence = done.evidence
    head = f"run {evidence.run[:_DIGITS]} ({evidence.agreement.terms.task})"
    for peer, shown in done.shown.items():
        same, of = shown.compared, counted(shown.of, "message")
        stdout.put(f"{head}: {same:,} of {of} to {peer} {'is' if same == 1 else 'are'} the program's")
    for shown in done.shown.values():
        if shown.steps is not None:
            stdout.put(f"{head}: {_share(shown.steps)}")
    stdout.put(f"{head}: {in_words(shown.checked)} as committed to")
    for one in shown.relies:
        stdout.put(f"note: {head} relies {one}")
    for taken in shown.took:
        stdout.put(f"note: {head} goes on with the {taken.what} of run {taken.run[:_DIGITS]}")
    if done.ended:
        stdout.put(f"note: {head} ends early: {done.ended}")
    for path in files:
        stdout.put(f"certificate {path}")


def _share(steps: "KeptSteps") -> str:
    """Of which trees a replay has looked at sums."""
    return (
        f"sums of {steps} were looked at, of the others all else: its tape has a share of "
        f"{steps.share:g}, drawn from the secret"
    )


def put_together(found: "RunTogether") -> None:
    """What the certificates of several parties of a run show together."""
    head = f"run {found.run[:_DIGITS]} ({found.task})"
    for one in found.certificates:
        made = one.made
        stdout.put(f"{head}: {made.party} for {made.peer}, signed by {one.signed_by}")
    for note in found.notes:
        stdout.put(f"note: {head}: {note}")
    if found.proven:
        stdout.put(f"{head}: proven: every message of all others is the program's")
    for lack in found.uncovered[:_NAMED]:
        way = f"of {lack.sender} to {lack.receiver}"
        if not lack.number:
            stdout.put(f"NOT COVERED all messages {way}: no certificate is here")
        else:
            stdout.put(
                f"NOT COVERED message {lack.number:,} {way}{', ' if lack.type else ''}{lack.type}"
            )
    if len(found.uncovered) > _NAMED:
        stdout.put(f"NOT COVERED in all {counted(len(found.uncovered), 'message')}")


def put_checked(found: "Checked", settled: bool) -> None:
    """What a peer found of a certificate that holds. `settled`: whether it is what was asked for of an
    audited model."""
    made = found.certificate
    head = f"run {made.run[:_DIGITS]} ({made.task}), {made.party}"
    stdout.put(f"{head}: signed by {found.signed_by}; {in_words(made.checked)} as committed to")
    covered = found.received - len(found.uncovered)
    stdout.put(f"{head}: {covered:,} of {counted(found.received, 'message')} covered")
    if found.steps is not None:
        stdout.put(f"{head}: {_share(found.steps)}")
    for one in made.relies:
        stdout.put(f"note: {head} relies {one}")
    for taken in made.took:
        stdout.put(
            f"note: {head} goes on with the {taken.what} that run {taken.run[:_DIGITS]} has left: check "
            "its certificate, too"
        )
    if found.on_the_way:
        stdout.put(f"note: {head}: {counted(found.on_the_way, 'message')} had not arrived")
    if made.went_on_after:
        steps = counted(made.went_on_after, "step")
        runs = ", ".join(one[:_DIGITS] for one in made.went_on_from) or "an earlier attempt"
        stdout.put(f"note: {head} went on after {steps} of {runs}: check the certificates of those, too")
    if not found.answers_sealed:
        stdout.put(
            f"note: {head}: what {made.party}'s own store has answered lies under no seal that this "
            "party was told since: have the run replayed again after your next job together"
        )
    stdout.put(f"{head}: replay {made.replay[:_DIGITS]}, the same for all its peers")
    if settled:
        stdout.put(f"{head}: all is covered that was drawn to be audited")
    if found.complete:
        stdout.put("complete")
    if found.complete or settled:
        return
    for number, kind in found.uncovered[:_NAMED]:
        stdout.put(f"NOT COVERED message {number:,}, {kind}")
    if len(found.uncovered) > _NAMED:
        by_type = ", ".join(f"{count:,} {kind}" for kind, count in found.uncovered_by_type.items())
        stdout.put(f"NOT COVERED in all {len(found.uncovered):,}: {by_type}")
