"""Texts in one buffer are the sequence that they were made of; ids come out alike for any piece."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.blocks import scratch, texts
from vfl.blocks.scratch import Scratch
from vfl.blocks.texts import (
    Cells,
    CellsWithout,
    Packed,
    TextPlaces,
    beside,
    differ,
    repeated,
    with_lengths,
)
from vfl.party import id_columns, id_values
from vfl.party.id_report import profile
from vfl.party.ids import NormalisedIds, clean, normalise

SLICES = [slice(None), slice(2, 5), slice(1, None, 2), slice(None, None, -1), slice(-3, -1), slice(9, 2)]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "PIECE", 3)
    monkeypatch.setattr(texts, "_FEW", 1)


@given(st.lists(st.lists(st.binary(max_size=5), max_size=5), max_size=4), st.data())
def test_packed_bytes(pieces: list[list[bytes]], data: st.DataObject):
    plain = [one for piece in pieces for one in piece]
    packed = Packed.of(pieces)
    assert packed == plain and list(packed) == plain and len(packed) == len(plain)
    assert packed != [*plain, b""] and packed != b"".join(plain)
    for part in SLICES:
        assert packed[part] == plain[part]
    for place in range(-len(plain), len(plain)):
        assert packed[place] == plain[place]
    with pytest.raises(IndexError):
        packed[len(plain)]
    which = np.array(data.draw(st.lists(st.booleans(), min_size=len(plain), max_size=len(plain))), bool)
    assert packed.keep(which) == [one for one, kept in zip(plain, which, strict=True) if kept]


@given(st.lists(st.one_of(st.none(), st.text(max_size=3)), min_size=1, max_size=12), st.integers(1, 11))
def test_cells_of_text(cells: list[str | None], cut: int):
    column = pa.chunked_array([pa.array(cells[:cut], pa.string()), pa.array(cells[cut:], pa.string())])
    plain = [cell or None for cell in cells]
    held = Cells(column)
    assert held == plain and list(held) == plain and len(held) == len(plain)
    for part in SLICES:
        assert held[part] == plain[part]
    for place in range(-len(plain), len(plain)):
        assert held[place] == plain[place]


@given(st.lists(st.lists(st.binary(max_size=5), max_size=5), max_size=4), st.data())
def test_packed_bytes_in_files(pieces: list[list[bytes]], data: st.DataObject):
    plain = [one for piece in pieces for one in piece]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for module in (scratch, texts):
            patch.setattr(module, "OF_A_ROW_EACH", 1)
        patch.setattr(texts, "_LOOKED_AT", 2)
        packed = Packed.of(pieces, Scratch(Path(folder)))
        assert packed == plain and packed[1:] == plain[1:]
        places = data.draw(st.lists(st.integers(0, len(plain) - 1), max_size=6)) if plain else []
        some = packed.take(np.array(places, np.int64), Scratch(Path(folder)))
        assert some == [plain[place] for place in places]
        assert beside([some, with_lengths(some)]) == [
            one + len(one).to_bytes(4, "big") + one for one in some
        ]
        assert not list(Path(folder).iterdir())


def test_cells_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain = ["a", None, "b ", "", "none"] * 3
    column = pa.chunked_array([pa.array(plain[:7]), pa.array(plain[7:])])
    monkeypatch.setattr(texts, "OF_A_ROW_EACH", 1)
    monkeypatch.setattr(texts, "_AT_ONCE", 4)
    held = Cells.stored(Cells(column), Scratch(tmp_path))
    assert (
        held is not column and held == [cell or None for cell in plain] and not list(tmp_path.iterdir())
    )
    without = CellsWithout(held, {"none", "b"})
    assert without == ["a", None, None, None, None] * 3
    assert without[2] is None and without[0] == "a" and without[3:6] == [None, None, "a"]
    rows, others = np.array([14, 0, 0, 2, 10]), np.array([9, 5, 2, 12, 14])
    assert differ(without, rows, others).tolist() == [False, False, True, False, True]
    assert differ(plain, rows, others).tolist() == [False, False, True, False, True]


@given(st.lists(st.binary(max_size=1), max_size=20), st.booleans())
def test_repeated_texts(found: list[bytes], clash: bool):
    """Also where hashes of different texts are the same."""
    hashes = np.array([0 if clash else hash(one) for one in found], np.int64)
    packed = Packed.of([found])
    expected = [found.index(one) for one in found]
    repeats = [(i, first) for i, first in enumerate(expected) if first != i]
    assert [*zip(*(one.tolist() for one in repeated(packed, hashes)), strict=True)] == repeats
    with pytest.MonkeyPatch.context() as patched:  # a few at a time, by their hashes
        for name, value in (("_COMPARED", 3), ("_BUCKETS_BY", 0), ("_FEW", 0)):
            patched.setattr(texts, name, value)
        assert [*zip(*(one.tolist() for one in repeated(packed, hashes)), strict=True)] == repeats
    if found:
        others = [b"\7", *found, b"\7\7"]
        hashes_of = np.array([0 if clash else hash(one) for one in others], np.int64)
        places = TextPlaces(packed, hashes)
        assert places.first.tolist() == expected
        wanted = [found.index(one) if one in found else -1 for one in others]
        assert places.find(Packed.of([others]), hashes_of).tolist() == wanted


CELLS = st.sampled_from(
    ["a1", "A-1", "a 1", "17.0", "17", "-5", "1e5", "2E3", "P17.0", "1.5E+9", None, " "]
)
DATES = st.sampled_from(["2024-12-31", "31.12.2024", "1e5", "no day", None, "20241231"])


def same(one: NormalisedIds, other: NormalisedIds) -> None:
    assert one.ids == other.ids
    for name in ("empties", "duplicates", "unread", "merged"):
        assert getattr(one, name) == getattr(other, name)
    assert one.rows.tolist() == other.rows.tolist()
    assert one.id_of_row.tolist() == other.id_of_row.tolist()


@pytest.mark.parametrize("steps", [("alnum", "upper"), ("trim",), ("digits",), ()])
@given(st.lists(st.tuples(CELLS, DATES), min_size=1, max_size=15), st.integers(1, 7))
def test_ids_are_the_same_for_any_piece(
    steps: tuple[str, ...], rows: list[tuple[str | None, str | None]], size: int
):
    """A cell such as 1e5 is a number or a code by all cells of its column, in whichever pieces."""
    first, second = ([row[i] for row in rows] for i in range(2))
    for columns, rule in (([first], [steps]), ([first, second], [steps, ("date",)])):
        made = []
        for piece in (10**6, size):
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(id_columns, "PIECE", piece)
                made.append(normalise(columns, rule, "first", empties="drop"))
        same(*made)
    whole = clean(first, steps)
    assert [not value for value in whole] == [
        row < 0 for row in normalise([first], [steps], "first", empties="drop").id_of_row.tolist()
    ]


@pytest.mark.slow
@settings(max_examples=15)  # of twenty reports each
@given(st.lists(st.one_of(CELLS, DATES), min_size=1, max_size=15), st.integers(0, 15), st.integers(1, 4))
def test_reports_are_the_same_for_any_chunks_and_parts(cells: list[str | None], cut: int, at_once: int):
    parts = [pa.array(part, pa.large_string()) for part in (cells[:cut], cells[cut:])]
    chunked = Cells(pa.chunked_array(parts))
    for rule in (("alnum", "upper"), ("vin",), ("date",), ("digits",), ()):
        whole = profile({"id": cells}, rule, "f.csv")
        several = profile({"id": cells, "other": cells}, rule, "f.csv")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(id_values, "AT_ONCE", at_once)
            assert profile({"id": chunked}, rule, "f.csv") == whole
            without = CellsWithout(cells, {"never written"})
            assert profile({"id": without, "other": chunked}, rule, "f.csv") == several
