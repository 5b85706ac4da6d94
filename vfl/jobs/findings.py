"""What there is to say of a model that learnt nothing, or little: by which setting, and what to try.

Where nothing was trained the job ends with an error, which all parties are told. A model that is weak is
kept, with words for the guest's people; of settings that hold it back hosts are told as well, in words
without values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vfl.errors import ConfigError, DataError, VflError
from vfl.learn.glm import APART, are_apart
from vfl.learn.losses import Floats, LogisticLoss
from vfl.learn.params import BoostParams, GlmParams
from vfl.learn.tree import Obstacle
from vfl.protocols.common.bits import Mask
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.scoring import GuestGlm
from vfl.protocols.trees.model import GuestModel
from vfl.text import counted

_VANISHED = 1e-6  # no two predictions differ by more: relative, or of the label's deviation
_FLAT = 0.01
_MANY = 0.1  # of the trees
_SAME = 1e-9  # of two losses

TOLD = {
    "flat": "the model's predictions hardly differ: its penalty or its learning rate flattens it",
    "apart": "some predictions are millions of times others: columns may separate the label",
    "no_split": "many trees have no split",
    "guest_alone": "the only tree is of the guest's columns alone (first_tree)",
    "no_validation_rows": "no row is left to decide when to stop (validation_share)",
    "no_held_out_rows": "no row is left to evaluate on (holdout)",
}
"""What hosts are told of the guest's settings, by the word that is sent."""


class NothingTrained(VflError):
    """A job whose model would say the same of every row."""

    def __init__(self, text: str, told: str, *, settings: bool = True) -> None:
        """`settings`: whether those of the job are the cause, and not the tables."""
        super().__init__(f"nothing was trained: {text}", for_peer=f"nothing was trained: {told}")
        self.exit_code = ConfigError.exit_code if settings else DataError.exit_code


@dataclass(frozen=True)
class Finding:
    """What a setting does to a model: the word for hosts, and what to say to the guest's people."""

    word: str
    text: str


# --- Nothing was trained --------------------------------------------------------------------------


def no_split(obstacle: Obstacle, params: BoostParams, rows: int, drawn: int) -> NothingTrained:
    """The error of trees without any split. `drawn`: of the rows that train, those of a tree."""
    few = f"min_child_rows = {params.min_child_rows:,} in [secureboost] leaves no split of the "
    of = f"{counted(rows, 'row')} to train on"
    few += of if drawn == rows else f"{drawn:,} that a tree draws of {of}"
    few += ": lower it" if drawn == rows else f": lower it, or raise subsample = {params.subsample:g}"
    if drawn >= 2 * params.min_child_rows:
        few += ", unless every column has one value alone"
    because: dict[Obstacle, str] = {
        "min_child_rows": few,
        "min_child_weight": f"min_child_weight = {params.min_child_weight:g} in [secureboost] is more "
        "than any split leaves on both sides: lower it",
        "reg_lambda": f"under reg_lambda = {params.reg_lambda:g} in [secureboost] no split gains "
        "anything: lower it",
        "gamma": f"no split gains as much as gamma = {params.gamma:g} in [secureboost]: lower it",
        "monotone": "no split keeps to the constraints of monotone in [data]: leave some out",
        "columns": "no column of any party can be split: each has one value alone in the rows that "
        "train, or too few rows of every other (min_bin_rows in [secureboost])",
        "label": "no column of any party tells anything about the label in the rows that train",
    }
    where = {"monotone": "monotone of [data]", "columns": "no column can be split"}
    where |= {"label": "no column tells anything about the label"}
    told = where.get(obstacle, f"{obstacle} of [secureboost]")
    return NothingTrained(
        f"no tree has a split, since {because[obstacle]}",
        f"no tree has a split ({told})",
        settings=obstacle not in ("columns", "label"),
    )


def none_kept() -> NothingTrained:
    """The error of trees of which early stopping kept none with a split."""
    told = "no tree that splits does better on the rows that decide when to stop"
    return NothingTrained(told, told, settings=False)


def check_rows(params: BoostParams, rows: int) -> None:
    """Raises NothingTrained where no tree can have a split, by the number of rows that train."""
    drawn = rows if params.subsample == 1 else max(1, round(params.subsample * rows))
    if drawn < 2 * params.min_child_rows:
        raise no_split("min_child_rows", params, rows, drawn)


def check_learnt(
    model: GuestModel | GuestGlm, score: Floats, rows: Training, params: BoostParams | GlmParams
) -> list[Finding]:
    """What holds the model back. Raises NothingTrained where it says the same of all rows."""
    differs = _range(score, rows)
    if differs is not None and differs <= _VANISHED:
        raise _constant(model, params)
    found = []
    if differs is not None and differs <= _FLAT:
        which = f"alpha = {params.alpha:g} in [glm]" if isinstance(params, GlmParams) else _rates(params)
        found.append(
            Finding("flat", f"the predictions of any two rows differ by less than 1 %: lower {which}")
        )
    if isinstance(params, GlmParams) and are_apart(_known(score, rows), rows.loss, params.alpha):
        found.append(Finding("apart", APART))
    if isinstance(model, GuestModel) and isinstance(params, BoostParams):
        bare = sum(not tree.branches for tree in model.trees)
        if bare > _MANY * len(model.trees):
            share = f"{bare:,} of {counted(len(model.trees), 'tree')}"
            text = f"{share} {'has' if bare == 1 else 'have'} no split: fewer trees do as well"
            found.append(Finding("no_split", text))
        if params.first_tree == "guest" and len(model.trees) == 1:
            text = 'first_tree = "guest" leaves the hosts out of the only tree: raise trees'
            found.append(Finding("guest_alone", text))
        if params.early_stopping_rounds and not rows.validation.any():
            text = (
                f"validation_share = {params.validation_share:g} leaves no row to decide when to stop: "
                "training went on to the last tree"
            )
            found.append(Finding("no_validation_rows", text))
    return found


