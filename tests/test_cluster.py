"""A party's rows with the workers of a cluster: real processes that speak TLS."""

import asyncio
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import command
from federation import JOB, WAIT, Federation, ended
from room import HOSTS, Room
from row_kernels import (
    Counting,
    add,
    divided,
    exhaust,
    fill_up,
    refuse,
    scaled,
    shape_and_values,
    sums,
    third,
    third_once_there,
)
from test_boost import Job, make_job
from test_glm import make_job as make_glm_job
from test_large_tables import kept
from test_lattice_boost import assert_same_model
from test_psi import align, numbered
from test_scoring import ROWS, score

from vfl.blocks import cluster as cluster_engine
from vfl.blocks import scheduler
from vfl.blocks.cluster import Cluster, There, _spread
from vfl.blocks.columns import MadeColumns
from vfl.blocks.engine import ENGINE, Embedded, Engine, Pieces
from vfl.blocks.local_cluster import local_cluster
from vfl.blocks.scheduler import Access, Connection
from vfl.crypto import group
from vfl.crypto.lattice.matrix import Accumulator
from vfl.crypto.randomness import Randomness
from vfl.errors import ClusterError, ConfigError, DataError
from vfl.jobs import cluster
from vfl.jobs.check_result import CheckResult
from vfl.jobs.cluster import check_cluster
from vfl.learn.binning import bin_columns
from vfl.learn.drift import profiles
from vfl.learn.glm import Block
from vfl.learn.params import BoostParams
from vfl.learn.tree import Frontier
from vfl.party.config import load_party
from vfl.party.sources import held
from vfl.party.sources.stretches import Print
from vfl.protocols.align import dh_oprf
from vfl.protocols.common.checkpoints import Checkpoints
from vfl.protocols.trees.grower import Pooled, TreeDone

SETTINGS = BoostParams(trees=2, depth=3, max_bins=8, min_child_rows=5)


PATIENCE = 300  # seconds, for a worker that starts on a busy machine


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    yield from two_workers(tmp_path_factory.mktemp("workers"))


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Connection]:
    """For tests that kill workers: whether others came in their place concerns no later test."""
    yield from two_workers(tmp_path)


def two_workers(folder: Path) -> Iterator[Connection]:
    with local_cluster(2, 1 << 30, folder) as access:
        connection = Connection(access)
        yield connection
        connection.close()


@pytest.mark.parametrize("block", [7, 40, 1000])
def test_blocks_in_their_order(connection: Connection, block: int):
    engine, here, rng = Cluster(connection, block=block), Embedded(block), np.random.default_rng(block)
    table, values = rng.integers(0, 9, (3, 40)), rng.integers(-9, 9, 40)
    held = engine.hold(iter(np.split(table, [13], axis=1)))
    assert isinstance(held, There) and held.shape == (3, 40) and held.dtype == table.dtype
    seen = [*engine.results(shape_and_values, held, values)]
    assert seen == [*here.results(shape_and_values, table, values)]
    assert engine.total(sums, held, values).tolist() == here.total(sums, table, values).tolist()
    made = engine.make(add, held, values)
    assert engine.gather(made, 5, 31).tolist() == (table + values)[:, 5:31].tolist()
    assert engine.gather(made, 0, 0).shape == (3, 0)
    assert engine.keep(made).tolist() == (table + values).tolist()
    thirds = engine.make(third, made)
    kernel = partial(scaled, 2, engine.share(np.array([7])))
    pieces = Pieces(range(len(seen)))
    assert engine.gather(engine.make(kernel, thirds, pieces)).tolist() == [
        [cell / 3 * 2 + 7 + i // block for i, cell in enumerate(row)]
        for row in (table + values).tolist()
    ]
    with pytest.raises(DataError, match="no"):
        engine.gather(engine.make(refuse, held))
    adder = partial(Counting, 3)
    assert engine.sum_by(adder, engine.hold(values % 5)).tolist() == [3 * (values % 5).sum(), 780]
    assert engine.sum_by(adder, values % 5).tolist() == [3 * (values % 5).sum(), 780]  # rows here
    assert [cut.start for cut in engine.cuts(40)] == [*range(0, 40, block)]
    begun = [engine.begin(sums, place, held, values) for place in range(len(seen))]
    assert sum(one.result() for one in begun).tolist() == (table * values).sum(axis=1).tolist()
    assert engine.do(divided, 2, values).result() == 20.0
    large = np.ones((1, 1 << 18))
    assert engine.do(partial(sums, large), large).result().tolist() == [1 << 18]
    with pytest.raises(ZeroDivisionError):
        engine.do(partial(divided, 0), values).result()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"encryption": "lattice"},
        {"subsample": 0.5, "colsample": 0.5, "early_stopping_rounds": 1, "validation_share": 0.3},
        {"goss_top": 0.2, "goss_other": 0.2, "encryption": "lattice"},
        {"goss_top": 0.2, "goss_other": 0.2, "learning_rate": 1.0, "classes": 3},
    ],
)
def test_trees_are_those_of_one_process(
    connection: Connection, settings: dict, monkeypatch: pytest.MonkeyPatch
):
    objective = "multiclass" if "classes" in settings else "binary"
    params = SETTINGS.model_copy(update=settings)
    job = make_job(200, 0, 6, params, objective=objective, with_offset=True)
    model, score = job.oracle()
    monkeypatch.setattr(ENGINE, "chosen", Cluster(connection, block=71))
    again, scores = job.oracle()
    assert again == model
    np.testing.assert_array_equal(scores, score)


