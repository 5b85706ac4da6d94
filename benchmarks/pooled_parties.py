"""Jobs over rows between processes: freMTPL2 by rows at several insurers and a server, over TLS.

    python benchmarks/pooled_parties.py
    python benchmarks/pooled_parties.py --rows 100000 --insurers 3 --trees 20 --json

Claim frequency with its exposure (Poisson): a linear model, then trees, each a command of the server
while the insurers serve. Seconds are of the whole command, from start to end, with the reading of all
tables, and of the trees without what comes before the first one, as an insurer's record has them. What
each is worth: deviance explained on the rows that the insurers held out. Data: see benchmarks/README.md.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from parties import DATA, check_data, tell
from parties import scenario as fremtpl2
from pooled_trees import CATEGORIES, NUMBERS

from vfl import local
from vfl.jobs.record import load_record
from vfl.party.store import Store

COLUMNS = [*NUMBERS, *CATEGORIES]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rows", type=int, help="all by default")
    parser.add_argument("--insurers", type=int, default=4)
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    check_data(options.data)
    policies = fremtpl2.load(options.data / "freMTPL2").head(options.rows)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(policies, options, Path(folder))
    tell(
        options, f"freMTPL2, {len(policies):,} rows at {options.insurers} insurers and a server", figures
    )


def measure(policies: pd.DataFrame, options: argparse.Namespace, work: Path) -> dict:
    """All figures, by name."""
    insurers = [f"insurer{number}" for number in range(1, options.insurers + 1)]
    lay_out(policies, insurers, work)
    trees = f"[secureboost]\ntrees = {options.trees}\ndepth = {options.depth}\nlearning_rate = 0.1\n"
    jobs = {"linear": ("glm", "family", ""), "trees": ("secureboost", "objective", trees)}
    figures: dict = {"rows": len(policies), "trees": options.trees}
    with local.serving({name: work / name for name in insurers}):
        for job, (model, label, settings) in jobs.items():
            write_job(policies, work / "server" / f"{job}.toml", (job, model, label), settings)
            started = time.monotonic()
            told = local.run(work / "server", "train", "server.toml", f"{job}.toml")
            figures[f"{job}, seconds of the command"] = time.monotonic() - started
            record, _ = load_record(Store(work / insurers[0] / "vfl-store"), told["model"])
            if job == "trees":
                figures["trees, seconds of all trees"] = sum(
                    phases["whole tree"] for phases in record.phases
                )
            figures[f"{job}, MB sent by an insurer"] = sum(record.account.sent.values()) / 1e6
            figures[f"{job}, deviance explained"] = record.metrics["federation"]["d2"]
            figures[f"{job}, deviance explained alone"] = record.metrics[f"{insurers[0]} alone"]["d2"]
    return figures


def lay_out(policies: pd.DataFrame, insurers: list[str], work: Path) -> None:
    """A folder for each: keys, tables, party files."""
    port, every = local.free_port(), [*insurers, "server"]
    owner = np.random.default_rng(0).integers(0, len(insurers), len(policies))
    table = policies[["claims", "Exposure", *COLUMNS]].reset_index(drop=True)
    table[CATEGORIES] = table[CATEGORIES].astype(str)
    table.insert(0, "id", [f"P{number}" for number in range(len(table))])
    for name in every:
        (work / name).mkdir()
    local.exchange_keys({name: work / name for name in every})
    for number, name in enumerate(insurers):
        table[owner == number].to_parquet(work / name / "policies.parquet")
        peers = [peer("server", f'address = "127.0.0.1:{port}"\nrole = "coordinator"')]
        peers += [peer(other, 'role = "client"') for other in insurers if other != name]
        data = '[data]\npath = "policies.parquet"\nid = "id"\nlabel = "claims"\nexposure = "Exposure"\n'
        policy = "[policy]\nmin_parties = 2\nmax_trees = 5000\n"
        write_party(work, name, "guest", "", data + policy + "".join(peers))
    listen = f'listen = "127.0.0.1:{port}"\n'
    write_party(work, "server", "coordinator", listen, "".join(peer(name, "") for name in insurers))


def peer(name: str, more: str) -> str:
    return f'[peers.{name}]\ncertificate = "peers/{name}.pem"\n{more}\n'


def write_party(work: Path, name: str, role: str, listen: str, more: str) -> None:
    own = f'[party]\nname = "{name}"\nrole = "{role}"\nidentity = "keys/{name}"\n{listen}'
    (work / name / f"{name}.toml").write_text(own + more)


def write_job(policies: pd.DataFrame, file: Path, said: tuple[str, str, str], settings: str) -> None:
    """A job file; levels are those of all rows."""
    name, model, label = said
    job = f'[job]\nname = "{name}"\npurpose = "a benchmark"\nmodel = "{model}"\n{label} = "poisson"\n'
    job += 'partition = "rows"\nholdout = 0.2\nexposure = true\n'
    for column in NUMBERS:
        job += f'[columns.{column}]\ntype = "number"\n'
    for column in CATEGORIES:
        levels = ", ".join(f'"{level}"' for level in sorted(set(policies[column].astype(str))))
        job += f'[columns.{column}]\ntype = "category"\nlevels = [{levels}]\n'
    file.write_text(job + settings)


if __name__ == "__main__":
    main()
