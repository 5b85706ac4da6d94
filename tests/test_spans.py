"""Traces of a job over its parties."""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from commands import command
from federation import Federation, free_port
from room import Said

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed (vfl[otel])")

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from vfl.errors import ConfigError, PeerLost
from vfl.jobs.activity import JobNow
from vfl.jobs.alignment import Plan, align
from vfl.jobs.connect import Site
from vfl.jobs.host import serve
from vfl.monitor import tracing
from vfl.monitor.spans import RunIds, Spans, putting_spans
from vfl.party.config import Party, load_party

RUN = bytes(range(32))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Traced:
    """A party's spans, in memory."""

    def __init__(self, party: Party) -> None:
        self._kept = InMemorySpanExporter()
        self.clock = Clock()
        self.spans = Spans(party, SimpleSpanProcessor(self._kept), self.clock)

    @property
    def found(self) -> Sequence[ReadableSpan]:
        return self._kept.get_finished_spans()

    def named(self, name: str) -> ReadableSpan:
        (one,) = [span for span in self.found if span.name == name]
        return one


def ids(span: ReadableSpan) -> tuple[int, int, int | None]:
    """Of the trace, the span, its parent."""
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id, span.parent.span_id if span.parent else None


@pytest.fixture
def federation(tmp_path: Path, keys: Path) -> Federation:
    made = Federation(tmp_path, keys)
    for name in ("registry", "bureau"):
        port = free_port()
        made.parties[name].settings["party"]["listen"] = f"127.0.0.1:{port}"
        made.guest.settings["peers"][name]["address"] = f"127.0.0.1:{port}"
    for party in made.parties.values():
        party.write()
    return made


def test_an_alignment_of_three_parties_is_one_trace(federation: Federation) -> None:
    sites = {name: Site.open(load_party(one.file)) for name, one in federation.parties.items()}
    traced = {}
    for name, site in sites.items():
        traced[name] = Traced(site.party)
        site.activity.watchers.append(traced[name].spans)

    async def work() -> None:
        hosts = [asyncio.create_task(serve(sites[n], Said())) for n in ("registry", "bureau")]
        await align(sites["insurer"], Plan(), wait=60, show=Said())
        while not all(traced[name].found for name in traced):
            await asyncio.sleep(0.01)
        for host in hosts:
            host.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*hosts)

    asyncio.run(work())
    trace, root, none = ids(traced["insurer"].named("vfl align"))
    assert none is None
    for name in ("registry", "bureau"):
        span = traced[name].named("vfl align")
        assert ids(span)[0] == trace and ids(span)[2] == root and ids(span)[1] != root
        assert span.resource.attributes["vfl.party"] == name
        assert span.attributes is not None and span.attributes["vfl.outcome"] == "done"
        phase = traced[name].named("preparing")
        assert ids(phase)[0] == trace and ids(phase)[2] == ids(span)[1]
    for one in traced.values():
        for span in one.found:
            assert set(span.attributes or ()) <= {
                "vfl.task",
                "vfl.run",
                "vfl.outcome",
                "vfl.rows",
                "vfl.parties",
            }
            assert not span.events


def test_ids_follow_from_the_run_and_say_nothing_else() -> None:
    """Known answers: parties of other versions have to find the same."""
    assert RunIds.of(RUN) == RunIds.of(bytes(range(32)))
    assert (f"{RunIds.of(RUN).trace:032x}", f"{RunIds.of(RUN).leading:016x}") == TRACE_OF_RUN
    assert RunIds.of(RUN) != RunIds.of(RUN[::-1])


TRACE_OF_RUN = ("6e2c5fb0539b6cd85b0b5638ff49415f", "7125d21751096bc8")


def test_phases_are_spans_and_an_attempt_is_a_trace(federation: Federation) -> None:
    guest = Traced(load_party(federation.guest.file))
    job, clock, spans = JobNow("train"), guest.clock, guest.spans
    spans.began(job)
    clock.now = 103.0
    spans.offered(job, RUN, True)
    job.step, job.done = "training claims", 1
    clock.now = 105.0
    spans.moved(job)
    clock.now = 106.0
    spans.offered(job, RUN[::-1], True)  # a host was lost, and is back
    clock.now = 108.0
    spans.moved(job)
    clock.now = 109.0
    spans.ended(job, PeerLost("the connection to registry broke"))
    times = [(one.name, one.start_time, one.end_time) for one in guest.found]
    second = 1_000_000_000
    assert times == [
        ("preparing", 100 * second, 103 * second),
        ("training", 103 * second, 106 * second),
        ("ending", 106 * second, 106 * second),
        ("vfl train", 100 * second, 106 * second),
        ("preparing", 106 * second, 106 * second),
        ("training", 106 * second, 108 * second),
        ("ending", 108 * second, 109 * second),
        ("vfl train", 106 * second, 109 * second),
    ]
    first, last = (one for one in guest.found if one.name == "vfl train")
    assert ids(first)[:2] == (RunIds.of(RUN).trace, RunIds.of(RUN).leading)
    assert ids(last)[0] == RunIds.of(RUN[::-1]).trace
    assert [link.context.trace_id for link in last.links] == [RunIds.of(RUN).trace]
    assert last.status.description == "peer_lost" and first.status.description is None


def test_a_job_that_was_never_offered_is_a_trace_of_its_own(federation: Federation) -> None:
    guest = Traced(load_party(federation.guest.file))
    job = JobNow("train")
    guest.spans.began(job)
    guest.spans.ended(job, ConfigError("no such column"))
    assert [one.name for one in guest.found] == ["preparing", "vfl train"]
    assert guest.named("vfl train").status.description == "failed"


def test_spans_are_made_where_the_environment_names_a_collector(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert not tracing.is_wanted()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    assert tracing.is_wanted()
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert not tracing.is_wanted()
    monkeypatch.delenv("OTEL_SDK_DISABLED")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert not tracing.is_wanted()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    guest = federation.guest
    command("align", str(guest.file), "--wait", "0").failed(2, "OTEL_TRACES_EXPORTER must be otlp")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    command("align", str(guest.file), "--wait", "0").failed(2, "must be http/protobuf")


def test_a_collector_that_is_away_holds_no_job_up(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    said, job = Said(), JobNow("train")
    with putting_spans(load_party(federation.guest.file), said) as spans:
        spans.began(job)
        spans.ended(job, None)
        spans.provider.force_flush(20_000)
    assert any(line.startswith("note: spans are not taken") for line in said.lines)
    assert all("127.0.0.1" not in line for line in said.lines)


def test_without_the_packages_a_note_says_so(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "vfl.monitor.spans", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    said = Said()
    with tracing.tracing(Site.open(load_party(federation.guest.file)), said):
        pass
    assert said.lines == [line for line in said.lines if "vfl[otel]" in line] != []
