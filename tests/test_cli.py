"""The command line with a process for every party, real sockets and real certificates."""

import csv
import json
import re
import signal
import stat
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commands import command
from federation import JOB, WAIT, Federation, Party, ended, kill, write_table

from vfl.errors import EXIT_CODES, INTERRUPTED, VflError

LONG = {**JOB, "secureboost": {**JOB["secureboost"], "trees": 500}}

# A host whose first job computes for very long in a thread, as on a large table.
SLOW_HOST = """
import time, vfl.cli, vfl.models.trees as host
quick = host.bin_columns
def slow(*args, **named):
    host.bin_columns = quick
    print("computing", file=__import__("sys").stderr, flush=True)
    time.sleep(600)
host.bin_columns = slow
vfl.cli.main()
"""


def flagged(batch: dict[str, list[str]], federation: Federation, *hosts: str) -> list[str]:
    """Which hosts do not know each row of a batch, as the scores must say."""
    known = {
        host: {cell.upper().replace(" ", "") for cell in next(iter(federation.tables[host].values()))}
        for host in hosts
    }
    plates = [plate.replace("-", "") for plate in batch["plate"]]
    return [" ".join(host for host in hosts if plate not in known[host]) for plate in plates]


def test_hosts_that_listen_serve_job_after_job(federation: Federation, insurer: Party) -> None:
    marks = {name: host.mark() for name, host in federation.serving.items()}

    aligned = insurer.align().ok().json
    assert set(aligned) >= {"alignment", "rows", "seconds", "bytes_sent", "bytes_received"}
    assert 320 < aligned["rows"] < 400

    trained = insurer.train().ok().json
    assert trained["trees"] == 2
    assert sum(trained["rows"].values()) == aligned["rows"]
    assert set(trained["metrics"]) == {"insurer alone", "federation"}
    assert trained["metrics"]["federation"]["auc"] > 0.6
    shown = {(party, column) for party, column, _, _ in trained["importance"]}
    assert shown <= {
        *(("insurer", column) for column in ("density", "area")),
        *(("registry", column) for column in ("power", "brand")),
        *(("bureau", f"bureau:{number}") for number in (1, 2)),  # it does not show names
    }

    batch = federation.tables["new"]
    for out in ("scores.csv", "scores.parquet"):
        scored = insurer.score(model=trained["model"], out=out).ok().json
        expected = flagged(batch, federation, "registry", "bureau")
        assert scored["rows"] == len(batch["plate"])
        assert scored["unknown"] == {
            host: sum(host in flag.split() for flag in expected) for host in ("registry", "bureau")
        }
    with (insurer.folder / "scores.csv").open(newline="") as file:
        scores = list(csv.DictReader(file))
    assert [row["plate"] for row in scores] == batch["plate"]
    assert [row["unknown_to"] for row in scores] == expected
    assert all(0 < float(row["probability"]) < 1 for row in scores)
    again = pq.read_table(insurer.folder / "scores.parquet").to_pydict()
    assert again["plate"] == batch["plate"]
    assert [repr(p) for p in again["probability"]] == [row["probability"] for row in scores]

    for name, host in federation.serving.items():
        news = host.err[marks[name] :].splitlines()
        lines = [line for line in news if not line.startswith("training ")]  # how far it is
        assert len(lines) == 8, lines  # what is asked and what came of it, four times
        assert [line.split()[0] for line in lines[1::2]] == ["aligned", "trained", "scored", "scored"]


def test_what_is_kept_is_readable_by_its_owner_only(insurer: Party) -> None:
    kept = [path for path in insurer.store.rglob("*") if path.is_file()]
    assert {path.parent.name for path in kept} == {"alignments", "ledger", "models", "runs"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}


