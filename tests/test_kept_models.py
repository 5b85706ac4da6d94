"""Models that a party keeps: listed, shown, removed."""

from pathlib import Path

import pytest
from commands import Done, command
from federation import Party
from kept_parties import copy_parties

from vfl.jobs.kept_tables import keep_table
from vfl.party.directories import name_of
from vfl.party.locks import alone
from vfl.party.store import Store
from vfl.terminal.kept import measure

CLAIMS, LINEAR = "claims-20261128-234030-38f3b4", "linear-20261128-234032-4d904d"
HIDDEN = "hidden-20261128-234035-31aba4"


@pytest.fixture
def parties(tmp_path: Path) -> dict[str, Party]:
    return copy_parties("v1", tmp_path)


def vfl(party: Party, group: str, *words: str) -> Done:
    """A command of a group: its verb, if any, then the party file, then options."""
    verb, options = ([words[0]], words[1:]) if words and words[0][0] != "-" else ([], words)
    return command(group, *verb, str(party.file), *options)


def files(party: Party) -> set[Path]:
    return {path for path in party.folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def store_of(party: Party) -> Store:
    return Store(party.folder / "store")


def test_models_are_listed(parties: dict[str, Party]) -> None:
    insurer, registry, umpire = (parties[name] for name in ("insurer", "registry", "umpire"))
    found = vfl(insurer, "models", "--json").ok().json["models"]
    assert [one["name"] for one in found] == [CLAIMS, LINEAR, HIDDEN]
    claims, linear, _ = found
    assert (claims["job"], claims["kind"], claims["objective"]) == ("claims", "secureboost", "binary")
    assert (linear["job"], linear["kind"], linear["objective"]) == ("linear", "glm", "logistic")
    assert claims["made"].startswith("2026-11-28T23:40") and claims["half"]
    assert claims["alignment"] == "20261128-234023-0545cf"
    assert claims["parties"] == ["insurer", "registry"]
    assert claims["metrics"]["federation"]["auc"] > claims["metrics"]["insurer alone"]["auc"] > 0.5
    of_claims = [path for path in files(insurer) if path.name.startswith(CLAIMS)]
    assert claims["bytes"] == sum(path.stat().st_size for path in of_claims)
    line = vfl(insurer, "models").ok().out.splitlines()[1].split("\t")
    assert line[:3] == [CLAIMS, "2026-11-28 23:40", "claims"] and "AUC 0.9361" in line
    theirs = vfl(registry, "models", "--json").ok().json["models"]
    assert [one["name"] for one in theirs] == [CLAIMS, LINEAR, HIDDEN]
    assert all(one["metrics"] == {} and one["half"] for one in theirs)
    (led,) = vfl(umpire, "models", "--json").ok().json["models"]
    assert (led["name"], led["half"], led["job"]) == (HIDDEN, False, "hidden")


def test_a_model_stands_with_the_measure_of_all_parties_together() -> None:
    """Whatever the guest is called: files have their keys sorted."""
    alone, together = {"auc": 0.6, "log_loss": 0.4}, {"auc": 0.7, "log_loss": 0.3}
    assert measure({"acme alone": alone, "federation": together}) == "AUC 0.7000"
    assert measure({"federation": {"d2": 0.25}, "zebra alone": alone}) == "D² 0.2500"
    assert measure({}) == ""


def test_a_model_that_cannot_be_read_is_listed_with_its_reason(parties: dict[str, Party]) -> None:
    insurer = parties["insurer"]
    half = insurer.folder / "store" / "models" / f"{CLAIMS}.json"
    half.write_bytes(half.read_bytes()[:-20])
    found = {one["name"]: one["error"] for one in vfl(insurer, "models", "--json").ok().json["models"]}
    assert str(half) in found.pop(CLAIMS) and set(found.values()) == {""}
    assert f"{CLAIMS} cannot be read: {half}" in vfl(insurer, "models").ok().out
    vfl(insurer, "models", "show", "--model", CLAIMS).failed(5, str(half))
    vfl(insurer, "models", "remove", "--model", CLAIMS, "--yes").ok()
    assert not half.exists()


def test_a_model_is_shown(parties: dict[str, Party]) -> None:
    insurer, registry = parties["insurer"], parties["registry"]
    shown = vfl(insurer, "models", "show", "--model", "claims", "--json").ok().json
    assert (shown["name"], shown["purpose"], shown["size"]) == (CLAIMS, "a test", "3 trees")
    assert shown["columns"] == ["density", "area"] and shown["rows"]["train"] == 103
    assert all(Path(path).name.startswith(CLAIMS) for path in shown["files"])
    text = vfl(insurer, "models", "show", "--model", CLAIMS).ok().out
    assert text.startswith(f"model {CLAIMS}\n") and "held out, federation: AUC 0.9361" in text
    theirs = vfl(registry, "models", "show", "--model", "linear", "--json").ok().json
    assert theirs["columns"] == ["power", "brand"]
    assert theirs["size"].endswith(" parameters of own columns")
    vfl(insurer, "models", "show", "--model", "nothing").failed(5, "no model nothing", CLAIMS)
    vfl(insurer, "models", "show", "--model", "./nothing.json").failed(5, "is a path")


def test_a_model_is_removed_with_all_that_belongs_to_it(parties: dict[str, Party]) -> None:
    """And with nothing else: what was counted stays."""
    insurer, registry = parties["insurer"], parties["registry"]
    store = store_of(registry)
    keep_table(store, LINEAR, ["registry:brand"], ["brand", "rows"], [["a", 1]])
    keep_table(store, CLAIMS, ["registry:brand"], ["brand", "rows"], [["a", 1]])
    command("publish", str(registry.file), "--model", "linear").ok()
    (directory,) = vfl(registry, "models", "--json").ok().json["models"][1]["directories"]
    assert directory["peer"] == "insurer" and not directory["withdrawn"] and directory["bytes"] > 100
    (store.root / "usage.json").write_text("{}")
    before = files(registry)
    done = vfl(registry, "models", "remove", "--model", LINEAR, "--yes", "--json").ok().json
    assert done["removed"] == LINEAR
    gone = before - files(registry)
    assert {str(path) for path in gone} == set(done["files"])
    assert {path.parent.name for path in gone} == {"models", "runs", "tables", "directories"}
    assert [path.name for path in gone if path.parent.name == "directories" and "entries" in path.name]
    assert store.names("model") == [CLAIMS, HIDDEN] and len(store.names("table")) == 1
    assert any("insurer no longer scores with registry" in note for note in done["notes"])
    assert any("sealed directory" in note for note in done["notes"])
    assert [one["name"] for one in vfl(registry, "models", "--json").json["models"]] == [CLAIMS, HIDDEN]
    assert any("registry" in note for note in _removed(insurer, CLAIMS)["notes"])


def _removed(party: Party, model: str) -> dict[str, list[str]]:
    return vfl(party, "models", "remove", "--model", model, "--yes", "--json").ok().json


def test_a_directory_stays_as_long_as_a_version_needs_it(parties: dict[str, Party]) -> None:
    insurer = parties["insurer"]
    store = store_of(insurer)
    edited = "linear-20261129-000000-aaaaaa"
    body = store.read("model", LINEAR) | {"name": edited, "edited_from": LINEAR, "changes": []}
    store.write("model", edited, body)
    fetched = name_of(LINEAR, "registry")
    kept = {"model": LINEAR, "peer": "registry", "made": "2026-11-29T00:00:00+00:00"}
    store.write("directory", fetched, kept)
    shown = vfl(insurer, "models", "show", "--model", LINEAR, "--json").ok().json
    assert shown["versions"] == [edited] and shown["directories"][0]["peer"] == "registry"
    notes = _removed(insurer, LINEAR)["notes"]
    assert any(edited in note for note in notes)
    assert store.names("directory") == [fetched] and edited in store.names("model")
    (listed,) = [one for one in vfl(insurer, "models", "--json").json["models"] if one["name"] == edited]
    assert listed["edited_from"] == LINEAR and listed["directories"][0]["document"] == fetched
    _removed(insurer, edited)
    assert store.names("directory") == []


@pytest.mark.parametrize(
    ("lock", "said"), [("serve.lock", "vfl serve"), ("online-4711.lock", "vfl online")]
)
def test_a_model_that_may_be_in_use_stays(parties: dict[str, Party], lock: str, said: str) -> None:
    registry = parties["registry"]
    before = files(registry)
    with alone(store_of(registry).root / lock, said):
        vfl(registry, "models", "remove", "--model", CLAIMS, "--yes").failed(6, "may be in use", CLAIMS)
        vfl(registry, "models").ok()
    assert files(registry) == before
    _removed(registry, CLAIMS)


def test_nothing_is_removed_without_being_asked(
    parties: dict[str, Party], monkeypatch: pytest.MonkeyPatch
) -> None:
    insurer = parties["insurer"]
    before = files(insurer)
    vfl(insurer, "models", "remove", "--model", CLAIMS).failed(2, "add --yes")
    vfl(insurer, "models", "remove", "--model", "claims", "--yes").failed(5, "whole name", CLAIMS)
    for kept in ("models", "runs", "alignments"):
        vfl(insurer, kept, "rename", "--model", CLAIMS).failed(2, "cannot be changed")
    vfl(insurer, "models", "delete", "--model", CLAIMS).failed(2, "add --yes")  # the same as remove
    command("models", "shwo").failed(2, "did you mean show?")
    assert files(insurer) == before
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    asked: list[str] = []

    def answer(text: str, **_: object) -> bool:
        asked.append(text)
        return len(asked) > 1

    monkeypatch.setattr("click.confirm", answer)
    refused = vfl(insurer, "models", "remove", "--model", CLAIMS)
    assert refused.code == 130 and refused.out == "" and files(insurer) == before
    assert f"{CLAIMS}.json" in refused.err and "the record of its run" in refused.err
    done = vfl(insurer, "models", "remove", "--model", CLAIMS).ok()
    assert done.out.startswith(f"model {CLAIMS} is removed: ") and len(asked) == 2


def test_a_damaged_model_is_removed_with_its_directory(parties: dict[str, Party]) -> None:
    registry = parties["registry"]
    store = store_of(registry)
    command("publish", str(registry.file), "--model", "linear").ok()
    (store.folder("model") / f"{LINEAR}.json").write_text("{}")
    assert any("sealed directory" in note for note in _removed(registry, LINEAR)["notes"])
    assert not [path for path in store.folder("directory").iterdir() if path.suffix != ".lock"]
    assert LINEAR not in {one["name"] for one in vfl(registry, "models", "--json").json["models"]}
