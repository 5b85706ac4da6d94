"""What a guest works out of a host's table, against how many equations about a row it was shown.

nice -n 10 python benchmarks/leakage.py
python benchmarks/leakage.py --rows 500 2000 --trees 5 20 --depth 4 6 --json
python benchmarks/leakage.py --what curve --rows 500 2000 --seed 1 2 3 4 5 --json
python benchmarks/leakage.py --what labels --rows 5000 --guest-trees 0 1 3 --seed 1 2 3 --mean
python benchmarks/leakage.py --what residuals
python benchmarks/leakage.py --what small-nodes --seed 1 2 3 --mean

The sums are those of the plaintext oracle: encryption hides nothing from who has the key. Each host has
three columns that the label depends on and two that it does not, which models hardly use. The part of
what guessing misses that is got right: by the model alone (its splits; from above), by the model once it
has scored these rows, and with sums. Figures depend on the draw, not on the machine.

--what curve: what sums tell beyond the model, by equations about a row: over the seeds the mean and the
most, of all columns and of the two quiet ones, beside what `vfl leakage` says.
--what labels: how well a host tells rows with and without a claim apart (AUC) by the nodes that it is
told, under a key and over the lattice engine: by nodes alone; by its own splits too, given which way
each of its columns goes; with the labels of a twentieth of the rows as well. Beside it what the same
attack gets of labels in random order, its columns of numbers without any training, and the model
itself.
--what residuals: the labels that a host of a logistic model gets right from its first gradient.
--what small-nodes: what the sums of one joint tree, after ten of the guest's alone, tell of a column
that the label does not depend on, by what a host withholds: nothing; nodes whose rows would have more
than 0.03 sums each; and nodes of fewer than 300 rows, as by default.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from vfl.arrays import Floats
from vfl.jobs.alignments import Alignment
from vfl.jobs.sums_given import SumsGiven
from vfl.leakage import membership, residuals
from vfl.leakage.estimate import expected
from vfl.leakage.model_alone import model_alone
from vfl.leakage.reconstruction import Effort, compared, reconstruct, success
from vfl.leakage.recording import Recording, record
from vfl.leakage.shown import Order
from vfl.leakage.small_nodes import small_nodes
from vfl.learn.binning import Binned, bin_columns
from vfl.learn.losses import loss_of
from vfl.learn.params import BoostParams
from vfl.party.policy_section import PolicySection
from vfl.party.store import Store
from vfl.protocols.common.rows import Training

Figures = dict[str, float | int | str]
_WIDTH = 170  # of the table of cases
QUIET = (3, 4)  # columns that the label does not depend on


@dataclass(frozen=True)
class Case:
    """A training, and what the attacker makes use of."""

    rows: int
    trees: int
    depth: int = 4
    hosts: int = 1
    order: Order = "tree"  # "fixed": the lattice engine
    min_child_rows: int = 10
    nested: bool = True
    guest_trees: int = 0
    seed: int = 1


def main() -> None:
    """Measure every case and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[500, 1000, 2000, 5000, 20_000])
    parser.add_argument("--trees", type=int, nargs="+", default=[2, 5, 20, 50])
    parser.add_argument("--depth", type=int, nargs="+", default=[4])
    parser.add_argument("--hosts", type=int, nargs="+", default=[1])
    parser.add_argument("--order", nargs="+", default=["tree"], choices=["tree", "node", "fixed"])
    parser.add_argument(
        "--few", type=float, nargs="+", default=[10], help="min_child_rows; a share below 1"
    )
    parser.add_argument("--alone", action="store_true", help="candidates not known to be nested")
    parser.add_argument("--guest-trees", type=int, nargs="+", default=[0])
    parser.add_argument("--seed", type=int, nargs="+", default=[1])
    parser.add_argument("--mean", action="store_true", help="print means over the seeds alone")
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    parser.add_argument("--what", default="table", choices=list(KINDS))
    options = parser.parse_args()
    found = list(KINDS[options.what](options))
    if options.mean:
        found = means(found)
    if options.json:
        print(json.dumps({"cases": found}))
        return
    table = Table(
        title="what is got right, of what guessing misses" if options.what == "table" else None
    )
    for name in found[0]:
        table.add_column(name.replace("_", " "), justify="right")
    for figures in found:
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else f"{v}" for v in figures.values()))
    Console(width=_WIDTH).print(table)


def of_tables(options: argparse.Namespace) -> Iterator[Figures]:
    """What guests work out."""
    for case in cases(options):
        yield {**asdict(case), **measure(case)}


def of_curve(options: argparse.Namespace) -> Iterator[Figures]:
    """What sums tell beyond the model, over the seeds."""
    for figures, of_seeds in grouped(of_tables(options)):
        a_row = float(np.mean([one["equations_a_row"] for one in of_seeds]))
        figures["equations_a_row"] = a_row
        for name in ("", "quiet_"):
            beyond = [float(one[f"{name}sums"]) - float(one[f"{name}model"]) for one in of_seeds]
            figures |= {f"{name}beyond": float(np.mean(beyond)), f"{name}most": max(beyond)}
        yield figures | {"said": expected(a_row)}


