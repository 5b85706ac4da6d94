"""Parameters of estimators whose values copies and clones share.

scikit-learn copies the parameters of an estimator for every fold. What is too large for that, or would
no longer be itself, is held in an object that is handed on as it is.
"""

from collections.abc import Callable
from typing import Self


class Shared:
    """Copies and clones are the same object."""

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __sklearn_clone__(self) -> Self:
        return self


class SharedParameter:
    """The attribute of an estimator in which a value becomes a Shared one, whoever sets it.

    hold: what is held of a value; one that is Shared already, or is none of the kind, as it is.
    """

    def __init__(self, hold: Callable[[object], object]) -> None:
        self._hold = hold

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, estimator: object, owner: type | None = None) -> object:
        if estimator is None:
            return self
        try:
            return vars(estimator)[self._name]
        except KeyError:
            raise AttributeError(self._name) from None

    def __set__(self, estimator: object, given: object) -> None:
        vars(estimator)[self._name] = self._hold(given)
