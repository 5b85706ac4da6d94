"""A party's columns for a linear model, by the rules of its own party file."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from vfl.arrays import Floats, Integers, Mask
from vfl.blocks.columns import change_each
from vfl.blocks.scratch import Scratch
from vfl.errors import ConfigError, DataError
from vfl.learn.binning import Features
from vfl.learn.design import MISSING, OTHER, Design, Rules, listed, named
from vfl.learn.levels import Levels
from vfl.learn.leverage import BROADER, standing_out
from vfl.learn.matrix import Matrix, Whole
from vfl.learn.params import GlmParams
from vfl.learn.shrinkage import level_sizes, penalty_of
from vfl.learn.small_levels import EVERY_OTHER
from vfl.models.kind import OwnScores
from vfl.party.documents import Body
from vfl.party.linear_rules import GlmSection
from vfl.protocols.linear.inference_messages import coarse
from vfl.protocols.linear.scoring import LinearPart
from vfl.text import nearest_name


def prepare_columns(
    table: str,
    features: Features,
    training: Mask,
    section: GlmSection,
    params: GlmParams,
    scratch: Scratch = Scratch(),
    exposure: Floats | None = None,
    about: Sequence[Integers] = (),
) -> tuple[Design, Whole]:
    """The design fitted to the rows that train, and the matrix of all rows, which goes into `scratch`
    where it is large.

    `training`, `about` (as of `Training`), and `exposure` at the guest have an entry a row; `features`
    may be none, as of a guest with a label alone. Raises DataError naming the table, the column and what
    to do: for columns that no linear model can use, without a penalty for columns that are linear
    combinations of others, and for inference by columns by which rows stand out. Peers are told no name.
    """
    rules = Rules(**section.rules)
    if not params.credibility:
        rules = replace(rules, credible={})
    if not params.least_alpha:
        rules = replace(rules, fuse=())
    for name in section.step:
        if name not in features:
            raise DataError(
                f"{table}: there is no column '{name}', for which step in [glm] has a number",
                for_peer="one of its columns cannot enter a linear model (its log has the details)",
            )
    try:
        weights = None if exposure is None or exposure.strides == (0,) else exposure[training]
        design = Design.fit(change_each(features, lambda values: values[training]), rules, weights)
        matrix: Whole | None = None
        if scratch.takes(design.size(len(training))):
            matrix = design.parted(features, training, scratch)
        matrix = matrix or design.matrix(features, len(training))
    except ValueError as error:
        raise DataError(
            f"{table}: {error}",
            for_peer="one of its columns cannot enter a linear model (its log has the details)",
        ) from None
    dependent = [] if params.least_alpha else design.dependent(matrix.take(training))
    if dependent:
        raise DataError(
            f"{table}: {listed(dependent)} of other columns: leave out columns (ignore), or set the "
            "job's alpha above 0",
            for_peer="some of its columns are linear combinations of others: it must leave them out, or "
            "the job needs alpha above 0",
        )
    if params.inference:
        _check_leverage(
            table,
            design,
            coarse(matrix.take(training)),  # as inference has them
            params.max_leverage,
            [numbers[training] for numbers in about],
        )
    sizes = None
    if params.shrink_to == "mean" and params.least_alpha:
        sizes = level_sizes(design, matrix.take(training), weights)
    penalty = penalty_of(design, sizes, int(training.sum()), by_steps=params.l1_ratio > 0)
    return design, matrix if penalty.is_plain else matrix.shrunk_by(penalty)


def _check_leverage(
    table: str, design: Design, matrix: Matrix, most: float, about: Sequence[Integers]
) -> None:
    """Raises DataError for columns by which a row stands out further than the job infers by."""
    found = standing_out(matrix, most, about=about)
    if found is not None:
        raise DataError(
            f"{table}: for inference = true {named(design.coefficients[found.place])} makes single "
            f"rows stand out, with a leverage of {found.leverage:.2f}, where max_leverage is {most:g}: "
            f"{BROADER}",
            for_peer="by some of its columns single rows stand out, which inference would tell of "
            "(its log has the details)",
        )


def check_rules(section: GlmSection, features: Collection[str], table: str) -> None:
    """Raises ConfigError for a rule of [glm] about a column that the table does not have."""
    for key, names in section.named.items():
        for name in names:
            if name not in features:
                near = nearest_name(name, features)
                hint = f": did you mean '{near}'?" if near else ""
                raise ConfigError(f"[glm] {key} has '{name}', which is no feature of {table}{hint}")


def check_levels(section: GlmSection, features: Features, table: str) -> None:
    """Raises ConfigError for a base level that no row of the table has. Rows that train may lack others,
    which training alone shows."""
    for name, groups in section.group.items():
        values = features[name]
        if values.dtype != object:
            continue
        known = Levels(tuple(sorted({*values.tolist()} - {None})), 0, 0)
        for group, levels in groups.items():
            named = [level for level in levels if level not in (MISSING, EVERY_OTHER)]
            _, strange = known.match(np.array(named, dtype=object))
            if strange.any():
                raise ConfigError(
                    f"[glm] group '{group}' of column '{name}' has a level, number "
                    f"{strange.argmax() + 1} of its list, that no row of {table} has: correct it, or "
                    "leave it out"
                )
    for name, level in section.base.items():
        values = features[name]
        if name in section.group and level in (*section.group[name], OTHER):
            continue
        if values.dtype == object and level not in (MISSING, OTHER) and level not in values:
            raise ConfigError(
                f"[glm] base of column '{name}' is a level that no row of {table} has: correct it, or "
                "leave it out for the most frequent one"
            )


def shorten_design(design: Body) -> None:
    """Leave out of a design's document what the rules of earlier versions did not make; that of a half
    that was read has it left out already."""
    for one, names in (
        (design, ("curves", "crossings")),
        *(
            (factor, ("labels", "grouped", "joined_rows", "absent", "fused", "credible"))
            for factor in design["factors"]
        ),
    ):
        for name in names:
            if not one.get(name):
                one.pop(name, None)
    for factor in design["factors"]:
        if factor.get("rest") == OTHER:
            del factor["rest"]


def own_scores(table: str, part: LinearPart, features: Features, rows: int) -> OwnScores:
    """What a party's columns add to each row's score.

    Raises DataError naming the table and the column for one that is not as it was in training.
    """
    try:
        return OwnScores(
            part.scores(features, rows), part.missing_score(features), part.design.unseen(features)
        )
    except ValueError as error:
        raise changed_column(table, error) from None


def changed_column(table: str, error: ValueError) -> DataError:
    """The error for a column that is not as it was in training."""
    return DataError(
        f"{table}: {error}",
        for_peer="one of its columns is not as it was in training (its log has the details)",
    )
