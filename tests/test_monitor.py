"""What a party's own people see of its jobs: figures for a monitor, and the log as JSON."""

import asyncio
import io
import json
import re
import socket
import subprocess
import sys
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from commands import command, environment
from federation import JOB, Federation, free_port, kill, private_words, toml
from kept_parties import copy_parties
from prometheus_client.parser import text_string_to_metric_families
from room import Said

import vfl
from vfl.errors import PeerLost, Refused
from vfl.jobs import doctor
from vfl.jobs.activity import Activity, JobNow
from vfl.jobs.connect import Site
from vfl.monitor.endpoint import _asks_for_us, showing_figures
from vfl.monitor.figures import FIGURES, Figures
from vfl.monitor.outcome import OUTCOMES, outcome_of
from vfl.monitor.phases import PHASES, PhaseClock, Span, phase_of
from vfl.news import News
from vfl.party.config import load_party
from vfl.party.policy import rule_words, rules_in
from vfl.party.policy_section import PolicySection
from vfl.party.store import Store
from vfl.terminal.log import JsonLog, wanted_format

PACKAGE = Path(vfl.__file__).parent
FIELDS = ["time", "level", "party", "event", "task", "job", "run", "peer", "message"]
LEVELS = {"info", "warning", "error"}
TRAIN = JOB | {"secureboost": {**JOB["secureboost"], "encryption": "lattice"}}


def parsed(text: str) -> list[dict[str, Any]]:
    """The lines of a log, each of which is an object with all fields."""
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert [name for name in line if name != "exit_code"] == FIELDS
        assert line["level"] in LEVELS
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        datetime.fromisoformat(line["time"])
    return lines


