"""Where the rows of a table come from, as [data] of the party file says it.

Files, or a table of a database; and a query over either, which is its owner's own and is never sent.
"""

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pydantic import AfterValidator, Field, model_validator

from vfl.party.config_values import LocalPath
from vfl.party.reading import Reading

OWN_VIEW = "data"
"""What a query calls the rows of the table, or of the batch in its place."""

SCHEMES = ("postgresql", "postgres", "snowflake", "grpc", "grpc+tls")
"""Kinds of databases, as their URLs begin."""

_VIEW = r"[a-z_][a-z0-9_]{0,62}"
_SECRET = re.compile(r"passw|pwd|secret|token|private.?key|api.?key|credential|authoriz|cookie", re.I)
_PUT_IT = (
    "name a file under password_file or a variable under password_variable, or use ~/.pgpass or "
    "PGPASSWORD"
)


def is_url(text: str) -> bool:
    """Whether text is the address of a database, not a path."""
    return "://" in text


def split_url(text: str) -> SplitResult:
    """The parts of a database's address. Raises ValueError, which quotes nothing, for what is none, and
    for one with a password."""
    scheme = text.partition("://")[0]
    if "://" not in text or scheme not in SCHEMES:
        kinds = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ValueError(f"must be the address of a database: one of {kinds}")
    try:
        parts = urlsplit(text)
        keys = [key for key, _ in parse_qsl(parts.query, keep_blank_values=True)]
    except ValueError:
        raise ValueError(
            "must be the address of a database, such as postgresql://user@host/name"
        ) from None
    user = parts.netloc.rpartition("@")[0]
    if ":" in unquote(user) or any(_SECRET.search(key) for key in keys):
        raise ValueError(f"has a password, which belongs into no such place: take it out and {_PUT_IT}")
    if not text.isprintable() or " " in text:
        raise ValueError("must be one line without blanks: write %20 for a blank")
    return parts


def _source(text: str) -> str:
    if split_url(text).fragment or text.endswith("#"):
        raise ValueError("names a table behind #: name it under table")
    return text


def table_parts(name: str) -> list[str]:
    """The schema and the table of a name, as the database spells them.

    They are parted by a point; what has points or quotes in it stands in double quotes, each of its own
    quotes twice. Raises ValueError for what is no name.
    """
    if not name.isprintable() or not re.fullmatch(rf"{_PART}(\.{_PART})*", name):
        raise ValueError(
            "must be the name of a table, such as policies or sales.policies; a name with points or "
            'quotes in it stands in double quotes, as in sales."policies.2026"'
        )
    parts = re.findall(_PART, name)
    return [part[1:-1].replace('""', '"') if part.startswith('"') else part for part in parts]


_PART = r'(?:"(?:[^"]|"")+"|[^".]+)'


def _table(text: str) -> str:
    table_parts(text)
    return text


def _variable(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise ValueError("must be the name of an environment variable, such as DATABASE_PASSWORD")
    return text


VariableName = Annotated[str, AfterValidator(_variable)]
Source = Annotated[str, AfterValidator(_source)]
TableName = Annotated[str, AfterValidator(_table)]


class RowsFrom(Reading):
    """Where the rows of a table come from."""

    path: LocalPath | None = Field(
        default=None,
        description="table: .csv (also .tsv, .txt; compressed as .csv.gz), .parquet, .feather or .xlsx; "
        "a folder or pattern of such",
    )
    source: Source | None = Field(
        default=None,
        description="in place of path, a database without its password: postgresql://user@host/name",
    )
    table: TableName | None = Field(
        default=None,
        description="table or view of the database, as it spells it: policies, sales.policies",
    )
    query: str | None = Field(
        default=None,
        min_length=1,
        description="a select over data, which stands for the rows of path or table; of its result the "
        "party's table is made",
    )
    tables: dict[str, LocalPath] = Field(
        default_factory=dict,
        description="by name, further files, folders or patterns that the query reads",
    )
    query_memory: int = Field(
        default=1024,
        ge=64,
        le=1_000_000,
        description="MB that a query over files takes; more of it lies in files while it runs",
    )
    query_disk: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000_000,
        description="MB of the disk that a query over files takes at most; nine tenths of what is free "
        "if absent",
    )
    password_file: LocalPath | None = Field(
        default=None, description="file with the password of the database, readable by its owner alone"
    )
    password_variable: VariableName | None = Field(
        default=None,
        description="environment variable with the password of the database",
    )

    @property
    def named(self) -> Path:
        """What messages call the table: by the last part of this path."""
        if self.path is not None:
            return self.path
        return Path(self.table if self.table is not None and self.query is None else "[data] query")

    @property
    def files(self) -> list[Path]:
        """The files, folders and patterns that are read."""
        own = [] if self.path is None else [self.path]
        return [*own, *self.tables.values()]

    @model_validator(mode="after")
    def _one_place(self) -> "RowsFrom":
        if self.path is None and self.source is None:
            raise ValueError(
                "path is missing: name a file, a folder or a pattern, or a database under source"
            )
        if self.path is not None and self.source is not None:
            raise ValueError("path and source exclude each other: keep one of them")
        if self.source is None:
            for key in ("table", "password_file", "password_variable"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key} goes with source, which names a database: remove it")
        elif self.table is None and self.query is None:
            raise ValueError("source needs a table, or a query")
        if self.password_file is not None and self.password_variable is not None:
            raise ValueError("password_file and password_variable exclude each other: keep one of them")
        if self.tables and (self.query is None or self.source is not None):
            raise ValueError("tables goes with a query over files: remove it")
        if not all(re.fullmatch(_VIEW, name) for name in self.tables):
            raise ValueError(
                "tables has a name that is none: up to 63 lower-case letters, digits and underscores, "
                "starting with a letter"
            )
        if OWN_VIEW in self.tables:
            raise ValueError(
                f"tables has {OWN_VIEW}, which stands for the rows of path: use another name"
            )
        return self
