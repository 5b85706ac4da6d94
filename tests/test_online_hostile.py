"""Requests that nobody would write, made by the service's own description: no fault, nothing hangs."""

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quotes import client, made, online
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    negative_data_rejection,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)

from vfl.online.service import Online

GOOD = {"plate": "AB1", "age": 40, "born": "1.2.1980", "area": "urban"}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


class _InLoop:
    """The application of a service in a thread that has an event loop of its own, for callers that are
    not asynchronous."""

    def __init__(self, service: Online) -> None:
        self.service = service
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.run(service.begin())

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Called in another loop: what belongs to the service runs in its own."""
        outer = asyncio.get_running_loop()

        async def receive_there() -> Any:
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(receive(), outer))

        async def send_there(message: Any) -> None:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(send(message), outer))

        if scope["type"] == "lifespan":
            return
        whole = self.service.service.app(scope, receive_there, send_there)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(whole, self.loop))

    def close(self) -> None:
        self.run(self.service.catalogue.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_InLoop]:
    service, *_ = online(tmp_path_factory.mktemp("hostile"), [made()], max_rows=50)
    running = _InLoop(service)
    yield running
    running.close()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_requests_by_the_description(app: _InLoop, mode: GenerationMode) -> None:
    description = schemathesis.openapi.from_asgi("/openapi.json", app)
    seen: set[str] = set()
    for found in description.get_all_operations():
        operation = found.ok()
        few = 40 if operation.method == "post" else 3
        if mode is GenerationMode.NEGATIVE and operation.method != "post":
            continue  # they take nothing that could be wrong

        @settings(
            max_examples=few,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=[*HealthCheck],
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            answer = case.call_and_validate(checks=CHECKS)
            seen.add(f"{case.method} {case.path} {answer.status_code}")

        ask()
    assert any(one.startswith("POST /v1/score 422") for one in seen), seen
    if mode is GenerationMode.POSITIVE:
        paths = ("/healthz", "/readyz", "/v1/models", "/metrics")
        assert {f"GET {path} 200" for path in paths} <= seen


JUNK: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["AB1", "urban", "1.2.1980", "1,5", "NaN", "-0", "1e309", "\u0000", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from([*GOOD, "claim", "years"]) | st.text(max_size=8)


@settings(max_examples=80, deadline=None, database=None, suppress_health_check=[*HealthCheck])
@given(
    rows=st.lists(st.dictionaries(NAMES, JUNK, max_size=6).map(lambda row: {**GOOD, **row}), max_size=4),
    extra=st.dictionaries(st.sampled_from(["explain", "top", "model", "x"]), JUNK, max_size=2),
    cut=st.integers(0, 200),
    noise=st.binary(max_size=3),
)
def test_rows_of_any_cells_are_answered_without_a_fault(
    app: _InLoop, rows: Any, extra: Any, cut: int, noise: bytes
) -> None:
    body = json.dumps({"rows": rows, **extra}).encode()
    if cut < 60:  # and bytes that are no JSON
        body = body[:cut] + noise + body[cut + 1 :]

    async def ask() -> httpx.Response:
        async with client(app.service) as asking:
            return await asking.post("/v1/score", content=body)

    answer = app.run(ask())
    assert answer.status_code in (200, 400, 404, 413, 422), answer.text
    said = answer.json()
    assert ("results" in said) == (answer.status_code == 200)
    if answer.status_code == 200:
        assert all(row["prediction"] is not None for row in said["results"])
