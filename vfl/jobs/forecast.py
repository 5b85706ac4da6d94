"""What a training would cost and tell, before anything is sent: `vfl train --estimate`.

The job is played in miniature in this process: the real roles and the real messages, over memory, on
tables drawn at random of a few rows and up to three times as many, of a tree or a few and some more.
What went to and fro is linear in rows and in trees (of a linear model, in rows, as it takes about as
many iterations), and is carried on to the rows of the alignment. So is the time of a tree, by those
behind the first, and that of all else. What it would tell is what `vfl leakage` says.

How far it is off (tests/test_forecast.py): guests and hosts have other columns than were drawn, of hosts
also another number of them where nobody knows it (known_columns.py), trees are not whole, linear models
take other numbers of iterations. Time is this machine's, on one core, of
all parties; small runs are mostly what all runs begin with.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from vfl.crypto.workers import ONE_PROCESS
from vfl.errors import ConfigError
from vfl.jobs.compiling import noting_kernels
from vfl.jobs.connect import store_of
from vfl.jobs.known_columns import ColumnCount, count_columns
from vfl.jobs.leakage import Leakage, drawn_columns, drawn_label, foresee
from vfl.jobs.tape_share import LONG
from vfl.leakage.disclosure import COLUMNS
from vfl.models.kind import PartyColumns, TrainingStep
from vfl.models.kinds import expected_share, kind_of_job
from vfl.net.wire import Octets
from vfl.party.config import Job, Party
from vfl.party.project_file import Project
from vfl.protocols.common.lattice_hints import HintPart
from vfl.protocols.common.rows import Training
from vfl.simulate import GUEST, Aligned, Sessions, SimulatedTask, fit_apart

_ROWS: Mapping[str, int] = {"paillier": 1_000, "lattice": 8_000}
"""Of the smaller miniature, at most. By lattices rows cost little, and how a sum is cut into words
depends on their number: so it is played nearer to it."""
_TREES: Mapping[str, tuple[int, int]] = {"paillier": (1, 3), "lattice": (4, 12)}
"""Of the two miniatures, at most. By lattices what opens vectors is sent for dozens at once."""
_BASE = 350 * 1024 * 1024  # bytes of memory of any command that trains
_OF_HINT = 5  # bytes of memory at the guest for each that a hint or an encrypted matrix has on its way
LINE = 100e6 / 8  # bytes a second, of which the time on the line is reckoned
BYTES_OFF, TIME_OFF = 1.2, 3.0
"""By what factor figures are off, as a rule, of hosts whose number of columns is known."""


@dataclass(frozen=True)
class Traffic:
    """Bytes between two parties, of which the second is a host or the coordinator."""

    sent: int
    received: int


@dataclass(frozen=True)
class Tapes:
    """Bytes that tapes take at most."""

    here: int
    host: int  # at the host that is sent most
    of_trees: int  # of these, what a host with a share has of those trees alone that it keeps

    def at_a_host(self, share: float) -> int:
        """With a share of the trees."""
        return round(self.host - (1 - share) * self.of_trees)


@dataclass(frozen=True)
class Forecast:
    """What a training would come to."""

    rows: int
    trained: int
    iterations: int  # of a linear model, that it is taken to need; 0 of trees
    columns: Mapping[str, ColumnCount]  # that each host is taken to have
    traffic: Mapping[str, Traffic]  # of the guest, with each host and the coordinator
    coordinator: str | None
    beside: Mapping[str, Traffic]  # of each host with the coordinator
    processor_seconds: float  # of all parties, on one core of this machine
    line_seconds: float  # on a line of 100 Mbit/s, with all hosts
    memory: int  # bytes at the guest
    host_memory: int  # bytes at a host
    tapes: Tapes
    leakage: Leakage

    @property
    def document(self) -> dict[str, object]:
        """The same as JSON has it."""
        told = asdict(self)
        told.pop("leakage")
        return {
            **told,
            "off_by": {"bytes": BYTES_OFF, "time": TIME_OFF},
            "leakage": self.leakage.document,
        }


@dataclass(frozen=True)
class _Played:
    """What a miniature cost."""

    rows: int
    trees: int
    sent: Sequence[float]  # bytes to each host, then of the guest and of each host to the coordinator
    received: Sequence[float]  # bytes from these
    long: Sequence[float]  # bytes to each host that it keeps of a share of trees
    seconds: float  # of the processor, without those of trees
    a_tree: float  # seconds
    iterations: int  # of a linear model
    hints: float  # bytes of hints and encrypted matrices that the guest keeps


def forecast(
    party: Party, job: Job, rows: int | None = None, columns: Mapping[str, int] | None = None
) -> Forecast:
    """What a training over `rows` aligned rows, or those of the latest alignment, would cost the guest
    and its hosts, and what it would tell. Nothing is sent, and no table read.

    columns: how many a host has, where somebody knows.

    Raises ConfigError for a job over rows, no number of rows, and columns of a party that is no host.
    """
    if job.over_rows:
        raise ConfigError(
            f"--estimate cannot play {job.name}, a job over rows (partition): each party's part depends "
            "on all others' rows; `vfl leakage` says what it tells"
        )
    hosts = party.partners
    counts = count_columns(store_of(party), hosts, columns or {})
    known = {name: one.count for name, one in counts.items() if one.basis != "assumed"}
    leakage = foresee(party, job, rows=rows, columns=known)
    many = leakage.rows
    small = min(_ROWS[job.params.encryption], max(8, many // 2))
    large = max(2 * small, min(3 * small, many))
    grown = _grown(job)
    few, more = _TREES[job.params.encryption]
    trees = sorted({max(1, min(few, grown // 3)), max(1, min(more, grown))})
    played = [
        _play_compiled(job, counts, size, count, many) for size in (small, large) for count in trees
    ]
    whole = max(1, grown)
    costs = [[one.hints, *one.long, *one.sent, *one.received] for one in played]
    hints, *both = _carried_on([(one.rows, one.trees) for one in played], costs, many, whole)
    long, both = both[: len(hosts)], both[len(hosts) :]
    sent, received = both[: len(both) // 2], both[len(both) // 2 :]
    if grown:
        received[: len(hosts)] = _sums_and_rows(played, job, many)[: len(hosts)]
    lines = [Traffic(round(out), round(back)) for out, back in zip(sent, received, strict=True)]
    traffic = dict(zip(hosts, lines, strict=False))
    led, coordinator = lines[len(hosts) :], kind_of_job(job).coordinator
    if coordinator is not None:
        traffic[coordinator] = led[0]
    a_step = round(max(sent) / whole)
    return Forecast(
        rows=many,
        trained=round(expected_share(job) * many),
        iterations=max(one.iterations for one in played),
        columns=counts,
        traffic=traffic,
        coordinator=coordinator,
        beside=dict(zip(hosts, led[1:], strict=False)),
        processor_seconds=_seconds(played, many, grown),
        line_seconds=sum(one.sent + one.received for one in traffic.values()) / LINE,
        memory=_BASE + 200 * many + round(_OF_HINT * hints),
        host_memory=_BASE + 200 * many + min(a_step, party.party.memory * 1024 * 1024),
        tapes=_tapes(traffic, long if grown else [0.0] * len(hosts)),
        leakage=leakage,
    )


def _tapes(traffic: Mapping[str, Traffic], long: Sequence[float]) -> Tapes:
    """`long`: of the hosts, which come first."""
    here = sum(one.received for one in traffic.values())
    hosts = [*traffic.values()][: len(long)]
    host, of_trees = max(
        ((one.sent, part) for one, part in zip(hosts, long, strict=True)), default=(0, 0)
    )
    return Tapes(here, host, min(host, round(of_trees)))


def forecast_project(
    party: Party, project: Project, rows: int | None = None, columns: Mapping[str, int] | None = None
) -> dict[str, Forecast]:
    """The same of each model of a project, by its part. Raises as `forecast`."""
    own = party.model_copy(update={"section": project.data(party.data)})
    return {part: forecast(own, project.job(part), rows, columns) for part in project.parts}


def _grown(job: Job) -> int:
    """The trees, or rounds of them, that hosts take part in; 0 for a model that has none."""
    settings = kind_of_job(job).tells_sums
    return 0 if settings is None else max(1, settings.trees - settings.guest_trees)


def _seconds(played: Sequence[_Played], rows: int, trees: int) -> float:
    """Of the processor: of so many trees, and of all else."""
    most = max(one.trees for one in played)
    low, *_, high = sorted((one for one in played if one.trees == most), key=lambda one: one.rows)

    def at(small: float, large: float) -> float:
        slope = max(0.0, large - small) / (high.rows - low.rows)
        return max(large + slope * (rows - high.rows), large * min(1.0, rows / high.rows))

    return at(low.seconds, high.seconds) + trees * at(low.a_tree, high.a_tree)


def _sums_and_rows(played: Sequence[_Played], job: Job, rows: int) -> list[float]:
    """What each host of trees sends: sums, whose number does not grow with rows once there are enough to
    split, as in the larger miniature, and of further rows a bit a level for those that its splits send
    left."""
    large = max(one.rows for one in played)
    of_large = [one for one in played if one.rows == large]
    whole = max(1, _grown(job))
    costs = [one.received for one in of_large]
    sums = _carried_on([(one.trees, 1) for one in of_large], costs, whole, 1)
    bits = max(0, rows - large) * whole * job.secureboost.depth / 8
    return [of_host + bits for of_host in sums]


def _miniature(job: Job, small: int, rows: int, trees: int) -> Job:
    """The job with so many trees, whose nodes may be as small a part of few rows as they were of
    many."""
    if not _grown(job):
        return job
    settings = job.secureboost
    least = max(1, round(settings.min_child_rows * small / max(1, rows)))
    fewer = {"trees": trees, "guest_trees": 0, "min_child_rows": least, "early_stopping_rounds": 0}
    return job.model_copy(update={"secureboost": settings.model_copy(update=fewer)})


def _play_compiled(
    job: Job, hosts: Mapping[str, ColumnCount], small: int, trees: int, rows: int
) -> _Played:
    """A training in miniature, whose seconds have no kernel in them that is compiled first: these few
    would be carried on to all rows and trees."""
    with noting_kernels() as readied:
        played = _play(job, hosts, small, trees, rows)
    return _play(job, hosts, small, trees, rows) if readied.any else played


def _play(job: Job, hosts: Mapping[str, ColumnCount], small: int, trees: int, rows: int) -> _Played:
    """A training in miniature, each party in its role."""
    draw = np.random.default_rng(job.params.seed)
    mini = _miniature(job, small, rows, trees)
    kind = kind_of_job(mini)
    sizes = {GUEST: COLUMNS} | {name: one.count for name, one in hosts.items()}
    parties = [
        PartyColumns(name, "drawn", drawn_columns(name, small, count, draw))
        for name, count in sizes.items()
    ]
    first = [np.asarray(values, np.float64) for one in parties for values in one.features.values()][::2]
    score = np.sum([draw.normal() * values for values in first], axis=0)
    label = drawn_label(job.loss, score / max(float(score.std()), 1e-9), draw)
    at = draw.permutation(small) / small
    share, kept_back = expected_share(mini), (1 - mini.job.holdout) * kind.validation_share
    training = Training(
        label, np.ones(small), at < share, (at >= share) & (at < share + kept_back), job.loss
    )
    ends: list[float] = []  # of trees or iterations

    def follow(step: TrainingStep) -> None:
        ends.append(time.process_time())

    task = SimulatedTask(kind, {}, training, "protocol", ONE_PROCESS, follow)
    aligned = Aligned(task, np.arange(small), parties, training)
    sessions = Sessions.of([*hosts], ONE_PROCESS, kind.coordinator)
    long = [0.0] * len(sessions.peers)
    for place, host in enumerate(sessions.peers):
        host.observers.append(partial(_count_long, long, place))
    began = time.process_time()
    asyncio.run(fit_apart(aligned, sessions))
    seconds = time.process_time() - began
    # The first has the start in its time, in which a key is made; an only one is counted with that.
    steps = len(ends) if trees > 1 else 0
    a_tree = (ends[-1] - ends[0]) / (steps - 1) * steps / trees if steps > 1 else 0.0
    peers = [peer.traffic for peer in (*sessions.peers, *(to_lead for to_lead, _ in sessions.led))]
    return _Played(
        small,
        trees,
        [one.bytes_sent for one in peers],
        [one.bytes_received for one in peers],
        long,
        seconds - a_tree * trees,
        a_tree,
        0 if _grown(job) else len(ends),
        sum(one.received[HintPart.__name__] for one in peers),
    )


def _count_long(long: list[float], place: int, direction: str, kind: str, payload: Octets) -> None:
    if direction == "sent" and kind in LONG:
        long[place] += len(payload)


def _carried_on(
    sizes: Sequence[tuple[int, int]], costs: Sequence[Sequence[float]], rows: int, trees: int
) -> list[float]:
    """Costs at so many rows and trees, linear in each, by the least squares of those at some sizes."""
    by_trees = len({count for _, count in sizes}) > 1

    def terms(size: float, count: float) -> list[float]:
        return [1.0, size, count, size * count] if by_trees else [1.0, size]

    if len(sizes) == 1:
        return [*costs[0]]
    known = np.array([terms(*size) for size in sizes])
    factors, *_ = np.linalg.lstsq(known, np.array(costs), rcond=None)
    return [max(0.0, float(cost)) for cost in np.array(terms(rows, trees)) @ factors]
