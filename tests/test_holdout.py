"""Rows held out by a column of groups, of times, or both."""

from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from federation import JOB, Federation, make_tables, toml
from hypothesis import given
from hypothesis import strategies as st
from room import HOSTS, Room

from vfl.blocks import means
from vfl.errors import ConfigError, DataError, PeerLost
from vfl.jobs.check_result import CheckResult
from vfl.jobs.evaluation import RowParts, split_rows
from vfl.jobs.record import load_record
from vfl.jobs.report import gather, write_report
from vfl.jobs.table_check import check_table
from vfl.learn.holdout import (
    OneValue,
    RowSplit,
    SplitColumn,
    SplitColumns,
    column_shares,
    draw_split,
    join_groups,
    split_by,
    split_by_draws,
)
from vfl.models.kinds import expected_share
from vfl.net.peer import MemoryPeer
from vfl.party.config import Job, load_job, load_party
from vfl.party.sections import DataSection
from vfl.party.store import Store
from vfl.party.table import Table, Wanted, read_wanted

Places = list[int]


def column(place: Places, name: str = "c") -> SplitColumn:
    words = [f"v{i}" for i in range(max(place) + 1)]
    return SplitColumn(name, np.array(place, np.int64), words)


def split(
    group: Places | None = None,
    time: Places | None = None,
    *,
    holdout: float = 0.2,
    share: float = 0.0,
    entity: Places | None = None,
    seed: int = 0,
) -> RowSplit:
    rows = len(group if group is not None else time or [])
    by = SplitColumns(
        None if group is None else column(group, "household"),
        None if time is None else column(time, "week"),
    )
    draw = np.random.default_rng(seed).random(rows)
    about = np.arange(rows) if entity is None else np.array(entity)
    return split_by(by, about, draw, holdout, share)


def places(mask: np.ndarray, of: Places) -> list[int]:
    return sorted(set(np.array(of)[mask].tolist()))


PANEL = [(household, week) for household in range(40) for week in range(10)]
HOUSEHOLDS, WEEKS = ([one[i] for one in PANEL] for i in (0, 1))


# --- Which rows. ------------------------------------------------------------------------------------


def test_the_last_times_are_held_out_whole_and_those_before_them_decide_when_to_stop() -> None:
    found = split(time=WEEKS, holdout=0.2, share=0.25)
    assert [places(mask, WEEKS) for mask in (found.train, found.validation, found.held_out)] == [
        [0, 1, 2, 3, 4, 5],
        [6, 7],
        [8, 9],
    ]
    assert not found.left_out.any()
    # Of two numbers of values that are as near, the fewer rows; one at the least, and never all.
    for holdout, weeks in ((0.14, 1), (0.15, 1), (0.16, 2), (0.01, 1), (0.99, 9)):
        assert len(places(split(time=WEEKS, holdout=holdout).held_out, WEEKS)) == weeks
    lopsided = [0] * 5 + [1] * 95
    assert places(split(time=lopsided, holdout=0.2).held_out, lopsided) == [1]


def test_whole_groups_go_the_same_way() -> None:
    found = split(HOUSEHOLDS, holdout=0.2, share=0.25)
    parts = [set(places(mask, HOUSEHOLDS)) for mask in (found.train, found.validation, found.held_out)]
    assert [len(part) for part in parts] == [24, 8, 8]
    assert not set.intersection(*parts[:2]) | set.intersection(*parts[1:]) and not found.left_out.any()
    again, other = split(HOUSEHOLDS), split(HOUSEHOLDS, seed=1)
    assert np.array_equal(again.held_out, found.held_out)
    assert not np.array_equal(other.held_out, found.held_out)
    # A large group is as likely as others to be held out.
    groups = [0] * 30 + list(range(1, 11))
    often = sum(split(groups, holdout=0.1, seed=seed).held_out[0] for seed in range(200))
    assert often < 60