def figures_of(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """By name and labels; names that begin with vfl_ alone are there."""
    found = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            assert one.name.startswith("vfl_serve_"), one.name
            if not one.name.endswith("_created"):
                found[one.name, frozenset(one.labels.items())] = one.value
    return found


def described(text: str) -> set[str]:
    """The names of the figures that a text describes."""
    return {name for name in re.findall(r"^# HELP (\w+) ", text, re.MULTILINE) if "_created" not in name}


def fetch(url: str) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=60) as answer:
        assert answer.status == 200
        return str(answer.read().decode())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_with_a_killed_host_as_figures_and_as_json(
    tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VFL_LOG", "json")
    federation = Federation(tmp_path, keys, hosts=("registry",))
    registry, guest = federation.parties["registry"], federation.guest
    registry.settings["party"] |= {"listen": f"127.0.0.1:{free_port()}", "metrics": "127.0.0.1:0"}
    registry.settings["policy"] |= {"purposes": ["a test"], "encryptions": ["lattice", "paillier"]}
    for party in federation.parties.values():
        party.settings["party"]["reconnect"] = 120
    private = private_words(federation.tables)
    try:
        federation.serve()
        aligned = guest.align().ok().json["rows"]
        killed = federation.serving["registry"]
        (guest.folder / "job.toml").write_text(toml(TRAIN))
        guest.write()
        arguments = ["train", guest.file.name, "job.toml", "--wait", "60", "--json", "--log=json"]
        training = subprocess.Popen(
            [sys.executable, "-m", "vfl.cli", *arguments],
            cwd=guest.folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        killed.until("asks to train")
        kill(killed)
        federation.serving["registry"] = serving = registry.start("serve")
        out, err = training.communicate(timeout=600)
        assert training.returncode == 0, err
        model = json.loads(out)["model"]
        said = parsed(err)
        broke = [line for line in said if line["event"] == "connection"]
        assert broke and all(line["peer"] == "registry" for line in broke)
        assert {line["party"] for line in said} == {"insurer"}
        assert all(line["job"] == model and line["task"] == "train" for line in broke)

        (guest.folder / "other.toml").write_text(
            toml(TRAIN | {"job": {**TRAIN["job"], "purpose": "another"}})
        )
        refused = guest.run("train", "other.toml", "--wait", "60")
        (last,) = [line for line in parsed(refused.err) if line["event"] == "failed"]
        assert refused.code == last["exit_code"] == 9 and last["task"] == "train"
        assert last["level"] == "error" and "purposes" in last["message"]

        lines = serving.until('"event": "ended"')
        heard = parsed("\n".join(lines))
        done = next(line for line in heard if line["event"] == "done")
        assert (done["party"], done["peer"], done["job"]) == ("registry", "insurer", model)
        assert heard[-1]["event"] == "ended" and heard[-1]["task"] == "train"
        asked = next(line for line in heard if line["event"] == "asked")
        assert asked["job"] == model and len(asked["run"]) == 12
        first = next(line for line in parsed(killed.err) if line["task"] == "train")
        assert first["run"] in {line["run"] for line in said} and first["run"] != asked["run"]
        parsed(killed.err)

        url = next(line["message"] for line in heard if "figures are at" in line["message"])
        url = url.removeprefix("figures are at ")
        text = fetch(url)
        assert fetch(url.replace("/metrics", "/healthz")) == "ok\n"
        found = figures_of(text)
        assert described(text) == FIGURES.keys()
        assert found["vfl_serve_jobs_total", frozenset({("task", "train"), ("outcome", "done")})] == 1
        assert found["vfl_serve_refused_total", frozenset({("rule", "purposes")})] == 1
        assert found["vfl_serve_rows_total", frozenset({("task", "train")})] == aligned
        received = {("peer", "insurer"), ("direction", "received"), ("message", "Offer")}
        assert found["vfl_serve_messages_total", frozenset(received)] == 2
        assert found["vfl_serve_bytes_total", frozenset(received)] > 100
        assert 0 < found["vfl_serve_certificate_days", frozenset({("party", "insurer")})] < 4000
        # Before the kill, after it: a job that was refused is not counted.
        used = frozenset({("peer", "insurer"), ("rule", "max_jobs_a_day")})
        assert found["vfl_serve_budget_used", used] >= 1
        phases = [
            dict(labels)["phase"] for name, labels in found if name == "vfl_serve_job_seconds_total"
        ]
        assert "training" in phases and set(phases) <= set(PHASES)
        for private_text in private:
            assert private_text not in text + err
    finally:
        federation.close()


def test_a_step_is_a_phase_of_a_fixed_list() -> None:
    for step in ("training claims", "fitting my-job", "my-job: adding up totals", "what else"):
        assert phase_of(step) in PHASES
    assert phase_of("my-job: adding up totals") == "adding up"
    assert phase_of("fetching bureau's directory") == "fetching"
    assert phase_of("matching ids with bureau") == "matching"
    assert phase_of("what else") == "other"


def test_each_step_of_a_job_has_a_phase() -> None:
    """What jobs say of their progress, where it is written out."""
    steps = set()
    for room in ("jobs", "models", "protocols"):
        for path in (PACKAGE / room).rglob("*.py"):
            found = re.findall(r'\.(?:progress|report)\(\s*f?"([^"]+)"', path.read_text())
            steps |= {text.partition("}: ")[2] or text for text in found}
    assert len(steps) > 15
    assert [step for step in steps if phase_of(step) == "other" and not step.startswith("{")] == []


def test_time_goes_to_the_phase_whose_part_was_done_in_it() -> None:
    clock, job = PhaseClock(0.0), JobNow("train")
    clock.mark(3.0)
    job.step, job.done = "training", 1
    assert clock.move(job, 5.0) == Span("preparing", 0.0, 3.0)
    job.done = 2
    assert clock.move(job, 7.0) is None
    job.step, job.done = "standard errors", 0
    assert clock.move(job, 8.0) == Span("training", 3.0, 8.0)
    assert clock.end(9.0) == [Span("inference", 8.0, 8.0), Span("ending", 8.0, 9.0)]
    assert PhaseClock(1.0).end(2.0) == [Span("preparing", 1.0, 2.0)]


def test_outcomes_are_words_of_a_list() -> None:
    for error, word in (
        (None, "done"),
        (Refused("no"), "refused"),
        (PeerLost("gone"), "peer_lost"),
        (asyncio.CancelledError(), "interrupted"),
        (ZeroDivisionError(), "fault"),
    ):
        assert outcome_of(error) == word and word in OUTCOMES


def test_rules_are_found_in_what_names_them() -> None:
    policy = PolicySection()
    for rule in PolicySection.model_fields:
        assert rules_in(f"this breaks {rule_words(policy, rule)}: mend it") == [rule]
    assert rules_in("rule of_nobody = 3 of [policy]") == []


def host_site(tmp_path: Path) -> Site:
    return Site.open(load_party(copy_parties("v1", tmp_path)["registry"].file))


def test_labels_stay_few_whatever_a_peer_sends(tmp_path: Path) -> None:
    figures = Figures(host_site(tmp_path))
    for number in range(200):
        figures.passed("insurer", "received", f"Unknown{number}", 10)
        figures.drifted(JobNow("score"), f"model-{number}", 0.1)
    found = figures_of(figures.show().decode())
    messages = [labels for name, labels in found if name == "vfl_serve_bytes_total"]
    assert messages == [
        frozenset({("peer", "insurer"), ("direction", "received"), ("message", "other")})
    ]
    models = [dict(labels)["model"] for name, labels in found if name == "vfl_serve_drift_psi"]
    assert len(models) == 50 and "model-199" in models and "model-0" not in models


def test_a_damaged_count_is_told_and_hides_nothing_else(tmp_path: Path) -> None:
    site = host_site(tmp_path)
    figures = Figures(site)
    readable = "vfl_serve_budget_readable", frozenset[tuple[str, str]]()
    assert figures_of(figures.show().decode())[readable] == 1
    path = site.store.counts("usage")
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("{")
    found = figures_of(figures.show().decode())
    assert found[readable] == 0
    assert ("vfl_serve_certificate_days", frozenset({("party", "registry")})) in found


def test_a_job_that_fails_is_counted_by_how(tmp_path: Path) -> None:
    site = host_site(tmp_path)
    activity, figures = Activity(Store(tmp_path / "store")), Figures(site)
    activity.watchers.append(figures)
    with pytest.raises(ZeroDivisionError), activity.job("score", Said()):
        raise ZeroDivisionError
    with activity.job("score", Said()):
        text = figures.show().decode()
        assert figures_of(text)["vfl_serve_jobs_running", frozenset({("task", "score")})] == 1
        activity.count(7)
    found = figures_of(figures.show().decode())
    assert found["vfl_serve_jobs_total", frozenset({("task", "score"), ("outcome", "fault")})] == 1
    assert found["vfl_serve_jobs_total", frozenset({("task", "score"), ("outcome", "done")})] == 1
    assert found["vfl_serve_rows_total", frozenset({("task", "score")})] == 7


HOSTS = [
    *((host, 200) for host in ("127.0.0.1:9464", "localhost", "LOCALHOST:1", "[::1]:9464", "10.0.0.7")),
    *((host, 421) for host in ("evil.example:9464", "127.0.0.1.evil.example", "", "localhost.evil")),
    ("localhost\r\nHost: evil.example", 421),
]


def test_the_endpoint_answers_one_request_and_parts(tmp_path: Path) -> None:
    site, said = host_site(tmp_path), Said()

    async def ask(port: int, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        return answer

    async def work() -> None:
        async with showing_figures(site, "127.0.0.1:0", said):  # type: ignore[arg-type]
            port = int(said.lines[0].rpartition(":")[2].partition("/")[0])
            assert (await ask(port, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            for host, code in HOSTS:
                asked = b"GET /metrics HTTP/1.1\r\nhost: " + host.encode() + b"\r\n\r\n"
                assert (await ask(port, asked)).startswith(b"HTTP/1.1 %d " % code), host
            assert b"405" in await ask(port, b"POST /metrics HTTP/1.1\r\n\r\n")
            assert b"404" in await ask(port, b"GET /keys HTTP/1.1\r\n\r\n")
            assert (await ask(port, b"HEAD /healthz HTTP/1.1\r\n\r\n")).endswith(b"\r\n\r\n")
            assert await ask(port, b"x" * 20_000) == b""
        assert site.activity.watchers == []
        with pytest.raises(OSError):
            await ask(port, b"GET /metrics HTTP/1.1\r\n\r\n")

    asyncio.run(work())
    assert len(said.lines) == 1
    asyncio.run(listen_widely(site, said))
    assert "whoever reaches this address" in said.lines[-1]


async def listen_widely(site: Site, said: Said) -> None:
    async with showing_figures(site, "0.0.0.0:0", said):  # type: ignore[arg-type]
        pass
    assert _asks_for_us(b"GET /metrics HTTP/1.1\r\nHost: registry:9464\r\n\r\n", "[::]")
    assert _asks_for_us(b"GET /metrics HTTP/1.1\r\nHost: Inner:9464\r\n\r\n", "inner")


def test_addresses_that_cannot_be_are_refused_in_a_line(tmp_path: Path) -> None:
    registry = copy_parties("v1", tmp_path)["registry"]
    serve = ("serve", str(registry.file), "--metrics")
    command(*serve, "9464").failed(2, "--metrics must be host:port")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command(*serve, f"127.0.0.1:{taken.getsockname()[1]}").failed(2, "cannot listen on 127.0.0.1:")


def test_without_the_package_a_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = copy_parties("v1", tmp_path)["registry"]
    monkeypatch.delitem(sys.modules, "vfl.monitor.figures", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    done = command("serve", str(registry.file), "--metrics", "127.0.0.1:0")
    done.failed(2, "prometheus_client is not installed", "vfl[online]")


def test_the_doctor_says_whether_figures_can_be_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = copy_parties("v1", tmp_path)["registry"]
    registry.settings["party"]["metrics"] = "127.0.0.1:9464"
    registry.write()
    said = command("doctor", str(registry.file), "--wait", "0").out
    assert "ok    metrics: figures at 127.0.0.1:9464 while vfl serve runs" in said
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    said = command("doctor", str(registry.file), "--wait", "0").out
    assert "FAIL  metrics: prometheus_client is not installed" in said


def test_without_mlflow_a_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    insurer = copy_parties("v1", tmp_path)["insurer"]
    (tmp_path / "job.toml").write_text(toml(JOB))
    monkeypatch.setitem(sys.modules, "mlflow", None)
    done = command("train", str(insurer.file), str(tmp_path / "job.toml"), "--mlflow", "file:runs")
    done.failed(2, "mlflow is not installed", "vfl[mlflow]")


# --- The log. --------------------------------------------------------------------------------------


def test_the_command_line_says_how_before_anything_of_it_is_read() -> None:
    assert wanted_format(["train", "--log", "json"], None) == "json"
    assert wanted_format(["--log=text"], "json") == "text"
    assert wanted_format(["train", "--log"], "json") == "json"
    assert wanted_format([], None) == "text"


def test_errors_of_any_command_are_objects(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing = str(tmp_path / "none.toml")
    for arguments in (
        ["serve", missing, "--log", "json"],
        ["train", "--log=json"],
        ["train", missing, "job.toml", "--log=json", "--nothing"],
        ["--log=json"],
    ):
        done = command(*arguments)
        (line,) = parsed(done.err)
        assert (line["event"], line["level"], line["exit_code"]) == ("failed", "error", done.code)
        assert done.code == 2
    monkeypatch.setenv("VFL_LOG", "json")
    (line,) = parsed(command("models").err)
    assert line["exit_code"] == 2
    monkeypatch.setenv("VFL_LOG", "xml")
    command("models").failed(2, "VFL_LOG must be text or json")
    monkeypatch.delenv("VFL_LOG")
    assert command("serve", missing).err.startswith("error: ")


def test_a_line_is_one_object_whatever_is_in_it() -> None:
    log = JsonLog()
    log.party = "insurer"
    for text in ('a "quote"\nand a line', "\x1b[31m", "ünïcode \u202e", "note: x"):
        (line,) = parsed(log.line(text, str))
        assert line["message"] == text and line["peer"] is None
    assert json.loads(log.line("note: x", str))["event"] == "note"
    made = json.loads(log.line(News("gone", "connection", "bureau"), str))
    assert (made["event"], made["level"], made["peer"]) == ("connection", "warning", "bureau")


WARNS = """
import sys, threading, warnings
from vfl.terminal.streams import stderr
stderr.start()
stderr.log_as("json")
warnings.warn("a value 12345")
threading.Thread(target=lambda: 1 / 0).start()
"""


def test_what_python_writes_itself_is_an_object_without_its_text() -> None:
    done = subprocess.run([sys.executable, "-c", WARNS], capture_output=True, text=True, check=True)
    warned, failed = parsed(done.stderr)
    assert warned["message"].startswith("warning: UserWarning at ") and warned["level"] == "warning"
    assert "ZeroDivisionError" in failed["message"] and failed["level"] == "error"
    assert "12345" not in done.stderr


def test_what_a_full_backlog_dropped_is_told_as_an_object() -> None:
    from vfl.terminal.backlog import Backlog

    log = JsonLog()
    taking, giving = socket.socketpair()
    with taking, giving:
        backlog = Backlog(giving.fileno(), "utf-8", lambda: None, lambda line: log.line(line, str))
        whole = log.line("x" * 4000, str) + "\n"
        for _ in range(600):
            backlog.put(whole)
        read = io.BytesIO()
        taking.settimeout(60)
        while b"could not be written" not in read.getvalue():
            read.write(taking.recv(1 << 16))
        assert backlog.close(60)
    lines = parsed(read.getvalue().decode())
    assert lines[-1]["event"] == "note" and "nobody read them" in lines[-1]["message"]
