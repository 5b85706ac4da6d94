"""Several parties on one machine, each a process of its own: for demos, benchmarks and rehearsals.

Every party has a folder with its party file `NAME.toml`, its table and its keys. Nothing is shared but
certificates and a port of the loopback interface.
"""

import ctypes
import functools
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from vfl.errors import VflError
from vfl.jobs.memory import peak_memory
from vfl.party import identity

_VFL = [sys.executable, "-m", "vfl.cli"]
_PR_SET_PDEATHSIG = 1


@dataclass
class Host:
    """A serving host: its process, and once it has ended the most memory it held, in bytes."""

    process: subprocess.Popen[str]
    peak_memory: int = 0


def with_parent(number: int) -> Callable[[], object] | None:
    """For `preexec_fn`: the system sends the signal when the thread that starts the process is gone.

    On Linux; elsewhere a process that is killed leaves those that it has started.
    """
    if sys.platform != "linux":
        return None
    return functools.partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, number)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return cast(int, probe.getsockname()[1])


def exchange_keys(folders: Mapping[str, Path]) -> None:
    """Make each party's keys in FOLDER/keys and put the others' certificates in FOLDER/peers."""
    for name, folder in folders.items():
        identity.create(folder / "keys" / name, name)
    for name, folder in folders.items():
        (folder / "peers").mkdir(exist_ok=True)
        for other in set(folders) - {name}:
            shutil.copy(folders[other] / "keys" / f"{other}.pem", folder / "peers")


def lay_out(scenario: Path, work: Path, parties: Sequence[str]) -> None:
    """A new folder of each party in `work`: what `scenario` has for it, keys, the others' certificates.

    Ports of 127.0.0.1 in the party files become free ones, the same for all.
    """
    shutil.rmtree(work, ignore_errors=True)
    ports: dict[str, int] = {}

    def free(found: re.Match[str]) -> str:
        if found[1] not in ports:
            ports[found[1]] = free_port()
        return f"127.0.0.1:{ports[found[1]]}"

    for party in parties:
        shutil.copytree(scenario / party, work / party)
        file = work / party / f"{party}.toml"
        file.write_text(re.sub(r"127\.0\.0\.1:([0-9]+)", free, file.read_text()))
    exchange_keys({party: work / party for party in parties})


def set_trees(job: Path, trees: int) -> None:
    """Have a job file's trees be so many."""
    job.write_text(re.sub(r"(?m)^trees = .*", f"trees = {trees}", job.read_text()))


def bytes_sent(guest: str, hosts: Sequence[str], results: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Bytes that each party sent in a guest's jobs, by what the commands printed."""
    sent = {guest: sum(sum(result["bytes_sent"].values()) for result in results)}
    for host in hosts:
        sent[host] = sum(result["bytes_received"].get(host, 0) for result in results)
    return sent


@contextmanager
def relaying(work: Path, parties: Sequence[str], say: Callable[[str], None]) -> Iterator[None]:
    """Nobody opens a port for as long as the block lasts: these parties meet at a relay in WORK/relay.

    Ports of 127.0.0.1 in their party files become the relay's. What it writes is in relay.log; `say`
    hears at the end what it counted.

    Raises VflError when the relay does not start, or names a party when it has ended.
    """
    folder, address = work / "relay", f"127.0.0.1:{free_port()}"
    folder.mkdir()
    (folder / "relay.toml").write_text(f'[relay]\nlisten = "{address}"\n')
    for party in parties:
        file = work / party / f"{party}.toml"
        file.write_text(re.sub(r'"127\.0\.0\.1:[0-9]+"', f'"relay://{address}"', file.read_text()))
    log = folder / "relay.log"
    with log.open("w") as written:
        process = subprocess.Popen(  # noqa: S603
            [*_VFL, "relay", "relay.toml"],
            cwd=folder,
            stderr=written,
            text=True,
            preexec_fn=with_parent(signal.SIGTERM),
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait()
    said = log.read_text()
    if "relaying on " not in said:
        raise VflError(f"the relay did not start: see {log}")
    if named := [party for party in parties if re.search(rf"\b{re.escape(party)}\b", said)]:
        raise VflError(
            f"the relay, which should know no party, writes of {' and '.join(named)}: see {log}"
        )
    counted = said.rstrip().rpartition("since the start: ")[2]
    say(f"The relay, which knows nobody's name, counted {counted}")


@contextmanager
def serving(folders: Mapping[str, Path]) -> Iterator[dict[str, Host]]:
    """The hosts of these folders, serving for as long as the block lasts; they log to serve.log.

    Where a command fails in the block, the last lines of each log go to stderr.
    """
    hosts = {}
    try:
        for name, folder in folders.items():
            with (folder / "serve.log").open("w") as log:
                command = [*_VFL, "serve", f"{name}.toml"]
                process = subprocess.Popen(  # noqa: S603
                    command, cwd=folder, stderr=log, text=True, preexec_fn=with_parent(signal.SIGTERM)
                )
            hosts[name] = Host(process)
        yield hosts
    except VflError:
        for name, folder in folders.items():
            _show_last_lines(name, folder / "serve.log")
        raise
    finally:
        for host in hosts.values():
            if host.process.poll() is None:
                host.peak_memory = peak_memory(host.process.pid)
                host.process.terminate()
        for host in hosts.values():
            host.process.wait()


def _show_last_lines(name: str, log: Path, count: int = 5) -> None:
    for line in log.read_text().splitlines()[-count:]:
        print(f"{name}: {line}", file=sys.stderr)


def run(folder: Path, *command: str | Path) -> dict[str, Any]:
    """A guest's command in its folder: what it prints with --json.

    Raises VflError when the command fails; it has said why on stderr.
    """
    words: Sequence[str] = [*_VFL, *map(str, command), "--json"]
    done = subprocess.run(words, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise VflError(f"vfl {command[0]} failed with exit code {done.returncode}")
    return cast(dict[str, Any], json.loads(done.stdout))
