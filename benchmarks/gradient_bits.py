"""What trees are worth by how many bits their gradients have, on rows held out.

    python benchmarks/gradient_bits.py freMTPL2 --rows 100000
    python benchmarks/gradient_bits.py frequency --draws 5

The trees are those of the lattice engine, grown on pooled columns; gradients are rounded up or down at
random. Means over draws of the rows held out: AUC of a binary label, of a
frequency the share of the Poisson deviance that is explained. Data: see benchmarks/README.md.
"""

import argparse
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
from parties import DATA, SPLITS, Split, frequency, tell
from sklearn.metrics import mean_poisson_deviance, roc_auc_score

import vfl
from vfl.arrays import Floats
from vfl.protocols.trees import grower
from vfl.protocols.trees.quantisation import Quantisation

HELD_OUT = 0.3


def main() -> None:
    """Print a line for each number of bits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("split", choices=["frequency", *SPLITS])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 5, 6, 7, 8, 10, 20])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--trees", type=int, default=60)
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    load = frequency if options.split == "frequency" else SPLITS[options.split]
    split = load(options.data, options.rows, 5)
    columns, label, exposure = pooled(split)
    found = {
        f"{bits} bits": [
            worth(columns, label, exposure, bits, draw, options) for draw in range(options.draws)
        ]
        for bits in options.bits
    }
    figures = {name: float(np.mean(values)) for name, values in found.items()}
    deviations = [np.std(values, ddof=1) for values in found.values()] if options.draws > 1 else [0.0]
    figures["deviation of a draw"] = float(np.mean(deviations))
    tell(options, f"{options.split}, {len(label):,} rows, {options.trees} trees", figures)


def pooled(split: Split) -> tuple[pd.DataFrame, Floats, Floats | None]:
    """All parties' columns in one table; label; exposure, if there is one."""
    guest = next(iter(split.tables))
    label = split.tables[guest].set_index("id")
    parts = [
        table.set_index("id")[split.features[party]].add_prefix(f"{party}:")
        for party, table in split.tables.items()
    ]
    columns = pd.concat(parts, axis=1, join="inner")
    label = label.loc[columns.index]
    exposure = label[split.guests["exposure"]].to_numpy(float) if "exposure" in split.guests else None
    categories = [name for name in columns if not pd.api.types.is_numeric_dtype(columns[name])]
    return (
        columns.astype(dict.fromkeys(categories, "category")),
        label[split.guests["label"]].to_numpy(float),
        exposure,
    )


def worth(
    columns: pd.DataFrame,
    label: Floats,
    exposure: Floats | None,
    bits: int,
    draw: int,
    options: argparse.Namespace,
) -> float:
    """Of one model, on rows held out."""
    rows = np.random.default_rng(draw).permutation(len(label))
    train, tried = np.split(rows, [round(len(rows) * (1 - HELD_OUT))])
    settings = {
        "hosts": {},
        "trees": options.trees,
        "depth": options.depth,
        "learning_rate": options.learning_rate,
        "encryption": "lattice",
        "seed": draw,
    }
    with mock.patch.object(grower, "quantisation_of", lambda *_: Quantisation(bits, dithered=True)):
        if exposure is None:
            model = vfl.SecureBoost(**settings).fit(columns.iloc[train], label[train])
            return float(roc_auc_score(label[tried], model.predict_proba(columns.iloc[tried])[:, 1]))
        rate = vfl.SecureBoostRegressor(objective="poisson", **settings)
        rate.fit(columns.iloc[train], label[train], exposure=exposure[train])
    expected = rate.predict(columns.iloc[tried]) * exposure[tried]
    constant = exposure[tried] * label[train].sum() / exposure[train].sum()
    deviance, of_constant = (mean_poisson_deviance(label[tried], mean) for mean in (expected, constant))
    return float(1 - deviance / of_constant)


if __name__ == "__main__":
    main()
