"""What the service answers is what `vfl score` writes, bit for bit."""

import asyncio
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quotes import DATA, Made, Rows, batch, made, some_rows

from vfl.online.body import parse_score, to_json
from vfl.online.cells import IdCells, NumberCells, Problems
from vfl.online.lookups import SharedLookups
from vfl.online.rows import RepeatedKeys, RowReader, RowsRefused
from vfl.online.served import Asked, ServedHost, ServedModel
from vfl.party.keys import all_keys
from vfl.party.online_section import OnlineHostSection
from vfl.party.reading import Reading
from vfl.party.sections import DataSection
from vfl.party.sources.arrow import without
from vfl.party.sources.numerals import parse
from vfl.party.sources.source import MISSING
from vfl.party.table import Table

KINDS = [
    *(("secureboost", label) for label in ("binary", "poisson", "gamma", "tweedie", "squared")),
    *(("glm", label) for label in ("logistic", "poisson", "gamma", "tweedie", "gaussian")),
]
OLD = OnlineHostSection(max_age=3650)


def served(model: Made) -> ServedModel:
    hosts = {
        name: ServedHost(SharedLookups(one, 5.0, 0.0, print), OLD)
        for name, one in model.directories().items()
    }
    reader = RowReader(DATA, model.half)
    return ServedModel(model.half, reader, hosts, ThreadPoolExecutor(1), True)


def answered(model: ServedModel, rows: Rows, asked: Asked) -> list[dict[str, Any]]:
    """The results as a client reads them, of rows as a client writes them."""
    request = parse_score(json.dumps({"rows": rows}).encode(), 1000)
    outcome = asyncio.run(model.score(request.rows, asked))
    return json.loads(to_json(outcome.answer))["results"]


def check(found: list[dict[str, Any]], expected: dict[str, list[Any]], rows: Rows) -> None:
    """Each number of the answer is that of the batch; nothing differs, not even the last bit."""
    predicted = expected.get("probability", expected.get("prediction"))
    assert predicted is not None and len(found) == len(rows)
    for row, result in enumerate(found):
        assert result["prediction"] == predicted[row]
        assert " ".join(result["unknown_to"]) == expected["unknown_to"][row]
        assert ("expected" in result) == ("years" in rows[row])
        if "expected" in result:
            assert result["expected"] == expected["expected"][row]
        if "reasons" in expected:
            assert (result["score"], result["base"]) == (expected["score"][row], expected["base"][row])
            assert result["reasons"] == expected["reasons"][row]
            parts = {name: values[row] for name, values in expected.items() if ":" in name}
            assert {f"contribution:{n}": v for n, v in result["contributions"].items()} == parts


@pytest.mark.parametrize(("kind", "label"), KINDS)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 30))
def test_scores_are_those_of_the_batch(
    tmp_path: Path, kind: str, label: str, seed: int, rows: int
) -> None:
    model = made(kind, label)
    sent = some_rows(np.random.default_rng(seed), rows, offset=label == "poisson")
    expected = batch(model, sent, tmp_path, explain=True)
    service = served(model)
    check(answered(service, sent, Asked(explain=True)), expected, sent)
    plain = {
        name: values
        for name, values in expected.items()
        if name in ("probability", "prediction", "expected", "unknown_to")
    }
    check(answered(service, sent, Asked()), plain, sent)
    # A row alone is scored as it is among others.
    for row in range(min(rows, 3)):
        alone = {name: values[row : row + 1] for name, values in plain.items()}
        check(answered(service, sent[row : row + 1], Asked()), alone, sent[row : row + 1])


def test_a_model_of_the_guest_alone_asks_for_no_id(tmp_path: Path) -> None:
    model = made("secureboost", "binary", ())
    sent = some_rows(np.random.default_rng(3), 12)
    expected = batch(model, sent, tmp_path)
    without = [{name: cell for name, cell in row.items() if name != "plate"} for row in sent]
    check(answered(served(model), without, Asked()), expected, without)


