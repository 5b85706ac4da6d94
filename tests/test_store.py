"""What a party keeps: whole or not at all, and refused when it is not what it should be."""

import errno
import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vfl.errors import DataError, ModelError
from vfl.party.store import Store

BODY = {"trees": [{"leaf": 0.1}, {"leaf": -1e-300}], "name": "Zoë", "none": None}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "vfl-store")


def test_a_document_comes_back_by_name_and_by_path(store):
    path = store.write("model", "claim.v1", BODY)
    assert path == store.root / "models" / "claim.v1.json"
    assert store.read("model", "claim.v1") == BODY
    assert store.read("model", path) == BODY
    assert store.read("model", str(path)) == BODY
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o077 == 0
    document = json.loads(path.read_text())
    assert (document["format"], document["version"]) == ("vfl/model", 1)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=40
)
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8")),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(st.characters(codec="utf-8")),
            lambda inner: st.lists(inner),
            max_leaves=5,
        ),
    )
)
def test_any_body_comes_back_bit_for_bit(store, body):
    store.write("run", "r", body)
    back = store.read("run", "r")
    assert repr(sorted(back.items())) == repr(sorted(body.items()))


@pytest.mark.parametrize("body", [{"a": float("nan")}, {2: 0, 10: 0}])
def test_a_body_that_json_cannot_hold_is_a_bug(store, body):
    with pytest.raises(ValueError):
        store.write("model", "m", body)
    assert store.names("model") == []


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "A", "-a", "a b", "a\n", "x" * 65, "m.json", "m.npy"]
)
def test_a_name_that_is_none(store, name):
    with pytest.raises(ModelError, match="no name of a model"):
        store.write("model", name, BODY)
    with pytest.raises(ModelError):
        store.read("model", name)


def test_names_and_the_latest(store):
    assert store.names("alignment") == []
    with pytest.raises(ModelError, match=r"no alignment yet in .*alignments"):
        store.latest("alignment")
    for place, name in enumerate(["b", "c", "a"]):
        path = store.write("alignment", name, {})
        os.utime(path, ns=(place, place))
    assert store.names("alignment") == ["a", "b", "c"]
    assert store.latest("alignment") == "a"
    assert store.names("model") == []


def test_the_latest_of_a_store_that_was_copied(store):
    """Copied without times, or back from a backup, files are as old as the copy."""
    for name, made in (("first", "2026-03-01"), ("newest", "2026-03-03"), ("second", "2026-03-02")):
        path = store.write("alignment", name, {"made": f"{made}T08:00:00+00:00"})
        os.utime(path, (1_900_000_000, 1_900_000_000 - len(name)))
    assert store.latest("alignment") == "newest"
    path = store.write("alignment", "without", {})  # of an earlier version
    os.utime(path, (1_772_000_000, 1_772_000_000))
    assert store.latest("alignment") == "newest"
    os.utime(path, (1_900_000_000, 1_900_000_000))
    assert store.latest("alignment") == "without"


