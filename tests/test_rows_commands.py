"""Commands of parties of a job over rows, each by itself: no peer is there."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from commands import Done, command

from vfl.party import identity

HOSPITALS = ("university", "city", "county", "coast")
SCENARIO = Path(__file__).resolve().parents[1] / "scenarios" / "disease_risk" / "rows"
JOB = "readmission.toml"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name in (*HOSPITALS, "server"):
        identity.create(folder / name, name)
    return folder


@pytest.fixture
def coast(tmp_path: Path, keys: Path) -> Path:
    """The folder of the hospital at the coast, with a table of twelve rows and the server's jobs."""
    return party("coast", tmp_path, keys)


def party(name: str, folder: Path, keys: Path) -> Path:
    home = folder / name
    shutil.copytree(SCENARIO / name, home)
    (home / "keys").mkdir()
    (home / "peers").mkdir()
    for part in ("key", "pem"):
        shutil.copy(keys / f"{name}.{part}", home / "keys")
    for other in (*HOSPITALS, "server"):
        shutil.copy(keys / f"{other}.pem", home / "peers")
    for job in SCENARIO.glob("server/readmission*.toml"):
        shutil.copy(job, home)
    if name != "server":
        table().to_csv(home / "stays.csv", index=False)
    return home


def table() -> pd.DataFrame:
    numbers = ("lab_procedures", "procedures", "medications")
    visits = ("outpatient", "emergency", "inpatient", "diagnoses")
    columns = {
        "patient": [f"P{i}" for i in range(12)],
        "readmitted": [0, 1] * 6,
        "age": [35, 45, 55, 65, 75, 85] * 2,
        "time_in_hospital": [1, 2, 3] * 4,
        **{f"num_{name}": range(12) for name in numbers},
        **{f"number_{name}": range(12) for name in visits},
        "gender": ["female", "male"] * 6,
        "admission": ["urgent", "emergency", "elective"] * 4,
        "diagnosis": ["injury", "other", "diabetes"] * 4,
        "a1c": ["none", "high", "normal", "raised"] * 3,
        "insulin": ["no", "up", "down", "steady"] * 3,
        "tablets": ["no", "yes"] * 6,
    }
    return pd.DataFrame(columns)


def change(home: Path, **columns: object) -> None:
    table().assign(**columns).to_csv(home / "stays.csv", index=False)


def doctor(home: Path, *more: str) -> Done:
    return command("doctor", f"{home.name}.toml", "--wait", "0", *more, folder=home)


def about_the_table(done: Done) -> list[str]:
    return [line for line in done.out.splitlines() if "table:" in line or "[data]" in line]


def test_doctor_looks_at_ids_and_label_where_no_job_names_the_columns(coast: Path) -> None:
    first, second = about_the_table(doctor(coast))
    assert first.startswith("ok    table: stays.csv, 12 rows, 12 distinct ids, 0 numeric")
    assert second == "note  table: a job over rows names its columns: --job JOB.toml checks them"


def test_doctor_looks_at_the_columns_of_the_job(coast: Path) -> None:
    done = doctor(coast, "--job", JOB)
    shown, ready = about_the_table(done)
    assert shown == (
        "note  table: stays.csv: 4 rows have a level of 'diagnosis' that the job does not name: they "
        "count as one"
    )
    assert ready.startswith("ok    table: ") and "9 numeric and 6 categorical" in ready
    assert "note  job readmission: of this party's rows 7 train, 5 held out" in done.out


def test_doctor_says_that_rules_of_the_party_file_do_not_count(coast: Path) -> None:
    said = "table: monotone and [glm] of the party file do not count in jobs over rows"
    assert said not in doctor(coast, "--job", JOB).out
    with (coast / "coast.toml").open("a") as file:
        file.write('\n[glm]\nbinned = ["age"]\n')
    assert said in doctor(coast, "--job", JOB).out and said in doctor(coast).out


