"""A frequency model over the rows of four insurers and a server that reads nothing; beside glum.

    python benchmarks/pooled.py
    python benchmarks/pooled.py --rows 50000 --json

freMTPL2, Poisson with exposure, all rows, of which the insurers hold four, three, two and one in ten.
All roles run in one process, with the masks and messages that they have over the network. Columns are
those of glm.py: ages in bins, the logarithm of density, bonus-malus as it is, the rest as levels. glum
fits the same prepared columns of the pooled rows. Data: see benchmarks/README.md.

A round is a total: all insurers send what they add and receive the sum. Bytes are those of one insurer.
`alone` is what each insurer's own model explains of the deviance of rows held out at it (--holdout),
`together` what the model of all does.
"""

import argparse
import asyncio
import itertools
import statistics
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import glum
import numpy as np
import pandas as pd
from parties import DATA, check_data, scenario, tell

from vfl.arrays import Floats
from vfl.learn.binning import Features
from vfl.learn.design import Design, Rules
from vfl.learn.losses import loss_of
from vfl.learn.params import GlmParams
from vfl.net.peer import MemoryPeer, together
from vfl.protocols.common.course import GuestCourse
from vfl.protocols.common.participant import Participant
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.fit import IterationDone
from vfl.protocols.linear.scoring import GuestGlm
from vfl.protocols.pooled.adding import Adder, MaskedPart, MaskingAdder
from vfl.protocols.pooled.adding_server import ServerCourse, serve_totals
from vfl.protocols.pooled.bins import Schema
from vfl.protocols.pooled.glm import PooledGlmState, fit_client
from vfl.protocols.pooled.plain_adding import plain_adders

SHARES = {"insurer-a": 0.4, "insurer-b": 0.3, "insurer-c": 0.2, "insurer-d": 0.1}
CATEGORICAL = ("Area", "Region", "VehBrand", "VehGas", "VehPower")
NUMERIC = ("BonusMalus", "Density", "DrivAge", "VehAge")
RULES = Rules(binned=("DrivAge", "VehAge"))
Table = tuple[Features, Training]
Course = GuestCourse[IterationDone, PooledGlmState]


def main() -> None:
    """Fit once and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--alpha", type=float, default=0.0)
    parser.add_argument("--holdout", type=float, default=0.0)
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    check_data(options.data / "freMTPL2")
    policies = scenario.load(options.data / "freMTPL2").head(options.rows)
    figures = measure(policies, GlmParams(alpha=options.alpha), options.holdout)
    tell(options, f"freMTPL2, {len(policies):,} rows of four insurers", figures)


def tables(policies: pd.DataFrame, holdout: float) -> dict[str, Table]:
    """Each insurer's rows, which are in random order."""
    ends = np.rint(np.cumsum([0.0, *SHARES.values()]) * len(policies)).astype(int)
    parts = (policies.iloc[first:end] for first, end in itertools.pairwise(ends))
    return {name: _table(part, holdout) for name, part in zip(SHARES, parts, strict=True)}


def _table(policies: pd.DataFrame, holdout: float) -> Table:
    features: dict[str, np.ndarray] = {
        name: policies[name].astype(str).to_numpy(object) for name in CATEGORICAL
    }
    features |= {name: policies[name].to_numpy(np.float64) for name in NUMERIC}
    features["Density"] = np.log(features["Density"])
    train = np.random.default_rng(0).random(len(policies)) >= holdout
    label, offset = policies["claims"].to_numpy(np.float64), np.log(policies["Exposure"].to_numpy())
    return features, Training(label, np.ones(len(label)), train, ~train, loss_of("poisson"), offset)


def measure(policies: pd.DataFrame, params: GlmParams, holdout: float) -> dict[str, Any]:
    """All figures, by name."""
    levels = {name: sorted(policies[name].astype(str).unique()) for name in CATEGORICAL}
    schema = Schema((*CATEGORICAL, *NUMERIC), levels)
    parts = tables(policies, holdout)
    warm = {name: _table(policies.iloc[:2000], 0.5) for name in parts}
    asyncio.run(_federated(warm, schema, GlmParams(alpha=0.01), [], []))  # compiles what is compiled
    steps: list[IterationDone] = []
    sizes: list[int] = []
    started = time.perf_counter()
    models, totals = asyncio.run(_federated(parts, schema, params, steps, sizes))
    seconds = time.perf_counter() - started
    model = models[0]
    if any(other != model for other in models):
        raise SystemExit("the insurers' models differ")
    return {
        "rows": sum(int(rows.train.sum()) for _, rows in parts.values()),
        "columns": len(model.part.coefficients),
        "steps": model.iterations,
        "rounds": totals,
        "fit_s": seconds,
        "seconds_a_step": statistics.median(step.seconds["whole iteration"] for step in steps[1:]),
        "kilobytes_sent": {"in_all": sum(sizes) / 1e3, "largest_round": max(sizes) / 1e3},
        "explained": model.explained,
        **_against_glum(model, parts, params),
        **(_worth(model, parts, schema, params) if holdout else {}),
    }


