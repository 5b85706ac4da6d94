"""Memory of a whole job by phase: align, train, score; each party a process, mutual TLS between them.

    python benchmarks/memory.py --rows 2000000
    python benchmarks/memory.py --rows 20000000 --columns 20 --trees 2 --json
    python benchmarks/memory.py --rows 4000000 --known --workers 2  # rows with a cluster of each party
    python benchmarks/memory.py --rows 1000000 --known --workers 1 --in-files  # as of more rows

A guest with a label and few columns, a host with more, of uniform numbers; the lattice engine. Each
process counts its peak resident memory (VmHWM of Linux, which a phase sets back when it begins and when
it ends), so that a short peak is seen, too; pages of files that are mapped count as well. What is in no
file (RssAnon, RssShmem) is looked at every few milliseconds besides. Bytes a row are those above what
the process held before it read anything. What one phase holds for later ones counts
in each of these.
"""

import argparse
import asyncio
import functools
import importlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from parties import UNBOUND
from pyarrow.csv import CSVWriter
from rich.console import Console
from rich.table import Table

import vfl.blocks.scratch
import vfl.party.sources.parquet
from vfl import local
from vfl.blocks.scratch import Scratch
from vfl.jobs import scoring
from vfl.jobs.alignments import Alignment, save_alignment
from vfl.jobs.connect import Site
from vfl.jobs.own_table import ids_of
from vfl.jobs.record import now
from vfl.party.config import load_party
from vfl.party.id_report import ids_alone
from vfl.protocols.align.join import KeyIds, Matched

_AT_ONCE = 500_000  # rows that are made, and of a row group
_GOLDEN = (5**0.5 - 1) / 2  # multiples of it are spread evenly modulo 1
GUEST, HOST = "guest", "host"


@dataclass(frozen=True)
class Machine:
    """Where a party runs: what its commands begin with, its address, more lines of its [party], and the
    process whose children are the workers of its cluster, its own command if None."""

    prefix: tuple[str, ...] = ()
    address: str = "127.0.0.1"
    lines: tuple[str, ...] = ()
    workers_of: int | None = None


HERE = {GUEST: Machine(), HOST: Machine()}

_PHASES = {
    "reading": ("vfl.jobs.own_table:read_wanted", "vfl.jobs.own_table:read_table"),
    "reading a batch": ("vfl.jobs.scoring:_read",),
    "ids": ("vfl.jobs.own_table:ids_of",),
    "rows of the alignment": (
        "vfl.jobs.aligned_rows:refresh",
        "vfl.jobs.aligned_rows:split_rows",
        "vfl.jobs.host_columns:host_alignment",
    ),
    "digest of the run": ("vfl.jobs.training:RunSubject.of",),
    "binning": ("vfl.models.trees:_binned",),
    "notes on ids": ("vfl.jobs.alignment:find_unmended", "vfl.jobs.alignment_host:find_unmended"),
    "matching": ("vfl.protocols.align.join:guest_align", "vfl.protocols.align.join:host_align"),
    "identities": (
        "vfl.jobs.alignment:identities",
        "vfl.jobs.alignment_host:identities",
        "vfl.party.row_sums:identities",
    ),
    "alignment": ("vfl.jobs.alignment:align", "vfl.jobs.alignment_host:serve_align"),
    "alignment of a batch": ("vfl.jobs.scoring:guest_match", "vfl.jobs.scoring_host:host_match"),
    "counts of sums": (
        "vfl.jobs.sums_given:SumsGiven.__init__",
        "vfl.jobs.sums_given:SumsGiven.check",
        "vfl.jobs.sums_given:SumsGiven.reserve",
        "vfl.jobs.sums_given:SumsBudget.begin_tree",
    ),
    "known rows": ("vfl.jobs.host_columns:count_known_rows", "vfl.jobs.training_host:known_rows"),
    "preparing": ("vfl.models.trees:Trees.host",),
    "hint": (
        "vfl.protocols.trees.lattice:guest_meet",
        "vfl.protocols.trees.lattice:host_meet",
        "vfl.protocols.linear.lattice_products:_GuestProducts.meet",
    ),
    "sums": (
        "vfl.protocols.common.lattice_sums:GuestProducts.query",
        "vfl.protocols.common.lattice_host:HostProducts.serve",
    ),
    "splits": (
        "vfl.protocols.trees.lattice:_LatticeGrower.split",
        "vfl.protocols.trees.questions:Answers.answer",
    ),
    "trees": ("vfl.protocols.trees.grower:Grower.train",),
    "design": ("vfl.models.linear:prepare_columns",),
    "start of a fit": ("vfl.protocols.linear.fitting:FitLoop.__init__",),
    "residuals": ("vfl.learn.glm:Scores.residuals",),
    "gradients of residuals": (
        "vfl.protocols.linear.fitting:FitLoop.report",
        "vfl.learn.glm:Block.report",
    ),
    "direction": ("vfl.protocols.linear.fitting:FitLoop.direction", "vfl.learn.glm:Block.direction"),
    "step": ("vfl.learn.glm:Scores.go",),
    "fit": ("vfl.protocols.linear.fitting:FitLoop.fit", "vfl.models.linear:host_fit"),
    "scores of rows held out": ("vfl.protocols.linear.fitting:FitLoop._end",),
    "evaluation": ("vfl.jobs.training:evaluate", "vfl.models.trees:_TreesGuest.train_alone"),
    "checkpoint": ("vfl.jobs.resume:Unfinished._write",),
    "profiles": (
        "vfl.jobs.training:profiles",
        "vfl.jobs.training_host:profiles",
        "vfl.jobs.training:score_profile",
    ),
    "drift": ("vfl.jobs.scoring:drift_of_columns", "vfl.jobs.scoring_host:drift_of_columns"),
    "levels": ("vfl.jobs.scoring_host:match_levels",),
    "directions": ("vfl.models.trees:Trees.host_parts",),
    "scores": ("vfl.jobs.scoring:_Job._score",),
    "writing scores": ("vfl.jobs.scoring:write_scores",),
}
"""Where phases begin and end, by the functions that they are."""


