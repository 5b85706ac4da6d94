"""Models that learn nothing, or little: what is said of them, by which setting, to whom."""

import asyncio
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from federation import GLM_JOB, JOB, Federation, make_tables, toml, write_table
from room import Room

from vfl.cli import main
from vfl.errors import DataError, PeerStopped, VflError
from vfl.jobs import evaluation
from vfl.jobs.record import load_record
from vfl.learn.design import Design, Rules
from vfl.learn.losses import LogisticLoss, SquaredLoss
from vfl.learn.params import BoostParams, GlmParams
from vfl.learn.tree import Branch, Tree
from vfl.models.findings import TOLD, NothingTrained, judge_quality, remark_on, words_of
from vfl.models.halves import GuestHalf
from vfl.models.kinds import load_half, save_half
from vfl.models.linear import Linear
from vfl.models.trees import Trees
from vfl.models.unsplit import none_kept
from vfl.net.peer import MemoryPeer
from vfl.party.store import Store
from vfl.protocols.common.participant import Participant
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.fitting import guest_fit
from vfl.protocols.linear.host_fitting import host_fit
from vfl.protocols.linear.scoring import GuestGlm, LinearPart
from vfl.protocols.trees.model import GuestModel


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Room:
    """A guest and a host that have aligned."""
    folder = tmp_path_factory.mktemp("findings")
    federation = Federation(
        folder, keys, hosts=("registry",), guest_listens=True, tables=make_tables(140, 3)
    )
    federation.parties["registry"].settings["policy"] |= {
        "min_child_rows": 1,
        "encryptions": ["paillier", "lattice"],
    }
    room = Room(federation)
    with pytest.MonkeyPatch.context() as patch:
        room.patch(patch)
        room.align()
    return room


