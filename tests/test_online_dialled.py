"""`vfl online` of a guest whose host dials it, between processes: lookups beside a training, and for
several models."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from federation import JOB, Federation, Party, ended, free_port
from room import Room
from test_online_server import port_of

from vfl.jobs.doctor import examine
from vfl.party.config import load_party

LATER = {**JOB, "job": {**JOB["job"], "name": "later"}}
PATIENCE = 60.0


@pytest.fixture
def made(tmp_path: Path, keys: Path) -> Iterator[Federation]:
    """A model that was trained in this process, and a host that serves in its own."""
    folder = tmp_path / "dialled"
    with ended(Federation(folder, keys, hosts=("registry",), guest_listens=True)) as federation:
        guest, registry = federation.guest, federation.parties["registry"]
        registry.settings["policy"]["directories"] = True
        registry.settings["peers"]["insurer"]["online"] = at = f"127.0.0.1:{free_port()}"
        with pytest.MonkeyPatch.context() as patch:
            room = Room(federation)
            room.patch(patch)
            room.align()
            room.train(JOB)
        federation.serve()
        guest.settings["online"] = {
            "listen": "127.0.0.1:0",
            "listen_for_hosts": at,
            "plain_http": True,
            "without_tokens": True,
            "refresh": 0.2,
            "hosts": {"registry": {"deadline": 60_000}},
        }
        yield federation


@pytest.mark.slow
def test_a_host_that_dials_answers_lookups_beside_a_training_and_for_several_models(
    made: Federation,
) -> None:
    guest, registry = made.guest, made.parties["registry"]
    second = guest.settings["online"]["listen_for_hosts"]
    plate = made.tables["new"]["plate"][0]
    row = {"plate": plate, "density": 0.5, "area": None}
    running = guest.start("online")
    base = f"http://127.0.0.1:{port_of(running)}"
    with httpx.Client(base_url=base, trust_env=False, timeout=PATIENCE) as client:

        def ask(model: str) -> Any:
            return client.post("/v1/score", json={"model": model, "rows": [row]})

        running.until("serving claims-")
        first = ask("claims").json()
        assert first["away"] == [] and first["hosts"]["registry"]["state"] == "here"
        training = guest.start_train(LATER)
        while training.process.poll() is None:
            assert in_short(ask("claims").json()) == in_short(first)
            time.sleep(0.02)  # so that the training gets on
        training.wait().ok()
        running.until("serving later-")
        later = in_short(ask("later").json())
        assert later[1] == [] and later[0] != first["model"]
        assert in_short(ask("claims").json()) == in_short(first)  # over a session of its own
        assert in_short(ask("later").json()) == later
        assert made.serving["registry"].err.count("for lookups") == 1

        # The doctor leaves the service's place alone, and tries it from the other end.
        lines = examined(guest)
        assert any(f"awaits registry at {second}: not tried" in line for line in lines)
        assert not any(line.startswith("FAIL  ") and second in line for line in lines), lines
        assert any(line.startswith(f"ok    insurer at {second}: ") for line in examined(registry))

        # A host that ends while nobody asks is taken back, however it ended.
        for number in (signal.SIGTERM, signal.SIGKILL):
            before = made.serving.pop("registry")
            before.signal(number)
            before.wait()
            until(lambda: "registry" in str(client.get("/readyz").json()["away"]))
            made.serving["registry"] = made.parties["registry"].start("serve")
            until(lambda: not client.get("/readyz").json()["away"])
            assert in_short(ask("claims").json()) == in_short(first)
    running.signal(signal.SIGTERM)
    assert running.wait().code == 0
    hint = "(it listens there only while its `vfl online` runs)"
    assert any(line.startswith("FAIL") and hint in line for line in examined(registry))
    assert any(f"listening on {second}, waiting" in line for line in examined(guest))


def until(found: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < end
        time.sleep(0.05)


def in_short(answer: Any) -> tuple[str, list[str], Any]:
    return answer["model"], answer["away"], answer["results"]


def examined(party: Party) -> list[str]:
    """What the doctor says."""
    lines: list[str] = []
    asyncio.run(examine(load_party(party.file), 2.0, lambda found: lines.append(found.line)))
    return lines
