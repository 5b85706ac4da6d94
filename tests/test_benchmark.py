"""A model beside the present tariff: figures as pandas and scikit-learn have them, intervals that hold
the truth as often as they say, and what the page makes of strange premiums."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from federation import JOB, Federation, Party, write_table
from reports import made_up
from sklearn.metrics import auc

from vfl.errors import ConfigError
from vfl.jobs.check_result import CheckResult
from vfl.jobs.record import Evaluation
from vfl.jobs.report import gather
from vfl.jobs.report_columns import size_of_premium
from vfl.jobs.shared_table import section_of
from vfl.jobs.table_check import check_table
from vfl.learn.benchmark import CHANGES, QUANTILES, Benchmark, Tariffs, compare
from vfl.learn.bootstrap import LEAST, Estimate, Resamples, Summed, estimate
from vfl.party.config import Job, load_party
from vfl.party.sections import DataSection
from vfl.report.evidence import Beside, Evidence
from vfl.report.page import PAGE, render


def tariffs(rows: int = 2000) -> tuple[Tariffs, np.ndarray]:
    """Policies of whose risk the present tariff knows a part, and a column of theirs."""
    rng = np.random.default_rng(11)
    known, unknown = rng.normal(size=(2, rows))
    exposure = np.round(rng.uniform(0.2, 1, rows), 2)
    ours = exposure * np.exp(-1 + 0.5 * known + 0.4 * unknown)
    present = 600 * exposure * np.exp(0.5 * known) * rng.uniform(0.9, 1.1, rows)
    region = rng.choice(np.array(["north", "south", None], dtype=object), rows)
    return Tariffs(rng.poisson(ours).astype(float), ours, present, exposure), region


@pytest.fixture(scope="module")
def found() -> tuple[Tariffs, np.ndarray, Benchmark]:
    rows, region = tariffs()
    others = {"alone": rows.present / 600}
    columns = {"region": region, "size": rows.exposure}
    return rows, region, compare(rows, others, columns, Resamples(len(region)), "federation")


def test_figures_are_those_of_a_table(found: tuple[Tariffs, np.ndarray, Benchmark]) -> None:
    rows, region, made = found
    frame = pd.DataFrame(
        {
            "actual": rows.actual,
            "ours": rows.ours,
            "present": rows.present,
            "exposure": rows.exposure,
            "region": region,
        }
    )
    frame["ratio"] = frame.ours / frame.present
    frame = frame.sort_values("ratio")
    total = frame[["actual", "ours", "present"]].sum()
    assert made.off_balance.value == pytest.approx(total.present / total.ours)

    middle = (frame.exposure.cumsum() - frame.exposure / 2) / frame.exposure.sum()
    groups = frame.groupby(np.floor(middle * 10 + 1e-9).astype(int)).sum(numeric_only=True)
    for group, (_, sums) in zip(made.groups, groups.iterrows(), strict=True):
        assert group.exposure == pytest.approx(sums.exposure)
        assert group.actual.value == pytest.approx(sums.actual / sums.exposure)
        ours = sums.ours * total.actual / total.ours / sums.exposure
        present = sums.present * total.actual / total.present / sums.exposure
        assert group.ours.value == pytest.approx(ours)
        assert group.present.value == pytest.approx(present)
        assert group.loss_ratio.value == pytest.approx(sums.actual / sums.exposure / present)

    paid = np.append(0, frame.present.cumsum() / total.present)
    happened = np.append(0, frame.actual.cumsum() / total.actual)
    assert made.over_present.value == pytest.approx(1 - 2 * auc(paid, happened))
    back = frame[::-1]
    paid = np.append(0, back.ours.cumsum() / total.ours)
    happened = np.append(0, back.actual.cumsum() / total.actual)
    assert made.over_ours.value == pytest.approx(1 - 2 * auc(paid, happened))
    # As the rows were made: the model knows more, and the present tariff nothing besides.
    assert made.over_present.low > 0 and not made.over_present.has(0)
    assert made.over_ours.low < 0.03

    middle = (frame.present.cumsum() - frame.present / 2) / total.present
    up = frame.groupby(np.floor(middle * 10 + 1e-9).astype(int)).sum(numeric_only=True).cumsum()
    kept = made.kept["federation"]
    assert [one.share for one in kept] == pytest.approx(list(up.present / total.present))
    ratios = up.actual / up.present / (total.actual / total.present)
    assert [one.loss_ratio.value for one in kept] == pytest.approx(list(ratios))
    assert kept[-1].loss_ratio == pytest.approx((1, 1, 1))  # all of it is all of it in every draw

    change = frame.ratio * total.present / total.ours
    shares, _ = np.histogram(change, [0, *CHANGES, np.inf], weights=frame.exposure)
    assert [one.value for one in made.dislocation.shares] == pytest.approx(
        list(shares / frame.exposure.sum())
    )
    assert made.dislocation.more.value == pytest.approx(
        frame.exposure[change > 1.1].sum() / frame.exposure.sum()
    )
    up_to = frame.exposure.cumsum() / frame.exposure.sum()
    for part, one in zip(QUANTILES, made.dislocation.quantiles, strict=True):
        assert one.value == pytest.approx(change[up_to >= part].iloc[0])

    by = frame.fillna({"region": "(missing)"}).groupby("region").sum(numeric_only=True)
    segments = {one.level: one for one in made.segments if one.column == "region"}
    assert set(segments) == {"north", "south", "(missing)"}
    for level, sums in by.iterrows():
        one = segments[str(level)]
        new = sums.ours * total.present / total.ours
        assert one.change.value == pytest.approx(new / sums.present)
        happened = sums.actual * total.present / total.actual
        assert one.actual_present.value == pytest.approx(happened / sums.present)
        assert one.actual_ours.value == pytest.approx(happened / new)
    every = [one for group in made.groups for one in (group.actual, group.ours, group.present)]
    assert all(one.low <= one.value <= one.high for one in every)


def test_draws_are_seeded_and_of_whole_policies() -> None:
    values = np.arange(8.0)
    policy = np.array([7, 7, 3, 3, 9, 9, 1, 1])
    one, again = Resamples(8, policy), Resamples(8, policy)
    assert one.policies == 4
    (sums,) = one.sums([Summed(np.zeros(8, np.int64), 1, values)])
    np.testing.assert_array_equal(sums, again.each(lambda times: np.array([times @ values])))
    times = np.stack([one.times(draw)[one.policy] for draw in range(9)], axis=1)
    assert (times[::2] == times[1::2]).all()
    assert len(np.unique(sums)) > 5


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Actual by expected where the expectation is right, with two years a policy that go together."""
    held, repeats = 0, 100
    for repeat in range(repeats):
        rng = np.random.default_rng(repeat)
        mean = np.repeat(rng.gamma(2, 0.2, 300), 2)
        luck = np.repeat(rng.gamma(2, 0.5, 300), 2)
        actual = rng.poisson(mean * luck).astype(float)
        resamples = Resamples(600, np.repeat(np.arange(300), 2))
        resamples.draws = 200
        every = np.zeros(600, np.int64)
        above, below = resamples.sums([Summed(every, 1, actual), Summed(every, 1, mean)])
        held += estimate(actual.sum() / mean.sum(), (above / below)[:, 0]).has(1)
    assert 88 <= held <= 99