def means(found: Iterable[Figures]) -> list[Figures]:
    """The means of all figures over the seeds."""
    return [
        figures | {name: float(np.mean([one[name] for one in of_seeds])) for name in fractions(of_seeds)}
        for figures, of_seeds in grouped(found)
    ]


def fractions(of_seeds: Sequence[Figures]) -> list[str]:
    """The names of what differs from seed to seed."""
    return [name for name, value in of_seeds[0].items() if isinstance(value, float)]


def grouped(found: Iterable[Figures]) -> Iterator[tuple[Figures, list[Figures]]]:
    """What cases that differ by their seed have in common, with their number, and these cases."""
    groups: dict[tuple[tuple[str, float | str], ...], list[Figures]] = {}
    for one in found:
        same = {k: v for k, v in one.items() if k != "seed" and not isinstance(v, float)}
        groups.setdefault(tuple(same.items()), []).append(one)
    for key, of_seeds in groups.items():
        yield {**dict(key), "seeds": len(of_seeds)}, of_seeds


def of_labels(options: argparse.Namespace) -> Iterator[Figures]:
    """How well hosts tell labels apart: AUCs."""
    for case in cases(options):
        recording, label = train(case)
        known = np.random.default_rng(case.seed).random(case.rows) < 0.05
        figures: Figures = {"rows": case.rows, "trees": case.trees, "depth": case.depth}
        figures |= {"hosts": case.hosts, "guest_trees": case.guest_trees, "seed": case.seed}
        shown, truth = recording.shown["host1"], recording.truth["host1"]
        for name, nodes in (
            ("key", membership.told(recording.leaves, case.depth, shown)),
            ("lattice", membership.asked(shown)),
        ):
            splits = membership.known_splits(nodes, shown, truth)
            found = membership.success(nodes, label, None, splits)
            figures[f"{name}_guessing"] = found.guessing
            figures[f"{name}_nodes"] = membership.success(nodes, label).success
            figures[name] = found.success
            figures[f"{name}_some_known"] = membership.success(nodes, label, known, splits).success
        for kind in ("", "_some_known"):  # under a key a host knows what it is told over the other, too
            figures[f"key{kind}"] = max(float(figures[f"{name}{kind}"]) for name in ("key", "lattice"))
        figures["numbers_alone"] = of_numbers(tables(case)[0]["host1"], label)
        figures["model_itself"] = float(roc_auc_score(label, recording.score))
        yield figures


def of_numbers(block: Binned, label: Floats) -> float:
    """The AUC of the sum of a host's columns of numbers, given which way each of them goes."""
    score = np.zeros(block.rows)
    for codes, column in zip(block.codes, block.columns, strict=True):
        if column.edges is not None:
            value = np.where(codes == column.bins, np.median(codes), codes).astype(np.float64)
            value = (value - value.mean()) / value.std()
            score += value if roc_auc_score(label, value) > 0.5 else -value
    return float(roc_auc_score(label, score))


def of_small_nodes(options: argparse.Namespace) -> Iterator[Figures]:
    """What the sums of small nodes tell, by a host's rules."""
    for (rows, depth), (name, policy) in product(((1081, 5), (2157, 6)), WITHHELD.items()):
        for seed in options.seed:
            recording = one_joint_tree(rows, depth, seed, policy)
            shown, truth = recording.shown["host"], recording.truth["host"]
            found, true = small_nodes(shown), compared(shown, truth)
            right = (found.sides > 0.5) == truth.sides[true]
            quiet = [1]
            alone = model_alone(shown, truth, true[np.isin(truth.column[true], quiet)])
            told = [int(node.rows.sum()) for node in shown.trees[-1].nodes if node.known.any()]
            yield {
                "rows": rows,
                "depth": depth,
                "withheld": name,
                "seed": seed,
                "nodes": float(len(told)),
                "smallest": float(min(told)),
                "guessing": alone.guessing,
                "model": alone.advantage,
                "sums": success(reconstruct(shown), shown, truth, quiet).advantage,
                "small_nodes": success(found, shown, truth, quiet).advantage,
                "certain": float(found.certain.mean()),
                "certain_right": float(right[found.certain].mean()) if found.certain.any() else 1.0,
            }


WITHHELD: dict[str, PolicySection | None] = {
    "nothing": None,
    "above 0.03 in a node": PolicySection(min_summed_rows=1),
    "and below 300 rows": PolicySection(),
}


