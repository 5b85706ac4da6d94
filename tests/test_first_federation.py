"""docs/first_federation.md: its commands run as they stand there, and say what stands there."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from federation import Party, Running, free_port
from paillier_key import one_key
from samples import copy_samples
from test_guide import assert_said, blocks

from vfl.cli import main
from vfl.jobs import forecast
from vfl.net.invitation import Code
from vfl.party.config import load_party

PAGE = (Path(__file__).parents[1] / "docs" / "first_federation.md").read_text()
POLICIES = 2000  # of which 1,540 are common, so that drafts have two trees
TABLES = {"insurer": "policies.csv", "registry": "vehicles.csv"}
ESTIMATE = ("train", "insurer.toml", "claims.toml", "--estimate")
LEFT_TO_RUN = ("invite", "serve")


def steps() -> list[tuple[str, str, list[str]]]:
    """(company, command, the lines shown after it), in order."""
    found: list[tuple[str, str, list[str]]] = []
    for block in blocks(PAGE):
        for line in block.lines:
            if line.startswith("error: "):  # of a later training
                continue
            if command := re.match(r"(insurer|registry)\$ (.+)", line):
                found.append((command[1], command[2], []))
            else:
                found[-1][2].append(line)
    return found


@dataclass
class Companies:
    """Two folders with a table each."""

    root: Path
    port: int = field(default_factory=free_port)
    parties: dict[str, Party] = field(default_factory=dict)
    running: dict[str, Running] = field(default_factory=dict)

    def start(self, company: str, arguments: list[str]) -> Running:
        self.running[arguments[0]] = Running(self.parties[company], arguments)
        return self.running[arguments[0]]

    @property
    def code(self) -> str:
        """What the inviter reads out, once it is there."""
        inviting = self.running["invite"]
        while (shown := re.search(r"code  (\S+)\n.*--at", inviting.out, re.S)) is None:
            assert inviting.process.poll() is None, inviting.err
        return shown[1]


@pytest.fixture
def companies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Companies]:
    copy_samples(tmp_path / "samples", POLICIES)
    made = Companies(tmp_path)
    for name, table in TABLES.items():
        folder = tmp_path / name
        folder.mkdir(mode=0o700)
        (tmp_path / "samples" / name / table).rename(folder / table)
        made.parties[name] = Party(name, folder, {})
    for name, value in {"TERM": "dumb", "COLUMNS": "200", "LINES": "50"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(forecast, "_ROWS", {"paillier": 40})
    yield made
    for party in made.parties.values():
        party.close([])


def test_there_are_twelve_commands() -> None:
    assert len(steps()) == 12


def test_the_walk_says_what_it_shows(companies: Companies, monkeypatch: pytest.MonkeyPatch) -> None:
    for company, command, shown in steps():
        arguments = shlex.split(command.replace("127.0.0.1:7443", f"127.0.0.1:{companies.port}"))[1:]
        monkeypatch.chdir(companies.parties[company].folder)
        if arguments[0] in LEFT_TO_RUN:
            running = companies.start(company, arguments)
            if arguments[0] == "serve":
                running.until("dialling insurer")
            continue
        with one_key():
            done = CliRunner().invoke(
                main, arguments, input=companies.code if arguments[0] == "join" else ""
            )
        assert done.exit_code == 0, (command, done.output)
        assert_said([line for line in shown if not line.startswith("Code: ")], done.output)
    inviting = companies.running["invite"].wait()
    assert inviting.code == 0, inviting.err
    (invited,) = (shown for _, command, shown in steps() if command.startswith("vfl invite"))
    assert_said(invited, inviting.out)
    for name, party in companies.parties.items():
        pinned = load_party(party.file).peers
        assert list(pinned) == [other for other in TABLES if other != name]
        code = Code.typed(re.search(r"code  (\S+)", inviting.out)[1])
        assert not any(
            code.digits.encode() in file.read_bytes() or code.spoken.encode() in file.read_bytes()
            for file in party.folder.rglob("*")
            if file.is_file() and file.suffix != ".out"
        )
    check_further_trainings(companies, monkeypatch)
    check_estimates_of_batches(companies, monkeypatch)


def vfl(*arguments: str) -> Result:
    with one_key():
        return CliRunner().invoke(main, [*arguments])


def check_further_trainings(companies: Companies, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second training has room, as the draft says; where there is none what helps is said."""
    file = companies.parties["insurer"].folder / "claims.toml"
    monkeypatch.chdir(file.parent)
    text = file.read_text()
    trees, fit = map(
        int, re.search(r"trees = (\d+)  # hosts allow by default (\d+) in all", text).groups()
    )
    assert fit >= 3 * trees
    done = vfl("train", "insurer.toml", "claims.toml")
    assert done.exit_code == 0, done.output
    seen = [int(number) for number in re.findall(r"registry:(\d+)", done.output)]
    (line,) = re.findall(r"^registry: .*", vfl(*ESTIMATE).output, re.M)
    assert f"for {max(5, *seen)} columns (" in line
    assert ("as many at least, by claims-" in line) == (max(seen) > 5)
    file.write_text(text.replace(f"trees = {trees} ", f"trees = {fit} "))
    done = vfl("train", "insurer.toml", "claims.toml")
    assert done.exit_code == 9
    (shown,) = [line for block in blocks(PAGE) for line in block.lines if line.startswith("error: ")]
    for words in ("stopped the job", " break rule max_sums_a_row", "(all add up)", "of this depth"):
        assert words in shown and words in done.stderr, done.stderr
    raised = re.search(r"or the host raises the rule to (\S+), knowing what that tells", done.stderr)
    assert 0.03 < float(raised[1]) < 0.06 and "or the host raises the rule to" in shown
    for _ in range(2):  # before it starts, and by the rows that train once it does
        fits = re.search(r"at most (\d+) trees? of this depth", done.stderr)
        file.write_text(text.replace(f"trees = {trees} ", f"trees = {fits[1]} "))
        if not (done := vfl("train", "insurer.toml", "claims.toml")).exit_code:
            break
    assert done.exit_code == 0, done.output
    file.write_text(text)


