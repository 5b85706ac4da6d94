"""What stands in deploy/: boards, containers, charts, schedules name what there is."""

import ast
import contextlib
import fcntl
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import yaml
from commands import Done
from kept_parties import copy_parties

from vfl.cli import main
from vfl.errors import PeerLost, PeerUnreachable, Refused
from vfl.jobs.activity import JobNow
from vfl.jobs.connect import Site
from vfl.monitor.figures import Figures
from vfl.online.metrics import Metrics
from vfl.party.config import load_party, load_relay

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"


def load(path: Path) -> ModuleType:
    """A file of Python as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def figures(tmp_path: Path) -> str:
    """All figures of vfl serve, each with a value."""
    made = Figures(Site.open(load_party(copy_parties("v1", tmp_path)["registry"].file)))
    job = JobNow("train", step="training", done=1)
    made.began(job)
    made.counted(job, 1)
    made.drifted(job, "claims", 0.1)
    made.passed("insurer", "sent", "Accept", 1)
    made.moved(job)
    made.ended(job, Refused("no"))
    return made.show().decode()


def test_the_board_is_the_one_that_is_made() -> None:
    made = load(DEPLOY / "grafana" / "make.py").board()
    assert json.loads((DEPLOY / "grafana" / "vfl.json").read_text()) == made


def test_queries_of_the_board_name_figures_and_labels_that_there_are(figures: str) -> None:
    board = json.loads((DEPLOY / "grafana" / "vfl.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    assert len(queries) > 15
    online = Metrics().show({}).decode()
    kinds = dict(re.findall(r"(?m)^# TYPE (\w+) (\w+)$", figures + online))
    samples = {*kinds, *(f"{name}_bucket" for name, kind in kinds.items() if kind == "histogram")}
    labels = {name: {*re.findall(r'(\w+)="', text)} for name, text in _with_labels(figures)}
    used = set()
    for query in queries:
        for name in re.findall(r"vfl_\w+", query):
            assert name in samples, name
            used.add(name)
        serving = re.findall(r"vfl_serve_\w+", query)
        known = {label for name in serving for label in labels[name]}
        for by in re.findall(r"by \(([^)]*)\)", query) if serving else ():
            assert {word.strip() for word in by.split(",")} <= known, query
    serve = {name for name in kinds if name.startswith("vfl_serve_") and not name.endswith("_created")}
    assert serve - used == {"vfl_serve_info", "vfl_serve_budget_readable"}, "a figure without a panel"


def _with_labels(text: str) -> list[tuple[str, str]]:
    return re.findall(r"(?m)^(vfl_serve_\w+)\{(.*)\} ", text)


def test_the_boards_panels_do_not_lie_on_each_other() -> None:
    board = json.loads((DEPLOY / "grafana" / "vfl.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


# --- Containers. -----------------------------------------------------------------------------------


CONTAINERFILE = (DEPLOY / "container" / "Containerfile").read_text()


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Containerfile with what they say."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines())
    ]


def test_the_image_is_built_as_it_should_be() -> None:
    """What hadolint and a reader would look for: its rules by number."""
    found = instructions(CONTAINERFILE)
    last = [at for at, (word, _) in enumerate(found) if word == "FROM"][-1]
    final = found[last:]
    runs = [rest for word, rest in found if word == "RUN"]
    assert [rest for word, rest in final if word == "USER"] == ["10001:10001"]  # DL3002
    bases = [rest for word, rest in found if word == "ARG" and rest.startswith("BASE=")]
    assert bases and all(":" in base and not base.endswith(":latest") for base in bases)  # DL3006, 7
    for run in runs:
        assert "sudo" not in run and "curl" not in run and " | " not in run  # DL3004, 4001, 4006
        for install in re.findall(r"pip install[^&]*", run):
            assert "--no-cache-dir" in install  # DL3042
            assert "--require-hashes" in install or "--no-index" in install  # DL3013, and more
    assert not [rest for word, rest in found if word == "ADD"]  # DL3020
    assert [word for word, _ in final if word in ("ENTRYPOINT", "CMD", "HEALTHCHECK")] == [
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
    ]
    for word, rest in final:
        if word in ("ENTRYPOINT", "CMD"):
            assert isinstance(json.loads(rest), list)  # DL3025
    copied = {name for word, rest in found if word == "COPY" for name in rest.split()[:-1]}
    ignored = (DEPLOY.parent / ".containerignore").read_text().splitlines()
    for name in copied - {"--from=build", "/opt/vfl"}:
        assert (DEPLOY.parent / name).exists(), name
        assert f"!{name}" in ignored or f"!{name}/**" in ignored, f"{name} is not sent"


def options_of(arguments: list[str]) -> None:
    """Raises for words that are no command of vfl's, or options that it has not."""
    context = click.Context(main, info_name="vfl")
    name, *rest = arguments
    chosen = main.get_command(context, name)
    assert chosen is not None, name
    if isinstance(chosen, click.Group):
        return
    chosen.make_context(name, rest)