def one_joint_tree(rows: int, depth: int, seed: int, policy: PolicySection | None) -> Recording:
    """The eleventh tree, with default settings otherwise; the host's second column is the quiet one."""
    draw = np.random.default_rng(seed)
    own = {f"g{i}": draw.normal(size=rows) for i in range(4)}
    power, quiet = draw.lognormal(size=rows), draw.normal(size=rows)
    brand = np.array(["x" if one < 0.5 else "y" for one in draw.random(rows)], dtype=object)
    risk = own["g0"] + 0.5 * own["g1"] + np.log(power)
    label = (risk + draw.logistic(size=rows) > np.quantile(risk, 0.75)).astype(np.float64)
    params = BoostParams(trees=11, guest_trees=10, depth=depth)
    columns = {"power": power, "quiet": quiet, "brand": brand}
    blocks = {
        name: bin_columns(of, params.max_bins, params.min_child_rows)
        for name, of in (("guest", own), ("host", columns))
    }
    every = np.ones(rows, np.bool_)
    training = Training(label, np.ones(rows), every, ~every, loss_of("binary"))
    if policy is None:
        return asyncio.run(record(blocks, training, params))
    alignment = Alignment("a", "aa", {"guest": "aa"}, ("trim",), "ids", np.arange(rows))
    with TemporaryDirectory() as folder:
        budget = SumsGiven(Store(Path(folder)), alignment).reserve(policy, "m", params, 1.0)
        with closing(budget):
            return asyncio.run(record(blocks, training, params, counts={"host": budget}))


def of_residuals(options: argparse.Namespace) -> Iterator[Figures]:
    """Labels from a gradient, of 300 rows, of which a fifth are ones: means of ten draws."""
    for share in (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6):
        rows, columns = 300, round(300 * share)
        found: dict[str, list[float]] = {"numbers": [], "levels": []}
        for seed in range(10):
            draw = np.random.default_rng([options.seed[0], seed])
            label = draw.random(rows) < 0.2
            levels = draw.integers(0, columns, rows) == np.arange(columns)[:, None]
            for name, of in (("numbers", draw.normal(size=(columns, rows))), ("levels", 1.0 * levels)):
                found[name].append(residuals.success(of, label).advantage)
        yield {"columns_a_row": share, **{name: float(np.mean(of)) for name, of in found.items()}}


KINDS: dict[str, Callable[[argparse.Namespace], Iterator[Figures]]] = {
    "table": of_tables,
    "curve": of_curve,
    "labels": of_labels,
    "residuals": of_residuals,
    "small-nodes": of_small_nodes,
}


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """The combinations asked for."""
    axes = (options.rows, options.trees, options.depth, options.hosts, options.order, options.few)
    further = options.guest_trees, options.seed
    for rows, trees, depth, hosts, order, few, alone, seed in product(*axes, *further):
        case = Case(rows, trees, depth, hosts, order, int(few if few >= 1 else few * rows))
        yield replace(case, nested=not options.alone, guest_trees=alone, seed=seed)


def tables(case: Case) -> tuple[dict[str, Binned], Floats]:
    """Binned columns by party, and the label."""
    draw = np.random.default_rng(case.seed)
    rows = case.rows
    own = {f"g{i}": draw.normal(size=rows) for i in range(4)}
    blocks = {"guest": bin_columns(own, 16, 3)}
    risk = own["g0"].copy()
    for number in range(case.hosts):
        income, km = draw.lognormal(size=rows), draw.gamma(2, 1e4, rows)
        regions = draw.choice(8, rows, p=np.arange(8, 0, -1) / 36)
        risk += (np.log(income) + km / 3e4 + 0.5 * (regions == 1)) / case.hosts
        km[draw.random(rows) < 0.1] = np.nan
        columns = {
            "income": income,
            "km": km,
            "region": np.array([f"r{i}" for i in regions], dtype=object),
            "quiet": draw.normal(size=rows),
            "colour": np.array([f"c{i}" for i in draw.integers(0, 6, rows)], dtype=object),
        }
        blocks[f"host{number + 1}"] = bin_columns(columns, 16, case.min_child_rows)
    label = risk + draw.logistic(size=rows) > np.quantile(risk, 0.8)
    return blocks, label.astype(np.float64)


def train(case: Case) -> tuple[Recording, Floats]:
    """What a training shows, and the label."""
    blocks, label = tables(case)
    params = BoostParams(
        trees=case.trees,
        depth=case.depth,
        min_child_rows=case.min_child_rows,
        guest_trees=case.guest_trees,
        encryption="lattice" if case.order == "fixed" else "paillier",
    )
    every = np.ones(case.rows, np.bool_)
    training = Training(label, np.ones(case.rows), every, ~every, loss_of("binary"))
    return asyncio.run(record(blocks, training, params, case.order)), label


def measure(case: Case) -> dict[str, float]:
    """The advantages over guessing of each kind, of the first host."""
    recording, _ = train(case)
    shown, truth = recording.shown["host1"], recording.truth["host1"]
    started = time.perf_counter()
    found = reconstruct(shown, Effort(chains=case.nested))
    seconds = time.perf_counter() - started
    candidates = compared(shown, truth)
    quiet = candidates[np.isin(truth.column[candidates], QUIET)]
    return {
        "equations_a_row": shown.equations_a_row,
        "guessing": success(found, shown, truth).guessing,
        "model": model_alone(shown, truth, candidates).advantage,
        "scored": model_alone(shown, truth, candidates, scored=True).advantage,
        "sums": success(found, shown, truth).advantage,
        "quiet_guessing": success(found, shown, truth, QUIET).guessing,
        "quiet_model": model_alone(shown, truth, quiet).advantage,
        "quiet_sums": success(found, shown, truth, QUIET).advantage,
        "certain": float(found.certain.mean()),
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
