"""What a monitor reads of `vfl serve` (Prometheus). No id, no value, no name that a peer has chosen.

Labels have few values: parties of the party file, kinds of messages and of jobs, phases, rules of
[policy], models of the store (the 50 that were scored last).
"""

import datetime
import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vfl.errors import Refused, VflError
from vfl.jobs.activity import JobNow, Watcher
from vfl.jobs.connect import Site
from vfl.jobs.reveals import message_type
from vfl.monitor.outcome import outcome_of
from vfl.monitor.phases import PHASES, PhaseClock, Span
from vfl.party.policy import LIMITS, Usage, rules_in, sides_of, today
from vfl.version import __version__

TYPE = "text/plain; version=0.0.4; charset=utf-8"
_OTHER = "other"  # a rule that is none of [policy], a message that is none of vfl's
_MODELS = 50  # of which the shift is told
_DAY = 86_400.0

FIGURES = {
    "vfl_serve_jobs_total": (
        "jobs that ended: `done`, `refused` (by this party), `peer_stopped`, `peer_lost`, "
        "`peer_broke_protocol`, `failed` (this party's people can mend it), `interrupted`, `fault` (of "
        "vfl)",
        ("task", "outcome"),
    ),
    "vfl_serve_jobs_running": ("jobs that are under way", ("task",)),
    "vfl_serve_job_seconds_total": (
        "seconds of jobs by phase, of which the first is until the policy has let the job pass, or its "
        f"first step: {', '.join(f'`{phase}`' for phase in PHASES)}",
        ("task", "phase"),
    ),
    "vfl_serve_rows_total": (
        "own rows that jobs were about and the policy let pass: rows in common of an alignment, aligned "
        "rows of a training or a table, rows of a batch that are known here; rows of lookups are in "
        "`vfl_serve_budget_used`",
        ("task",),
    ),
    "vfl_serve_bytes_total": (
        "bytes that went to and came from each peer, by class of message (docs/messages.md), before TLS",
        ("peer", "direction", "message"),
    ),
    "vfl_serve_messages_total": (
        "messages that went to and came from each peer, by class",
        ("peer", "direction", "message"),
    ),
    "vfl_serve_refused_total": (
        "refused jobs by each rule of `[policy]` that they broke; `other`: by none of them",
        ("rule",),
    ),
    "vfl_serve_certificate_days": (
        "days until the certificate ends, this party's and those it pins",
        ("party",),
    ),
    "vfl_serve_budget_used": (
        "what each guest has used up today (UTC) of rules that count by the day: "
        f"{', '.join(f'`{rule}`' for rule in LIMITS.values())}",
        ("peer", "rule"),
    ),
    "vfl_serve_budget_limit": (
        "what these rules allow each guest a day; not there where a rule has no limit",
        ("rule",),
    ),
    "vfl_serve_budget_readable": ("0 where the file of these counts is damaged", ()),
    "vfl_serve_drift_psi": (
        "stability index (PSI) of the column of this party that has moved most since the training, in "
        f"the last batch; of models that were scored since the start, the last {_MODELS}",
        ("model",),
    ),
    "vfl_serve_info": ("1", ("version", "role")),
}
"""By name what a figure is, and its labels."""


def _counter(name: str, registry: CollectorRegistry) -> Counter:
    return Counter(name, *FIGURES[name], registry=registry)


def _gauge(name: str, registry: CollectorRegistry) -> Gauge:
    return Gauge(name, *FIGURES[name], registry=registry)


def _family(name: str) -> GaugeMetricFamily:
    text, labels = FIGURES[name]
    return GaugeMetricFamily(name, text, labels=labels)


