"""What a party keeps about one id, against what is known of the stores of version 1."""

import csv
from pathlib import Path

import numpy as np
import pytest
from commands import Done, command
from kept_parties import copy_parties

from vfl.errors import ConfigError, DataError
from vfl.jobs.alignments import load_alignment, save_alignment
from vfl.jobs.connect import store_of
from vfl.jobs.drawn_rows import StoredDraws
from vfl.jobs.own_table import ids_of
from vfl.jobs.person import HELD_OUT, TRAINED, UNKNOWN, find_person
from vfl.jobs.record import load_record, save_record
from vfl.party.config import Party, load_party
from vfl.party.keys import identities
from vfl.party.store import Store
from vfl.party.table import Wanted, read_wanted


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three parties' folders."""
    folder = tmp_path_factory.mktemp("parties")
    copy_parties("v1", folder)
    return folder


def loaded(homes: Path, name: str) -> Party:
    return load_party(homes / name / f"{name}.toml")


def ids(homes: Path, name: str) -> list[str]:
    with (homes / name / "table.csv").open() as file:
        return [next(iter(row.values())) for row in csv.DictReader(file)]


def run(homes: Path, name: str, *options: str) -> Done:
    return command("person", f"{name}.toml", *options, folder=homes / name)


def test_a_guests_ids_are_found_with_what_became_of_their_rows(homes: Path) -> None:
    party = loaded(homes, "insurer")
    store = store_of(party)
    record, evaluation = load_record(
        store, next(name for name in store.names("run") if name.startswith("claims"))
    )
    assert evaluation is not None
    aligned = load_alignment(store, record.alignment).rows.tolist()
    held = set(evaluation.rows.tolist())
    parts = []
    for row, own in list(enumerate(ids(homes, "insurer")))[::3]:
        found = find_person(party, [own])
        runs = [run.part for run in found.runs if run.run == record.model]
        assert runs == ([] if row not in aligned else [HELD_OUT if row in held else TRAINED])
        assert any(a.alignment.startswith("every") for a in found.alignments)  # a left join
        parts += runs
    assert {HELD_OUT, TRAINED} == set(parts)


def test_an_id_is_normalised_and_what_a_left_join_knows_is_said(homes: Path) -> None:
    party = loaded(homes, "insurer")
    store = store_of(party)
    (inner,) = [name for name in store.names("alignment") if not name.startswith("every")]
    aligned = set(load_alignment(store, inner).rows.tolist())
    every = ids(homes, "insurer")
    known, lone = (next(r for r in range(len(every)) if (r in aligned) is one) for one in (True, False))
    for row, peers in ((known, ["registry"]), (lone, [])):
        written = every[row].lower().replace("-", " ")
        (left,) = [
            a for a in find_person(party, [written]).alignments if a.alignment.startswith("every")
        ]
        assert left.known_to == peers and left.rows == 1


def test_a_host_finds_its_rows_and_says_what_it_does_not_keep(homes: Path) -> None:
    party = loaded(homes, "registry")
    store = store_of(party)
    (inner,) = [name for name in store.names("alignment") if not name.startswith("every")]
    aligned = set(load_alignment(store, inner).rows.tolist())
    for row, own in list(enumerate(ids(homes, "registry")))[::5]:
        found = find_person(party, [own])
        assert (inner in [a.alignment for a in found.alignments]) is (row in aligned)
        for one in found.runs:
            assert one.part == UNKNOWN and one.columns == ["power", "brand"]
            assert set(one.used) <= {"power", "brand"} and one.purpose == "a test"
    assert any("batches that were scored is not kept" in text for text in found.not_known)
    assert {scored.peers[0] for scored in found.scorings} == {"insurer"}


def test_a_host_goes_by_the_draws_that_it_keeps(homes: Path, tmp_path: Path) -> None:
    copy_parties("v1", tmp_path)
    party = loaded(tmp_path, "registry")
    store = store_of(party)
    (inner,) = [name for name in store.names("alignment") if not name.startswith("every")]
    rows = load_alignment(store, inner).rows
    drawn = np.zeros((2, len(rows)), np.bool_)
    drawn[0, 1], drawn[1, 2] = True, True
    for draw in drawn:
        StoredDraws(store, inner).keep(np.packbits(draw).tobytes())
    own = ids(tmp_path, "registry")
    for place, part in ((0, HELD_OUT), (1, TRAINED), (2, TRAINED), (3, HELD_OUT)):
        found = find_person(party, [own[rows[place]]])
        parts = {run.run.split("-")[0]: run.part for run in found.runs}
        assert parts == {"claims": part, "linear": UNKNOWN, "hidden": UNKNOWN}