def check_held_out(holdout: float, held_out: Mask) -> list[Finding]:
    """What there is to say of rows that should have been held out."""
    if not holdout or held_out.any():
        return []
    text = f"holdout = {holdout:g} leaves no row to evaluate on: nobody knows how good the model is"
    return [Finding("no_held_out_rows", text)]


def _range(score: Floats, rows: Training) -> float | None:
    """By how much the scores without offset differ among the rows where they are known, in units of the
    label's deviation where there is no link; None where nobody knows two of them."""
    known = _known(score, rows)
    if len(known) < 2:
        return None
    unit = 1.0
    if rows.loss.link == "identity":
        unit = float(rows.label[rows.train].std()) or 1.0
    return float(np.ptp(known)) / unit


def _known(score: Floats, rows: Training) -> Floats:
    """The scores without offset of the rows where they are known."""
    alone = score if rows.offset is None else score - rows.offset
    return np.asarray(alone[np.isfinite(alone)])


def _constant(model: GuestModel | GuestGlm, params: BoostParams | GlmParams) -> NothingTrained:
    if isinstance(params, BoostParams):
        return NothingTrained(
            f"all leaves vanish: {_rates(params)} make every prediction the same",
            "all leaves vanish (learning_rate and reg_lambda of [secureboost])",
        )
    if params.alpha > 0:
        return NothingTrained(
            f"alpha = {params.alpha:g} in [glm] leaves no coefficient: lower it",
            "all coefficients vanish (alpha of [glm])",
        )
    if isinstance(model, GuestGlm) and model.iterations == 0:
        return NothingTrained(
            f"under tolerance = {params.tolerance:g} in [glm] the fit ended before its first step: "
            "lower it",
            "the fit ended before its first step (tolerance of [glm])",
        )
    return NothingTrained(
        "no column of any party tells anything about the label in the rows that train",
        "no column tells anything about the label",
        settings=False,
    )


def _rates(params: BoostParams) -> str:
    return (
        f"learning_rate = {params.learning_rate:g} and reg_lambda = {params.reg_lambda:g} in "
        "[secureboost]"
    )


# --- The model is weak ----------------------------------------------------------------------------


def of_quality(
    metrics: Mapping[str, Mapping[str, float]],
    rows: Training,
    held_out: Mask,
    alone: str,
    params: BoostParams | GlmParams,
) -> list[str]:
    """What to say of models that do worse on the rows held out than something simpler would.

    `metrics` are those of the parties' common model, "federation", and of the guest's own, `alone`.
    """
    if "federation" not in metrics:
        return []
    label, weight = rows.label[held_out], rows.weight[held_out]
    many = f"on the {counted(len(label), 'held-out row')}"
    found = []
    for name in ("federation", alone):
        of = metrics.get(name, {})
        who = "the model" if name == "federation" else name
        if isinstance(rows.loss, LogisticLoss):
            best = _entropy(label, weight)
            if of.get("log_loss", 0.0) > best * (1 + _SAME):
                found.append(
                    f"{who} does worse than the same probability for all {many} (log loss "
                    f"{of['log_loss']:.4f}, that of their mean {best:.4f})"
                )
            if of.get("auc", 1.0) < 0.5:
                found.append(f"{who} orders rows worse than chance {many} (AUC {of['auc']:.4f})")
        elif of.get("d2", 0.0) < 0:
            found.append(f"{who} does worse than the mean {many} (D² {of['d2']:.4f})")
    loss = "log_loss" if isinstance(rows.loss, LogisticLoss) else "deviance"
    ours, own = (metrics.get(name, {}).get(loss) for name in ("federation", alone))
    if ours is not None and own is not None and ours > own * (1 + _SAME):
        word = loss.replace("_", " ")
        found.append(
            f"the model does worse than {alone} {many} ({word} {ours:.4f}, {own:.4f} alone): the hosts' "
            "columns add nothing that holds for other rows"
        )
    if any("the model " in text for text in found):
        found.append(_advice(params))
    return found


def _advice(params: BoostParams | GlmParams) -> str:
    if isinstance(params, GlmParams):
        return (
            "try a higher alpha in [glm], a higher min_level_rows or fewer columns at each party, or "
            "more rows; a larger holdout tells more surely"
        )
    stop = "" if params.early_stopping_rounds else ", early_stopping_rounds with a validation_share"
    return (
        "try fewer trees, less depth or a lower learning_rate, a higher min_child_rows or "
        f"reg_lambda{stop}, or more rows; a larger holdout tells more surely"
    )


def _entropy(label: Floats, weight: Floats) -> float:
    """The log loss of the rows' own mean for all of them."""
    mean = float(np.average(label, weights=weight))
    return -sum(p * float(np.log(p)) for p in (mean, 1 - mean) if p > 0)


# --- What hosts say -------------------------------------------------------------------------------


def words_of(told: Sequence[str]) -> list[str]:
    """What a guest has told of its settings, in words; what this version does not know is left out."""
    return [TOLD[word] for word in told if word in TOLD]


def own_part(splits: int | None, coefficients: Any = None) -> str | None:
    """What a host says to its own people of a half that says nothing."""
    if splits == 0:
        return (
            "no split is of this party's columns: its half of the model says nothing (min_bin_rows and "
            "min_child_rows in [policy] and in the job may leave none)"
        )
    if coefficients is not None and len(coefficients) and np.abs(coefficients).max() <= _VANISHED:
        return "all coefficients of this party's columns vanish: its half of the model says nothing"
    if coefficients is not None and not len(coefficients):
        return "this party has no column in the model"
    return None
