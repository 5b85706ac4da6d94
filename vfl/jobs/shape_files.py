"""Shapes as tables: of columns, of pairs of them, and the log of what was changed by hand."""

import io
from collections.abc import Sequence

from vfl.models.halves import Change
from vfl.models.shapes import SHAPE_HEADS, OwnShapes, exponential, places_of, shape_lines
from vfl.party.spreadsheet import write_rows

PAGE, SHAPES, PAIRS, EDITS = "shapes.html", "shapes.csv", "pairs.csv", "edits.csv"
_PAIR_HEADS = ("first", "first_place", "second", "second_place", "value", "factor")
_EDIT_HEADS = ("column", "place", "before", "after", "reason")


def files_of(own: OwnShapes, changes: Sequence[Change]) -> dict[str, bytes]:
    """The tables, by the name of the file."""
    files = {SHAPES: _csv([SHAPE_HEADS, *(line for one in own.shapes for line in shape_lines(one))])}
    if own.pairs:
        cells = [
            (pair.first.column, row, pair.second.column, column, value, exponential(value))
            for pair in own.pairs
            for row, values in zip(places_of(pair.first), pair.values.tolist(), strict=True)
            for column, value in zip(places_of(pair.second), values, strict=True)
        ]
        files[PAIRS] = _csv([_PAIR_HEADS, *cells])
    if changes:
        log = [(one.column, one.level, one.before, one.after, one.reason) for one in changes]
        files[EDITS] = _csv([_EDIT_HEADS, *log])
    return files


def _csv(rows: Sequence[Sequence[object]]) -> bytes:
    file = io.BytesIO()
    write_rows(file, rows)
    return file.getvalue()