@pytest.fixture
def room(aligned: Room, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    aligned.patch(monkeypatch)
    for said, heard in zip(aligned.said.values(), aligned.heard.values(), strict=False):
        said.lines.clear()
        heard.clear()
    yield aligned


def stores(room: Room) -> dict[str, Store]:
    return {name: Store(room.federation.parties[name].store) for name in ("insurer", "registry")}


def boost(holdout: float = 0.25, **settings: Any) -> dict[str, Any]:
    common = {"trees": 3, "depth": 2, "max_bins": 6, "min_child_rows": 5}
    return {"job": {**JOB["job"], "holdout": holdout}, "secureboost": {**common, **settings}}


def glm(holdout: float = 0.25, **settings: Any) -> dict[str, Any]:
    return {"job": {**GLM_JOB["job"], "holdout": holdout}, "glm": settings}


NOTHING: dict[str, tuple[dict[str, Any], str, str]] = {
    "min_child_rows": (
        boost(min_child_rows=5000),
        "no tree has a split, since min_child_rows = 5,000 in [secureboost] leaves no split of the 97",
        "no tree has a split (min_child_rows of [secureboost])",
    ),
    "min_child_rows over the lattice engine": (
        boost(min_child_rows=60, encryption="lattice"),
        "min_child_rows = 60 in [secureboost] leaves no split of the 97 rows to train on: lower it",
        "no tree has a split (min_child_rows of [secureboost])",
    ),
    "gamma": (
        boost(gamma=1e9, trees=5000),  # and not after 5,000 trees
        "no split gains as much as gamma = 1e+09 in [secureboost]: lower it",
        "no tree has a split (gamma of [secureboost])",
    ),
    "gamma over the lattice engine": (
        boost(gamma=1e9, encryption="lattice"),
        "no split gains as much as gamma = 1e+09 in [secureboost]: lower it",
        "no tree has a split (gamma of [secureboost])",
    ),
    "min_child_weight": (
        boost(min_child_weight=1e9),
        "min_child_weight = 1e+09 in [secureboost] is more than any split leaves on both sides",
        "no tree has a split (min_child_weight of [secureboost])",
    ),
    "reg_lambda": (
        boost(reg_lambda=1e300),
        "under reg_lambda = 1e+300 in [secureboost] no split gains anything: lower it",
        "no tree has a split (reg_lambda of [secureboost])",
    ),
    "learning_rate": (
        boost(learning_rate=1e-12),
        "all leaves vanish: learning_rate = 1e-12 and reg_lambda = 1 in [secureboost] make every",
        "all leaves vanish (learning_rate and reg_lambda of [secureboost])",
    ),
    "subsample": (
        boost(subsample=1e-6),
        "leaves no split of the 1 that a tree draws of 97 rows to train on: lower it, or raise sub",
        "no tree has a split (min_child_rows of [secureboost])",
    ),
    "alpha": (
        glm(alpha=1e300, max_iterations=2),
        "alpha = 1e+300 in [glm] leaves no coefficient: lower it",
        "all coefficients vanish (alpha of [glm])",
    ),
}


@pytest.mark.parametrize("what", NOTHING)
def test_settings_that_train_nothing_end_the_job_at_all_parties(room: Room, what: str) -> None:
    job, said, told = NOTHING[what]
    before = {name: store.names("model") + store.names("run") for name, store in stores(room).items()}
    with pytest.raises(NothingTrained) as raised:
        room.train(job)
    assert str(raised.value).startswith("nothing was trained: ") and said in str(raised.value)
    assert raised.value.exit_code == 2
    # In the host's words there is no value.
    assert raised.value.for_peer == f"nothing was trained: {told}"
    assert not any(digit in told for digit in "0123456789")
    for name, store in stores(room).items():
        assert store.names("model") + store.names("run") == before[name]
    assert stores(room)["insurer"].names("checkpoint") == []


def test_hosts_hear_it_and_the_command_ends_with_a_code(room: Room) -> None:
    job = room.folder / "job.toml"
    job.write_text(toml(boost(gamma=1e9)))
    done = CliRunner().invoke(main, ["train", str(room.federation.guest.file), str(job), "--json"])
    assert done.exit_code == 2 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith(
        "error: nothing was trained: no tree has a split, since"
    )
    assert room.heard["registry"] == [
        "insurer stopped the job: nothing was trained: no tree has a split (gamma of [secureboost])"
    ]


def nobody_knows_anything(folder: Path, keys: Path) -> Room:
    """A guest without columns, and a host whose columns are constant."""
    tables = make_tables(140, 3)
    federation = Federation(folder, keys, hosts=("registry",), guest_listens=True, tables=tables)
    host, rows = federation.parties["registry"], len(tables["registry"]["power"])
    host.settings["policy"] |= {"min_child_rows": 1, "encryptions": ["paillier", "lattice"]}
    write_table(host.table, {**tables["registry"], "power": ["1"] * rows, "brand": ["x"] * rows})
    federation.guest.settings["data"] |= {"ignore": ["density", "area"], "categorical": []}
    return Room(federation)


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (boost(), "leaves no split of the 97 rows to train on: lower it, unless every column has one"),
        (
            boost(min_bin_rows=1000),
            "since no column of any party can be split: each has one value alone",
        ),
        (boost(encryption="lattice"), "since no column of any party can be split"),
    ],
)
def test_columns_without_any_information(
    tmp_path: Path, keys: Path, job: dict[str, Any], said: str
) -> None:
    room = nobody_knows_anything(tmp_path, keys)
    with pytest.MonkeyPatch.context() as patch:
        room.patch(patch)
        room.align()
        with pytest.raises(NothingTrained) as raised:
            room.train(job)
    assert said in str(raised.value)
    assert raised.value.exit_code == (2 if "min_child_rows" in said or "lower" in said else 3)
    (heard,) = room.heard["registry"]
    assert heard.startswith("insurer stopped the job: nothing was trained: no tree has a split (")


