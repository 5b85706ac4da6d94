"""The service over HTTP: who asks, what is answered, and what is counted and logged of it."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor

from fastapi import FastAPI, Request, Response, Security
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from vfl.errors import ModelError, PeerError, VflError, fault
from vfl.online.access import Access, Client, is_of_this_machine
from vfl.online.body import BadRequest, ScoreRequest, parse_score, plain, problems_of, to_json
from vfl.online.catalogue import Catalogue
from vfl.online.metrics import TYPE, Metrics
from vfl.online.page import content_policy, page
from vfl.online.rows import RowsRefused
from vfl.online.schema import (
    Failure,
    Health,
    ModelsAnswer,
    Readiness,
    ScoreAnswer,
)
from vfl.online.schema import ScoreRequest as ScoreRequestSchema
from vfl.online.served import HostMissing, ServedModel
from vfl.party.online_section import OnlineSection
from vfl.party.tokens import Scope
from vfl.text import counted
from vfl.version import __version__

JSON = "application/json"
Answering = Callable[[Request], Awaitable[Response]]
_LARGE = 1 << 16  # bytes of a body above which it is parsed in a thread
_MB = 1_000_000
_HEAD = 16_384  # bytes of path and headers
_LEFT, _PATIENCE = 1 << 18, 1.0  # bytes of an unread body that are waited for, and seconds
_HEADERS = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
_WORDS = {
    404: "there is nothing here: /docs says what there is",
    405: "this address takes another method: /docs says which",
    500: "a fault of the service: its log has the details",
}


class Service:
    """What answers requests; `app` is the ASGI application."""

    def __init__(
        self,
        section: OnlineSection,
        catalogue: Catalogue,
        access: Access,
        threads: Executor,
        say: Callable[[str], None],
    ) -> None:
        self.section, self.catalogue, self.access = section, catalogue, access
        self.metrics = Metrics()
        self._threads = threads
        # What is asked hundreds of times a second does not go through all that stands before a route.
        at_once = {("POST", "/v1/score"): self._score}
        self._front = _Front(self._routes(), at_once, self.metrics, say)

    @property
    def app(self) -> ASGIApp:
        return self._front

    def drain(self) -> None:
        """Say with each answer that it is the connection's last."""
        self._front.draining = True

    def _routes(self) -> FastAPI:
        app = FastAPI(
            title="vfl online",
            version=__version__,
            summary="Scores of single rows and small batches, while somebody waits.",
            docs_url=None,
            redoc_url=None,
            openapi_url="/openapi.json",
            redirect_slashes=False,
        )
        bearer = HTTPBearer(auto_error=False, description="A token of `vfl online token`.")
        token = [] if self.section.without_tokens else [Security(bearer)]
        refusals = _described(
            {401: "no token that is known", 403: "the token does not allow this", 429: "asked too often"}
        )
        score = _described(
            {
                400: "no JSON in UTF-8",
                404: "no such model",
                408: "the body did not come in time",
                413: "too many bytes",
                415: "another type of content than JSON",
                422: "rows that cannot be used: which row and column, never a value",
                503: "a host that may not be done without is away, or stale; no model is ready yet",
            }
        )
        text = {"text/plain": {"schema": {"type": "string"}}}
        figures: dict[str, object] = {"description": "figures, as text", "content": text}
        # Rows are of the columns of the party's own models, which JSON Schema cannot name beforehand.
        body = ScoreRequestSchema.model_json_schema()
        body["properties"]["rows"]["maxItems"] = self.section.max_rows
        extra = {"requestBody": {"required": True, "content": {JSON: {"schema": body}}}}
        app.post(
            "/v1/score",
            summary="Score rows",
            responses={200: _of(ScoreAnswer, "scores, in the order of the rows"), **refusals, **score},
            openapi_extra=extra,
            dependencies=token,
        )(self._score)
        app.get(
            "/v1/models",
            summary="The models that are served",
            responses={200: _of(ModelsAnswer, "the models, their columns and directories"), **refusals},
            dependencies=token,
        )(self._models)
        app.get(
            "/healthz",
            summary="Whether the process answers",
            responses={200: _of(Health, "it does")},
        )(self._healthz)
        app.get(
            "/readyz",
            summary="Whether requests are answered as they should be, and which hosts are away",
            responses={200: _of(Readiness, "they are"), 503: _of(Readiness, "they are not")},
        )(self._readyz)
        app.get(
            "/metrics",
            summary="Figures for Prometheus",
            responses={200: figures, **refusals},
            response_class=Response,
            dependencies=token,
        )(self._show_metrics)
        app.get("/docs", include_in_schema=False)(self._docs)
        for path, answer in (("/healthz", self._healthz), ("/readyz", self._readyz)):
            app.head(path, include_in_schema=False)(answer)  # as load balancers ask
        app.add_exception_handler(HTTPException, _http_error)
        app.add_exception_handler(Exception, _http_error)
        return app

    async def _score(self, request: Request) -> Response:
        client = self._enter(request, "score")
        if isinstance(client, Response):
            return client
        try:
            asked = await self._read(request)
            if asked.asked.explain and not client.may("explain"):
                self.metrics.count_refused("scope")
                return failed(403, "the token does not allow explained scores (scope explain)")
            request.state.rows = len(asked.rows)
            model = self._find(asked.model)
            outcome = await model.score(asked.rows, asked.asked)
        except RowsRefused as refused:
            return answered(422, problems_of(refused))
        except BadRequest as error:
            return failed(error.status, str(error))
        except (HostMissing, PeerError) as error:
            return failed(503, str(error))
        except ModelError as error:
            return failed(422, str(error))
        self.metrics.count_rows(model.name, outcome)
        if outcome.rows > 1000:
            content = await asyncio.get_running_loop().run_in_executor(
                self._threads, to_json, outcome.answer
            )
        else:
            content = to_json(outcome.answer)
        return Response(content, media_type=JSON)

    async def _read(self, request: Request) -> ScoreRequest:
        """The body of a request for scores. Raises BadRequest."""
        kind = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
        if kind != JSON or request.headers.get("content-encoding", "identity") != "identity":
            raise BadRequest(415, "the body must be JSON (Content-Type: application/json), uncompressed")
        most = self.section.max_body * _MB
        too_large = BadRequest(413, f"the body is too large: at most {self.section.max_body} MB")
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > most:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self.section.timeout):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > most:
                        raise too_large
        except TimeoutError:
            raise BadRequest(408, "the body did not come in time") from None
        whole = bytes(body)
        if len(whole) <= _LARGE:
            return parse_score(whole, self.section.max_rows)
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, parse_score, whole, self.section.max_rows
        )

    def _find(self, name: str | None) -> ServedModel:
        if not self.catalogue.models:
            raise BadRequest(503, "no model is ready yet: the service's log says why")
        try:
            return self.catalogue.find(name)
        except ModelError as error:
            raise BadRequest(404, str(error)) from None

    async def _models(self, request: Request) -> Response:
        client = self._enter(request, "models")
        if isinstance(client, Response):
            return client
        models = [_state_of(model) for model in self.catalogue.models.values()]
        return answered(200, {"models": models})

    async def _healthz(self) -> Response:
        return answered(200, {"status": "ok", "version": __version__})

    async def _readyz(self) -> Response:
        models = self.catalogue.models
        states = {
            name: {host: one.state for host, one in model.hosts.items()}
            for name, model in models.items()
        }
        away = sorted({host for hosts in states.values() for host, s in hosts.items() if s == "away"})
        failing = any(
            (one.state == "away" and one.rules.away == "error")
            or (one.is_stale and one.rules.stale == "error")
            for model in models.values()
            for one in model.hosts.values()
        )
        ready = bool(models) and not failing and not self._front.draining
        return answered(200 if ready else 503, {"ready": ready, "models": states, "away": away})

    async def _show_metrics(self, request: Request) -> Response:
        client = self._enter(request, "metrics")
        if isinstance(client, Response):
            return client
        return Response(self.metrics.show(self.catalogue.models), media_type=TYPE)

    async def _docs(self) -> Response:
        headers = {"Content-Security-Policy": content_policy()}
        return Response(page(), media_type="text/html; charset=utf-8", headers=headers)

    def _enter(self, request: Request, scope: Scope) -> Client | Response:
        """Who asks, or the answer to who may not."""
        origin = request.headers.get("origin")
        if self.section.without_tokens and origin is not None and not is_of_this_machine(origin):
            # Anybody on this machine may ask, but no page of another site that somebody looks at on it.
            self.metrics.count_refused("origin")
            return failed(403, "a page of another site may not ask a service without tokens")
        client = self.access.find(request.headers.get("authorization"))
        if client is None:
            self.metrics.count_refused("token")
            text = "show a token that is known and has not expired (Authorization: Bearer ...)"
            return failed(401, text, {"WWW-Authenticate": "Bearer"})
        request.state.client = client.name
        if not client.may(scope):
            self.metrics.count_refused("scope")
            return failed(403, f"the token does not allow this (scope {scope})")
        wait = self.access.wait(client)
        if wait > 0:
            self.metrics.count_refused("rate")
            text = f"asked more often than {counted_rate(client.rate)} a second"
            return failed(429, text, {"Retry-After": str(max(1, round(wait)))})
        return client


