"""A job as a trace over all its parties (OpenTelemetry): a span for each party and, in it, each phase.

The trace's id and that of the leading party's span follow from the run's random name, which all parties
of a job have from its first message. So nothing more is sent, no peer learns whether another one traces,
and the parties' spans meet wherever their owners bring them together.
"""

import contextlib
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from vfl.errors import ConfigError
from vfl.jobs.activity import JobNow, Watcher
from vfl.jobs.show import Once, Show
from vfl.monitor import phases
from vfl.monitor.outcome import outcome_of
from vfl.news import RUN_DIGITS
from vfl.party.config import Party

_LEAVING = 5.0  # seconds that a command waits at its end for spans to be taken
_NS = 1_000_000_000
_EXPORTERS = "OTEL_TRACES_EXPORTER"


@dataclass(frozen=True)
class RunIds:
    """What a run's spans are called."""

    trace: int  # 128 bits
    leading: int  # 64 bits, the span of the party that leads

    @classmethod
    def of(cls, run: bytes) -> "RunIds":
        """By the run's name."""
        digest = hashlib.sha256(b"vfl trace\0" + run).digest()
        return cls(int.from_bytes(digest[:16], "big"), int.from_bytes(digest[16:24], "big"))


class _Ids(RandomIdGenerator):
    """Random, but for the next one, where that is given."""

    given: RunIds | None = None

    def generate_trace_id(self) -> int:
        return super().generate_trace_id() if self.given is None else self.given.trace

    def generate_span_id(self) -> int:
        return super().generate_span_id() if self.given is None else self.given.leading


@dataclass
class _Traced:
    """A job's span, once its run is known, and what is over of it."""

    clock: phases.PhaseClock
    start: float
    span: Span | None = None
    over: list[phases.Span] = field(default_factory=list)
    rows: int = 0


class Spans(Watcher):
    """Makes spans of this process's jobs."""

    def __init__(
        self, party: Party, processor: SpanProcessor, now: Callable[[], float] = time.time
    ) -> None:
        self._ids, self._now, self._party = _Ids(), now, party
        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "vfl"}
        resource = Resource.create({**named, "vfl.party": party.name, "vfl.role": party.role})
        self.provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self.provider.add_span_processor(processor)
        self._tracer = self.provider.get_tracer("vfl")
        self._jobs: dict[JobNow, _Traced] = {}

    def began(self, job: JobNow) -> None:
        now = self._now()
        self._jobs[job] = _Traced(phases.PhaseClock(now), now)

    def offered(self, job: JobNow, run: bytes, leads: bool) -> None:
        traced, now = self._jobs[job], self._now()
        traced.clock.mark(now)
        before = traced.span
        if before is not None:  # another attempt at the job is another run
            self._end(job, traced, now, "continued")
            traced = self._jobs[job] = _Traced(phases.PhaseClock(now), now)
        ids = RunIds.of(run)
        links = [] if before is None else [Link(before.get_span_context())]
        attributes = {"vfl.task": job.task, "vfl.run": run.hex()[:RUN_DIGITS]}
        parent = SpanContext(ids.trace, ids.leading, True, TraceFlags(TraceFlags.SAMPLED))
        self._ids.given = ids if leads else None
        traced.span = self._tracer.start_span(
            f"vfl {job.task}",
            context=None if leads else set_span_in_context(NonRecordingSpan(parent)),
            attributes=attributes,
            links=links,
            start_time=round(traced.start * _NS),
        )
        self._ids.given = None

    def moved(self, job: JobNow) -> None:
        traced = self._jobs[job]
        if (over := traced.clock.move(job, self._now())) is not None:
            traced.over.append(over)
            self._put_phases(traced)

    def counted(self, job: JobNow, rows: int) -> None:
        self._jobs[job].clock.mark(self._now())
        self._jobs[job].rows += rows

    def ended(self, job: JobNow, error: BaseException | None) -> None:
        traced = self._jobs.pop(job)
        if traced.span is None:  # it ended before it was offered to anybody
            traced.span = self._tracer.start_span(
                f"vfl {job.task}",
                attributes={"vfl.task": job.task},
                start_time=round(traced.start * _NS),
            )
        self._end(job, traced, self._now(), outcome_of(error))

    def _end(self, job: JobNow, traced: _Traced, now: float, outcome: str) -> None:
        traced.over += traced.clock.end(now)
        self._put_phases(traced)
        if (span := traced.span) is None:
            return
        span.set_attributes(
            {"vfl.outcome": outcome, "vfl.rows": traced.rows, "vfl.parties": tuple(job.parties)}
        )
        if outcome not in ("done", "continued"):
            span.set_status(Status(StatusCode.ERROR, outcome))
        span.end(round(now * _NS))

    def _put_phases(self, traced: _Traced) -> None:
        """Spans of the phases that are over, as soon as the job has one to hold them."""
        if traced.span is None:
            return
        within = set_span_in_context(traced.span)
        for one in traced.over:
            span = self._tracer.start_span(one.phase, within, start_time=round(one.start * _NS))
            span.end(round(one.end * _NS))
        traced.over.clear()


@contextlib.contextmanager
def putting_spans(party: Party, show: Show) -> Iterator[Spans]:
    """Spans that go where OTEL_* says. Raises ConfigError for a way that vfl has not.

    At the end those that were not taken yet are waited for, 5 seconds at most.
    """
    say = _Saying(Once(show.say))
    logger = logging.getLogger("opentelemetry")
    logger.addHandler(say)
    logger.propagate = False
    spans = Spans(party, BatchSpanProcessor(_exporter()))
    try:
        yield spans
    finally:
        leaving = threading.Thread(target=spans.provider.shutdown, daemon=True)
        leaving.start()
        leaving.join(_LEAVING)
        logger.removeHandler(say)


def _exporter() -> SpanExporter:
    kind = os.environ.get(_EXPORTERS) or "otlp"
    if kind != "otlp":
        raise ConfigError(f"{_EXPORTERS} must be otlp or none")
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
    )
    if protocol != "http/protobuf":
        raise ConfigError("OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf, the one that vfl brings")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


class _Saying(logging.Handler):
    """Says what goes wrong on the way, in one line that names no address."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(f"note: spans are not taken ({record.name}): see OTEL_EXPORTER_OTLP_ENDPOINT")
