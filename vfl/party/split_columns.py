"""The guest's columns by whose values rows are held out, as a job file names them."""

import datetime
import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vfl.arrays import Floats, Integers
from vfl.errors import DataError
from vfl.learn.holdout import SplitColumn
from vfl.party.reading import DateColumn
from vfl.party.rows import rows_in_words
from vfl.party.sources.arrow import ArrowColumn
from vfl.party.sources.dates import order_of
from vfl.party.sources.numerals import parse
from vfl.party.sources.source import Source
from vfl.text import counted

_SAMPLE = 1000  # texts that are tried as dates
_ADVICE = "a time is a number, such as a week, or a date such as 2026-12-31"


def read_groups(source: Source, name: str) -> SplitColumn:
    """A column of groups: cells of the same text, blanks around it aside, are of one group.

    Raises DataError where a cell is empty.
    """
    place, words = _coded(source, name, "group")
    return SplitColumn(name, place, words)


def read_times(source: Source, name: str, dates: DateColumn | None) -> SplitColumn:
    """A column of times: numbers, dates or moments as ISO 8601 has them, or dates by `dates` of [data].

    Raises DataError where a cell is empty, or cannot be read as a time.
    """
    place, words = _coded(source, name, "time")
    moments, dated = _moments(source, name, dates)
    if not np.isfinite(moments).all():
        raise source.error(
            f"time '{name}' has no finite number {source.in_rows(~np.isfinite(moments))}: {_ADVICE}"
        )
    known, first, order = np.unique(moments, return_index=True, return_inverse=True)
    written = [words[at] for at in place[first].tolist()]
    return SplitColumn(name, order.astype(np.int64), written, known, dated)


def _coded(source: Source, name: str, use: str) -> tuple[Integers, Sequence[str]]:
    """Where each row's value is among the column's, as text. Raises DataError for a gap."""
    text = pc.utf8_trim_whitespace(source.text(name, f"{use} '{name}'"))
    if isinstance(text, pa.ChunkedArray):
        text = text.combine_chunks()
    gaps = np.flatnonzero(pc.is_null(text).to_numpy(zero_copy_only=False)).tolist()
    if gaps:
        rows = rows_in_words(gaps, source.row_numbers)
        raise source.error(
            f"{use} '{name}' is missing in {counted(len(gaps), 'row')} ({rows}): fill it in, or take "
            f"{use} out of [job]"
        )
    coded = text.dictionary_encode()
    return coded.indices.to_numpy(zero_copy_only=False).astype(np.int64), coded.dictionary.to_pylist()


def _moments(source: Source, name: str, dates: DateColumn | None) -> tuple[Floats, bool]:
    """A column of times as numbers, and whether they are dates, in seconds then."""
    what = f"time '{name}'"
    if dates is not None:
        return source.days(name, what, dates) * 86400, True
    try:
        return source.numbers(name, what, _ADVICE), False
    except DataError as error:
        text = source.text(name)
        values, bad = parse(text, source.reading)
        if not bad.any():  # text of a column that has types
            return values, False
        moments = moments_of(text)
        bad = np.isnan(moments)
        if bad.all():
            if order_of(pc.unique(text).drop_null().to_pylist()[:_SAMPLE]) is None:
                raise error from None
            raise source.error(
                f"{what} has dates that are not written as 2026-12-31 {source.in_rows(bad)}: write them "
                "so, or give their order under dates in [data], by which the column is a feature as well"
            ) from None
        if bad.any():
            raise source.error(
                f"{what} has text that is no date as others are {source.in_rows(bad)}: {_ADVICE}"
            ) from None
        return moments, True


def moments_of(text: ArrowColumn) -> Floats:
    """Text as seconds since 1970-01-01, NaN for what is no moment in a form of ISO 8601.

    A date stands for its first moment, as do 2026-12 and 2026-W53, and 2026-Q4.
    """
    coded = text.dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.unify_dictionaries().combine_chunks()
    seconds = np.array([_seconds(value.strip()) for value in coded.dictionary.to_pylist()] + [np.nan])
    codes = pc.fill_null(coded.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    return np.asarray(seconds[codes], np.float64)


_MONTH = re.compile(r"(\d{4})-(\d{2})", re.ASCII)
_QUARTER = re.compile(r"(\d{4})-?Q([1-4])", re.ASCII)
_DAY_FIRST = re.compile(r"(\d{4}-\d{2}-\d{2}|\d{4}-?W\d{2}).*", re.ASCII | re.DOTALL)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def _seconds(text: str) -> float:
    if found := _QUARTER.fullmatch(text):
        text = f"{found[1]}-{3 * int(found[2]) - 2:02}-01"
    elif found := _MONTH.fullmatch(text):
        text = f"{text}-01"
    if _DAY_FIRST.fullmatch(text) is None:
        return np.nan
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return np.nan
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return (moment - _EPOCH).total_seconds()