def counted_rate(rate: float | None) -> str:
    """A rate in words."""
    return "once" if rate == 1 else f"{rate or 0:g} times"


def _state_of(model: ServedModel) -> dict[str, object]:
    columns = [
        {"name": name, "kind": kind, "needed": model.reader.is_needed(name)}
        for name, kind in model.reader.uses.items()
    ]
    return {
        "model": model.name,
        "job": model.name.rsplit("-", 3)[0],
        "unit": model.unit,
        "explains": model.explains,
        "columns": columns,
        "hosts": model.directories,
    }


def _of(model: type[BaseModel], description: str) -> dict[str, object]:
    return {"model": model, "description": description}


def _described(words: Mapping[int, str]) -> dict[int | str, dict[str, object]]:
    return {status: _of(Failure, text) for status, text in words.items()}


def answered(status: int, answer: object, headers: Mapping[str, str] | None = None) -> Response:
    """An answer in JSON."""
    return Response(to_json(answer), status, headers, JSON)


def failed(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """The answer to a request that has none."""
    return answered(status, {"error": text, "problems": []}, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    return failed(status, _WORDS.get(status, "the request cannot be answered"), headers)


class _Front:
    """Stands before the application: times, counts and logs each request, and answers where it fails."""

    def __init__(
        self,
        app: FastAPI,
        at_once: Mapping[tuple[str, str], Answering],
        metrics: Metrics,
        say: Callable[[str], None],
    ) -> None:
        """at_once: by method and path, what answers requests that the application would give to it."""
        self._app, self._at_once, self._metrics, self._say = app, at_once, metrics, say
        self.draining = False
        self._paths = frozenset(route.path for route in app.routes if hasattr(route, "path"))

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        state: dict[str, object] = scope.setdefault("state", {})
        body = _Body(receive)
        wrong = _answer_to_head(scope)

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # A body that nobody has read stands before the connection's next request.
                close = self.draining or wrong or not await body.is_over(patient=status != 408)
                last = [(b"connection", b"close")] if close else []
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS, *last]}
            await send(message)

        try:
            if wrong:
                await _send(send_on, wrong)
            elif (answer := self._at_once.get((scope["method"], scope["path"]))) is not None:
                response = await answer(Request(scope, body.receive))
                await response(scope, body.receive, send_on)
            else:
                await self._app(scope, body.receive, send_on)
        except ClientDisconnect:
            status = status or 499  # nobody is there to be answered
        except Exception as error:
            self._say(str(error) if isinstance(error, VflError) else fault(error))
            if not status:
                await _send(send_on, failed(500, _WORDS[500]))
        seconds = time.perf_counter() - began
        path = scope["path"] if scope["path"] in self._paths else "other"
        self._metrics.count_request(path, status, seconds)
        rows = state.get("rows")
        who = f" {state['client']}" if "client" in state else ""
        of_rows = f" {counted(rows, 'row')}" if isinstance(rows, int) else ""
        self._say(f"{plain(scope['method'])} {path} {status} {seconds * 1000:.1f} ms{of_rows}{who}")


