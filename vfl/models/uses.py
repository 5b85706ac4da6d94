"""The columns that a model uses, in a table that may have changed since."""

from collections.abc import Iterable

from vfl.learn.binning import Features


def misfit(uses: Iterable[tuple[str, bool]], features: Features) -> str | None:
    """The first of a half's columns, each with whether it is categorical, that a table lacks or has of
    another kind; None if all is well."""
    for column, categorical in uses:
        if column not in features or (features[column].dtype == object) != categorical:
            return column
    return None
