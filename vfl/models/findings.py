"""What there is to say of a model that learnt little or nothing, whatever its kind.

Where nothing was trained the job ends with an error, which all parties are told. A model that is weak is
kept, with words for the guest's people; of settings that hold it back hosts are told as well, in words
without values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vfl.arrays import Floats, Mask
from vfl.errors import ConfigError, DataError, VflError
from vfl.learn.class_metrics import share_loss
from vfl.learn.losses import LogisticLoss
from vfl.protocols.common.rows import Training
from vfl.text import counted

_VANISHED = 1e-6  # of coefficients
_SAME = 1e-9  # of two losses

TOLD = {
    "flat": "the model's predictions hardly differ: its penalty or its learning rate flattens it",
    "apart": "some predictions are millions of times others: columns may separate the label",
    "guest_apart": "a level of the guest's own columns tells the label without error, for want of a "
    "claim, say: its coefficient may have no finite best value",
    "no_split": "many trees have no split",
    "guest_alone": "all trees are of the guest's columns alone (guest_trees)",
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


def check_held_out(holdout: float, held_out: Mask) -> list[Finding]:
    """What there is to say of rows that should have been held out."""
    if not holdout or held_out.any():
        return []
    text = f"holdout = {holdout:g} leaves no row to evaluate on: nobody knows how good the model is"
    return [Finding("no_held_out_rows", text)]


def range_of(score: Floats, rows: Training) -> float | None:
    """How much the scores without offset differ among the rows where they are known, in units of the
    label's deviation where there is no link; None where nobody knows two of them."""
    known = known_scores(score, rows)
    if len(known) < 2:
        return None
    unit = 1.0
    if rows.loss.link == "identity":
        unit = float(rows.label[rows.train].std()) or 1.0
    return float(np.ptp(known, axis=0).max()) / unit


def known_scores(score: Floats, rows: Training) -> Floats:
    """The scores without offset of the rows where they are known."""
    alone = score if rows.offset is None else score - rows.offset
    finite = np.isfinite(alone)
    return alone if finite.all() else np.asarray(alone[finite])  # rows are many


# --- The model is weak ----------------------------------------------------------------------------


def judge_quality(
    metrics: Mapping[str, Mapping[str, float]],
    rows: Training,
    held_out: Mask,
    alone: str,
    advice: str,
    theirs: str = "the hosts' columns",
) -> list[str]:
    """What to say of models that do worse on the rows held out than something simpler would.

    `metrics` are those of the parties' common model, "federation", and of the party's own, `alone`;
    `advice` says what may make a better one, `theirs` what the others bring.
    """
    if "federation" not in metrics:
        return []
    label, weight = rows.label[held_out], rows.weight[held_out]
    many = f"on the {counted(len(label), 'held-out row')}"
    warnings = []
    for name in ("federation", alone):
        of = metrics.get(name, {})
        who = "the model" if name == "federation" else name
        if isinstance(rows.loss, LogisticLoss):
            best = _entropy(label, weight)
            if of.get("log_loss", 0.0) > best * (1 + _SAME):
                warnings.append(
                    f"{who} does worse than the same probability for all {many} (log loss "
                    f"{of['log_loss']:.4f}, that of their mean {best:.4f})"
                )
            if of.get("auc", 1.0) < 0.5:
                warnings.append(f"{who} orders rows worse than chance {many} (AUC {of['auc']:.4f})")
        elif rows.loss.classes > 1:
            best = share_loss(label, weight, rows.loss.classes)
            if of.get("log_loss", 0.0) > best * (1 + _SAME):
                warnings.append(
                    f"{who} does worse than the same probabilities for all {many} (log loss "
                    f"{of['log_loss']:.4f}, that of the classes' shares {best:.4f})"
                )
        elif of.get("d2", 0.0) < 0:
            best_constant = "mean" if rows.loss.quantile is None else "same quantile for all"
            warnings.append(f"{who} does worse than the {best_constant} {many} (D² {of['d2']:.4f})")
    of_classes = isinstance(rows.loss, LogisticLoss) or rows.loss.classes > 1
    loss = "log_loss" if of_classes else "deviance"
    if rows.loss.quantile is not None:
        loss = "pinball_loss"
    ours, own = (metrics.get(name, {}).get(loss) for name in ("federation", alone))
    if ours is not None and own is not None and ours > own * (1 + _SAME):
        word = loss.replace("_", " ")
        warnings.append(
            f"the model does worse than {alone} {many} ({word} {ours:.4f}, {own:.4f} alone): "
            f"{theirs} add nothing that holds for other rows"
        )
    if any("the model " in text for text in warnings):
        warnings.append(advice)
    return warnings


def _entropy(label: Floats, weight: Floats) -> float:
    """The log loss of the rows' own mean for all of them."""
    mean = float(np.average(label, weights=weight))
    return -sum(p * float(np.log(p)) for p in (mean, 1 - mean) if p > 0)


# --- What hosts say -------------------------------------------------------------------------------


def words_of(told: Sequence[str]) -> list[str]:
    """What a guest has told of its settings, in words; what this version does not know is left out."""
    return [TOLD[word] for word in told if word in TOLD]


def remark_on(coefficients: Floats) -> str | None:
    """What a host tells its own people of coefficients that say nothing; None of others."""
    if not len(coefficients):
        return "this party has no column in the model"
    if np.abs(coefficients).max() <= _VANISHED:
        return "all coefficients of this party's columns vanish: its half of the model says nothing"
    return None
