"""What earlier versions have kept stays of use."""

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from federation import JOB
from kept_parties import STORES, copy_parties
from room import Room

from vfl.cli import main
from vfl.errors import PeerStopped
from vfl.jobs.alignments import list_alignments
from vfl.jobs.record import load_record
from vfl.party.config import Job, load_party
from vfl.party.identity import load
from vfl.party.ledger import JobEntry, Ledger
from vfl.party.policy import Usage
from vfl.party.store import Store

VERSIONS = sorted(path.name for path in STORES.iterdir() if path.is_dir())
MODELS = ("claims", "linear", "hidden")


@pytest.fixture(params=VERSIONS)
def room(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Room]:
    """The parties of a version, in folders that a test may change."""
    parties = copy_parties(request.param, tmp_path)
    made = Room(SimpleNamespace(parties=parties, guest=parties["insurer"]))  # type: ignore[arg-type]
    made.patch(monkeypatch)
    yield made


def command(room: Room, who: str, *words: str) -> Result:
    party = room.federation.parties[who]
    done = CliRunner().invoke(main, [*words[:-1], str(party.file), *words[-1].split()])
    assert done.exit_code == 0, done.output
    return done


def store_of(room: Room, who: str) -> Store:
    return Store(room.federation.parties[who].folder / "store")


@pytest.mark.parametrize("model", MODELS)
def test_a_model_scores_as_it_did(room: Room, model: str) -> None:
    """To the last digit or so: NumPy's exponential is another one on processors without AVX-512."""
    room.score(model)
    expected = pd.read_csv(room.folder / "scores" / f"{model}.csv", keep_default_na=False)
    scores = pd.read_csv(room.folder / "scores.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(scores, expected, rtol=1e-14, atol=0)
    assert not room.said["insurer"].has("starting anew")


def test_claims_was_trained_under_an_encryption_that_was_taken_out(room: Room) -> None:
    """Its model scores and is reported all the same, as the tests here say."""
    for who in ("insurer", "registry"):
        store = store_of(room, who)
        for kind in ("model", "run"):
            name = next(name for name in store.names(kind) if name.startswith("claims"))
            assert store.read(kind, name)["job"]["secureboost"]["encryption"] == "ou"


def test_a_guest_whose_version_still_has_it_is_told(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host refuses the job, which it does not understand, and says why."""
    canonical = Job(**JOB).canonical.replace(b'"encryption":"paillier"', b'"encryption":"ou"')
    monkeypatch.setattr(Job, "canonical", canonical)
    row = next(
        row
        for row in list_alignments(store_of(room, "insurer"), room.site("insurer").party.policy)
        if row["join"] == "inner"
    )
    with pytest.raises(PeerStopped) as caught:
        room.train(JOB, alignment=row["name"])
    said = (
        '[secureboost] encryption must be "paillier" or "lattice": "ou" (Okamoto-Uchiyama) was taken out'
    )
    assert said in str(caught.value)


def test_a_report_is_made_of_a_run(room: Room, tmp_path: Path) -> None:
    for who, models in {"insurer": MODELS, "registry": MODELS, "umpire": ("hidden",)}.items():
        for model in models:
            out = tmp_path / f"{who}-{model}"
            command(room, who, "report", f"--model {model} --out {out}")
            assert "<html" in (out / "report.html").read_text()


def test_a_record_and_what_was_signed(room: Room) -> None:
    store = store_of(room, "insurer")
    name = next(name for name in store.names("run") if name.startswith("claims"))
    record, evaluation = load_record(store, name)
    assert record.parties == ["insurer", "registry"] and evaluation is not None
    assert len(evaluation.rows) == record.rows["held out"] > 0
    assert record.metrics.keys() == {"insurer alone", "federation"}
    for who in ("insurer", "registry", "umpire"):
        said = json.loads(command(room, who, "policy", "agreement", "--model hidden --json").stdout)
        expected = {"insurer": "signed", "registry": "signed", "umpire": "signed"}
        assert said["signatures"] == expected


def test_relativities_are_shown(room: Room) -> None:
    for who, column in {"insurer": "density", "registry": "power"}.items():
        shown = json.loads(command(room, who, "relativities", "--model linear --json").stdout)
        assert column in {line["column"] for line in shown["relativities"]}


def test_alignments_are_listed_trained_on_and_extended(room: Room) -> None:
    rows = list_alignments(store_of(room, "insurer"), room.site("insurer").party.policy)
    assert {(row["join"], row["rows"]) for row in rows} == {("inner", 141), ("left", 150)}
    assert not any("error" in row for row in rows)
    for row in rows:
        model = room.train(JOB, alignment=row["name"])
        assert model in store_of(room, "registry").names("model")
        extended = room.align(extend=row["name"])
        assert extended.alignment.extends == row["name"]
        assert len(extended.alignment.rows) == row["rows"]


def test_a_ledger_is_whole_and_goes_on(room: Room) -> None:
    for who, party in room.federation.parties.items():
        before = json.loads(command(room, who, "ledger", "verify", "--json").stdout)
        assert before["damage"] == [] and before["sealed"] == before["last"] > 0
        settings = load_party(party.file)
        own = Ledger(party.folder / "store" / "ledger", load(settings.party.identity), settings.role)
        own.append(
            JobEntry(
                peer="registry",
                task="align",
                job=None,
                purpose=None,
                run="",
                hosts=[],
                alignment=None,
                model=None,
            ),
            "",
        )
        own.seal()
        head = f"--json --head {before['head']}"
        after = json.loads(command(room, who, "ledger", "verify", head).stdout)
        assert after["damage"] == [] and after["sealed"] == after["last"] > before["last"]
    told = json.loads(
        command(
            room, "insurer", "ledger", "compare", f"{room.federation.parties['registry'].file} --json"
        ).stdout
    )
    assert told["differences"] == [] and told["messages"] > 100


def test_what_a_host_has_counted_is_read(room: Room) -> None:
    folder, policy = room.federation.parties["registry"].folder, room.site("registry").party.policy
    counted = folder / "store" / "usage.json"
    day = date.fromisoformat(json.loads(counted.read_text())["day"])
    Usage(Store(folder / "store")).count(policy, "insurer", "alignments", 1, day)
    assert json.loads(counted.read_text())["guests"]["insurer"]["alignments"] == 3