def main() -> None:
    """Run the jobs and print their figures; with --inside be one of their processes."""
    if sys.argv[1:2] == ["--inside"]:
        inside(Path(sys.argv[2]), sys.argv[3].split(), sys.argv[4:])
        return
    if sys.argv[1:2] == ["--know"]:
        know_rows(*sys.argv[2:4])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--columns", type=int, default=20, help="of the host")
    parser.add_argument("--guest-columns", type=int, default=5)
    parser.add_argument("--trees", type=int, default=2)
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--max-bins", type=int, default=32)
    parser.add_argument("--glm", action="store_true", help="a linear model in place of trees")
    parser.add_argument(
        "--engine", choices=["ecdh", "ot", "vole"], default="ot", help="of the alignment"
    )
    parser.add_argument(
        "--known", action="store_true", help="no alignments: parties know each other's rows"
    )
    parser.add_argument("--skip-score", action="store_true", help="align and train alone")
    parser.add_argument("--only-align", action="store_true", help="align alone")
    parser.add_argument("--workers", type=int, help="of a cluster of each party, on this machine")
    parser.add_argument("--csv", action="store_true", help="tables as CSV, not Parquet")
    parser.add_argument(
        "--in-files", action="store_true", help="columns lie in files, as those of many rows do"
    )
    parser.add_argument("--work", type=Path, help="an empty folder for tables and stores")
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        figures = measure(Path(work), options)
    if options.json:
        print(json.dumps(figures))
    else:
        show(options, figures)


# ------------------------------------------------------------------------------ inside a party


class Watch:
    """The peaks of this process by phase."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: list[str] = []
        self.peaks: dict[str, int] = {}
        self.anonymous: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.base, self._base_anonymous = resident(), anonymous()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        """See again and again what is in no file."""
        while True:
            time.sleep(0.01)
            held, name = anonymous(), self._phase
            self.anonymous[name] = max(self.anonymous.get(name, 0), held)

    @property
    def _phase(self) -> str:
        return (self._open or ["else"])[-1]

    def note(self) -> None:
        """What was reached since the last call was of the phases that are open."""
        peak = _status("VmHWM")
        Path("/proc/self/clear_refs").write_text("5")
        name = self._phase
        self.peaks[name] = max(self.peaks.get(name, 0), peak)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What is done meanwhile is this phase."""
        self.note()
        self._open.append(name)
        began = time.monotonic()
        try:
            yield
        finally:
            self.note()
            self._open.remove(name)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began

    def save(self) -> None:
        """Write the figures where the benchmark finds them, and begin anew."""
        self.note()
        figures = {"base": self.base, "peaks": self.peaks, "seconds": self.seconds}
        figures |= {"base_anonymous": self._base_anonymous, "anonymous": {**self.anonymous}}
        self._path.write_text(json.dumps(figures))
        self.peaks, self.anonymous, self.seconds = {}, {}, {}


