"""A fitted model as a parameter of an estimator: the one that a fit begins with.

scikit-learn makes an unfitted copy of every estimator that is a parameter of another, so it is held.
"""

from vfl.estimators.shared import Shared


class BegunModel(Shared):
    """A fitted estimator."""

    def __init__(self, estimator: object) -> None:
        self.estimator = estimator

    def __repr__(self) -> str:
        return f"<fitted {type(self.estimator).__name__}>"


def hold_model(given: object) -> object:
    """An estimator held, anything else as it is."""
    return BegunModel(given) if hasattr(given, "get_params") else given
