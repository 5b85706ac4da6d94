"""A party's part of a run, played again from what it keeps of it, on its own premises.

Whether all it sent is what the program sends, from the table, secret and settings to which the party has
committed in the agreement, and from what came to it, message by message. What comes of it is a
certificate for each peer (certificate.py).
"""

import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from vfl.crypto.workers import WorkerDied
from vfl.errors import ClusterError, ConfigError, DataError, IdentityError, ModelError, VflError
from vfl.jobs import (
    replay_alignment,
    replay_columns,
    replay_pooled,
    replay_scoring,
    replay_training,
    replay_tuning,
    replay_worth,
)
from vfl.jobs.arithmetic import (
    Arithmetic,
    computing_as,
    differing,
    present,
    threads_of,
    variables_for,
)
from vfl.jobs.certificate import Covered, NotedAnswers, Replayed
from vfl.jobs.connect import Site
from vfl.jobs.evidence import Evidence, find_evidence, load_evidence
from vfl.jobs.names import job_of, resolve_model
from vfl.jobs.offer import Terms
from vfl.jobs.rerun import EvidenceDiffers, Rerun, missing_of, open_rerun
from vfl.jobs.show import Show
from vfl.net.replay import MessageDiffers, TapeEnds
from vfl.news import RUN_DIGITS
from vfl.party.audit.conversations import STOP
from vfl.party.audit.lines import entries_of
from vfl.party.documents import canonical_json
from vfl.party.ledger import FOLDER, JobEntry
from vfl.party.store import Store
from vfl.protocols.common.checkpoints import State
from vfl.protocols.common.participant import LooksAt, every_step
from vfl.text import nearest_name

_PLAYERS: Mapping[tuple[str, str], Callable[[Rerun], Awaitable[None]]] = {
    ("guest", "align"): replay_alignment.replay_guest,
    ("host", "align"): replay_alignment.replay_host,
    ("guest", "score"): replay_scoring.replay_guest,
    ("host", "score"): replay_scoring.replay_host,
    ("guest", "oneway"): replay_columns.replay_table_guest,
    ("host", "oneway"): replay_columns.replay_table_host,
    ("guest", "screen"): replay_columns.replay_screening_guest,
    ("host", "screen"): replay_columns.replay_screening_host,
    ("guest", "train"): replay_training.replay_guest,
    ("host", "train"): replay_training.replay_host,
    ("coordinator", "train"): replay_training.replay_coordinator,
    ("guest", "worth"): replay_worth.replay_guest,
    ("host", "worth"): replay_worth.replay_host,
    ("guest", "tune"): replay_tuning.replay_guest,
    ("host", "tune"): replay_tuning.replay_host,
    ("server", "train"): replay_pooled.replay_server,
    ("client", "train"): replay_pooled.replay_client,
}
"""By part and task. A kind of run that is new is played by one function of a `Rerun`."""


_OF = 'with tape = "all" in [party] tapes are kept of all jobs but lookups'

_OF_HERE = (ConfigError, DataError, IdentityError, ClusterError, WorkerDied)
"""What may stand against a replay and be nothing of the run: no table, no room on the disk."""

_FEWEST = 4  # digits of a run by which it may be named

LooksAtRun = Callable[[Evidence], LooksAt]


def whole_run(_: Evidence) -> LooksAt:
    """Look at all steps of a run."""
    return every_step


@dataclass(frozen=True)
class Replay:
    """What came of a replay without a difference."""

    evidence: Evidence
    shown: dict[str, Replayed]  # by peer
    ended: str = ""  # why it ended before the run's last message

    @property
    def complete(self) -> bool:
        """Whether every message was compared."""
        return all(one.compared == one.of for one in self.shown.values())


def runs_named(store: Store, name: str) -> list[Evidence]:
    """The runs of a model or an alignment, or of the newest one of this name, each attempt at it in
    turn; or the one run whose first digits these are. Those of which no tape was kept are left out where
    there are others. Raises ModelError when there is none."""
    every = find_evidence(store)
    newest = resolve_model(store, name), resolve_model(store, name, "run")
    names = {*newest, resolve_model(store, name, "alignment")}
    found = [one for one in every if one.subject in names] or _run_of_digits(every, name)
    if found:
        return [one for one in found if one.opening is not None or one.forgotten] or found
    for one in store.names("evidence"):
        if len(name) >= 6 and one.startswith(name[: len(one)]):
            load_evidence(store, one)  # which says what is the matter with it
    if (looked_up := _lookups_of(store, {name, *names})) is not None:
        raise ModelError(
            f"{looked_up} are lookups in a sealed directory, which are not replayed: each answer has a "
            "proof that the guest has checked. Its host has the directory made again by `vfl audit "
            "directory PARTY.toml --model MODEL`"
        )
    if not every:
        raise ModelError(f"nothing is kept of any run in {store.root} that could be replayed: {_OF}")
    subjects = [one.subject for one in every]
    near = nearest_name(name, [*subjects, *(job_of(one) for one in subjects)])
    advice = f"did you mean {near}?" if near else f"`vfl audit list` names those there are; {_OF}"
    raise ModelError(f"nothing is kept of a run {name}: {advice}")