@pytest.mark.parametrize("block", [64, 1000])
def test_bins_and_profiles_are_those_of_one_process(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, block: int
):
    """A column goes to a worker whole, in pieces; categories and short columns stay here."""
    rng = np.random.default_rng(block)
    some = rng.normal(size=700)
    some[::7] = np.nan
    columns = {
        "normal": some,
        "few": rng.integers(0, 3, 700).astype(np.float64),
        "one": np.full(700, -0.0),
        "none": np.full(700, np.nan),
        "level": np.array([*"ab", None, "c"] * 175, object),
    }
    features = MadeColumns([*columns], columns.__getitem__, ["level"])
    rules = {"normal": "decreasing"}

    def found() -> tuple[Any, ...]:
        binned = bin_columns(features, 6, 20, rules)
        bins = [(c.name, c.bins, c.categories, c.has_missing, c.monotone) for c in binned.columns]
        edges = [None if c.edges is None else c.edges.tolist() for c in binned.columns]
        return bins, edges, binned.codes.tolist(), profiles(features)

    whole = found()
    engine = Cluster(connection, block=block)
    monkeypatch.setattr(ENGINE, "chosen", engine)
    begun = count_calls(monkeypatch, Cluster, "begin_column")
    assert found() == whole
    assert len(begun) == (8 if block < 700 else 0)
    with pytest.raises(ValueError, match="column 'level' is categorical: it cannot be decreasing"):
        bin_columns(features, 6, 20, {"level": "decreasing"})


def test_with_hosts(connection: Connection, monkeypatch: pytest.MonkeyPatch):
    job = make_job(200, 1, 6, BoostParams(trees=1, depth=2, max_bins=8, encryption="lattice"))
    monkeypatch.setattr(ENGINE, "chosen", Cluster(connection, block=90))
    assert_same_model(job)


