"""The parts of jobs that need no other party: documents kept, names, what is said and when."""

import asyncio
import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from federation import Federation
from silent import Silent

from vfl.errors import (
    ConfigError,
    DataError,
    IdentityError,
    ModelError,
    PeerError,
    PeerLost,
    PeerStopped,
    Refused,
)
from vfl.jobs import host
from vfl.jobs.admission import fresh_name
from vfl.jobs.alignments import Alignment, ids_digest, load_alignment, save_alignment
from vfl.jobs.connect import Site
from vfl.jobs.evaluation import split_rows
from vfl.jobs.names import resolve_model
from vfl.jobs.offer import Accept, Offer, bind, new_run, stamp
from vfl.jobs.relativities import lines_of, load_lines, save_relativities
from vfl.jobs.scored_columns import predictions
from vfl.jobs.scoring import section_as_trained
from vfl.jobs.show import Once
from vfl.learn.design import Covariate, Design, Factor
from vfl.learn.losses import LogisticLoss, PoissonLoss, TweedieLoss
from vfl.learn.params import BoostParams, GlmParams
from vfl.learn.splits import Split
from vfl.learn.tree import Branch, Tree
from vfl.models.halves import GuestHalf, HostHalf
from vfl.models.kind import PartyColumns
from vfl.models.kinds import load_half, save_half
from vfl.models.linear import Linear
from vfl.models.trees import Trees
from vfl.net.open_sessions import A_PEER
from vfl.net.peer import MemoryPeer, Stop, stop_all
from vfl.party.config import Job, load_party
from vfl.party.sections import DataSection
from vfl.party.store import Store
from vfl.party.table import Table
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.fit import IterationDone
from vfl.protocols.linear.scoring import GuestGlm, HostGlm, LinearPart
from vfl.protocols.trees.grower import TreeDone
from vfl.protocols.trees.model import GuestModel, HostModel

SPLIT = Split("density", 0.1 + 0.2, None, False, True)
TREE = Tree(
    {0: Branch(0, 0, "density", 1.5), 1: Branch(1, 4, "power", 0.5)}, {2: 0.25, 3: -0.1, 4: 1e-17}
)
GUEST_HALF = GuestHalf(
    "claims-1",
    {"job": {"name": "claims"}},
    ("density", "area"),
    ("nfkc", "trim"),
    {"insurer": "aa", "registry": "bb"},
    GuestModel(("insurer", "registry"), -0.3, (TREE,), (SPLIT,)),
    {"federation": {"auc": 0.75}},
)
HOST_HALF = HostHalf(
    "claims-1",
    {},
    ("power",),
    ("trim",),
    "aa",
    "bb",
    HostModel((SPLIT, Split("f", None, "x", True, False))),
)


DESIGN = Design(
    (Factor("area", "a", ("a", "b", "(missing)"), (30, 20, 5), ("c",), None),),
    (Covariate("density", 0.1 + 0.2, 1 / 3, 0.5, True, 50, 5),),
)
PART = LinearPart(DESIGN, (0.5, -0.25, 1e-17, 0.1 + 0.2))
GUEST_GLM = GuestHalf(
    "linear-1",
    {"job": {"name": "linear", "family": "poisson"}},
    ("density", "area"),
    ("trim",),
    {"insurer": "aa", "registry": "bb"},
    GuestGlm(("insurer", "registry"), -1.5, PART, 9, True, 0.5, 0.1, 1e-8),
    {},
    "poisson",
    exposure=True,
)
HOST_GLM = HostHalf(
    "linear-1",
    {"job": {"family": "poisson"}},
    ("density", "area"),
    ("trim",),
    "aa",
    "bb",
    HostGlm(PART, False),
)


def with_tree(tree: Tree) -> GuestHalf:
    return dataclasses.replace(GUEST_HALF, model=dataclasses.replace(GUEST_HALF.model, trees=(tree,)))


@pytest.mark.parametrize("half", [GUEST_HALF, HOST_HALF, GUEST_GLM, HOST_GLM])
def test_a_half_comes_back_bit_for_bit(tmp_path: Path, half: GuestHalf | HostHalf) -> None:
    save_half(Store(tmp_path), half)
    assert load_half(Store(tmp_path), half.name, type(half)) == half


