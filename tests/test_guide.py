"""The commands of README and of docs/guide.md run as they stand there, and say what stands there.

Tables and jobs are smaller than the guide's, so that numbers, names of runs and fingerprints differ; all
other words must be the same.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from federation import Party, Running, free_port, toml
from paillier_key import one_key
from samples import copy_samples

from vfl.cli import main
from vfl.terminal.streams import Stream, stdout

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "guide.md").read_text()
README = (ROOT / "README.md").read_text()
SCENARIO = ROOT / "scenarios" / "car_insurance"
POLICIES = 900  # of which enough are common to train on by the policies of the hosts, as they are here
COMMON = 500
TERMINALS = {"1": "insurer", "2": "registry", "3": "bureau"}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its lines, and the paragraph before it."""

    language: str
    lines: list[str]
    before: str

    @property
    def toml(self) -> dict[str, Any]:
        return tomllib.loads("\n".join(self.lines))


def blocks(text: str) -> list[Block]:
    found = []
    for match in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.M | re.S):
        before = text[: match.start()].rstrip().rpartition("\n\n")[2]
        found.append(Block(match[2], match[3].splitlines(), before))
    return found


def snippet(*words: str) -> dict[str, Any]:
    """What the one TOML block of the guide says that has these words."""
    (found,) = [
        block.toml
        for block in blocks(GUIDE)
        if block.language == "toml" and all(word in "\n".join(block.lines) for word in words)
    ]
    return found


