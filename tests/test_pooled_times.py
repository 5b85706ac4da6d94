"""Rows that lie at several clients, held out by groups and by times."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from clients import with_ends
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st
from plain_totals import with_totals
from pool import CLIENTS, SERVER, Pool, job, patients, split
from test_pooled_estimators import DIED, OWNER, ROWS, X, logistic, trees

from vfl import simulate_rows
from vfl.errors import ConfigError, DataError, InputError, PeerError, PeerLost, PeerStopped
from vfl.estimators import pool as estimators
from vfl.jobs.check_result import CheckResult
from vfl.jobs.record import load_record
from vfl.jobs.report import gather, write_report
from vfl.jobs.table_check import check_table
from vfl.learn.holdout import (
    Cuts,
    SplitColumn,
    SplitColumns,
    draw_split,
    group_draws,
    split_at,
    split_by,
)
from vfl.models.halves import GuestHalf
from vfl.models.kinds import load_half
from vfl.party.config import Job, load_party
from vfl.party.sections import DataSection
from vfl.party.table import Wanted, read_wanted
from vfl.protocols.pooled import adding
from vfl.protocols.pooled.adding import Absences, MaskingAdder
from vfl.protocols.pooled.bins import LEAST_ROWS
from vfl.protocols.pooled.times import common_cuts
from vfl.protocols.pooled.totals import Totals

TREES = {"trees": 2, "depth": 2, "min_child_rows": 20}


def found(times: list[np.ndarray], holdout: float, share: float = 0.0, **options: Any):
    """The cuts that clients find, and the totals that each of them is told."""
    names = [f"c{i}" for i in range(len(times))]
    dated, draws = options.get("dated", [False] * len(times)), options.get("draws", [None] * len(times))

    def role(adder):
        at = names.index(adder.name)
        return common_cuts(Totals(adder), (times[at], dated[at]), draws[at], (holdout, share))

    cuts, totals = with_totals(names, role, options.get("change", lambda what, total: total))
    assert all(one == cuts[0] for one in cuts)
    return cuts[0], totals


@example_settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9, unique=True),
    st.integers(0, 10**6),
    st.floats(0.01, 0.95),
    st.sampled_from([0.0, 0.2, 0.5]),
)
def test_cuts_of_times_of_many_rows_are_those_of_all_rows_in_one_place(values, seed, holdout, share):
    rng = np.random.default_rng(seed)
    times = np.sort(np.array(values))
    place = np.repeat(np.arange(len(times)), rng.integers(LEAST_ROWS + 1, 40, len(times)))
    owner = rng.integers(0, 3, len(place))
    column = SplitColumn("week", place, [""] * len(times), times)
    rows = np.arange(len(place))
    try:
        due = split_by(SplitColumns(time=column), rows, np.zeros(len(rows)), holdout, share)
    except ValueError:  # one time is left, and cannot be shared out
        with pytest.raises(DataError, match="have the same time"):
            found([column.times[owner == k] for k in range(3)], holdout, share)
        return
    cuts, _ = found([column.times[owner == k] for k in range(3)], holdout, share)
    split = split_at(None, column.times, cuts, holdout, share)
    for name in ("train", "validation", "held_out"):
        assert np.array_equal(getattr(split, name), getattr(due, name)), name


@pytest.mark.parametrize("rows", [2, 9, 40, 3000])
@pytest.mark.parametrize("holdout", [0.001, 0.2, 0.999])
def test_of_times_of_single_rows_no_cell_of_few_is_cut(rows: int, holdout: float) -> None:
    """Moments to the second: no total is of a part of so few rows, and the share is right to as many."""
    times = 1.7e9 + np.random.default_rng(rows).permutation(rows) * 997.0
    cuts, totals = found(np.array_split(times, 3), holdout)
    held_out = int((times >= cuts.held_out).sum())
    assert 0 < held_out < rows and abs(held_out - holdout * rows) <= LEAST_ROWS
    rounds = [total for what, total in totals if "round" in what]
    assert len(rounds) <= 32
    for total in rounds[:-1]:  # each is a quarter of the one before, which had more
        assert total.sum() > min(LEAST_ROWS, rows - 1)


def test_a_cut_is_no_matter_of_how_rows_lie_at_clients() -> None:
    times = np.random.default_rng(0).integers(0, 50, 800).astype(float)
    whole, _ = found([times], 0.2, 0.2)
    assert found([times[:1], times[1:500], times[:0], times[500:]], 0.2, 0.2)[0] == whole
    assert found([np.sort(times)[:400], np.sort(times)[400:]], 0.2, 0.2)[0] == whole


def test_times_that_clients_cannot_share_out() -> None:
    numbers, dates = np.arange(30.0), 1.7e9 + np.arange(30) * 86400.0
    with pytest.raises(ConfigError, match="has dates at some parties and numbers at others"):
        found([numbers, dates], 0.2, dated=[False, True])
    found([numbers, dates[:0]], 0.2, dated=[False, True])  # who has no row has no kind
    with pytest.raises(DataError, match="all rows of all parties that could be kept back by time have"):
        found([np.ones(20), np.ones(30)], 0.2)
    with pytest.raises(DataError, match="kept back by time"):
        found([np.ones(0), np.ones(0)], 0.2)


@pytest.mark.parametrize("lie", [-1, 5000])
def test_counts_that_cannot_be_are_refused(lie: int) -> None:
    def change(what, total):
        return np.full_like(total, lie) if "round 3" in what else total

    with pytest.raises(PeerError, match="the total of times held out, round 3 cannot be"):
        found([np.arange(500.0), np.arange(300.0)], 0.2, change=change)


def test_others_find_the_same_cuts_when_a_client_is_gone_at_any_moment() -> None:
    rng = np.random.default_rng(3)
    times = {name: rng.integers(0, 60, 300).astype(float) for name in ("ada", "bea", "cleo")}
    shares = 0.2, 0.25

    def role(name):
        return lambda adder: common_cuts(Totals(adder), (times[name], False), None, shares)

    roles = {name: role(name) for name in times}
    whole = with_ends(roles, Absences(without=True))
    assert whole["ada"] == whole["bea"] == whole["cleo"]
    for after in range(2, whole["frames"]["bea"], 23):
        ends = with_ends(roles, Absences(without=True), cut={"bea": after})
        cuts = ends["ada"]
        assert cuts == ends["cleo"]
        for name in ("ada", "cleo"):
            split = split_at(None, times[name], cuts, *shares)
            assert split.train.any() and split.validation.any() and split.held_out.any()


@pytest.mark.parametrize("seed", range(8))
def test_any_counts_of_one_client_end_in_an_error_or_in_cuts(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def change(what, total):
        return total if "kinds" in what else total + rng.integers(-50, 400, total.shape)

    try:
        cuts, _ = found([np.arange(500.0), np.arange(300.0)], 0.2, 0.2, change=memoised(change))
    except (PeerError, DataError):
        return
    assert np.isfinite([cuts.held_out, cuts.validation]).all()


def memoised(change):
    """The same change of a total at all clients."""
    made: dict[str, np.ndarray] = {}

    def changed(what, total):
        return made.setdefault(what, change(what, total))

    return changed


def test_a_group_goes_the_same_way_wherever_its_rows_are() -> None:
    words = [f"H{i}" for i in range(2000)]
    whole = SplitColumn("household", np.arange(2000), words)
    draw = group_draws(whole, np.arange(2000), 7)
    some = np.array([5, 1, 900])
    part = SplitColumn("household", np.array([2, 0, 1, 0]), [words[i] for i in some[[1, 2, 0]]])
    own = group_draws(part, np.arange(4), 7)
    assert own.tolist() == draw[[5, 1, 900, 1]].tolist()
    assert abs((draw < 0.3).mean() - 0.3) < 0.04 and abs(draw.mean() - 0.5) < 0.02
    assert not np.array_equal(group_draws(whole, np.arange(2000), 8), draw)
    # Rows about one thing go with the group of theirs that is drawn first.
    joined = group_draws(part, np.array([0, 0, 2, 3]), 7)
    assert joined[0] == joined[1] == joined[3] == min(own[0], own[1]) and joined[2] == own[2]


def test_draws_alone_split_as_ever() -> None:
    draw = np.random.default_rng(1).random(500)
    ours, due = split_at(draw, None, Cuts(), 0.3, 0.25), draw_split(draw, 0.3, 0.25)
    for name in ("train", "validation", "held_out"):
        assert np.array_equal(getattr(ours, name), getattr(due, name))


# --- Estimators --------------------------------------------------------------------------------------


def kept_back(monkeypatch, **given) -> np.ndarray:
    """Which rows decide when to stop."""
    seen = []
    drawn = simulate_rows._drawn

    async def watched(task):
        seen.append(await drawn(task))
        return seen[-1]

    with monkeypatch.context() as patch:
        patch.setattr(simulate_rows, "_drawn", watched)
        trees(trees=1, depth=1, validation_share=0.25).fit(X, DIED, **given)
    (rows,) = seen
    assert not (rows.train & rows.validation).any()
    return rows.validation


def test_rows_to_stop_by_are_whole_groups_and_the_last_times_of_all_parties(monkeypatch):
    homes, weeks = np.arange(ROWS) % 97, np.arange(ROWS) // 20
    kept = kept_back(monkeypatch, groups=homes)
    assert not set(homes[kept]) & set(homes[~kept]) and 0.1 < kept.mean() < 0.4
    late = weeks >= 23  # of 22 and 23 as near to a quarter, the fewer rows
    assert np.array_equal(kept_back(monkeypatch, time=weeks), late)
    days = pd.Timestamp("2026-01-01") + pd.to_timedelta(weeks, unit="D")
    for same in (days, [f"{day:%Y-%m-%d}" for day in days], weeks * 0.5):
        assert np.array_equal(kept_back(monkeypatch, time=same), late)
    both = kept_back(monkeypatch, groups=homes, time=weeks)
    assert np.array_equal(both, kept & late)
    for by, text in (
        ({"groups": np.ones(ROWS)}, "groups has the same value in all rows"),
        ({"time": ["2026-01-01"] * ROWS}, "time has the same value in all rows"),
        ({"time": ["soon"] * ROWS}, "time has text that is no time"),
    ):
        with pytest.raises(InputError, match=text):
            kept_back(monkeypatch, **by)
    for model in (trees(), logistic()):
        with pytest.raises(ConfigError, match="groups= says which rows validation_share keeps back"):
            model.fit(X, DIED, groups=homes)


def test_a_comparison_by_groups_tries_models_on_groups_that_are_new(monkeypatch):
    homes, folds = np.arange(ROWS) % 50, []
    whole = estimators._Rows.folds

    def watched(rows, count, seed):
        folds.append(whole(rows, count, seed))
        return folds[-1]

    monkeypatch.setattr(estimators._Rows, "folds", watched)
    whose = np.where(OWNER == "west", "south", OWNER)
    worth = logistic(alpha=0.01, parties=None).compare(
        X[["age", "dose", "ward"]], DIED, whose, groups=homes, cv=3
    )
    assert worth["auc_federated"].notna().all()
    (fold,) = folds
    assert set(fold) == {0, 1, 2}
    assert all(len(set(fold[homes == home])) == 1 for home in range(50))


def times_in(folder: Path, cells: list[str], **keys: Any) -> SplitColumn:
    path = folder / "t.csv"
    path.write_text("id,week\n" + "".join(f"P{i},{cell}\n" for i, cell in enumerate(cells)))
    data = DataSection.model_validate({"path": path, "id": ("id",), **keys})
    time = read_wanted(data, Wanted("guest", False, split={"time": "week"})).split.time
    assert time is not None
    return time


def test_times_that_parties_write_in_other_ways_are_the_same_moments(tmp_path: Path) -> None:
    iso = times_in(tmp_path, ["2026-01-05", "2026-01-12", "2025-12-29"])
    assert iso.dated and iso.times.tolist() == [1767571200.0, 1768176000.0, 1766966400.0]
    weeks = times_in(tmp_path, ["2026-W02", "2026-W03", "2026-W01"])
    moments = times_in(tmp_path, [f"2026-01-{day}T00:00:00Z" for day in ("05", "12")] + ["2025-12-29"])
    dmy = {"dates": {"week": {"as": "year", "order": "dmy"}}}  # whatever it is as a feature
    german = times_in(tmp_path, ["05.01.2026", "12.01.2026", "29.12.2025"], **dmy)
    for same in (weeks, moments, german):
        assert same.dated and np.array_equal(same.times, iso.times)
    numbers = times_in(tmp_path, ["2", "10", "1"])
    assert not numbers.dated and numbers.times.tolist() == [2.0, 10.0, 1.0]


# --- Jobs ------------------------------------------------------------------------------------------


def stays(rows: int = 400) -> pd.DataFrame:
    """A person has several rows, some of them at another party."""
    rng = np.random.default_rng(5)
    table = patients(rows)
    table["person"] = rng.choice([f"N{i}" for i in range(rows // 4)], rows)
    table["week"] = [f"2026-W{week:02}" for week in rng.integers(1, 31, rows)]
    return table


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    folder = tmp_path_factory.mktemp("times")
    made = Pool(folder / "pool", folder, split(stays()))
    for name in (*CLIENTS, SERVER):
        made.settings[name]["party"]["reconnect"] = 20
    return made


def by_both(**more: Any) -> dict[str, Any]:
    settings = TREES | {"validation_share": 0.2, "early_stopping_rounds": 2}
    return job(settings=settings, holdout=0.3, group="person", time="week", **more)


def held_out_of(pool: Pool, model: str) -> dict[str, pd.DataFrame]:
    """The rows that each party has held out."""
    rows = {}
    for name in pool.clients:
        record, evaluation = load_record(pool.store(name), model)
        assert evaluation is not None
        rows[name] = pool.tables[name].iloc[evaluation.rows]
        assert len(rows[name]) == record.rows["held out"]
    return rows


@pytest.fixture(scope="module")
def by_time(pool: Pool) -> str:
    return pool.train(job(settings=TREES, holdout=0.3, time="week")).model


def test_all_parties_hold_out_the_last_weeks_of_all(pool: Pool, by_time: str) -> None:
    held_out = held_out_of(pool, by_time)
    weeks = pd.concat(pool.tables.values())["week"]
    first = min(one["week"].min() for one in held_out.values())
    assert abs((weeks >= first).sum() - 0.3 * len(weeks)) == min(
        abs((weeks >= week).sum() - 0.3 * len(weeks)) for week in weeks.unique()
    )
    for name, table in pool.tables.items():
        assert len(held_out[name]) == (table["week"] >= first).sum()
        record, _ = load_record(pool.store(name), by_time)
        assert (
            record.split["time"].words["held out"][0] >= first > record.split["time"].words["train"][-1]
        )
        assert any("by time 'week': of its values the first" in line for line in pool.said[name].lines)
        assert not any(week in line for line in pool.said[name].lines for week in table["week"].unique())


def test_the_report_says_which_weeks_they_are(pool: Pool, by_time: str, tmp_path: Path) -> None:
    party = load_party(pool.home("north") / "north.toml")
    assert gather(party, by_time).split["time"].column == "week"
    page = write_report(party, by_time, tmp_path / "report").page.read_text()
    assert "2026-W30" in page and "week" in page
    assert "common_times" in {one.name for one in gather(party, by_time).gave_away}


@pytest.mark.slow
def test_by_both_no_person_and_no_week_trains_and_is_held_out(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any two parties; and a job that lost a party goes on with the same rows."""
    led = pool.train(by_both())
    held_out = pd.concat(held_out_of(pool, led.model).values())
    train, left = [], 0
    for name, table in pool.tables.items():
        record, _ = load_record(pool.store(name), led.model)
        left += record.rows["left out"]
        assert record.rows["validation"] > 0
        assert sum(record.rows.values()) == len(table)
        train.append((name, record.split))
    assert left and len(held_out) > 10
    first = held_out["week"].min()
    for _, shares in train:
        assert shares["time"].words["train"][-1] < first
    draws = {
        person: group_draws(
            SplitColumn("person", np.zeros(1, np.int64), [person]), np.zeros(1, np.int64), 0
        )[0]
        for person in stays()["person"].unique()
    }
    for name, table in pool.tables.items():
        late = (table["week"] >= first) & (table["person"].map(draws) < 0.3)
        assert len(held_out_of(pool, led.model)[name]) == late.sum()
    whole = [load_half(pool.store(name), led.model, GuestHalf).model for name in pool.clients]

    asked: list[str] = []
    left_at, total = {"calls": 2}, MaskingAdder.total

    async def lose(adder: MaskingAdder, values: Any, what: str) -> Any:
        asked.append(what)
        if adder.name == "south" and what.startswith("level 0"):
            left_at["calls"] -= 1
            if left_at["calls"] == 0:
                adder._server.drop()  # type: ignore[attr-defined]
                raise PeerLost("the connection to the server broke", passing=True)
        return await total(adder, values, what)

    monkeypatch.setattr(adding.MaskingAdder, "total", lose)
    again = pool.train(by_both(), fresh=True)
    assert [load_half(pool.store(name), again.model, GuestHalf).model for name in pool.clients] == whole
    # The cuts are found once: who goes on has them from the checkpoint.
    assert asked.count("kinds of times") == len(CLIENTS) and left_at["calls"] <= 0


