"""Unfinished trainings and alignments that a party keeps: listed, shown, removed."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from commands import Done, command
from federation import Party
from kept_parties import copy_parties

from vfl.errors import Refused
from vfl.jobs.admission import fresh_name
from vfl.jobs.alignments import origin_of
from vfl.jobs.hints import hold_hints
from vfl.jobs.resume import RunSubject, open_run
from vfl.party.locks import alone
from vfl.party.store import Store

FIRST, EVERY = "20261128-234023-0545cf", "every-20261128-234025-e5a0b5"
CLAIMS = "claims-20261128-234030-38f3b4"
OLD, NEW = "claims-20270101-000000-aaaaaa", "claims-20270102-000000-bbbbbb"
SUBJECT = RunSubject("digest", "claims", FIRST, "fingerprint", ["registry"], "own")


@pytest.fixture
def parties(tmp_path: Path) -> dict[str, Party]:
    return copy_parties("v1", tmp_path)


def vfl(party: Party, group: str, *words: str) -> Done:
    """A command of a group: its verb, if any, then the party file, then options."""
    verb, options = ([words[0]], words[1:]) if words and words[0][0] != "-" else ([], words)
    return command(group, *verb, str(party.file), *options)


def store_of(party: Party) -> Store:
    return Store(party.folder / "store")


def unfinished(store: Store, name: str, done: int, subject: RunSubject = SUBJECT) -> None:
    """A checkpoint as a training leaves it."""
    state = {"done": done, "state": dict(store.write_array("checkpoint", name, np.arange(99)))}
    store.write("checkpoint", name, {"matter": msgspec.to_builtins(subject), "states": [state]})


def test_unfinished_runs_are_listed_and_shown(parties: dict[str, Party]) -> None:
    insurer = parties["insurer"]
    assert vfl(insurer, "runs").ok().out == "there is no unfinished run\n"
    vfl(insurer, "runs", "show", "--run", OLD).failed(5, "there is none at all")
    store = store_of(insurer)
    unfinished(store, OLD, 3)
    unfinished(store, NEW, 12)
    newest, older = vfl(insurer, "runs", "--json").ok().json["runs"]
    assert (newest["name"], newest["done"], newest["goes_on"]) == (NEW, 12, True)
    assert (older["name"], older["done"], older["goes_on"]) == (OLD, 3, False)
    assert newest["job"] == "claims" and newest["alignment"] == FIRST and newest["bytes"] > 800
    with open_run(store, NEW, SUBJECT):
        newest, _ = vfl(insurer, "runs", "--json").ok().json["runs"]
        assert "process" in newest["works"]
        assert f"{NEW}\tclaims\t12\t" in vfl(insurer, "runs").ok().out
    shown = vfl(insurer, "runs", "show", "--run", NEW).ok().out
    assert "steps done  12" in shown and "goes on with it" in shown
    vfl(insurer, "runs", "show", "--run", NEW[:-1]).failed(5, f"did you mean {NEW}?")


def test_an_unfinished_run_is_removed_unless_it_is_at_work(parties: dict[str, Party]) -> None:
    insurer = parties["insurer"]
    store = store_of(insurer)
    unfinished(store, OLD, 3)
    unfinished(store, NEW, 12)
    with open_run(store, NEW, SUBJECT):
        vfl(insurer, "runs", "remove", "--run", NEW, "--yes").failed(6, f"the training of {NEW}")
    vfl(insurer, "runs", "remove", "--run", NEW).failed(2, "add --yes")
    done = vfl(insurer, "runs", "remove", "--run", NEW, "--yes", "--json").ok().json
    assert done["removed"] == NEW and len(done["files"]) == 2
    assert not any(Path(path).exists() for path in done["files"])
    assert store.names("checkpoint") == [OLD] and CLAIMS in store.names("model")
    (left,) = vfl(insurer, "runs", "--json").ok().json["runs"]
    assert (left["name"], left["goes_on"]) == (OLD, True)
    (store.folder("checkpoint") / f"{OLD}.json").write_text("{}")
    (broken,) = vfl(insurer, "runs", "--json").ok().json["runs"]
    assert broken["name"] == OLD and "was not written by vfl" in broken["error"]
    vfl(insurer, "runs", "remove", "--run", OLD, "--yes").ok()
    assert store.names("checkpoint") == []


def test_an_alignment_is_shown_with_what_needs_it(parties: dict[str, Party]) -> None:
    insurer = parties["insurer"]
    listed = vfl(insurer, "alignments", "--json").ok().json["alignments"]
    assert [one["name"] for one in listed] == [FIRST, EVERY]
    unfinished(store_of(insurer), NEW, 12)
    shown = vfl(insurer, "alignments", "show", "--alignment", FIRST, "--json").ok().json
    assert shown["name"] == FIRST and CLAIMS in shown["models"] and shown["runs"] == [NEW]
    assert shown["bytes"] == sum(Path(path).stat().st_size for path in shown["files"])
    text = vfl(insurer, "alignments", "show", "--alignment", "every").ok().out
    assert EVERY in text.splitlines()[1]
    vfl(insurer, "alignments", "show", "--alignment", "none").failed(5, "no alignment none")


def test_an_alignment_is_removed_and_counts_stay(parties: dict[str, Party]) -> None:
    registry = parties["registry"]
    store = store_of(registry)
    counts = {store.root / "labels.json": "{}", store.root / "usage.json": "{}"}
    for path, text in counts.items():
        path.write_text(text)
    store.write("draw", FIRST, {"drawn": dict(store.write_array("draw", FIRST, np.zeros((2, 3), "u1")))})
    with alone(store.root / "serve.lock", "vfl serve"):
        refused = vfl(registry, "alignments", "remove", "--alignment", FIRST, "--yes")
        refused.failed(6, FIRST, "may be in use")
    vfl(registry, "alignments", "remove", "--alignment", "every", "--yes").failed(5, EVERY)
    done = vfl(registry, "alignments", "remove", "--alignment", FIRST, "--yes", "--json").ok().json
    assert {Path(path).parent.name for path in done["files"]} == {"alignments"}
    assert any(CLAIMS in note for note in done["notes"])
    assert store.names("alignment") == [EVERY] and store.names("draw") == [FIRST]
    assert all(path.read_text() == text for path, text in counts.items())
    assert len(store.names("model")) == 3
    with pytest.raises(Refused, match="exists already"):  # or it would have the draws of another one
        fresh_name(store, "alignment", FIRST)


def test_an_alignment_that_a_training_holds_stays(parties: dict[str, Party]) -> None:
    store = store_of(parties["insurer"])
    with hold_hints(store, FIRST):
        refused = vfl(parties["insurer"], "alignments", "remove", "--alignment", FIRST, "--yes")
        assert refused.code == 6 and "a training on" in refused.errors[0]
    assert FIRST in store.names("alignment")


def test_an_alignment_by_which_counts_are_found_stays(parties: dict[str, Party]) -> None:
    """Those of earlier versions do not say which one came first: it is found through the one between."""
    registry = parties["registry"]
    store = store_of(registry)
    between, last = "20270101-000000-aaaaaa", "20270102-000000-bbbbbb"
    body = store.read("alignment", FIRST)
    store.write("alignment", between, body | {"name": between, "extends": FIRST, "origin": None})
    store.write("alignment", last, body | {"name": last, "extends": between, "origin": None})
    assert origin_of(store, last) == FIRST
    refused = vfl(registry, "alignments", "remove", "--alignment", between, "--yes")
    refused.failed(6, f"alignment {last} extends {between}")
    vfl(registry, "alignments", "remove", "--alignment", last, "--yes").ok()
    vfl(registry, "alignments", "remove", "--alignment", between, "--yes").ok()
    store.write("alignment", between, body | {"name": between, "extends": EVERY, "origin": FIRST})
    store.write("alignment", last, body | {"name": last, "extends": between, "origin": FIRST})
    vfl(registry, "alignments", "remove", "--alignment", between, "--yes").ok()
    assert origin_of(store, last) == FIRST
