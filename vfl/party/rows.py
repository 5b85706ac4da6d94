"""Rows as people find them in a file: by the numbers that a spreadsheet shows."""

from collections.abc import Callable, Sequence

from vfl.text import counted

SHOWN = 5  # rows named in an error

RowNumbers = Callable[[Sequence[int]], Sequence[int | str]]
"""The numbers of data rows, which are given ascending and from 0: 17, or '17 of part-3.csv'."""


def below_header(places: Sequence[int]) -> list[int]:
    """The numbers of rows that follow a header one by one."""
    return [place + 2 for place in places]


def rows_in_words(places: Sequence[int], row_numbers: RowNumbers) -> str:
    """'row 17', 'rows 2, 3, 5, 7, 11 and 4 more': the first of these rows by their numbers."""
    first, more = _first(places, row_numbers, SHOWN)
    return f"row{'s' if len(places) > 1 else ''} {first}" + (f" and {more:,} more" if more else "")


def in_rows(places: Sequence[int], row_numbers: RowNumbers, most: int) -> str:
    """'in row 17', 'in row 17 (and 3 more rows)', 'in rows 17, 19 (and 1 more row)': the first of these
    rows, `most` of them, by their numbers."""
    first, more = _first(places, row_numbers, most)
    text = f"in row{'s' if most > 1 and len(places) > 1 else ''} {first}"
    return text + (f" (and {counted(more, 'more row')})" if more else "")


def _first(places: Sequence[int], row_numbers: RowNumbers, most: int) -> tuple[str, int]:
    """(the numbers of the first rows, how many more there are)."""
    shown = [int(place) for place in places[:most]]
    return ", ".join(map(str, row_numbers(shown))), len(places) - len(shown)
