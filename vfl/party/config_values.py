"""What a key of a party file or a job file may hold."""

import math
import os
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final, Literal, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)

from vfl.errors import ConfigError
from vfl.learn.curves import MOST_KNOTS
from vfl.learn.factors import LARGEST
from vfl.learn.levels import tidy
from vfl.learn.losses import Family, Objective
from vfl.learn.params import NO_OU, Encryption
from vfl.learn.small_levels import EVERY_OTHER, MISSING
from vfl.net.addresses import SCHEME, is_relay
from vfl.party.config_words import CLUSTER, JOB_NAME, PARTY_NAME, Schema, describe_allowed, plain_key
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


def _yes_no_or_columns(value: object) -> object:
    if isinstance(value, bool):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(n, str) and n for n in value):
        return _distinct(tuple(value))
    raise ValueError(f"must be {describe_allowed(_YES_NO_OR_COLUMNS, {})}")


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("must not name anything twice")
    return names


def _growing(values: object) -> object:
    """Numbers in order, as a tuple."""
    words = "must be a list of numbers, each above the one before"
    if not isinstance(values, list | tuple) or not values:
        raise ValueError(words)
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in values):
        raise ValueError(words)
    try:
        numbers = tuple(float(one) + 0.0 for one in values)  # never -0.0
    except OverflowError:
        raise ValueError(words) from None
    known = all(math.isfinite(one) and abs(one) <= LARGEST for one in numbers)
    if not known or any(high <= low for low, high in pairwise(numbers)):
        raise ValueError(words)
    if len(numbers) > _MOST_BANDS:
        raise ValueError(f"must have at most {_MOST_BANDS} numbers")
    return numbers


def _knots(value: object) -> object:
    """A number of knots, or where they are."""
    if isinstance(value, int) and not isinstance(value, bool):
        if 1 <= value <= MOST_KNOTS:
            return value
        raise ValueError(f"must be {describe_allowed(_KNOTS, {})}")
    numbers = _growing(value)
    if len(cast(tuple[float, ...], numbers)) > MOST_KNOTS:
        raise ValueError(f"must have at most {MOST_KNOTS} knots")
    return numbers


def _group(groups: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Groups of levels, of which no two have the same one."""
    if not groups:
        raise ValueError("must have a group: a name, and a list of levels")
    taken: set[str] = set()
    for name, levels in groups.items():
        one_line(name)
        if name != tidy(name) or name in (MISSING, EVERY_OTHER):
            raise ValueError(f"has a group whose name is blank at an end, {MISSING} or {EVERY_OTHER}")
        for level in levels:
            if not tidy(level):
                raise ValueError(f"has a blank level in group '{plain_key(name)}': leave it out")
            if tidy(level) in taken:
                raise ValueError(f"has a level twice, the second time in group '{plain_key(name)}'")
            taken.add(tidy(level))
    return groups


def _pairs(pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Pairs of two columns each, none twice."""
    if any(first == second for first, second in pairs):
        raise ValueError("must be pairs of two different columns")
    if len({frozenset(pair) for pair in pairs}) < len(pairs):
        raise ValueError("must not name a pair of columns twice")
    return pairs


def _as_tuples(value: object) -> object:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


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


_MOST_BANDS = 250
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


def _tape(value: object) -> object:
    if value in ("none", "all"):
        return value
    if isinstance(value, float) and 0 < value < 1:
        return value
    raise ValueError(f"must be {describe_allowed(_TAPE, {})}")


_TAPE: Schema = {
    "anyOf": [
        {"enum": ["none", "all"]},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    ]
}
_LIMITS: dict[type[int] | type[float], Schema] = {
    int: {"anyOf": [{"type": "integer", "minimum": 1}, {"const": UNLIMITED}]},
    float: {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"const": UNLIMITED}]},
}
_STEPS = {"type": "array", "items": {"type": "string", "pattern": f"^({STEP})$"}}
_YES_NO_OR_COLUMNS: Schema = {
    "anyOf": [
        {"type": "boolean"},
        {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
    ]
}
_LIST_OF_TEXT = {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}}
_KNOTS = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": MOST_KNOTS},
        {"type": "array", "items": {"type": "number"}},
    ]
}
FileKind = Literal["party", "job", "relay", "tariff", "shapes", "project"]
Role = Literal["guest", "host", "coordinator"]
Growing = Annotated[
    tuple[float, ...],
    BeforeValidator(_growing),
    WithJsonSchema({"type": "array", "items": {"type": "number"}}),
]
"""Numbers in order, as those with which bands begin."""
Knots = Annotated[int | tuple[float, ...], BeforeValidator(_knots), WithJsonSchema(_KNOTS)]
_Levels = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_as_tuple), Field(min_length=1)
]
Groups = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=100)], _Levels], AfterValidator(_group)
]
"""Levels of a column by the name of their group."""
_Pair = Annotated[
    tuple[Annotated[str, Field(min_length=1)], Annotated[str, Field(min_length=1)]],
    WithJsonSchema(
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 2, "maxItems": 2}
    ),
]
ColumnPairs = Annotated[
    tuple[_Pair, ...], BeforeValidator(_as_tuples), AfterValidator(_pairs), Field(max_length=50)
]
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
JobNames = Annotated[
    tuple[JobName, ...], Field(min_length=1), BeforeValidator(_as_tuple), AfterValidator(_distinct)
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
Engine = Literal["ecdh", "ot", "vole"]
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
KeptOnTape = Annotated[Literal["none", "all"] | float, PlainValidator(_tape), WithJsonSchema(_TAPE)]
"""What is kept of messages that arrive: nothing, all, or a share."""
YesNoOrColumns = Annotated[
    bool | tuple[str, ...],
    PlainValidator(_yes_no_or_columns),
    PlainSerializer(lambda value: value if isinstance(value, bool) else list(value)),
    WithJsonSchema(_YES_NO_OR_COLUMNS),
]
LocalPath = Annotated[Path, BeforeValidator(_resolve_path)]
_ENDPOINT = WithJsonSchema({"type": "string", "format": "host:port"})
Address = Annotated[str, _endpoint(1, "host:port with a port from 1 to 65535"), _ENDPOINT]
_LISTEN = "host:port with a port from 0 (any free one) to 65535"
Listen = Annotated[str, _endpoint(0, _LISTEN), _ENDPOINT]
ClusterAddress = Annotated[str, Field(pattern=CLUSTER)]
OwnPort = Annotated[str, _endpoint(0, _LISTEN, or_relay=False), _ENDPOINT]


def check_own_port(text: str, what: str) -> None:
    """Raises ConfigError for text that is no address to listen on. what: what it is called."""
    try:
        TypeAdapter(OwnPort).validate_python(text)
    except ValidationError:
        raise ConfigError(f"{what} must be {_LISTEN}") from None