@pytest.mark.parametrize("hosts", [1, 2])
def test_ids_are_evaluated_by_workers(connection: Connection, monkeypatch, hosts: int):
    """Blinded, answered, evaluated, unblinded: with the messages of one process, byte for byte."""
    monkeypatch.setattr(dh_oprf, "CHUNK", 32)
    sets = [numbered(*range(100)), *(numbered(*range(50 + j, 180)) for j in range(hosts))]
    given = count_calls(monkeypatch, Cluster, "do")

    def told(engine: Engine) -> tuple[dict, list[list[int]]]:
        seen: dict[tuple[str, str], list[bytes]] = {}

        def watch(way: str, kind: str, payload: bytes) -> None:
            seen.setdefault((way, kind), []).append(bytes(payload))

        fixed = [Randomness(bytes([party]) * 32) for party in range(1 + hosts)]
        with ENGINE.instead(engine):
            rows = align(
                sets,
                watch=watch,
                of_guest={"randomness": fixed[0]},
                of_hosts={j: {"randomness": fixed[1 + j]} for j in range(hosts)},
            )
        # Those of several hosts are each in its own order.
        order = sorted if hosts > 1 else list
        return {of: order(payloads) for of, payloads in seen.items()}, [of.tolist() for of in rows]

    here = told(Embedded())
    assert not given
    assert told(Cluster(connection)) == here
    chunks = [-(-len(own) // 32) for own in sets]
    # The guest blinds once and unblinds for each host; hosts answer, and evaluate their own.
    assert len(given) == chunks[0] * (1 + 2 * hosts) + sum(chunks[1:])


def test_what_is_no_element_is_found_by_a_worker(connection: Connection):
    points = np.frombuffer(group.GENERATOR * 3 + bytes(32), np.uint8).reshape(4, 32)
    begun = Cluster(connection).do(group.multiply, points, (5).to_bytes(32, "little"))
    with pytest.raises(group.InvalidPoint, match=r"^row 3 is not an element") as found:
        begun.result()
    assert found.value.index == 3


def count_calls(patch: pytest.MonkeyPatch, kind: type, name: str) -> list[str]:
    """The calls of a method from now on."""
    calls, given = list[str](), getattr(kind, name)

    def called(*arguments: Any) -> Any:
        calls.append(name)
        return given(*arguments)

    patch.setattr(kind, name, called)
    return calls


def until(found: Callable[[], bool]) -> None:
    """Wait for a condition, also in a thread, which nothing else would end."""
    waiting, ends = threading.Event(), time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < ends, "what was waited for has not come"
        waiting.wait(0.05)


def train(job: Job, engine: Cluster, after: Callable[[int], None]) -> tuple[Any, Any]:
    """The oracle over a cluster, with something that happens after each tree."""

    def progress(step: TreeDone) -> None:
        after(step.tree)

    with ENGINE.instead(engine):
        return asyncio.run(Pooled(job.blocks, job.rows, job.params).train(progress, Checkpoints()))


def test_a_worker_of_another_version_is_refused(connection: Connection, monkeypatch):
    own = scheduler.versions()
    monkeypatch.setattr(scheduler, "versions", lambda: {**own, "numpy": "1.0"})
    with pytest.raises(ConfigError) as refused:
        Connection(connection.access)
    text = str(refused.value)
    assert text.startswith("[party] cluster: worker tls://127.0.0.1:") and "\n" not in text
    assert f"runs numpy {own['numpy']}, this party 1.0: install the same there" in text


def test_a_worker_that_computes_otherwise_is_refused(connection: Connection, monkeypatch):
    monkeypatch.setattr(scheduler, "arithmetic", os.getpid)  # other in each process
    with pytest.raises(ConfigError, match="use workers on machines like this one"):
        Connection(connection.access)


@pytest.mark.parametrize("gone", ["get_versions", "run"])
def test_a_worker_that_ends_while_it_is_looked_at_is_not_said_to_be_another_kind(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, gone: str
):
    said: list[str] = []
    own = Connection(connection.access, said.append)
    lost, *others = own.workers
    ask = getattr(own.client, gone)

    def without_it(*given: Any, **how: Any) -> Any:
        found = ask(*given, **how)
        if gone == "run":
            return {**found, lost: OSError("connection refused")}
        return {**found, "workers": {one: found["workers"][one] for one in others}}

    own.workers.clear()
    with monkeypatch.context() as patch:
        patch.setattr(own.client, gone, without_it)
        own.look()
    assert [*own.workers] == others and not said
    own.look()
    assert own.workers.keys() == {lost, *others} and not said  # it was there all the time
    own.workers.pop(lost)
    with monkeypatch.context() as patch:
        patch.setattr(own.client, gone, without_it)
        for _ in range(4):  # one for which no way is open
            own.look()
    assert said == [f"note: worker {lost} does not answer the scheduler: end it, or open the way to it"]
    own.close()


def test_blocks_are_spread_and_stay():
    even = _spread([""] * 8, {"a": 1, "b": 1})
    assert sorted(even) == ["a"] * 4 + ["b"] * 4
    wider = _spread(even, {"a": 1, "b": 1, "c": 2})
    assert [wider.count(w) for w in "abc"] == [2, 2, 4]
    assert all(now in (before, "c") for before, now in zip(even, wider, strict=True))
    assert set(_spread(wider, {"c": 1})) == {"c"}


# ---------------------------------------------------------------------------------------- jobs


def test_jobs_come_to_the_same(connection: Connection, tmp_path: Path, keys: Path):
    """The models of all parties, the figures and the scores of a batch."""
    room = Room(Federation(tmp_path, keys, guest_listens=True))
    for name in HOSTS:
        policy = room.federation.parties[name].settings.setdefault("policy", {})
        policy["encryptions"] = ["lattice"]
    job = {**JOB, "secureboost": {**JOB["secureboost"], "encryption": "lattice", "trees": 2}}
    with pytest.MonkeyPatch.context() as patch:
        room.patch(patch)
        aligned = room.align().alignment
        first = room.train(job)
        room.score(first, out="first.csv")
        patch.setattr(ENGINE, "chosen", Cluster(connection, block=150))
        second = room.train(job, alignment=aligned.name)
        assert any(SLOWER.partition(" columns ")[2] in line for line in room.said["insurer"].lines)
        room.score(second, out="second.csv")
    assert kept(room, first) == kept(room, second)
    folder = room.federation.guest.folder
    assert (folder / "first.csv").read_bytes() == (folder / "second.csv").read_bytes()


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (
            {"cluster": "scheduler:8786"},
            "[party] cluster must be tls://host:port (or tcp://127.0.0.1:port)",
        ),
        ({"cluster": "tls://scheduler:8786"}, 'cluster = "tls://..." needs cluster_ca, a path'),
        (
            {"cluster": "tcp://10.0.0.1:8786"},
            "to another machine is not encrypted: write tls://, or set",
        ),
        (
            {"cluster": "tcp://[::1]:8786", "cluster_ca": "ca.pem"},
            'cluster_ca is for cluster = "tls://...',
        ),
        (
            {"cluster_key": "key.pem"},
            "cluster_key is of a cluster: name it by cluster, or remove the line",
        ),
        ({"cluster_in_clear": True}, "cluster_in_clear is of a cluster: name it by cluster"),
        ({"cluster": "tcp://localhost:8786"}, ""),
        ({"cluster": "tcp://127.0.0.1:8786"}, ""),
        ({"cluster": "tcp://scheduler:8786", "cluster_in_clear": True}, ""),
    ],
)
def test_what_a_party_file_says_of_a_cluster(tmp_path: Path, keys: Path, settings: dict, error: str):
    guest = Federation(tmp_path, keys, guest_listens=True).guest
    guest.settings["party"].update(settings)
    guest.write()
    if not error:
        assert load_party(guest.file).party.cluster == settings["cluster"]
        return
    with pytest.raises(ConfigError) as refused:
        load_party(guest.file)
    assert error in str(refused.value)