def test_rows_of_one_id_stay_together_with_their_groups() -> None:
    entity = [0, 0, 2, 2, 4, 4, 6, 7]
    group = [0, 0, 0, 1, 2, 2, 3, 4]  # the second vehicle has two owners
    assert join_groups(np.array(group), np.array(entity)).tolist() == [0, 0, 0, 0, 4, 4, 6, 7]
    often = join_groups(np.array([0] * 512 + [1]), np.array([0] * 511 + [511, 511]))
    assert (often == 0).all()
    for seed in range(20):
        found = split(group, entity=entity, holdout=0.3, share=0.4, seed=seed)
        for rows in ([0, 1, 2, 3], [4, 5]):
            for mask in (found.train, found.validation, found.held_out):
                assert len(set(mask[rows].tolist())) == 1
    # By time alone rows of one id are on either side.
    found = split(time=[0, 1] * 4, entity=entity, holdout=0.5)
    assert found.held_out.tolist() == [False, True] * 4


def test_of_both_are_held_out_the_last_times_of_groups_that_train_nothing() -> None:
    found = split(HOUSEHOLDS, WEEKS, holdout=0.3, share=0.25)
    for earlier, later in ((found.train, found.validation), (found.validation, found.held_out)):
        assert not set(places(earlier, HOUSEHOLDS)) & set(places(later, HOUSEHOLDS))
        assert max(places(earlier, WEEKS)) < min(places(later, WEEKS))
    assert found.held_out.sum() == 12 * 3 and places(found.held_out, WEEKS) == [7, 8, 9]
    assert found.train.sum() == 21 * 5 and found.left_out.sum() == 400 - 36 - 105 - 7 * 2


@given(
    rows=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 9)), min_size=1),
    uses=st.sampled_from(["group", "time", "both"]),
    holdout=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    share=st.sampled_from([0.0, 0.3]),
)
def test_no_group_and_no_time_is_in_two_parts(
    rows: list[tuple[int, int, int]], uses: str, holdout: float, share: float
) -> None:
    group, time, about = ([row[i] for row in rows] for i in range(3))
    entity = [about.index(one) for one in about]
    by_group, by_time = uses != "time", uses != "group"
    try:
        found = split(
            group if by_group else None,
            time if by_time else None,
            entity=entity,
            holdout=holdout,
            share=share,
        )
    except OneValue:
        return
    parts = [found.train, found.validation, found.held_out]
    assert (np.sum(parts, axis=0) <= 1).all()
    if uses != "both":
        assert (np.sum(parts, axis=0) == 1).all() and found.train.any()
        assert found.held_out.any() == (holdout > 0) and found.validation.any() == (share > 0)
    for i, one in enumerate(parts):
        for other in parts[i + 1 :]:
            if by_group:
                assert not set(places(one, group)) & set(places(other, group))
                assert not set(places(one, entity)) & set(places(other, entity))
            if by_time and one.any() and other.any():
                assert max(places(one, time)) < min(places(other, time))


def test_one_value_alone_cannot_be_shared_out() -> None:
    for use, name in (("group", "household"), ("time", "week")):
        with pytest.raises(OneValue, match=f"{use} '{name}' has the same value"):
            split(**{use: [0, 0, 0]})
    with pytest.raises(OneValue):  # two that a row of either joins
        split([0, 0, 1, 1], entity=[0, 1, 1, 3])
    with pytest.raises(OneValue):  # one for the holdout, and no second one to stop by
        split([0, 1], holdout=0.5, share=0.5)


def test_what_is_said_of_columns() -> None:
    found = split(HOUSEHOLDS, WEEKS, holdout=0.3)
    by = SplitColumns(column(HOUSEHOLDS, "household"), column(WEEKS, "week"))
    shares = column_shares(by, {"train": found.train, "held out": found.held_out})
    assert shares["time"].words == {"train": ["v0", "v6"], "held out": ["v7", "v9"]}
    assert shares["time"].values == {"train": 7, "held out": 3}
    assert shares["group"].values == {"train": 28, "held out": 12}
    assert [*shares["group"].words] == ["held out"] and len(shares["group"].words["held out"]) == 12