def _status(key: str, process: int | str = "self") -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return 0  # a process that has ended


def resident() -> int:
    """The memory in bytes that this process holds now."""
    return _status("VmRSS")


def anonymous() -> int:
    """That of it which is of no file."""
    return _status("RssAnon") + _status("RssShmem")


def know_rows(party: str, other: str) -> None:
    """Keep an alignment that nobody has made, of the rows of `write_table`; in the party's folder."""
    site = Site.open(load_party(Path(f"{party}.toml")))
    scratch = Scratch(site.store.scratch(make=False))
    ids = ids_of(ids_alone(site.party.data, scratch), site.party.data)
    prints = {party: site.identity.certificate.fingerprint, other: site.pinned[other].fingerprint}
    rule, rows, made = site.party.data.normalise, _rows_of(party, len(ids.group)), now()
    save_alignment(
        site.store,
        Alignment("known", prints[GUEST], prints, rule, ids.digest, rows, made, key="00" * 32),
    )


def _rows_of(party: str, rows: int) -> np.ndarray:
    """The party's row of each of the guest's."""
    return np.arange(rows) if party == GUEST else rows - 1 - np.arange(rows)


async def _match(party: str, keys: Sequence[KeyIds]) -> Matched:
    """What a batch of all rows would be matched to."""
    rows = len(keys[0].of_row)
    return Matched(_rows_of(party, rows), np.zeros(rows, np.int64), by_key=(rows,))


def inside(figures: Path, how: Sequence[str], command: list[str]) -> None:
    """Run a command of `vfl` with its phases watched."""
    if "in-files" in how:
        vfl.blocks.scratch.IN_MEMORY = vfl.party.sources.parquet.IN_MEMORY = 0
    from vfl.cli import main as vfl_main

    if "known" in how:
        scoring.guest_match = lambda hosts, keys, **_: _match(GUEST, keys)
        scoring.host_match = lambda guest, keys, participant, **_: _match(HOST, keys)
    for places in _PHASES.values():
        for place in places:
            importlib.import_module(place.split(":")[0])
    watch = Watch(figures)
    for name, places in _PHASES.items():
        for place in places:
            _watch(watch, name, place)
    signal.signal(signal.SIGUSR1, lambda *_: watch.save())
    sys.argv = ["vfl", *command]
    try:
        vfl_main()
    finally:
        watch.save()


def _watch(watch: Watch, name: str, place: str) -> None:
    """Have a function be a phase."""
    module, _, path = place.partition(":")
    owner: object = importlib.import_module(module)
    *above, last = path.split(".")
    for part in above:
        owner = getattr(owner, part, None)
    given = getattr(owner, last, None)
    if given is None:
        return
    static = isinstance(vars(owner).get(last), classmethod)
    wrapped = _wrapped(watch, name, given)
    setattr(owner, last, staticmethod(wrapped) if static else wrapped)


def _wrapped(watch: Watch, name: str, given: Callable) -> Callable:
    if asyncio.iscoroutinefunction(given):

        @functools.wraps(given)
        async def watched(*args: object, **kwargs: object) -> object:
            with watch.phase(name):
                return await given(*args, **kwargs)

        return watched

    @functools.wraps(given)
    def called(*args: object, **kwargs: object) -> object:
        with watch.phase(name):
            return given(*args, **kwargs)

    return called


# --------------------------------------------------------------------------------- from outside


def measure(work: Path, options: argparse.Namespace) -> dict:
    """The figures of each job and party."""
    set_up(work, options)
    return run_jobs(work, options, HERE)


