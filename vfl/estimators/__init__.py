"""The estimators of scikit-learn over the tables of several parties, all in one process."""

from vfl.estimators.claims import FrequencySeverity
from vfl.estimators.hosts import Hosts
from vfl.estimators.learner import load
from vfl.estimators.linear import FederatedGLM, FederatedLogisticRegression
from vfl.estimators.pooled_linear import PooledGLM, PooledLogisticRegression
from vfl.estimators.pooled_trees import PooledBoost, PooledBoostRegressor
from vfl.estimators.trees import SecureBoost, SecureBoostRegressor

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
    "load",
]
