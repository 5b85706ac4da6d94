"""A timeline of a job's parties: what each does when over two trees, and who waits for what.

`secureboost.py --timeline FILE.svg` starts the parties by watched.py, whose notes are read here, and
samples how much processor time each takes. Figures are of the trees that are drawn.

The way through a tree that its seconds took is told by going back from its end: to what ended last
before, to its beginning, and so on; of a wait for a message what the other party did meanwhile. What
lies between is `other`.
"""

import json
import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from unittest import mock

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from watched import LOOP, TREE

from vfl import local

HERE = Path(__file__).parent
EVERY = 0.005  # seconds between two samples
DRAWN = 2  # trees

# By what a party does, in the order of the legend.
COLOURS = {
    "gradients": "#7a5195",
    "losses": "#b59ac9",
    "own columns": "#2f8f5b",
    "encrypt": "#d9822b",
    "put together": "#f2c14e",
    LOOP: "#7f8fa6",
    "products": "#a8d08d",
    "decrypt": "#b23a48",
    "gains": "#c77dba",
    "ask": "#5bb5c9",
    "check answers": "#1d7a8c",
    "rows to nodes": "#8d6e4f",
    "sums": "#2a6fb0",
    "end of sums": "#90b8de",
    "open products": "#a8d08d",
    "seal": "#b23a48",
    "learn rows": "#5bb5c9",
    "answer": "#1d7a8c",
}
WAIT = "#d5d8de"


@dataclass(frozen=True)
class Done:
    """What a thread of a party did, or the party waited for."""

    party: str
    what: str
    thread: str  # empty where nobody did anything
    start: float
    end: float
    processor: float


@dataclass
class Watch:
    """What was seen of a job."""

    folders: dict[str, Path]
    done: list[Done] = field(default_factory=list)
    samples: list[tuple[float, float, dict[str, float]]] = field(default_factory=list)
    """When; processor seconds that all of the machine took until then, and each party."""


@contextmanager
def watching(folders: dict[str, Path]) -> Iterator[Watch]:
    """Have the parties of these folders watched for as long as the block lasts; what was seen is there
    after it."""
    watch, over = Watch(folders), threading.Event()
    sampling = threading.Thread(target=_sample, args=(watch, over), daemon=True)
    with tempfile.TemporaryDirectory() as notes:
        party = [sys.executable, str(HERE / "watched.py"), notes]
        with mock.patch.object(local, "_VFL", party):
            sampling.start()
            try:
                yield watch
            finally:
                over.set()
                sampling.join()
        for file in Path(notes).glob("*.json"):
            said = json.loads(file.read_text())
            watch.done += [
                Done(said["party"], what, thread, start, end, processor)
                for what, thread, start, end, processor in said["notes"]
            ]
    watch.done.sort(key=lambda one: one.start)


def _sample(watch: Watch, over: threading.Event) -> None:
    party_of = {str(folder): party for party, folder in watch.folders.items()}
    found: dict[int, str] = {}  # processes of parties
    look = 0.0
    while not over.wait(EVERY):
        if (now := time.monotonic()) > look:
            look = now + 1.0
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    party = party_of.get(str((process / "cwd").readlink()))
                except OSError:
                    continue  # it has ended meanwhile
                if party is not None:
                    found[int(process.name)] = party
        spent = dict.fromkeys(watch.folders, 0.0)
        for process, party in [*found.items()]:
            try:
                # A process's processor clock, as clock_getcpuclockid(3) names it.
                spent[party] += time.clock_gettime(~process << 3 | 2)
            except OSError:
                del found[process]
        watch.samples.append((time.monotonic(), _busy(), spent))


def _busy() -> float:
    """Processor seconds of everybody on the machine: in user, nice and system mode."""
    words = Path("/proc/stat").read_text().split(maxsplit=4)
    return sum(map(int, words[1:4])) / os.sysconf("SC_CLK_TCK")


def figures(watch: Watch) -> dict:
    """By name, per tree of those that are drawn."""
    trees = _trees(watch)
    start, end, count = trees[0].start, trees[-1].end, len(trees)
    inside = [one for one in watch.done if one.start < end and one.end > start]
    seconds, processor = defaultdict(float), defaultdict(float)
    for one in inside:
        name = f"{one.party} {one.what}"
        if one.what != TREE:
            seconds[name] += (min(one.end, end) - max(one.start, start)) / count
            if one.thread:
                processor[name] += one.processor / count
    way = defaultdict(float)
    for tree in trees:
        for name, part in _way(watch.done, tree):
            way[name] += part / count
    first, last = _at(watch, start), _at(watch, end)
    cores, wall = os.cpu_count() or 1, last[0] - first[0]
    spent = {party: last[2][party] - first[2][party] for party in watch.folders}
    return {
        "seconds_per_tree": (end - start) / count,
        "processor_s_per_tree": {party: of / count for party, of in spent.items()},
        "cores_busy": sum(spent.values()) / wall,
        "cores_busy_with_others": (last[1] - first[1]) / wall,
        "idle_share": max(0.0, 1 - (last[1] - first[1]) / wall / cores),
        "seconds_on_the_way": dict(sorted(way.items(), key=lambda item: -item[1])),
        "seconds": dict(sorted(seconds.items())),
        "processor_s": dict(sorted(processor.items())),
    }


