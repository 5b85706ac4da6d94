"""Draw demo.svg from the files that the demo leaves: AUC of each model, gain by column and owner.

    make demo
    python docs/images/make.py build/demo

It trains LightGBM once more, with the demo's settings.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "scenarios" / "car_insurance"))
import demo  # noqa: E402 - for LightGBM on the pooled columns, as the demo computes it

COLOURS = {"insurer": "#4269d0", "registry": "#e08a1e", "bureau": "#3ca951"}
GREY, DARK = "#9498a0", "#1f2933"


def main(work: Path) -> None:
    """Read the newest model of the demo's insurer and draw both panels."""
    store = work / "insurer" / "vfl-store"
    path = max((store / "models").glob("*.json"), key=lambda p: p.stat().st_mtime)
    body = json.loads(path.read_text())["body"]
    auc = {name: values["auc"] for name, values in body["metrics"].items()}
    auc["LightGBM, pooled columns"] = demo.pooled(work, {"model": path.stem})["auc"]
    held_out = len(demo.np.load(_held_out(store, path.stem)))

    plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 10, "svg.hashsalt": "vfl"})
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.9), width_ratios=(1, 1.25))
    _aucs(left, auc, held_out)
    _importance(right, body["model"])
    figure.tight_layout(w_pad=3)
    for kind in sys.argv[2:] or ["svg"]:
        figure.savefig(HERE / f"demo.{kind}", facecolor="white", dpi=110, metadata=_metadata(kind))


def _metadata(kind: str) -> dict | None:
    return {"Date": None} if kind == "svg" else None


def _held_out(store: Path, name: str) -> Path:
    run = json.loads((store / "runs" / f"{name}.json").read_text())["body"]
    return store / "runs" / run["held_out"]["rows"]["file"]


def _aucs(axes: plt.Axes, auc: dict[str, float], rows: int) -> None:
    names = sorted(auc, key=["LightGBM, pooled columns", "federation", "insurer alone"].index)
    colour = {"insurer alone": "#a9bbea", "federation": COLOURS["insurer"]}
    colours = [colour.get(name, GREY) for name in names]
    bars = axes.barh(names, [auc[name] for name in names], color=colours, height=0.6)
    axes.bar_label(bars, fmt="%.3f", padding=4, color=DARK)
    axes.set_xlim(0.5, 0.76)
    axes.set_title(f"AUC on {rows:,} held-out policies", loc="left", color=DARK)
    axes.set_xlabel("0.5 is chance", color=DARK)
    _plain(axes)


def _importance(axes: plt.Axes, model: dict, most: int = 10) -> None:
    gains: dict[tuple[str, str], float] = {}
    for tree in model["trees"]:
        for branch in tree["branches"].values():
            key = (model["parties"][branch["party"]], branch["column"])
            gains[key] = gains.get(key, 0.0) + branch["gain"]
    top = sorted(gains.items(), key=lambda item: item[1])[-most:]
    colours = [COLOURS[party] for (party, _), _ in top]
    axes.barh([column for (_, column), _ in top], [gain for _, gain in top], color=colours)
    axes.set_title(f"Gain by column: the {len(top)} highest of {len(gains)}", loc="left", color=DARK)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS.values()]
    axes.legend(handles, [f"held by the {p}" for p in COLOURS], loc="lower right", frameon=False)
    _plain(axes)


def _plain(axes: plt.Axes) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False, colors=DARK)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/demo"))
