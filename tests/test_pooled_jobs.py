"""Jobs over rows: a server that reads nothing, parties with rows of their own, over real sockets."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from federation import toml
from glum import GeneralizedLinearRegressor
from pool import CLIENTS, COLUMNS, SERVER, Pool, job, patients, split
from pydantic import ValidationError
from room import Said

import vfl
from vfl.errors import ConfigError, PeerError, PeerLost, PeerStopped, Refused, VflError
from vfl.jobs import pooled
from vfl.jobs.journal import Journal
from vfl.jobs.offer import Offer, new_run
from vfl.jobs.pooled import lead
from vfl.jobs.record import load_record
from vfl.jobs.relativities import load_lines
from vfl.jobs.report import gather, write_report
from vfl.jobs.scoring import score
from vfl.learn.losses import loss_of
from vfl.models.halves import AnyGuestHalf, GuestHalf
from vfl.models.kinds import load_half
from vfl.net.peer import MemoryPeer
from vfl.party.config import Job, load_job, load_party
from vfl.party.config_errors import explain_errors
from vfl.protocols.pooled.adding import MaskingAdder

RULES = {
    "binned": ["age"],
    "bins": 4,
    "missing": "median",
    "base": {"ward": "(any other)"},
    "min_level_rows": 3,
    "step": {"dose": 2.0},
}
TREES = {"trees": 4, "depth": 3, "min_child_rows": 20}


@pytest.fixture(scope="session")
def pool_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pool-keys")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, pool_keys: Path) -> Pool:
    return Pool(tmp_path_factory.mktemp("pool"), pool_keys, split(patients()))


@pytest.fixture
def fresh(tmp_path: Path, pool_keys: Path) -> Pool:
    return Pool(tmp_path / "pool", pool_keys, split(patients(300)))


def halves(pool: Pool, model: str) -> list[AnyGuestHalf]:
    """What each party keeps; their models are the same but for the name of who has it."""
    found = [load_half(pool.store(name), model, GuestHalf) for name in pool.clients]
    assert [half.model.parties for half in found] == [(name,) for name in pool.clients]
    return [replace(half, model=replace(half.model, parties=("all",))) for half in found]


def text_of(said: Said) -> str:
    return "\n".join(said.lines)


@pytest.fixture(scope="module")
def trees(pool: Pool) -> str:
    return pool.train(job(settings=TREES)).model


@pytest.fixture(scope="module")
def logistic(pool: Pool) -> str:
    return pool.train(job("glm", "logistic")).model


def test_all_have_the_same_model_and_are_told_what_it_is_worth_to_each(pool: Pool, trees: str) -> None:
    first, *others = halves(pool, trees)
    assert all(other.model == first.model for other in others)
    assert len(first.model.trees) == 4 and first.model.splits  # type: ignore[union-attr]
    for name, half in zip(pool.clients, (first, *others), strict=True):
        assert set(half.metrics) == {f"{name} alone", "federation"}
        assert half.metrics["federation"]["auc"] > 0.6
        record, evaluation = load_record(pool.store(name), trees)
        assert evaluation is not None and len(evaluation.label) == record.rows["held out"] > 30
        assert record.parties == [name, *(other for other in CLIENTS if other != name)]
        figures = [f"{half.metrics[who]['auc']:.4f} {who}" for who in (f"{name} alone", "federation")]
        line = f"on {record.rows['held out']} rows held out: AUC {', '.join(figures)}"
        assert line in pool.said[name].lines
        assert record.agreement is not None
        assert set(record.agreement.signatures) == {*CLIENTS, SERVER}
    record, evaluation = load_record(pool.store(SERVER), trees)
    assert (record.role, record.parties, evaluation) == ("coordinator", list(CLIENTS), None)


def test_a_linear_model_is_glums_of_all_rows(pool: Pool, logistic: str) -> None:
    first, *others = halves(pool, logistic)
    assert all(other.model == first.model for other in others)
    parts = []
    for name in pool.clients:
        _, evaluation = load_record(pool.store(name), logistic)
        assert evaluation is not None
        parts.append(pool.tables[name].drop(index=pool.tables[name].index[evaluation.rows]))
    rows = pd.concat(parts)
    design = first.model.part.design  # type: ignore[union-attr]
    features = {
        "age": rows["age"].to_numpy(),
        "dose": rows["dose"].to_numpy(),
        "ward": rows["ward"].to_numpy(object),
    }
    matrix = design.matrix(features).dense()
    theirs = GeneralizedLinearRegressor(family="binomial", alpha=0, gradient_tol=1e-12)
    theirs.fit(matrix, rows["died"])
    ours = first.model.part.coefficients  # type: ignore[union-attr]
    assert np.abs(np.array(ours) - theirs.coef_).max() < 1e-8
    errors = first.model.errors  # type: ignore[union-attr]
    assert errors is not None and len(errors) == len(ours) and min(errors) > 0


@pytest.mark.filterwarnings("ignore:pooled. .* rows have a level of 'ward' that levels= does not name")
@pytest.mark.parametrize(
    ("made", "estimator"),
    [
        (job(settings=TREES | {"subsample": 0.7}, holdout=0), vfl.PooledBoost(**TREES, subsample=0.7)),
        (
            job(settings=TREES, monotone={"age": "decreasing", "dose": "increasing"}, holdout=0),
            vfl.PooledBoost(**TREES, monotone={"age": "decreasing", "dose": "increasing"}),
        ),
        (job("glm", "logistic", holdout=0), vfl.PooledLogisticRegression()),
        (job("glm", "logistic", RULES, holdout=0), vfl.PooledLogisticRegression(rules=RULES)),
    ],
)
def test_a_model_is_the_one_that_python_makes_of_all_rows(
    fresh: Pool, made: dict[str, Any], estimator: Any
) -> None:
    trained = halves(fresh, fresh.train(made).model)[0].model
    table = pd.concat(fresh.tables.values())
    owner = np.repeat([*fresh.tables], [len(rows) for rows in fresh.tables.values()])
    estimator.set_params(levels={"ward": COLUMNS["ward"]["levels"]})
    estimator.fit(table[[*COLUMNS]], table["died"], parties=owner)
    assert replace(estimator.model_, parties=trained.parties) == trained
    record, _ = load_record(fresh.store("north"), fresh.store("north").names("model")[0])
    assert record.monotone == (getattr(estimator, "monotone", None) or {})
    if "glm" in made:
        _, lines = load_lines(fresh.store("north"), record.model, "guest")
        of_dose = next(line for line in lines if line.column == "dose")
        rules = made["glm"].get("step", {})
        assert of_dose.step == rules.get("dose", pytest.approx(table["dose"].std(), rel=0.01))
        _, lines = load_lines(fresh.store("north"), record.model, "guest", {"dose": 5.0})
        assert next(line for line in lines if line.column == "dose").step == 5.0


@pytest.mark.parametrize("which", ["trees", "logistic"])
def test_each_scores_alone(
    pool: Pool, which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """No peer is there; new levels, and those of another party alone, are scored too."""
    model = request.getfixturevalue(which)
    new = patients(60, seed=9).drop(columns=["died", "visits", "years"])
    new.loc[0, "ward"] = "cellar"
    new.to_csv(tmp_path / "new.csv", index=False)
    scores = []
    for name in pool.clients:
        out = tmp_path / f"{name}.csv"
        work = score(pool.site(name), model, tmp_path / "new.csv", out, wait=0, show=pool.said[name])
        assert asyncio.run(work).rows == 60
        scores.append(pd.read_csv(out))
    assert all(one.equals(scores[0]) for one in scores)
    truth = patients(60, seed=9)["died"]
    assert scores[0]["probability"][truth == 1].mean() > scores[0]["probability"][truth == 0].mean()


def test_counts_with_an_exposure(tmp_path: Path, pool_keys: Path) -> None:
    pool = Pool(tmp_path / "pool", pool_keys, split(patients(600)), "visits", "years")
    model = pool.train(job("glm", "poisson", exposure=True)).model
    half = halves(pool, model)[1]
    assert half.exposure and half.metrics["federation"]["d2"] > 0
    figures = [f"{half.metrics[who]['d2']:.4f} {who}" for who in ("south alone", "federation")]
    assert any(line.endswith(f"held out: D² {', '.join(figures)}") for line in pool.said["south"].lines)
    assert loss_of(half.objective).link == "log"


@pytest.mark.parametrize("name", [*CLIENTS[:1], SERVER])
@pytest.mark.parametrize("which", ["trees", "logistic"])
def test_a_report(
    pool: Pool, which: str, name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model = request.getfixturevalue(which)
    party = load_party(pool.home(name) / f"{name}.toml")
    page = write_report(party, model, tmp_path / "report").page.read_text()
    role = "server" if name == SERVER else "a party with rows"
    assert f"Report of {name}, {role}" in page and "hosts&#39; columns" not in page
    worth = load_record(pool.store(name), model)[0].metrics
    assert (f"{name} alone" in worth) == (f"{name} alone" in page) == (name != SERVER)
    for values in worth.values():  # the model of all rows, and that of the party's own
        assert f"{values['auc']:.3f}" in page
    for text in (
        "that all parties know",
        "stay with their owners",
        "by the columns of",
        "alignment of ids",
    ):
        assert text not in page
    assert not re.search(r"<td[^>]*>(north|south|west)</td>|of the gain, by", page)  # columns are all's
    found = {one.name for one in gather(party, model).gave_away}
    assert (
        found >= {"pooled_totals"} if name != SERVER else found == {"blind_server", "server_and_party"}
    )


# --- What is refused. -----------------------------------------------------------------------------


def refused(pool: Pool, settings: Mapping[str, Any]) -> str:
    with pytest.raises(PeerStopped) as stopped:
        pool.train(settings)
    return str(stopped.value)


def change_table(pool: Pool, name: str, **columns: Any) -> None:
    table = pool.tables[name].assign(**columns)
    table.to_csv(pool.home(name) / "table.csv", index=False)


@pytest.mark.parametrize(
    ("client", "said"),
    [
        ({"age": "young"}, "column 'age' (a number by the job) has text"),
        ({"drop": "dose"}, "no column 'dose' (named by [columns] of the job)"),
        ({"died": -1}, "label 'died' must be 0 or 1"),
    ],
)
def test_a_table_that_is_not_as_the_job_says(fresh: Pool, client: dict[str, object], said: str) -> None:
    """All hear whose it is, and nothing starts; who wrote the job and the owner hear what it is."""
    table = fresh.tables["south"]
    table = table.drop(columns="dose") if "drop" in client else table.assign(**client)
    fresh.settings["south"]["data"]["categorical"] = ["ward"]
    table.to_csv(fresh.home("south") / "table.csv", index=False)
    if "age" in client:
        fresh.settings["south"]["data"]["categorical"] = ["ward", "age"]
    text = refused(fresh, job(settings=TREES))
    heard = {
        "age": "in its table column 'age' is not all numbers, as the job has it",
        "drop": "its table has no column 'dose' (named by [columns] of the job)",
        "died": "its label does not fit the job's objective (its log has the details)",
    }
    assert text == f"south stopped the job: {heard[next(iter(client))]}"
    assert said in text_of(fresh.said["south"])
    assert "south stopped it" in text_of(fresh.said["north"])
    assert not fresh.store("north").names("model")


@pytest.mark.parametrize(
    ("rules", "settings", "said"),
    [
        ({"min_parties": 4}, {}, "min_parties = 4"),
        ({"min_pooled_rows": 5000}, {}, "min_pooled_rows = 5000"),
        ({"purposes": ["billing"]}, {}, "purposes"),
        pytest.param({"models": ["glm"]}, {}, "models", marks=pytest.mark.slow),
        pytest.param({"max_trees": 3}, {}, "max_trees = 3", marks=pytest.mark.slow),
        (
            {},
            {"without": True},
            "without = true breaks rule without = false of [policy] (the default): leave it out of "
            "[rows], so that the job ends when a party is gone, or the party sets it to true",
        ),
    ],
)
def test_a_party_refuses_what_its_policy_does_not_allow(
    fresh: Pool, rules: dict[str, Any], settings: dict[str, Any], said: str
) -> None:
    fresh.settings["west"]["policy"] = {"min_pooled_rows": 100, **rules}
    assert said in refused(fresh, job(settings=TREES) | {"rows": {"min_parties": 3, **settings}})


def test_a_party_that_another_does_not_pin_is_named(fresh: Pool) -> None:
    del fresh.settings["north"]["peers"]["west"]
    assert "whose certificate this party does not pin as a client's: add [peers.west]" in refused(
        fresh, job(settings=TREES)
    )


def test_a_server_is_no_client_of_its_own(fresh: Pool) -> None:
    """It would make two parties three, and have the secret that hides totals from it."""
    settings = Job.model_validate(job(settings=TREES))
    names = ["north", "south", SERVER]
    offer = Offer("train", new_run(), names, [], model="m", job=settings.canonical)
    there, _ = MemoryPeer.pair(SERVER, "north")
    with pytest.raises(Refused, match=r"the job is with server, whose certificate this party does not"):
        pooled._check_job(fresh.site("north"), there, offer, settings)
    few = Job.model_validate(job(settings=TREES) | {"rows": {"min_parties": 4}})
    offer = Offer("train", new_run(), list(CLIENTS), [], model="m", job=few.canonical)
    with pytest.raises(PeerError, match="an Offer to fewer parties than its job needs"):
        pooled._check_job(fresh.site("north"), there, offer, few)


def test_a_server_offers_nothing_but_trainings_over_rows(fresh: Pool) -> None:
    columns = Job.model_validate(
        {"job": {"name": "a", "purpose": "b", "model": "glm", "family": "poisson"}}
    )
    with pytest.raises(ConfigError, match=r'jobs over rows alone: add partition = "rows"'):
        asyncio.run(lead(fresh.site(SERVER), columns, wait=1, show=Said()))
    many = Job.model_validate(job(settings=TREES) | {"rows": {"min_parties": 9}})
    with pytest.raises(ConfigError, match=r"min_parties = 9 .* has 3 parties"):
        asyncio.run(lead(fresh.site(SERVER), many, wait=1, show=Said()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"columns": None}, "needs a section [columns.NAME]"),
        ({"secureboost": {"encryption": "lattice"}}, "encryption is not for partition"),
        ({"job": {"group": "id", "holdout": 0}}, "[job] group splits no row with holdout = 0"),
        ({"job": {"group": "id", "time": "id"}}, "group and time must be two different columns"),
        ({"columns": {"ward": {"type": "category"}}}, "levels is missing"),
        ({"columns": {"ward": {"type": "number", "levels": ["a"]}}}, 'levels are for type = "category"'),
        (
            {"columns": {"ward": {"type": "category", "levels": ["a"], "monotone": "increasing"}}},
            'monotone is for type = "number"',
        ),
        (
            {"columns": {"age": {"type": "number", "monotone": "up"}}},
            '[columns.age] monotone must be "increasing" or "decreasing"',
        ),
        (
            {"columns": {"age": {"type": "number", "monotonic": "increasing"}}},
            "unknown key 'monotonic' in [columns.age]: did you mean 'monotone'?",
        ),
        ({"secureboost": {"monotone": {"age": "increasing"}}}, "unknown key 'monotone' in"),
        ({"job": {"partition": "columns"}}, "section [columns] is for partition"),
    ],
)
def test_a_job_file_that_makes_no_sense(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    made = job(settings=TREES)
    for section, keys in change.items():
        if keys is None:
            del made[section]
        else:
            made[section] = {**made[section], **keys} if section != "columns" else keys
    columns = made.pop("columns", {})
    flat = toml(made) + "".join(toml({f"columns.{name}": keys}) for name, keys in columns.items())
    (tmp_path / "job.toml").write_text(flat)
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_job(tmp_path / "job.toml")


@pytest.mark.parametrize(
    ("glm", "said"),
    [
        ({"binned": ["agee"]}, "[glm] binned has 'agee', which is no column of the job: did you mean"),
        ({"binned": ["ward"]}, "[glm] binned has 'ward', which is a category: binned is of numbers"),
        ({"step": {"ward": 2}}, "[glm] step has 'ward', which is a category: step is of numbers"),
        ({"step": {"age": 2}, "binned": ["age"]}, "[glm] step has 'age', which binned cuts into levels"),
        ({"base": {"age": "old"}}, "[glm] base has 'age', which is a number and not binned"),
        ({"base": {"ward": "attic"}}, "[glm] base of 'ward' is none of its levels in the job"),
        ({"bins": 1}, "[glm] bins must be a whole number from 2 to 255"),
        ({"max_labels": 0.5}, '[glm] max_labels is not for partition = "rows"'),
    ],
)
def test_rules_of_a_linear_model_that_do_not_fit_its_columns(glm: dict[str, Any], said: str) -> None:
    settings = job("glm", "logistic", glm)
    with pytest.raises(ValidationError) as raised:
        Job.model_validate(settings, strict=True)
    assert said in explain_errors(raised.value, Job)


def test_rules_that_are_of_another_kind_of_job_or_model() -> None:
    over_columns = {"name": "a", "purpose": "b", "model": "glm", "family": "poisson"}
    with pytest.raises(ValidationError, match=r"\[glm\] missing is each party's own, in \[glm\] of its"):
        Job.model_validate({"job": over_columns, "glm": {"missing": "level"}})
    with pytest.raises(
        ValidationError, match=r"\[columns.age\] monotone is for model = \"secureboost\""
    ):
        Job.model_validate(job("glm", "logistic", monotone={"age": "increasing"}))


# --- Parties and servers that die. ----------------------------------------------------------------


class Interrupted:
    """Has a party, or the server, lose its session at a message."""

    def __init__(self, pool: Pool, patch: pytest.MonkeyPatch) -> None:
        self.pool = pool
        self._patch = patch

    def at(self, name: str, total: int) -> None:
        """A client hangs up, once, at this total."""
        left, whole = {"calls": total}, MaskingAdder.total

        async def total_of(adder: MaskingAdder, values: Any, what: str) -> Any:
            if adder.name == name:
                left["calls"] -= 1
                if left["calls"] == 0:
                    adder._server.drop()  # type: ignore[attr-defined]
                    raise PeerLost("the connection to the server broke", passing=True)
            return await whole(adder, values, what)

        self._patch.setattr(MaskingAdder, "total", total_of)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, pool_keys: Path) -> Any:
    """The model of those whose tables are as `fresh`."""
    pool = Pool(tmp_path_factory.mktemp("uninterrupted"), pool_keys, split(patients(300)))
    return halves(pool, pool.train(job(settings=TREES)).model)[0].model


@pytest.mark.parametrize(
    "total", [1, *(pytest.param(later, marks=pytest.mark.slow) for later in (4, 9, 15))]
)
def test_a_job_goes_on_after_a_party_was_lost(
    fresh: Pool, uninterrupted: Any, total: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*CLIENTS, SERVER):
        fresh.settings[name]["party"]["reconnect"] = 20
    Interrupted(fresh, monkeypatch).at("south", total)
    again = fresh.train(job(settings=TREES))
    assert [half.model for half in halves(fresh, again.model)] == [uninterrupted] * 3


def test_a_job_ends_when_a_party_is_gone_and_all_hear_whose(
    fresh: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*CLIENTS, SERVER):
        fresh.settings[name]["party"]["reconnect"] = 0
    Interrupted(fresh, monkeypatch).at("south", 6)
    with pytest.raises(VflError, match="south"):
        fresh.train(job(settings=TREES))
    for name in ("north", "west"):
        assert "south" in text_of(fresh.said[name])
        assert not fresh.store(name).names("model")
    # The same command goes on where all were.
    again = fresh.train(job(settings=TREES))
    assert "going on with" in text_of(fresh.said[SERVER])
    first, *others = halves(fresh, again.model)
    assert all(half.model == first.model for half in others)


def test_others_go_on_without_a_party_if_the_job_says_so(
    fresh: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*CLIENTS, SERVER):
        fresh.settings[name]["party"]["reconnect"] = 0
        fresh.settings[name].setdefault("policy", {}).update(min_parties=2, without=True)
    del fresh.settings[SERVER]["policy"]
    Interrupted(fresh, monkeypatch).at("south", 7)
    settings = job(settings=TREES) | {"rows": {"min_parties": 2, "without": True}}
    led = fresh.train(settings)
    assert led.clients == ["north", "west"]
    assert "south is gone: the others go on without it" in text_of(fresh.said[SERVER])
    assert "south left the job" in text_of(fresh.said["north"])
    two = "there are two parties: each can take its own part off every total, and has the other's"
    assert two in text_of(fresh.said["north"]) and two not in text_of(fresh.said["south"])
    both = [load_half(fresh.store(name), led.model, GuestHalf).model for name in ("north", "west")]
    assert replace(both[0], parties=()) == replace(both[1], parties=())
    assert not fresh.store("south").names("model")


# --- What is on the wire. -------------------------------------------------------------------------


def test_nothing_private_is_on_the_wire(fresh: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No id and no number of a table, as text or as a float; nor any total, for the server."""
    seen: list[bytes] = []
    totals: list[bytes] = []
    watch, whole = Journal.watch, pooled.MaskingAdder.total

    def watched(journal: Journal, peer: Any) -> Any:
        def observe(direction: str, kind: str, payload: bytes) -> None:
            seen.append(payload)

        peer.observers.append(observe)
        return watch(journal, peer)

    async def total(adder: Any, values: Any, what: str) -> Any:
        found = await whole(adder, values, what)
        totals.extend(np.ascontiguousarray(one).tobytes() for one in (values, found))
        return found

    monkeypatch.setattr(Journal, "watch", watched)
    monkeypatch.setattr(pooled.MaskingAdder, "total", total)
    fresh.train(job(settings=TREES))
    sent = b"".join(seen)
    assert len(sent) > 100_000
    for table in fresh.tables.values():
        for name in ("id", "age", "dose"):
            for value in table[name]:
                texts = [str(value).encode()]
                texts += [] if name == "id" else [np.float64(value).tobytes()]
                assert not any(text in sent for text in texts if text != b"nan")
    long = [one for one in totals if len(one) >= 64 and any(one)]
    assert len(long) > 20
    for one in long:
        middle = len(one) // 16 * 8
        assert one[:64] not in sent and one[middle : middle + 64] not in sent