def run_jobs(work: Path, options: argparse.Namespace, machines: Mapping[str, Machine]) -> dict:
    """The figures of each job and party, of tables that are there."""
    folders = {party: work / party for party in (GUEST, HOST)}
    write_parties(folders, options, machines)
    log = (folders[HOST] / "serve.log").open("w")
    served = work / "served.json"
    for party, other in ((GUEST, HOST), (HOST, GUEST)) if options.known else ():
        if not (folders[party] / "vfl-store").exists():
            subprocess.run(
                [sys.executable, __file__, "--know", party, other], cwd=folders[party], check=True
            )
    apart = [f"--local-cluster={options.workers}"] if options.workers else []
    host = subprocess.Popen(
        [*machines[HOST].prefix, *_command(served, options, "serve", "host.toml", *apart)],
        cwd=folders[HOST],
        stderr=log,
        stdout=log,
    )
    figures: dict[str, dict] = {}
    try:
        jobs = {
            "align": ["align", "guest.toml", "--wait", "60"],
            "train": ["train", "guest.toml", "job.toml", "--wait", "3600"],
        }
        if options.known:
            del jobs["align"]
        if options.only_align:
            del jobs["train"]
        elif not options.skip_score:
            jobs["score"] = ["score", "guest.toml", "--model", "benchmark", "--data"]
            jobs["score"] += [_table(options), "--out", "scores.parquet", "--wait", "3600"]
        for job, command in jobs.items():
            began, path = time.monotonic(), work / f"{job}.json"
            words = [*command, "--json", *(apart if job != "align" else ())]
            guest = subprocess.Popen(
                [*machines[GUEST].prefix, *_command(path, options, *words)],
                cwd=folders[GUEST],
                stdout=subprocess.DEVNULL,
            )
            own = {GUEST: guest.pid, HOST: host.pid}
            disk = Disk(work)
            workers = Workers({party: machines[party].workers_of or own[party] for party in own})
            with disk, workers:
                guest.wait()
            if guest.returncode:
                sys.exit(f"vfl {command[0]} failed: see {folders[HOST]}/serve.log")
            host.send_signal(signal.SIGUSR1)
            time.sleep(0.5)
            figures[job] = {
                "seconds": time.monotonic() - began,
                GUEST: _figures(path, options.rows),
                HOST: _figures(served, options.rows),
                "disk_mb": disk.peak,
                "largest_worker_mb": workers.peaks,
            }
    finally:
        host.terminate()
        host.wait()
    return figures


class _Watched:
    """Something that is looked at twice a second while a block runs."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(0.5):
            self.look()

    def look(self) -> None:
        """Note what there is now."""
        raise NotImplementedError


class Disk(_Watched):
    """The most that a job took of the disk beyond what was taken before it, by all parties, in MB."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder, self.peak = folder, 0.0
        self._before = shutil.disk_usage(folder).used

    def look(self) -> None:
        # Files without a name are in no folder's list.
        used = shutil.disk_usage(self._folder).used
        self.peak = max(self.peak, (used - self._before) / 1e6)


def peak_of(process: int) -> int:
    """The most memory in bytes that a process has held so far."""
    return _status("VmHWM", process)


class Workers(_Watched):
    """The most memory that any process of a party's cluster has held, by party, in MB."""

    def __init__(self, parties: dict[str, int]) -> None:
        """By party its own process, which is not counted."""
        super().__init__()
        self._parties = {party: psutil.Process(number) for party, number in parties.items()}
        self.peaks = dict.fromkeys(parties, 0.0)

    def look(self) -> None:
        for party, process in self._parties.items():
            try:
                held = [peak_of(child.pid) for child in process.children(recursive=True)]
            except (psutil.NoSuchProcess, OSError):
                continue
            self.peaks[party] = max([self.peaks[party], *(size / 1e6 for size in held)])


def _command(figures: Path, options: argparse.Namespace, *words: str) -> list[str]:
    how = " ".join(["known"] * options.known + ["in-files"] * options.in_files)
    return [sys.executable, __file__, "--inside", str(figures), how, *words]


def _figures(path: Path, rows: int) -> dict:
    read = json.loads(path.read_text())
    above = {phase: (peak - read["base"]) / rows for phase, peak in read["peaks"].items()}
    own = {phase: (peak - read["base_anonymous"]) / rows for phase, peak in read["anonymous"].items()}
    return {
        "peak_mb": max(read["peaks"].values()) / 1e6,
        "base_mb": read["base"] / 1e6,
        "anonymous_mb": max(read["anonymous"].values(), default=0) / 1e6,
        "bytes_a_row": above,
        "anonymous_bytes_a_row": own,
        "seconds": read["seconds"],
    }