def test_a_guest_that_listens_with_parquet_tables(tmp_path: Path, keys: Path) -> None:
    made = Federation(tmp_path, keys, guest_listens=True, kind="parquet", hosts=("registry",))
    with ended(made.serve()) as federation:
        guest, host = federation.guest, federation.serving["registry"]
        rows = guest.align().ok().json["rows"]
        trained = guest.train().ok().json
        assert sum(trained["rows"].values()) == rows
        assert guest.score(model=trained["model"]).ok().json["rows"] == len(
            federation.tables["new"]["plate"]
        )
        assert "waiting for registry on 127.0.0.1:" in guest.processes[0].err
        host.until("scored")
        host.signal(signal.SIGINT)
        done = host.wait()
        assert (done.code, done.out) == (0, "")
        assert done.err.splitlines()[-1] == "registry stops serving"


def test_one_host_that_listens_and_is_ended_by_sigterm(tmp_path: Path, keys: Path) -> None:
    with ended(Federation(tmp_path, keys, hosts=("bureau",)).serve()) as federation:
        assert federation.guest.align().ok().json["rows"] > 300
        host = federation.serving["bureau"]
        host.signal(signal.SIGTERM)
        done = host.wait()
        assert (done.code, done.out) == (0, "")
        assert done.err.splitlines()[-1] == "bureau stops serving"


def test_two_hosts_that_dial(tmp_path: Path, keys: Path) -> None:
    with ended(Federation(tmp_path, keys, guest_listens=True).serve()) as federation:
        assert federation.guest.align().ok().json["rows"] > 300
        assert sum(federation.guest.train().ok().json["rows"].values()) > 300


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_guest_that_is_interrupted_tells_the_hosts(
    federation: Federation, insurer: Party, number: signal.Signals
) -> None:
    marks = {name: host.mark() for name, host in federation.serving.items()}
    running = insurer.start_train(LONG)
    for name, host in federation.serving.items():
        host.until("asks to train", marks[name])
    running.signal(number)
    done = running.wait()
    assert (done.code, done.out, done.err) == (130, "", "interrupted\n")
    for name, host in federation.serving.items():
        lines = host.until("job ended", marks[name])
        assert lines[1:] == ["job ended: insurer stopped the job: it was interrupted by its operator"]
    insurer.align().ok()


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGHUP, 1), (signal.SIGTERM, 2)])
def test_a_host_that_is_interrupted_tells_the_others(
    tmp_path: Path, keys: Path, number: signal.Signals, workers: int
) -> None:
    made = Federation(tmp_path, keys)
    made.parties["registry"].settings["party"]["workers"] = workers
    with ended(made.serve()) as federation:
        guest = federation.guest
        guest.align().ok()
        running = guest.start_train(LONG)
        registry, bureau = federation.serving["registry"], federation.serving["bureau"]
        for host in (registry, bureau):
            host.until("asks to train")
        registry.signal(number)
        done = registry.wait()
        assert (done.code, done.err.splitlines()[-1]) == (0, "registry stops serving")
        assert done.err.count("job ended: stopped here; a training or a batch goes on when it is") == 1
        running.wait().failed(9, "error: registry stopped the job: it is shutting down")
        lines = bureau.until("job ended")
        assert lines[-1] == "job ended: insurer stopped the job: registry stopped it"

        federation.serve("registry")
        guest.align().ok()


def test_a_host_that_computes_ends_at_once(tmp_path: Path, keys: Path) -> None:
    with ended(Federation(tmp_path, keys, hosts=("registry",)).serve()) as federation:
        guest, registry = federation.guest, federation.parties["registry"]
        guest.align().ok()
        kill(federation.serving["registry"])
        port = re.sub(r".*:", "127.0.0.1:", guest.settings["peers"]["registry"]["address"])
        registry.settings["party"]["listen"] = port
        host = registry.start("serve", program=SLOW_HOST)
        host.until("listening")

        # The guest dies while the host computes: the host notices and serves the next one.
        running = guest.start_train()
        host.until("computing")
        kill(running)
        assert host.until("job ended")[-1].startswith("job ended: ")
        guest.train().ok()

        # The host is ended while a thread of the first job still computes.
        host.signal(signal.SIGTERM)
        done = host.wait()
        assert (done.code, done.err.splitlines()[-1]) == (0, "registry stops serving")