def merged(settings: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """TOML tables with those of a snippet added."""
    made = dict(settings)
    for key, value in more.items():
        made[key] = merged(made.get(key, {}), value) if isinstance(value, dict) else value
    return made


# --- What is shipped is what is shown. ------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(SCENARIO.glob("*/*.toml")), ids=lambda path: path.name)
def test_files_of_the_scenario_are_those_of_the_guide(path: Path) -> None:
    assert f"scenarios/car_insurance/{path.parent.name}" in GUIDE or path.stem == "registry"
    trees = snippet('name = "claim-probability"')
    lattice = merged(trees, {"secureboost": {"encryption": "lattice"}})
    glm = snippet('name = "frequency-glm"')
    expected = {
        "claim-lattice": lattice,
        "claim-frequency": merged(trees, {"job": {"objective": "poisson"}}),
        "frequency-hidden": merged(glm, snippet('scores = "hidden"')),
    }
    shipped = tomllib.loads(path.read_text())
    if path.stem in expected:
        assert shipped == merged(expected[path.stem], {"job": {"name": path.stem}})
    elif path.stem != "registry":
        assert shipped in [block.toml for block in blocks(GUIDE) if block.language == "toml"]


# --- What the commands say. -----------------------------------------------------------------------

# What comes only from a job that takes long.
SKIPPED = ("...", "training, ", "training claim", "fitting", "frequency-hidden: ")


def normal(line: str) -> str:
    """A line without what differs from run to run: numbers, names of runs, paths, who came first."""
    line = re.sub(r"\S*/(?=(?:insurer|registry|bureau)/)", ".../", line)
    line = re.sub(r"\d{8}-\d{6}-[0-9a-f]{6}", "RUN", line)
    line = re.sub(r"(fingerprint) .*", r"\1", line)
    line = re.sub(r"(?<!\.)\b[0-9a-f]{16,}\b|\d{4}-\d\d-\d\dT[\d:.]+Z", "DIGEST", line)
    line = re.sub(r"-?\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?", "#", line)
    line = line.replace("bureau and registry", "registry and bureau")
    line = re.sub("^error: (registry|bureau) stopped", "error: a host stopped", line)
    if " MB out, " in line:
        head, _, sent = line.rpartition("; ")
        line = f"{head}; {sorted(re.findall('[a-z]+ # MB out, # MB in', sent))}"
    return line.rstrip()


def opening(line: str) -> str:
    """The words with which a line begins."""
    return re.match(r"[a-z :]*", line)[0]


def cells(line: str) -> list[str]:
    """The headings in a table's first row."""
    return [cell.strip() for cell in re.split("[┃│]", line)[1:-1]]


def assert_said(shown: list[str], printed: str) -> None:
    """Every line that the guide shows was printed, in whatever numbers, and as often as there."""
    found = Counter(normal(line) for line in printed.splitlines())
    headings = [cells(line) for line in printed.splitlines() if line.startswith("┃")]
    for line in shown:
        if line.startswith("┃"):
            assert cells(line) in headings, printed
        elif line and line[0] not in "┏┡│└" and not line.startswith(SKIPPED):
            assert found[normal(line)] > 0, f"{line}\nnot in\n{printed}"
            found[normal(line)] -= 1


@dataclass
class Walk:
    """Four companies' folders on this machine, as README has a reader make them."""

    root: Path
    parties: dict[str, Party] = field(default_factory=dict)
    serving: dict[str, Running] = field(default_factory=dict)
    before: dict[str, Callable[[], None]] = field(default_factory=dict)  # what is to be done, by command
    times: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def folder(self) -> Path:
        return self.root / "build" / "walk"

    def shell(self, command: str, where: Path) -> None:
        """A line of README in a terminal."""
        path = f"{self.root / 'bin'}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(["bash", "-ec", command], cwd=where, env=os.environ | {"PATH": path}, check=True)

    def adopt(self, name: str) -> None:
        """Take a party's files over, smaller; on ports that are free."""
        folder = self.folder / name
        self.parties[name] = Party(name, folder, tomllib.loads((folder / f"{name}.toml").read_text()))
        self.parties[name].settings["party"]["workers"] = 1
        if policy := self.parties[name].settings.get("policy"):
            policy["min_intersection"] = COMMON  # of so few policies
            policy["max_sums_a_row"] = 10.0  # of so few rows
            policy["min_summed_rows"] = 1

    def edit(self, name: str, more: dict[str, Any]) -> None:
        """What the guide has a company write into its party file."""
        party = self.parties[name]
        party.settings = merged(party.settings, more)

    def serve(self, name: str) -> Running:
        """`vfl serve`, again if it serves already."""
        if name in self.serving:
            self.serving[name].stop()
        self.serving[name] = self.parties[name].start("serve")
        self.serving[name].until("listening" if name == "trustee" else "dialling")
        return self.serving[name]

    def run(self, command: str, shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        """A command of the guide, at a wide terminal, in the folder of the company it names."""
        words, _, comment = command.partition("#")
        arguments = shlex.split(words)
        named = [stem for word in arguments if (stem := word.removesuffix(".toml")) in self.parties]
        name = named[0] if named else "insurer"
        said = shlex.join(arguments)
        self.before.pop(f"{said} {self.times[said]}", lambda: None)()
        self.times[said] += 1
        monkeypatch.chdir(self.parties[name].folder)
        if arguments[0] == "head":
            printed = "\n".join(Path(arguments[2]).read_text().splitlines()[:3])
        elif arguments[:2] == ["vfl", "serve"]:
            printed = "\n".join(self.serve(name).until(opening(shown[-1])))
        else:
            self.parties[name].write()
            with one_key():
                done = CliRunner().invoke(main, arguments[1:])
            code = re.search(r"exit code (\d+)", comment)
            assert done.exit_code == (int(code[1]) if code else 0), (command, done.output)
            printed = done.output
        assert_said(shown, printed)


def readme_commands() -> list[tuple[str, str]]:
    """(company, command) of README's three terminals, in order."""
    text = README[README.index("## In three terminals") : README.index("## From Python")]
    lines = [line.strip() for block in blocks(text)[1:] for line in block.lines if line.strip()]
    found, company = [], "insurer"
    for line in lines:
        command, _, terminal = line.partition("  # terminal ")
        company = TERMINALS[terminal] if terminal else company
        found.append((company, command.strip()))
    return found


def commands(block: Block) -> list[tuple[str, list[str]]]:
    """(command, the lines shown after it) of a block of the guide, in order."""
    found: list[tuple[str, list[str]]] = []
    for line in block.lines if block.lines[0].startswith("$ ") else ():
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), []))
        else:
            found[-1][1].append(line)
    return found


@pytest.fixture
def walk(tmp_path: Path) -> Walk:
    """Keys and certificates exchanged by README's commands."""
    made = Walk(tmp_path)
    (tmp_path / "scenarios").symlink_to(ROOT / "scenarios")
    copy_samples(tmp_path / "data_samples", POLICIES)
    vfl = tmp_path / "bin" / "vfl"
    vfl.parent.mkdir()
    vfl.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m vfl.cli "$@"\n')
    vfl.chmod(0o755)
    section = README[README.index("## In three terminals") :]
    assert blocks(section)[0].lines == blocks(GUIDE)[0].lines
    made.shell("\n".join(blocks(section)[0].lines), tmp_path)
    for company, command in readme_commands():
        if "keys new" in command:
            made.shell(command, tmp_path)
        elif command.startswith("mkdir"):
            made.shell(command, made.folder / company)
    made.shell("cp -r scenarios/car_insurance/trustee build/walk/", tmp_path)
    for name in (*TERMINALS.values(), "trustee"):
        made.adopt(name)
    port = free_port()
    for party in made.parties.values():
        text = toml(party.settings).replace("127.0.0.1:7443", f"127.0.0.1:{port}")
        party.settings = tomllib.loads(text)
    smaller = {"secureboost": {"trees": 2}, "glm": {"tolerance": 0.05, "alpha": 0.01}}
    for path in made.parties["insurer"].folder.glob("*-*.toml"):
        job = tomllib.loads(path.read_text())
        mine = "secureboost" if job["job"]["model"] == "secureboost" else "glm"
        path.write_text(toml(merged(job, {mine: smaller[mine]})))
    return made