def set_up(work: Path, options: argparse.Namespace) -> None:
    """Tables, keys and the job file."""
    folders = {party: work / party for party in (GUEST, HOST)}
    for number, (party, folder) in enumerate(folders.items()):
        folder.mkdir()
        write_table(folder / _table(options), party, number, options)
    local.exchange_keys(folders)
    kind = (
        ['model = "glm"', 'family = "logistic"', "[glm]", f"max_iterations = {options.trees}"]
        if options.glm
        else [
            *('model = "secureboost"', 'objective = "binary"', "[secureboost]"),
            f"trees = {options.trees}",
            f"depth = {options.depth}",
            f"max_bins = {options.max_bins}",
        ]
    )
    lines = ["[job]", 'name = "benchmark"', 'purpose = "benchmark"', "holdout = 0.1", *kind]
    (folders[GUEST] / "job.toml").write_text("\n".join([*lines, 'encryption = "lattice"', ""]))


def write_parties(
    folders: Mapping[str, Path], options: argparse.Namespace, machines: Mapping[str, Machine]
) -> None:
    """The party files."""
    place = f"{machines[GUEST].address}:{local.free_port()}"
    for party, other in ((GUEST, HOST), (HOST, GUEST)):
        lines = ["[party]", f'name = "{party}"', f'role = "{party}"', f'identity = "keys/{party}"']
        lines += [f'listen = "{place}"'] * (party == GUEST)
        lines += [*machines[party].lines, "[data]", f'path = "{_table(options)}"', 'id = "id"']
        lines += ['label = "label"'] * (party == GUEST)
        lines += ["[align]", f'engine = "{options.engine}"'] * (party == GUEST)
        lines += [*UNBOUND, 'encryptions = ["lattice"]', f'engines = ["{options.engine}"]'] * (
            party == HOST
        )
        lines += [f"[peers.{other}]", f'certificate = "peers/{other}.pem"']
        lines += [f'address = "{place}"'] * (party == HOST)
        (folders[party] / f"{party}.toml").write_text("\n".join(lines))


def _table(options: argparse.Namespace) -> str:
    return "table.csv" if options.csv else "table.parquet"


def write_table(path: Path, party: str, number: int, options: argparse.Namespace) -> None:
    """A party's table, made and written some rows at a time; the host has them the other way round."""
    columns = options.columns if party == HOST else options.guest_columns
    generator = np.random.default_rng(number)
    writer = None
    for first in range(0, options.rows, _AT_ONCE):
        place = np.arange(first, min(first + _AT_ONCE, options.rows))
        place = options.rows - 1 - place if party == HOST else place
        numbers = {f"{party}{i}": generator.random(len(place)) for i in range(columns)}
        # A host's column that the label depends on: uniform, and of a row's place alone.
        told = place * _GOLDEN % 1
        if party == HOST and columns:
            numbers["host0"] = told
        cells = {"id": np.char.mod("P%09d", place)} | numbers
        if party == GUEST:
            odds = numbers["guest0"] + numbers["guest1"] + told - 2.5
            cells["label"] = (generator.random(len(place)) < 1 / (1 + np.exp(-3 * odds))).astype(
                np.int64
            )
        batch = pa.table(cells)
        if writer is None:
            writer = (
                CSVWriter(path, batch.schema) if options.csv else pq.ParquetWriter(path, batch.schema)
            )
        writer.write_table(batch)
    if writer is not None:
        writer.close()


def show(options: argparse.Namespace, figures: dict) -> None:
    """A table of phases for each job."""
    console = Console(width=100, highlight=False)
    for job, found in figures.items():
        table = Table(title=f"{job}: {options.rows:,} rows, {found['seconds']:.0f} s")
        for heading in ("party", "phase", "bytes a row", "s"):
            table.add_column(heading, justify="right" if heading in ("bytes a row", "s") else "left")
        for party in (GUEST, HOST):
            one = found[party]
            for phase, above in sorted(one["bytes_a_row"].items(), key=lambda item: -item[1]):
                seconds = one["seconds"].get(phase)
                table.add_row(party, phase, f"{above:,.0f}", "" if seconds is None else f"{seconds:.1f}")
            table.add_row(
                party, f"peak {one['peak_mb']:,.0f} MB, {one['base_mb']:,.0f} at first", "", ""
            )
        console.print(table)
        console.print(f"disk: {found['disk_mb']:,.0f} MB at most, of all parties")
        for party, peak in found["largest_worker_mb"].items():
            if options.workers:
                console.print(f"the largest worker of the {party}: {peak:,.0f} MB")


if __name__ == "__main__":
    main()
