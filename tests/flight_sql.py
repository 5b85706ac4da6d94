"""A server of Flight SQL of the tests' own: selects over tables of DuckDB, for users with a password.

https://arrow.apache.org/docs/format/FlightSql.html
"""

import base64
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight

USER, PASSWORD = "reader", "sun & rain: 100%/@#'"

_TYPES = "type.googleapis.com/arrow.flight.protocol.sql."


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _field(number: int, value: bytes) -> bytes:
    """A field of bytes in protobuf."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _fields(message: bytes) -> dict[int, bytes]:
    """The fields of bytes of a message in protobuf."""
    found, at = {}, 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            value |= (message[at] & 127) << shift
            at, shift = at + 1, shift + 7
            if message[at - 1] < 128:
                return value

    while at < len(message):
        key = varint()
        size = varint()
        if key & 7 == 2:
            found[key >> 3] = message[at : at + size]
            at += size
    return found


def _opened(message: bytes) -> tuple[str, dict[int, bytes]]:
    """The kind of a message that is wrapped in an Any, and its fields."""
    wrapped = _fields(message)
    return wrapped[1].decode().removeprefix(_TYPES), _fields(wrapped.get(2, b""))


class _SaysNothing(flight.ServerAuthHandler):  # type: ignore[misc]
    def authenticate(self, outgoing: object, incoming: object) -> None: ...

    def is_valid(self, token: object) -> str:
        return ""


class _Passwords(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.token = secrets.token_hex(8)
        self.tried: list[str] = []

    def start_call(self, info: object, headers: dict[str, list[str]]) -> "_Bearer":
        given = next((v[0] for k, v in headers.items() if k.lower() == "authorization"), "")
        self.tried.append(given)
        known = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"
        if given.rstrip("=") not in (known.rstrip("="), f"Bearer {self.token}"):
            raise flight.FlightUnauthenticatedError(f"no user with the password of {given}")
        return _Bearer(self.token)


class _Bearer(flight.ServerMiddleware):  # type: ignore[misc]
    def __init__(self, token: str) -> None:
        super().__init__()
        self._token = token

    def sending_headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._token}"}


class Server(flight.FlightServerBase):  # type: ignore[misc]
    """The server; `between` is called between the batches of a result."""

    def __init__(self, connection: Any, **options: Any) -> None:
        self.passwords = _Passwords()
        super().__init__(
            "grpc://127.0.0.1:0",
            auth_handler=_SaysNothing(),
            middleware={"passwords": self.passwords},
            **options,
        )
        self._connection = connection
        self.asked: list[str] = []
        self.between: Callable[[int], None] = lambda number: None

    @property
    def address(self) -> str:
        """That of its user, without the password."""
        return f"grpc://{USER}@127.0.0.1:{self.port}"

    def _reader(self, query: str) -> pa.RecordBatchReader:
        self.asked.append(query)
        try:
            return self._connection.cursor().sql(query).to_arrow_reader(2048)
        except Exception as error:  # a database says what it likes
            raise flight.FlightServerError(f"{error} in {query}") from None

    def get_flight_info(self, context: object, descriptor: Any) -> Any:
        kind, fields = _opened(descriptor.command)
        if kind not in ("CommandStatementQuery", "CommandPreparedStatementQuery"):
            raise NotImplementedError(kind)
        ticket = flight.Ticket(fields[1])
        endpoint = flight.FlightEndpoint(ticket, [])
        return flight.FlightInfo(self._reader(fields[1].decode()).schema, descriptor, [endpoint], -1, -1)

    def do_get(self, context: object, ticket: Any) -> Any:
        reader = self._reader(ticket.ticket.decode())

        def batches() -> Iterator[pa.RecordBatch]:
            for number, batch in enumerate(reader):
                self.between(number)
                yield batch

        return flight.GeneratorStream(reader.schema, batches())

    def do_action(self, context: object, action: Any) -> Iterator[bytes]:
        kind, fields = _opened(action.body.to_pybytes())
        if kind == "ActionCreatePreparedStatementRequest":
            schema = self._reader(fields[1].decode()).schema.serialize().to_pybytes()
            result = _field(1, fields[1]) + _field(2, schema)
            name = f"{_TYPES}ActionCreatePreparedStatementResult".encode()
            yield _field(1, name) + _field(2, result)
        elif kind != "ActionClosePreparedStatementRequest":
            raise NotImplementedError(kind)


@contextmanager
def serving(connection: Any) -> Iterator[Server]:
    """A server for as long as it lasts."""
    with Server(connection) as server:
        yield server