def _trees(watch: Watch) -> list[Done]:
    """From the middle: neither what is made ready in the first trees nor what the last ones need no more
    is missing."""
    trees = [one for one in watch.done if one.what == TREE]
    if not trees:
        sys.exit("no tree to draw: was anything trained?")
    first = max(0, (len(trees) - DRAWN) // 2)
    return trees[first : first + DRAWN]


def _at(watch: Watch, when: float) -> tuple[float, float, dict[str, float]]:
    return min(watch.samples, key=lambda sample: abs(sample[0] - when))


def _way(done: list[Done], tree: Done) -> Iterator[tuple[str, float]]:
    """The way back through a tree: whose what took how long of it, each moment once."""
    inside = [one for one in done if one.thread and one.what != TREE and one.end > tree.start]
    now = tree.end
    while now > tree.start:
        before = [one for one in inside if one.start < now and one.end <= now + 1e-4]
        last = max(before, key=lambda one: one.end, default=None)
        if last is None:
            yield "other", now - tree.start
            return
        if last.end < now:
            yield "other", now - max(last.end, tree.start)
        begun = max(last.start, tree.start)
        yield f"{last.party} {last.what}", max(0.0, min(last.end, now) - begun)
        now = begun


def draw(watch: Watch, path: Path, title: str) -> None:
    """Draw these trees: a lane a thread and one for waits, by party; below how busy the cores are."""
    trees = _trees(watch)
    start, end = trees[0].start, trees[-1].end
    inside = [one for one in watch.done if one.start < end and one.end > start and one.what != TREE]
    lanes = _lanes(watch, inside)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vfl", "font.size": 9}):
        figure = Figure(figsize=(13, 1.6 + 0.28 * len(lanes) + 1.5), layout="constrained")
        figure.patch.set_facecolor("white")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(0.28 * len(lanes), 1.5))
        _draw_lanes(above, lanes, start, end)
        _draw_cores(below, watch, start, end)
        for tree in trees[1:]:
            for axes in (above, below):
                axes.axvline(tree.start - start, color="#333333", linewidth=0.8)
        used = {one.what for of_lane in lanes.values() for one in of_lane if one.thread}
        entries: dict[str, list[str]] = defaultdict(list)
        for what, colour in COLOURS.items():
            if what in used:
                entries[colour].append(what)
        handles = [Patch(color=colour, label=" / ".join(names)) for colour, names in entries.items()]
        handles.append(Patch(color=WAIT, label="waiting"))
        figure.legend(handles=handles, loc="outside upper center", ncols=7, frameon=False)
        above.set_title(title, fontsize=10)
        below.set_xlabel("seconds")
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)


def _lanes(watch: Watch, inside: list[Done]) -> dict[tuple[str, str], list[Done]]:
    """By party and lane: waits, then the event loop's thread, then kinds of threads, each as often as
    they work at once."""
    lanes: dict[tuple[str, str], list[Done]] = {}
    for party in watch.folders:
        mine = [one for one in inside if one.party == party]
        lanes[party, "waits"] = [one for one in mine if not one.thread and one.what != "send"]
        lanes[party, "sending"] = [one for one in mine if one.what == "send"]
        lanes[party, LOOP] = [one for one in mine if one.what == LOOP]
        rest: list[list[Done]] = []
        for one in mine:
            if not one.thread or one.what == LOOP:
                continue
            free = (lane for lane in rest if lane[-1].end <= one.start)
            lane = next(free, None)
            if lane is None:
                rest.append(lane := [])
            lane.append(one)
        for number, lane in enumerate(rest, 1):
            lanes[party, f"work {number}"] = lane
    return {name: lane for name, lane in lanes.items() if lane}


def _draw_lanes(axes: Axes, lanes: dict[tuple[str, str], list[Done]], start: float, end: float) -> None:
    party = ""
    for place, ((of_party, lane), done) in enumerate(lanes.items()):
        if of_party != party and place:
            axes.axhline(place - 0.5, color="#333333", linewidth=0.8)
        party = of_party
        for one in done:
            left, right = max(one.start, start) - start, min(one.end, end) - start
            colour = COLOURS.get(one.what, "#444444") if one.thread else WAIT
            axes.barh(place, right - left, left=left, height=0.8, color=colour, linewidth=0)
            if lane == "waits" and right - left > (end - start) / 18:
                text = one.what.removeprefix("wait ")
                axes.text((left + right) / 2, place, text, ha="center", va="center", fontsize=7)
    axes.set_yticks(range(len(lanes)), [f"{of_party}: {lane}" for of_party, lane in lanes])
    axes.set_ylim(len(lanes) - 0.5, -0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_cores(axes: Axes, watch: Watch, start: float, end: float) -> None:
    """How many cores each party has at each moment, and others."""
    places, shares = [], defaultdict(list)
    step = max(0.02, (end - start) / 150)
    times = [start + i * step for i in range(int((end - start) / step) + 2)]
    for one, two in pairwise(_at(watch, when) for when in times):
        if (wall := two[0] - one[0]) <= 0:
            continue
        places.append((one[0] + two[0]) / 2 - start)
        for party in watch.folders:
            shares[party].append((two[2][party] - one[2][party]) / wall)
    colours = ["#d9822b", "#2a6fb0", "#2f8f5b", "#7a5195"]
    axes.stackplot(places, *shares.values(), labels=[*shares], colors=colours[: len(shares)], step="mid")
    cores = os.cpu_count() or 1
    axes.axhline(cores, color="#333333", linewidth=0.8, linestyle=":")
    axes.set_ylim(0, cores * 1.1)
    axes.set_xlim(0, end - start)
    axes.set_ylabel("cores busy")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