def test_unknown_levels_are_said_by_row_and_column() -> None:
    rows = [
        {"plate": "AB1", "age": 40, "born": None, "area": area}
        for area in ("urban", "moon", None, "URBAN ")
    ]
    found = answered(served(made()), rows, Asked())
    assert [result.get("unknown_levels") for result in found] == [None, ["area"], None, None]


GOOD = {"plate": "AB1", "age": 40, "born": "1.2.1980", "area": "urban"}


@pytest.mark.parametrize(
    ("change", "column", "said"),
    [
        ({"age": "secret-7"}, "age", "text that is no number"),
        ({"age": [1]}, "age", "must be a number or null"),
        ({"age": {"a": 1}}, "age", "must be a number or null"),
        ({"age": 10**400}, "age", "too large"),
        ({"age": 1e999}, "age", "too large"),
        ({"born": "secret-7"}, "born", "no date of order dmy"),
        ({"born": 1.5}, "born", "must be a date as text"),
        ({"born": "1.2.2050"}, "born", "is a date after"),
        ({"area": ["secret-7"]}, "area", "must be text or null"),
        ({"area": 1e300}, "area", "must be text or null"),
        ({"plate": None}, "plate", "no id once normalised"),
        ({"plate": "--"}, "plate", "no id once normalised"),
        ({"plate": 1.5}, "plate", "text or a whole number"),
        ({"plate": True}, "plate", "text or a whole number"),
        ({"plate": "1.23457E+12"}, "plate", "digits are lost"),
        ({"plate": "P17.0"}, "plate", "a number with decimals"),
        ({"agee": 1}, "agee", "is no column of the model: did you mean 'age'?"),
        ({"age": ...}, "age", "is not there: write null"),
        ({"plate": ...}, "plate", "is not there: write null"),
        ({"area": "\ud800"}, "area", "is no text"),
        ({"area": "urban\0"}, "area", "is no text"),
        ({"plate": "AB1\udfff"}, "plate", "is no text"),
        ({"plate": "AB1\0"}, "plate", "is no text"),
        ({"age": "4\0"}, "age", "text that is no number"),
        ({"born": "1.2.1980\ud800"}, "born", "no date of order dmy"),
        ({"age": True}, "age", "is a truth value: must be a number or null"),
        ({"age": False}, "age", "is a truth value"),
        ({"born": True}, "born", "must be a date as text"),
        ({"plate": False}, "plate", "text or a whole number"),
        ({"plate": {"a": [1]}}, "plate", "text or a whole number"),
        ({"plate": math.inf}, "plate", "text or a whole number"),
        ({"area": math.inf}, "area", "must be text or null"),
        ({"area": {"a": 1}}, "area", "must be text or null"),
        ({"age": -0.0, "plate": -0.0}, None, ""),
        ({"claim": 1, "years": 0.5}, None, ""),
        ({"plate": 17}, None, ""),
        ({"age": "1.5", "area": 7}, None, ""),
        ({"age": "1" * 1001}, "age", "over 1,000 characters"),
        ({"area": "x" * 1001}, "area", "over 1,000 characters"),
        ({"plate": "x" * 1001}, "plate", "over 1,000 characters"),
        ({"plate": 10**1001}, "plate", "over 1,000 characters"),
    ],
)
def test_cells_that_cannot_be_used_are_named_by_row_and_column(
    change: dict[str, Any], column: str | None, said: str
) -> None:
    reader = RowReader(DATA, made().half)
    row = {name: cell for name, cell in {**GOOD, **change}.items() if cell is not ...}
    if column is None:
        assert reader.read([GOOD, row]).rows == 2
        return
    with pytest.raises(RowsRefused) as refused:
        reader.read([GOOD, row, GOOD])
    (problem,) = refused.value.problems
    assert (problem.row, problem.column) == (1, column)
    assert said in problem.text and "secret-7" not in problem.text + str(refused.value)


