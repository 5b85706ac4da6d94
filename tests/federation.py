"""Parties in processes of their own, on 127.0.0.1, for the tests of the command line.

Every value that a party must keep to itself is made so that it cannot occur by chance: ids and
categories are long random text, numbers have random mantissas. `Running.check` looks for all of them
in what the process has printed.
"""

import contextlib
import csv
import io
import json
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import commands
import prepared
import pyarrow as pa
import pyarrow.parquet as pq
from commands import Done, environment
from processes import die_with_parent, wait_for

from vfl.party import identity

PATIENCE = 240.0  # seconds after which something hangs; how soon it comes is for benchmarks/endings.py
WAIT = ("--wait", "60")  # for hosts that are starting
ALONE = ("doctor", "relativities", "report", "tariff")
NAMES = ("insurer", "registry", "bureau", "umpire", "stranger")
JOB: dict[str, Any] = {
    "job": {
        "name": "claims",
        "purpose": "a test",
        "model": "secureboost",
        "objective": "binary",
        "holdout": 0.25,
    },
    "secureboost": {"trees": 2, "depth": 2, "max_bins": 6, "min_child_rows": 10},
}

GLM_JOB: dict[str, Any] = {
    "job": {
        "name": "linear",
        "purpose": "a test",
        "model": "glm",
        "family": "logistic",
        "holdout": 0.25,
    },
    "glm": {"tolerance": 1e-7},
}

HIDDEN_JOB: dict[str, Any] = {
    "job": {**GLM_JOB["job"], "name": "hidden"},
    "glm": {"scores": "hidden", "coordinator": "umpire", "alpha": 0.01, "tolerance": 1e-5},
}

WIDE: dict[str, Any] = {  # tables of a test are small, and its jobs many and of all kinds
    "min_intersection": 50,
    "max_rows_an_id": "unlimited",
    "joins": ["inner", "left"],
    "alignment_days": "unlimited",
    "max_alignments_a_day": "unlimited",
    "min_child_rows": 10,
    "max_trees": "unlimited",
    "max_sums_a_row": "unlimited",
    "min_summed_rows": 1,
    "max_iterations": "unlimited",
    "exact_zeros": True,
    "max_jobs_a_day": "unlimited",
    "max_scored_rows_a_day": "unlimited",
    "min_scored_rows": 1,
    "explain": True,
}
"""What hosts allow beyond the defaults of [policy], unless a test is about a rule."""

Table = dict[str, list[str]]  # cells as text by column, empty where missing


def word(rng: random.Random, length: int = 14) -> str:
    """Random letters and digits."""
    return "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ23456789") for _ in range(length))


def make_tables(rows: int = 400, seed: int = 5) -> dict[str, Table]:
    """What three parties and a batch to score hold; nine rows in ten are known to all.

    The parties write the same id in ways of their own.
    """
    rng = random.Random(seed)
    plates = [word(rng) for _ in range(rows)]
    areas, brands, jobs = ([word(rng, 20) for _ in range(3)] for _ in range(3))

    def gaps(cell: str, share: float = 0.05) -> str:
        return "" if rng.random() < share else cell

    density = [rng.gauss(0, 1) for _ in plates]
    power = [rng.gauss(100, 20) for _ in plates]
    age = [rng.uniform(18, 80) for _ in plates]
    area, brand, job = ([rng.choice(of) for _ in plates] for of in (areas, brands, jobs))
    risk = [
        0.6 * d + 0.04 * (p - 100) - 0.03 * (a - 45) + 0.7 * (b == brands[0])
        for d, p, a, b in zip(density, power, age, brand, strict=True)
    ]
    claim = [str(int(r + rng.gauss(0, 0.7) > 0.2)) for r in risk]

    def table(known: float, columns: Mapping[str, Sequence[str]]) -> Table:
        here = [i for i in range(rows) if rng.random() < known]
        rng.shuffle(here)
        return {name: [cells[i] for i in here] for name, cells in columns.items()}

    insurer = {
        "plate": [f"{p[:4]}-{p[4:]}" for p in plates],
        "density": [gaps(repr(d)) for d in density],
        "area": [gaps(a) for a in area],
    }
    tables = {
        "insurer": table(1, {**insurer, "claim": claim}),
        "registry": table(
            0.95,
            {
                "registration": [f"{p[:4]} {p[4:]}".lower() for p in plates],
                "power": [gaps(repr(p)) for p in power],
                "brand": [gaps(b) for b in brand],
            },
        ),
        "bureau": table(
            0.95,
            {
                "plate_no": plates,
                "driver_age": [gaps(repr(a)) for a in age],
                "occupation": [gaps(j) for j in job],
            },
        ),
    }
    batch = table(0.2, insurer)
    unknown = [word(rng) for _ in range(5)]
    tables["new"] = {
        "plate": batch["plate"] + unknown,
        "density": batch["density"] + [repr(rng.gauss(0, 1)) for _ in unknown],
        "area": batch["area"] + areas + areas[:2],
    }
    return tables


