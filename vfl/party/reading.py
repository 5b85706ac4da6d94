"""How a table's file is written, as [data] of the party file says it; batches are read alike."""

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

SEPARATOR = r"^[\x01\x1f\t !#$%&()*+,./:;<=>?@^_`{|}~-]$"
SEPARATOR_WORDS = 'a single sign such as ";" or "^", or "\\t" for a tab'

_STRANGE = ("idna", "punycode", "raw_unicode_escape", "undefined", "unicode_escape", "utf_7", "utf7")


def _encoding(name: str) -> str:
    try:
        "a,b;1\n".encode(name)
        b"".decode(name)
        known = name.replace("-", "_").lower() not in _STRANGE
    except (LookupError, ValueError):
        known = False
    if not known:
        raise ValueError(
            'must be the name of an encoding such as "utf-8", "windows-1252", "latin-1" or "utf-16"'
        )
    return name


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Order = Literal["ymd", "dmy", "mdy"]
Became = Literal["days", "age", "year", "month"]


class DateColumn(_Keys):
    """A column of dates that becomes one of numbers."""

    becomes: Became = Field(
        alias="as",
        description="days since 1970-01-01, whole years of age at the day `at`, the year, or the month "
        "from 1 to 12",
    )
    order: Order = Field(
        default="ymd", description="of day, month and year where the dates are text: 31.12.2024 is dmy"
    )
    at: date | None = Field(default=None, description="the day at which ages are")
    years_from: int | None = Field(
        default=None,
        ge=1000,
        le=2100,
        description="first of the hundred years that years of two digits are of; refused if absent",
    )

    @model_validator(mode="after")
    def _age_at_a_day(self) -> "DateColumn":
        if self.becomes == "age" and self.at is None:
            raise ValueError('as = "age" needs a day: at = 2027-01-01')
        if self.becomes != "age" and self.at is not None:
            raise ValueError(f'at goes with as = "age", not with "{self.becomes}"')
        return self


class Reading(_Keys):
    """How the file of a table, or of a batch, is written."""

    encoding: Annotated[str, AfterValidator(_encoding)] = Field(
        default="utf-8", description="encoding of a text file"
    )
    separator: str | None = Field(
        default=None,
        pattern=SEPARATOR,
        description="sign between the cells of a text file; comma, semicolon, tab and bar are found",
    )
    decimal: Literal[".", ","] = Field(
        default=".", description="decimal sign of numbers that are text: 1.5 or 1,5"
    )
    thousands: Literal[".", ",", "'", " "] | None = Field(
        default=None,
        description="sign between groups of three digits; a blank stands for all kinds of blanks",
    )
    missing: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_as_tuple)] = (
        Field(default=(), description="further spellings of a missing value, exactly as in the file")
    )
    dates: dict[str, DateColumn] = Field(
        default_factory=dict, description="by column, how dates become numbers"
    )
    sheet: str | None = Field(
        default=None, min_length=1, description="sheet of an Excel workbook; needed if it has several"
    )

    @model_validator(mode="after")
    def _two_signs(self) -> "Reading":
        if self.thousands == self.decimal:
            raise ValueError("decimal and thousands must be two different signs")
        return self


Settings = dict[str, object]
"""Keys of [data] with their values, as an error or `vfl doctor` proposes them."""


def merge(settings: Iterable[Mapping[str, object]]) -> Settings:
    """Several settings as one: lists and tables joined, of other values the first."""
    made: Settings = {}
    for one in settings:
        for key, value in one.items():
            earlier = made.setdefault(key, value)
            if isinstance(value, list | tuple) and isinstance(earlier, list | tuple):
                made[key] = list(dict.fromkeys([*earlier, *value]))
            elif isinstance(value, dict) and isinstance(earlier, dict):
                made[key] = {**value, **earlier}
    return made


def settings_line(key: str, value: object) -> str:
    """A key and its value as a line of TOML."""
    return f"{_key(key)} = {_value(value)}"


def _value(value: object) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        inner = ", ".join(settings_line(key, own) for key, own in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(own) for own in value)}]"
    return str(value)  # a day or a number


def _key(key: str) -> str:
    plain = key.isascii() and key.replace("-", "_").isidentifier()
    return key if plain else _text(key)


def _escaped(sign: str) -> str:
    return f"\\u{ord(sign):04x}" if ord(sign) < 0x10000 else f"\\U{ord(sign):08x}"


def _text(value: str) -> str:
    if "\\" in value and "'" not in value and value.isprintable():
        return f"'{value}'"
    escapes = {'"': '\\"', "\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
    signs = [escapes.get(c) or (c if c.isprintable() else _escaped(c)) for c in value]
    return '"' + "".join(signs) + '"'