SIGNS = [(".", None), (",", None), (".", ","), (",", "."), (",", " "), (".", "'")]
TEXTS = st.one_of(
    st.text(alphabet="0123456789.,' -+eE", max_size=9),
    st.floats(allow_nan=False).map(repr),
    st.sampled_from(
        ["true", " FALSE ", "inf", "-Infinity", "nan", "nan(7)", "1\u00a0234,5", "1\u2019234.5"]
    ),
    st.sampled_from(
        ["NA", "", " null ", "unknown", "1_000", "0x10", "\u0661", "1e5 ", ".5", "5.", "+-1"]
    ),
)


@settings(max_examples=300, deadline=None)
@given(text=TEXTS, signs=st.sampled_from(SIGNS))
def test_numbers_as_text_are_read_as_in_a_file(text: str, signs: tuple[str, str | None]) -> None:
    reading = Reading(decimal=signs[0], thousands=signs[1], missing=("unknown",))
    column = without(pa.array([text]), pa.array([*MISSING, "unknown"]))
    (value,), (bad,) = parse(column, reading)
    problems = Problems()
    (found,) = NumberCells("age", reading).read([text], problems)
    assert (problems.count == 1) == bool(bad or np.isinf(value))
    assert problems.count or found == value or (np.isnan(found) and np.isnan(value))


KEYS = DataSection.model_validate(
    {
        "path": Path("policies.csv"),
        "id": ["plate", "born"],
        "normalise": {"plate": ["plate"], "born": ["date:dmy"]},
        "fallback": [{"id": "vin", "normalise": ["vin"]}, {"id": "contract"}],
        "as_text": ["contract"],
        "missing": ["unknown", "999"],
        "empty": "drop",
    },
    strict=True,
)
CELLS = {
    "plate": st.sampled_from([None, "m-ab 1", "M AB1", "\uff2d-AB 2", "", "unknown", "17.0", 17, "999"]),
    "born": st.sampled_from([None, "31.12.1980", "1980-12-31", "01/02/1980", "tomorrow", "nan"]),
    "vin": st.sampled_from([None, "WVWZZZ1O0000001", "wvw-zzz 100000 1", "NULL", 5, "1e5", "1.5"]),
    "contract": st.sampled_from([None, "NULL", "1.50", "a", " A ", "unknown", "1e15"]),
}


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.fixed_dictionaries(CELLS), min_size=1, max_size=6))
def test_ids_by_several_keys_are_those_of_a_table(rows: Rows) -> None:
    columns = {name: [row[name] for row in rows] for name in CELLS}
    problems = Problems()
    found = IdCells(KEYS).read(columns, len(rows), problems)
    assert problems.count == 0  # what cannot be read is none, where further keys may match
    texts = [[None if c is None else str(c) for c in columns[name]] for name in KEYS.id_columns]
    table = Table(Path("policies.csv"), texts, {}, None, None, len(rows), [])
    rules = [key.normalise for key in KEYS.keys]
    ids = all_keys(
        table.by_key(KEYS),
        rules,
        "keep",
        "drop",
        "t",
        [replace(reading, merging="allow") for reading in KEYS.id_readings],
    )
    for row, mine in enumerate(found):
        expected = [bytes(key.ids[key.of_row[row]]) if key.of_row[row] >= 0 else b"" for key in ids.keys]
        assert list(mine) == expected


def test_a_row_of_very_many_columns_is_refused_at_once() -> None:
    reader = RowReader(DATA, made().half)
    row = {**GOOD, **{f"agee{i}": 1 for i in range(1_000)}, "a" * 1_000_000: 1}
    with pytest.raises(RowsRefused) as refused:
        reader.read([row])
    assert refused.value.count == 1_001 and len(refused.value.problems) == 1_000
    more = {f"agee{i}": 1 for i in range(100_000)}
    with pytest.raises(RowsRefused, match="1 row cannot be used") as refused:
        reader.read([more, GOOD])
    (problem,) = refused.value.problems
    assert (problem.row, problem.text) == (0, "has far more keys than the model has columns")


