"""Jobs over rows that are replayed by their server and their clients, and what is found."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from federation import toml
from pool import CLIENTS, SERVER, Pool, job, patients, split
from room import Said

from vfl.cli import main
from vfl.errors import DataError, ModelError, PeerLost, VflError
from vfl.jobs import evidence, resume
from vfl.jobs.certificate import check_certificate, make_certificate
from vfl.jobs.connect import Site
from vfl.jobs.evidence import find_evidence, remove_evidence
from vfl.jobs.offer import Kept
from vfl.jobs.replaying import Replay, replay, runs_named
from vfl.jobs.rerun import EvidenceDiffers
from vfl.models.halves import GuestHalf
from vfl.models.kinds import load_half
from vfl.net import wire
from vfl.net.replay import MessageDiffers, ReplayedPeer, Sent, TapeEnds
from vfl.party.config import load_party
from vfl.protocols.pooled import adding_server
from vfl.protocols.pooled.adding import MaskingAdder

ALL = (*CLIENTS, SERVER)
TREES = job(settings={"trees": 2, "depth": 2, "min_child_rows": 20})
LINEAR = job("glm", "logistic", {"max_iterations": 3})


@pytest.fixture(scope="module")
def pool_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pool-keys")


def make_pool(folder: Path, keys: Path) -> Pool:
    table = patients(300)
    table["month"] = np.random.default_rng(2).integers(1, 13, 300)
    pool = Pool(folder, keys, split(table))
    for name in ALL:
        pool.settings[name]["party"] |= {"tape": "all", "reconnect": 0}
    return pool


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, pool_keys: Path) -> Iterator[Pool]:
    yield make_pool(tmp_path_factory.mktemp("rows") / "pool", pool_keys)


@pytest.fixture
def fresh(tmp_path: Path, pool_keys: Path) -> Pool:
    return make_pool(tmp_path / "pool", pool_keys)


@pytest.fixture(scope="module")
def trees(pool: Pool) -> str:
    return pool.train(TREES).model


def there(pool: Pool, name: str, workers: int = 2) -> Site:
    """A party as its auditor finds it, with another number of workers."""
    path = pool.home(name) / f"{name}.toml"
    path.write_text(toml(pool.settings[name]))
    loaded = load_party(path)
    changed = loaded.party.model_copy(update={"workers": workers})
    return Site.open(loaded.model_copy(update={"party": changed}))


def replayed(pool: Pool, name: str, subject: str, attempt: int = -1) -> Replay:
    site = there(pool, name)
    return asyncio.run(replay(site, runs_named(site.store, subject)[attempt], Said()))


def check_covered(pool: Pool, name: str, done: Replay) -> None:
    """Each peer finds that what came from a party is covered."""
    site, path = there(pool, name), pool.folder / "certificate.json"
    for peer in done.shown:
        path.write_bytes(make_certificate(done.evidence, done.shown[peer], site.identity))
        checked = check_certificate(there(pool, peer), path)
        assert checked.certificate.checked == ["secret", "settings", "table"]
        assert {kind for _, kind in checked.uncovered} <= {"Stop"}
        assert checked.received > 0 or done.ended


def replay_all(pool: Pool, model: str) -> None:
    for name in ALL:
        done = replayed(pool, name, model)
        assert done.complete and not done.ended
        assert set(done.shown) == ({*CLIENTS} if name == SERVER else {SERVER})
        check_covered(pool, name, done)


def test_trees_over_rows_replay(pool: Pool, trees: str) -> None:
    replay_all(pool, trees)


@pytest.mark.parametrize("settings", [LINEAR, {**TREES, "job": {**TREES["job"], "time": "month"}}])
def test_jobs_over_rows_replay(pool: Pool, settings: dict[str, Any]) -> None:
    replay_all(pool, pool.train(settings).model)


def last_run(pool: Pool, name: str) -> str:
    return find_evidence(there(pool, name).store)[-1].run


def interrupted(patch: pytest.MonkeyPatch, at: str, calls: int, *, silent: bool = True) -> None:
    """The south hangs up, once, at so many totals of a kind; or it says why it leaves."""
    left, whole = {"calls": calls}, MaskingAdder.total

    async def total(adder: MaskingAdder, values: Any, what: str) -> Any:
        if adder.name == "south" and what.startswith(at):
            left["calls"] -= 1
            if left["calls"] == 0 and not silent:
                raise DataError("its disk is full")
            if left["calls"] == 0:
                adder._server.drop()  # type: ignore[attr-defined]
                raise PeerLost("the connection to the server broke", passing=True)
        return await whole(adder, values, what)

    patch.setattr(MaskingAdder, "total", total)


@pytest.mark.parametrize("settings", [TREES, {**LINEAR, "job": {**LINEAR["job"], "time": "month"}}])
@pytest.mark.slow
def test_attempts_that_go_on_replay(
    fresh: Pool, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "_PAUSE", 0.0)
    for name in ALL:
        fresh.settings[name]["party"]["reconnect"] = 20
    interrupted(monkeypatch, *(("level 1 of tree 2", 1) if settings is TREES else ("step", 3)))
    model = fresh.train(settings).model
    assert fresh.said["north"].has("going on after")
    steps = set()
    for name in ALL:
        runs = runs_named(there(fresh, name).store, model)
        assert len(runs) == 2 and not runs[0].whole and runs[1].whole
        for attempt in (0, 1):
            done = replayed(fresh, name, model, attempt)
            assert bool(done.ended) == (attempt == 0)
            assert attempt == 0 or done.complete
            check_covered(fresh, name, done)
        steps.add(runs[1].agreement.terms.done)
    assert steps == {1}
    site = there(fresh, "north")
    remove_evidence(site.store, runs_named(site.store, model)[0].run)
    with pytest.raises(ModelError, match=r"an attempt of which nothing is kept: it cannot be replayed"):
        replayed(fresh, "north", model)
    assert replayed(fresh, "west", model).complete


@pytest.mark.parametrize("silent", [True, False])
def test_a_job_replays_that_went_on_without_a_client(
    fresh: Pool, silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in CLIENTS:
        fresh.settings[name]["policy"] |= {"min_parties": 2, "without": True}
    interrupted(monkeypatch, "level 1 of tree 1", 1, silent=silent)
    led = fresh.train(TREES | {"rows": {"min_parties": 2, "without": True}})
    assert led.clients == ["north", "west"]
    for name in ALL:
        done = replayed(fresh, name, led.model)
        assert bool(done.ended) == (name == "south")
        assert done.complete or name == "south"
        check_covered(fresh, name, done)


def test_a_client_whose_tape_ended_is_not_taken_for_one_that_left(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(evidence, "SPARE", 1 << 62)
        for name in CLIENTS:
            rules = pool.settings[name]["policy"]
            patch.setitem(pool.settings[name], "policy", {**rules, "min_parties": 2, "without": True})
        model = pool.train(TREES | {"rows": {"min_parties": 2, "without": True}}).model
    assert pool.said[SERVER].has("note: the tape of this run ends here")
    done = replayed(pool, SERVER, model)
    assert done.ended and not done.complete
    assert {len(one.messages) for one in done.shown.values()} == {1}  # AddingBegin


def test_a_peer_that_was_lost_by_a_message_is_lost_by_it_again() -> None:
    sent = [Sent.of("Kept", wire.encode(Kept()))] * 2
    peer = ReplayedPeer("south", [], sent)
    peer.loses_last = True
    asyncio.run(peer.send(Kept()))
    with pytest.raises(TapeEnds, match="the connection to south was lost in the run"):
        asyncio.run(peer.send(Kept()))
    assert peer.compared == 2
    peer.check_end()


# --- Parties that do something else. ----------------------------------------------------------------


def test_a_client_that_adds_a_total_of_its_own_is_found(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = MaskingAdder.total

    async def total(adder: MaskingAdder, values: Any, what: str) -> Any:
        made_up = adder.name == "south" and what.startswith("level 0 of tree 1")
        return await whole(adder, values + 1 if made_up else values, what)

    with monkeypatch.context() as patch, contextlib.suppress(VflError):
        patch.setattr(MaskingAdder, "total", total)
        pool.train(TREES)
    run = last_run(pool, "south")
    with pytest.raises(MessageDiffers, match=r"to server differs: it was MaskedPart of [\d,]+ bytes"):
        replayed(pool, "south", run)
    assert replayed(pool, "north", run).shown
    assert replayed(pool, SERVER, run).shown


def test_a_server_that_adds_something_is_found(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    message = adding_server.MaskedTotal

    def made_up(step: int, words: bytes) -> Any:
        if step == 4:
            words = bytes(8) + words[8:]
        return message(step, words)

    with monkeypatch.context() as patch, contextlib.suppress(VflError):
        patch.setattr(adding_server, "MaskedTotal", made_up)
        pool.train(TREES)
    with pytest.raises(MessageDiffers, match=r"differs: it was MaskedTotal of [\d,]+ bytes"):
        replayed(pool, SERVER, last_run(pool, SERVER))


def test_a_clients_table_that_was_changed_is_found(pool: Pool, trees: str) -> None:
    path = pool.home("west") / "table.csv"
    before = path.read_bytes()
    table = pool.tables["west"].copy()
    table.loc[table.index[5], "died"] = 1 - table.loc[table.index[5], "died"]
    table.to_csv(path, index=False)
    try:
        with pytest.raises(EvidenceDiffers, match=r"the party committed to: its label is another$"):
            replayed(pool, "west", trees)
    finally:
        path.write_bytes(before)
    assert load_half(pool.store("west"), trees, GuestHalf).name == trees


def test_the_commands_of_a_server_and_of_a_client(pool: Pool, trees: str) -> None:
    for name in (SERVER, "north"):
        there(pool, name)  # writes its file
    files = {name: str(pool.home(name) / f"{name}.toml") for name in (SERVER, "north")}
    out = pool.folder / "certificates"
    run = ["audit", "replay", files[SERVER], "--run", trees, "--out", str(out)]
    said = CliRunner().invoke(main, run)
    assert said.exit_code == 0, said.output
    assert "messages to north are the program's" in said.output
    (found,) = out.glob("*-for-north.json")
    checked = CliRunner().invoke(main, ["audit", "check", files["north"], str(found)])
    assert checked.exit_code == 0 and checked.output.rstrip().endswith("complete"), checked.output
    listed = CliRunner().invoke(main, ["audit", "list", files["north"]])
    assert trees in listed.output