def _run_of_digits(every: Sequence[Evidence], name: str) -> list[Evidence]:
    """The run whose first digits are named. Raises ModelError where there are several such."""
    digits = name.lower()
    found = [one for one in every if len(digits) >= _FEWEST and one.run.startswith(digits)]
    if len(found) > 1:
        raise ModelError(
            f"{len(found)} runs begin with {name}: give more digits, as `vfl audit list` has"
        )
    return found


def _lookups_of(store: Store, names: Collection[str]) -> str | None:
    """In words, the lookups that the ledger has of a model or a run of these names; None without any."""
    if not (store.root / FOLDER).is_dir():
        return None
    for _, (entry, _, _) in entries_of(store.root / FOLDER):
        if not isinstance(entry, JobEntry) or entry.task != "lookup":
            continue
        if entry.model in names:
            return f"all that is kept of {entry.model} here"
        if any(_is_digits_of(name[:RUN_DIGITS], entry.run) for name in names):
            return f"the messages of run {entry.run[:12]}"
    return None


def _is_digits_of(name: str, run: str) -> bool:
    return len(name) >= 6 and run.startswith(name)


def variables_of(store: Store, runs: Sequence[Evidence]) -> dict[str, str]:
    """With which variables of the environment a process of this machine computes as the machine of these
    runs, if it does not already and can be told to (arithmetic.py).

    Raises ModelError for runs of machines of several kinds.
    """
    played = {one.run: one for run in runs for one in [*_attempts_before(store, run), run]}
    kinds = [there for one in played.values() if (there := _arithmetic_of(one)) is not None]
    if not kinds:
        return {}
    if len(runs) > 1 and any(differing(one, kinds[0]) for one in kinds):
        raise ModelError(
            "these runs were computed on machines of several kinds: replay them one by one, each by its "
            "first digits, which `vfl audit list` shows"
        )
    with threads_of(kinds[0]):
        return variables_for(kinds[0], present(), os.environ)


async def replay_runs(
    site: Site,
    runs: Sequence[Evidence],
    show: Show,
    looks_at: LooksAtRun = whole_run,
    *,
    any_machine: bool = False,
) -> AsyncIterator[Replay]:
    """Play this party's part of some runs again, each with those that it went on from.

    `looks_at`: which steps of a run are looked at; `any_machine`: also where this process computes
    otherwise than that of the run. Raises as `replay`.
    """
    kept: dict[str, list[State]] = {}  # by run
    for evidence in runs:
        before = _attempts_before(site.store, evidence)
        for number, attempt in enumerate([*before, evidence]):
            if attempt.run in kept and attempt is not evidence:
                continue
            run = open_rerun(site, attempt, show, looks_at(attempt))
            run.earlier = [state for one in before[:number] for state in kept[one.run]]
            run.before = [one.run for one in before[:number]]
            run.last = _state(run.earlier, attempt) if _goes_on_at_once(attempt) else None
            named = f"run {attempt.run[:12]}"
            with computing_as(_arithmetic_of(attempt), named, show, any_machine=any_machine):
                found = await _play(run)
            kept[attempt.run] = run.states
        yield found


async def replay(site: Site, evidence: Evidence, show: Show, looks_at: LooksAtRun = whole_run) -> Replay:
    """Play this party's part of a run again.

    A run that went on from an earlier attempt needs that one, which is played first. Raises
    MessageDiffers with the first message that is not the one that left, EvidenceDiffers where what is
    kept is not what was signed or what the ledger says, ModelError for a run that cannot be replayed,
    or not by a process that computes as this one.
    """
    (done,) = [one async for one in replay_runs(site, [evidence], show, looks_at)]
    return done


def _arithmetic_of(evidence: Evidence) -> Arithmetic | None:
    """In which arithmetic a run has to be played; None where its messages have no real numbers."""
    return None if evidence.agreement.terms.task == "align" else evidence.arithmetic


def _part(evidence: Evidence) -> str:
    """What the party was in a run."""
    terms = evidence.agreement.terms
    leads = terms.guest == evidence.party
    if terms.task == "train" and terms.alignment is None:  # over rows
        return "server" if leads else "client"
    if leads:
        return "guest"
    return "host" if evidence.party in terms.signers else "coordinator"


def _goes_on_at_once(evidence: Evidence) -> bool:
    """Whether the terms say from which state of the party's own the run goes on."""
    terms = evidence.agreement.terms
    return bool(terms.done) and terms.task == "train" and _part(evidence) in ("guest", "host")


