"""A party's columns for a linear model, by the rules of its own party file."""

from collections.abc import Collection

from vfl.arrays import Mask
from vfl.errors import ConfigError, DataError
from vfl.learn.binning import Features
from vfl.learn.design import MISSING, Design, Matrix, Rules, listed
from vfl.models.kind import OwnScores
from vfl.party.sections import GlmSection
from vfl.protocols.linear.scoring import LinearPart
from vfl.text import nearest_name


def prepare_columns(
    table: str, features: Features, training: Mask, section: GlmSection, alpha: float
) -> tuple[Design, Matrix]:
    """The design fitted to the rows that train, and the matrix of all rows.

    `training` has an entry a row; `features` may be none, as of a guest with a label alone. Raises
    DataError naming the table, the column and what to do: for columns that no linear model can use, and
    with `alpha` = 0 for columns that are linear combinations of others. Peers are told no name.
    """
    rules = Rules(**section.rules)
    for name in section.step:
        if name not in features:
            raise DataError(
                f"{table}: there is no column '{name}', for which step in [glm] has a number",
                for_peer="one of its columns cannot enter a linear model (its log has the details)",
            )
    try:
        design = Design.fit({name: values[training] for name, values in features.items()}, rules)
        matrix = design.matrix(features, len(training))
    except ValueError as error:
        raise DataError(
            f"{table}: {error}",
            for_peer="one of its columns cannot enter a linear model (its log has the details)",
        ) from None
    dependent = [] if alpha else design.dependent(matrix.take(training))
    if dependent:
        raise DataError(
            f"{table}: {listed(dependent)} of other columns: leave out columns (ignore), or set the "
            "job's alpha above 0",
            for_peer="some of its columns are linear combinations of others: it must leave them out, or "
            "the job needs alpha above 0",
        )
    return design, matrix


def check_rules(section: GlmSection, features: Collection[str], table: str) -> None:
    """Raises ConfigError for a rule of [glm] about a column that the table does not have."""
    for key, names in (("binned", section.binned), ("base", tuple(section.base))):
        for name in names:
            if name not in features:
                near = nearest_name(name, features)
                hint = f": did you mean '{near}'?" if near else ""
                raise ConfigError(f"[glm] {key} has '{name}', which is no feature of {table}{hint}")


def check_levels(section: GlmSection, features: Features, table: str) -> None:
    """Raises ConfigError for a base level that no row of the table has. Rows that train may lack others,
    which training alone shows."""
    for name, level in section.base.items():
        values = features[name]
        if values.dtype == object and level != MISSING and level not in values:
            raise ConfigError(
                f"[glm] base of column '{name}' is a level that no row of {table} has: correct it, or "
                "leave it out for the most frequent one"
            )


def own_scores(table: str, part: LinearPart, features: Features, rows: int) -> OwnScores:
    """What a party's columns add to each row's score.

    Raises DataError naming the table and the column for one that is not as it was in training.
    """
    try:
        return OwnScores(
            part.scores(features, rows), part.missing_score(features), part.design.unseen(features)
        )
    except ValueError as error:
        raise DataError(
            f"{table}: {error}",
            for_peer="one of its columns is not as it was in training (its log has the details)",
        ) from None