def test_a_half_is_not_taken_for_the_other_partys(tmp_path: Path) -> None:
    save_half(Store(tmp_path), GUEST_HALF)
    with pytest.raises(
        ModelError, match=r"model claims-1 is not what this command needs.*other party's"
    ):
        load_half(Store(tmp_path), "claims-1", HostHalf)
    save_half(Store(tmp_path), HOST_HALF)
    with pytest.raises(ModelError, match="is not what this command needs"):
        load_half(Store(tmp_path), "claims-1", GuestHalf)


@pytest.mark.parametrize(
    "tree",
    [
        Tree({0: Branch(0, 0, "density", 1.0)}, {1: 0.0}),  # a child is missing
        Tree({0: Branch(0, 0, "density", 1.0)}, {1: 0.0, 2: 0.0, 7: 0.0}),  # one belongs to nobody
        Tree({0: Branch(0, 0, "density", 1.0)}, {0: 0.0, 1: 0.0, 2: 0.0}),  # a leaf that branches
        Tree({0: Branch(2, 0, "x", 1.0)}, {1: 0.0, 2: 0.0}),  # no such party
        Tree({0: Branch(0, 1, "x", 1.0)}, {1: 0.0, 2: 0.0}),  # no such split of the guest's
        Tree({0: Branch(1, -1, "x", 1.0)}, {1: 0.0, 2: 0.0}),
        Tree({}, {}),
    ],
)
def test_a_tree_that_no_training_could_have_made_is_refused(tmp_path: Path, tree: Tree) -> None:
    save_half(Store(tmp_path), with_tree(tree))
    with pytest.raises(ModelError, match="model claims-1 is damaged: a tree is not whole"):
        load_half(Store(tmp_path), "claims-1", GuestHalf)


def test_an_old_half_is_one_of_a_0_1_label(tmp_path: Path) -> None:
    store = Store(tmp_path)
    save_half(store, GUEST_HALF)
    body = store.read("model", "claims-1")
    for later in ("kind", "objective", "tweedie_power", "exposure", "offset"):
        del body[later]
    store.write("model", "claims-1", body)
    half = load_half(store, "claims-1", GuestHalf)
    assert half == GUEST_HALF
    assert half.loss == LogisticLoss()
    assert not half.exposure and not half.offset


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("objective", "logistic", "is damaged: no such objective of a model of kind secureboost"),
        ("objective", "secret", "is not what this command needs"),
        ("tweedie_power", 2.0, "is damaged: no such tweedie_power"),
        ("exposure", "years", "is not what this command needs"),
    ],
)
def test_a_half_with_another_objective_than_there_are_is_refused(
    tmp_path: Path, key: str, value: object, said: str
) -> None:
    store = Store(tmp_path)
    save_half(store, GUEST_HALF)
    store.write("model", "claims-1", {**store.read("model", "claims-1"), key: value})
    with pytest.raises(ModelError, match=said):
        load_half(store, "claims-1", GuestHalf)


def test_an_old_half_of_a_host_is_one_of_trees(tmp_path: Path) -> None:
    store = Store(tmp_path)
    save_half(store, HOST_HALF)
    body = store.read("model", "claims-1")
    del body["kind"]
    store.write("model", "claims-1", body)
    assert load_half(store, "claims-1", HostHalf) == HOST_HALF


def test_a_half_of_another_kind_than_it_says_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for half, kind, said in (
        (GUEST_GLM, "secureboost", "is not what this command needs"),
        (HOST_HALF, "glm", "is not what this command needs"),
        (GUEST_GLM, "net", "is of a kind that this version of vfl does not know: update vfl"),
    ):
        save_half(store, half)
        store.write("model", half.name, {**store.read("model", half.name), "kind": kind})
        with pytest.raises(ModelError, match=said):
            load_half(store, half.name, type(half))
    save_half(store, HOST_GLM)
    body = store.read("model", "linear-1")
    body["model"]["part"]["coefficients"].pop()
    store.write("model", "linear-1", body)
    with pytest.raises(ModelError, match="another number of coefficients than the design has"):
        load_half(store, "linear-1", HostHalf)
    save_half(store, dataclasses.replace(GUEST_GLM, objective="squared"))
    with pytest.raises(ModelError, match="is damaged: no such objective of a model of kind glm"):
        load_half(store, "linear-1", GuestHalf)