# --- Parties that differ. -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory, pool_keys: Path) -> Pool:
    """North lists its columns in another way and has rows to leave out, south has one class alone, west
    never measured one of the columns; none says which columns are categories."""
    tables = split(patients(600))
    north = tables["north"].iloc[:, ::-1].reset_index(drop=True)
    north.loc[3, "id"] = None
    north = pd.concat([north, north.iloc[[5]].assign(age=99.0)])
    tables = {
        "north": north.assign(bed="7"),
        "south": tables["south"].assign(died=0),
        "west": tables["west"].assign(dose=np.nan),
    }
    pool = Pool(tmp_path_factory.mktemp("uneven"), pool_keys, tables)
    for name in CLIENTS:
        del pool.settings[name]["data"]["categorical"]
    pool.settings["north"]["data"] |= {"empty": "drop", "duplicates": "first"}
    return pool


@pytest.mark.parametrize(("model", "label"), [("secureboost", "binary"), ("glm", "logistic")])
def test_parties_may_lack_a_class_or_a_column_and_leave_rows_out(
    uneven: Pool, model: str, label: str, tmp_path: Path
) -> None:
    settings = TREES if model == "secureboost" else {}
    trained = uneven.train(job(model, label, settings=settings)).model
    first, *others = halves(uneven, trained)
    assert all(other.model == first.model for other in others)
    record, evaluation = load_record(uneven.store("north"), trained)
    assert evaluation is not None
    many = len(uneven.tables["north"])
    assert sum(record.rows.values()) == many - 2
    assert not {3, many - 1} & set(evaluation.rows.tolist())
    assert (evaluation.label == uneven.tables["north"]["died"].to_numpy()[evaluation.rows]).all()
    assert "only one class" in text_of(uneven.said["south"])
    assert "rows held out: AUC" in text_of(uneven.said["north"])
    rows = patients(60, seed=9).drop(columns=["died", "visits", "years"])
    rows.to_csv(tmp_path / "new.csv", index=False)
    scores = []
    for name in ("north", "west"):
        out = tmp_path / f"{name}.csv"
        work = score(uneven.site(name), trained, tmp_path / "new.csv", out, wait=0, show=Said())
        assert asyncio.run(work).rows == 60
        scores.append(pd.read_csv(out))
    assert scores[0].equals(scores[1]) and scores[0]["probability"].nunique() > 8