def test_a_share_that_whole_values_cannot_have_is_said() -> None:
    late = [0] * 30 + [1] * 70
    columns = SplitColumns(time=column(late, "quarter"))
    table = Table(
        Path("t.csv"),
        [],
        {},
        label=np.arange(100) % 2 * 1.0,
        weight=None,
        rows=100,
        warnings=[],
        split=columns,
    )
    rows, held_out = split_rows(table, np.arange(100), job(time="quarter", holdout=0.2))
    first, note = RowParts.of(table, np.arange(100), rows, held_out, 0.2).sentences
    assert first == "by time 'quarter': of its values the first 1 trains, the last 1 is held out"
    assert note.startswith("note: 70% of the rows are held out, where holdout = 0.2: no other number")
    assert len(RowParts.of(table, np.arange(100), rows, held_out, 0.6).sentences) == 1


# --- The columns of a table. ------------------------------------------------------------------------


def read(folder: Path, cells: dict[str, list[Any]], by: dict[str, str], **data: Any) -> Table:
    """A table of these columns, CSV if they are all text, else Parquet."""
    rows = len(next(iter(cells.values())))
    whole = {"id": [f"id{i}" for i in range(rows)], "y": [i % 2 for i in range(rows)], **cells}
    if all(isinstance(cell, str) for of in cells.values() for cell in of):
        path = folder / "policies.csv"
        lines = zip(*whole.values(), strict=True)
        path.write_text("\n".join([",".join(whole), *(",".join(map(str, line)) for line in lines)]))
    else:
        path = folder / "policies.parquet"
        pq.write_table(pa.table(whole), path)
    section = DataSection.model_validate({"path": path, "id": "id", "label": "y", **data})
    return read_wanted(section, Wanted("guest", True, split=by))


@pytest.mark.parametrize(
    ("cells", "order"),
    [
        (["9", "10", "9", "-1"], [1, 2, 1, 0]),
        (["1.5", "01.50", "1e1", "0"], [1, 1, 2, 0]),
        (["2026-12-31", "2026-02-01", "2026-12-31", "2025-01-01"], [2, 1, 2, 0]),
        (["2026-12", "2026-02", "2027-01", "2026-12"], [1, 0, 2, 1]),
        (["2026-W52", "2026-W02", "2026W03", "2027-W01"], [2, 0, 1, 3]),
        (["2026-Q4", "2026Q1", "2025-Q4", "2026-Q4"], [2, 1, 0, 2]),
        (
            ["2026-12-31T10:00", "2026-12-31 09:30:01", "2026-12-31T12:00+05:00", "2026-12-31"],
            [3, 2, 1, 0],
        ),
        ([2026, 2025, 2027, 2025], [1, 0, 2, 0]),
        ([date(2026, 1, 2), date(2026, 1, 1), date(2026, 1, 3), date(2026, 1, 1)], [1, 0, 2, 0]),
        ([datetime(2026, 1, 1, 5), datetime(2026, 1, 1), datetime(2026, 1, 1, 6)], [1, 0, 2]),
    ],
)
def test_times_are_numbers_dates_and_moments(tmp_path: Path, cells: list[Any], order: Places) -> None:
    one = read(tmp_path, {"week": cells, "x": cells}, {"time": "week"}, columns=[]).split.time
    assert one is not None and one.place.tolist() == order
    if isinstance(cells[0], str):
        assert one.words[order[0]] == cells[0]


def test_dates_by_the_party_file_are_times_too(tmp_path: Path) -> None:
    cells = {"day": ["31.01.2026", "01.02.2026", "15.01.2026"], "x": ["1", "2", "3"]}
    aged = {"day": {"as": "age", "at": date(2027, 1, 1), "order": "dmy"}}
    table = read(tmp_path, cells, {"time": "day"}, dates=aged)
    assert table.split.time is not None and table.split.time.place.tolist() == [1, 2, 0]
    assert "day" in table.features  # it is listed
    with pytest.raises(
        DataError, match=r"dates that are not written as 2026-12-31 in row 2 .*: write them so, or"
    ):
        read(tmp_path, cells, {"time": "day"}, columns=["x"])


