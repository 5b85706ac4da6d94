"""Runs beside alignments and trainings over columns that are replayed: what data is worth, searches."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import pytest
from audited import AuditedRoom
from federation import GLM_JOB, JOB, Federation, make_tables
from paillier_key import one_key
from room import HOSTS
from test_worth_jobs import known_to_both

from vfl.errors import VflError
from vfl.jobs import tuning, worth
from vfl.jobs.rerun import EvidenceDiffers
from vfl.jobs.tape_share import StepsOnTape
from vfl.jobs.tuned_folder import TunedFolder
from vfl.learn.losses import LogisticLoss
from vfl.net.replay import MessageDiffers
from vfl.party.config import Job, load_party
from vfl.protocols.trees.candidate_sums import HostSums

SMALL = {"trees": 1, "depth": 2, "max_bins": 6, "min_child_rows": 10}
TREES = {**JOB, "secureboost": SMALL}
LATTICE = {**JOB, "secureboost": {**SMALL, "encryption": "lattice"}}
LINEAR = {**GLM_JOB, "glm": {"alpha": 0.01, "max_iterations": 1}}
OTHERS = {"insurer": HOSTS, **dict.fromkeys(HOSTS, ("insurer",))}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[AuditedRoom]:
    """Parties that have aligned, in which tests work."""
    patch = pytest.MonkeyPatch()
    tables = known_to_both(make_tables(300))
    paid = [f"{100 + 7 * (place % 13)}" for place in range(300)]
    tables["insurer"] = {**tables["insurer"], "count": paid}
    federation = Federation(tmp_path_factory.mktemp("further"), keys, tables=tables, guest_listens=True)
    federation.guest.settings["data"]["current_premium"] = "count"
    made = AuditedRoom(federation)
    rules = {"encryptions": ["paillier", "lattice"], "worth": True, "tune_trials": 9}
    for name in HOSTS:
        federation.parties[name].settings["policy"] |= rules
    made.patch(patch)
    for module in (worth, tuning):
        patch.setattr(module, "hosts_of", made.hosts_of)
    made.align(name="first")
    yield made
    patch.undo()


def find_worth(room: AuditedRoom, job: dict[str, Any], **options: Any) -> str:
    """As `vfl worth`; the run."""
    site = room.site("insurer")
    out = room.folder / "worth"
    with one_key():
        asyncio.run(
            worth.worth(
                site,
                Job.model_validate(job),
                out=out,
                force=True,
                wait=1,
                show=room.said["insurer"],
                **options,
            )
        )
    return last_run(room)


def last_run(room: AuditedRoom, name: str = "insurer") -> str:
    return room.runs(name, "first")[-1].run


def replay_all(room: AuditedRoom, run: str) -> None:
    for name in ("insurer", *HOSTS):
        done = room.replay(name, run, workers=2)
        assert done.complete and not done.ended
        for peer in OTHERS[name]:
            checked = room.check(peer, room.certify(name, done, peer))
            assert checked.complete and checked.received == done.shown[peer].of > 0
            assert checked.certificate.checked == ["secret", "settings", "table"]


@pytest.mark.slow
def test_what_data_is_worth_replays(room: AuditedRoom) -> None:
    run = find_worth(room, LATTICE, rows=200)
    assert room.runs("insurer", run)[0].agreement.terms.task == "worth"
    replay_all(room, run)


def one_row(self: LogisticLoss, score: Any, label: Any, weight: Any) -> Any:
    """Gradients that tell in which bins of a host one row is."""
    gradient = np.zeros(score.shape)
    gradient[..., 3] = 1.0
    return gradient, np.full(score.shape, 0.25)


def test_a_guest_that_has_data_judged_by_numbers_of_its_own_is_found(room: AuditedRoom) -> None:
    with (
        mock.patch.object(LogisticLoss, "damped_gradients", one_row),
        contextlib.suppress(VflError),
    ):
        find_worth(room, TREES)
    with pytest.raises(MessageDiffers, match=r"to \w+ differs: it was Gradients of"):
        room.replay("insurer", last_run(room))


def test_figures_that_are_made_up_are_found(room: AuditedRoom) -> None:
    figures = worth._figures

    def better(*given: Any) -> Any:
        told = figures(*given)
        first, *others = told.figures
        first = msgspec.structs.replace(first, value=first.value + 0.1)
        return msgspec.structs.replace(told, figures=[first, *others])

    with mock.patch.object(worth, "_figures", better):
        run = find_worth(room, TREES)
    with pytest.raises(MessageDiffers, match="differs: it was WorthFigures of"):
        room.replay("insurer", run)
    assert room.replay("registry", run).complete


def test_a_premium_that_was_changed_is_found(room: AuditedRoom) -> None:
    run = find_worth(room, TREES)
    before = room.federation.guest.table.read_bytes()
    lines = before.decode().splitlines()
    place = lines[0].split(",").index("count")
    lines[1:] = [
        ",".join([*cells[:place], "1", *cells[place + 1 :]])
        for cells in (line.split(",") for line in lines[1:])
    ]
    room.federation.guest.table.write_text("\n".join(lines) + "\n")
    try:
        with pytest.raises(EvidenceDiffers, match=r"committed to: its premium is another$"):
            room.replay("insurer", run)
    finally:
        room.federation.guest.table.write_bytes(before)
    assert room.replay("insurer", run).complete


# --- Searches for settings. -------------------------------------------------------------------------


def search(room: AuditedRoom, job: dict[str, Any], **tune: Any) -> str:
    """As `vfl tune`; the run."""
    made = Job.model_validate(job | {"tune": tune})
    out = room.folder / f"found-{made.job.name}"
    folder = TunedFolder.of(load_party(room.federation.guest.file), made, out, force=True)
    work = tuning.tune(room.site("insurer"), made, folder, fresh=True, wait=1, show=room.said["insurer"])
    with one_key():
        asyncio.run(work)
    return last_run(room)


SPACE = {"learning_rate": {"low": 0.1, "high": 0.5}, "depth": [1, 2]}


@pytest.mark.parametrize(
    ("job", "tune"),
    [
        (LATTICE, {"trials": 2, "space": {"learning_rate": {"low": 0.1, "high": 0.5}}}),
        (LINEAR, {"trials": 2, "folds": 2, "space": {"alpha": {"low": 0.01, "high": 1.0, "log": True}}}),
    ],
    ids=["lattice", "linear"],
)
@pytest.mark.slow
def test_a_search_replays(room: AuditedRoom, job: dict[str, Any], tune: dict[str, Any]) -> None:
    run = search(room, job, **tune)
    assert room.runs("insurer", run)[0].agreement.terms.task == "tune"
    replay_all(room, run)
    assert not room.replay("bureau", run).shown["insurer"].relies
    assert not room.replay("insurer", run).shown["bureau"].relies
    if job is LATTICE:
        again = search(room, job, **tune)
        relies = room.replay("insurer", again).shown["bureau"].relies
        assert relies == [f"on a hint of {host} that came in an earlier run" for host in HOSTS]
        before, shown = (room.replay("bureau", one).shown["insurer"] for one in (run, again))
        took = {one.what: one for one in shown.took}["hint"]
        assert not shown.relies and (took.run[:12], took.sha256) == (run[:12], before.left["hint"])


def test_a_search_that_ends_poor_trials_and_goes_on_replays(
    room: AuditedRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning.AskedTrial, "is_poor", lambda self, loss: self.number == 2)
    with room.losing_a_connection(3):
        run = search(room, {**TREES, "secureboost": {**SMALL, "trees": 2}}, trials=3, space=SPACE)
    first, second = (one.run for one in room.runs("insurer", "first")[-2:])
    assert second == run
    assert room.runs("insurer", second)[0].agreement.terms.done > 0
    replay_all(room, second)
    for name in ("insurer", *HOSTS):
        done = room.replay(name, first, workers=2)
        assert done.ended and not done.evidence.whole


@pytest.mark.parametrize("kind", ["search", pytest.param("worth", marks=pytest.mark.slow)])
def test_a_host_keeps_a_share_of_the_trees_of_all_trainings(
    room: AuditedRoom, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Counted over one training after the other, and played again so."""
    monkeypatch.setitem(room.federation.parties["bureau"].settings["party"], "tape", 0.5)
    monkeypatch.setattr(StepsOnTape, "keeps", lambda self, step: step % 2 == 1)
    if kind == "search":
        run = search(room, {**TREES, "secureboost": {**SMALL, "trees": 2}}, trials=2, space=SPACE)
    else:
        run = find_worth(room, {**TREES, "secureboost": {**SMALL, "trees": 3}})
    done = room.replay("bureau", run)
    steps = done.shown["insurer"].steps
    assert not done.ended and steps is not None
    assert steps.kept == [*range(1, steps.steps, 2)] and steps.steps > 3
    checked = room.check("insurer", room.certify("bureau", done, "insurer"))
    assert {kind for _, kind in checked.uncovered} == {"CandidateSums"}
    assert room.replay("registry", run).complete


def test_a_guest_that_searches_with_numbers_of_its_own_is_found(room: AuditedRoom) -> None:
    with (
        mock.patch.object(LogisticLoss, "damped_gradients", one_row),
        contextlib.suppress(VflError),
    ):
        search(room, TREES, trials=1, space=SPACE)
    with pytest.raises(MessageDiffers, match=r"to \w+ differs: it was Gradients of"):
        room.replay("insurer", last_run(room))


def made_up(sums: Any) -> Any:
    return lambda *given: sums(*given)[::-1].copy()


@pytest.mark.parametrize("task", ["worth", "tune"])
def test_a_host_that_tells_sums_of_its_own_is_found(room: AuditedRoom, task: str) -> None:
    with (
        mock.patch.object(HostSums, "_left_sums", made_up(HostSums._left_sums)),
        contextlib.suppress(VflError),
    ):
        if task == "worth":
            find_worth(room, TREES)
        else:
            search(room, TREES, trials=1, space=SPACE)
    run = last_run(room, "registry")
    assert room.runs("registry", run)[0].agreement.terms.task == task
    with pytest.raises(MessageDiffers, match=r"to insurer differs: it was CandidateSums of"):
        room.replay("registry", run)
