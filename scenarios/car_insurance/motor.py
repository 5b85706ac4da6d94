"""Motor third-party liability with claims and what they cost, at three companies: freMTPL2, or made up.

Both have freMTPL2's columns (CASdatasets; OpenML 41214 and 41215). The made-up portfolio has policies
whose claims and amounts follow its columns, drivers most of all, with a heavy tail; no row of it stands
for a real policy. The insurer's present tariff is by area alone.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from vfl import local

PARTIES = ("insurer", "registry", "bureau")
COLUMNS = {
    "insurer": ["IDpol", "Exposure", "Area", "Region", "Density", "premium", "ClaimNb", "losses"],
    "registry": ["IDpol", "VehPower", "VehAge", "VehBrand", "VehGas"],
    "bureau": ["IDpol", "DrivAge", "BonusMalus"],
}
FILES = {"insurer": "policies.csv", "registry": "vehicles.csv", "bureau": "drivers.csv"}
CATEGORICAL = {"insurer": ["Area", "Region"], "registry": ["VehBrand", "VehGas"], "bureau": []}
AREAS = {"A": 0.80, "B": 0.90, "C": 1.00, "D": 1.15, "E": 1.30, "F": 1.45}
"""The present tariff: factors on its base."""
_BASE = {True: 260.0, False: 180.0}  # a year, of the made-up portfolio and of freMTPL2
_CAP = {True: 20_000.0, False: 100_000.0}
_KNOWN = {"registry": 0.95, "bureau": 0.93}  # shares of policies that hosts know


@dataclass(frozen=True)
class Portfolio:
    """Policies with all columns, and a row a claim; `cap`: what a claim counts for at most."""

    policies: pd.DataFrame
    claims: pd.DataFrame
    cap: float


def load(source: str | Path, rows: int) -> Portfolio:
    """So many policies. `source`: "made up", "openml" (needs the network), or a folder with
    policies.parquet and claims.parquet, whose rows are in random order."""
    made_up = str(source) == "made up"
    policies, claims = make(rows) if made_up else _read(source)
    policies = policies.head(rows).reset_index(drop=True)
    claims = claims[claims["IDpol"].isin(policies["IDpol"])].reset_index(drop=True)
    policies["premium"] = (_BASE[made_up] * policies["Area"].map(AREAS)).round(2)
    capped = claims["ClaimAmount"].clip(upper=_CAP[made_up]).groupby(claims["IDpol"]).sum()
    policies["ClaimNb"] = policies["IDpol"].map(claims["IDpol"].value_counts()).fillna(0).astype(int)
    losses = policies["IDpol"].map(capped).fillna(0.0)
    policies["losses"] = (losses / policies["Exposure"]).round(4)
    return Portfolio(policies, claims, _CAP[made_up])


def _read(source: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    if str(source) == "openml":
        from sklearn.datasets import fetch_openml

        policies = fetch_openml(data_id=41214, as_frame=True).data.sample(frac=1, random_state=0)
        claims = fetch_openml(data_id=41215, as_frame=True).data
    else:
        policies = pd.read_parquet(Path(source) / "policies.parquet")
        claims = pd.read_parquet(Path(source) / "claims.parquet")
    policies, claims = (
        one.assign(IDpol=one["IDpol"].astype(int).astype(str)) for one in (policies, claims)
    )
    policies = policies.assign(Exposure=policies["Exposure"].clip(upper=1))
    return policies, claims[["IDpol", "ClaimAmount"]]


def make(rows: int, seed: int = 2027) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A made-up portfolio: policies, and a row a claim."""
    rng = np.random.default_rng(seed)
    log_density = rng.normal(6.0, 1.8, rows).clip(0, 10.2)
    age = rng.gamma(6.0, 4.5, rows).clip(0, 70) + 18
    years_driven = age - 18
    malus = (100 - 1.8 * years_driven + rng.normal(0, 12, rows)).clip(50, 180)
    malus = np.where(rng.random(rows) < 0.07, malus + rng.gamma(2.0, 14.0, rows), malus).round()
    policies = pd.DataFrame(
        {
            "IDpol": [str(1_000_000 + 7 * number) for number in rng.permutation(rows)],
            "Exposure": np.where(rng.random(rows) < 0.4, 1.0, rng.beta(1.1, 1.6, rows).clip(0.02)).round(
                2
            ),
            "Density": np.exp(log_density).round().clip(1),
            "Region": rng.choice(
                ["North", "South", "East", "West", "Capital"], rows, p=[0.25, 0.25, 0.2, 0.2, 0.1]
            ),
            "VehPower": rng.choice(
                np.arange(4, 13), rows, p=[0.17, 0.18, 0.22, 0.2, 0.08, 0.06, 0.05, 0.02, 0.02]
            ),
            "VehAge": rng.gamma(1.6, 4.4, rows).clip(0, 30).round(),
            "VehBrand": rng.choice(
                ["B1", "B2", "B3", "B5", "B12"], rows, p=[0.28, 0.27, 0.11, 0.1, 0.24]
            ),
            "VehGas": rng.choice(["Diesel", "Regular"], rows),
            "DrivAge": age.round(),
            "BonusMalus": malus,
        }
    )
    edges = np.log([50, 100, 500, 2000, 10000])
    policies["Area"] = np.array(list("ABCDEF"))[np.searchsorted(edges, log_density)]
    rate = -2.15 + 0.022 * (malus - 60) + 0.07 * (log_density - 6) + 0.03 * (policies["VehPower"] - 6)
    rate += 0.35 * (age < 24) + 0.25 * (policies["VehBrand"] == "B12") * (policies["VehAge"] < 2)
    rate += 0.15 * (policies["Region"] == "Capital")
    count = rng.poisson(np.exp(rate) * policies["Exposure"])
    mean = 7.1 + 0.5 * (age < 24) + 0.10 * (policies["VehPower"] - 6) - 0.02 * policies["VehAge"]
    row = np.repeat(np.arange(rows), count)
    amount = rng.gamma(1.6, np.exp(mean.to_numpy()[row]) / 1.6)
    large = rng.random(len(row)) < 0.008
    amount[large] = 20_000 * (1 + rng.pareto(2.5, int(large.sum())))
    claims = pd.DataFrame({"IDpol": policies["IDpol"].to_numpy()[row], "ClaimAmount": amount.round(2)})
    return policies, claims