@pytest.mark.parametrize(("engine", "asked"), [("ecdh", True), ("ot", False), ("vole", False)])
def test_an_alignment_asks_for_workers_where_they_save_something(
    tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, engine: str, asked: bool
):
    def refuse_workers(*_: object) -> None:
        raise ConfigError("workers are asked for")

    monkeypatch.setattr(cluster, "on_cluster", refuse_workers)
    guest = Federation(tmp_path, keys, guest_listens=True).guest
    guest.settings["party"]["cluster"] = "tcp://127.0.0.1:8786"
    guest.write()
    done = command("align", str(guest.file), "--engine", engine, "--wait", "0")
    # By the others it goes on to the hosts, who are not there.
    assert ("workers are asked for" in done.failed(2 if asked else 7)) == asked


SLOWER = (
    "{} rows of {} columns fit one process on this machine, which will be faster than a cluster as this "
    "one: leave cluster out of [party], or --local-cluster"
)


def test_where_a_cluster_is_not_worth_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cluster, "memory_here", lambda: 8 << 30)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert cluster._is_slower(2, 20_000_000, 20)
    assert cluster._is_slower(64, 1_000_000, 20)
    assert not cluster._is_slower(8, 20_000_000, 20)
    assert not cluster._is_slower(2, 50_000_000, 20)  # there is no room for it


def test_doctor_looks_at_the_cluster(connection: Connection, tmp_path: Path, keys: Path, monkeypatch):
    guest = Federation(tmp_path, keys, guest_listens=True).guest
    guest.settings["party"]["cluster"] = "tcp://127.0.0.1:1"
    guest.write()
    party = load_party(guest.file)
    found: list[CheckResult] = []
    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "_REACH", 0.2)
        assert not check_cluster(party, [(100, 3)], found.append)
    assert [one.level for one in found] == ["FAIL"]
    assert found[0].text.startswith("cluster: no scheduler answers at tcp://127.0.0.1:1 (")
    monkeypatch.setattr(cluster, "access_of", lambda party: connection.access)
    found.clear()
    assert check_cluster(party, [(1_000_000, 20)], found.append)
    levels, texts = [one.level for one in found], [one.text for one in found]
    assert levels == ["ok", "note", "ok", "ok", "note"]
    assert re.fullmatch(
        r"cluster: 2 workers \(2 threads, 1.1 GB each at least\) of the cluster at tls://127.0.0.1:\d+, "
        "of this party's versions",
        texts[0],
    )
    assert texts[2] == (
        "cluster: this process reads the table and sends workers what they need: its files have less "
        "than 32 MB"
    )
    assert texts[3] == "cluster: 1,000,000 rows of 20 columns take some 0.36 GB of a worker"
    assert texts[4] == f"cluster: {SLOWER.format('1,000,000', 20)}"
    monkeypatch.setattr(held, "WORTH", 0)
    found.clear()
    assert check_cluster(party, [(1_000_000, 20)], found.append)
    assert [one.text for one in found][2:4] == [
        "cluster: workers read the table (1 file) and hold its columns of plain cells",
        "cluster: 1,000,000 rows of 20 columns take some 0.44 GB of a worker",
    ]
    monkeypatch.setattr(held, "prints_of", lambda source: [(source.path, Print(1, b""))])
    found.clear()
    assert check_cluster(party, [], found.append)
    here = "cluster: this process reads the table and sends workers what they need: "
    why = r"worker tls://127.0.0.1:\d+ does not see it as this process does \(table.csv: another size\)"
    assert re.fullmatch(re.escape(here) + why, found[-1].text)
    del guest.settings["data"]["path"]
    guest.settings["data"] |= {"source": "postgresql://user@host/name", "table": "policies"}
    guest.write()
    party = load_party(guest.file)
    found.clear()
    assert check_cluster(party, [], found.append)
    assert found[-1].text == f"{here}it comes from a database or a query"
    found.clear()
    assert not check_cluster(party, [(50_000_000, 20)], found.append)
    assert found[-1].text.endswith("GB of a worker, which has 1.07: start more workers, or larger ones")


# -------------------------------------------------------------------------------- losses


def workers_of(connection: Connection) -> dict[str, int]:
    """Their processes by address."""
    return {address: int(str(pid)) for address, pid in connection.client.run(os.getpid).items()}


