"""The timeline of the main job's benchmark: what it watches is there, and its figures are of what was
seen."""

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))

import timeline  # noqa: E402
import watched  # noqa: E402
from timeline import Done, Watch  # noqa: E402


@pytest.mark.parametrize("module", watched.WATCHED)
def test_what_is_watched_is_there(module):
    names = watched.WATCHED[module]
    for path in names:
        found = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
        assert callable(found)
    assert {*names.values()} - {watched.TREE, "send", "wait", "checkpoint"} <= timeline.COLOURS.keys()


def test_notes_are_of_what_takes_its_time(monkeypatch):
    monkeypatch.setattr(watched, "notes", [])
    monkeypatch.setattr(watched, "LEAST", 0.0)
    assert watched.done(lambda x: x + 1, "adds")(1) == 2
    ((what, thread, start, end, _),) = watched.notes
    assert (what, thread) == ("adds", "MainThread") and start <= end
    monkeypatch.setattr(watched, "LEAST", 60.0)
    assert watched.done(lambda x: x + 1, "adds")(1) == 2
    assert len(watched.notes) == 1


def seen(folder: Path) -> Watch:
    """Two trees of a second and a half each: the guest encrypts, the host sums, half a second is
    nobody's."""
    watch = Watch({"guest": folder / "guest", "host": folder / "host"})
    for start in (10.0, 11.5):
        watch.done += [
            Done("guest", "tree", "", start, start + 1.5, 0.0),
            Done("guest", "encrypt", "begun_0", start, start + 0.5, 0.4),
            Done("host", "wait Vectors", "", start, start + 0.5, 0.0),
            Done("host", "sums", "begun_0", start + 0.5, start + 1.0, 0.5),
        ]
    watch.done.append(Done("guest", "encrypt", "begun_0", 8.0, 9.0, 1.0))  # of neither
    for step in range(80):
        at = 9.5 + 0.05 * step
        watch.samples.append((at, 1.0 * (at - 9.5), {"guest": 0.6 * at, "host": 0.2 * at}))
    return watch


def test_figures_are_of_the_trees_that_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(timeline.os, "cpu_count", lambda: 2)
    found = timeline.figures(seen(tmp_path))
    assert found["seconds_per_tree"] == pytest.approx(1.5)
    assert found["processor_s_per_tree"] == pytest.approx({"guest": 0.9, "host": 0.3})
    assert found["cores_busy"] == pytest.approx(0.8)
    assert found["cores_busy_with_others"] == pytest.approx(1.0)
    assert found["idle_share"] == pytest.approx(0.5)
    assert found["seconds"] == pytest.approx(
        {"guest encrypt": 0.5, "host sums": 0.5, "host wait Vectors": 0.5}
    )
    assert found["processor_s"] == pytest.approx({"guest encrypt": 0.4, "host sums": 0.5})
    way = {"guest encrypt": 0.5, "host sums": 0.5, "other": 0.5}
    assert found["seconds_on_the_way"] == pytest.approx(way)


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_the_timeline_is_drawn(tmp_path, ending):
    file = tmp_path / f"timeline.{ending}"
    timeline.draw(seen(tmp_path), file, "made up")
    drawn = file.read_bytes()
    assert drawn.startswith(b"<?xml" if ending == "svg" else b"\x89PNG")
    if ending == "svg":
        for text in ("guest: work 1", "host: waits", "Vectors", "encrypt", "made up"):
            assert text in drawn.decode()


def test_a_job_without_trees_is_said(tmp_path):
    with pytest.raises(SystemExit, match="no tree"):
        timeline.figures(Watch({"guest": tmp_path}))