def test_a_table_that_changed_hides_who_trained_and_not_who_was_aligned(tmp_path: Path) -> None:
    copy_parties("v1", tmp_path)
    own = ids(tmp_path, "insurer")
    (tmp_path / "insurer" / "table.csv").unlink()
    party = loaded(tmp_path, "insurer")
    store = store_of(party)
    for noted, why in (("", "earlier version"), ("ab" * 32, "the table had changed")):
        for name in store.names("run"):
            record, evaluation = load_record(store, name)
            save_record(store, type(record)(**{**record.__dict__, "ids": noted}), evaluation)
        found = find_person(party, [own[5]])
        assert len(found.alignments) == 2 and len(found.runs) == 3
        assert all(one.part == UNKNOWN and why in one.why for one in found.runs)


def test_what_cannot_be_known_is_said(homes: Path, tmp_path: Path) -> None:
    copy_parties("v1", tmp_path)
    party = loaded(tmp_path, "insurer")
    store = store_of(party)
    (inner,) = [name for name in store.names("alignment") if not name.startswith("every")]
    old = load_alignment(store, inner)
    save_alignment(store, type(old)(**{**old.__dict__, "key": "", "digests": None}))
    store.path("alignment", next(n for n in store.names("alignment") if n != inner)).write_text("{")
    found = find_person(party, [ids(tmp_path, "insurer")[5]])
    assert found.looked_at == 0 and not found.alignments
    said = "\n".join(found.not_known)
    assert "kept no hashes of ids" in said and "cannot be read" in said


def test_batches_that_are_named_are_looked_into(homes: Path) -> None:
    new = homes / "insurer" / "new.csv"
    with new.open() as file:
        first = next(iter(next(csv.DictReader(file)).values()))
    (homes / "insurer" / "id.txt").write_text(f"{first.lower()}\n")
    options = ("--id-file", "id.txt", "--batch", "new.csv", "--batch", "scores/claims.csv", "--json")
    found = run(homes, "insurer", *options).ok().json
    assert [(one["file"], one["rows"]) for one in found["batches"]] == [
        ("new.csv", 1),
        ("scores/claims.csv", 1),
    ]
    assert first.lower() not in run(homes, "insurer", *options).out.lower()


def test_no_id_is_said_or_kept(homes: Path) -> None:
    """Not in what is printed, not in an error, not in any file of the store."""
    (own, *_) = ids(homes, "registry")
    before = {path: path.read_bytes() for path in files(homes)}
    said = run(homes, "registry", "--id", own).ok()
    wrong = run(homes, "registry", "--id", own, "--id", "second")
    wrong.failed(2, "the id has 1 part (registration), and 2 parts were given")
    for text in (said.out, said.err, wrong.err):
        assert own.lower() not in text.lower()
    assert {path: path.read_bytes() for path in files(homes)} == before


def files(homes: Path) -> list[Path]:
    return [path for path in (homes / "registry").rglob("*") if path.is_file()]


def test_errors_are_one_line(homes: Path) -> None:
    run(homes, "registry").failed(2, "name a file with --id-file")
    run(homes, "registry", "--id", "a", "--id-file", "b").failed(2, "exclude each other")
    run(homes, "registry", "--id-file", "none.txt").failed(2, "none.txt cannot be read")
    run(homes, "umpire").failed(2, "a coordinator has no ids")
    run(homes, "registry", "--id", "...").failed(3, "no id by the rules of [data] normalise")
    (homes / "registry" / "bad.txt").write_bytes(b"\xff\xfe\xff")
    run(homes, "registry", "--id-file", "bad.txt").failed(2, "no text in UTF-8")
    with pytest.raises(ConfigError):
        find_person(loaded(homes, "registry"), [])
    with pytest.raises(DataError):
        find_person(loaded(homes, "registry"), [""])


def test_people_with_several_rows_and_several_keys(tmp_path: Path) -> None:
    """A guest that keeps repeated ids, with a fallback key: all rows of a person are found."""
    copy_parties("v1", tmp_path)
    home = tmp_path / "insurer"
    party = loaded(tmp_path, "insurer")
    data = party.data.model_copy(update={"duplicates": "keep", "merging": "allow"})
    store = Store(party.party.store)
    (inner,) = [name for name in store.names("alignment") if not name.startswith("every")]
    own = ids(tmp_path, "insurer")
    lines = (home / "table.csv").read_text().splitlines()
    (home / "table.csv").write_text("\n".join([*lines, lines[6], lines[6]]) + "\n")
    table = read_wanted(data, Wanted("guest", False, expect=()))
    found = ids_of(table, data)
    rows = np.arange(table.rows)
    old = load_alignment(store, inner)
    secret = bytes.fromhex(old.key)
    digests = identities(found, secret, rows, np.zeros(len(rows), np.int64))
    one = np.zeros((1, len(rows)), np.int32)
    changed = {**old.__dict__, "rows": rows, "digests": digests, "matched": one, "keys": None}
    save_alignment(store, type(old)(**changed))
    (several,) = [a for a in find_person(party, [own[5]]).alignments if a.alignment == inner]
    assert several.rows == 3
