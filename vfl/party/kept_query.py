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


def over(data: RowsFrom) -> Over:
    """What a query of [data] is over."""
    return "files" if data.source is None else "database"