def _attempts_before(store: Store, evidence: Evidence) -> list[Evidence]:
    """The attempts that have to be played before, the oldest first."""
    line = [evidence]
    rows = _part(evidence) == "client"  # which may go on from a state of any attempt before
    while line[0].agreement.terms.done and (rows or _goes_on_at_once(evidence)):
        terms, first = line[0].agreement.terms, line[0]
        before = [
            one
            for one in find_evidence(store)
            if one.agreement.terms.model == terms.model
            and one.agreement.terms.task == terms.task
            and (one.begun, one.run) < (first.begun, first.run)
            and (rows or one.agreement.terms.done < terms.done)
        ]
        if not before:
            raise ModelError(
                f"run {first.run[:12]} went on after {terms.done:,} steps of an attempt of which "
                "nothing is kept: it cannot be replayed"
            )
        line.insert(0, before[-1])
    return line[:-1]


def _state(states: Sequence[State], attempt: Evidence) -> State:
    """What an attempt went on from."""
    done = attempt.agreement.terms.done
    found = [state for state in states if state.done == done]
    if not found:
        raise ModelError(
            f"run {attempt.run[:12]} went on after {done:,} steps, to which the tapes of the attempts "
            "before it do not reach, as of a process that was killed: it cannot be replayed"
        )
    return found[-1]


async def _play(run: Rerun) -> Replay:
    """Play the role to its end, or to that of its tape."""
    evidence, terms = run.evidence, run.evidence.agreement.terms
    part = _part(evidence)
    player = _PLAYERS.get((part, terms.task))
    if player is None:
        raise ModelError(f"a {part}'s part of a run of task {terms.task} cannot be replayed yet")
    ended = ""
    try:
        await player(run)
        _check_messages(run)
        run.check_end()
    except VflError as error:
        ended = _why_it_ended(run, error)
    shown, whole = {}, _all_of(run)
    left, took = run.handed_on()
    for name, peer in run.peers.items():
        talk = run.talks[name]
        sent = [one for one in talk.sent if one.kind != STOP]
        covered = [
            Covered.left_out(one) if place in peer.left_out else Covered.of(one)
            for place, one in enumerate(sent[: peer.compared])
        ]
        missing = missing_of(run.on_tape, evidence, talk)
        played = [
            Covered.left_out(one) if place in missing else Covered.of(one)
            for place, one in enumerate(talk.received[: peer.played])
        ]
        shown[name] = Replayed(
            name,
            covered,
            len(talk.sent),
            run.checked,
            run.relies,
            played,
            run.before,
            whole,
            run.steps if name == terms.guest else None,
            _noted_for(run, name),
            left,
            took,
        )
    return Replay(evidence, shown, ended)


def _check_messages(run: Rerun) -> None:
    """Raises MessageDiffers where a message has differed, whatever else the role was ended by."""
    for peer in run.peers.values():
        if peer.differs is not None:
            raise peer.differs from None


def _why_it_ended(run: Rerun, error: VflError) -> str:
    """Why a replay ended before the run's last message, if it may have. Raises as `replay`."""
    _check_messages(run)
    evidence = run.evidence
    if isinstance(error, MessageDiffers | EvidenceDiffers | ModelError):
        raise error
    if isinstance(error, TapeEnds):
        if evidence.whole and not (evidence.tape and evidence.tape.why_ended):
            raise EvidenceDiffers(f"{error}, but the run went on to its end") from None
    elif evidence.whole and isinstance(error, _OF_HERE):
        raise error
    elif evidence.whole:
        raise EvidenceDiffers(f"the run went on to its end, and the replay ends: {error}") from None
    return str(error)


def _noted_for(run: Rerun, peer: str) -> NotedAnswers | None:
    """What the ledger has of the answers, under a seal that a peer was told later."""
    if not run.lines.answers:
        return None
    newest, own = run.lines.answers[-1], run.evidence
    told = [
        one.agreement.ledgers.get(own.party, "")
        for one in find_evidence(run.site.store)
        if one.begun > own.begun and _tell_each_other(one.agreement.terms, own.party, peer)
    ]
    sealed = next((seal for seal in told if seal in run.lines.seals), "")
    return NotedAnswers(newest.answers, newest.sha256, sealed)


def _tell_each_other(terms: Terms, one: str, other: str) -> bool:
    """Whether two parties of a run tell each other the newest seals of their ledgers."""
    return (terms.guest == one and other in terms.hosts) or (terms.guest == other and one in terms.hosts)


def _all_of(run: Rerun) -> str:
    """A digest of the messages of the replay with all peers, of which none can be guessed by it."""
    content = {
        name: [[[one.kind, one.size, one.digest.hex()] for one in several] for several in both]
        for name, peer in run.peers.items()
        for both in [(run.talks[name].sent[: peer.compared], run.talks[name].received[: peer.played])]
    }
    salt = hashlib.sha256(b"vfl salt of a replay\0" + run.opening.salts["secret"]).digest()
    return hashlib.sha256(b"vfl replay\0" + salt + canonical_json(content)).hexdigest()
