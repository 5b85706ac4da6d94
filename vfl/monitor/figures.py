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
from vfl.monitor.phases import PhaseClock, Span
from vfl.party.policy import LIMITS, Usage, rules_in, sides_of, today
from vfl.version import __version__

TYPE = "text/plain; version=0.0.4; charset=utf-8"
_OTHER = "other"  # a rule that is none of [policy], a message that is none of vfl's
_MODELS = 50  # of which the shift is told
_DAY = 86_400.0


class Figures(Watcher):
    """All figures of one `vfl serve`."""

    def __init__(self, site: Site, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._site = now, site
        self._clocks: dict[JobNow, PhaseClock] = {}
        self._registry = registry = CollectorRegistry()
        self._jobs = Counter(
            "vfl_serve_jobs",
            "Jobs by what was asked and how they ended.",
            ("task", "outcome"),
            registry=registry,
        )
        self._running = Gauge(
            "vfl_serve_jobs_running", "Jobs that are under way.", ("task",), registry=registry
        )
        self._seconds = Counter(
            "vfl_serve_job_seconds", "Seconds of jobs by phase.", ("task", "phase"), registry=registry
        )
        self._rows = Counter(
            "vfl_serve_rows",
            "Rows of this party that jobs were about and the policy let pass.",
            ("task",),
            registry=registry,
        )
        self._bytes = Counter(
            "vfl_serve_bytes",
            "Bytes of messages, before TLS, by peer, direction and kind of message.",
            ("peer", "direction", "message"),
            registry=registry,
        )
        self._messages = Counter(
            "vfl_serve_messages",
            "Messages by peer, direction and kind.",
            ("peer", "direction", "message"),
            registry=registry,
        )
        self._refused = Counter(
            "vfl_serve_refused", "Jobs refused, by rule of [policy].", ("rule",), registry=registry
        )
        self._drift = Gauge(
            "vfl_serve_drift_psi",
            "Stability index of the column that has moved most, in the last batch of the model.",
            ("model",),
            registry=registry,
        )
        self._drifted: dict[str, None] = {}
        info = Gauge(
            "vfl_serve_info", "The version and the role.", ("version", "role"), registry=registry
        )
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
        days = GaugeMetricFamily(
            "vfl_serve_certificate_days",
            "Days until a party's certificate, own or pinned, is not valid any more.",
            labels=("party",),
        )
        now = datetime.datetime.now(datetime.UTC)
        own = self._site.identity.certificate
        for name, one in {self._site.party.name: own, **self._site.pinned}.items():
            days.add_metric([name], (one.expires - now).total_seconds() / _DAY)
        return days

    def _budgets(self) -> Iterator[Metric]:
        party = self._site.party
        used = GaugeMetricFamily(
            "vfl_serve_budget_used",
            "What a guest has used up today (UTC) of what the policy limits by the day.",
            labels=("peer", "rule"),
        )
        most = GaugeMetricFamily(
            "vfl_serve_budget_limit",
            "What the policy allows each guest a day, where it has a limit.",
            labels=("rule",),
        )
        readable = GaugeMetricFamily(
            "vfl_serve_budget_readable", "0 where the file of the day's counts is damaged."
        )
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