def set_up(work: Path, source: str | Path, rows: int, new: int = 500) -> Portfolio:
    """A folder for each company: table, party file, keys, certificates.

    The insurer gets a table of claims, and `new` policies more to score (new_policies.csv).
    """
    shutil.rmtree(work, ignore_errors=True)
    portfolio, port = load(source, rows + new), local.free_port()
    policies = portfolio.policies
    for number, party in enumerate(PARTIES, 1):
        folder = work / party
        folder.mkdir(parents=True)
        table = policies[COLUMNS[party]].sample(frac=_KNOWN.get(party, 1.0), random_state=number)
        if party == "insurer":
            later = table["IDpol"].isin(policies["IDpol"].iloc[-new:])
            table[later].drop(columns=["ClaimNb", "losses"]).to_csv(
                folder / "new_policies.csv", index=False
            )
            table = table[~later]
            portfolio.claims.to_csv(folder / "claims.csv", index=False)
        table.to_csv(folder / FILES[party], index=False)
        (folder / f"{party}.toml").write_text(party_file(party, port))
    worth = (work / "insurer" / "insurer.toml").read_text()  # the same table, of losses a year
    for counts, losses in (
        ('label = "ClaimNb"\nexposure = "Exposure"', 'label = "losses"\nweight = "Exposure"'),
        ('ignore = ["losses"]', 'ignore = ["ClaimNb"]'),
    ):
        worth = worth.replace(counts, losses)
    (work / "insurer" / "losses.toml").write_text(worth)
    local.exchange_keys({party: work / party for party in PARTIES})
    return Portfolio(policies, portfolio.claims, portfolio.cap)


def party_file(party: str, port: int) -> str:
    """A company's party file."""
    guest = party == "insurer"
    own = [f'name = "{party}"', f'role = "{"guest" if guest else "host"}"', f'identity = "keys/{party}"']
    data = [f'path = "{FILES[party]}"', 'id = "IDpol"', f"categorical = {CATEGORICAL[party]}"]
    peers = [] if guest else ["", "[policy]", *POLICY]
    if guest:
        own.append(f'listen = "127.0.0.1:{port}"')
        data += [
            'label = "ClaimNb"',
            'exposure = "Exposure"',
            'current_premium = "premium"',
            "premium_per_exposure = true",
        ]
        data += ['ignore = ["losses"]']
    for peer in PARTIES:
        if peer != party:
            peers += ["", f"[peers.{peer}]", f'certificate = "peers/{peer}.pem"']
            peers += [f'address = "127.0.0.1:{port}"'] if peer == "insurer" else []
    return "\n".join(["[party]", *own, "", "[data]", *data, *peers, ""])


POLICY = (
    'encryptions = ["paillier", "lattice"]  # guests that are trusted to follow the protocol',
    "worth = true                           # for the time of the talks",
    "oneway = true",
    "show_names = true",
    "max_trees = 100",
    'max_sums_a_row = "unlimited"',
    "max_jobs_a_day = 100",
)
"""What hosts allow beyond the defaults, for this notebook."""
