"""Jobs over rows of parties whose tables are made by queries."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import command
from federation import toml
from pool import CLIENTS, Pool, job, patients, split

from vfl.errors import PeerStopped
from vfl.jobs.record import load_record, verify_agreement
from vfl.jobs.scoring import score
from vfl.models.halves import AnyGuestHalf, GuestHalf
from vfl.models.kinds import load_half
from vfl.party.kept_query import KeptQuery

pytest.importorskip("duckdb")

QUERY = """select id, (days / 365.25) as age, dose, ward, died
    from data join wards using (code) where died is not null"""
TREES = {"trees": 3, "depth": 3, "min_child_rows": 20}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """The north has days in place of years and codes of wards, in parts by year, and rows too many."""
    folder = tmp_path_factory.mktemp("pool")
    tables = {name: table.sort_values("id") for name, table in split(patients(600)).items()}
    for table in tables.values():
        table["age"] = (table["age"] * 365.25).round() / 365.25
    pool = Pool(folder / "parties", folder, tables)
    home, own = pool.home("north"), tables["north"]
    (home / "table.csv").unlink()
    columns = own.assign(days=own["age"] * 365.25, code=own["ward"].str.upper()).drop(
        columns=["age", "ward", "visits", "years"]
    )
    for year, rows in (("2025", columns.iloc[200:]), ("2026", columns.iloc[:200])):
        part = home / "stays" / f"year={year}" / "part-0.parquet"
        part.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), part)
    pq.write_table(
        pa.table(
            {"id": ["X"], "dose": [1.0], "died": pa.nulls(1, pa.int64()), "days": [1.0], "code": ["A"]}
        ),
        part.with_name("part-1.parquet"),
    )
    wards = pd.DataFrame({"code": ["A", "B", "C", "ATTIC"], "ward": ["a", "b", "c", "attic"]})
    wards.to_csv(home / "wards.csv", index=False)
    data = pool.settings["north"]["data"]
    data |= {"path": "stays", "query": QUERY, "tables": {"wards": "wards.csv"}}
    return pool


@pytest.fixture(scope="module")
def model(pool: Pool) -> str:
    return pool.train(job(settings=TREES)).model


def half_of(pool: Pool, name: str, model: str) -> AnyGuestHalf:
    half = load_half(pool.store(name), model, GuestHalf)
    return replace(half, model=replace(half.model, parties=("all",)))


@pytest.mark.slow
def test_the_model_is_that_of_the_tables_themselves(pool: Pool, model: str, tmp_path: Path) -> None:
    plain = Pool(tmp_path / "plain", pool.folder.parent, pool.tables)
    expected = plain.train(job(settings=TREES)).model
    for name in CLIENTS:
        assert half_of(pool, name, model).model == half_of(plain, name, expected).model
        record, _ = load_record(pool.store(name), model)
        other, _ = load_record(plain.store(name), expected)
        assert record.rows == other.rows


def test_the_query_is_kept_and_signed_and_stays_at_home(pool: Pool, model: str) -> None:
    kept = half_of(pool, "north", model).query
    assert kept is not None and (kept.text, kept.over) == (QUERY, "files")
    for name in CLIENTS:
        _, agreement, words = verify_agreement(pool.site(name).party, model)
        assert set(words.values()) == {"signed"}
        assert agreement.queries == {"north": KeptQuery(kept.text, kept.over, kept.salt).digest.hex()}
        if name != "north":
            assert half_of(pool, name, model).query is None
            for path in (pool.home(name) / "vfl-store").rglob("*"):
                assert path.is_dir() or b"wards using" not in path.read_bytes()


def test_a_batch_is_scored_by_the_query_of_the_training(pool: Pool, model: str, tmp_path: Path) -> None:
    new = patients(60, seed=9)
    new["age"] = (new["age"] * 365.25).round() / 365.25
    columns = new.assign(days=new["age"] * 365.25, code=new["ward"].str.upper())
    columns.drop(columns=["age", "ward"]).to_parquet(tmp_path / "days.parquet", index=False)
    new.to_csv(tmp_path / "years.csv", index=False)
    found = []
    data = pool.settings["north"]["data"]
    for query in (QUERY, QUERY.replace("365.25", "1")):
        data["query"] = query
        out = tmp_path / "north.csv"
        place = tmp_path / "days.parquet"
        work = score(pool.site("north"), model, place, out, wait=0, show=pool.said["north"])
        assert asyncio.run(work).rows == 60
        found.append(pd.read_csv(out))
    data["query"] = QUERY
    assert any("by a query, and [data] has another one" in line for line in pool.said["north"].lines)
    out = tmp_path / "south.csv"
    asyncio.run(
        score(pool.site("south"), model, tmp_path / "years.csv", out, wait=0, show=pool.said["south"])
    )
    for one in found:
        pd.testing.assert_frame_equal(one, pd.read_csv(out).sort_values("id", ignore_index=True))


def test_doctor_looks_at_the_columns_of_the_job(pool: Pool) -> None:
    home = pool.home("north")
    pool.site("north")
    (home / "job.toml").write_text(toml(job(settings=TREES)))
    done = command("doctor", "north.toml", "--wait", "0", "--job", "job.toml", folder=home)
    lines = [line for line in done.out.splitlines() if "source" in line or "table" in line]
    assert lines[0] == "ok    source: stays: 3 files, 0.0 MB"
    assert lines[1] == "ok    source: a query over 4 files, which is kept with each model"
    assert any(
        line.startswith("ok    table: [data] query, 300 rows, 300 distinct ids") for line in lines
    )


def test_a_query_without_a_column_of_the_job_ends_it_for_all(pool: Pool) -> None:
    data = pool.settings["north"]["data"]
    data["query"] = QUERY.replace(", dose", "")
    try:
        with pytest.raises(PeerStopped, match=r"^north stopped the job: its table has no column 'dose'"):
            pool.train(job(settings=TREES))
    finally:
        data["query"] = QUERY
    said = "[data] query: no column 'dose' (named by [columns] of the job): "
    assert any(said in line for line in pool.said["north"].lines)
    assert not any("dose" in line for line in pool.said["south"].lines)
