"""A table's features, and the guest's own columns, as numbers and categories; raises DataError for what
is neither, by column and row."""

import numpy as np
from numpy.typing import NDArray

from vfl.blocks.scratch import marked
from vfl.errors import DataError
from vfl.learn.losses import LARGEST, BadLabel, Loss, out_of_range
from vfl.party.rows import rows_in_words
from vfl.party.sections import DataSection
from vfl.party.sources.arrow import coded
from vfl.party.sources.misfits import MAX_CATEGORIES
from vfl.party.sources.source import Source
from vfl.text import counted


def feature(
    source: Source, data: DataSection, name: str, filled: bool, agreed: bool
) -> NDArray[np.generic]:
    """A column of numbers or categories; if it must be `filled`, with a value in some row."""
    values: NDArray[np.generic]
    if name in data.categorical:
        values = _categories(source, name)
        missing = values == np.array(None)
    else:
        values = _numbers(source, name, agreed)
        missing = marked(np.isnan, values)
    if filled and missing.all():
        raise source.error(
            f"column '{name}' has no value in any row: ignore it in [data]", {"ignore": [name]}
        )
    return values


def _numbers(source: Source, name: str, agreed: bool) -> NDArray[np.float64]:
    advice = "correct it, or leave the cell empty where the value is missing"
    what = f"column '{name}'"
    if not agreed:
        return _finite(source, name, what, advice, feature=True)
    what += " (a number by the job)"
    advice += "; dates or query of [data] can make numbers of text"
    try:
        return _finite(source, name, what, advice)
    except DataError as error:
        error.for_peer = f"in its table column '{name}' is not all numbers, as the job has it"
        raise


def _finite(
    source: Source, name: str, what: str, advice: str, *, feature: bool = False
) -> NDArray[np.float64]:
    values = source.numbers(name, what, advice, feature=feature)
    infinite = marked(np.isinf, values)
    if infinite.any():
        raise source.error(f"{what} has an infinite number {source.in_rows(infinite)}: correct it")
    return values


def _categories(source: Source, name: str) -> NDArray[np.object_]:
    """A categorical column as shared text objects, None where missing."""
    names, codes = coded(source.text(name))
    if len(names) > MAX_CATEGORIES:
        raise source.error(
            f"categorical column '{name}' has {len(names):,} categories, over "
            f"{MAX_CATEGORIES:,}: it looks like an id, ignore it in [data]",
            {"ignore": [name]},
        )
    # The last entry is None: a missing code of -1 finds it.
    objects: NDArray[np.object_] = np.array([*names, None], dtype=object)
    return objects[codes]


_GUESTS_ADVICE = {
    "label": "a label is a number, such as 0 or 1",
    "weight": "a weight is a positive number",
    "exposure": "an exposure is a positive number, such as years at risk",
    "offset": "an offset is a number",
}


def guests_column(source: Source, key: str, name: str, called: str) -> NDArray[np.float64]:
    """A column of numbers without gaps. `called`: the key that names it, in errors. Raises DataError."""
    what = f"{called} '{name}'"
    advice = _GUESTS_ADVICE[key] if called == key else "it must be a number"
    values = _finite(source, name, what, advice)
    _no_gaps(source, what, values)
    if key in ("weight", "exposure") and (values <= 0).any():
        raise source.error(f"{what} must be positive but is not {source.in_rows(values <= 0)}")
    if key == "weight" and (strange := out_of_range(values)).any():
        raise source.error(
            f"{what} must be from {1 / LARGEST:g} to {LARGEST:g} but is not {source.in_rows(strange)}: "
            "give it in another unit"
        )
    return values


def label_if_fine(source: Source, name: str) -> NDArray[np.float64] | None:
    """A label that nobody needs yet; None where it is missing, or no number, in some row."""
    if name not in source.names:
        return None
    try:
        return guests_column(source, "label", name, "label")
    except DataError:
        return None


def check_label(
    source: Source, name: str, values: NDArray[np.float64], loss: Loss, agreed: bool
) -> None:
    try:
        loss.check(values)
    except BadLabel as error:
        if error.rows is None and agreed:
            return  # of all rows together: other parties have others
        where = "" if error.rows is None else f" {source.in_rows(error.rows)}"
        told = source.error(f"label '{name}' {error.what}{where}: {error.advice}")
        if agreed:
            told.for_peer = "its label does not fit the job's objective (its log has the details)"
        raise told from None


def _no_gaps(source: Source, what: str, values: NDArray[np.float64]) -> None:
    gaps = np.flatnonzero(marked(np.isnan, values)).tolist()
    if gaps:
        rows = rows_in_words(gaps, source.row_numbers)
        raise source.error(f"{what} is missing in {counted(len(gaps), 'row')} ({rows})")