def test_a_linear_model_without_any_column() -> None:
    """No party can have none by its files, but a peer may say so."""
    rows = Training(
        np.array([0.0, 1.0] * 20), np.ones(40), np.ones(40, np.bool_), np.zeros(40, np.bool_)
    )
    empty = Design.fit({}, Rules()).matrix({}, 40)
    params = GlmParams.model_validate({"encryption": "lattice"})
    here, there = MemoryPeer.pair("insurer", "registry")

    async def both() -> None:
        host = asyncio.create_task(
            host_fit(
                there,
                40,
                lambda training: empty,
                params,
                Participant("registry", ["registry"]),
            )
        )
        try:
            await guest_fit([here], {"insurer": empty}, rows, params)
        finally:
            host.cancel()

    with pytest.raises(DataError, match="nothing was trained: no party has a column to fit"):
        asyncio.run(both())


def test_a_policy_that_leaves_no_column_is_refused(room: Room) -> None:
    policy = room.federation.parties["registry"].settings["policy"]
    policy["columns"] = []
    try:
        for job in (boost(), boost(encryption="lattice"), glm()):
            with pytest.raises(PeerStopped, match="none of its columns may enter a model, by"):
                room.train(job)
    finally:
        del policy["columns"]
    assert set(room.heard["registry"]) == {
        "[policy] columns is empty: no feature of table.csv may enter a model"
    }


def test_a_job_without_candidates_after_one_whose_hint_is_kept(room: Room) -> None:
    """Over the lattice engine a host has no matrix then, which a kept hint does not change."""
    room.train(boost(encryption="lattice"))
    with pytest.raises(NothingTrained, match="no tree has a split"):
        room.train(boost(encryption="lattice", min_bin_rows=1000, min_child_rows=20))


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (
            boost(holdout=0.999),
            "no aligned row is left to train on: lower holdout = 0.999 in [job]",
        ),
        (
            boost(validation_share=0.99),
            "lower holdout = 0.25 in [job] or validation_share = 0.99 in [secureboost]",
        ),
        (
            glm(holdout=0.97),
            "in the 4 aligned rows to train on, the label has only one class: a model needs",
        ),
    ],
)
def test_shares_that_leave_no_row_are_said_before_a_host_is_asked(
    room: Room, job: dict[str, Any], said: str
) -> None:
    with pytest.raises(VflError) as raised:
        room.train(job)
    assert said in str(raised.value) and raised.value.exit_code == 3
    assert room.said["registry"].lines == []


WEAK: dict[str, tuple[dict[str, Any], str, str]] = {
    "flat": (
        glm(alpha=1e4),
        "the predictions of any two rows differ by less than 1 %: lower alpha = 10000 in [glm]",
        "flat",
    ),
    "flat trees": (
        boost(learning_rate=1e-4),
        "differ by less than 1 %: lower learning_rate = 0.0001 and reg_lambda = 1 in [secureboost]",
        "flat",
    ),
    "no_validation_rows": (
        boost(validation_share=1e-9, early_stopping_rounds=2),
        "validation_share = 1e-09 leaves no row to decide when to stop",
        "no_validation_rows",
    ),
    "no_held_out_rows": (
        boost(holdout=1e-9),
        "holdout = 1e-09 leaves no row to evaluate on: nobody knows how good the model is",
        "no_held_out_rows",
    ),
    "guest_alone": (
        boost(guest_trees=1, trees=1),
        "guest_trees = 1 leaves the hosts out of the only tree: lower it, or raise trees",
        "guest_alone",
    ),
    "no_split": (
        boost(goss_top=0.01, goss_other=0.01, learning_rate=1.0, trees=4),
        "3 of 4 trees have no split: fewer trees do as well",
        "no_split",
    ),
}


@pytest.mark.parametrize("what", WEAK)
def test_settings_that_hold_a_model_back_are_a_warning_at_all_parties(room: Room, what: str) -> None:
    job, said, word = WEAK[what]
    model = room.train(job)
    record, _ = load_record(stores(room)["insurer"], model)
    assert any(said in text for text in record.warnings)
    host, _ = load_record(stores(room)["registry"], model)
    assert TOLD[word] in host.warnings
    assert room.said["registry"].has(f"note: {TOLD[word]}")
    assert not any(char.isdigit() for char in TOLD[word])