def test_workers_of_a_command_leave_a_terminals_interrupt_to_it(connection: Connection):
    before = workers_of(connection)
    for pid in before.values():
        os.kill(pid, signal.SIGINT)
    engine = Cluster(connection, block=2)
    assert engine.gather(engine.make(third, engine.hold(np.arange(9)))).tolist() == [
        i / 3 for i in range(9)
    ]
    assert workers_of(connection) == before


def test_workers_without_memory_end_a_job(connection: Connection, monkeypatch: pytest.MonkeyPatch):
    """In one line, not never."""
    until(lambda: len(connection.client.nthreads()) == 2)
    own, rows = Connection(connection.access), np.arange(40)
    engine = Cluster(own, block=20)
    with pytest.raises(ClusterError, match="has too little memory for its part of the rows: start more"):
        engine.gather(engine.make(exhaust, engine.hold(rows)))
    monkeypatch.setattr(scheduler, "_FULL_FOR", 0.5)
    monkeypatch.setattr(scheduler, "_TAKEN", 0.2)
    monkeypatch.setattr(cluster_engine, "_LOOK", 0.1)
    own.client.run(partial(fill_up, 1e-6))
    try:
        until(lambda: len(full(own)) == 2)
        with pytest.raises(ClusterError, match="has had too little memory to go on for 0 s"):
            engine.gather(engine.make(third, engine.hold(rows)))
    finally:
        own.client.run(partial(fill_up, 0.8))
    until(lambda: not full(own))
    assert engine.gather(engine.make(third, engine.hold(rows))).tolist() == (rows / 3).tolist()
    engine.close()


def full(connection: Connection) -> list[str]:
    """The workers without memory."""
    workers = connection.client.scheduler_info()["workers"]
    return [address for address, about in workers.items() if about["status"] == "paused"]


def kill_one(connection: Connection) -> str:
    """Kill a worker, in whose place another one will come; returns its address."""
    connection.look()
    address, pid = workers_of(connection).popitem()
    os.kill(pid, signal.SIGKILL)
    return address


@pytest.mark.slow
def test_a_worker_is_killed_that_has_a_column(mortal: Connection, monkeypatch: pytest.MonkeyPatch):
    columns = {f"c{i}": np.random.default_rng(i).normal(size=900) for i in range(5)}
    whole = bin_columns(columns, 8, 20)
    killed, send = list[str](), Cluster.send

    def send_and_kill(engine: Cluster, value: object, worker: str | None) -> Any:
        sent = send(engine, value, worker)
        if not killed:  # it has a piece of a column
            killed.append(kill_one(mortal))
        return sent

    monkeypatch.setattr(Cluster, "send", send_and_kill)
    with ENGINE.instead(Cluster(mortal, block=200)):
        again = bin_columns(columns, 8, 20)
    assert killed and again.codes.tolist() == whole.codes.tolist()


@pytest.mark.slow
def test_a_worker_is_killed_in_a_tree_and_another_one_comes(mortal: Connection, monkeypatch):
    job = make_job(300, 0, 6, SETTINGS.model_copy(update={"trees": 3}))
    model, score = job.oracle()
    engine = Cluster(mortal, block=37)
    advance, done, killed = Frontier.advance, list[int](), list[str]()

    def advance_and_kill(frontier: Frontier, *given: Any) -> None:
        advance(frontier, *given)
        if not killed and done:  # within the second tree
            killed.append(kill_one(mortal))

    monkeypatch.setattr(Frontier, "advance", advance_and_kill)

    def after(tree: int) -> None:
        done.append(tree)
        there = mortal.client
        if tree == 2:
            assert killed
            until(lambda: len(set(there.nthreads()) - {*killed}) == 2)
        if tree == 3:
            assert len(mortal.workers) == 2 and killed[0] not in mortal.workers
            held = there.has_what()
            assert all(held[address] for address in mortal.workers)  # the late one's, too

    again, scores = train(job, engine, after)
    assert again == model and done == [1, 2, 3]
    np.testing.assert_array_equal(scores, score)


@pytest.mark.slow
def test_a_worker_is_killed_in_an_iteration_of_a_linear_model(
    mortal: Connection, monkeypatch: pytest.MonkeyPatch
):
    job = make_glm_job("poisson", rows=150)
    fit, coefficients = job.pooled()
    gradient, killed = Block.gradient, list[str]()

    def kill_and_add(block: Block, *given: Any) -> Any:
        if not killed and block.beta.any():  # after the first step
            killed.append(kill_one(mortal))
        return gradient(block, *given)

    monkeypatch.setattr(Block, "gradient", kill_and_add)
    monkeypatch.setattr(ENGINE, "chosen", Cluster(mortal, block=60))
    again, others = job.pooled()
    assert killed and others.tolist() == coefficients.tolist()
    assert again.score.tolist() == fit.score.tolist() and again.iterations == fit.iterations