def test_a_report_draws_the_columns_of_a_model_over_rows(uneven: Pool, tmp_path: Path) -> None:
    """Though its party file does not say which of them are categories."""
    models = uneven.store("north").names("model") or [uneven.train(job(settings=TREES)).model]
    model = models[-1]
    party = load_party(uneven.home("north") / "north.toml")
    page = write_report(party, model, tmp_path / "report").page.read_text()
    assert "The columns are not shown" not in page


@pytest.mark.slow
def test_a_server_that_dies_when_all_have_the_model_comes_back_to_its_end(
    fresh: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model stays the one that all have kept."""
    keep = pooled._Leading._keep

    def killed(*arguments: Any) -> Any:
        raise PeerLost("the server is killed")

    for name in (*CLIENTS, SERVER):
        fresh.settings[name]["party"]["reconnect"] = 0
    monkeypatch.setattr(pooled._Leading, "_keep", killed)
    with pytest.raises(PeerLost):
        fresh.train(job(settings=TREES))
    (model,) = fresh.store("north").names("model")
    before = [half.model for half in halves(fresh, model)]
    monkeypatch.setattr(pooled._Leading, "_keep", keep)
    again = fresh.train(job(settings=TREES))
    assert again.model == model
    assert [half.model for half in halves(fresh, model)] == before
    assert all(not fresh.store(name).names("checkpoint") for name in (*CLIENTS, SERVER))