SMALL = {"claim", "count", "years"}  # columns of numbers that occur by chance
NUMERIC = {"density", "power", "driver_age", "claim"}


def write_table(path: Path, table: Table) -> None:
    """A table as CSV or Parquet, by the extension."""
    if path.suffix == ".parquet":
        columns = {
            name: [(float(c) if name in NUMERIC else c) if c else None for c in cells]
            for name, cells in table.items()
        }
        pq.write_table(pa.table(columns), path)
        return
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    path.write_text(text.getvalue())


def private_words(tables: Mapping[str, Table]) -> list[str]:
    """All cells that no party may print: ids as written and normalised, numbers, categories."""
    cells = {
        cell
        for table in tables.values()
        for name, column in table.items()
        if name not in SMALL
        for cell in column
        if cell
    }
    return sorted(cells | {re.sub(r"[^A-Z0-9]", "", cell.upper()) for cell in cells if cell.isascii()})


def _cell(value: object) -> str:
    """A value in TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_cell(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_cell, value)) + "]"
    return value.isoformat() if isinstance(value, date) else json.dumps(value)


def toml(settings: Mapping[str, Any]) -> str:
    """A party or job file."""
    lines = []
    for section, values in settings.items():
        if section == "peers":
            for name, peer in values.items():
                lines += [f"[peers.{name}]", *(f"{k} = {_cell(v)}" for k, v in peer.items())]
        else:
            lines += [f"[{section}]", *(f"{k} = {_cell(v)}" for k, v in values.items())]
    return "\n".join(lines) + "\n"


def _replace(path: Path, text: str) -> None:
    """Write a file such that whoever reads it meanwhile finds the one before, or this one."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Printed:
    """What a command of a party has printed."""

    def __init__(self) -> None:
        self.own: list[str] = []  # what it may show its own people

    @property
    def printed(self) -> str:
        raise NotImplementedError

    def stop(self) -> None:
        """End it if it runs."""

    def check(self, private: Sequence[str]) -> None:
        """What it printed holds no traceback and nothing private."""
        printed = self.printed
        assert "Traceback" not in printed, printed
        assert "PRIVATE KEY" not in printed
        assert "UserWarning" not in printed, printed
        found = [text for text in private if text in printed and text not in self.own]
        assert not found, f"{found[0]} in:\n{printed}"


class Ended(Printed):
    """A command that this process has run."""

    def __init__(self, done: Done) -> None:
        super().__init__()
        self.done = done

    @property
    def printed(self) -> str:
        return self.done.out + self.done.err


class Running(Printed):
    """A process of a party and what it prints."""

    def __init__(
        self, party: "Party", arguments: Sequence[str], program: Sequence[str] | str = ()
    ) -> None:
        """`program`: a command in place of vfl's, or a text in Python."""
        super().__init__()
        self._party = party
        number = len(party.processes)
        self._out = party.folder / f"{number}.out"
        self._err = party.folder / f"{number}.err"
        self._started = time.monotonic()
        with self._out.open("wb") as out, self._err.open("wb") as err:
            text = program if isinstance(program, str) else ""
            if sys.platform == "linux" and (text or not program):
                self.process = prepared.start(arguments, party.folder, environment(), out, err, text)
            else:
                command = (sys.executable, "-c", text) if text else program
                self.process = subprocess.Popen(
                    [*(command or (sys.executable, "-m", "vfl.cli")), *arguments],
                    stdout=out,
                    stderr=err,
                    stdin=subprocess.DEVNULL,
                    cwd=party.folder,
                    env=environment(),
                    preexec_fn=die_with_parent,
                )
        party.processes.append(self)

    @property
    def out(self) -> str:
        """Its results so far."""
        return self._out.read_text()

    @property
    def err(self) -> str:
        """What it says, without the times of a server's log."""
        return re.sub(r"(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", "", self.log)

    @property
    def log(self) -> str:
        return self._err.read_text()

    def mark(self) -> int:
        """Where the next lines will stand."""
        return len(self.err)

    def until(self, text: str, since: int = 0) -> list[str]:
        """The lines printed since `since`, as soon as `text` is among them."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.err[since:] or not self.err.endswith("\n"):
            assert self.process.poll() is None or text in self.err[since:], f"ended:\n{self.err}"
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.err[since:]}"
            time.sleep(0.005)
        return self.err[since:].splitlines()

    def endings(self, since: int) -> list[str]:
        """How jobs failed since `since`: a job before may say only then that it is done, as a guest ends
        before its host does."""
        return [line for line in self.err[since:].splitlines() if line.startswith("job ended")]

    def restart_clock(self) -> None:
        self._started = time.monotonic()

    def signal(self, number: int) -> None:
        self.restart_clock()
        self.process.send_signal(number)

    def wait(self, seconds: float = PATIENCE) -> Done:
        """How it ended; the seconds count from its start or from the last signal."""
        code = wait_for(self.process, seconds)
        took = time.monotonic() - self._started
        return Done(code, self._out.read_text(), self.err, took)

    def stop(self) -> None:
        """End it if it runs."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    @property
    def printed(self) -> str:
        return self._out.read_text() + self.err


