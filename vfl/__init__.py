"""Vertical federated learning for insurers."""

from importlib import import_module
from typing import Any

_ESTIMATORS = ("FederatedGLM", "FederatedLogisticRegression", "SecureBoost", "SecureBoostRegressor")

__version__ = "0.1.0"
__all__ = [
    "FederatedGLM",
    "FederatedLogisticRegression",
    "SecureBoost",
    "SecureBoostRegressor",
    "__version__",
]


def __getattr__(name: str) -> Any:
    # pandas and scikit-learn take a second to import, which the command line need not wait for.
    if name in _ESTIMATORS:
        return getattr(import_module("vfl.simulate"), name)
    raise AttributeError(f"module 'vfl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_ESTIMATORS])
