"""Rows as people find them in a file: by the numbers that a spreadsheet shows."""

from collections.abc import Callable, Sequence

SHOWN = 5  # rows named in an error

RowNumbers = Callable[[Sequence[int]], list[int]]
"""The numbers of data rows, which are given ascending and from 0."""


def below_header(places: Sequence[int]) -> list[int]:
    """The numbers of rows that follow a header one by one."""
    return [place + 2 for place in places]


def rows_in_words(places: Sequence[int], row_numbers: RowNumbers) -> str:
    """'row 17', 'rows 2, 3, 5, 7, 11 and 4 more': the first of these rows by their numbers."""
    first = ", ".join(map(str, row_numbers(list(places[:SHOWN]))))
    more = f" and {len(places) - SHOWN:,} more" if len(places) > SHOWN else ""
    return f"{'row' if len(places) == 1 else 'rows'} {first}{more}"
