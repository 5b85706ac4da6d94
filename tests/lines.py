"""Lines between network namespaces on one machine: a party in each, as on machines of their own.

The namespaces are joined by a program of a few lines that passes IP packets from one TUN device to the
other, late, at a limited rate, and not all of them. It does what `tc netem` does on kernels that have
it, on those that have not as well, and sees every packet there is. Needs root.
"""

import contextlib
import fcntl
import heapq
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

TUN = Path("/dev/net/tun")


@dataclass
class Condition:
    """A network."""

    delay: float = 0.0  # seconds, each way
    loss: float = 0.0  # share of packets
    rate: float = 1e9  # bits a second, of each party in each direction
    up: bool = True


class Network(threading.Thread):
    """The line between the namespaces."""

    def __init__(self, parties: Sequence[str]) -> None:
        super().__init__(daemon=True)
        self.parties = parties
        self.condition = Condition()
        self.seen: list[bytes] | None = None  # packets, while they are captured
        self.packets = 0
        self.dropped = 0
        self._devices: dict[bytes, int] = {}  # by IP address
        self._ended, self._ending = os.pipe()
        self._random = random.Random(1)
        self._run = f"vfl-test-{os.getpid()}"
        self._made: list[str] = []

    def namespace(self, party: str) -> str:
        return f"{self._run}-{party}"

    def address(self, party: str) -> str:
        return f"10.201.77.{1 + self.parties.index(party)}"

    def program(self, party: str) -> tuple[str, ...]:
        """How a command of this party begins."""
        return ("ip", "netns", "exec", self.namespace(party), sys.executable, "-m", "vfl.cli")

    @contextlib.contextmanager
    def running(self) -> Iterator["Network"]:
        try:
            for number, party in enumerate(self.parties):
                self._connect(party, f"vfl{os.getpid() % 100_000}n{number}")
            self.start()
            yield self
        finally:
            os.close(self._ending)
            if self.ident is not None:
                self.join()
            for device in self._devices.values():
                os.close(device)
            for space in self._made:
                subprocess.run(["ip", "netns", "del", space], check=True)

    def _connect(self, party: str, name: str) -> None:
        space, address = self.namespace(party), self.address(party)
        device = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
        # TUNSETIFF; IFF_TUN | IFF_NO_PI
        fcntl.ioctl(device, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x0001 | 0x1000))
        self._devices[bytes(map(int, address.split(".")))] = device
        subprocess.run(["ip", "netns", "add", space], check=True)
        self._made.append(space)
        for command in (
            f"ip link set {name} netns {space}",
            f"ip -n {space} link set lo up",
            f"ip -n {space} address add {address}/24 dev {name}",
            f"ip -n {space} link set {name} up",
        ):
            subprocess.run(command.split(), check=True)

    def run(self) -> None:
        under_way: list[tuple[float, int, int, bytes]] = []  # when due, number, device, packet
        free = dict.fromkeys(self._devices.values(), 0.0)  # when each party's line out is free
        while True:
            now = time.monotonic()
            while under_way and under_way[0][0] <= now:
                _, _, device, packet = heapq.heappop(under_way)
                with contextlib.suppress(OSError):
                    os.write(device, packet)
            wait = under_way[0][0] - now if under_way else None
            ready, _, _ = select.select([self._ended, *free], [], [], wait)
            if self._ended in ready:
                return
            for source in ready:
                packet = os.read(source, 65536)
                target = self._devices.get(packet[16:20])
                if packet[0] >> 4 != 4 or target is None:
                    continue
                self.packets += 1
                if self.seen is not None:
                    self.seen.append(packet)
                line, now = self.condition, time.monotonic()
                start = max(now, free[source])
                # A queue of half a second, as in a modem.
                if not line.up or self._random.random() < line.loss or start - now > 0.5:
                    self.dropped += 1
                    continue
                free[source] = start + 8 * len(packet) / line.rate
                heapq.heappush(under_way, (free[source] + line.delay, self.packets, target, packet))


def lacking() -> str | None:
    """What this machine lacks for namespaces that are joined."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None or not TUN.exists():
        return "network namespaces need iproute2 and /dev/net/tun"
    try:
        with Network(["insurer"]).running():
            return None
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no network namespaces with TUN devices here: {error}"
