"""What stands in deploy/: boards, containers, charts, schedules name what there is."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
from kept_parties import copy_parties

from vfl.errors import Refused
from vfl.jobs.activity import JobNow
from vfl.jobs.connect import Site
from vfl.monitor.figures import Figures
from vfl.online.metrics import Metrics
from vfl.party.config import load_party

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
        for by in re.findall(r"by \(([^)]*)\)", query):
            for name in re.findall(r"vfl_serve_\w+", query):
                known = labels[name] | {"rule"}  # of a quotient of two figures
                assert {word.strip() for word in by.split(",")} <= known, (query, name)
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
