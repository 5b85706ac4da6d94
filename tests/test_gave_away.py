"""What a run gave away, by a party's record of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vfl.errors import ModelError
from vfl.jobs.account import Account
from vfl.jobs.alignments import Alignment, save_alignment
from vfl.jobs.gave_away import disclosed, given_before
from vfl.jobs.record import Record
from vfl.jobs.sums_given import SumsGiven
from vfl.leakage.disclosure import Disclosure
from vfl.leakage.estimate import expected
from vfl.learn.params import BoostParams
from vfl.learn.told_sums import equations_a_tree
from vfl.party.row_sums import JobSums
from vfl.party.store import Store

TREES = {"model": "secureboost", "objective": "binary"}
LINEAR = {"model": "glm", "family": "logistic"}


def record(role: str = "guest", label: dict[str, str] = TREES, **changed: Any) -> Record:
    settings = changed.pop("settings", {})
    job = {"job": {"name": "claims", "purpose": "a test", **label}, label["model"]: settings}
    party = {"guest": "insurer", "host": "registry", "coordinator": "umpire"}[role]
    known: dict[str, Any] = {"curve": [{"train": 0.5}] * 7} if role == "guest" else {}
    known |= {"alignment": "a-1", "aligned_rows": 0 if role == "coordinator" else 1000}
    return Record(
        model="claims-1",
        party=party,
        role=role,
        parties=["insurer", "registry", "bureau"],
        job=job,
        ended="2026-11-23T02:03:16+00:00",
        account=Account.nothing(),
        **(known | changed),
    )


def by_name(found: list[Disclosure], about: str = "") -> dict[str, Disclosure]:
    return {one.name: one for one in found if about in one.about or about in one.who}


def test_the_guest_counts_trees_and_the_splits_that_hosts_won() -> None:
    importance = [("registry", "power", 5, 9.0), ("insurer", "area", 3, 4.0), ("registry", "km", 2, 1.0)]
    run = record(settings={"trees": 50, "guest_trees": 2})
    found = disclosed(run, importance=importance)
    sums = by_name(found)["table_from_sums"]
    # Seven trees were grown, two by the guest alone; those that early stopping dropped count, too.
    assert sums.amount == 5 * equations_a_tree(1000, BoostParams(trees=50)) / 1000
    assert "the 7 splits that it won" in by_name(found, "registry")["table_from_model"].how
    none = by_name(found, "bureau")["table_from_model"]
    assert "the 0 splits that it won" in none.how and none.success == 0


def test_a_host_counts_its_own_splits_and_earlier_jobs() -> None:
    run = record("host", settings={"trees": 10})
    found = disclosed(run, own={"registry": 4}, given=0.02)
    sums = by_name(found)["table_from_sums"]
    a_row = 10 * equations_a_tree(1000, BoostParams()) / 1000
    assert sums.amount == pytest.approx(0.02 + a_row) and sums.success == expected(0.02 + a_row)
    assert "without those of earlier jobs" not in sums.how
    guests = by_name(disclosed(record(settings={"trees": 10})))["table_from_sums"]
    assert "without those of earlier jobs" in guests.how
    hidden = {"sums": "hidden", "coordinator": "umpire"}
    assert (
        "without those of earlier jobs"
        in by_name(disclosed(record(settings=hidden)))["table_from_sums"].how
    )
    assert "the 4 splits" in by_name(found, "registry")["table_from_model"].how
    assert "if it wins as many" in by_name(found, "bureau")["table_from_model"].how


def test_sums_of_earlier_jobs_are_those_on_the_alignment(tmp_path: Path) -> None:
    store, run = Store(tmp_path), record("host")
    assert given_before(store, run) == 0  # the alignment is gone
    alignment = Alignment("a-1", "f0", {"insurer": "f0"}, ("strip",), "", np.arange(9))
    save_alignment(store, alignment)
    given = SumsGiven(store, alignment)
    for model, before in (("claims-0", 0.0), ("claims-1", 0.25), ("claims-2", 0.75)):
        given.file.write(given.file.read().with_job(model, JobSums(before, 0.25)))
    assert given_before(store, run) == 0.25  # a job that came later changes no report
    sums = given.known(given.file.read())
    given.file.write(sums.with_told(given.places(sums), np.full(9, 1.5)))
    assert given_before(store, replace(run, model="unknown")) == 1.5  # at most
    given.file.path.write_text("{")
    with pytest.raises(ModelError, match=r"insurer\.json is damaged"):
        given_before(store, run)


def test_linear_models_count_iterations_and_coefficients() -> None:
    guest = by_name(disclosed(record(label=LINEAR, ending={"iterations": 6.0, "converged": True})))
    assert guest["columns_from_steps"].amount == 6
    host = by_name(disclosed(record("host", LINEAR), own={"registry": 200}), "registry")
    assert host["labels_from_gradients"].amount == 0.2
    assert "one in each iteration" in host["columns_from_steps"].how


@pytest.mark.parametrize("label", [TREES, LINEAR], ids=["trees", "linear"])
def test_a_coordinator_says_what_does_not_depend_on_rows(label: dict[str, str]) -> None:
    hidden = {"sums" if label is TREES else "scores": "hidden", "coordinator": "umpire"}
    found = disclosed(record("coordinator", label, settings=hidden))
    assert [one.who for one in found] == [
        *("umpire", "umpire with insurer", "umpire with a host")[: 3 if label is TREES else 1],
        *(["umpire with another party"] if label is LINEAR else []),
    ]
    assert all(one.advantage is None for one in found)


def test_settings_of_other_versions() -> None:
    old = disclosed(record(settings={"trees": 9, "first_tree": "guest"}))
    assert (
        by_name(old)["table_from_sums"].amount
        == disclosed(record(settings={"trees": 9, "guest_trees": 1}))[1].amount
    )
    assert disclosed(record(settings={"encryption": "rot13"})) == []
