"""Bodies of requests: JSON in, checked before anything is made of it, and JSON out."""

import heapq
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import msgspec

from vfl.errors import VflError
from vfl.online.cells import LONGEST, Cell
from vfl.online.rows import RepeatedKeys, RowsRefused
from vfl.online.served import Asked

_KEYS = frozenset({"model", "rows", "explain", "top"})
_NAME = 100  # characters of a name that are shown
_FEW = 5  # names that are shown
_NESTED, _A_ROW = 100_000, 10  # brackets that a body may have, in text or not, beside those of its rows
MOST_REASONS = 100


class BadRequest(VflError):
    """A request that cannot be answered, and the HTTP status that says so."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class ScoreRequest:
    """A request for scores."""

    model: str | None
    rows: Sequence[Cell]
    asked: Asked


def parse_score(body: bytes, max_rows: int) -> ScoreRequest:
    """Raises BadRequest for what is no request, with all that is wrong; no word of it quotes a value.

    What each row is, and what its cells are, is not looked at here.
    """
    said = _parse(body, max_rows)
    if not isinstance(said, dict):
        raise BadRequest(422, 'the body must be an object such as {"rows": [{...}]}')
    if isinstance(said, RepeatedKeys):
        named = _named(said.keys_repeated, len(said.keys_repeated))
        raise BadRequest(422, f"{named} in the body more than once")
    model, explain, top = said.get("model"), said.get("explain", False), said.get("top", 3)
    rows, wrong = said.get("rows"), []
    if unknown := said.keys() - _KEYS:
        named = _named(heapq.nsmallest(_FEW, unknown), len(unknown))
        wrong.append(f"{named} unknown: there are model, rows, explain, top")
    if model is not None and not isinstance(model, str):
        wrong.append("model must be the name of a model, as text")
    if not isinstance(explain, bool):
        wrong.append("explain must be true or false")
    if not isinstance(top, int) or isinstance(top, bool) or not 1 <= top <= MOST_REASONS:
        wrong.append(f"top must be a whole number from 1 to {MOST_REASONS}")
    if not isinstance(rows, list) or not rows:
        wrong.append("rows must be a list of one or more objects, a column a key")
    elif len(rows) > max_rows:
        wrong.append(f"{len(rows):,} rows are too many: at most {max_rows:,} in a request")
    if wrong:
        raise BadRequest(422, "; ".join(wrong))
    return ScoreRequest(model, cast(Sequence[Cell], rows), Asked(cast(bool, explain), cast(int, top)))


def _named(keys: Sequence[str], count: int) -> str:
    """Keys with their verb, the first few of so many."""
    each = ", ".join(f"'{plain(key)}'" for key in keys[:_FEW])
    more = f" and {count - _FEW:,} more" if count > _FEW else ""
    return f"key {each} is" if count == 1 else f"keys {each}{more} are"


def _parse(body: bytes, max_rows: int) -> object:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest(400, "the body is not UTF-8") from None
    if body.count(b"[") + body.count(b"{") > _NESTED + _A_ROW * max_rows:
        # Millions of empty ones would be made before they are counted.
        raise BadRequest(
            422, f"too many lists or objects: cells are plain, and max_rows is {max_rows:,}"
        )
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant, parse_int=_whole)
    except (ValueError, RecursionError):
        raise BadRequest(400, "the body is not valid JSON") from None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    return made if len(made) == len(pairs) else RepeatedKeys(pairs)


def _whole(digits: str) -> float:
    """A whole number; of more digits than Python reads it is one that no column takes."""
    return int(digits) if len(digits) <= LONGEST else math.inf


def _no_constant(name: str) -> object:
    raise BadRequest(400, f"the body is not valid JSON: it has {name}; write null for a missing number")


def plain(name: str) -> str:
    """A name that came with a request, as a line can take it."""
    text = "".join(c if c.isprintable() else "?" for c in name)
    return text if len(text) <= _NAME else text[:_NAME] + "..."


def to_json(answer: object) -> bytes:
    """An answer as JSON. What is no number, as of a prediction too large to be one, is null."""
    return msgspec.json.encode(answer)


def problems_of(refused: RowsRefused) -> dict[str, object]:
    """The body of an answer about rows that cannot be scored."""
    return {
        "error": str(refused),
        "problems": [
            {"row": one.row, "column": plain(one.column), "problem": one.text}
            for one in refused.problems
        ],
    }
