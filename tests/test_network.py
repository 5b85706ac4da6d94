"""Whole jobs over a bad network: every party in a network namespace of its own. Needs root."""

import re
import struct
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from federation import JOB, Federation, Party, Running, ended, make_keys, private_words, toml
from lines import Condition, Network, lacking

from vfl.party.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PARTIES = ("insurer", "registry", "bureau")
TRAIN = {**JOB, "secureboost": {**JOB["secureboost"], "trees": 8}}
NOTICED = 31.0  # seconds: 25 to 30, and one for a busy machine
WORDS = (b"http/", b"websocket", b"gradients", b"candidatesums", b"claims", b"secureboost")
SLOW = Condition(delay=0.2, loss=0.01, rate=2e6)


@dataclass
class Made:
    """A federation in namespaces: the guest dials the registry, and the bureau the guest."""

    federation: Federation
    network: Network
    trained: dict[str, Any]  # the model of a job over a good network

    @property
    def guest(self) -> Party:
        return self.federation.guest

    def start(self, command: str, *arguments: str) -> Running:
        return self.guest.start(command, *arguments, program=self.network.program("insurer"))

    def train(self) -> Running:
        (self.guest.folder / "job.toml").write_text(toml(TRAIN))
        return self.start("train", "job.toml", "--wait", "60", "--json")

    def model(self, name: str) -> dict[str, Any]:
        """What training came to: trees, leaf weights, the guest's splits, metrics."""
        kept = Store(self.guest.store).read("model", name)
        return {"model": kept["model"], "metrics": kept["metrics"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    if lack := lacking():
        pytest.skip(lack)
    keys = make_keys(tmp_path_factory.mktemp("keys"))
    folder = tmp_path_factory.mktemp("federation")
    with (
        Network(PARTIES).running() as network,
        ended(Federation(folder, keys)) as federation,
    ):
        insurer, registry, bureau = (federation.parties[name] for name in PARTIES)
        for party in federation.parties.values():
            party.settings["party"]["reconnect"] = 300
        registry.settings["party"]["listen"] = f"{network.address('registry')}:7443"
        insurer.settings["peers"]["registry"]["address"] = f"{network.address('registry')}:7443"
        insurer.settings["party"]["listen"] = f"{network.address('insurer')}:7443"
        del bureau.settings["party"]["listen"]
        bureau.settings["peers"]["insurer"]["address"] = f"{network.address('insurer')}:7443"
        for name in ("registry", "bureau"):
            party = federation.parties[name]
            federation.serving[name] = party.start("serve", program=network.program(name))
        federation.serving["registry"].until("listening on")
        federation.serving["bureau"].until("dialling insurer")
        good = Made(federation, network, {})
        network.seen = []
        good.start("align", "--wait", "30", "--json").wait().ok()
        done = (running := good.train()).wait(300).ok()
        report("a good line", running, done.seconds)
        good.trained = good.model(done.json["model"])
        yield good


def settled(made: Made) -> dict[str, int]:
    """Where the hosts' next lines will stand."""
    return {name: host.mark() for name, host in made.federation.serving.items()}


def report(what: str, running: Running, seconds: float) -> None:
    print(f"\n{what}: {seconds:.0f} s")
    print(running.err)


def streams(packets: list[bytes]) -> list[bytes]:
    """What each TCP connection carried in each direction, put together from its packets."""
    first: dict[tuple[bytes, int], int] = {}  # number of a way's first byte, by way and connection
    latest: dict[bytes, int] = {}  # connection of a way: ports may be used again
    parts: dict[tuple[bytes, int], dict[int, bytes]] = {}
    for packet in packets:
        assert packet[9] == 6, "a packet that is not TCP"
        start = 4 * (packet[0] & 15)
        number = struct.unpack_from(">I", packet, start + 4)[0]
        way, flags = packet[12:20] + packet[start : start + 4], packet[start + 13]
        if flags & 2 and first.get((way, latest.get(way, 0))) != number + 1:  # SYN
            latest[way] = latest.get(way, 0) + 1
            first[way, latest[way]] = number + 1
        if payload := packet[start + 4 * (packet[start + 12] >> 4) :]:
            key = way, latest[way]
            held, at = parts.setdefault(key, {}), (number - first[key]) % 2**32
            held[at] = max(payload, held.get(at, b""), key=len)
    whole = []
    for held in parts.values():
        data = bytearray()
        for at in sorted(held):
            assert at <= len(data), "a gap"
            data[at : at + len(held[at])] = held[at]
        whole.append(bytes(data))
    return whole


def test_a_capture_shows_tls_and_nothing_else(made: Made) -> None:
    packets = made.network.seen
    assert packets
    made.network.seen = None
    found = streams(packets)
    kinds: Counter[int] = Counter()
    for data in found:
        at = 0
        while at < len(data):
            kind, version, size = struct.unpack_from(">BHH", data, at)
            assert kind in (20, 21, 22, 23) and version in (0x0301, 0x0303) and size <= 2**14 + 256
            kinds[kind] += 1
            at += 5 + size
        assert at == len(data)
    assert kinds[22] >= 8 and kinds[23] > 100
    everything = b"\n".join(found).lower()
    assert not [word for word in WORDS if word in everything]
    private = private_words(made.federation.tables)
    assert len(private) > 1000
    assert not [word for word in private if len(word) >= 8 and word.lower().encode() in everything]


def test_a_job_over_a_slow_line_gives_the_same_model(made: Made) -> None:
    made.network.condition = SLOW
    packets, dropped = made.network.packets, made.network.dropped
    running = made.train()
    done = running.wait(600).ok()
    made.network.condition = Condition()
    report("200 ms, 1 % loss, 2 Mbit/s", running, done.seconds)
    assert made.model(done.json["model"]) == made.trained
    assert "broke" not in done.err
    lost = made.network.dropped - dropped
    assert lost >= 0.005 * (made.network.packets - packets)


def test_a_job_goes_on_after_an_outage_of_two_minutes(made: Made) -> None:
    made.network.condition = SLOW
    marks = settled(made)
    running = made.train()
    for name, host in made.federation.serving.items():
        host.until("asks to train", marks[name])
    time.sleep(5)
    made.network.condition = Condition(up=False)
    start = time.monotonic()
    hosts = {"registry": "waiting 300 s for it to dial again", "bureau": "dialling again for 300 s"}
    for name, what in hosts.items():
        line = made.federation.serving[name].until(what, marks[name])[-1]
        assert line == f"the connection to insurer broke (nothing heard for 25 s): {what}"
    noticed = time.monotonic() - start
    assert noticed < NOTICED
    running.until("the connection to registry broke (nothing heard for 25 s): dialling again for 300 s")
    running.until("the connection to bureau broke (nothing heard for 25 s): waiting 300 s")
    time.sleep(120 - (time.monotonic() - start))
    assert running.process.poll() is None
    made.network.condition = SLOW
    back = time.monotonic()
    running.until("the connection to registry is back after")
    running.until("the connection to bureau is back after")
    took = time.monotonic() - back
    done = running.wait(600).ok()
    made.network.condition = Condition()
    print(f"\nnoticed after {noticed:.0f} s, back {took:.0f} s after the line")
    report("the same with an outage of 120 s", running, done.seconds)
    assert made.model(done.json["model"]) == made.trained
    for name in hosts:
        lines = made.federation.serving[name].until("trained claims", marks[name])
        (again,) = [line for line in lines if "is back after" in line]
        assert re.fullmatch(r"the connection to insurer is back after \d+ s", again)


def test_many_short_breaks(made: Made) -> None:
    """Outages that TCP itself gets over, and a line that is cut again and again by resets."""
    made.network.condition = Condition(delay=0.05, loss=0.05, rate=1e7)
    running = made.train()
    breaks = 0
    while running.process.poll() is None and breaks < 6:
        time.sleep(1.5)
        made.network.condition.up = False
        time.sleep(1.0)
        made.network.condition.up = True
        breaks += 1
    done = running.wait(600).ok()
    made.network.condition = Condition()
    report(f"50 ms, 5 % loss, 10 Mbit/s, {breaks} outages of 1 s", running, done.seconds)
    assert made.model(done.json["model"]) == made.trained


def test_a_dead_peer_ends_the_job_where_nobody_is_patient(made: Made) -> None:
    insurer = made.guest
    insurer.settings["party"]["reconnect"] = 0
    marks = settled(made)
    running = made.train()
    for name, host in made.federation.serving.items():
        host.until("asks to train", marks[name])
    made.network.condition = Condition(up=False)
    running.restart_clock()
    done = running.wait(60)
    insurer.settings["party"]["reconnect"] = 300
    made.network.condition = Condition()
    assert done.code == 8
    assert re.fullmatch(
        r"error: the connection to (registry|bureau) broke \(nothing heard for 25 s\)", done.errors[-1]
    )
    assert 20 < done.seconds < NOTICED + 5  # of which 2 go into telling those who cannot be told
    # The bureau will dial again and hear that nobody knows it; the registry would wait for minutes.
    made.federation.serving["registry"].until("waiting 300 s", marks["registry"])


def test_the_same_model_after_all_that(made: Made) -> None:
    """A fresh session is not disturbed by one that still waits."""
    done = made.train().wait(300).ok()
    assert made.model(done.json["model"]) == made.trained
