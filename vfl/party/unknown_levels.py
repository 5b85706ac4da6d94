"""Levels of a batch that no row of training had: what there is to say, and when they are too many."""

from collections.abc import Mapping

import numpy as np

from vfl.arrays import Mask
from vfl.errors import DataError
from vfl.learn.levels import Levels
from vfl.text import counted

Unknown = Mapping[str, Mask]
"""By column, which rows of a batch have a level that was not in training."""

_TOLD = "too many rows have levels that were not in training"
_LEAST = 20  # rows with unknown levels, below which nothing stops


def describe_unknown(unknown: Unknown, levels: Mapping[str, Levels]) -> dict[str, str]:
    """What to tell the owner of the columns about such rows, by column."""
    more = beyond_chance(unknown, levels)
    return {
        column: f"column '{column}' has a level that was not in training in {int(which.sum()):,} of "
        f"{counted(len(which), 'row')}{', more than chance makes' if column in more else ''}: scored as "
        "the base level, by trees as none of those known"
        for column, which in unknown.items()
    }


def beyond_chance(unknown: Unknown, levels: Mapping[str, Levels]) -> dict[str, Mask]:
    """The columns in which such rows are more than chance makes."""
    return {
        column: which
        for column, which in unknown.items()
        if levels[column].are_more(int(which.sum()), len(which))
    }


def count_rows(unknown: Unknown) -> int:
    """How many rows have an unknown level in one column or more."""
    return int(np.any([*unknown.values()], axis=0).sum()) if unknown else 0


def check_own_levels(table: str, unknown: Unknown, levels: Mapping[str, Levels], share: float) -> None:
    """Raises DataError for a column of the guest with too many such rows, above `share` of the batch."""
    for column, which in beyond_chance(unknown, levels).items():
        rows, of = int(which.sum()), len(which)
        if _too_many(rows, of, share):
            raise DataError(
                f"{table}: column '{column}' has a level that was not in training in {rows:,} of "
                f"{counted(of, 'row')}, more than unknown_levels = {share:g} of [data] allows: write "
                "the levels as in training, or raise unknown_levels"
            )


def describe_host_levels(host: str, rows: int, known: int) -> str:
    """What to say of `rows` of those that a host knows, each with such a level in a strange column."""
    return (
        f"{rows:,} of the {counted(known, 'row')} that {host} knows have a level of its columns that "
        "was not in training"
    )


def check_host_levels(host: str, rows: int, known: int, share: float, advice: str) -> None:
    """Raises DataError where these are too many; `advice` says what to do."""
    if _too_many(rows, known, share):
        raise DataError(
            f"{describe_host_levels(host, rows, known)}, more than unknown_levels = {share:g} of [data] "
            f"allows: {advice}",
            for_peer=_TOLD,
        )


def _too_many(rows: int, of: int, share: float) -> bool:
    return rows >= _LEAST and rows > share * of