def test_columns_by_which_rows_are_split_are_no_features_unless_listed(tmp_path: Path) -> None:
    cells = {"home": ["a", " b", "a ", "c"], "week": ["1", "2", "3", "4"], "x": ["1", "2", "3", "4"]}
    by = {"group": "home", "time": "week"}
    table = read(tmp_path, cells, by)
    assert list(table.features) == ["x"]
    assert table.split.group is not None and table.split.time is not None
    assert [table.split.group.words[i] for i in table.split.group.place] == ["a", "b", "a", "c"]
    assert list(read(tmp_path, cells, by, ignore=["week", "home"]).features) == ["x"]
    assert list(read(tmp_path, cells, by, columns=["x"]).features) == ["x"]
    assert list(read(tmp_path, cells, by, columns=["week", "x"]).features) == ["week", "x"]
    assert list(read(tmp_path, cells, by, categorical=["home"]).features) == ["home", "x"]
    assert list(read(tmp_path, cells, by, monotone={"week": "increasing"}).features) == ["week", "x"]
    # A group may be the id, which is none either.
    assert list(read(tmp_path, cells, {"group": "id"}, categorical=["home"]).features) == [
        "home",
        "week",
        "x",
    ]
    # Without a job that names them they are columns as others.
    assert list(read(tmp_path, cells, {}, categorical=["home"]).features) == ["home", "week", "x"]


@pytest.mark.parametrize(
    ("cells", "by", "said"),
    [
        (
            ["a", "", "NA", "b"],
            "group",
            "group 'c' is missing in 2 rows (rows 3, 4): fill it in, or take",
        ),
        (
            ["1", "2", "", "4"],
            "time",
            "time 'c' is missing in 1 row (row 4): fill it in, or take time out",
        ),
        (["1", "2", "soon", "4"], "time", "text that is no number in row 4"),
        (
            ["2026-01-01", "2026-02-30", "2026-01-02"],
            "time",
            "no date as others are in row 3: a time is",
        ),
        (
            ["2026-01-01", "7", "2026-01-02"],
            "time",
            "no date as others are in row 3: a time is a number",
        ),
        (["1", "inf", "2"], "time", "has no finite number in row 3"),
        ([[1], [2]], "group", "group 'c' is of type list<element: int64>: write it as text"),
        ([time(1), time(2)], "time", "time 'c' is of type time64[us]: write it as text"),
    ],
)
def test_a_cell_that_is_none_is_named_by_its_row(
    tmp_path: Path, cells: list[Any], by: str, said: str
) -> None:
    with pytest.raises(DataError) as raised:
        read(tmp_path, {"c": cells}, {by: "c"}, columns=[])
    text = str(raised.value)
    assert said in text and "soon" not in text and "02-30" not in text and "\n" not in text


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no column 'weak' \(named by time in \[job\]\): did you mean 'week'"
    ):
        read(tmp_path, {"week": ["1", "2"]}, {"time": "weak"})


# --- The job file. ----------------------------------------------------------------------------------


def job(group: str | None = None, time: str | None = None, **section: Any) -> Job:
    of = {key: name for key, name in (("group", group), ("time", time)) if name is not None}
    return Job.model_validate({**JOB, "job": {**JOB["job"], **of, **section}})


def test_no_other_party_is_told_of_the_columns() -> None:
    plain, named = job(), job("household", "week")
    assert named.canonical == plain.canonical and named.digest == plain.digest
    assert named.settings == plain.settings
    # As it was signed before there were such keys.
    assert plain.digest == "596f9471c1e98ab0108d06c0692a49951240c874e44241ab169717eaa82ee404"
    asked = plain.canonical.replace(b'"holdout"', b'"group":"x","holdout"')
    with pytest.raises(ConfigError, match="not in canonical form"):
        Job.from_canonical(asked)


def test_which_share_of_the_rows_trains_is_known_before_the_job() -> None:
    found = split(HOUSEHOLDS, WEEKS, holdout=0.3, share=0.25)
    both = Job.model_validate(
        {
            "job": {**JOB["job"], "group": "g", "time": "t", "holdout": 0.3},
            "secureboost": {"validation_share": 0.25},
        }
    )
    assert expected_share(both) == pytest.approx(0.7**2 * 0.75**2)
    assert found.train.mean() == pytest.approx(expected_share(both), abs=0.02)
    assert expected_share(job("g", holdout=0.3)) == expected_share(job(holdout=0.3)) == 0.7


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"group": "week", "time": "week"}, "group and time must be two different columns"),
        ({"group": ""}, "[job] group must be"),
        ({"time": 3}, "[job] time must be"),
        (
            {"time": "week", "holdout": 0.0},
            "[job] time splits no row with holdout = 0: set a holdout or",
        ),
        ({"groups": "week"}, "unknown key 'groups' in [job]: did you mean 'group'?"),
    ],
)
def test_job_files_that_say_nothing_clear(tmp_path: Path, section: dict[str, Any], said: str) -> None:
    file = tmp_path / "claims.toml"
    file.write_text(toml({**JOB, "job": {**JOB["job"], **section}}))
    with pytest.raises(ConfigError) as raised:
        load_job(file)
    assert said in str(raised.value)


