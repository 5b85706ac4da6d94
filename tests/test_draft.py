"""Files drafted from tables: what they say, that they serve, and what a person is asked."""

import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from vfl.cli import init as command
from vfl.cli import main
from vfl.errors import ConfigError
from vfl.jobs.check_result import CheckResult
from vfl.jobs.draft import likely_ids, open_table
from vfl.jobs.table_check import check_table
from vfl.leakage.estimate import estimate
from vfl.learn.params import BoostParams
from vfl.party.config import load_job, load_party
from vfl.party.drafted import DRAFTED_PURPOSE
from vfl.party.policy_section import PolicySection

SAMPLES = Path(__file__).parents[1] / "data_samples"
INSURER = ("--role", "guest", "--host", "registry", "--listen", "127.0.0.1:7443")
HOST = ("--role", "host", "--guest", "insurer=127.0.0.1:7443")


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch) -> Path:
    """A folder of the party's own, without a terminal."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def vfl(*words: str | Path, typed: str | None = None):
    return CliRunner().invoke(main, ["init", *map(str, words)], input=typed)


def drafted(file: str) -> dict:
    return tomllib.loads(Path(file).read_text())


def faults_of(file: str) -> list[str]:
    """What `vfl doctor` finds wrong with the table."""
    found: list[CheckResult] = []
    check_table(load_party(file), found.append)
    return [one.text for one in found if one.level == "FAIL"]


@pytest.mark.parametrize(
    ("table", "options", "data"),
    [
        (
            "insurer/policies.csv",
            (*INSURER, "--id", "plate", "--label", "claim"),
            {"id": "plate", "label": "claim", "categorical": ["area", "region"]},
        ),
        (
            "registry/vehicles.csv",
            (*HOST, "--id", "registration"),
            {"id": "registration", "categorical": ["fuel", "brand"]},
        ),
    ],
)
def test_a_table_as_its_file_is_written(table, options, data):
    done = vfl("me", *options, "--data", SAMPLES / table)
    assert done.exit_code == 0, done.stderr
    own = drafted("me.toml")
    assert Path(own["data"].pop("path")).resolve() == (SAMPLES / table).resolve()
    assert own["data"] == data
    assert faults_of("me.toml") == []
    assert "vfl keys new me" in done.stdout and "vfl doctor me.toml" in done.stdout


def odd_table(rows: int = 300) -> pd.DataFrame:
    """As a German spreadsheet exports it, with columns that nobody means."""
    rng = np.random.default_rng(5)
    return pd.DataFrame(
        {
            "nr": [f"K-{n:05d}" for n in rng.permutation(rows)],
            "betrag": [f"{n % 9 + 1}.{100 + n % 800},{10 + n % 90}" for n in range(rows)],
            "geboren": [f"{1 + n % 28:02d}.{1 + n % 12:02d}.19{50 + n % 50}" for n in range(rows)],
            "ort": "Köln",
            "zeile": range(rows),
            "klasse": rng.choice([101, 205, 312], rows),
            "plz": [f"{n:05d}" for n in rng.choice(range(1067, 20000, 211), rows)],
        }
    )


def test_what_the_file_needs_and_what_nobody_means(at_home):
    odd_table().to_csv("kunden.csv", sep=";", index=False, encoding="windows-1252")
    done = vfl("bank", *HOST, "--data", "kunden.csv", "--id", "nr")
    assert done.exit_code == 0, done.stderr
    data = drafted("bank.toml")["data"]
    assert data.pop("encoding").lower() in ("windows-1252", "latin-1")
    assert data == {
        "path": "kunden.csv",
        "id": "nr",
        "decimal": ",",
        "thousands": ".",
        "dates": {"geboren": {"as": "days", "order": "dmy"}},
        "ignore": ["ort", "zeile"],
    }
    text = Path("bank.toml").read_text()
    assert "# 'ort' has the same value in every row\n# 'zeile' counts the rows\nignore" in text
    assert "'klasse' has 3 whole numbers: if they are names" in done.stdout
    assert "'plz' has numbers with a zero in front: if they are names (a code), put it" in done.stdout
    assert done.stdout.count("a zero in front") == 1
    assert faults_of("bank.toml") == []


def test_what_it_says_as_json(at_home):
    odd_table().to_csv("kunden.csv", index=False)
    done = vfl("bank", *HOST, "--data", "kunden.csv", "--id", "nr", "--json")
    told = json.loads(done.stdout)
    assert (done.exit_code, told["file"], told["faults"]) == (0, "bank.toml", [])
    assert any("'klasse'" in note for note in told["notes"])


def test_what_has_to_be_corrected_first_is_said(at_home):
    odd_table().assign(wert=["1"] * 299 + ["1,2,3"]).to_csv("t.csv", index=False)
    done = vfl("bank", *HOST, "--data", "t.csv", "--id", "nr")
    assert done.exit_code == 3
    assert "column 'wert'" in done.stderr and "to correct first" in done.stderr
    assert drafted("bank.toml")["data"]["id"] == "nr"  # with all else that is known


def test_a_column_that_is_not_there():
    done = vfl(
        "me", *INSURER, "--id", "plate", "--label", "clam", "--data", SAMPLES / "insurer/policies.csv"
    )
    assert done.exit_code == 3 and "no column 'clam' (label)" in done.stderr
    assert not Path("me.toml").exists()


def test_no_file_is_replaced_and_no_name_taken_that_is_none():
    Path("me.toml").write_text("mine")
    done = vfl("me", *HOST, "--data", SAMPLES / "registry/vehicles.csv", "--id", "registration")
    assert done.exit_code == 2 and "is there already" in done.stderr
    assert Path("me.toml").read_text() == "mine"
    done = vfl("My Name", *HOST, "--data", SAMPLES / "registry/vehicles.csv", "--id", "registration")
    assert done.exit_code == 2 and "is no name" in done.stderr


def test_what_a_person_has_to_add_is_said_once_the_file_is_there():
    data = ("--data", SAMPLES / "insurer/policies.csv", "--id", "plate", "--label", "claim")
    done = vfl("me", "--role", "guest", "--host", "registry", *data)
    assert done.exit_code == 2 and "[party] needs listen" in done.stderr
    assert "next: vfl keys new me" in done.stdout and drafted("me.toml")["party"]["name"] == "me"


def test_peers_may_come_later():
    for name, options in (
        ("me", ("--role", "guest", "--data", SAMPLES / "insurer/policies.csv", "--id", "plate")),
        (
            "them",
            ("--role", "host", "--data", SAMPLES / "registry/vehicles.csv", "--id", "registration"),
        ),
    ):
        more = ("--label", "claim", "--listen", "127.0.0.1:7443") if name == "me" else ()
        done = vfl(name, *options, *more)
        assert done.exit_code == 0, done.stderr
        way = "vfl invite me.toml NAME" if name == "me" else "vfl join them.toml"
        assert way in done.stdout
        assert "peers" not in drafted(f"{name}.toml")
        assert load_party(f"{name}.toml", peers_to_come=True).peers == {}
        with pytest.raises(ConfigError, match="as `vfl invite` and `vfl join` do"):
            load_party(f"{name}.toml")


@pytest.mark.parametrize(("rows", "depth"), [(8000, 3), (2000, 2), (500, 2)])
def test_a_draft_has_room_for_trainings_by_what_hosts_allow_by_default(rows, depth):
    frame = pd.read_csv(SAMPLES / "insurer/policies.csv").head(rows)
    frame.to_csv("t.csv", index=False)
    assert vfl("me", *INSURER, "--data", "t.csv", "--id", "plate", "--label", "claim").exit_code == 0
    done = vfl("job", "--job", "me.toml")
    assert done.exit_code == 0
    refused = "fewer than 1,000 rows in common (min_intersection), and the table has 500: they"
    assert (refused in done.stdout) == (rows == 500)
    job, trained = load_job("job.toml").secureboost, int(0.95 * 0.8 * rows)
    told = re.search(
        r"trees? of depth (\d): hosts allow by default (\d+) in all .* (\d+) such training", done.stdout
    )
    found, fit, times = map(int, told.groups())
    assert (job.depth == found == depth and times == fit // job.trees >= 3) or rows == 500
    least = PolicySection().max_sums_a_row
    assert estimate(trained, job).equations_a_row * times <= least
    assert estimate(trained, job.model_copy(update={"trees": fit + 1})).equations_a_row > least
    assert f"trees = {job.trees}  # hosts allow by default {fit} in all" in Path("job.toml").read_text()


def test_a_host_reads_how_many_trees_its_default_comes_to():
    data = ("--data", SAMPLES / "registry/vehicles.csv", "--id", "registration")
    done = vfl("me", *HOST, *data)
    said = re.search(r"by default (\d+) trees of depth 3 in all of a guest's trainings", done.stdout)
    rule = tomllib.loads(re.search(r"# (max_sums_a_row = \S+)", Path("me.toml").read_text())[1])
    assert rule["max_sums_a_row"] == PolicySection().max_sums_a_row
    rows, trees = int(0.95 * 0.8 * 10_941), int(said[1])
    for more, fits in ((0, True), (1, False)):
        told = estimate(rows, BoostParams(depth=3, trees=trees + more)).equations_a_row
        assert (told <= rule["max_sums_a_row"]) == fits


def test_a_purpose_is_said_asked_for_or_missing(monkeypatch):
    data = ("--data", SAMPLES / "insurer/policies.csv", "--id", "plate", "--label", "claim")
    assert vfl("me", *INSURER, *data).exit_code == 0
    assert load_job_said("a", "--purpose", 'motor "2027"') == 'motor "2027"'
    assert "next: vfl train me.toml b.toml" in vfl("b", "--job", "me.toml", "--purpose", "motor").stdout
    done = vfl("c", "--job", "me.toml")
    assert "next: say its purpose in c.toml, then vfl train me.toml c.toml" in done.stdout
    assert load_job("c.toml").job.purpose == DRAFTED_PURPOSE
    for bad in (" ", "a\nb", "a" * 201):
        done = vfl("d", "--job", "me.toml", "--purpose", bad)
        assert done.exit_code == 2 and "one line of printable text" in done.stderr
    done = vfl("d", *HOST, "--purpose", "motor")
    assert done.exit_code == 2 and "--purpose is of a job" in done.stderr
    assert not Path("d.toml").exists()
    monkeypatch.setattr(command, "_at_terminal", lambda: True)
    done = vfl("e", "--job", "me.toml", typed="pricing\n")
    assert "What is the model for" in done.stderr and load_job("e.toml").job.purpose == "pricing"


def load_job_said(name: str, *words: str) -> str:
    assert vfl(name, "--job", "me.toml", *words).exit_code == 0
    return load_job(f"{name}.toml").job.purpose


@pytest.mark.parametrize("words", [("train",), ("tune",), ("worth",), ("screen",)])
def test_a_draft_without_a_purpose_is_sent_to_nobody(words):
    data = ("--data", SAMPLES / "insurer/policies.csv", "--id", "plate", "--label", "claim")
    assert vfl("me", *INSURER, *data).exit_code == 0
    assert vfl("c", "--job", "me.toml").exit_code == 0
    done = CliRunner().invoke(main, [*words, "me.toml", "c.toml"])
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert "c.toml: purpose in [job] is still the draft's: say there what the model is for" in line
    file = Path("c.toml")
    file.write_text(file.read_text().replace(DRAFTED_PURPOSE, "motor"))
    done = CliRunner().invoke(main, [*words, "me.toml", "c.toml"])
    assert done.exit_code and "purpose in [job]" not in done.stderr  # no keys yet


def test_the_doctor_names_a_purpose_that_nobody_said():
    data = ("--data", SAMPLES / "insurer/policies.csv", "--id", "plate", "--label", "claim")
    assert vfl("me", *INSURER, *data).exit_code == 0
    assert vfl("c", "--job", "me.toml").exit_code == 0
    for said in (False, True):
        done = CliRunner().invoke(main, ["doctor", "me.toml", "--wait", "0", "--job", "c.toml"])
        line = "FAIL  job: c.toml: purpose in [job] is still the draft's"
        assert (line in done.stdout) != said
        Path("c.toml").write_text(Path("c.toml").read_text().replace(DRAFTED_PURPOSE, "motor"))


def test_a_project_with_the_purpose_of_a_draft_is_sent_to_nobody():
    data = ("--data", SAMPLES / "insurer/policies.csv", "--id", "plate", "--label", "claim")
    assert vfl("me", *INSURER, *data).exit_code == 0
    Path("p.toml").write_text(
        f'[project]\nname = "p"\npurpose = "{DRAFTED_PURPOSE}"\ncounts = "claim"\namounts = "cost"\n'
        '[frequency]\nmodel = "glm"\n[severity]\nmodel = "glm"\n'
    )
    done = CliRunner().invoke(main, ["train", "me.toml", "p.toml"])
    assert done.exit_code == 2 and "p.toml: purpose in [project] is still the draft's" in done.stderr


def test_without_a_terminal_the_missing_option_is_named_with_what_is_likely():
    done = vfl("me", *HOST, "--data", SAMPLES / "registry/vehicles.csv")
    assert done.exit_code == 2
    assert "--id is missing" in done.stderr and "perhaps registration" in done.stderr


def test_measurements_are_no_ids(at_home):
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"change": rng.normal(size=80), "tiny": rng.random(80) * 1e-9})
    frame.assign(key=[f"k{n}" for n in range(80)], share=[f"{n},5" for n in range(80)]).to_csv("t.csv")
    assert likely_ids(open_table(Path("t.csv")))[-1] == "key"
    assert not {"change", "tiny", "share"} & {*likely_ids(open_table(Path("t.csv")))}


def test_at_a_terminal_it_asks(monkeypatch):
    monkeypatch.setattr(command, "_at_terminal", lambda: True)
    table = SAMPLES / "insurer/policies.csv"
    peers = ("--host", "registry=127.0.0.1:7443")
    done = vfl("me", *peers, typed=f"guest\n{table}\n\nclaim\n")
    assert done.exit_code == 0, done.stderr
    assert "names a row" in done.stderr and "[plate]" in done.stderr
    own = drafted("me.toml")
    assert (own["party"]["role"], own["data"]["id"], own["data"]["label"]) == ("guest", "plate", "claim")


@pytest.mark.parametrize(
    ("label", "columns", "tree", "linear"),
    [
        ([0, 1], {}, "binary", "logistic"),
        ([0, 1], {"exposure": 0.5}, "poisson", "poisson"),
        ([0, 3], {}, "poisson", "poisson"),
        ([10.5, 2000.0], {}, "gamma", "gamma"),
        ([0.0, 2000.5], {}, "tweedie", "tweedie"),
        ([-1.5, 2.0], {}, "squared", "gaussian"),
        (["none", "small", "big"], {}, "multiclass", "poisson"),
    ],
)
def test_a_job_by_its_label(label, columns, tree, linear):
    rows = np.arange(60)
    frame = pd.DataFrame({"key": [f"a{n}" for n in rows], "age": rows % 7, "y": np.resize(label, 60)})
    frame.assign(**columns).to_csv("t.csv", index=False)
    assert vfl("me", *INSURER, "--data", "t.csv", "--id", "key", "--label", "y").exit_code == 0
    if columns:
        file = Path("me.toml")
        file.write_text(file.read_text().replace("[peers", 'exposure = "exposure"\n\n[peers', 1))
    for model, key, kind in (("secureboost", "objective", tree), ("glm", "family", linear)):
        done = vfl(f"a-{model}", "--job", "me.toml", "--model", model)
        assert done.exit_code == 0, done.stderr
        job = load_job(f"a-{model}.toml")
        assert (job.job.model, getattr(job.job, key)) == (model, kind)
        assert job.secureboost.classes == (3 if kind == "multiclass" else None)


@pytest.mark.parametrize("ends", ["csv", "parquet"])
@pytest.mark.parametrize("rows", [60, 3000])
def test_what_says_the_label_in_words_is_left_out_with_the_reason(rows, ends):
    rng = np.random.default_rng(2)
    label = np.zeros(rows, int)
    label[:: rows // 8] = 1
    label[1:rows:50] = rows > 100
    words = {"claimed": np.where(label, "yes", "no"), "settled": np.where(label, "paid", None)}
    status = np.where(label, rng.choice(["open", "closed"], rows), "none")
    frame = pd.DataFrame({"key": [f"k{n}" for n in range(rows)], "y": label, **words, "status": status})
    frame["area"] = rng.choice(["a", "b"], rows)
    frame.to_csv("t.csv", index=False) if ends == "csv" else frame.to_parquet("t.parquet")
    done = vfl("me", *INSURER, "--data", f"t.{ends}", "--id", "key", "--label", "y")
    assert done.exit_code == 0, done.stderr
    data = drafted("me.toml")["data"]
    assert data["ignore"] == ["claimed", "settled", "status"] and data["categorical"] == ["area"]
    text = Path("me.toml").read_text()
    for name in data["ignore"]:
        assert re.search(rf"# '{name}' (nearly is the label|tells the label almost alone) \(", text)
    assert faults_of("me.toml") == []


def test_ids_that_doctor_would_refuse_are_faults_of_the_table():
    Path("t.csv").write_text("id,x\na,1\na,2\nb,3\n,4\n")
    done = vfl("me", *HOST, "--data", "t.csv", "--id", "id")
    assert done.exit_code == 3 and "me.toml is drafted" in done.stdout
    without, again, last = done.stderr.splitlines()
    assert "1 row has no id once normalised (row 5)" in without
    assert "1 row repeats the id of an earlier row (row 3)" in again
    assert last == "error: t.csv has 2 things to correct first: then vfl doctor me.toml"
    assert [f"table: {without}", f"table: {again}"] == faults_of("me.toml")


def test_what_cannot_be_is_said_before_a_file_is_there():
    table = ("--data", SAMPLES / "insurer/policies.csv")
    guest = ("--role", "guest", *table, "--id", "plate", "--label", "claim")
    refused = [
        (("me", *guest, "--listen", "7443"), 2, "'7443' is no address: write host:port"),
        (("me", *guest, "--host", "registry=7443"), 2, "'7443' is no address: write host:port"),
        (("me", *guest[:-1], "plate"), 2, "--id and --label: "),
        (
            ("me", *guest[:-1], "Claims"),
            3,
            "no column 'Claims' (label): did you mean 'claim'? it has plate",
        ),
        (("My Compäny", *guest), 2, "starting with a letter, as my-company"),
        (("12", *guest), 2, "starting with a letter\n"),
    ]
    for words, code, said in refused:
        done = vfl(*words)
        assert (done.exit_code, len(done.stderr.splitlines())) == (code, 1) and said in done.stderr, (
            done.stderr
        )
    assert not [*Path().glob("*.toml")]


def test_a_link_that_leads_nowhere_is_no_place_for_a_draft():
    Path("me.toml").symlink_to("elsewhere.toml")
    done = vfl("me", *HOST, "--data", SAMPLES / "registry/vehicles.csv", "--id", "registration")
    assert done.exit_code == 2 and "me.toml is there already" in done.stderr
    assert Path("me.toml").is_symlink() and not Path("elsewhere.toml").exists()


def test_a_host_starts_no_job():
    assert (
        vfl("me", *HOST, "--data", SAMPLES / "registry/vehicles.csv", "--id", "registration").exit_code
        == 0
    )
    done = vfl("claims", "--job", "me.toml")
    assert done.exit_code == 2 and "a guest starts jobs" in done.stderr