def test_of_few_claims_no_interval_is_told() -> None:
    rows, _ = tariffs(400)
    happened = np.flatnonzero(rows.actual)
    few = replace(rows, actual=np.where(np.isin(np.arange(400), happened[: LEAST - 1]), rows.actual, 0))
    made = compare(few, {}, {}, Resamples(400), "federation")
    assert not made.over_present.known and not made.spread.known
    assert made.off_balance.known  # it is of premiums alone
    assert Estimate(1.0).has(0) and not Estimate(1.0).known


# --- The page. ------------------------------------------------------------------------------------


def with_premium(**beside: object) -> Evidence:
    one = replace(made_up(columns=1, dependence={}), factors={})
    assert one.held_out is not None
    premium = 500 * np.asarray(one.held_out.predictions["insurer alone"]) ** 0.5
    return replace(one, beside=Beside(**{"premium": premium} | beside))  # type: ignore[arg-type]


@pytest.mark.usefixtures("few_draws")
def test_the_page_says_what_the_intervals_allow() -> None:
    one = with_premium()
    told: dict[str, list[dict[str, object]]] = {}
    files = render(one, told)
    text = files[PAGE].decode()
    assert "the present tariff charges alike what the model tells apart, and rightly so" in text
    assert "40 draws of the rows, one by one, with replacement" in text
    single = {str(row["measure"]): row for row in told["benchmark"]}
    held = one.held_out
    assert held is not None and one.beside.premium is not None
    off_balance = one.beside.premium.sum() / held.predictions["federation"].sum()
    assert single["off_balance"]["value"] == pytest.approx(off_balance)
    sheet = pd.read_csv(io.BytesIO(files["benchmark.csv"])).set_index("measure")
    assert sheet.loc["off_balance", "low"] == single["off_balance"]["low"]
    # A label that is chance alone: nothing is said of an order.
    rng = np.random.default_rng(3)
    chance = replace(held, label=(rng.random(len(held.label)) < 0.2).astype(float))
    beside = replace(one.beside, premium=np.full(len(held.label), 90.0))
    text = render(replace(one, held_out=chance, beside=beside))[PAGE].decode()
    assert "0 is in the interval, so that these rows do not show the model to be better" in text