def probe_of(text: str) -> list[str]:
    found = re.search(r'CMD (\["vfl".*\])', text)
    assert found is not None
    return [str(word) for word in json.loads(found[1])]


def test_the_images_probe_is_a_command_that_there_is() -> None:
    vfl, *arguments = probe_of(CONTAINERFILE)
    assert vfl == "vfl"
    options_of(arguments)
    options_of([str(word) for word in json.loads(instructions(CONTAINERFILE)[-1][1])])


def test_the_companies_of_compose_share_a_network_with_the_relay_alone() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    networks = {name: {*one["networks"]} for name, one in services.items()}
    companies = [name for name in services if name != "relay"]
    for one in companies:
        assert networks[one] < networks["relay"]
        assert not any(networks[one] & networks[other] for other in companies if other != one)
    assert all(one["internal"] for one in compose["networks"].values())
    for service in services.values():
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and "ports" not in service
        options_of(service["command"])
        probe = service["healthcheck"].get("test")
        if probe and probe[1] == "vfl":
            options_of(probe[2:])


def test_the_folders_of_compose_are_those_of_parties_that_meet_at_the_relay(tmp_path: Path) -> None:
    load(DEPLOY / "prepare.py").prepare(tmp_path / "work")
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        folder = tmp_path / "work" / name
        assert service["volumes"][0].split("}/")[1].startswith(f"{name}:")
        file = folder / service["command"][1]
        if name == "relay":
            assert load_relay(file).relay.listen == "0.0.0.0:7443"
            continue
        party = load_party(file)
        assert party.data.path is not None and party.data.path.exists()
        addresses = {party.party.listen, *(peer.address for peer in party.peers.values())} - {None}
        assert addresses == {"relay://relay:7443"}


# --- Kubernetes. -----------------------------------------------------------------------------------


CHART = DEPLOY / "helm" / "vfl"
PARTY_FILE = '[party]\nname = "registry"\n'


def test_templates_ask_for_values_that_there_are() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for path in (CHART / "templates").iterdir():
        for found in re.findall(r"\.Values\.([\w.]+)", path.read_text()):
            here = values
            for part in found.split("."):
                assert part in here, f"{path.name}: {found}"
                here = here[part]
        text = path.read_text()
        for name in re.findall(r'include "([\w.]+)"', text):
            assert f'define "{name}"' in (CHART / "templates" / "_helpers.tpl").read_text()


def helm(*arguments: str) -> str:
    program = shutil.which("helm")
    if program is None:
        pytest.skip("helm is not installed: no chart is rendered")
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


VALUES: dict[str, dict[str, Any]] = {
    "serve": {"keys": {"secret": "registry-keys"}, "peers": {"configMap": "registry-peers"}},
    "listening": {
        "service": {"enabled": True},
        "store": {"existingClaim": "kept"},
        "tables": {"existingClaim": "tables"},
        "metrics": {"enabled": False},
        "networkPolicy": {
            "peers": [{"cidr": "203.0.113.7/32"}],
            "destinations": [{"cidr": "203.0.113.8/32", "port": 7443}],
        },
        "environment": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://otel:4318"}],
    },
    "online": {
        "mode": "online",
        "keys": {"secret": "keys", "passphraseSecret": "passphrase"},
        "online": {"certificateSecret": "tls", "tokensSecret": "tokens"},
        "networkPolicy": {"clients": [{"podSelector": {"matchLabels": {"app": "shop"}}}]},
    },
    "relay": {"mode": "relay", "networkPolicy": {"peers": [{"cidr": "203.0.113.0/24"}]}},
}


