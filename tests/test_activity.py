"""What a party's commands are doing, as `vfl status` tells it."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import command
from federation import JOB, Federation, Party, kill
from kept_parties import copy_parties
from room import Room, Said

from vfl.jobs import activity
from vfl.jobs.activity import Activity, PeerNow, find_processes
from vfl.news import News
from vfl.party.locks import alone
from vfl.party.store import Store


@pytest.fixture
def insurer(tmp_path: Path) -> Party:
    return copy_parties("v1", tmp_path)["insurer"]


def store_of(party: Party) -> Store:
    return Store(party.folder / "store")


def status(party: Party) -> dict[str, list[dict[str, object]]]:
    return command("status", str(party.file), "--json").ok().json


def test_nothing_runs(insurer: Party) -> None:
    assert status(insurer) == {"running": [], "killed": []}
    assert command("status", str(insurer.file)).ok().out == f"nothing runs in {store_of(insurer).root}\n"


def test_a_job_is_told_with_its_parties_and_its_step(
    insurer: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity, "_PAUSE", 0.0)
    store, said = store_of(insurer), Said()
    now = Activity(store)
    with now.open(), now.job("train", said) as show:
        now.tell(["registry"], ["claims-1"])
        show.progress("training claims, log loss 0.4312", 3, 50)
        show.say(News("a line", "done", "registry"))
        (one,) = status(insurer)["running"]
        assert one["process"] == os.getpid()
        (job,) = one["jobs"]  # type: ignore[misc]
        assert (job["task"], job["parties"], job["about"]) == ("train", ["registry"], ["claims-1"])
        assert (job["step"], job["done"], job["of"]) == ("training claims", 3, 50)
        assert [line for _, line in job["lines"]] == ["a line"]
        text = command("status", str(insurer.file)).ok().out
        assert "train (claims-1) with registry, since " in text and "training claims, 3 of 50" in text
        assert "0.4312" not in text
        for path in store.status().iterdir():
            assert path.stat().st_mode & 0o777 == 0o600
        with now.job("score", said):
            assert len(status(insurer)["running"][0]["jobs"]) == 2  # type: ignore[arg-type]
    assert said.lines == ["a line"] and status(insurer)["running"] == []
    assert [*store.status().iterdir()] == []


def test_a_peer_whose_connection_is_waited_for_is_told(
    insurer: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity, "_PAUSE", 0.0)
    states = {"registry": "away", "bureau": "here"}
    monkeypatch.setattr(activity, "_peer_now", lambda name: PeerNow(name, states[name]))
    now = Activity(store_of(insurer))
    with now.open(), now.job("train", Said()) as show:
        now.tell(sessions=["registry", "bureau"])  # type: ignore[list-item]
        show.progress("training", 3, 50)
        said = "; the connection to registry is broken, and waited for\n"
        assert command("status", str(insurer.file)).ok().out.endswith(said)
        states["registry"] = "here"
        show.say("the connection to registry is back")
        assert "broken" not in command("status", str(insurer.file)).ok().out


def test_a_file_is_written_once_a_second_at_most_and_the_last_step_is_told(
    insurer: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity, "_PAUSE", 0.05)
    written: list[int] = []
    write = Activity._write

    def count(self: Activity) -> None:
        written.append(1)
        write(self)

    monkeypatch.setattr(Activity, "_write", count)
    store = store_of(insurer)
    now = Activity(store)

    async def work() -> None:
        with now.open(), now.job("train", Said()) as show:
            begun = asyncio.get_running_loop().time()
            for step in range(2000):
                show.progress("training", step, 2000)
            while [job.done for job in find_processes(store).running[0].jobs] != [1999]:
                await asyncio.sleep(0.005)
            took = asyncio.get_running_loop().time() - begun
            assert len(written) <= 2 + took / 0.05

    asyncio.run(work())


KILLED = """
import sys, time
from pathlib import Path
from vfl.jobs.activity import Activity
from vfl.party.store import Store
class Show:
    def say(self, line): ...
    def progress(self, what, done, of): ...