class Figures(Watcher):
    """All figures of one `vfl serve`."""

    def __init__(self, site: Site, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._site = now, site
        self._clocks: dict[JobNow, PhaseClock] = {}
        self._registry = registry = CollectorRegistry()
        self._jobs = _counter("vfl_serve_jobs_total", registry)
        self._running = _gauge("vfl_serve_jobs_running", registry)
        self._seconds = _counter("vfl_serve_job_seconds_total", registry)
        self._rows = _counter("vfl_serve_rows_total", registry)
        self._bytes = _counter("vfl_serve_bytes_total", registry)
        self._messages = _counter("vfl_serve_messages_total", registry)
        self._refused = _counter("vfl_serve_refused_total", registry)
        self._drift = _gauge("vfl_serve_drift_psi", registry)
        self._drifted: dict[str, None] = {}
        info = _gauge("vfl_serve_info", registry)
        info.labels(__version__, site.party.role).set(1)
        registry.register(_Kept(site))

    def began(self, job: JobNow) -> None:
        self._clocks[job] = PhaseClock(self._now())
        self._running.labels(job.task).inc()

    def offered(self, job: JobNow, run: bytes, leads: bool) -> None:
        self._clocks[job].mark(self._now())

    def moved(self, job: JobNow) -> None:
        self._add(job, self._clocks[job].move(job, self._now()))

    def counted(self, job: JobNow, rows: int) -> None:
        self._clocks[job].mark(self._now())  # its table is read and the policy has let it pass
        self._rows.labels(job.task).inc(rows)

    def drifted(self, job: JobNow, model: str, psi: float) -> None:
        self._drifted.pop(model, None)
        self._drifted[model] = None
        if len(self._drifted) > _MODELS:
            oldest = next(iter(self._drifted))
            del self._drifted[oldest]
            self._drift.remove(oldest)
        self._drift.labels(model).set(psi)

    def passed(self, peer: str, direction: str, kind: str, size: int) -> None:
        words = peer, direction, kind if message_type(kind) is not None else _OTHER
        self._bytes.labels(*words).inc(size)
        self._messages.labels(*words).inc()

    def ended(self, job: JobNow, error: BaseException | None) -> None:
        for span in self._clocks.pop(job).end(self._now()):
            self._add(job, span)
        self._running.labels(job.task).dec()
        self._jobs.labels(job.task, outcome_of(error)).inc()
        if isinstance(error, Refused):
            for rule in dict.fromkeys(rules_in(str(error))) or (_OTHER,):
                self._refused.labels(rule).inc()

    def _add(self, job: JobNow, span: Span | None) -> None:
        if span is not None:
            self._seconds.labels(job.task, span.phase).inc(span.end - span.start)

    def show(self) -> bytes:
        """All figures as they are now."""
        return generate_latest(self._registry)


class _Kept(Collector):
    """What the party keeps, at the moment when it is asked for: certificates, what is used up."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def describe(self) -> Iterable[Metric]:
        """Nothing yet: the store is not looked at before somebody asks."""
        return ()

    def collect(self) -> Iterator[Metric]:
        yield self._certificates()
        if self._site.party.role != "coordinator":
            yield from self._budgets()

    def _certificates(self) -> Metric:
        days = _family("vfl_serve_certificate_days")
        now = datetime.datetime.now(datetime.UTC)
        own = self._site.identity.certificate
        for name, one in {self._site.party.name: own, **self._site.pinned}.items():
            days.add_metric([name], (one.expires - now).total_seconds() / _DAY)
        return days

    def _budgets(self) -> Iterator[Metric]:
        party = self._site.party
        used = _family("vfl_serve_budget_used")
        most = _family("vfl_serve_budget_limit")
        readable = _family("vfl_serve_budget_readable")
        for rule in LIMITS.values():
            limit = getattr(party.policy, rule)
            if not isinstance(limit, str):
                most.add_metric([rule], limit)
        usage, whole = Usage(self._site.store, sides_of(party)), True
        guests = party.coordinators if party.role == "guest" else party.partners
        try:
            for guest in guests:
                counts = usage.of(guest, today())
                for what, rule in LIMITS.items():
                    used.add_metric([guest, rule], counts.get(what, 0))
        except VflError:
            whole = False
        readable.add_metric([], float(whole))
        yield from (used, most, readable)