def test_doctor_holds_the_label_against_the_job_alone(coast: Path) -> None:
    """Counts that are mostly 0 and 1 are right for a job of counts."""
    many = pd.concat([table()] * 20, ignore_index=True)
    many = many.assign(patient=range(len(many)), readmitted=[2] + [0, 1] * 119 + [0])
    many.to_csv(coast / "stays.csv", index=False)
    text = (coast / JOB).read_text()
    (coast / "visits.toml").write_text(text.replace('objective = "binary"', 'objective = "poisson"'))
    assert "binary and logistic need 0 and 1" in doctor(coast).out
    done = doctor(coast, "--job", "visits.toml")
    assert "need 0 and 1" not in done.out and "ok    table: stays.csv, 240 rows" in done.out


def test_doctor_says_when_a_servers_train_is_not_running(coast: Path) -> None:
    done = doctor(coast)
    assert "(the server of a job over rows listens only while its `vfl train` runs)" in done.out
    fails = [line for line in done.out.splitlines() if line.startswith("FAIL")]
    assert len(fails) == 1 and fails[0].startswith("FAIL  server: cannot reach server")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (
            {"num_medications": ["many", *range(11)]},
            "column 'num_medications' (a number by the job) has text that is no number in row 2: "
            "correct it, or leave the cell empty where the value is missing; dates or query of [data] "
            "can make numbers of text",
        ),
        (
            {"num_medications": ["yes", "no"] * 6},
            "column 'num_medications' (a number by the job) has yes or no that is no number",
        ),
        (
            {"num_medications": ["2024-05-01"] * 12},
            "column 'num_medications' (a number by the job) has a date that is no number",
        ),
        ({"readmitted": [0, 2] * 6}, "label 'readmitted'"),
    ],
)
def test_doctor_names_what_no_key_of_the_party_file_mends(
    coast: Path, columns: dict[str, object], said: str
) -> None:
    change(coast, **columns)
    done = doctor(coast, "--job", JOB)
    lines = about_the_table(done)
    assert done.code == 1 and any(line.startswith("FAIL") for line in lines)
    assert said.split(" has ")[0] in "\n".join(lines)
    assert not any("note  [data]" in line or "categorical" in line for line in lines), lines


def test_doctor_names_a_column_of_the_job_that_is_missing(coast: Path) -> None:
    table().drop(columns="age").to_csv(coast / "stays.csv", index=False)
    (line,) = about_the_table(doctor(coast, "--job", JOB))
    assert line.startswith("FAIL  table: stays.csv: no column 'age' (named by [columns] of the job)")


def test_doctor_says_what_the_policy_of_the_party_refuses(coast: Path) -> None:
    text = (coast / JOB).read_text().replace("trees = 40", "trees = 60")
    (coast / "many.toml").write_text(text)
    done = doctor(coast, "--job", "many.toml")
    said = "FAIL  job readmission: trees = 60 breaks rule max_trees = 50 of [policy] (the default)"
    assert done.code == 1 and said in done.out
    assert "breaks rule" not in doctor(coast, "--job", JOB).out


def test_a_party_of_jobs_over_rows_has_nobody_to_align_with(coast: Path) -> None:
    command("align", "coast.toml", folder=coast).failed(2, "jobs over rows need no alignment")


def test_a_server_is_told_what_a_job_over_columns_lacks(tmp_path: Path, keys: Path) -> None:
    home = party("server", tmp_path, keys)
    text = (home / JOB).read_text().replace('partition = "rows"', "")
    (home / JOB).write_text(text.partition("[rows]")[0])
    command("train", "server.toml", JOB, folder=home).failed(2, 'add partition = "rows" to [job]')


def test_levels_in_another_spelling_are_pointed_at_without_being_quoted(coast: Path) -> None:
    change(coast, gender=["F", "M"] * 6)
    lines = about_the_table(doctor(coast, "--job", JOB))
    assert any("no row has a level of 'gender' that the job names" in line for line in lines)
    assert not any('"F"' in line or "'F'" in line for line in lines)


