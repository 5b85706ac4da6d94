"""The query by which a party's table was made when a model was trained, kept with its half of it."""

import hashlib
import secrets
from dataclasses import dataclass
from typing import Literal

from vfl.party.rows_from import RowsFrom

Over = Literal["files", "database"]


@dataclass(frozen=True)
class KeptQuery:
    """The text of a query, whose SQL is DuckDB's over files, else the database's.

    salt: random, in hex, so that who knows the digest cannot try texts.
    """

    text: str
    over: Over
    salt: str

    @classmethod
    def of(cls, data: RowsFrom) -> "KeptQuery | None":
        """That of [data], with a new salt; None without one."""
        return None if data.query is None else cls(data.query, over(data), secrets.token_hex(32))

    @property
    def digest(self) -> bytes:
        """What other parties may know of it: 32 bytes."""
        matter = (
            b"vfl query\0" + bytes.fromhex(self.salt) + self.over.encode() + b"\0" + self.text.encode()
        )
        return hashlib.sha256(matter).digest()


def rows_of(data: RowsFrom) -> dict[str, object]:
    """What [data] names as the table: files or the place in a database, and the query over them."""
    tables = {name: str(path) for name, path in sorted(data.tables.items())}
    path = None if data.path is None else str(data.path)
    return {
        "path": path,
        "source": data.source,
        "table": data.table,
        "query": data.query,
        "tables": tables,
    }


def described(data: RowsFrom) -> str:
    """The table in a few words, a query by the beginning of its digest."""
    if data.query is None:
        return data.named.name
    digest = hashlib.sha256(data.query.encode()).hexdigest()
    return f"by the query with SHA-256 {digest[:12]}..."


def over(data: RowsFrom) -> Over:
    """What a query of [data] is over."""
    return "files" if data.source is None else "database"