def check_estimates_of_batches(companies: Companies, monkeypatch: pytest.MonkeyPatch) -> None:
    """`vfl score --estimate` beside what the batch costs then: by the alignment, by the batch before."""
    folder = companies.parties["insurer"].folder
    monkeypatch.chdir(folder)
    lines = (companies.root / "samples" / "insurer" / "new_policies.csv").read_text().splitlines(True)
    for rows, basis in ((len(lines) - 1, "alignment"), (130, "batch")):
        (folder / "new.csv").write_text("".join(lines[: rows + 1]))
        batch = ["--model", "claims", "--data", "new.csv", "--out", "scores.csv", "--json"]
        found = []
        for more in (["--estimate"], []):
            done = CliRunner().invoke(main, ["score", "insurer.toml", *batch, *more])
            assert done.exit_code == 0, done.output
            found.append(json.loads(done.stdout))
        told, spent = found[0]["hosts"]["registry"], found[1]
        assert (found[0]["rows"], told["basis"]) == (rows, basis)
        for what, real in (("sent", spent["bytes_sent"]), ("received", spent["bytes_received"])):
            assert real["registry"] / 2 < told[what] < 2 * real["registry"], (what, found)
        assert told["told"] and told["learnt"]


def test_the_same_as_json(companies: Companies, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for company, command, _ in steps()[:6]:
        arguments = shlex.split(command.replace("127.0.0.1:7443", f"127.0.0.1:{companies.port}"))[1:]
        monkeypatch.chdir(companies.parties[company].folder)
        if arguments[0] == "invite":
            inviting = companies.start(company, [*arguments, "--json"])
            code = re.search(r"code  (\S+)", "\n".join(inviting.until("--at")))[1]
            continue
        if arguments[0] == "join":
            arguments += [code]
        done = CliRunner().invoke(main, [*arguments, "--json"])
        assert done.exit_code == 0, (command, done.output)
        found[company] = json.loads(done.stdout)
    found["insurer"] = inviting.wait().ok().json
    assert found["registry"]["address"] == f"127.0.0.1:{companies.port}"
    assert found["insurer"]["address"] is None
    assert found["insurer"]["number"] == found["registry"]["number"]
    assert (found["insurer"]["name"], found["registry"]["role"]) == ("registry", "guest")