def test_a_worker_is_killed_while_rows_are_scored(mortal: Connection, monkeypatch: pytest.MonkeyPatch):
    places = [np.arange(ROWS)] * 2
    whole, _ = score(places)
    do, killed = Cluster.do, list[str]()

    def do_and_kill(engine: Cluster, *given: Any) -> Any:
        begun = do(engine, *given)
        if not killed:
            killed.append(kill_one(mortal))
        return begun

    monkeypatch.setattr(Cluster, "do", do_and_kill)
    monkeypatch.setattr(ENGINE, "chosen", Cluster(mortal, block=60))
    again, served = score(places)
    assert killed and again.tolist() == whole.tolist() and served == [ROWS, ROWS]


@pytest.mark.slow
@pytest.mark.usefixtures("small_batches")
def test_a_worker_is_killed_amid_encrypted_sums(mortal: Connection, monkeypatch: pytest.MonkeyPatch):
    job = make_job(150, 1, 6, BoostParams(trees=1, depth=2, max_bins=8, encryption="lattice"))
    result, killed = Accumulator.result, list[str]()

    def kill_and_add(sums: Accumulator) -> Any:
        if not killed:  # pieces are on their way to be added up
            killed.append(kill_one(mortal))
        return result(sums)

    monkeypatch.setattr(Accumulator, "result", kill_and_add)
    monkeypatch.setattr(ENGINE, "chosen", Cluster(mortal, block=60))
    assert_same_model(job)
    assert killed


def test_a_late_worker_of_another_version_is_left_out(mortal: Connection, monkeypatch):
    said: list[str] = []
    own = Connection(mortal.access, said.append)
    engine = Cluster(own, block=2)
    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "versions", lambda: {"python": "2.7"})
        killed = kill_one(own)
        until(lambda: len(set(own.client.nthreads()) - {killed}) == 2)
        held = engine.hold(np.arange(9))
        assert engine.gather(engine.make(third, held)).tolist() == [i / 3 for i in range(9)]
        own.look()
    assert len(own.workers) == 1 and len(said) == 1 and "runs python" in said[0]
    until(lambda: len(set(own.client.nthreads()) - set(own.workers) - {killed}) == 1)
    held_by = own.client.has_what()
    assert not [worker for worker in held_by if worker not in own.workers and held_by[worker]]
    engine.close()


