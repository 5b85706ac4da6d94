"""Vertical federated learning for insurers."""

from importlib import import_module
from typing import TYPE_CHECKING

from vfl.version import __version__

if TYPE_CHECKING:
    from vfl.estimators import (
        FederatedGLM,
        FederatedLogisticRegression,
        FrequencySeverity,
        Hosts,
        PooledBoost,
        PooledBoostRegressor,
        PooledGLM,
        PooledLogisticRegression,
        SecureBoost,
        SecureBoostRegressor,
        load,
    )

__all__ = [
    "FederatedGLM",
    "FederatedLogisticRegression",
    "FrequencySeverity",
    "Hosts",
    "PooledBoost",
    "PooledBoostRegressor",
    "PooledGLM",
    "PooledLogisticRegression",
    "SecureBoost",
    "SecureBoostRegressor",
    "__version__",
    "leakage",
    "load",
]


def __getattr__(name: str) -> object:
    # pandas, numba and scikit-learn take seconds to import, which the command line need not wait for.
    if name == "leakage":
        return import_module("vfl.leakage")
    if name in __all__:
        return getattr(import_module("vfl.estimators"), name)
    raise AttributeError(f"module 'vfl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"TYPE_CHECKING", "import_module"})