def test_a_missing_document(store, tmp_path):
    with pytest.raises(ModelError, match=r"no model claim in .*models: there is none yet"):
        store.read("model", "claim")
    store.write("model", "claim-2027", BODY)
    with pytest.raises(ModelError, match=r"no model claim-2072 in .*: did you mean claim-2027\?"):
        store.read("model", "claim-2072")
    with pytest.raises(ModelError, match=r"no model zzz in .*: there are claim-2027"):
        store.read("model", "zzz")
    with pytest.raises(ModelError, match=r"no file .*elsewhere.json"):
        store.read("model", tmp_path / "elsewhere.json")
    with pytest.raises(ModelError, match="cannot be read: Is a directory"):
        store.read("model", tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t[:-9], "m.json is damaged: it is no valid JSON"),
        (lambda t: "[" * 100_000, "m.json is damaged: it is no valid JSON"),
        (lambda t: t.replace("-1e-300", "-2e-300"), "its content does not match its digest"),
        (lambda t: t.replace("-1e-300", "NaN"), "its content does not match its digest"),
        (lambda t: t.replace("Zo", "\\ud800"), "its content does not match its digest"),
        (lambda t: t.replace('"version":1', '"version":2'), "written by a newer vfl: update vfl"),
        (lambda t: t.replace('"version":1', '"version":0'), "damaged"),
        (lambda t: t.replace("vfl/model", "vfl/run"), "m.json is of kind run, where a model is due"),
        (lambda t: t.replace("vfl/model", "vfl/zzz"), "is of an unknown kind, where a model"),
        (lambda t: t.replace("vfl/model", "x"), "m.json was not written by vfl"),
        (lambda t: "[]", "m.json was not written by vfl"),
    ],
)
def test_a_document_that_is_not_what_it_should_be(store, change, said):
    path = store.write("model", "m", BODY)
    old = path.read_text()
    new = change(old)
    assert new != old
    path.write_text(new)
    with pytest.raises(ModelError) as raised:
        store.read("model", "m")
    assert said in str(raised.value)


def test_a_document_of_another_kind_by_path(store):
    path = store.write("alignment", "a", {})
    with pytest.raises(ModelError, match=r"a.json is of kind alignment, where a model is due"):
        store.read("model", path)


def test_arrays_lie_beside_their_document(store, tmp_path):
    rows = np.arange(10_000, dtype=np.int64)[::-1]
    ref = store.write_array("alignment", "a", rows)
    path = store.write("alignment", "a", {"rows": ref})
    np.testing.assert_array_equal(store.read_array("alignment", ref), rows)
    assert store.read("alignment", "a")["rows"] == ref
    assert (path.parent / ref["file"]).stat().st_mode & 0o777 == 0o600
    path.parent.rename(tmp_path / "moved")
    np.testing.assert_array_equal(store.read_array("alignment", ref, tmp_path / "moved"), rows)


def test_a_new_document_takes_its_own_arrays_only(store):
    kept = store.write_array("alignment", "a", np.arange(3))
    store.write("alignment", "a", {"rows": kept})
    other = store.write_array("alignment", "a.b", np.arange(9))
    store.write("alignment", "a.b", {"rows": other})
    # Until the new document is there, the old one is whole.
    new = store.write_array("alignment", "a", np.arange(4))
    assert len(store.read_array("alignment", kept)) == 3
    store.write("alignment", "a", {"rows": new})
    assert len(store.read_array("alignment", new)) == 4
    assert len(store.read_array("alignment", other)) == 9
    with pytest.raises(ModelError, match="is missing: it belongs to a stored alignment"):
        store.read_array("alignment", kept)


def test_a_damaged_array(store):
    ref = store.write_array("alignment", "a", np.arange(100))
    path = store.folder("alignment") / ref["file"]
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ModelError, match="is damaged: it is not the array that was written"):
        store.read_array("alignment", ref)
    for bad in ({}, {"file": "../x.npy"}, {"file": "/etc/x.npy"}, {"file": 3}):
        with pytest.raises(ModelError, match="it names no array file"):
            store.read_array("alignment", bad)


def test_no_python_objects_in_an_array(store):
    with pytest.raises(ValueError):
        store.write_array("model", "m", np.array([object()]))


@pytest.mark.parametrize("array", [False, True])
def test_a_full_disk_leaves_the_old_document_and_nothing_else(store, monkeypatch, array):
    path = store.write("model", "m", BODY)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"models/m.* cannot be written: No space left on device$"):
        if array:
            store.write_array("model", "m", np.arange(9))
        else:
            store.write("model", "m", {})
    assert [p.name for p in path.parent.iterdir()] == ["m.json"]
    assert store.read("model", "m") == BODY


def test_a_store_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file/models cannot be made"):
        Store(tmp_path / "file").write("model", "m", BODY)