now = Activity(Store(Path(sys.argv[1])))
with now.open(), now.job("train", Show(), ["registry"], ["claims-1"]) as show:
    time.sleep(1.1)
    show.progress("training claims", 12, 50)
    print("there", flush=True)
    time.sleep(600)
"""


def test_a_process_that_was_killed_is_told_as_such(insurer: Party) -> None:
    store = store_of(insurer)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(store.root)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process:
        try:
            assert process.stdout.readline() == "there\n"
            (one,) = status(insurer)["running"]
            assert one["process"] == process.pid
            refused = command(
                "models",
                "remove",
                str(insurer.file),
                "--model",
                "hidden-20261128-234035-31aba4",
                "--yes",
            )
            assert refused.code == 0  # it is about another one
        finally:
            process.send_signal(signal.SIGKILL)
    found = status(insurer)
    assert found["running"] == []
    (one,) = found["killed"]
    assert one["process"] == process.pid and one["jobs"][0]["done"] == 12  # type: ignore[index]
    text = command("status", str(insurer.file)).ok().out
    assert text.startswith("nothing runs in ") and "ended without a word" in text and "12 of 50" in text
    with Activity(store).open():  # the next command takes it away
        assert status(insurer)["killed"] == []
    assert [*store.status().iterdir()] == []


def test_a_model_that_a_job_is_about_is_not_removed(
    insurer: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity, "_PAUSE", 0.0)
    claims = "claims-20261128-234030-38f3b4"
    remove = ("models", "remove", str(insurer.file), "--model", claims, "--yes")
    now = Activity(store_of(insurer))
    with now.open():
        with now.job("score", Said()):
            command(*remove).failed(6, claims, "may be in use", f"process {os.getpid()}")
            now.tell(about=[claims])
            command(*remove).failed(6, "may be in use")
        with now.job("align", Said()), now.job("score", Said(), about=["linear-1"]):
            command(*remove).ok()


def test_a_service_of_an_earlier_version_is_told_by_its_lock(insurer: Party) -> None:
    store = store_of(insurer)
    with alone(store.root / "serve.lock", "vfl serve"):
        (one,) = status(insurer)["running"]
        assert one["process"] == os.getpid() and one["jobs"] == []
        assert "is at no job now" in command("status", str(insurer.file)).ok().out


def test_jobs_tell_what_they_are_about(
    tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An alignment and a training, at both parties, as they are told while they run."""
    monkeypatch.setattr(activity, "_PAUSE", 0.0)
    federation = Federation(tmp_path, keys, hosts=("registry",), guest_listens=True)
    room = Room(federation)
    room.patch(monkeypatch)
    room.align()
    store = Store(federation.guest.store)
    seen = []

    def look(self: object, what: str, done: int, of: int | None) -> None:
        seen.extend(job for one in find_processes(store).running for job in one.jobs)

    monkeypatch.setattr(Said, "progress", look)
    model = room.train({**JOB, "secureboost": {"trees": 1, "depth": 1, "encryption": "paillier"}})
    assert seen and {job.task for job in seen} == {"train"}
    last = seen[-1]
    assert last.parties == ["registry"] and model in last.about and len(last.about) == 2
    assert (last.step, last.of) == ("training", 1)
    assert find_processes(store).running == []


def test_a_service_says_that_it_runs_and_a_killed_one_is_told(tmp_path: Path) -> None:
    registry = copy_parties("v1", tmp_path)["registry"]
    registry.settings["party"]["listen"] = "127.0.0.1:0"
    serving = registry.start("serve")
    try:
        serving.until("listening on")
        (one,) = status(registry)["running"]
        command("status", str(registry.file), "--expect", "serve").ok()
        assert command("status", str(registry.file), "--expect", "online").code == 1
        assert one["process"] == serving.process.pid and str(one["command"]).startswith("vfl serve")
        assert one["jobs"] == []
    finally:
        kill(serving)
    found = status(registry)
    assert found["running"] == [] and found["killed"][0]["process"] == serving.process.pid
    said = command("status", str(registry.file)).ok().out
    assert command("status", str(registry.file), "--expect", "serve").code == 1
    assert "ended without a word, as by a kill: vfl serve" in said
