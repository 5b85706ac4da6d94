"""What the label of a job may be, held against its other settings."""

from vfl.learn.losses import Family, Objective
from vfl.learn.params import MOST_CLASSES, BoostParams, GlmParams


def check_objective(objective: Objective | None, trees: BoostParams, *, over_rows: bool) -> None:
    """Raises ValueError for a setting of the objective that is missing, or that means nothing."""
    _check_quantile(objective, trees, over_rows=over_rows)
    if objective != "multiclass":
        if trees.classes is not None:
            raise ValueError('[secureboost] classes is for objective = "multiclass": remove the line')
    elif over_rows:
        raise ValueError(
            'objective = "multiclass" is not for partition = "rows": parties would have to agree on the '
            "classes of their labels"
        )
    elif trees.classes is None:
        raise ValueError(
            f'objective = "multiclass" needs classes in [secureboost]: how many the label has, 3 to '
            f"{MOST_CLASSES}"
        )


def _check_quantile(objective: Objective | None, trees: BoostParams, *, over_rows: bool) -> None:
    if objective != "quantile":
        if trees.quantile is not None:
            raise ValueError('[secureboost] quantile is for objective = "quantile": remove the line')
    elif over_rows:
        raise ValueError(
            'objective = "quantile" is not for partition = "rows": it needs the residuals of all '
            "rows of a leaf in one place"
        )
    elif trees.quantile is None:
        raise ValueError('objective = "quantile" needs a quantile in [secureboost], such as 0.9')


def check_family(family: Family | None, linear: GlmParams, *, over_rows: bool) -> None:
    """Raises ValueError for a family that the job's settings do not go with."""
    if linear.scores == "hidden" and family not in ("logistic", "poisson"):
        raise ValueError(
            'scores = "hidden" is for family = "logistic" and "poisson": of the others no residual '
            'can be formed under encryption, use scores = "guest"'
        )
    if over_rows and family == "negative_binomial":
        raise ValueError('family = "negative_binomial" is not for partition = "rows": write poisson')
    if linear.profile and family not in ("tweedie", "negative_binomial"):
        raise ValueError(
            '[glm] profile is for family = "tweedie" and "negative_binomial": remove the line'
        )
