"""Whole jobs of parties of which nobody listens: the relay alone does, in a process that is killed."""

import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from federation import (
    NAMES,
    Federation,
    Party,
    Running,
    ended,
    free_port,
    kill,
    make_tables,
    private_words,
)
from kills import RECONNECT, halves, ready, start_train
from test_hidden_tree_jobs import job, opened

TRAINING = job("relayed", "lattice", trees=5, depth=2)


@dataclass
class Relayed:
    """Parties that meet at a relay, which the registry and the coordinator wait at for the guest, and
    the guest for the bureau."""

    federation: Federation
    relay: Party
    running: Running

    def restart(self) -> None:
        self.running = self.relay.start("relay")
        self.running.until("relaying on 127.0.0.1:")


@pytest.fixture(scope="module")
def relayed(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Relayed]:
    folder = tmp_path_factory.mktemp("relayed")
    federation = Federation(folder, keys, coordinator=True, tables=make_tables(200))
    address = f"127.0.0.1:{free_port()}"
    (folder / "relay").mkdir()
    relay = Party("relay", folder / "relay", {"relay": {"listen": address}})
    at = {"address": f"relay://{address}"}
    parties = federation.parties
    for name, party in parties.items():
        party.settings["party"]["reconnect"] = RECONNECT
        if name != "bureau":
            party.settings["party"]["listen"] = at["address"]
        if name != "umpire":
            party.settings["peers"]["umpire"] |= at
    del parties["bureau"].settings["party"]["listen"]
    parties["bureau"].settings["peers"]["insurer"] |= at
    parties["insurer"].settings["peers"]["registry"] |= at
    for name in ("registry", "bureau"):
        parties[name].settings["policy"] |= {"min_child_rows": 2, "encryptions": ["paillier", "lattice"]}
    parties["registry"].settings["policy"]["guests"] = ["insurer"]
    made = Relayed(federation, relay, relay.start("relay"))
    private = [*private_words(federation.tables), *NAMES]  # a relay knows no names either
    with ended(federation):
        made.running.until("relaying on 127.0.0.1:")
        for name in ("registry", "bureau", "umpire"):
            federation.serving[name] = parties[name].start("serve")
        yield made
        relay.close(private)


@pytest.mark.slow
def test_a_job_over_a_relay_that_is_killed_gives_the_model_of_a_direct_one(relayed: Relayed) -> None:
    federation, guest = relayed.federation, relayed.federation.guest
    at = guest.settings["party"]["listen"]
    federation.serving["registry"].until(f"waiting at {at} for insurer\n")
    federation.serving["umpire"].until(
        f"umpire coordinates: waiting at {at} for insurer and registry and"
    )
    federation.serving["bureau"].until(f"dialling insurer at {at}")
    doctor = guest.run("doctor", "--wait", "60").ok().out
    for line in (
        f"ok    registry at {at}: vfl ",
        f"ok    umpire at {at}: vfl ",
        f"ok    reached {at}, waiting 60 s for bureau",
        "ok    bureau dialled in: vfl ",
    ):
        assert line in doctor
    places = dict(re.findall(r"place of (\w+) at the relay: ([0-9a-f]{64})\n", doctor))
    taken = federation.parties["umpire"].run("doctor")
    assert (
        f"FAIL  cannot wait at {at}: another program of this party waits there already: d" in taken.out
    )
    theirs = dict(re.findall(r"place of (\w+) at the relay: ([0-9a-f]{64})\n", taken.out))
    assert (list(places), theirs["insurer"]) == (["registry", "umpire", "bureau"], places["umpire"])
    guest.align().ok()

    running = start_train(federation, TRAINING)
    while opened(federation) < 3:
        assert running.process.poll() is None, running.err
        time.sleep(0.01)
    kill(relayed.running)
    running.until("dialling again for")
    federation.serving["registry"].until("the relay cannot be reached (connection refused): trying ag")
    relayed.restart()
    done = running.wait().ok()
    assert "the connection to registry is back after" in done.err
    assert "the connection to bureau is back after" in done.err
    over_relay = halves(federation, done.json["model"])

    # The same, each with a port of its own.
    for running in federation.serving.values():
        running.stop()
    relayed.running.signal(signal.SIGTERM)
    said = relayed.running.wait().ok().err.splitlines()
    assert re.fullmatch(r"relaying on 127.0.0.1:\d+: at most 1,024 connections, 64 of an .*", said[0])
    assert re.fullmatch(
        r"open: [\d,]+ connections?, [\d,]+ pairs?; since the start: .* bytes; refused: .*", said[1]
    )
    registry = federation.parties["registry"]
    serving = registry.start("serve")
    serving.until(f"not yet waiting at {at} for insurer\n")
    serving.stop()
    assert "bureau did not dial" not in registry.run("doctor", "--wait", "0").out  # it waits for guests
    doctor = guest.run("doctor", "--wait", "0").out
    gone = "the relay cannot be reached (connection refused)"
    assert f"FAIL  registry: cannot reach registry at {at}: {gone}\n" in doctor
    assert f"FAIL  {at}: {gone}\n" in doctor
    guest.run("align", "--wait", "0").failed(7, f"no connection from bureau within 0 s: {at}: {gone}")
    for name, party in federation.parties.items():
        address = f"127.0.0.1:{free_port()}"
        party.settings["party"]["listen"] = address
        for other in federation.parties.values():
            if name in other.settings["peers"] and other.name in ("insurer", "registry", "bureau"):
                other.settings["peers"][name].pop("address", None)
                if name == "umpire" or other.name == "insurer":
                    other.settings["peers"][name]["address"] = address
    ready(federation)
    direct = start_train(federation, TRAINING).wait().ok()
    assert halves(federation, direct.json["model"]) == over_relay