def rendered(folder: Path, values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The chart with these values, by Helm itself: by kind."""
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump({"file": PARTY_FILE, **values}))
    text = helm("template", "registry", str(CHART), "--values", str(file))
    found = [one for one in yaml.safe_load_all(text) if one]
    return {one["kind"]: one for one in found}


@pytest.mark.parametrize("how", VALUES)
def test_the_chart_is_one_workload_that_may_do_nothing_more(tmp_path: Path, how: str) -> None:
    values = VALUES[how]
    found = rendered(tmp_path, values)
    relay = how == "relay"
    workload = found["Deployment" if relay else "StatefulSet"]
    assert {*found} == {
        "ConfigMap",
        "NetworkPolicy",
        workload["kind"],
        *(["Service"] if how != "serve" else []),
    }
    assert found["ConfigMap"]["data"] == {"party.toml": PARTY_FILE}
    spec = workload["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] == 10001
    containers = [*spec["containers"], *spec.get("initContainers", [])]
    assert len(containers) == (1 if relay else 2)
    volumes = {one["name"] for one in spec["volumes"]}
    volumes |= {one["metadata"]["name"] for one in workload["spec"].get("volumeClaimTemplates", [])}
    for container in containers:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"] and container["image"] == "vfl:0.1.0"
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    main_container = spec["containers"][0]
    options_of(main_container["args"])
    ports = {port["name"] for port in main_container.get("ports", [])}
    probes = [main_container[name] for name in main_container if name.endswith("Probe")]
    assert probes and "livenessProbe" in main_container
    for probe in probes:
        if "exec" in probe:
            assert probe["exec"]["command"][0] == "vfl"
            options_of(probe["exec"]["command"][1:])
        else:
            assert (probe.get("httpGet") or probe["tcpSocket"])["port"] in ports
    labels = workload["spec"]["template"]["metadata"]["labels"]
    policy = found["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert {*policy["policyTypes"]} == {"Ingress", "Egress"}
    for rule in policy["ingress"]:
        assert rule["from"] and {port["port"] for port in rule["ports"]} <= ports
    if "Service" in found:
        assert found["Service"]["spec"]["selector"].items() <= labels.items()
        assert {port["targetPort"] for port in found["Service"]["spec"]["ports"]} <= ports


def test_the_chart_refuses_what_it_cannot_run(tmp_path: Path) -> None:
    program = shutil.which("helm")
    if program is None:
        pytest.skip("helm is not installed: no chart is rendered")
    for wrong in ({"mode": "train"}, {"file": ""}):
        file = tmp_path / "values.yaml"
        file.write_text(yaml.safe_dump({"file": PARTY_FILE, **wrong}))
        done = subprocess.run(
            [program, "template", "registry", CHART, "--values", file], capture_output=True, text=True
        )
        assert done.returncode != 0


def test_helm_finds_nothing_amiss_with_the_chart(tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump({"file": PARTY_FILE}))
    helm("lint", "--strict", str(CHART), "--values", str(file))


# --- Schedules. ------------------------------------------------------------------------------------

FAKE = """#!/bin/sh
echo "$*" >> calls
read code < code
[ "$code" = 0 ] && echo '{"rows": 3}'
echo '{"event": "failed"}' >&2
exit "$code"
"""


def nightly(folder: Path, code: int, *arguments: str, tries: int = 2) -> Done:
    """deploy/cron/nightly.sh with a vfl that ends so."""
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / "vfl").write_text(FAKE)
    (folder / "bin" / "vfl").chmod(0o755)
    (folder / "code").write_text(f"{code}\n")
    done = subprocess.run(
        [DEPLOY / "cron" / "nightly.sh", *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "TRIES": str(tries),
            "PAUSE": "0",
        },
        capture_output=True,
        text=True,
    )
    return Done(done.returncode, done.stdout, done.stderr, 0.0)


def test_a_night_that_is_well_says_nothing_and_keeps_the_result(tmp_path: Path) -> None:
    done = nightly(tmp_path, 0, "score", "insurer.toml", "--model", "claims")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert json.loads((tmp_path / "score.json").read_text()) == {"rows": 3}
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert call == "score insurer.toml --model claims --wait 600 --json"


@pytest.mark.parametrize(("code", "calls"), [(7, 3), (8, 3), (2, 1), (9, 1), (130, 1)])
def test_only_a_peer_that_is_away_is_tried_again(tmp_path: Path, code: int, calls: int) -> None:
    nightly(tmp_path, 0, "score", "insurer.toml")
    (tmp_path / "calls").unlink()
    done = nightly(tmp_path, code, "score", "insurer.toml", tries=3)
    assert done.code == code and len((tmp_path / "calls").read_text().splitlines()) == calls
    assert done.out == f'vfl score ended with exit code {code}: {{"event": "failed"}}\n'
    assert json.loads((tmp_path / "score.json").read_text()) == {"rows": 3}, "of the night before"


def test_a_night_waits_for_no_other(tmp_path: Path) -> None:
    with (tmp_path / "nightly-score.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = nightly(tmp_path, 0, "score", "insurer.toml")
    assert done.code == 6 and "at work still" in done.out and not (tmp_path / "calls").exists()


def test_the_crontabs_commands_are_vfls() -> None:
    lines = (DEPLOY / "cron" / "vfl.cron").read_text().splitlines()
    found = [
        command.split()[1:]
        for line in lines
        if re.match(r"[0-9*]", line)
        for command in line.split("&&")
        if "nightly.sh" in command
    ]
    assert [words[0] for words in found] == ["score", "align", "train", "doctor"]
    for words in found:
        options_of([*words, "--wait", "600", "--json"])


def test_the_dag_is_python_and_its_commands_are_vfls() -> None:
    tree = ast.parse((DEPLOY / "airflow" / "dag.py").read_text())
    constants: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            source = ast.Expression(node.value)
            if node.targets[0].id in ("PARTY", "COMMANDS", "AGAIN"):
                made = eval(compile(source, "dag.py", "eval"), {}, constants)  # noqa: S307 - our own file
                constants[node.targets[0].id] = made
    for words in constants["COMMANDS"].values():
        options_of(words)
    assert constants["AGAIN"] == {PeerUnreachable.exit_code, PeerLost.exit_code}


def test_the_dag_decides_by_exit_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for Airflow's names, as it is not installed."""
    failed = type("AirflowFailException", (Exception,), {})
    again = type("AirflowException", (Exception,), {})
    sdk, exceptions = ModuleType("airflow.sdk"), ModuleType("airflow.sdk.exceptions")
    sdk.DAG = lambda *_, **__: contextlib.nullcontext()  # type: ignore[attr-defined]
    sdk.task = lambda **_: lambda work: lambda *given: None  # type: ignore[attr-defined]
    exceptions.AirflowException = again  # type: ignore[attr-defined]
    exceptions.AirflowFailException = failed  # type: ignore[attr-defined]
    for name, module in (("airflow.sdk", sdk), ("airflow.sdk.exceptions", exceptions)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "airflow", ModuleType("airflow"))
    dag = load(DEPLOY / "airflow" / "dag.py")
    (tmp_path / "vfl").write_text(FAKE)
    (tmp_path / "vfl").chmod(0o755)
    dag.VFL, dag.FOLDER = str(tmp_path / "vfl"), str(tmp_path)
    for code, error in ((0, None), (7, again), (8, again), (2, failed), (9, failed)):
        (tmp_path / "code").write_text(f"{code}\n")
        if error is None:
            assert json.loads(dag.run("score")) == {"rows": 3}
            continue
        with pytest.raises(error, match=f"vfl score ended with exit code {code}"):
            dag.run("score")


# --- Licences. -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "fine"),
    [
        ("MIT", True),
        ("Apache-2.0 OR BSD-3-Clause", True),
        ("GPL-3.0-only OR MIT", True),
        ("GPL-3.0-only AND MIT", False),
        ("(MIT OR GPL-2.0-only) AND BSD-3-Clause", True),
        ("(MIT AND GPL-2.0-only) OR MPL-2.0", False),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("LGPL-3.0-or-later", False),
        ("some words of a company", False),
        ("", False),
    ],
)
def test_a_licence_is_permissive_where_one_may_choose_so(expression: str, fine: bool) -> None:
    assert load(DEPLOY.parent / ".ci" / "licences.py").is_permissive(expression) is fine