@pytest.mark.usefixtures("few_draws")
def test_factors_are_told_by_further_columns() -> None:
    """Actual by expected of levels by year, as pandas has it."""
    one = made_up(columns=1, dependence={})
    held = one.held_out
    assert held is not None
    rng = np.random.default_rng(1)
    year = rng.choice(np.array(["2024", "2025"], dtype=object), 800)
    area = rng.choice(np.array(["a", "b", "rare"], dtype=object), 800, p=[0.5, 0.495, 0.005])
    one = replace(one, factors={"area": area}, beside=Beside(by={"year": year}))
    files = render(one)
    sheet = pd.read_csv(io.BytesIO(files["factors_by.csv"]))
    prediction = held.predictions["federation"]
    frame = pd.DataFrame({"level": area, "value": year, "y": held.label, "p": prediction})
    sums = frame.groupby(["level", "value"]).sum()
    counts = frame.groupby(["level", "value"]).size()
    assert len(sheet) == len(sums)
    for _, row in sheet.iterrows():
        cell = (row["level"], str(row["value"]))
        assert row["rows"] == counts[cell]
        assert row["ratio"] == pytest.approx(sums.loc[cell, "y"] / sums.loc[cell, "p"])
        assert np.isnan(row["ratio_low"]) == (sums.loc[cell, "y"] < LEAST)
    factors = pd.read_csv(io.BytesIO(files["factors.csv"])).query("column == 'year'")
    ratio = frame.groupby("value").y.sum() / frame.groupby("value").p.sum()
    assert list(factors["ratio"]) == pytest.approx(list(ratio))
    text = files[PAGE].decode()
    assert "Whether factors hold" in text and "area by year: actual / expected. Of 4 cells" in text


