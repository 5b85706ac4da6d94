"""Screenings, tables, figures of worth, searches, linear models and models over rows draw from the run's
random numbers, and nothing from the operating system in their place."""

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from drawn import nothing_from_the_system
from federation import GLM_JOB, JOB, WIDE, Federation, make_tables
from paillier_key import one_key
from pool import CLIENTS, Pool, job, patients, split
from room import HOSTS, Room

from vfl.jobs import oneway, screening, tuning, worth
from vfl.jobs.oneway import TableRequest
from vfl.jobs.tuned_folder import TunedFolder
from vfl.party.config import Job, load_party

RULES: dict[str, Any] = {
    **WIDE,
    "encryptions": ["paillier", "lattice"],
    "inference": True,
    "oneway": True,
    "screen": True,
    "show_names": True,
    "worth": True,
    "tune_trials": 4,
    "min_cell_rows": 2,
    "oneway_pairs": True,
    "told_correlations": 99,
    "min_correlated_rows": 100,
    "correlations_between_hosts": True,
}
LINEAR = {**GLM_JOB, "glm": {"alpha": 0.01, "max_iterations": 1}}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Room]:
    tables = make_tables(400)
    federation = Federation(tmp_path_factory.mktemp("drawn"), keys, guest_listens=True, tables=tables)
    for name in HOSTS:
        federation.parties[name].settings["policy"] = RULES
        federation.parties[name].settings["glm"] = {"bins": 4}
    made = Room(federation)
    with pytest.MonkeyPatch.context() as patch:
        made.patch(patch)
        for module in (oneway, screening, tuning, worth):
            patch.setattr(module, "hosts_of", made.hosts_of)
        made.align()
        yield made


def drawn(work: Coroutine[Any, Any, Any]) -> int:
    """How many parties have asked for a run's random numbers."""
    with one_key(), nothing_from_the_system() as begun:
        asyncio.run(work)
    return len(begun)


@pytest.mark.parametrize(
    "glm",
    [
        {"alpha": 0.01, "inference": True},
        {"alphas": [0.1, 0.01], "folds": 2, "max_iterations": 2, "encryption": "lattice"},
    ],
    ids=["inference", "penalties"],
)
def test_a_linear_model(room: Room, glm: dict[str, Any]) -> None:
    with nothing_from_the_system() as begun:
        room.train({**GLM_JOB, "glm": glm})
    assert len(begun) == 3


def test_a_screening(room: Room) -> None:
    made = Job.model_validate(LINEAR | {"screen": {"vif": True, "correlations": True}})
    work = screening.screen(room.site("insurer"), made, wait=1, show=room.said["insurer"])
    assert drawn(work) == 3


@pytest.mark.parametrize(
    ("by", "encryption", "parties"),
    [
        (["registry:brand"], "lattice", 2),
        (["registry:brand", "insurer:density"], "paillier", 2),
        (["registry:brand", "bureau:driver_age"], None, 3),
    ],
)
def test_a_table(room: Room, by: list[str], encryption: Any, parties: int) -> None:
    request = TableRequest.of(by, encryption=encryption)
    work = oneway.oneway(room.site("insurer"), request, wait=1, show=room.said["insurer"])
    assert drawn(work) == parties


def test_figures_of_worth(room: Room, tmp_path: Path) -> None:
    made, show = Job.model_validate(LINEAR), room.said["insurer"]
    work = worth.worth(room.site("insurer"), made, out=tmp_path / "worth", wait=1, show=show)
    assert drawn(work) == 3


@pytest.mark.parametrize("of", [JOB, LINEAR], ids=["trees", "linear"])
def test_a_search(room: Room, tmp_path: Path, of: dict[str, Any]) -> None:
    made = Job.model_validate(of | {"tune": {"trials": 2}})
    site = room.site("insurer")
    folder = TunedFolder.of(load_party(room.federation.guest.file), made, tmp_path / "t", force=False)
    work = tuning.tune(site, made, folder, wait=1, show=room.said["insurer"])
    assert drawn(work) == 3


def test_a_model_over_rows(tmp_path: Path, keys: Path) -> None:
    pool = Pool(tmp_path / "pool", keys, split(patients(300)))
    with nothing_from_the_system() as begun:
        pool.train(job("glm", "logistic", {"max_iterations": 2}))
    assert {name for name, _ in begun} == {*CLIENTS}
