"""Requests to `vfl online` and lookups on the wire that nobody should send: nothing may hang or fail.

    python benchmarks/online.py --malformed 100000

Requests are made of good ones: cells of every kind that JSON has and some that it has not, bodies that
are cut, spoilt or too deep, heads of all sorts, other paths and methods. Each is sent over a connection
of its own or over one that is open still; the service has to answer within `PATIENCE`, or to close, and
never with a status of 500 or more. Lookups are attacked as in `fuzz.py`.
"""

import asyncio
import json
import random
import ssl
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PATIENCE = 30.0  # seconds for an answer; the service itself waits `timeout` for a body
_AT_ONCE = 32
_TIMES = 100  # requests of a connection at most

CELLS: Sequence[object] = (
    *(None, True, False, 0, -0.0, -1, 2**63, 10**400, -(10**18), 1.5, 1e300, 5e-324),
    *("", " ", "NaN", "inf", "-0", "1e309", "1,5", "\0", "\ud800", "\u202e", "x" * 2_000, "0" * 5_000),
    *([], [[]], {}, {"a": {"b": []}}, [1, "x", None]),
)
LITERALS = (
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"-0",
    b"01",
    b"1" * 6_000,
    b"'x'",
    b"\xff",
    b"",
)
PATHS = (
    "/",
    "/v1/score",
    "/v1/score/",
    "/v1/models",
    "/metrics",
    "/healthz",
    "/..",
    "/%00",
    "/v1//score",
)
METHODS = ("GET", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE", "BREW", "post")
HEADS = (
    "Content-Type: text/plain",
    "Content-Encoding: gzip",
    "Authorization: Bearer x",
    "Authorization: " + "y" * 300,
    "Expect: 100-continue",
    "Transfer-Encoding: chunked",
    "Content-Length: 5",
    "Content-Length: -1",
    "X-Large: " + "z" * 20_000,
    "Bad Name: x",
    "Upgrade: websocket\r\nConnection: upgrade",
    "Connection: close",
)


def body_of(rng: random.Random, rows: Sequence[dict[str, Any]]) -> bytes:
    """A body that is wrong somewhere, most of the time."""
    row = dict(rng.choice(rows))
    names = [*row, "claim", "policyy", "", "\0", "n" * 3_000]
    for _ in range(rng.randrange(4)):
        row[rng.choice(names)] = rng.choice(CELLS)
    if row and rng.random() < 0.1:
        del row[rng.choice([*row])]
    request: object = {"rows": [row, *rng.choices([*CELLS, row], k=rng.randrange(3))]}
    if rng.random() < 0.2:
        request = request | {rng.choice(["explain", "top", "model", "x", "rows"]): rng.choice(CELLS)}  # type: ignore[operator]
    elif rng.random() < 0.05:
        request = rng.choice(CELLS)
    body = json.dumps(request).encode()
    at = rng.randrange(len(body) + 1)
    kind = rng.randrange(8)
    if kind == 0:
        return body[:at]
    if kind == 1:
        return body[:at] + rng.randbytes(rng.randrange(1, 9)) + body[at + rng.randrange(9) :]
    if kind == 2 and (colon := body.find(b":", at)) >= 0:
        return body[: colon + 1] + rng.choice(LITERALS) + body[colon + 2 :]
    if kind == 3:
        return rng.choice([b"[" * 50_000, b'{"rows":' * 20_000, b'{"rows": [{"a": 1, "a": 2}]}', b""])
    return body


def request_of(rng: random.Random, rows: Sequence[dict[str, Any]], token: str) -> tuple[str, bytes]:
    """A request: what stands before its last line, and all of it."""
    body = body_of(rng, rows)
    head = [f"Host: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json"]
    method, path = "POST", "/v1/score"
    if rng.random() < 0.1:
        method, path = rng.choice(METHODS), rng.choice(PATHS)
    if rng.random() < 0.15:
        head += [rng.choice(HEADS) for _ in range(rng.randrange(1, 4))]
    length = len(body) + (rng.randrange(-3, 4) if rng.random() < 0.003 else 0)
    line = f"{method} {path} HTTP/1.1\r\n"
    if rng.random() < 0.02:
        line = rng.choice(["\r\n", "GET\r\n", "POST / HTTP/9.9\r\n", "\x16\x03\x01" * 50 + "\r\n"])
        method = "POST"  # whose answer has a body
    whole = "\r\n".join([line + head[0], *head[1:], f"Content-Length: {length}", "", ""])
    return method, whole.encode() + body


class _Connection:
    """A connection that is used until the service closes it."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self._where, self._tls = (host, port), tls
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._left = 0

    async def send(self, method: str, content: bytes) -> str:
        """What became of a request, in a word or two."""
        if self._open is None or self._left == 0:
            self.close()
            self._open = await asyncio.open_connection(*self._where, ssl=self._tls, limit=1 << 22)
            self._left = _TIMES
        self._left -= 1
        reader, writer = self._open
        try:
            async with asyncio.timeout(PATIENCE):
                writer.write(content)
                await writer.drain()
                said = b"HTTP/1.1 100 "
                while said.startswith(b"HTTP/1.1 100 "):
                    said = await reader.readuntil(b"\r\n\r\n")
                lower = said.lower()
                length = lower.partition(b"content-length: ")[2].partition(b"\r\n")[0]
                if method != "HEAD" and length:
                    await reader.readexactly(int(length))
        except TimeoutError:
            self.close()
            return "hung"
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return "closed"
        if b"connection: close" in lower:
            self.close()
        return f"status {said[9:12].decode('ascii', 'replace')}"

    def close(self) -> None:
        if self._open is not None:
            self._open[1].transport.abort()
            self._open = None


async def requests(
    where: tuple[str, int],
    tls: ssl.SSLContext | None,
    token: str,
    rows: Sequence[dict[str, Any]],
    count: int,
) -> dict[str, Any]:
    """Send so many; how they ended, and how many hung or were answered as faults of the service."""
    outcomes: Counter[str] = Counter()
    slowest = 0.0

    async def some(number: int) -> None:
        nonlocal slowest
        rng, connection = random.Random(number), _Connection(*where, tls)  # noqa: S311
        for _ in range(number, count, _AT_ONCE):
            began = time.perf_counter()
            outcomes[await connection.send(*request_of(rng, rows, token))] += 1
            slowest = max(slowest, time.perf_counter() - began)
        connection.close()

    await asyncio.gather(*(some(number) for number in range(min(_AT_ONCE, count))))
    wrong = sum(many for what, many in outcomes.items() if what == "hung" or what >= "status 5")
    return {
        "answered": count,
        "requests": count,
        "outcomes": dict(sorted(outcomes.items())),
        "faults": wrong,
        "slowest_seconds": slowest,
    }


def lookups(count: int, seed: int = 0) -> dict[str, Any]:
    """Attack so many sessions of lookups, over memory; how the parties ended."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import fuzz
    import roles

    outcomes: Counter[str] = Counter()
    with roles.in_memory():
        scenario = roles.SCENARIOS["looking up"]()
        for _, case in zip(range(count), fuzz.at_random({"looking up": scenario}, seed), strict=False):
            try:
                outcomes[case.outcome()] += 1
            except AssertionError as fault:
                outcomes["fault"] += 1
                print(f"lookups: {fault}", file=sys.stderr, flush=True)
    return {"attacks": count, "outcomes": dict(outcomes), "faults": outcomes["fault"]}
