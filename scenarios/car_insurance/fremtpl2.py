"""freMTPL2 as three companies: French motor third-party liability policies (CASdatasets; OpenML 41214).

The insurer holds claims, exposure, area, region and density, the registry the car, the bureau the
driver. The count of claims in OpenML's table includes claims without an amount, which leak through the
order of its rows: only those with an amount count here (OpenML 41215 has them). Rows are shuffled,
exposure is capped at one year and the count at 4, as in the literature (Noll, Salzmann, Wüthrich 2020).
"""

import shutil
from pathlib import Path

import pandas as pd

from vfl import local

COLUMNS = {
    "insurer": ["id", "claims", "claim", "Exposure", "Area", "Region", "Density"],
    "registry": ["id", "VehPower", "VehAge", "VehBrand", "VehGas"],
    "bureau": ["id", "DrivAge", "BonusMalus"],
}
CATEGORICAL = {"insurer": ["Area", "Region"], "registry": ["VehBrand", "VehGas"], "bureau": []}
FILES = {"insurer": "policies.csv", "registry": "vehicles.csv", "bureau": "drivers.csv"}
POLICIES = {"registry": ["show_names = true"], "bureau": []}  # all else as by default
HERE = Path(__file__).parent


def load(source: str | Path) -> pd.DataFrame:
    """All policies with clean counts, in random order.

    `source`: "openml" (needs the network), or a folder with policies.parquet, whose ClaimNb counts
    claims with an amount already and whose rows are in random order.
    """
    if str(source) == "openml":
        from sklearn.datasets import fetch_openml

        policies = fetch_openml(data_id=41214, as_frame=True).data
        amounts = fetch_openml(data_id=41215, as_frame=True).data
        paid = amounts.groupby(amounts["IDpol"].astype(int)).size()
        policies["ClaimNb"] = policies["IDpol"].astype(int).map(paid).fillna(0)
        policies = policies.sample(frac=1, random_state=0)
    else:
        policies = pd.read_parquet(Path(source) / "policies.parquet")
    policies["id"] = policies["IDpol"].astype(int).astype(str)
    policies["claims"] = policies["ClaimNb"].clip(upper=4).astype(int)
    policies["claim"] = (policies["claims"] > 0).astype(int)
    policies["Exposure"] = policies["Exposure"].clip(upper=1)
    return policies.reset_index(drop=True)


def split(policies: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Each company's table, in an order of its own."""
    return {
        party: policies[names].sample(frac=1, random_state=1 + number, ignore_index=True)
        for number, (party, names) in enumerate(COLUMNS.items())
    }


def set_up(work: Path, source: str | Path, rows: int, new: int = 1_000) -> None:
    """A folder for each company, as the demo makes them: table, party file, keys, certificates, job.

    The insurer gets `new` policies more, without labels, to score (new_policies.csv).
    """
    shutil.rmtree(work, ignore_errors=True)
    policies = load(source).head(rows + new)
    port = local.free_port()
    for party, table in split(policies).items():
        folder = work / party
        folder.mkdir(parents=True)
        if party == "insurer":
            later = table["id"].isin(policies["id"].iloc[-new:])
            table[later].drop(columns=["claims", "claim"]).to_csv(
                folder / "new_policies.csv", index=False
            )
            table = table[~later]
        table.to_csv(folder / FILES[party], index=False)
        (folder / f"{party}.toml").write_text(party_file(party, port))
    shutil.copy(HERE / "insurer" / "claim-probability.toml", work / "insurer")
    local.exchange_keys({party: work / party for party in COLUMNS})


def party_file(party: str, port: int) -> str:
    """A company's party file. The label is whether there was a claim."""
    guest = party == "insurer"
    own = [f'name = "{party}"', f'role = "{"guest" if guest else "host"}"', f'identity = "keys/{party}"']
    data = [f'path = "{FILES[party]}"', 'id = "id"', f"categorical = {CATEGORICAL[party]}"]
    peers = [] if guest else ["", "[policy]", *POLICIES[party]]
    if guest:
        own.append(f'listen = "127.0.0.1:{port}"')
        data += ['label = "claim"', 'ignore = ["claims"]']
    for peer in COLUMNS:
        if peer != party:
            peers += ["", f"[peers.{peer}]", f'certificate = "peers/{peer}.pem"']
            peers += [f'address = "127.0.0.1:{port}"'] if peer == "insurer" else []
    return "\n".join(["[party]", *own, "", "[data]", *data, *peers, ""])
