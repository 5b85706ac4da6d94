"""Where a job's rows lie: in this process, with the workers of the party's cluster, or with workers on
this machine for as long as a command runs."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

from vfl.blocks.cluster import Cluster
from vfl.blocks.engine import ENGINE, Embedded
from vfl.blocks.local_cluster import local_cluster, memory_here
from vfl.blocks.scheduler import Access, Connection
from vfl.blocks.scratch import Scratch
from vfl.blocks.spill import spill_folder
from vfl.errors import ConfigError, DataError, VflError
from vfl.jobs.check_result import CheckResult, Reporter
from vfl.jobs.show import Show
from vfl.party.config import Party
from vfl.party.sections import PartySection
from vfl.party.sources.held import READ_HERE, HowRead, how_read
from vfl.party.sources.places import open_rows
from vfl.party.store import Store
from vfl.text import counted

_OF_A_ROW = 64  # bytes that trees need for a row beside its codes
_FILLED = 0.85  # of its memory; a worker that has more takes nothing new until some is free
_OF_A_CELL = 8  # bytes that workers take for a number of a table that they have read
_OF_A_PROGRAM = 300 << 20  # bytes that a worker takes without any row
_FEW = 1_000_000  # rows that a cluster of any size does not do sooner
_TIMES = 4  # threads for one of this machine's, from which on a cluster does more rows sooner
_SHARE = 0.5  # of this machine's memory
_IN_CLEAR = "nothing between this party and its cluster is encrypted (cluster = tcp://...)"


@contextlib.contextmanager
def on_cluster(party: Party, show: Show, local: int | None = None) -> Iterator[None]:
    """Work with the cluster of the party file, or with so many workers of this machine's; in this
    process where there is neither. Raises ConfigError."""
    if local is None and party.party.cluster is None:
        scratch = Scratch(Store(party.party.store).scratch(make=False))
        # There are some such arrays at a time.
        with ENGINE.instead(Embedded(scratch=replace(scratch, in_memory=scratch.in_memory // 4))):
            yield
        return
    folder = Store(party.party.store).scratch()
    with contextlib.ExitStack() as ends:
        if local is None:
            access = access_of(party.party)
        else:
            # Rows that do not fit into the workers' memory lie in a folder, which ends with them.
            memory, rest = memory_here() // (local + 1), ends.enter_context(spill_folder(folder))
            access = ends.enter_context(local_cluster(local, memory, rest))
        connection = Connection(access, show.say)
        ends.callback(connection.close)
        connection.need_workers()
        show.say(f"rows lie with {connection.in_words}")
        if local is None and access.ca is None:
            show.say(
                "note: nothing between this party and its cluster is encrypted (cluster = tcp://...)"
            )
        with ENGINE.instead(Cluster(connection, Scratch(folder))):
            yield


def say_if_slower(show: Show, rows: int, columns: int) -> None:
    """Say so where a job of so many rows and features over the cluster would be done sooner here."""
    engine = ENGINE.chosen
    if isinstance(engine, Cluster) and _is_slower(engine.threads, rows, columns):
        show.say(f"note: {_slower(rows, columns)}")


def _is_slower(threads: int, rows: int, columns: int) -> bool:
    """Whether one process of this machine has room for so many rows, and the threads of a cluster do not
    make up for what moving them costs."""
    need = rows * (columns + _OF_A_ROW) + _OF_A_PROGRAM
    many = rows > _FEW and threads >= _TIMES * (os.cpu_count() or 1)
    return not many and need <= _SHARE * memory_here()


def _slower(rows: int, columns: int) -> str:
    return (
        f"{counted(rows, 'row')} of {counted(columns, 'column')} fit one process on this machine, which "
        "will be faster than a cluster as this one: leave cluster out of [party], or --local-cluster"
    )


def check_cluster(party: Party, sizes: Sequence[tuple[int, int]], report: Reporter) -> bool:
    """Report on the cluster of a party file, if there is one: its scheduler, its workers, and whether
    these have memory for a table of so many rows and features. Whether a job could use it."""
    if party.party.cluster is None:
        return True
    try:
        with contextlib.closing(Connection(access_of(party.party))) as connection:
            connection.need_workers()
            memory, words, direct = connection.memory, connection.in_words, connection.direct
            threads = sum(connection.workers.values())
            reads = _how_read(party, connection)
    except VflError as error:
        report(CheckResult("FAIL", "cluster", f"cluster: {error}"))
        return False
    report(CheckResult("ok", "cluster", f"cluster: {words}, of this party's versions"))
    if not direct:
        text = "cluster: workers cannot be reached from here: rows go by way of the scheduler, slower"
        report(CheckResult("note", "cluster", text))
    if party.party.cluster_ca is None:
        report(CheckResult("note", "cluster", f"cluster: {_IN_CLEAR}"))
    if reads is not None:
        report(CheckResult("ok", "cluster", f"cluster: {reads.words}"))
    healthy, held = True, _OF_A_CELL if reads is not None and reads.by_workers else 0
    for rows, features in sizes:
        need = rows * (features * (1 + held) + _OF_A_ROW) // len(memory) + _OF_A_PROGRAM
        least = min(memory.values())
        enough = not least or need <= _FILLED * least
        size = f"{counted(rows, 'row')} of {counted(features, 'column')}"
        text = f"cluster: {size} take some {need / 1e9:.2f} GB of a worker"
        if not enough:
            text += f", which has {least / 1e9:.2f}: start more workers, or larger ones"
        report(CheckResult("ok" if enough else "FAIL", "cluster", text))
        if enough and _is_slower(threads, rows, features):
            report(CheckResult("note", "cluster", f"cluster: {_slower(rows, features)}"))
        healthy = healthy and enough
    return healthy


def _how_read(party: Party, connection: Connection) -> HowRead | None:
    """Who reads the party's table, None where it cannot be opened, as has been said then."""
    if party.data.source is not None or party.data.query is not None:
        return HowRead(False, f"{READ_HERE}it comes from a database or a query")
    try:
        source = open_rows(party.data, None, party.data.id_columns)
    except DataError:
        return None
    return how_read(source, connection.ask_all, connection.room)


def access_of(party: PartySection) -> Access:
    """How a party reaches its cluster. Raises ConfigError for files that are not there."""
    for key in ("cluster_ca", "cluster_certificate", "cluster_key"):
        path = getattr(party, key)
        if path is not None and not path.is_file():
            raise ConfigError(f"[party] {key}: there is no file {path}")
    files = party.cluster_ca, party.cluster_certificate, party.cluster_key
    return Access(party.cluster or "", *files)