def test_levels_in_another_spelling_are_those_of_the_job(coast: Path) -> None:
    """As they are when a batch is scored."""
    change(coast, gender=["Female", " male", "female", "other"] * 3)
    lines = about_the_table(doctor(coast, "--job", JOB))
    said = "note  table: stays.csv: 3 rows have a level of 'gender' in another spelling than the job: "
    assert said + "they count as the job's" in lines
    assert any("3 rows have a level of 'gender' that the job does not name" in line for line in lines)


def test_one_class_of_label_is_enough_for_one_party(coast: Path) -> None:
    change(coast, readmitted=[0] * 12)
    lines = about_the_table(doctor(coast, "--job", JOB))
    assert not any(line.startswith("FAIL") for line in lines)


def test_doctor_of_a_server(tmp_path: Path, keys: Path) -> None:
    home = party("server", tmp_path, keys)
    done = doctor(home, "--job", JOB)
    assert "note  job readmission: over the rows of university and city and county and coast" in done.out
    text = (home / JOB).read_text().replace("min_parties = 4", "min_parties = 5")
    (home / JOB).write_text(text)
    done = doctor(home, "--job", JOB)
    assert done.code == 1 and "min_parties = 5 in [rows] of the job, and [peers] has 4" in done.out


def test_policy_check_of_a_party_of_jobs_over_rows(coast: Path) -> None:
    allowed = command("policy", "check", JOB, "coast.toml", "--guest", "server", folder=coast).ok().out
    assert allowed.startswith("coast allows readmission, whose digest is ")
    assert "min_pooled_rows = 1,000" in allowed and "max_jobs_a_day = 20" in allowed
    assert "alignment" not in allowed and "max_sums_a_row" not in allowed
    command("policy", "check", JOB, "coast.toml", "--guest", "city", folder=coast).failed(
        2, '[peers] has no "city" that could be the server of a job over rows: it has server'
    )
    file = coast / "coast.toml"
    file.write_text(file.read_text().replace("min_parties = 4", "min_parties = 5\nmax_trees = 5"))
    refused = command("policy", "check", JOB, "coast.toml", folder=coast)
    assert refused.code == 6
    assert "the number of parties = 4 breaks rule min_parties = 5" in refused.out
    assert "max_trees = 5" in refused.out


@pytest.mark.parametrize("name", ["coast", "server"])
def test_leakage_of_a_job_over_rows(tmp_path: Path, keys: Path, name: str) -> None:
    home = party(name, tmp_path, keys)
    found = command("leakage", JOB, f"{name}.toml", "--json", folder=home).ok().json
    names = [one["name"] for one in found["disclosures"]]
    assert {"pooled_totals", "common_model", "rest_of_a_total", "blind_server"} <= set(names)
    assert found["notes"] == []
    assert {one["about"] for one in found["disclosures"]} >= {"all parties together", "the other"}
    assert "gone_party" not in names
    (home / JOB).write_text((home / JOB).read_text().replace("[rows]", "[rows]\nwithout = true"))
    found = command("leakage", JOB, f"{name}.toml", "--json", folder=home).ok().json
    of = {one["name"]: one for one in found["disclosures"]}
    assert of["gone_party"]["what"].startswith("what its rows alone come to")
    assert of["server_and_party"]["what"] == "what that party's rows alone come to"
    assert any("rule without = false" in note for note in found["notes"]) == (name == "coast")
    command("leakage", JOB, f"{name}.toml", "--rows", "9", folder=home).failed(2, "--rows is for jobs")


def test_leakage_says_that_a_party_refuses_and_which_takes_part_in_none(coast: Path) -> None:
    file = coast / "coast.toml"
    file.write_text(file.read_text().replace("min_parties = 4", "min_parties = 9"))
    found = command("leakage", JOB, "coast.toml", "--json", folder=coast).ok().json
    assert found["notes"] and all("coast refuses the job" in note for note in found["notes"])
    practice = SCENARIO.parent / "columns" / "practice" / "practice.toml"
    command("leakage", JOB, str(practice), folder=coast).failed(2, "takes part in none")