@pytest.mark.slow
def test_all_workers_are_killed_beside_one_that_is_left_out(
    mortal: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What may run at those alone that fit waits for none of them where others came in their places."""
    mortal._left_out.add("tls://127.0.0.1:1")
    begun = Cluster(mortal).do(third_once_there, tmp_path / "go", np.arange(9))
    wait, killed = mortal.wait, set[str]()

    def kill_and_wait(*given: Any) -> bool:
        if not killed:
            killed.update(mortal.workers)
            for pid in workers_of(mortal).values():
                os.kill(pid, signal.SIGKILL)
            until(lambda: len(set(mortal.client.nthreads()) - killed) == 2)
            (tmp_path / "go").touch()
        return wait(*given)

    monkeypatch.setattr(mortal, "wait", kill_and_wait)
    assert begun.result().tolist() == [i / 3 for i in range(9)]
    assert killed and not killed & mortal.workers.keys()


class Absent:
    """Of a connection: a scheduler that is away for some tries, and its client."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.status, self.away = "running", 0
        self.there: dict[str, dict[str, object]] = {
            "tls://w:1": {"nthreads": 2, "status": "running", "memory_limit": 4_000_000_000}
        }
        monkeypatch.setattr(Connection, "_connect", lambda connection: self.connect(connection))
        monkeypatch.setattr(scheduler, "_PAUSE", 0.0)

    def connect(self, connection: Connection) -> None:
        if self.away:
            self.away -= 1
            raise OSError
        self.status = "running"
        connection._client = self  # type: ignore[assignment]
        connection.workers = dict.fromkeys(self.there, 2)

    def scheduler_info(self, n_workers: int) -> dict[str, dict[str, dict[str, object]]]:
        return {"workers": self.there}

    def close(self, timeout: float) -> None:
        self.status = "closed"


def test_it_is_said_that_a_scheduler_is_waited_for_and_that_it_is_back(monkeypatch) -> None:
    absent, said = Absent(monkeypatch), list[str]()
    connection = Connection(Access("tls://s:1"), said.append)
    assert not connection.recover() and said == []
    absent.status, absent.away = "closed", 3
    assert connection.recover()
    assert said == [
        "the cluster at tls://s:1: its scheduler is gone: waiting 300 s for it to come back",
        "rows lie with 1 worker (2 threads, 4.0 GB each at least) of the cluster at tls://s:1 again",
    ]
    said.clear()
    absent.there = {}
    monkeypatch.setattr(scheduler, "_PATIENCE", 0.0)
    with pytest.raises(ClusterError, match="no worker of it is left, and none came back"):
        connection.recover()
    assert said == ["the cluster at tls://s:1: no worker of it is left: waiting 0 s for it to come back"]


def test_a_worker_that_is_not_heard_of_is_named_once(monkeypatch) -> None:
    absent, said, clock = Absent(monkeypatch), list[str](), [0.0]
    monkeypatch.setattr(scheduler.time, "monotonic", lambda: clock[0])
    connection = Connection(Access("tls://s:1"), said.append)
    worker = absent.there["tls://w:1"]
    for clock[0], worker["last_seen"] in ((0, 1), (50, 2), (109, 2)):
        connection.look()
        assert said == []
    for clock[0] in (110, 200):
        connection.look()
        assert [text.partition(":")[0] for text in said] == ["note"]
    assert said[0].startswith(
        "note: worker tls://w:1 has not been heard of for 60 s: the job goes on when"
    )
    for clock[0], worker["last_seen"] in ((210, 3), (270, 3)):
        connection.look()
    assert len(said) == 2


# ------------------------------------------------------------------- as people start a cluster


class Processes:
    """A scheduler and workers, as people start them."""

    def __init__(self, folder: Path) -> None:
        import distributed

        made = distributed.Security.temporary()
        self.folder = folder
        names = {"ca": "tls_ca_file", "cert": "tls_worker_cert", "key": "tls_worker_key"}
        self.files = {name: folder / f"{name}.pem" for name in names}
        for name, field in names.items():
            self.files[name].write_text(getattr(made, field))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tls://127.0.0.1:{free.getsockname()[1]}"
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []

    @property
    def access(self) -> Access:
        return Access(self.address, *(self.files[name] for name in ("ca", "cert", "key")))

    def start(self, what: str, *arguments: str) -> subprocess.Popen[bytes]:
        tls = [
            f"--tls-{n}={self.files[k]}"
            for n, k in (("ca-file", "ca"), ("cert", "cert"), ("key", "key"))
        ]
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *arguments, *tls]
        paths = os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])
        with (self.folder / f"{what}.log").open("ab") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": paths}, cwd=self.folder
            )

    def start_scheduler(self) -> None:
        port = self.address.rpartition(":")[2]
        self.scheduler = self.start("scheduler", "--host=127.0.0.1", f"--port={port}", "--no-dashboard")

    def start_worker(self) -> None:
        worker = self.start(
            "worker", self.address, "--no-nanny", "--nthreads=1", "--no-dashboard", "--host=127.0.0.1"
        )
        self.workers.append(worker)

    def end(self) -> None:
        for process in [self.scheduler, *self.workers]:
            if process is not None:
                process.kill()
                process.wait()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(tmp_path)
    try:
        yield processes
    finally:
        processes.end()


def connected(processes: Processes, workers: int) -> Connection:
    """Once so many workers are there."""
    found: list[Connection] = []

    def there() -> bool:
        if not found:
            try:
                found.append(Connection(processes.access))
            except ConfigError:  # not yet
                return False
        found[0].look()
        return len(found[0].workers) == workers

    until(there)
    return found[0]


