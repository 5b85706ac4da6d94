"""All keys of a table: which row goes by which id, which stands for others, which is which later."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.errors import DataError
from vfl.party.keys import TableIds, all_keys, find_rows, identities
from vfl.party.sections import DataSection
from vfl.party.table import read_table

SECRET = bytes(range(32))
Cells = list[str | None]


def ids_of(*keys: Sequence[str | None], duplicates: str = "keep", empty: str = "drop") -> TableIds:
    """Ids of keys of one column each, as they are written."""
    columns = [[list(cells)] for cells in keys]
    rules: list[list[str]] = [[] for _ in keys]
    return all_keys(columns, rules, duplicates, empty, "t.csv")  # type: ignore[arg-type]


def shown(ids: TableIds) -> list[list[str | None]]:
    return [
        [key.ids[place][4:].decode() if place >= 0 else None for place in key.of_row.tolist()]
        for key in ids.keys
    ]


def test_which_row_stands_for_others() -> None:
    vins, plates = ["a", None, "a", None, "b", None], ["p", "q", "r", "q", "p", None]
    kept = ids_of(vins, plates)
    assert kept.rows.tolist() == [0, 1, 2, 3, 4] and kept.without_id.tolist() == [5]
    first = ids_of(vins, plates, duplicates="first")
    assert first.group.tolist() == [0, 1, 0, 1, 4, -1]
    assert shown(first) == [["a", None, None, None, "b", None], ["p", "q", None, None, "p", None]]
    last = ids_of(vins, plates, duplicates="last")
    assert last.group.tolist() == [2, 3, 2, 3, 4, -1] and last.rows.tolist() == [2, 3, 4]
    assert last.notes == (
        "1 row without an id of any key: no match",
        "2 rows without the first key: matched by a further one",
        "2 rows with the id of another row, which stands for them",
    )
    with pytest.raises(DataError, match="1 row repeats the id of an earlier row"):
        ids_of(vins, plates, duplicates="refuse")
    # A further key may repeat: it names no row then.
    assert len(ids_of([None, None], ["q", "q"], duplicates="refuse").rows) == 2
    with pytest.raises(DataError, match=r"t.csv: 1 row has no id by any key once normalised \(row 7\)"):
        ids_of(vins, plates, empty="refuse")


def test_rows_about_one_thing() -> None:
    ids = ids_of(["a", "a", None, "b", "c", None], ["p", None, "p", "q", None, None])
    assert ids.entities.tolist() == [0, 0, 0, 3, 4, 5]
    # Over other rows: 0 and 3 have no id in common.
    assert ids_of(["a", "a", "b", "b"], ["p", "q", "q", "r"]).entities.tolist() == [0] * 4
    assert ids_of(["b", "a", "b", None, None]).entities.tolist() == [0, 1, 0, 3, 4]


CELLS = st.lists(
    st.tuples(st.sampled_from([None, "a", "b", "c", "d"]), st.sampled_from([None, "p", "q", "r"])),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60)
@given(CELLS, CELLS, st.data())
def test_rows_are_found_again_where_they_are(
    before: list[tuple[str | None, str | None]],
    new: list[tuple[str | None, str | None]],
    data: st.DataObject,
) -> None:
    ids = ids_of(*zip(*before, strict=True))
    last = np.array(data.draw(st.lists(st.integers(0, 1), min_size=len(before), max_size=len(before))))
    # A row that some key up to the last has not told apart from another goes with it.
    last[[vin is None for vin, _ in before]] = 1
    vins = {vin for (vin, _), level in zip(before, last.tolist(), strict=True) if level}
    last[[vin in vins for vin, _ in before]] = 1
    rows = np.arange(len(before))
    kept = identities(ids, SECRET, rows, last)
    order = data.draw(st.permutations(range(len(before))))
    moved = [before[row] for row in order]
    again = find_rows(ids_of(*zip(*moved, strict=True)), SECRET, kept)
    assert sorted(again.rows.tolist()) == rows.tolist()
    for row, there in enumerate(again.rows.tolist()):
        assert before[row][: last[row] + 1] == moved[there][: last[row] + 1]
    # Of another table those are found whose ids are there as often as they were.
    again = find_rows(ids_of(*zip(*new, strict=True)), SECRET, kept)
    for row, there in enumerate(again.rows.tolist()):
        mine = before[row][: last[row] + 1]
        alike = [
            other
            for other in range(len(before))
            if last[other] == last[row] and before[other][: last[row] + 1] == mine
        ]
        places = [other for other in range(len(new)) if new[other][: last[row] + 1] == mine]
        assert (there >= 0) == (len(alike) == len(places))
        if there >= 0:
            assert there in places
    there = again.rows[again.rows >= 0]
    assert len(set(there.tolist())) == len(there)


def test_another_secret_finds_nothing() -> None:
    ids = ids_of(["a", "b"])
    kept = identities(ids, SECRET, np.arange(2), np.zeros(2, np.int64))
    assert len({row.tobytes() for row in kept}) == 2
    assert find_rows(ids, SECRET, kept).rows.tolist() == [0, 1]
    assert find_rows(ids, SECRET[::-1], kept).rows.tolist() == [-1, -1]


def test_a_table_that_has_changed_is_another() -> None:
    same = ids_of(["a", None, "b"])
    assert same.digest == ids_of(["a", None, "b"]).digest
    others = [["b", None, "a"], ["a", "b"], ["a", "b", None], ["a", "a", "b"], ["a", None, "bb"]]
    assert len({same.digest, *(ids_of(one).digest for one in others)}) == 6
    assert ids_of(["a"], ["b"]).digest != ids_of(["b"], ["a"]).digest


def test_spellings_of_a_missing_value_are_no_ids(tmp_path: Path) -> None:
    """Those of [data] as well as those of programs; a number may be an id, under as_text anything."""
    cells = ["k.A.", "N/A", " unbekannt ", "999", "-1,5", "17", "", "K.A.", "unbekannte"]
    lines = [f'"{cell}";{row}' for row, cell in enumerate(cells)]
    (tmp_path / "t.csv").write_text("\n".join(["plate;x", *lines]) + "\n")
    section = DataSection(
        path=tmp_path / "t.csv",
        id=("plate",),
        decimal=",",
        missing=("k.A.", "unbekannt", "999", "-1,5"),
        empty="drop",
    )
    table = read_table(section, role="guest", need_label=False)
    assert table.ids[0][0] == "k.A."  # as it is written, as scores have it
    [[column]] = table.by_key(section)
    assert column == [None, "N/A", None, "999", "-1,5", "17", None, "K.A.", "unbekannte"]
    ids = all_keys(
        table.by_key(section), [("upper", "alnum")], "refuse", "drop", "t.csv", section.id_readings
    )
    assert ids.without_id.tolist() == [0, 1, 2, 4, 6]  # what is no whole number is no id under this rule
    assert [one[4:].decode() for one in ids.keys[0].ids] == ["999", "17", "KA", "UNBEKANNTE"]
    text = section.model_copy(update={"as_text": ("plate",)})
    [[column]] = table.by_key(text)
    assert column[:3] == ["k.A.", "N/A", " unbekannt "]
    with pytest.raises(DataError, match=r"t.csv: 4 rows have no id .*rows 2, 3, 4, 8"):
        all_keys(table.by_key(section), [()], "refuse", "refuse", "t.csv")


def test_rows_without_an_id_never_match_each_other(tmp_path: Path) -> None:
    """At two parties that write it alike, by every key."""
    found = []
    for party in ("guest", "host"):
        rows = ["k.A.,N/A", "k.A.,NULL", "A1,k.A.", f"{party},B2"]
        (tmp_path / f"{party}.csv").write_text("\n".join(["vin,plate", *rows]) + "\n")
        section = DataSection(
            path=tmp_path / f"{party}.csv",
            id=("vin",),
            fallback=[{"id": ("plate",), "normalise": ("alnum",)}],
            normalise=("alnum",),
            missing=("k.A.",),
            empty="drop",
        )
        table = read_table(section, role="guest", need_label=False, expect=())
        rules = [key.normalise for key in section.keys]
        found.append(
            all_keys(table.by_key(section), rules, "refuse", "drop", party, section.id_readings)
        )
    for guest, host in zip(found[0].keys, found[1].keys, strict=True):
        assert len(set(guest.ids) & set(host.ids)) == 1
    assert found[0].without_id.tolist() == found[1].without_id.tolist() == [0, 1]
