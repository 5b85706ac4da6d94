"""What data is worth: figures against measures of the same rows, what a host takes from its guest."""

import asyncio
import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from vfl.errors import PeerError
from vfl.learn.losses import LogisticLoss, Loss, PoissonLoss
from vfl.learn.metrics import binary_metrics, regression_metrics
from vfl.learn.worth import JudgedRows, WorthLine, subsets, worth_lines
from vfl.net.peer import MemoryPeer
from vfl.protocols.worth import WorthFigure, WorthFigures, hear_worth
from vfl.report.worth import WorthOf
from vfl.report.worth_page import worth_files

ROWS = 2000
HOSTS = ["bureau", "registry"]


def test_every_set_of_hosts_comes_once() -> None:
    assert subsets(["a"]) == [("a",)]
    assert subsets(["a", "b"]) == [("a", "b"), ("b",), ("a",)]
    three = subsets(["a", "b", "c"])
    assert three[0] == ("a", "b", "c") and set(three[1:4]) == {("b", "c"), ("a", "c"), ("a", "b")}
    assert len(three) == 7


def rows_of(loss: Loss) -> tuple[JudgedRows, dict[tuple[str, ...], np.ndarray]]:
    """Rows of which bureau knows much and registry nothing, two of each policy."""
    rng = np.random.default_rng(5)
    policy = np.repeat(np.arange(ROWS // 2), 2)
    known, noise = rng.normal(0, 0.7, (2, ROWS))
    years = None if isinstance(loss, LogisticLoss) else rng.uniform(0.2, 1, ROWS)
    offset = None if years is None else np.log(years)
    score = known - 1 + (0 if offset is None else offset)
    if offset is None:
        label = (rng.random(ROWS) < 1 / (1 + np.exp(-score))).astype(float)
    else:
        label = rng.poisson(np.exp(score)).astype(float)
    premium = np.where(rng.random(ROWS) < 0.1, np.nan, rng.uniform(50, 150, ROWS))
    weight = rng.choice([1.0, 2.0], ROWS)
    rows = JudgedRows(label, weight, offset, years, premium, policy)
    flat = np.full(ROWS, -1.0) + (0 if offset is None else offset)
    alone = flat + 0.1 * noise
    scores = {(): alone, ("registry",): alone, ("bureau",): score, ("bureau", "registry"): score}
    return rows, scores


@pytest.mark.parametrize("loss", [LogisticLoss(), PoissonLoss()])
def test_figures_are_the_measures_of_the_rows(loss: Loss) -> None:
    rows, scores = rows_of(loss)
    lines, resamples = worth_lines(loss, rows, scores, HOSTS)
    assert resamples.policies == ROWS // 2
    of = {(line.sense, line.hosts): line.figures for line in lines}
    assert len(of) == len(lines) == 4 + 2 + 2
    for hosts, score in scores.items():
        found = of["model", hosts]
        if isinstance(loss, LogisticLoss):
            measures = binary_metrics(rows.label, loss.predict(score), rows.weight)
            share = np.average(rows.label, weights=rows.weight)
            constant = -(share * math.log(share) + (1 - share) * math.log(1 - share))
            explained = 1 - measures["log_loss"] / constant
        else:
            measures = regression_metrics(
                loss, rows.label, score, rows.weight, rows.offset, rows.exposure
            )
            explained = measures["d2"]
        assert found["d2"].value == pytest.approx(explained, abs=1e-12)
        assert found["gini"].value == pytest.approx(measures["gini"], abs=1e-12)
        assert all(one.known and one.has(one.value) for one in found.values())
    for sense in ("added", "left_out"):
        gained, nothing = of[sense, ("bureau",)], of[sense, ("registry",)]
        for name, one in gained.items():
            whole, less = of["model", ("bureau",)][name], of["model", ()][name]
            assert one.value == pytest.approx(whole.value - less.value)
            assert not one.has(0)
        assert all((one.value, one.low, one.high) == (0, 0, 0) for one in nothing.values())
        # What two models have in common is not in the interval of their difference.
        assert gained["gini"].high - gained["gini"].low < sum(
            of["model", hosts]["gini"].high - of["model", hosts]["gini"].low
            for hosts in ((), ("bureau",))
        )
        assert gained["loss_ratio"].value < 0


def test_the_loss_ratio_is_that_of_half_the_premium() -> None:
    """Of four rows of one premium the two best by the model, none of which had a claim."""
    label, score = np.array([1.0, 0.0, 0.0, 1.0]), np.array([0.1, -2.0, -1.0, 2.0])
    rows = JudgedRows(label, np.ones(4), premium=np.full(4, 10.0))
    lines, _ = worth_lines(LogisticLoss(), rows, {(): score, ("a",): -score}, ["a"])
    of = {(line.sense, line.hosts): line.figures["loss_ratio"].value for line in lines}
    assert of == {("model", ()): 0.0, ("model", ("a",)): 2.0, ("added", ("a",)): 2.0}
    assert not any(one.known for line in lines for one in line.figures.values())  # two claims
    none = worth_lines(LogisticLoss(), replace(rows, premium=np.full(4, np.nan)), {(): score}, [])[0]
    assert set(none[0].figures) == {"d2", "gini"}
    flat = worth_lines(LogisticLoss(), rows, {(): np.zeros(4)}, [])[0]
    assert flat == [WorthLine("model", (), flat[0].figures)] and "loss_ratio" not in flat[0].figures


TOLD = WorthFigures(
    100,
    80,
    60,
    20,
    20,
    500,
    [
        WorthFigure("model", [], "gini", 0.2),
        WorthFigure("model", [0, 1], "gini", 0.4, 0.3, 0.5),
        WorthFigure("added", [1], "gini", 0.1, -0.1, 0.2),
        WorthFigure("added", [0], "gini", -0.2, -0.3, -0.1),
    ],
)


def heard(told: WorthFigures) -> WorthFigures:
    async def run() -> WorthFigures:
        guest, host = MemoryPeer.pair("insurer", "bureau")
        await guest.send(told)
        return await hear_worth(host, HOSTS, 80)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"aligned": 79}, "other rows than are aligned"),
        ({"table": 79}, "other rows than are aligned"),
        ({"train": 61}, "other rows than are aligned"),
        ({"policies": 21}, "more policies than rows"),
        ({"figures": [WorthFigure("model", [2], "gini", 0.1)]}, "other hosts"),
        ({"figures": [WorthFigure("model", [1, 0], "gini", 0.1)]}, "other hosts"),
        ({"figures": [WorthFigure("added", [0, 1], "gini", 0.1)]}, "other hosts"),
        ({"figures": [WorthFigure("added", [0], "gini", 0.1)] * 2}, "a figure twice"),
        ({"figures": [WorthFigure("added", [0], "gini", math.nan)]}, "no number"),
        ({"figures": [WorthFigure("added", [0], "gini", 0.1, 0.0, math.inf)]}, "no number"),
        ({"figures": [WorthFigure("added", [0], "gini", 0.1, 0.0)]}, "no number"),
    ],
)
def test_a_host_takes_no_other_figures(change: dict[str, object], why: str) -> None:
    assert heard(TOLD) == TOLD
    with pytest.raises(PeerError, match=why):
        heard(msgspec.structs.replace(TOLD, **change))


def test_both_pages_say_the_same() -> None:
    of = WorthOf(
        *("insurer", "insurer", HOSTS, "claims", "a <b>test</b>", "trees"),
        ended="2026-11-23T02:03:04+00:00",
        version="1.0",
        told=TOLD,
    )
    assert of.verdicts == [
        "bureau adds to insurer alone, Gini −0.200 (−0.300 to −0.100: worse).",
        "registry adds to insurer alone, Gini +0.100 (−0.100 to +0.200: may be chance).",
    ]
    ours, theirs = worth_files(of), worth_files(replace(of, party="bureau"))
    assert ours["worth.csv"] == theirs["worth.csv"]
    assert b"insurer + bureau + registry" in ours["worth.html"]
    assert b"80 of 100 rows" in ours["worth.html"] and b"<b>test" not in ours["worth.html"]
    pages = (files["worth.html"].replace(b"bureau", b"insurer") for files in (ours, theirs))
    assert len(set(pages)) == 1