@pytest.mark.slow
def test_whatever_is_lost_or_comes_the_model_is_the_same(processes: Processes, monkeypatch):
    """In one training: a worker killed in the middle of a tree, another one that joins, and a scheduler
    that is started anew."""
    job = make_job(300, 0, 6, SETTINGS.model_copy(update={"trees": 4}))
    model, score = job.oracle()
    processes.start_scheduler()
    processes.start_worker()
    processes.start_worker()
    connection = connected(processes, 2)
    engine = Cluster(connection, block=37)
    first = sorted(connection.workers)
    advance, during, killed = Frontier.advance, [0], list[int]()

    def advance_and_kill(frontier: Frontier, *given: Any) -> None:
        advance(frontier, *given)
        if not killed and during == [1]:  # within the second tree
            killed.append(processes.workers[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(Frontier, "advance", advance_and_kill)

    def after(tree: int) -> None:
        during[0] = tree
        if tree == 2:
            assert killed and len(connection.workers) == 1
            processes.start_worker()
            until(lambda: len(connection.client.nthreads()) == 2)
        if tree == 3:
            assert sorted(connection.workers) != first and len(connection.workers) == 2
            held = connection.client.has_what()
            assert all(held.values())  # the late one, too
            processes.end()
            processes.workers.clear()
            processes.start_scheduler()
            processes.start_worker()

    again, scores = train(job, engine, after)
    assert again == model
    np.testing.assert_array_equal(scores, score)
    assert during == [4]
    engine.close()


@pytest.mark.slow
def test_a_worker_that_stands_still_is_named_and_given_up(processes: Processes, monkeypatch):
    """As on a machine that is suspended: its connections stand, and nothing comes."""
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL", "20s")
    monkeypatch.setattr(scheduler, "_UNHEARD_FOR", 5.0)
    job = make_job(300, 0, 6, SETTINGS.model_copy(update={"trees": 3}))
    model, score = job.oracle()
    processes.start_scheduler()
    processes.start_worker()
    processes.start_worker()
    connection = connected(processes, 2)
    said, stopped, done = list[str](), list[int](), list[int]()
    monkeypatch.setattr(connection, "_say", said.append)
    advance = Frontier.advance

    def advance_and_stop(frontier: Frontier, *given: Any) -> None:
        advance(frontier, *given)
        if not stopped and done:  # within the second tree
            stopped.append(processes.workers[0].pid)
            os.kill(stopped[0], signal.SIGSTOP)

    monkeypatch.setattr(Frontier, "advance", advance_and_stop)
    again, scores = train(job, Cluster(connection, block=37), done.append)
    assert stopped and again == model
    np.testing.assert_array_equal(scores, score)
    assert [text for text in said if "has not been heard of for" in text]


@pytest.mark.slow
def test_a_cluster_that_stays_away_ends_the_job(processes: Processes, monkeypatch):
    monkeypatch.setattr(scheduler, "_PATIENCE", 0.0)
    monkeypatch.setattr(scheduler, "_REACH", 1.0)
    processes.start_scheduler()
    processes.start_worker()
    connection = connected(processes, 1)
    engine = Cluster(connection, block=5)
    held = engine.hold(np.arange(20))
    processes.end()
    with pytest.raises(ClusterError, match="scheduler is gone, and none came back within 0 s"):
        engine.gather(held)
    with pytest.raises(ConfigError, match=r"^no scheduler answers at tls://127.0.0.1:\d+ "):
        Connection(processes.access)


def test_the_last_worker_is_killed_with_what_was_to_come_here(processes: Processes, monkeypatch):
    """Dask itself would wait without an end for a worker that makes it anew."""
    processes.start_scheduler()
    processes.start_worker()
    connection = connected(processes, 1)
    monkeypatch.setattr(scheduler, "_PATIENCE", 0.0)
    fetch, killed = connection.fetch, list[int]()

    def kill_and_fetch(tasks: Any) -> Any:
        if not killed:
            killed.append(processes.workers[0].pid)
            os.kill(killed[0], signal.SIGKILL)
            processes.workers[0].wait()
        return fetch(tasks)

    monkeypatch.setattr(connection, "fetch", kill_and_fetch)
    begun = Cluster(connection).do(third, np.arange(9))
    with pytest.raises(ClusterError, match="no worker of it is left, and none came back within 0 s"):
        begun.result()
    assert killed


def test_all_workers_of_a_scheduler_are_seen(connection: Connection, monkeypatch: pytest.MonkeyPatch):
    """Some versions of Dask tell of five where nobody asks for more."""
    client, asked = connection.client, list[int]()
    ask = client.scheduler_info

    def scheduler_info(n_workers: int = 1) -> Any:
        asked.append(n_workers)
        return ask(n_workers=n_workers)

    monkeypatch.setattr(client, "scheduler_info", scheduler_info)
    connection.look()
    assert len(connection.workers) == len(connection.memory) == 2 and asked == [-1, -1]


def test_the_room_of_a_cluster_whose_scheduler_is_gone_is_no_reason_to_fail(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
):
    """Who has workers do something waits for it."""
    assert 0 < Cluster(connection).room < math.inf

    def gone(*_: Any, **__: Any) -> Any:
        raise OSError

    monkeypatch.setattr(connection.client, "scheduler_info", gone)
    assert Cluster(connection).room == math.inf


@pytest.mark.slow
def test_a_cluster_for_as_long_as_a_command_runs(tmp_path: Path, keys: Path):
    """Of a guest and of a host that serves."""
    program = (sys.executable, "-m", "vfl.cli")
    with ended(Federation(tmp_path, keys, guest_listens=True)) as federation:
        for name in HOSTS:
            policy = federation.parties[name].settings.setdefault("policy", {})
            policy["encryptions"] = ["lattice"]
        federation.serve(HOSTS[0])
        other = federation.parties[HOSTS[1]].start("serve", "--local-cluster", "1", program=program)
        other.until("dialling insurer")
        assert "rows lie with 1 worker (1 thread, " in other.err
        guest = federation.guest
        guest.align().ok()
        job = {**JOB, "secureboost": {**JOB["secureboost"], "encryption": "lattice"}}
        plain = guest.train(job).ok()
        local = ("job.toml", *WAIT, "--json", "--local-cluster", "2")
        there = guest.start("train", *local, program=program).wait().ok()
        assert "rows lie with 2 workers (2 threads, " in there.err
        assert there.json["metrics"] == plain.json["metrics"]
        given = ("--model", "claims", "--data", "new.csv", "--out", "scores.csv", *WAIT)
        guest.start("score", *given, "--local-cluster", "1", program=program).wait().ok()
        assert not [*(guest.folder / "vfl-store" / "scratch").glob("cluster-*")]