@dataclass
class Party:
    """A party's folder, its file as nested settings, and its processes."""

    name: str
    folder: Path
    settings: dict[str, Any]
    processes: list[Printed] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.toml"

    @property
    def table(self) -> Path:
        return self.folder / str(self.settings["data"]["path"])

    @property
    def store(self) -> Path:
        return self.folder / "vfl-store"

    def write(self) -> None:
        """Write the party file, which a command that was just started may be reading."""
        _replace(self.file, toml(self.settings))

    def start(self, command: str, *arguments: str, program: Sequence[str] | str = ()) -> Running:
        self.write()
        return Running(self, [command, str(self.file.name), *arguments], program)

    def run(self, command: str, *arguments: str) -> Done:
        """A command to its end, in a process unless it is one of those that look at this party alone."""
        if command not in ALONE:
            return self.start(command, *arguments).wait()
        self.write()
        done = commands.command(command, self.file.name, *arguments, folder=self.folder)
        self.processes.append(Ended(done))
        return done

    def align(self) -> Done:
        return self.run("align", *WAIT, "--json")

    def train(self, job: Mapping[str, Any] = JOB, wait: Sequence[str] = WAIT) -> Done:
        return self.start_train(job, wait=wait).wait()

    def start_train(
        self,
        job: Mapping[str, Any] = JOB,
        program: Sequence[str] | str = (),
        wait: Sequence[str] = WAIT,
    ) -> Running:
        _replace(self.folder / "job.toml", toml(job))
        return self.start("train", "job.toml", *wait, "--json", program=program)

    def score(self, model: str = "claims", data: str = "new.csv", out: str = "scores.csv") -> Done:
        return self.run("score", "--model", model, "--data", data, "--out", out, *WAIT, "--json")

    def close(self, private: Sequence[str]) -> None:
        for running in self.processes:
            running.stop()
        for running in self.processes:
            running.check(private)