def _size_of_head(scope: AsgiScope) -> int:
    """Bytes of a request's path and headers, of which uvicorn takes any number that come at once."""
    fields = sum(len(name) + len(value) for name, value in scope["headers"])
    return fields + len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"")


def _answer_to_head(scope: AsgiScope) -> Response | None:
    """The answer to a head after which nothing else of the connection is read, None to any other."""
    if _size_of_head(scope) > _HEAD:
        return failed(431, "the head of the request is too large")
    if scope["http_version"] not in ("1.1", "1.0"):
        return failed(400, "another version of HTTP than 1.1")
    names = {name for name, _ in scope["headers"]}
    if b"content-length" in names and b"transfer-encoding" in names:
        # A proxy before the service may see the body end elsewhere, and so another request in what
        # follows (RFC 9112, section 6.1).
        return failed(400, "the body has a length and comes in chunks: it must be one or the other")
    return None


class _Body:
    """What a client sends after the head of its request, and whether all of it has come."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._over = False

    async def receive(self) -> Message:
        """The next message, as the application reads it."""
        message = await self._receive()
        self._over = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def is_over(self, *, patient: bool) -> bool:
        """Whether all has come, a little that is left being waited for if `patient`."""
        if self._over:
            return True
        left = _LEFT
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE if patient else 0):
                while not self._over and left > 0:
                    left -= len((await self.receive()).get("body", b""))
        return self._over


async def _send(send: Callable[[Message], Awaitable[None]], response: Response) -> None:
    await send(
        {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
    )
    await send({"type": "http.response.body", "body": response.body})
