"""Why no tree has a split, and what to do about it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from vfl.learn.params import BoostParams
from vfl.learn.tree import Obstacle
from vfl.models.findings import NothingTrained
from vfl.text import counted

# --- In a job -----------------------------------------------------------------------------------------


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
        "reg_alpha": f"under reg_alpha = {params.reg_alpha:g} in [secureboost] no split gains "
        "anything: lower it",
        "gamma": f"no split gains as much as gamma = {params.gamma:g} in [secureboost]: lower it",
        "monotone": "no split keeps to the constraints of monotone: leave some out",
        "columns": "no column of any party can be split: each has one value alone in the rows that "
        "train, or too few rows of every other (min_bin_rows in [secureboost])",
        "label": "no column of any party tells anything about the label in the rows that train",
    }
    where = {"monotone": "monotone", "columns": "no column can be split"}
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


# --- In a simulation, which can try again -------------------------------------------------------------

_MILD: Mapping[str, object] = {
    "min_child_rows": 1,
    "min_child_weight": 0.0,
    "gamma": 0.0,
    "min_bin_rows": 1,
    "reg_lambda": 0.0,
    "reg_alpha": 0.0,
    "subsample": 1.0,
    "colsample": 1.0,
    "guest_trees": 0,
}
"""What can keep a tree from splitting, with the value at which it does not."""

_ADVICE = {
    **{name: f"lower {name}" for name in _MILD},
    "subsample": "raise subsample",
    "colsample": "raise colsample",
}
_DEFAULT = {name: BoostParams.model_fields[name].default for name in _MILD}


def _blamed(params: BoostParams, names: Sequence[str], what: str, together: str) -> str:
    """Which parameters are at fault, what they allow, and what to do about it."""
    at_fault = " and ".join(f"{name}={_shown(getattr(params, name))}" for name in names)
    todo = together.join(_ADVICE[name] for name in names)
    return f"{at_fault} allow{'' if len(names) > 1 else 's'} {what}: {todo}"


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str) else f"{value:g}"


async def why_unsplit(
    params: BoostParams, rows: int, splits: Callable[[BoostParams], Awaitable[bool]]
) -> str:
    """The parameters without which the first tree would have a split; `splits` tries others."""

    async def would_split(names: Sequence[str]) -> bool:
        """Whether a tree splits once these parameters do not stand in its way."""
        changed = {name: _MILD[name] for name in names} | {"trees": 1, "depth": 1}
        return await splits(params.model_copy(update=changed))

    strict = [name for name, mild in _MILD.items() if getattr(params, name) != mild]
    if not await would_split(strict):
        return f"no column tells the {counted(rows, 'row')} to train on apart by their label"
    alone = [name for name in strict if await would_split([name])]
    if alone:
        return _blamed(params, alone, f"no split of {counted(rows, 'row')}", " or ")
    # None is enough: those without which none of the others are.
    needed = strict
    for name in sorted(strict, key=lambda name: getattr(params, name) != _DEFAULT[name]):
        fewer = [other for other in needed if other != name]
        if await would_split(fewer):
            needed = fewer
    return _blamed(params, needed, f"no split of {counted(rows, 'row')}", " and ")
