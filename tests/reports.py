"""A run that no party made, for tests of its report."""

from dataclasses import replace
from typing import Any

import numpy as np

from vfl.arrays import Floats
from vfl.leakage.disclosure import Circumstances
from vfl.leakage.meter import disclosures
from vfl.learn.metrics import binary_metrics
from vfl.learn.params import BoostParams
from vfl.models.dependence import Dependence
from vfl.models.kinds import KINDS
from vfl.models.trees import Trees
from vfl.report.evidence import TOGETHER, Beside, Evidence, Exchange, HeldOut

NASTY = "<script>alert('x')</script>"
"""What a foreign name may be."""


def made_up(rows: int = 800, columns: int = 3, levels: int = 4, **changed: Any) -> Evidence:
    """A guest's run of trees: as many categorical as numeric columns, missing values in all."""
    rng = np.random.default_rng(7)
    risk = rng.normal(size=rows)
    label = (risk + rng.normal(size=rows) > 1).astype(np.float64)
    weight = np.ones(rows)
    predictions = {"insurer alone": _probability(0.4 * risk), TOGETHER: _probability(1.6 * risk)}
    names = ["A & B", NASTY, "$x_1$ ]]>", "\x00\u202eodd", *(f"level {i}" for i in range(levels))]
    factors: dict[str, Any] = {}
    for i in range(columns):
        numbers = rng.normal(100, 30, rows)
        numbers[:20] = np.nan
        factors[f"number {i}"] = numbers
        categories = rng.choice(np.array(names, dtype=object), rows)
        categories[:20] = None
        factors[f"{NASTY} {i}"] = categories
    dependence = {
        "number 0": Dependence(np.array([40.0, 90.0, 160.0, np.nan]), np.array([-2.0, -1.0, 0.5, -1.2])),
        f"{NASTY} 0": Dependence(np.array([*names[:4], None], dtype=object), np.linspace(-2, 0, 5)),
    }
    exchanges = [
        Exchange("registry", "sent", "Gradients", 4, 3_000_000, "nothing to who lacks the key"),
        Exchange("registry", "received", "Direction", 12, 2_228, "which rows go left"),
    ]
    evidence = Evidence(
        model="claims-20261123-020308-e09862",
        party="insurer",
        role="guest",
        parties=["insurer", "registry"],
        kind=Trees,
        job={
            "job": {"name": "claims", "purpose": f"pricing {NASTY}", "model": "secureboost"}
            | {"objective": "binary", "holdout": 0.25},
            "secureboost": {"trees": 4, "tweedie_power": 1.5},
        },
        label="claim",
        aligned_rows=4 * rows,
        ended="2026-11-23T02:03:16+00:00",
        version="0.1.0",
        seconds=131.0,
        sent={"registry": 3_000_000},
        received={"registry": 2_228},
        peak_memory=254_783_488,
        operations={"encrypt": 1525, "decrypt": 151},
        exchanges=exchanges,
        rows={"train": 3 * rows, "validation": 0, "held out": rows},
        metrics={name: binary_metrics(label, p, weight) for name, p in predictions.items()},
        measure="log loss",
        curve=[{"train": 0.3 / i, "validation": None} for i in range(1, 5)],
        phases=[{"encrypt": 1.0, "registry": 0.5, "registry and transfer": 0.6, "whole tree": 1.8}] * 4,
        held_out=HeldOut(label, weight, None, predictions),
        factors=factors,
        importance=[("registry", f"power {NASTY}", 5, 20.0), ("insurer", "number 0", 3, 10.0)],
        dependence=dependence,
        gave_away=disclosures(Circumstances("insurer", ["registry"], 4 * rows), BoostParams(), True),
    )
    evidence = replace(evidence, **changed)
    return replace(evidence, kind=KINDS[evidence.job["job"]["model"]])


def with_all(evidence: Evidence) -> Evidence:
    """The run with a present tariff, and all else that only some guests have."""
    held = evidence.held_out
    if held is None:
        raise ValueError("a run with rows held out")
    rows = len(held.label)
    rng = np.random.default_rng(8)
    premium = 500 * np.sqrt(held.predictions[evidence.alone]) * rng.uniform(0.8, 1.2, rows)
    premium[:9] = np.nan
    year = rng.choice(np.array(["2024", "2025"], dtype=object), rows)
    protected = rng.choice(np.array(["f", NASTY], dtype=object), rows)
    beside = Beside(
        np.arange(rows) // 2, premium, by={"year": year}, protected={"gender": protected}, least=20
    )
    return replace(evidence, beside=beside)


def _probability(score: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(1.2 - score)))