def test_times_that_are_written_apart_end_the_job(pool: Pool) -> None:
    table = pool.tables["west"]
    as_numbers = table.assign(week=table["week"].str[-2:].astype(int))
    as_numbers.to_csv(pool.home("west") / "table.csv", index=False)
    try:
        with pytest.raises(PeerStopped, match="has dates at some parties and numbers at others"):
            pool.train(job(settings=TREES, time="week"))
    finally:
        table.to_csv(pool.home("west") / "table.csv", index=False)


def test_a_party_that_lacks_the_column_says_so_before_anything_starts(pool: Pool) -> None:
    with pytest.raises(PeerStopped):
        pool.train(job(settings=TREES, group="hausehold"))
    assert any(
        "no column 'hausehold' (named by group in [job])" in line for line in pool.said["north"].lines
    )


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ({"group": "person"}, "by group 'person': of its values"),
        ({"time": "week"}, "those are held out whose 'week' is among the last of all parties"),
    ],
)
def test_doctor_says_what_a_job_would_hold_out(pool: Pool, by: dict[str, str], said: str) -> None:
    results: list[CheckResult] = []
    pool.site("north")
    party = load_party(pool.home("north") / "north.toml")
    assert check_table(party, results.append, Job.model_validate(job(settings=TREES, **by)))
    assert any(said in result.text for result in results)


def test_all_parties_see_by_which_columns_rows_are_split() -> None:
    made = Job.model_validate(by_both())
    assert made.settings["job"]["group"] == "person"  # type: ignore[index]
    assert Job.from_canonical(made.canonical) == made
    plain = Job.model_validate(job(settings=TREES))
    assert not {"group", "time"} & set(plain.settings["job"])  # type: ignore[call-overload]
