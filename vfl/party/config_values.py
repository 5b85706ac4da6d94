"""What a key of a party file or a job file may hold."""

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
)

from vfl.learn.losses import Family, Objective
from vfl.learn.params import NO_OU, Encryption
from vfl.net.addresses import SCHEME, is_relay
from vfl.party.config_words import JOB_NAME, PARTY_NAME, Schema, describe_allowed, plain_key
from vfl.party.ids import STEP, compose


def to_the_end(pattern: str) -> str:
    """A pattern for Python's `re`, to which $ is also what stands before a newline at the end."""
    return pattern.removesuffix("$") + r"\Z"


def _resolve_path(path: object, info: ValidationInfo) -> object:
    """Text as a path, from the party file's folder when that is known."""
    if not isinstance(path, str | Path):
        return path
    if not str(path) or "\0" in str(path):
        raise ValueError("must be a path")
    return Path((info.context or {}).get("folder", "")) / _on_disk(path)


def _on_disk(path: str | Path) -> str | Path:
    """The path with the bytes of UTF-8 for letters that this system's locale lacks (LC_ALL=C)."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return os.fsdecode(str(path).encode())
    return path


def _several(value: object) -> object:
    """One name as a list of one; a list as a tuple, which a frozen model can hold."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _encryptions(value: object) -> object:
    if isinstance(value, list) and "ou" in value:
        raise ValueError(f'must be a list of "paillier" or "lattice": {NO_OU}')
    return _as_tuple(value)


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("must not name anything twice")
    return names


def _endpoint(least_port: int, words: str, or_relay: bool = True) -> AfterValidator:
    def check(text: str) -> str:
        of_relay = or_relay and is_relay(text)
        host, _, port = (text.removeprefix(SCHEME) if of_relay else text).rpartition(":")
        plain = re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", host)
        digits = re.fullmatch(r"[0-9]{1,5}", port)
        least = 1 if of_relay else least_port
        if not plain or not digits or not least <= int(port) <= 65535:
            also = ", or relay://host:port" if or_relay else ""
            raise ValueError(f"must be {words}{also}")
        return text

    return AfterValidator(check)


def one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be one line of printable text")
    return text


def _rule(value: object, info: ValidationInfo) -> object:
    """Steps for all id columns, or a list by column, as the one list that the parties compare."""
    if isinstance(value, dict):
        columns = info.data.get("id", tuple(value))  # a bad id has its own error
        if set(value) != set(columns):
            raise ValueError(
                f"must have a list of steps for each id column: {', '.join(map(plain_key, columns))}"
            )
        lists = [value[column] for column in columns]
    else:
        lists = [value]
    for steps in lists:
        known = isinstance(steps, list | tuple) and all(
            isinstance(step, str) and re.fullmatch(STEP, step) for step in steps
        )
        if not known:
            raise ValueError(f"must be {describe_allowed(_STEPS, {})}")
        _distinct(tuple(steps))
    return compose(lists)


UNLIMITED: Final = "unlimited"
"""What a limit of a host's policy is where it has none."""


def _limit(kind: type[int] | type[float]) -> Callable[[object], object]:
    """A check of a limit: a number of at least 1, a fraction above 0, or none."""

    def check(value: object) -> object:
        if value == UNLIMITED:
            return value
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return kind(value)
        if kind is float and isinstance(value, float) and 0 < value < math.inf:
            return value
        raise ValueError(f"must be {describe_allowed(_LIMITS[kind], {})}")

    return check


_LIMITS: dict[type[int] | type[float], Schema] = {
    int: {"anyOf": [{"type": "integer", "minimum": 1}, {"const": UNLIMITED}]},
    float: {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"const": UNLIMITED}]},
}
_STEPS = {"type": "array", "items": {"type": "string", "pattern": f"^({STEP})$"}}
_LIST_OF_TEXT = {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}}
FileKind = Literal["party", "job", "relay"]
Role = Literal["guest", "host", "coordinator"]
Duplicates = Literal["refuse", "first", "keep", "last", "sum", "mean", "max", "min"]
Aggregate = Literal["first", "last", "sum", "mean", "max", "min", "mode"]
PartyName = Annotated[str, Field(pattern=PARTY_NAME)]
JobName = Annotated[str, Field(pattern=JOB_NAME)]
ColumnName = Annotated[str, Field(min_length=1)]
ColumnNames = Annotated[tuple[ColumnName, ...], BeforeValidator(_as_tuple), AfterValidator(_distinct)]
OneOrMoreColumns = Annotated[
    tuple[ColumnName, ...],
    Field(min_length=1),
    BeforeValidator(_several),
    AfterValidator(_distinct),
    WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, _LIST_OF_TEXT]}),
]
Names = Annotated[
    tuple[PartyName, ...], Field(min_length=1), BeforeValidator(_as_tuple), AfterValidator(_distinct)
]
Patterns = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1), BeforeValidator(_as_tuple)
]
ModelName = Literal["secureboost", "glm"]
"""A kind of model, as job files and documents name it."""
Models = Annotated[tuple[ModelName, ...], Field(min_length=1), BeforeValidator(_as_tuple)]
Objectives = Annotated[
    tuple[Literal[Objective, Family], ...], Field(min_length=1), BeforeValidator(_as_tuple)
]
Encryptions = Annotated[tuple[Encryption, ...], Field(min_length=1), BeforeValidator(_encryptions)]
Engine = Literal["ecdh", "ot"]
JoinKind = Literal["inner", "left"]
Engines = Annotated[tuple[Engine, ...], Field(min_length=1), BeforeValidator(_as_tuple)]
Joins = Annotated[tuple[JoinKind, ...], Field(min_length=1), BeforeValidator(_as_tuple)]
Rule = Annotated[
    tuple[str, ...],
    BeforeValidator(_rule),
    WithJsonSchema({"anyOf": [_STEPS, {"type": "object", "additionalProperties": _STEPS}]}),
]
Limit = Annotated[int | Literal["unlimited"], PlainValidator(_limit(int)), WithJsonSchema(_LIMITS[int])]
"""The most that a host allows of something."""
FractionLimit = Annotated[
    float | Literal["unlimited"], PlainValidator(_limit(float)), WithJsonSchema(_LIMITS[float])
]
LocalPath = Annotated[Path, BeforeValidator(_resolve_path)]
Address = Annotated[str, _endpoint(1, "host:port with a port from 1 to 65535")]
_LISTEN = "host:port with a port from 0 (any free one) to 65535"
Listen = Annotated[str, _endpoint(0, _LISTEN)]
OwnPort = Annotated[str, _endpoint(0, _LISTEN, or_relay=False)]