def test_relativities_for_their_owner(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for half in (GUEST_GLM, HOST_GLM):
        save_half(store, half)
        path = save_relativities(store, half)
        assert path == tmp_path / "models" / "linear-1.csv"
        assert path.stat().st_mode & 0o777 == 0o600
        text = path.read_text().splitlines()
        assert text[0] == (
            "column,level,coefficient,per_unit,relativity,rows,step,per_step,relativity_per_step"
        )
        guests = isinstance(half, GuestHalf)
        if guests:
            assert text[1] == f"(intercept),,-1.5,,{math.exp(-1.5)!r},,,,"
        rest = text[1 + guests :]
        assert [line.split(",")[0] for line in rest] == ["area"] * 3 + ["density"] * 2
        assert rest[0] == "area,a,0.0,,1.0,30,,,"
        half, lines = load_lines(store, "linear-1", "guest" if guests else "host")
        assert half.name == "linear-1"
        assert len(lines) == len(text) - 1
    assert store.names("model") == ["linear-1"]
    straight = dataclasses.replace(GUEST_GLM, job={"job": {"family": "gaussian"}}, objective="gaussian")
    assert {line.relativity for line in lines_of(straight)} == {None}
    assert {line.relativity_per_step for line in lines_of(straight)} == {None}
    save_half(store, GUEST_HALF)
    with pytest.raises(ModelError, match="claims-1 is of trees: only linear models have relativities"):
        load_lines(store, "claims-1", "guest")


def test_relativities_of_a_model_over_rows_have_standard_errors(tmp_path: Path) -> None:
    store, count = Store(tmp_path), len(GUEST_GLM.model.part.coefficients)
    errors = tuple(0.25 * (k + 1) for k in range(count))
    model = dataclasses.replace(GUEST_GLM.model, errors=errors, intercept_error=0.125)
    half = dataclasses.replace(GUEST_GLM, model=model)
    save_half(store, half)
    head, constant, *rest = save_relativities(store, half).read_text().splitlines()
    assert head.endswith(",relativity_per_step,standard_error") and constant.endswith(",0.125")
    known = [line.split(",")[-1] for line in rest]
    assert sorted(map(float, filter(None, known))) == list(errors)
    assert "" in known  # the base level has no coefficient
    _, lines = load_lines(store, "linear-1", "guest")
    assert [line.standard_error for line in lines[1:]] == [float(x) if x else None for x in known]


def test_a_step_of_a_numeric_column(tmp_path: Path) -> None:
    """By default a standard deviation, whose coefficient is the model's own; else the owner's units."""
    (slope,) = [line for line in lines_of(HOST_GLM) if (line.column, line.level) == ("density", "")]
    assert (slope.step, slope.per_step, slope.is_deviation) == (1 / 3, slope.coefficient, True)
    assert slope.relativity_per_step == pytest.approx(math.exp(slope.coefficient))
    assert slope.place == "per 0.3333 (SD)"
    (slope,) = [line for line in lines_of(HOST_GLM, {"density": 2.0}) if line.step is not None]
    assert (slope.column, slope.level, slope.place) == ("density", "", "per 2")
    assert slope.per_step == pytest.approx(6 * slope.coefficient)
    assert slope.relativity_per_step == pytest.approx(math.exp(6 * slope.coefficient))
    assert slope.relativity == pytest.approx(math.exp(3 * slope.coefficient))  # of one unit, as ever
    assert (slope.factor, slope.effect) == (slope.relativity_per_step, slope.per_step)
    (far,) = [line for line in lines_of(HOST_GLM, {"density": 1e9}) if line.step is not None]
    assert far.relativity_per_step == math.inf
    save_half(Store(tmp_path), HOST_GLM)
    kept = save_relativities(Store(tmp_path), HOST_GLM, {"density": 2.0}).read_text().splitlines()
    (line,) = [line for line in kept if line.startswith("density,,")]
    assert line.split(",")[-3:] == [repr(x) for x in (2.0, slope.per_step, slope.relativity_per_step)]


def test_levels_stand_in_their_own_order() -> None:
    names = ("10", "2", "(missing)", "-1.5", "none")
    factor = Factor("doors", "2", names, (5, 4, 3, 2, 1), (), None)
    part = LinearPart(Design((factor,), ()), (0.1, 0.2, 0.3, 0.4))
    half = dataclasses.replace(HOST_GLM, model=HostGlm(part, True))
    assert [line.level for line in lines_of(half)] == ["-1.5", "2", "10", "none", "(missing)"]
    assert [line.coefficient for line in lines_of(half)] == [0.3, 0.0, 0.1, 0.4, 0.2]


def half_of(objective: str, **with_: bool) -> GuestHalf:
    half = dataclasses.replace(GUEST_HALF, objective=objective, tweedie_power=1.25, **with_)
    assert half.loss == {"tweedie": TweedieLoss(1.25), "poisson": PoissonLoss()}.get(
        objective, half.loss
    )
    return half


def table(rows: int = 3, **arrays: np.ndarray | None) -> Table:
    given = {"label": None, "weight": None, **arrays}
    return Table(Path("new.csv"), [], {}, rows=rows, warnings=[], **given)


def test_what_a_score_file_holds() -> None:
    score, exposure = np.array([0.0, -1.0, 1.0]), np.array([0.5, 2.0, 1.0])
    found = predictions(half_of("binary"), score, table())
    assert list(found) == ["probability"]
    assert found["probability"] == pytest.approx(1 / (1 + np.exp(-score)))
    for objective, predicted in (("tweedie", np.exp(score)), ("squared", score)):
        found = predictions(half_of(objective), score, table())
        assert list(found) == ["prediction"]
        assert found["prediction"] == pytest.approx(predicted)
        found = predictions(half_of(objective, offset=True), score, table(offset=np.full(3, -score)))
        assert found["prediction"] == pytest.approx(np.full(3, 1.0 if objective == "tweedie" else 0.0))
    frequency = half_of("poisson", exposure=True)
    assert list(predictions(frequency, score, table())) == ["prediction"]
    whole = table(exposure=exposure, offset=0.25 + np.log(exposure))
    found = predictions(frequency, score, whole)
    assert list(found) == ["prediction", "expected"]
    assert found["prediction"] == pytest.approx(np.exp(score + 0.25))
    assert found["expected"] == pytest.approx(np.exp(score + 0.25) * exposure)


def test_a_batch_is_read_as_the_model_was_trained() -> None:
    data = DataSection(path=Path("t.csv"), id=("plate",), exposure="years", offset="rate")
    for exposure, offset in ((False, False), (True, False), (True, True)):
        found = section_as_trained(data, half_of("poisson", exposure=exposure, offset=offset))
        assert (found.exposure, found.offset) == (
            "years" if exposure else None,
            "rate" if offset else None,
        )
    without = data.model_copy(update={"exposure": None, "offset": None})
    assert section_as_trained(without, half_of("poisson", exposure=True)).exposure is None
    with pytest.raises(ConfigError, match=r"^\[data\] offset is missing .* was trained with one$"):
        section_as_trained(without, half_of("poisson", offset=True))


def made_job(
    model: str = "secureboost", holdout: float = 0.4, objective: str = "poisson", **settings: object
) -> Job:
    kind = {"objective": objective} if model == "secureboost" else {"family": "poisson"}
    section = {"name": "a", "purpose": "a test", "model": model, "holdout": holdout, **kind}
    return Job.model_validate({"job": section, model: settings})


def test_rows_are_split_with_what_belongs_to_them() -> None:
    rows = np.random.default_rng(0).permutation(200)[:150]
    label, offset = np.arange(200.0), np.arange(200.0) / 7
    whole = table(200, label=label, weight=label + 1, offset=offset)
    made, held_out = split_rows(whole, rows, made_job(validation_share=0.5))
    assert np.array_equal(made.label, label[rows])
    assert np.array_equal(made.weight, label[rows] + 1)
    assert made.offset is not None and np.array_equal(made.offset, offset[rows])
    assert made.loss == PoissonLoss()
    assert np.array_equal(made.train.astype(int) + made.validation + held_out, np.ones(150))
    assert all(25 < mask.sum() < 80 for mask in (made.train, made.validation, held_out))
    made, _ = split_rows(table(200, label=label), rows, made_job())
    assert made.offset is None and (made.weight == 1).all()


def test_rows_that_cannot_be_learnt_from_or_evaluated_on() -> None:
    rows = np.arange(100)
    one_class = np.ones(100)
    split_rows(table(100, label=one_class), rows, made_job())  # of counts all may be 1
    for label, objective, said in (
        (one_class, "binary", r"new.csv: in the \d+ aligned rows to train on, the label has only"),
        (one_class * 0, "poisson", "to train on, the label is 0 in every row: a model needs"),
    ):
        with pytest.raises(DataError, match=said) as raised:
            split_rows(table(100, label=label), rows, made_job(objective=objective))
        assert raised.value.for_peer == "too few aligned rows, or all with the same label"
    draw = np.random.default_rng([0, 1]).random(100)
    with pytest.raises(DataError, match="to evaluate on, the label is 0 in every row"):
        split_rows(table(100, label=(draw > 0.4) * 1.0), rows, made_job())
    with pytest.raises(DataError, match="no aligned row is left to train on: lower holdout"):
        split_rows(table(100, label=one_class), rows[:1], made_job(holdout=0.999))


def test_reports_of_trees_name_the_loss() -> None:
    every = np.ones(3, bool)
    columns = PartyColumns("insurer", "t.csv", {"a": np.ones(3)})
    for loss, said in (
        (LogisticLoss(), "training, log loss 0.2169, validation 0.3000"),
        (PoissonLoss(), "training, half deviance 0.2169, validation 0.3000"),
    ):
        rows = Training(np.ones(3), np.ones(3), every, ~every, loss)
        role = Trees(BoostParams.model_validate({})).guest(columns, rows)
        report = role.report(TreeDone(3, 30, 0.21694, 0.3, {"encrypt": 1.5}), [])
        assert (report.what, report.step, report.of) == (said, 3, 30)
        assert report.seconds == {"encrypt": 1.5}


def test_reports_of_a_fit_say_how_far_it_is() -> None:
    every = np.ones(60, bool)
    rows = Training(np.ones(60), np.ones(60), every, ~every, PoissonLoss())
    kind = Linear(GlmParams.model_validate({"tolerance": 1e-6}), "poisson")
    role = kind.guest(PartyColumns("insurer", "t.csv", {"a": np.arange(60.0)}), rows)
    curve: list[Mapping[str, float | None]] = []
    reports = []
    for iteration, gradient in enumerate([1e-2, 1e-3, 1e-4, 2e-2, 1e-6]):
        reports.append(role.report(IterationDone(iteration, 5, 0.5, 0.25, gradient, {}), curve))
        curve.append(reports[-1].losses)
    # A decade an iteration: four in all; None where the gradient is no smaller than at first.
    assert [report.of for report in reports] == [None, 4, 4, None, 5]
    assert reports[1].what == "fitting, deviance 0.5000, D² 0.2500, gradient 1.0e-03"
    part = LinearPart(Design((), ()), ())
    done, cut = (
        role.ending(GuestGlm(("insurer",), 0.0, part, 7, converged, 0.5, 0.25, 3e-7))
        for converged in (True, False)
    )
    assert done == "converged after 7 iterations: deviance 0.5000, D² 0.2500, gradient 3.0e-07"
    assert cut is not None and cut.startswith("note: not converged after 7 iterations: ")
    assert "the model is kept as it is: raise max_iterations or alpha in [glm]" in cut
    told = GuestGlm(("insurer", "registry"), 0.0, part, 7, True, 0.5, 0.25, 3e-7, 25)
    ended = role.ending(told)
    assert ended is not None and ended.endswith(", 25 of 60 labels readable by a host that cheats")


def test_an_alignment_comes_back_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = np.array([3, 0, 2], np.int64)
    alignment = Alignment("a1", "aa", {"insurer": "aa"}, ("trim",), ids_digest([b"x", b"y"]), rows)
    save_alignment(store, alignment)
    back = load_alignment(store, "a1")
    assert dataclasses.replace(back, rows=rows) == alignment
    assert (back.rows == rows).all()
    (array,) = (tmp_path / "alignments").glob("*.npy")
    array.write_bytes(array.read_bytes()[:-1] + b"\1")
    with pytest.raises(ModelError, match="is damaged: it is not the array that was written"):
        load_alignment(store, "a1")


def test_the_digest_of_ids_tells_their_order_and_their_ends() -> None:
    assert len({ids_digest(ids) for ids in ([b"ab", b"c"], [b"a", b"bc"], [b"c", b"ab"], [])}) == 4


def test_a_model_is_found_by_its_jobs_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    names = [
        "claims-20270101-000000-abcdef",
        "claims-20270102-000000-000000",
        "other-20280101-000000-ffffff",
    ]
    for name in names:
        save_half(store, dataclasses.replace(GUEST_HALF, name=name))
    assert resolve_model(store, "claims") == names[1]  # the newest
    # Of two that began in one second the one that was written last, whatever the letters of their names.
    twins = [f"twin-20270101-120000-{letters}" for letters in ("ffffff", "000000")]
    for second, name in enumerate(twins):
        store.write("model", name, {})
        os.utime(store.path("model", name), (second, second))
    assert resolve_model(store, "twin") == twins[1]
    assert resolve_model(store, names[0]) == names[0]
    assert resolve_model(store, "./claims.json") == "./claims.json"
    assert resolve_model(store, "claim") == "claim"  # unknown: the error names what there is


def test_jobs_whose_long_names_begin_alike_are_told_apart(tmp_path: Path) -> None:
    store, begin = Store(tmp_path), "a" * 40
    jobs = {f"{begin}-20270101-000000-aaaaaa": begin + "-one", f"{begin}-20270102-000000-aaaaaa": begin}
    jobs |= {
        f"{begin}-20270103-000000-aaaaaa": begin + "-two",
        "x.json-20270103-000000-aaaaaa": "x.json",
    }
    for name, job in jobs.items():
        half = dataclasses.replace(GUEST_HALF, name=name, job={"job": {"name": job}})
        save_half(store, half)
    for name, job in jobs.items():
        assert resolve_model(store, job) == name
    assert resolve_model(store, begin + "-three") == begin + "-three"  # and none of another job
    assert resolve_model(store, "y.json") == "y.json"  # a file


def test_a_host_overwrites_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert fresh_name(store, "model", "claims-1") == "claims-1"
    save_half(store, HOST_HALF)
    for name in ("claims-1", None):
        with pytest.raises(Refused, match="the model that the guest names exists already"):
            fresh_name(store, "model", name)


def test_runs_have_names_of_their_own() -> None:
    run = new_run()
    assert len(run) == 32 and run != new_run()
    assert stamp(run).endswith(run[:3].hex())


def test_the_same_line_is_said_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = [100.0], []
    monkeypatch.setattr("vfl.jobs.show.time.monotonic", lambda: now[0])
    once = Once(said.append, seconds=60)
    for at, line in [(100, "a"), (101, "a"), (102, "b"), (159, "a"), (161, "a"), (161.5, "b")]:
        now[0] = at
        once(line)
    assert said == ["a", "b", "a"]


def test_a_stop_is_understood_by_a_peer_that_is_bound_already() -> None:
    """A host is bound once it has accepted; the guest perhaps fails before it reads that."""
    offer = Offer("align", new_run(), ["registry"], [])

    async def run() -> None:
        insurer, registry = MemoryPeer.pair("insurer", "registry")
        bind(registry, offer)
        await insurer.send(Stop("no disk"))
        with pytest.raises(PeerStopped, match=r"^insurer stopped the job: no disk$"):
            await registry.recv(Accept)
        insurer, registry = MemoryPeer.pair("insurer", "registry")
        bind(registry, offer)
        await insurer.send(Accept())
        with pytest.raises(PeerError, match="a frame of another session"):
            await registry.recv(Accept)

    asyncio.run(run())


class Cut(MemoryPeer):
    """The peer has said something and left: nothing can be sent any more."""

    said: bytes = b""

    async def _put(self, frame: bytes) -> None:
        raise PeerLost(f"{self.name} closed the connection")

    def _unread(self) -> tuple[bytes, ...]:
        return (bytes(24) + b"\xff", self.said)


def test_a_send_that_fails_tells_what_the_peer_said_before_it_left() -> None:
    async def run() -> None:
        words: list[bytes] = []
        speaking, _ = MemoryPeer.pair("insurer", "registry")
        speaking.observers.append(lambda direction, kind, payload: words.append(payload))
        await speaking.send(Stop("a rule"))
        cut = Cut("registry", asyncio.Queue())
        with pytest.raises(PeerLost, match="registry closed the connection"):
            await cut.send(Accept())
        cut.said = bytes(24) + words[0]
        with pytest.raises(PeerStopped, match="registry stopped the job: a rule") as caught:
            await cut.send(Accept())
        assert caught.value.for_peer == "registry stopped it"
        await stop_all([cut], caught.value)  # it is gone: nothing is raised

    asyncio.run(run())


def test_an_office_opens_with_its_own_keys_only(tmp_path: Path, keys: Path) -> None:
    party = Federation(tmp_path / "f", keys, guest_listens=True).guest
    party.write()
    site = Site.open(load_party(party.file))
    assert set(site.fingerprints) == {"insurer", "registry", "bureau"}
    signature = site.identity.sign(b"key")
    with pytest.raises(ValueError, match="not of the pinned certificate"):
        site.verify("registry", signature, b"key")
    site.verify("unknown", b"", b"key")  # not pinned: the guest's word is taken
    party.settings["party"]["identity"] = str(keys / "stranger" / "stranger")
    party.write()
    with pytest.raises(IdentityError, match="is the certificate of stranger"):
        Site.open(load_party(party.file))
    site = dataclasses.replace(site, pinned=dict.fromkeys(("a", "b"), site.pinned["bureau"]))
    with pytest.raises(ConfigError, match="a and b have the same certificate"):
        _ = site.credentials


@pytest.mark.parametrize("served", [True, False])
def test_a_host_that_dials_is_back_at_once_after_a_job(
    monkeypatch: pytest.MonkeyPatch, served: bool
) -> None:
    """And takes its time where there was none: a guest may hang up again and again."""
    paused: list[float] = []

    async def dial(*_: object) -> object:
        return object()

    async def serve(*_: object) -> bool:
        return served

    async def sleep(seconds: float) -> None:
        paused.append(seconds)
        if len(paused) == 2:
            raise asyncio.CancelledError

    monkeypatch.setattr(host, "serve_session", serve)
    monkeypatch.setattr(host, "asyncio", SimpleNamespace(sleep=sleep))
    site: Any = SimpleNamespace(dial=dial)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(host._dial_forever(site, "insurer", "127.0.0.1:1", Silent()))
    assert paused == [host._NEXT if served else host._PAUSE] * 2 and host._NEXT < host._PAUSE


def test_one_more_session_waits_for_lookups_as_soon_as_one_has_a_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Never two without a job, and no more than the guest lets one party have."""
    dialled: list[asyncio.Event] = []  # each set once the guest asks for a job
    end = asyncio.Event()

    async def dial(*_: object) -> asyncio.Event:
        dialled.append(asyncio.Event())
        return dialled[-1]

    async def serve(_: object, job: asyncio.Event, __: object, asked: Any) -> bool:
        await job.wait()
        await asked()
        await end.wait()
        return True

    async def settle() -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def run() -> None:
        site: Any = SimpleNamespace(dial=dial)
        work = asyncio.create_task(host._wait_for_lookups(site, "insurer", "127.0.0.1:1", Silent()))
        for count in range(1, A_PEER + 1):
            await settle()
            assert len(dialled) == count
            dialled[-1].set()
        await settle()
        assert len(dialled) == A_PEER
        end.set()
        while len(dialled) == A_PEER:
            await asyncio.sleep(0.001)
        await settle()
        assert len(dialled) == A_PEER + 1
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)

    monkeypatch.setattr(host, "serve_session", serve)
    monkeypatch.setattr(host, "_NEXT", 0.0)
    asyncio.run(run())