@pytest.mark.usefixtures("few_draws")
def test_rows_without_a_premium_are_left_out_and_counted() -> None:
    one = with_premium()
    assert one.beside.premium is not None
    premium = one.beside.premium.copy()
    premium[:3], premium[3:5] = np.nan, 0
    text = render(with_premium(premium=premium, policy=np.arange(800) // 2))[PAGE].decode()
    assert "795 rows of those held out pay now; 5 rows without one, or with 0, are left out." in text
    assert "40 draws of the 398 policies, with replacement" in text
    files = render(with_premium(premium=np.zeros(800)))
    assert "Of the 800 rows held out none has a premium above 0." in files[PAGE].decode()
    assert "benchmark.csv" not in files


def premiums(insurer: Party, federation: Federation, cells: list[str], **data: object) -> Evidence:
    """What the report has of a table with a column of premiums."""
    write_table(insurer.table, {**federation.tables["insurer"], "premium": cells})
    insurer.settings["data"] |= {"current_premium": "premium", **data}
    return gathered(insurer)


def gathered(insurer: Party) -> Evidence:
    insurer.write()
    return gather(load_party(insurer.file), "claims")


def test_premiums_are_read_from_the_table_as_it_is(federation: Federation, insurer: Party) -> None:
    rows = len(federation.tables["insurer"]["plate"])
    cells = [str(100 + i) for i in range(rows)]
    found = premiums(insurer, federation, cells)
    assert found.beside.premium is not None and found.held_out is not None
    assert set(found.factors) == {"density", "area"}  # the premium is none
    assert len(found.beside.premium) == len(found.held_out.label)
    assert found.beside.policy is not None
    np.testing.assert_array_equal(found.beside.premium - 100, found.beside.policy)
    gaps = premiums(insurer, federation, ["", "0", *cells[2:]])
    assert gaps.beside.premium is not None
    assert np.isnan(gaps.beside.premium).sum() == (found.beside.policy < 2).sum()
    commas = premiums(insurer, federation, [f"{100 + i},5" for i in range(rows)])
    assert commas.beside.premium is None and commas.factors
    assert "premium" in commas.beside.no_premium and "decimal" in commas.beside.no_premium
    below = premiums(insurer, federation, [f"-{cell}" for cell in cells])
    said = below.beside.no_premium
    assert "premium is below 0 in" in said and "held out (row" in said
    text = premiums(insurer, federation, ["much"] * rows)
    assert "The present tariff is not shown: table.csv: column 'premium'" in text.beside.no_premium
    assert "much" not in text.beside.no_premium
    write_table(insurer.table, federation.tables["insurer"])
    none = gathered(insurer)
    assert "no column 'premium'" in none.beside.no_premium and none.factors


def test_doctor_says_what_a_report_would_leave_out(federation: Federation, insurer: Party) -> None:
    table = federation.tables["insurer"]
    insurer.settings["data"] |= {"current_premium": "premium", "protected": ["gender"]}
    insurer.write()
    rows = len(table["plate"])

    def look(cell: str, **columns: list[str]) -> tuple[bool, list[str]]:
        found: list[CheckResult] = []
        write_table(insurer.table, {**table, "premium": [cell, *["5"] * (rows - 1)], **columns})
        fine = check_table(load_party(insurer.file), found.append)
        return fine, [f"{one.level} {one.text}" for one in found]

    for cell, said in (
        ("-1", "note table: reports have no present tariff: premium is below 0 in 1 row (row 2)"),
        ("", "note table: 1 row without premium (or with 0): reports compare the others"),
        ("x", "note table: reports leave out premium: table.csv: column 'premium'"),
    ):
        fine, told = look(cell, gender=["f"] * rows)
        assert fine and any(text.startswith(said) for text in told)
    # One that is misspelt would leave the column that was meant among the features.
    insurer.settings["data"]["protected"] = ["gendre"]
    insurer.write()
    fine, told = look("5", gender=["1"] * rows)
    assert not fine
    assert any(
        "no column 'gendre' (named by protected): did you mean 'gender'?" in text for text in told
    )


def test_premiums_of_a_year_are_multiplied() -> None:
    """By exposure and weight under poisson; under tweedie the weight is the size of the row."""
    data = DataSection(id=("a",), path=Path("t.csv"), current_premium="p", exposure="e", label="y")
    per_year = data.model_copy(update={"premium_per_exposure": True})
    weight, years = np.array([1.0, 2.0]), np.array([0.5, 0.25])
    every = np.arange(2)

    def size(section: DataSection, objective: str, exposure: np.ndarray | None) -> list[float]:
        one = Evaluation(every, weight, weight, exposure, {})
        return size_of_premium(section, objective, {"e": years}, one).tolist()

    assert size(data, "poisson", years) == [1, 2]  # a row of weight 2 is two rows
    assert size(per_year, "poisson", years) == [0.5, 0.5]
    assert size(per_year, "binary", None) == [0.5, 0.5]  # whose job does without the exposure
    assert size(data, "tweedie", None) == [1, 1]
    assert size(per_year, "tweedie", None) == [1, 2]


def test_a_job_over_rows_takes_no_column_for_reports(insurer: Party) -> None:
    columns = {"area": {"type": "category", "levels": ["n"]}, "density": {"type": "number"}}
    over_rows = {
        "job": {**JOB["job"], "partition": "rows"},
        "columns": columns,
        "secureboost": {"trees": 2},
    }
    insurer.settings["data"] = {
        **{k: v for k, v in insurer.settings["data"].items() if k != "categorical"},
        "protected": ["area"],
    }
    insurer.write()
    with pytest.raises(ConfigError, match=r"protected of \[data\] says is no feature") as raised:
        section_of(load_party(insurer.file).data, Job.model_validate(over_rows))
    assert "its own file says that column 'area' is no feature" in raised.value.for_peer


def test_a_feature_of_the_model_is_no_benchmark(federation: Federation, insurer: Party) -> None:
    insurer.settings["data"] |= {"current_premium": "density"}
    found = gathered(insurer)
    assert found.beside.premium is None and "a feature of this model" in found.beside.no_premium


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ({"current_premium": "claim"}, "label and current_premium must be two different columns"),
        ({"current_premium": "a", "columns": ["a"]}, "current_premium must not be listed under columns"),
        ({"protected": ["a"], "categorical": ["a"]}, "protected must not be listed under categorical"),
        ({"protected": ["a"], "report_by": ["a"]}, "protected and report_by must be two different"),
        ({"current_premium": "plate"}, "current_premium must not be listed under id"),
        ({"premium_per_exposure": True}, "premium_per_exposure is of a current_premium"),
        ({"current_premium": "a", "premium_per_exposure": True}, "exposure or a weight"),
    ],
)
def test_columns_for_reports_have_one_use(insurer: Party, lines: dict[str, object], why: str) -> None:
    insurer.settings["data"].pop("categorical")
    insurer.settings["data"] |= lines
    insurer.write()
    with pytest.raises(ConfigError, match=why):
        load_party(insurer.file)