def test_what_is_locked_for_an_install_has_licences_that_are_accepted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    licences = load(DEPLOY.parent / ".ci" / "licences.py")
    locks = [str(DEPLOY.parent / "requirements" / name) for name in ("run.txt", "image.txt")]
    monkeypatch.setattr(sys, "argv", ["licences.py", *locks])
    assert licences.main() == 0, capsys.readouterr().out
    said = capsys.readouterr().out
    assert "click 8" in said and "(LGPL-3.0-or-later: " in said


@pytest.mark.parametrize("lock", [pytest.param("run", marks=pytest.mark.slow), "image"])
def test_the_sbom_names_each_package_with_its_digests(tmp_path: Path, lock: str) -> None:
    pytest.importorskip("cyclonedx_py", reason="cyclonedx-bom is not installed")
    root, out = DEPLOY.parent, tmp_path / "sbom.json"
    (recipe,) = re.findall(
        r"(?m)\$\(BIN\)/cyclonedx-py (.+?) -o", (root / "Makefile").read_text().replace("\\\n", "")
    )
    words = [*recipe.split(), "-o", str(out), f"requirements/{lock}.txt"]
    subprocess.run(
        [sys.executable, "-m", "cyclonedx_py", *words], cwd=root, check=True, capture_output=True
    )
    sbom = json.loads(out.read_text())
    assert sbom["bomFormat"] == "CycloneDX" and sbom["metadata"]["component"]["name"] == "vfl"
    text = (root / "requirements" / f"{lock}.txt").read_text()
    names = {*re.findall(r"(?m)^([A-Za-z0-9._-]+)==", text)}
    assert {one["name"] for one in sbom["components"]} == names
    for one in sbom["components"]:
        hashes = [
            found for reference in one["externalReferences"] for found in reference.get("hashes", ())
        ]
        assert one["version"] and hashes, one["name"]