def test_results_for_people(federation: Federation, insurer: Party) -> None:
    marks = {name: host.mark() for name, host in federation.serving.items()}
    done = insurer.run("align", *WAIT).ok()
    assert re.fullmatch(r"alignment \S+ is kept; .* s; registry .* MB out, .* bureau .*\n", done.out)
    assert re.search(r"\d+ of your 400 rows are known to all parties", done.err)
    (insurer.folder / "job.toml").write_text('[job]\nname = "plain"\npurpose = "a test"\n')
    insurer.run("train", "job.toml").failed(2, "job.toml: [job] model is missing")
    done = insurer.run("score", "--model", "claims", "--data", "new.csv", "--out", "s.csv").ok()
    assert re.search(r"registry does not know \d+ of \d+ rows: scored without its columns\n", done.out)
    head, *rows = (insurer.folder / "new.csv").read_text().splitlines()
    at = head.split(",").index("plate")
    cells = [row.split(",") for row in rows]
    strange = [",".join([*one[:at], f"ZZ{n}", *one[at + 1 :]]) for n, one in enumerate(cells)]
    (insurer.folder / "strange.csv").write_text("\n".join([head, *strange]))
    nobody = insurer.run("score", "--model", "claims", "--data", "strange.csv", "--out", "z.csv").ok()
    assert nobody.out.count("its columns; are the ids of the batch those of the training table?") == 2
    for name, host in federation.serving.items():
        assert host.until("scored", marks[name])


def with_years(table: dict[str, list[str]], **more: list[str]) -> dict[str, list[str]]:
    """A table with an exposure column (and others)."""
    rows = len(table["plate"])
    return {**table, "years": [f"{0.25 + (i % 7) / 8}" for i in range(rows)], **more}


def test_a_frequency_model_with_exposure(federation: Federation, insurer: Party) -> None:
    table, batch = federation.tables["insurer"], federation.tables["new"]
    counts = [str(int(claim) * (1 + i % 3)) for i, claim in enumerate(table["claim"])]
    write_table(insurer.table, with_years(table, claim=counts))
    write_table(insurer.folder / "new.csv", with_years(batch))
    write_table(insurer.folder / "units.csv", batch)
    insurer.settings["data"]["exposure"] = "years"
    job = {**JOB, "job": {**JOB["job"], "name": "frequency", "objective": "poisson"}}

    reason = "job.toml: [job] exposure is for counts (poisson): a 0/1 label has no rate"
    insurer.train({**JOB, "job": {**JOB["job"], "exposure": True}}).failed(2, reason)
    trained = insurer.train(job).ok().json
    assert {"insurer alone", "federation"} == set(trained["metrics"])
    assert {"deviance", "d2", "mae", "gini"} <= set(trained["metrics"]["federation"])
    assert trained["metrics"]["federation"]["d2"] > 0
    done = insurer.run("train", "job.toml").ok()
    for word in ("deviance", "D²", "mean absolute error", "insurer alone"):
        assert word in done.out

    insurer.score(model="frequency").ok()
    with (insurer.folder / "scores.csv").open(newline="") as file:
        scores = list(csv.DictReader(file))
    assert list(scores[0]) == ["plate", "prediction", "expected", "unknown_to"]
    years = [float(cell) for cell in with_years(batch)["years"]]
    for row, exposure in zip(scores, years, strict=True):
        assert float(row["expected"]) == pytest.approx(float(row["prediction"]) * exposure)
    done = insurer.score(model="frequency", data="units.csv", out="units.parquet").ok()
    assert "note: units.csv has no column of exposure: scored per unit of exposure" in done.err
    units = pq.read_table(insurer.folder / "units.parquet").to_pydict()
    assert list(units) == ["plate", "prediction", "unknown_to"]
    assert units["prediction"] == pytest.approx([float(row["prediction"]) for row in scores])

    # With an offset column as well, which a batch must have.
    rates = [f"{(i % 5) / 10}" for i in range(len(counts))]
    write_table(insurer.table, with_years(table, claim=counts, rate=rates))
    insurer.settings["data"]["offset"] = "rate"
    insurer.train(job).ok()
    insurer.score(model="frequency").failed(3, "new.csv: no column 'rate' (named by offset)")
    del insurer.settings["data"]["offset"]
    insurer.score(model="frequency").failed(2, "[data] offset is missing in the party file")