def test_readme_has_the_guides_commands() -> None:
    every = [command for block in blocks(GUIDE) for command, _ in commands(block)]
    shown = {command.partition("#")[0].strip() for command in every}
    for company, command in readme_commands():
        if command.startswith("vfl"):
            assert command in shown, company


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a minute and a half on two cores of its own
def test_the_guides_commands_say_what_the_guide_shows(
    walk: Walk, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = ("registry", "bureau")
    drivers = walk.parties["bureau"].table
    whole = drivers.read_text()

    def spoiled() -> None:
        """As by a spreadsheet."""
        header, *rows = whole.splitlines()
        ids, rest = zip(*(row.split(",", 1) for row in rows), strict=True)
        cells = ["4.12E+08"] * 15 + ["unknown"] * 18 + [f" {one}" for one in ids[33:186]] + [*ids[186:]]
        lines = [",".join(row) for row in zip(cells, rest, strict=True)]
        drivers.write_text("\n".join([header, *lines, ""]))

    def mended() -> None:
        drivers.write_text(whole)

    def trusting() -> None:
        for name in hosts:
            walk.edit(name, snippet('encryptions = ["paillier", "lattice"]'))
            walk.serve(name)

    def allowing() -> None:
        walk.edit("registry", snippet("oneway = true"))
        walk.serve("registry")

    def judging() -> None:
        for name in hosts:
            walk.edit(name, snippet("\nworth = true"))
            walk.serve(name)

    def counting() -> None:
        walk.edit("insurer", {"data": snippet('exposure = "exposure"')})

    def binned() -> None:
        walk.edit("bureau", snippet('binned = ["driver_age"]'))
        walk.serve("bureau")

    def trustee() -> None:
        port = free_port()
        walk.parties["trustee"].settings["party"]["listen"] = f"127.0.0.1:{port}"
        at = snippet("[peers.trustee]", "address")
        at["peers"]["trustee"]["address"] = f"127.0.0.1:{port}"
        walk.shell("vfl keys new trustee && mkdir peers", walk.folder / "trustee")
        for name in TERMINALS.values():
            shutil.copy(walk.folder / name / "keys" / f"{name}.pem", walk.folder / "trustee" / "peers")
            shutil.copy(walk.folder / "trustee" / "keys" / "trustee.pem", walk.folder / name / "peers")
            walk.edit(name, at)
        del walk.parties["bureau"].settings["glm"]
        for name in hosts:
            walk.serve(name)

    def handed_over() -> None:
        shutil.copy(walk.folder / "registry" / "from-registry.jsonl", walk.folder / "insurer")

    for name, value in {"TERM": "dumb", "COLUMNS": "200", "LINES": "50"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Stream, "isatty", lambda stream: stream is stdout)
    walk.before = {
        "vfl align --dry-run bureau.toml 0": spoiled,
        "vfl serve registry.toml 0": mended,
        "vfl train insurer.toml claim-lattice.toml 1": trusting,
        "vfl oneway insurer.toml --by registry:fuel 0": allowing,
        "vfl worth insurer.toml claim-lattice.toml 0": judging,
        "vfl train insurer.toml claim-frequency.toml 0": counting,
        "vfl train insurer.toml frequency-glm.toml 0": binned,
        "vfl serve trustee.toml 0": trustee,
        "vfl ledger compare insurer.toml from-registry.jsonl 0": handed_over,
    }
    try:
        for block in blocks(GUIDE):
            speaker = re.search(r"\b(registry|bureau|trustee)(?: says)?:?$", block.before)
            if block.lines[0].startswith("$ vfl keys new"):
                continue  # done by README's commands
            for command, shown in commands(block):
                walk.run(command, shown, monkeypatch)
            if speaker and block.language == "":
                host = walk.serving[speaker[1]]
                host.until(opening(block.lines[-1]))
                assert_said(block.lines, host.err)
        assert walk.before == {}  # every command came
        host = walk.serving["registry"]
        host.signal(2)
        assert host.wait().err.splitlines()[-1] == "registry stops serving"
    finally:
        for party in walk.parties.values():
            party.close([])
