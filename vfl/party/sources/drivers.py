"""Drivers of ADBC by kind of database: what each takes of an address and of a password."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

_CONNECT_SECONDS = "10"


@dataclass(frozen=True)
class Driver:
    """How a kind of database is reached. `read_only` begins a transaction that can change nothing."""

    module: str
    extra: str
    read_only: str | None = None

    def arguments(self, url: str, password: str | None) -> tuple[str | None, dict[str, object]]:
        """The address and the options that its `connect` takes."""
        raise NotImplementedError


class _Postgresql(Driver):
    def arguments(self, url: str, password: str | None) -> tuple[str | None, dict[str, object]]:
        parts = urlsplit(url)
        query = parts.query
        if "connect_timeout=" not in query and "PGCONNECT_TIMEOUT" not in os.environ:
            query += f"{'&' if query else ''}connect_timeout={_CONNECT_SECONDS}"
        if password is not None:
            query += f"{'&' if query else ''}password={quote(password, safe='')}"
        return f"postgresql://{parts.netloc}{parts.path}?{query}", {}  # without a host, too


class _FlightSql(Driver):
    def arguments(self, url: str, password: str | None) -> tuple[str | None, dict[str, object]]:
        parts = urlsplit(url)
        user, _, host = parts.netloc.rpartition("@")
        options = {"username": unquote(user)} if user else {}
        if password is not None and user:
            options["password"] = password
        elif password is not None:  # a token
            options[_FLIGHT_SQL + "authorization_header"] = f"Bearer {password}"
        for key, value in parse_qsl(parts.query, keep_blank_values=True):
            options |= _flight_option(key, value)
        address = urlunsplit(parts._replace(netloc=host, query=""))
        # There are no transactions, which the driver would say on stderr.
        return address, {"db_kwargs": options, "autocommit": True}


def _flight_option(key: str, value: str) -> dict[str, str]:
    """An option of an address of Flight SQL as its driver's. Raises ValueError."""
    if key == "tls_root_certs":
        try:
            return {_FLIGHT_SQL + "client_option.tls_root_certs": Path(value).read_text()}
        except (OSError, UnicodeDecodeError):
            raise ValueError("names a file under tls_root_certs that cannot be read") from None
    if key in ("tls_override_hostname", "authority"):
        return {f"{_FLIGHT_SQL}client_option.{key}": value}
    if key in ("query_timeout", "fetch_timeout"):
        return {f"{_FLIGHT_SQL}rpc.timeout_seconds.{key.partition('_')[0]}": value}
    if key.startswith("header."):
        return {f"{_FLIGHT_SQL}rpc.call_header.{key.removeprefix('header.').lower()}": value}
    raise ValueError(
        "has an option that is none: those of Flight SQL are tls_root_certs, tls_override_hostname, "
        "authority, query_timeout, fetch_timeout and header.NAME"
    )


class _Snowflake(Driver):
    def arguments(self, url: str, password: str | None) -> tuple[str | None, dict[str, object]]:
        parts = urlsplit(url)
        user, _, account = parts.netloc.rpartition("@")
        places = unquote(parts.path).strip("/").split("/")
        options = {
            _SQL + "account": account,
            **dict(zip((_SQL + "db", _SQL + "schema"), places, strict=False)),
        }
        for key, value in parse_qsl(parts.query):
            options[_SQL + (key if key in _OF_SESSIONS else f"client_option.{key}")] = value
        options |= {"username": unquote(user)} if user else {}
        options |= {"password": password} if password is not None else {}
        return None, {"db_kwargs": {key: value for key, value in options.items() if value}}


_SQL = "adbc.snowflake.sql."
_FLIGHT_SQL = "adbc.flight.sql."
_OF_SESSIONS = ("warehouse", "role", "region", "auth_type")
_PG = _Postgresql(
    "adbc_driver_postgresql",
    "postgresql",
    "set transaction isolation level repeatable read, read only",
)
_FLIGHT = _FlightSql("adbc_driver_flightsql", "flightsql")
DRIVERS: Mapping[str, Driver] = {
    "postgresql": _PG,
    "postgres": _PG,
    "snowflake": _Snowflake("adbc_driver_snowflake", "snowflake"),
    "grpc": _FLIGHT,
    "grpc+tls": _FLIGHT,
}
