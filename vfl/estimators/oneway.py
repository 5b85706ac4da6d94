"""What an estimator is asked for by a table by factors, and what is added up in it."""

from collections.abc import Sequence

from vfl.arrays import Floats
from vfl.errors import ConfigError
from vfl.learn.factor_tables import RowTotals
from vfl.text import nearest_name


def row_totals(
    label: Floats, weight: Floats, exposure: Floats | None, expected: Floats | None
) -> RowTotals:
    """What is added up: as in a report, weights are factors of all."""
    each = weight if exposure is None else weight * exposure
    return RowTotals(each, weight * label, None if expected is None else weight * expected)


def factors_of(by: str | Sequence[str], parties: Sequence[str]) -> list[tuple[str, str]]:
    """Party and column of one factor or two. Raises ConfigError."""
    factors = [_factor(text, parties) for text in ([by] if isinstance(by, str) else by)]
    if not 1 <= len(factors) <= 2 or len(set(factors)) < len(factors):
        raise ConfigError(
            "by= names one factor, or two different ones, as in ['bureau:age', 'guest:area']"
        )
    return factors


def _factor(text: object, parties: Sequence[str]) -> tuple[str, str]:
    party, colon, column = text.partition(":") if isinstance(text, str) else ("", "", "")
    if not (party and colon and column):
        raise ConfigError(f"by= has {text!r}: write PARTY:COLUMN, as in 'bureau:age'")
    if party not in parties:
        near = nearest_name(party, parties)
        hint = f"did you mean {near}?" if near else f"there are {', '.join(parties)}"
        raise ConfigError(f"by= has {text!r}, of no party: {hint}")
    return party, column