def test_a_host_is_told_of_its_own_half_that_says_nothing(room: Room) -> None:
    model = room.train(boost(guest_trees=1, trees=1))
    host, _ = load_record(stores(room)["registry"], model)
    (text,) = [text for text in host.warnings if text.startswith("no split is of this party's columns")]
    assert text.endswith("(guest_trees = 1 of the job leaves hosts out of all trees)")
    assert remark_on(np.array([0.1, 0.0])) is None
    assert "all coefficients of this party's columns vanish" in (remark_on(np.zeros(2)) or "")
    assert remark_on(np.zeros(0)) == "this party has no column in the model"


def test_words_of_another_version_are_left_out() -> None:
    assert words_of(["flat", "of_tomorrow"]) == [TOLD["flat"]]


# --- Weak on the rows held out --------------------------------------------------------------------

BEFORE = np.zeros(8, np.bool_)


def training(label: list[float], loss: Any) -> Training:
    values = np.array(label, np.float64)
    return Training(values, np.ones(len(values)), BEFORE[: len(values)], BEFORE[: len(values)], loss)


TREES = Trees(BoostParams.model_validate({}))


def linear(**settings: float) -> Linear:
    return Linear(GlmParams.model_validate(settings), "poisson")


def judged(metrics: dict[str, dict[str, float]], loss: Any = None, kind: Any = TREES) -> list[str]:
    rows = training([0, 1, 0, 1], loss or LogisticLoss())
    held_out = np.ones(4, np.bool_)
    return judge_quality(metrics, rows, held_out, "insurer alone", kind.advice)


GOOD = {"auc": 0.8, "log_loss": 0.5}


@pytest.mark.parametrize(
    ("ours", "own", "said"),
    [
        (GOOD, {"auc": 0.7, "log_loss": 0.6}, []),
        (GOOD, GOOD, []),
        (
            {"auc": 0.8, "log_loss": 0.7},
            {"auc": 0.7, "log_loss": 0.75},
            [
                "the model does worse than the same probability for all on the 4 held-out rows (log "
                "loss 0.7000, that of their mean 0.6931)",
                "insurer alone does worse than the same probability for all",
                "try fewer trees, less depth or a lower learning_rate",
            ],
        ),
        (
            {"auc": 0.49, "log_loss": 0.6},
            {"auc": 0.48, "log_loss": 0.65},
            [
                "the model orders rows worse than chance on the 4 held-out rows (AUC 0.4900)",
                "insurer alone orders rows worse than chance",
                "try fewer trees",
            ],
        ),
        (
            {"auc": 0.8, "log_loss": 0.61},
            {"auc": 0.7, "log_loss": 0.6},
            [
                "the model does worse than insurer alone on the 4 held-out rows (log loss 0.6100, "
                "0.6000 alone): the hosts' columns add nothing",
                "try fewer trees",
            ],
        ),
        ({}, {}, []),  # nothing is known
    ],
)
def test_a_probability_that_is_worse_than_something_simpler(
    ours: dict[str, float], own: dict[str, float], said: list[str]
) -> None:
    found = judged({"federation": ours, "insurer alone": own})
    assert len(found) == len(said)
    for text, expected in zip(found, said, strict=True):
        assert text.startswith(expected)


def test_a_number_that_is_worse_than_the_mean() -> None:
    metrics = {
        "federation": {"d2": -0.04, "deviance": 1.04},
        "insurer alone": {"d2": 0.01, "deviance": 0.99},
    }
    mean, alone, advice = judged(metrics, SquaredLoss(), linear())
    assert mean == "the model does worse than the mean on the 4 held-out rows (D² -0.0400)"
    assert alone.startswith(
        "the model does worse than insurer alone on the 4 held-out rows (deviance 1.0"
    )
    assert advice.startswith("try a higher alpha in [glm]")
    metrics["federation"] = {"d2": 0.2, "deviance": 0.8}
    metrics["insurer alone"]["d2"] = -0.04  # shown beside it, and not without a word
    (own,) = judged(metrics, SquaredLoss())
    assert own == "insurer alone does worse than the mean on the 4 held-out rows (D² -0.0400)"
    assert judged({}, SquaredLoss()) == []