def test_a_column_of_another_use_is_refused(tmp_path: Path) -> None:
    data = DataSection(path=tmp_path / "t.csv", id=("plate",), label="claim", weight="w")
    with pytest.raises(ConfigError, match=r"\[job\] group names the label of the party file"):
        job(group="claim").splits(data)
    with pytest.raises(ConfigError, match=r"\[job\] time names the weight"):
        job(time="w").splits(data)
    assert job("plate", "week").splits(data) == {"group": "plate", "time": "week"}


# --- Jobs. ------------------------------------------------------------------------------------------

TABLES = make_tables(rows=160, seed=11)
ROWS = len(TABLES["insurer"]["plate"])
HOMES = [f"household-{i % 37}-secret" for i in range(ROWS)]
DAYS = [f"{1 + i % 9}" for i in range(ROWS)]
BOTH: dict[str, Any] = {**JOB, "job": {**JOB["job"], "group": "household", "time": "weekday"}}
TIME: dict[str, Any] = {**JOB, "job": {**JOB["job"], "time": "weekday"}}
GROUP: dict[str, Any] = {**JOB, "job": {**JOB["job"], "group": "household"}}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Room]:
    insurer = {**TABLES["insurer"], "household": HOMES, "weekday": DAYS}
    tables = {**TABLES, "insurer": insurer}
    folder = tmp_path_factory.mktemp("holdout")
    made = Room(Federation(folder / "room", keys, guest_listens=True, tables=tables))
    made.federation.guest.settings["data"]["ignore"] = ["household"]
    with pytest.MonkeyPatch.context() as patch:
        made.patch(patch)
        made.align(name="q4")
        yield made


def held_out_rows(room: Room, model: str) -> list[int]:
    _, evaluation = load_record(Store(room.federation.guest.store), model)
    assert evaluation is not None
    return sorted(evaluation.rows.tolist())