async def _federated(
    parts: dict[str, Table],
    schema: Schema,
    params: GlmParams,
    steps: list[IterationDone],
    sizes: list[int],
) -> tuple[list[GuestGlm], int]:
    """Each insurer's model, and the number of totals; `sizes` gets the bytes that the first one sends to
    each."""
    given: list[int] = []
    pairs = {name: MemoryPeer.pair("server", name) for name in parts}

    def watch(direction: str, kind: str, payload: bytes) -> None:
        if direction == "sent" and kind == MaskedPart.__name__:
            sizes.append(len(payload))  # one piece each

    pairs[next(iter(parts))][1].observers.append(watch)

    async def client(name: str) -> GuestGlm:
        adder = MaskingAdder(pairs[name][1], Participant(name, tuple(parts), b"benchmark"))
        course = Course(steps.append if name == next(iter(parts)) else lambda _: None)
        model = await _fit(adder, parts[name], schema, params, course)
        await adder.end()
        return model

    server = serve_totals([pair[0] for pair in pairs.values()], ServerCourse(progress=given.append))
    work: list[Coroutine[Any, Any, Any]] = [server, *(client(name) for name in parts)]
    _, *models = await together(work)
    return models, given[-1]


async def _fit(
    adder: Adder,
    table: Table,
    schema: Schema,
    params: GlmParams,
    course: Course = Course(),  # noqa: B008 - frozen
) -> GuestGlm:
    model, _ = await fit_client(adder, *table, schema, RULES, params, course=course)
    return model


def _against_glum(model: GuestGlm, parts: dict[str, Table], params: GlmParams) -> dict[str, float]:
    """The coefficients beside those of a pooled fit."""
    design = model.part.design
    matrix, label, offset = (
        np.concatenate(own)
        for own in zip(*(_dense(design, table) for table in parts.values()), strict=True)
    )
    started = time.perf_counter()
    theirs = glum.GeneralizedLinearRegressor(
        family="poisson", alpha=params.alpha, l1_ratio=0, gradient_tol=1e-12, max_iter=300
    ).fit(matrix, label, offset=offset)
    apart = np.abs(np.array(model.part.coefficients) - theirs.coef_)
    return {
        "glum_s": time.perf_counter() - started,
        "greatest_coefficient_difference": float(apart.max()),
        "greatest_difference_in_standard_errors": float((apart / np.array(model.errors)).max()),
    }


def _dense(design: Design, table: Table) -> tuple[Floats, Floats, Floats]:
    features, rows = table
    used = {name: values[rows.train] for name, values in features.items()}
    return design.matrix(used).dense(), rows.label[rows.train], rows.offset[rows.train]


def _worth(
    model: GuestGlm, parts: dict[str, Table], schema: Schema, params: GlmParams
) -> dict[str, dict[str, float]]:
    """The share of the deviance of each insurer's held-out rows that a model explains, beyond the
    constant of its own rows that train."""
    explained: dict[str, dict[str, float]] = {"alone": {}, "together": {}}
    for name, table in parts.items():
        (own,) = plain_adders([name])
        alone = asyncio.run(_fit(own, table, schema, params))
        features, rows = table
        out, loss = ~rows.train, rows.loss
        held = {column: values[out] for column, values in features.items()}
        given = rows.label[out], rows.weight[out]
        _, null = rows.start()
        constant = loss.deviance(null[out], *given)
        for way, made in (("alone", alone), ("together", model)):
            score = made.intercept + made.part.scores(held, int(out.sum())) + rows.offset[out]
            explained[way][name] = 1 - loss.deviance(score, *given) / constant
    return explained


if __name__ == "__main__":
    main()