class Federation:
    """An insurer, hosts and perhaps a coordinator in a folder, with real keys, tables and files."""

    def __init__(
        self,
        folder: Path,
        keys: Path,
        *,
        hosts: Sequence[str] = ("registry", "bureau"),
        guest_listens: bool = False,
        kind: str = "csv",
        tables: Mapping[str, Table] | None = None,
        coordinator: bool = False,
    ) -> None:
        self.folder, self.keys, self.guest_listens = folder, keys, guest_listens
        self.tables = tables or make_tables()
        self.parties: dict[str, Party] = {}
        self.serving: dict[str, Running] = {}
        port = free_port() if guest_listens else 0
        ids = {"insurer": "plate", "registry": "registration", "bureau": "plate_no"}
        categorical = {"insurer": "area", "registry": "brand", "bureau": "occupation"}
        for name in ("insurer", *hosts):
            home = self._home(name)
            settings: dict[str, Any] = {
                "party": {
                    "name": name,
                    "role": "guest" if name == "insurer" else "host",
                    "identity": f"keys/{name}",
                    "workers": 1,  # on so few rows, starting more processes takes longer
                    "reconnect": 0,  # tests of what goes on later say so
                },
                "data": {"path": f"table.{kind}", "id": ids[name], "categorical": [categorical[name]]},
                "peers": {},
            }
            if name == "insurer":
                settings["data"]["label"] = "claim"
                settings["peers"] = {host: pinned(host) for host in hosts}
                write_table(home / "new.csv", self.tables["new"])
            else:
                settings["policy"] = {**WIDE, "show_names": name != "bureau"}
                settings["peers"]["insurer"] = pinned("insurer")
                others = [host for host in hosts if host != name]
                settings["peers"] |= {host: pinned(host) for host in others}
            if (name == "insurer") == guest_listens:
                settings["party"]["listen"] = f"127.0.0.1:{port}"
            elif name != "insurer":
                settings["peers"]["insurer"]["address"] = f"127.0.0.1:{port}"
            self.parties[name] = Party(name, home, settings)
            write_table(self.parties[name].table, self.tables[name])
        if coordinator:
            self._add_coordinator(hosts)

    def _home(self, name: str) -> Path:
        """A party's folder, with its keys and everybody's certificates."""
        home = self.folder / name
        (home / "peers").mkdir(parents=True)
        shutil.copytree(self.keys / name, home / "keys")
        for other in NAMES:
            shutil.copy(self.keys / other / f"{other}.pem", home / "peers")
            shutil.copy(self.keys / "new" / f"{other}.pem", home / "peers" / f"new-{other}.pem")
        return home

    def _add_coordinator(self, hosts: Sequence[str]) -> None:
        address = f"127.0.0.1:{free_port()}"
        settings: dict[str, Any] = {
            "party": {
                "name": "umpire",
                "role": "coordinator",
                "identity": "keys/umpire",
                "listen": address,
                "workers": 1,
                "reconnect": 0,
            },
            "peers": {name: pinned(name) for name in ("insurer", *hosts)},
        }
        for party in self.parties.values():
            party.settings["peers"]["umpire"] = {
                **pinned("umpire"),
                "address": address,
                "role": "coordinator",
            }
        self.parties["umpire"] = Party("umpire", self._home("umpire"), settings)

    @property
    def guest(self) -> Party:
        return self.parties["insurer"]

    def serve(self, *names: str) -> "Federation":
        """Start the hosts and the coordinator; where hosts listen, the guest is told their ports."""
        chosen = names or [name for name in self.parties if name != "insurer"]
        for name in chosen:
            self.serving[name] = self.parties[name].start("serve")
        for name in chosen:
            if name == "umpire":
                self.serving[name].until("listening on 127.0.0.1:")
                continue
            if self.guest_listens:
                self.serving[name].until("dialling insurer")
                continue
            lines = self.serving[name].until("listening on 127.0.0.1:")
            port = re.search(r"listening on 127.0.0.1:(\d+)", "\n".join(lines))
            assert port is not None
            self.guest.settings["peers"][name]["address"] = f"127.0.0.1:{port[1]}"
        return self

    def another_guest(self, folder: Path, *hosts: str) -> Party:
        """The insurer once more, in a folder of its own that a test may spoil."""
        shutil.copytree(self.guest.folder, folder, ignore=shutil.ignore_patterns("*.out", "*.err"))
        settings = json.loads(json.dumps(self.guest.settings))
        if hosts:
            settings["peers"] = {host: settings["peers"][host] for host in hosts}
        return Party("insurer", folder, settings)

    def close(self) -> None:
        for party in self.parties.values():
            for running in party.processes:
                running.stop()
        private = private_words(self.tables)
        for party in self.parties.values():
            party.close(private)


def pinned(name: str) -> dict[str, str]:
    return {"certificate": f"peers/{name}.pem"}


def make_keys(folder: Path) -> Path:
    """Keys of all parties, each in a folder of its name, and in `new` others in the same names."""
    for name in NAMES:
        identity.create(folder / name / name, name)
        identity.create(folder / "new" / name, name)
    return folder


@contextlib.contextmanager
def ended(federation: Federation) -> Iterator[Federation]:
    """Close the federation whatever happens; a failing test shows its own failure first."""
    try:
        yield federation
    except BaseException:
        with contextlib.suppress(AssertionError):
            federation.close()
        raise
    federation.close()


def kill(running: Running) -> None:
    """As by a crash of the machine: the kernel closes its sockets and nobody says goodbye."""
    running.signal(signal.SIGKILL)
    running.process.wait()


@contextlib.contextmanager
def replaced(party: Party, table: Table) -> Iterator[None]:
    """A host's table is another one for a while."""
    before = party.table.read_bytes()
    write_table(party.table, table)
    try:
        yield
    finally:
        party.table.write_bytes(before)