def test_a_weak_model_ends_with_warnings_everywhere(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """In what the command prints, its JSON and the record; hosts learn nothing of how good it is."""
    weak = evaluation.held_out_metrics

    def worse(*arguments: Any) -> dict[str, float]:
        return {**weak(*arguments), "auc": 0.45, "log_loss": 0.8}

    monkeypatch.setattr(evaluation, "held_out_metrics", worse)
    job = room.folder / "job.toml"
    job.write_text(toml(boost()))
    words = ["train", str(room.federation.guest.file), str(job)]
    done = CliRunner().invoke(main, [*words, "--json"])
    assert done.exit_code == 0
    result = json.loads(done.stdout)
    record, _ = load_record(stores(room)["insurer"], result["model"])
    assert record.warnings == result["warnings"] and len(record.warnings) == 5
    assert [f"warning: {text}" for text in record.warnings] == [
        line for line in done.stderr.splitlines() if line.startswith("warning: ")
    ]
    host, _ = load_record(stores(room)["registry"], result["model"])
    assert host.warnings == []
    shown = CliRunner().invoke(main, words)
    assert shown.stderr.count("warning: ") == 5 and shown.exit_code == 0


# --- By itself ------------------------------------------------------------------------------------


def test_early_stopping_that_keeps_no_split() -> None:
    bare = GuestModel(("insurer",), 0.0, (Tree({}, {0: 0.1}),), ())
    split = Tree({0: Branch(0, 0, "x", 1.0)}, {1: 0.1, 2: -0.1})
    rows = training([0, 1, 0, 1], LogisticLoss())
    with pytest.raises(NothingTrained):
        TREES.check_learnt(bare, np.full(4, 0.1), rows)
    whole = GuestModel(("insurer",), 0.0, (split,) * 9 + (bare.trees[0],), ())
    assert TREES.check_learnt(whole, np.array([0.1, -0.1, 0.1, -0.1]), rows) == []
    # Scores that nobody knows are judged by those that are known, if there are two.
    unknown = np.full(4, np.nan)
    assert TREES.check_learnt(whole, unknown, rows) == []
    far = np.array([0.1, -0.1, 0.1, -15.1])
    free, tied = linear(), linear(alpha=0.1)
    fit = GuestGlm(("insurer",), 0.0, LinearPart(Design((), ()), ()), 7, True, 0.5, 0.25, 3e-7)
    assert [found.word for found in free.check_learnt(fit, far, rows)] == ["apart"]
    assert tied.check_learnt(fit, far, rows) == []
    label = dataclasses.replace(rows, loss=SquaredLoss())
    assert free.check_learnt(fit, far, label) == []
    assert none_kept().exit_code == 3


def test_reasons_of_a_model_that_learnt_nothing(room: Room) -> None:
    """Earlier versions kept such models."""
    store = stores(room)["insurer"]
    model = room.train(boost())
    half = load_half(store, model, GuestHalf)
    bare = GuestModel(half.model.parties, -0.2, (Tree({}, {0: 0.1}, {0: 97}),), ())
    name, theirs = "bare-20270101-000000-aaaaaa", stores(room)["registry"]
    save_half(store, GuestHalf(**{**vars(half), "name": name, "model": bare}))
    theirs.write("model", name, {**theirs.read("model", model), "name": name, "model": {"splits": []}})
    room.score(name, explain=True)
    lines = (room.folder / "scores.csv").read_text().splitlines()
    assert all(line.endswith(('""', ",")) for line in lines[1:])