def test_a_job_holds_out_the_last_times(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    name = room.train(TIME)
    record, _ = load_record(Store(room.federation.guest.store), name)
    late = {row for row in range(ROWS) if int(DAYS[row]) >= 8}
    rows = set(held_out_rows(room, name))
    assert rows <= late and len(rows) == record.rows["held out"] and "left out" not in record.rows
    assert record.split["time"].words == {"train": ["1", "7"], "held out": ["8", "9"]}
    assert record.split["time"].column == "weekday" and not record.job["job"].keys() & {"group", "time"}
    assert set(gather(load_party(room.federation.guest.file), name).factors) == {"area", "density"}
    said = "by time 'weekday': of its values the first 7 train, the last 2 are held out"
    assert said in room.said["insurer"].lines
    assert room.score(name).rows == room.rows  # a batch without these columns
    # What a host is told, and keeps, has nothing of it.
    for host in HOSTS:
        theirs, _ = load_record(Store(room.federation.parties[host].store), name)
        assert theirs.split == {} and theirs.job == record.job
        assert not any("weekday" in line for line in room.said[host].lines)


def test_the_report_says_which_times_were_held_out(room: Room, tmp_path: Path) -> None:
    name = room.train(GROUP)
    file = room.federation.guest.file
    record, _ = load_record(Store(room.federation.guest.store), name)
    homes = {HOMES[row] for row in held_out_rows(room, name)}
    assert len(homes) == record.split["group"].values["held out"] and 5 < len(homes) < 14
    assert record.split["group"].values["train"] + len(homes) == 37
    page = write_report(load_party(file), name, tmp_path / "report").page.read_text()
    assert f"those of {len(homes)} of the values of household" in page
    theirs = load_party(room.federation.parties["registry"].file)
    assert "household" not in write_report(theirs, name, tmp_path / "hosts").page.read_text()


def test_nothing_of_the_columns_is_on_the_wire_and_a_job_goes_on_with_the_same_rows(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire, pair, kinds = bytearray(), MemoryPeer.pair, Counter[str]()
    lose = False

    def observe(direction: str, kind: str, payload: bytes) -> None:
        if direction == "sent":
            wire.extend(payload)
            kinds[kind] += 1
            if lose and kind == "TreeStart" and kinds[kind] == 2 * len(HOSTS):
                raise PeerLost("the connection broke")

    def observed(one: str, other: str) -> tuple[MemoryPeer, MemoryPeer]:
        peers = pair(one, other)
        peers[0].observers.append(observe)
        return peers

    monkeypatch.setattr(MemoryPeer, "pair", observed)
    store = Store(room.federation.guest.store)
    name = room.train(BOTH)
    whole, rows = load_record(store, name)[0], held_out_rows(room, name)
    assert {HOMES[row] for row in rows} and {DAYS[row] for row in rows} == {"8", "9"}
    assert whole.rows["left out"] and sum(whole.rows.values()) == whole.aligned_rows
    for secret in (b"household", b"weekday", b"-secret"):
        assert secret not in wire and b"binary" in wire

    lose = True
    kinds.clear()
    with pytest.raises(PeerLost):
        room.train(BOTH)
    again = room.train(BOTH)
    assert room.said["insurer"].has(f"going on with {again} after tree 1 of 2")
    record, _ = load_record(store, again)
    assert (record.rows, record.split, held_out_rows(room, again)) == (whole.rows, whole.split, rows)


# --- Before a job. ----------------------------------------------------------------------------------


def test_doctor_says_what_a_job_would_hold_out(room: Room) -> None:
    guest = room.federation.guest
    guest.write()
    party = load_party(guest.file)

    def said(*levels: str, **section: Any) -> tuple[bool, list[str]]:
        found: list[CheckResult] = []
        healthy = check_table(party, found.append, job(**section))
        return healthy, [one.line for one in found if one.level in levels]

    healthy, lines = said("note", "FAIL", time="weekday")
    assert healthy and any("of all rows that have an id 126 train, 34 held out" in one for one in lines)
    assert any("by time 'weekday': of its values the first 7 train, the last 2" in one for one in lines)
    healthy, lines = said("FAIL", group="area")
    assert not healthy and "group 'area' is missing in" in lines[0] and len(lines) == 1
    healthy, lines = said("FAIL", time="household")
    assert not healthy and "time 'household' has text that is no number" in lines[0]
    healthy, lines = said("FAIL", group="claim")
    assert not healthy and "[job] group names the label" in lines[0]

    (guest.folder / "by-week.toml").write_text(toml(TIME))
    done = guest.run("doctor", "--wait", "0", "--job", "by-week.toml")
    assert "job claims: by time 'weekday'" in done.out
    host = room.federation.parties["registry"]
    host.write()
    (host.folder / "by-week.toml").write_text(toml(TIME))
    host.run("doctor", "--job", "by-week.toml").failed(2, "is the party file of a host")


@pytest.mark.parametrize("entities", [False, True])
def test_draws_of_many_rows_are_those_of_all_at_once(entities: bool):
    """Whatever rows are chosen, in whatever order, and however few are drawn for together."""
    rng = np.random.default_rng(0)
    chosen, first = rng.permutation(1000)[:700], np.minimum(np.arange(1000), rng.integers(0, 1000, 1000))
    draw = np.random.default_rng([5, 1]).random(1000)
    due = draw_split(draw[first[chosen] if entities else chosen], 0.2, 0.25)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(means, "_AT_ONCE", 64)
        found = split_by_draws([5, 1], 1000, chosen, first if entities else None, (0.2, 0.25))
    for name in ("train", "validation", "held_out"):
        assert getattr(found, name).tolist() == getattr(due, name).tolist()
    assert found.train.any() and found.validation.any() and found.held_out.any()