def test_doctor_says_what_is_there(federation: Federation, insurer: Party) -> None:
    done = insurer.run("doctor").ok()
    lines = done.out.splitlines()
    assert all(line.startswith("ok    ") for line in lines)
    assert len(lines) == 7  # table, store, keys, two certificates, two hosts
    insurer.settings["peers"]["registry"]["certificate"] = "peers/new-registry.pem"
    done = insurer.run("doctor")
    assert (done.code, done.err) == (1, "")
    (failed,) = [line for line in done.out.splitlines() if line.startswith("FAIL  registry: ")]
    done = insurer.run("doctor", "--json")
    assert (done.code, done.err) == (1, "")
    assert not done.json["healthy"] and done.out.count("\n") == 1
    findings = {finding["what"]: finding for finding in done.json["findings"]}
    assert (findings["registry"]["level"], findings["bureau"]["level"]) == ("FAIL", "ok")
    assert failed == f"FAIL  {findings['registry']['text']}"
    federation.serving["registry"].until("it does not pin this party's certificate")


def test_keys_are_made_shown_and_never_overwritten(tmp_path: Path) -> None:
    made = command("keys", "new", "registry", "--dir", str(tmp_path))
    assert made.code == 0 and made.err == ""
    (fingerprint,) = re.findall(r"fingerprint  (.*)", made.out)
    shown = command("keys", "show", str(tmp_path / "registry.pem"))
    assert shown.out == f"registry\nfingerprint  {fingerprint}\n"
    assert stat.S_IMODE((tmp_path / "registry.key").stat().st_mode) == 0o600
    again = command("keys", "new", "registry", "--dir", str(tmp_path))
    assert again.code == 4
    assert re.fullmatch(r"error: .*registry.key exists already and is not overwritten.*\n", again.err)
    secret = command("keys", "show", str(tmp_path / "registry.key"))
    assert secret.code == 4
    assert "PRIVATE" not in secret.err and secret.out == ""


def test_schemas_and_help() -> None:
    for kind in ("party", "job"):
        assert json.loads(command("config", "schema", kind).out)["title"] == f"vfl {kind} file"
    assert command("--version").out.startswith("vfl, version ")
    text = command("--help").out
    for code, meaning in EXIT_CODES.items():
        assert re.search(rf"^ +{code}  {re.escape(meaning)}$", text, re.MULTILINE)
    kinds = [VflError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert {kind.exit_code for kind in kinds} | {0, INTERRUPTED} == EXIT_CODES.keys()


def test_rows_in_several_files_and_scores_in_a_folder(insurer: Party) -> None:
    lines = (insurer.folder / "new.csv").read_text().splitlines()
    half = len(lines) // 2
    (insurer.folder / "batch").mkdir()
    for name, part in (("b", lines[half:]), ("a", lines[1:half])):
        text = "\n".join([lines[0], *part, ""])
        (insurer.folder / "batch" / f"{name}.csv").write_text(text)
    insurer.score().ok()
    done = insurer.score(data="batch/*.csv", out="scores/").ok()
    assert json.loads(done.out)["out"] == str(insurer.folder / "scores")
    table = pq.read_table(insurer.folder / "scores" / "part-00000.parquet")
    with (insurer.folder / "scores.csv").open() as file:
        expected = list(csv.DictReader(file))
    assert table["plate"].to_pylist() == [row["plate"] for row in expected]
    assert table["probability"].to_pylist() == [float(row["probability"]) for row in expected]
    done = insurer.score(data="batch/", out="batch/")
    assert done.code == 3 and "cannot be written" in done.err
    done = insurer.score(data="postgresql://u:hidden@127.0.0.1/x#t")
    assert done.code == 3 and "has a password, which belongs into no such place" in done.err
    assert "hidden" not in done.err + done.out
