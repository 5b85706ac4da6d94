"""Parties that are killed at random while a job runs, and started again at once, until it is done.

`python benchmarks/faults.py` runs many of them; tests/test_resume.py a few.
"""

import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from federation import WAIT, Federation, Running, free_port, kill, toml

from vfl.jobs.alignments import load_alignment
from vfl.party.store import Store

RECONNECT = 60.0


@dataclass
class Struck:
    """A job that was done in the end."""

    done: dict[str, Any]  # what its command printed
    kills: Counter[str] = field(default_factory=Counter)  # by who was killed
    commands: int = 1  # how often the guest's command was started
    seconds: float = 0.0


def ready(federation: Federation) -> Federation:
    """Serving, on ports that stay the same; parties that are lost are waited for."""
    for name, party in federation.parties.items():
        party.settings["party"]["reconnect"] = RECONNECT
        if name not in ("insurer", "umpire") and "listen" in party.settings["party"]:
            party.settings["party"]["listen"] = f"127.0.0.1:{free_port()}"
    return federation.serve()


def start_train(federation: Federation, job: Mapping[str, Any]) -> Running:
    """The guest's command, which waits for hosts that were just started."""
    (federation.guest.folder / "job.toml").write_text(toml(job))
    return federation.guest.start("train", "job.toml", *WAIT, "--json")


def restart(federation: Federation, name: str) -> None:
    """Serve again after a kill."""
    serving = federation.serving[name]
    if serving.process.poll() is None:
        kill(serving)
    federation.serving[name] = federation.parties[name].start("serve")


def struck(
    federation: Federation,
    start: Callable[[], Running],
    rng: random.Random,
    kills: int,
    pause: float,
    victims: list[tuple[str, ...]],
    patience: float = 600.0,
) -> Struck:
    """Run the guest's command that `start` starts, to its end.

    `kills` times, after a random part of `pause` seconds, one of the `victims`, a party or several, is
    killed and a little later started again.
    """
    began, found = time.monotonic(), Struck({})
    running = start()
    struck_at = time.monotonic() + rng.uniform(0, pause)
    while True:
        code = running.process.poll()
        if code is not None:
            assert code == 0, (code, running.err)
            found.done = running.wait().json
            found.seconds = time.monotonic() - began
            return found
        assert time.monotonic() - began < patience, running.err
        if found.kills.total() < kills and time.monotonic() >= struck_at:
            names = rng.choice(victims)
            for name in names:
                kill(running if name == "insurer" else federation.serving[name])
            found.kills[" and ".join(names)] += 1
            time.sleep(rng.uniform(0, 1))
            for name in names:
                if name == "insurer":
                    running = start()
                    found.commands += 1
                else:
                    restart(federation, name)
            struck_at = time.monotonic() + rng.uniform(0, pause)
        time.sleep(0.01)


def halves(federation: Federation, model: str) -> dict[str, Any]:
    """What each party has kept of a model, without what names the run."""
    found = {}
    for name, party in federation.parties.items():
        path = party.store / "models" / f"{model}.json"
        if name != "umpire":
            body = json.loads(path.read_text())["body"]
            found[name] = {key: body[key] for key in ("model", "columns", "job")}
            found[name]["metrics"] = body.get("metrics")
    return found


def aligned(federation: Federation, name: str) -> list[list[str]]:
    """The common ids of an alignment, as each party has them, in an order of their own."""
    found = []
    for party in federation.parties.values():
        rows = load_alignment(Store(party.store), name).rows
        column = federation.tables[party.name][party.settings["data"]["id"]]
        found.append(sorted(re.sub(r"[^A-Z0-9]", "", column[row].upper()) for row in rows))
    return found