def test_exposure_and_offset_as_a_batch_takes_them() -> None:
    reader = RowReader(DATA, made("glm", "poisson").half)
    good = {**GOOD, "margin": 0.1}
    assert reader.read([good]).exposure is None
    both = reader.read([good, {**good, "years": 0.5}])
    assert both.exposure is not None and both.exposure.tolist() == [1.0, 0.5]
    for change, column in (
        ({"years": 0}, "years"),
        ({"years": None}, "years"),
        ({"years": -1.0}, "years"),
        ({"margin": None}, "margin"),
        ({"margin": "x"}, "margin"),
    ):
        with pytest.raises(RowsRefused) as refused:
            reader.read([{**good, **change}])
        assert {problem.column for problem in refused.value.problems} == {column}


def test_a_prediction_that_is_no_number_is_an_error_of_its_row() -> None:
    rows = [{**GOOD, "margin": 0.1}, {**GOOD, "margin": 1e5}, {**GOOD, "margin": 709.7, "years": 1e9}]
    good, *bad = answered(served(made("glm", "poisson")), rows, Asked(explain=True))
    assert good["prediction"] > 0 and "error" not in good
    for result in bad:
        assert result["prediction"] is None and "too large to be a number" in result["error"]


def test_many_problems_are_counted_and_the_first_shown() -> None:
    reader = RowReader(DATA, made().half)
    with pytest.raises(RowsRefused) as refused:
        reader.read([{**GOOD, "age": "x"}] * 1500)
    assert str(refused.value) == "1,500 cells cannot be used: the first 1,000 are listed"
    assert [problem.row for problem in refused.value.problems] == [*range(1000)]


def test_all_that_is_wrong_is_said_at_once() -> None:
    reader = RowReader(DATA, made("glm", "poisson").half)
    repeated = RepeatedKeys([*GOOD.items(), ("margin", 0.1), ("age", 41), ("moon", 1), ("moon", 2)])
    rows: list[Any] = [
        {"plate": None, "age": True, "born": "x", "area": [1], "years": "x", "agee": 1},
        {**GOOD, "margin": 0.1},
        7,
        repeated,
        None,
        {**GOOD, "margin": True, "years": False},
    ]
    with pytest.raises(RowsRefused) as refused:
        reader.read(rows)
    assert str(refused.value) == "2 rows and 11 cells cannot be used"
    found = [(problem.row, problem.column) for problem in refused.value.problems]
    first = {"agee", "age", "born", "area", "plate", "years", "margin"}
    assert {column for row, column in found if row == 0} == first
    assert [one for one in found if one[0] in (2, 4)] == [(2, ""), (4, "")]
    assert {one for one in found if one[0] == 3} == {(3, "age"), (3, "moon")}
    assert {one for one in found if one[0] == 5} == {(5, "margin"), (5, "years")}
    assert [row for row, _ in found] == sorted(row for row, _ in found)
    said = {problem.column: problem.text for problem in refused.value.problems if problem.row == 3}
    assert said == {"age": "is there more than once", "moon": "is there more than once"}


def test_a_column_of_text_takes_no_number_as_id() -> None:
    data = DATA.model_copy(update={"as_text": ("plate",)})
    reader = RowReader(data, made().half)
    for cell in (17, 17.0, True, [1]):
        with pytest.raises(RowsRefused) as refused:
            reader.read([{**GOOD, "plate": cell}])
        (problem,) = refused.value.problems
        assert problem.column == "plate" and "must be text: as_text of [data]" in problem.text
    assert reader.read([{**GOOD, "plate": "17"}]).rows == 1
