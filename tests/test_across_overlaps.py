"""Sums by several pairs, or of several fits, whose differences would be of few rows: refused."""

import numpy as np
import pytest
from pydantic import ValidationError

from vfl.errors import ConfigError
from vfl.learn.across import OwnFactor, PairOfParties, choose_cells
from vfl.learn.params import GlmParams
from vfl.party.config import Job
from vfl.party.search import Search

LEAST = 8


def test_nested_columns_of_a_host_tell_of_few_rows_and_are_refused():
    """By two pairs, each of enough rows by itself, a host subtracts a model's cell from its make's."""
    # Rows by the guest's level and the host's model; models 1 and 2 are make 1's.
    by_model = np.array([[30, 30, 30, 30], [30, 37, 3, 30], [30, 30, 30, 30]])
    by_make = np.stack([by_model[:, 0], by_model[:, 1] + by_model[:, 2], by_model[:, 3]], axis=1)
    makes = choose_cells(PairOfParties(0, OwnFactor(0, 0, 2), LEAST), by_make)
    models = choose_cells(PairOfParties(0, OwnFactor(1, 2, 3), LEAST), by_model)
    assert (1, 1) in makes.cells and (1, 1) in models.cells
    assert 0 < by_make[1, 1] - by_model[1, 1] < LEAST


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (
            [("area", "bureau:make"), ("area", "bureau:model")],
            "'area' in two pairs with columns of bureau",
        ),
        (
            [("area", "bureau:make"), ("region", "bureau:make")],
            "'bureau:make' in two pairs with columns of the guest",
        ),
    ],
)
def test_a_column_in_two_pairs_with_a_party(pairs, said):
    why = f"across has column {said}, which together tell of fewer rows than across_rows: leave one"
    with pytest.raises(ValidationError, match=why):
        GlmParams(across=tuple(pairs))


def test_other_pairs_of_a_column_are_admitted():
    pairs = ("area", "bureau:make"), ("year", "bureau:model"), ("area", "garage:make")
    assert GlmParams(across=pairs).pairs.overlapping is None


def test_a_search_by_folds_is_refused():
    settings = {
        "job": {"name": "a", "purpose": "pricing", "model": "glm", "family": "poisson"},
        "glm": {"across": [["area", "bureau:make"]]},
    }
    tune = {"space": {"alpha": {"low": 0.01, "high": 0.1}}}
    assert Search.of(Job.model_validate({**settings, "tune": tune})).judges == 1
    job = Job.model_validate({**settings, "tune": {**tune, "folds": 3}})
    with pytest.raises(ConfigError, match=r"across of \[glm\] does not go with folds of \[tune\]"):
        Search.of(job)


def test_a_host_refuses_a_job_received_with_overlapping_pairs():
    """Whatever its guest checks itself."""
    settings = {
        "job": {"name": "a", "purpose": "pricing", "model": "glm", "family": "poisson"},
        "glm": {"across": [["area", "bureau:make"], ["year", "bureau:model"]]},
    }
    sent = Job.model_validate(settings).canonical
    assert Job.from_canonical(sent).glm.across
    with pytest.raises(ConfigError, match=r"the job received: .*across has column 'area' in two pairs"):
        Job.from_canonical(sent.replace(b'"year"', b'"area"'))
