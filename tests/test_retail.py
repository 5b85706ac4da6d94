"""The retail scenario: tables worth a federation, party files that fit together, its notebook."""

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import lightgbm
import numpy as np
import pandas as pd
import pytest
from commands import command
from notebooks import check_kept_outputs, kept_tables, printed, run_notebook, told_of
from sklearn.metrics import roc_auc_score

from vfl.party.config import load_job, load_party
from vfl.party.policy import widened

ROOT = Path(__file__).resolve().parents[1]
SCENARIO = ROOT / "scenarios" / "retail"
NOTEBOOK = SCENARIO / "next_week.ipynb"
HOSTS = ("eshop", "retailer", "social")
JOBS = ("next-week", "new-households", "next-week-linear")


@pytest.fixture(scope="module")
def demo() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCENARIO))
        import demo
        import make_data

        yield demo
        for module in (demo, make_data):
            sys.modules.pop(module.__name__, None)


@pytest.fixture(scope="module")
def work(demo: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("retail") / "work"
    demo.set_up(made, households=360, weeks=18, trees=7)
    return made


def test_the_maker_writes_the_same_tables_again(work: Path, tmp_path: Path) -> None:
    maker = [sys.executable, SCENARIO / "make_data.py", "--out", tmp_path]
    subprocess.run(maker, check=True, capture_output=True)
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.csv"))
    assert len(files) == 5
    for file in files:
        assert (tmp_path / file).read_bytes() == (work / file).read_bytes(), file


def test_parties_write_one_card_in_ways_of_their_own(demo: ModuleType, work: Path) -> None:
    brand = pd.read_csv(work / "brand" / "weeks.csv")
    assert len(brand) == 6480 and 0.15 < brand["buys"].mean() < 0.35
    ids = set(zip(demo.card(brand["household"]), brand["week"], strict=True))
    shares = {}
    for host, file in demo.TABLES.items():
        table = pd.read_csv(work / host / file)
        own = set(zip(demo.card(table["household"]), table["week"], strict=True))
        assert len(own) == len(table)
        assert not set(table["household"].astype(str)) & set(brand["household"])
        shares[host] = len(own & ids) / len(ids)
    assert shares == {"eshop": 1, "retailer": 1, "social": pytest.approx(1 / 3)}
    assert "buys" not in pd.read_csv(work / "brand" / "next_week.csv").columns


def test_each_holder_adds_something_and_all_most(demo: ModuleType, work: Path) -> None:
    table = demo.pooled(work)
    own = [name for name in table if name in ("campaigns_running", "redeemed_12w")]
    of_host = {
        host: [n for n in pd.read_csv(work / host / file) if n not in demo.KEY]
        for host, file in demo.TABLES.items()
    }

    @cache
    def auc(*hosts: str) -> float:
        columns = table[own + [name for host in hosts for name in of_host[host]]]
        late = (table["week"] >= 23).to_numpy()
        model = lightgbm.LGBMClassifier(
            n_estimators=40, learning_rate=0.1, num_leaves=8, verbose=-1, n_jobs=1
        )
        model.fit(columns[~late], table["buys"][~late])
        return float(roc_auc_score(table["buys"][late], model.predict_proba(columns[late])[:, 1]))

    for host in HOSTS:
        assert auc() + 0.02 < auc(host) < auc(*HOSTS)
    assert auc(*HOSTS) > 0.75


def test_every_host_allows_the_jobs_and_says_what_is_wider(work: Path) -> None:
    for host in HOSTS:
        party = load_party(work / host / f"{host}.toml")
        wider = " ".join(widened(party.policy))
        assert "joins" in wider and "lattice" in wider and "max_sums_a_row" not in wider
        assert ("show_names" in wider) == (host == "retailer")
        assert party.policy.hidden_sums and party.policy.hidden_scores
        for job in JOBS:
            file = str(work / "brand" / f"{job}.toml")
            command("policy", "check", file, str(work / host / f"{host}.toml"), "--guest", "brand").ok()
    trees = [load_job(work / "brand" / f"{job}.toml").secureboost.trees for job in JOBS[:2]]
    assert trees == [7, 7]


def test_the_brands_table_is_in_order_for_its_jobs(work: Path) -> None:
    for job, said in (
        ("next-week", "by time 'week': of its values the first 14 train, the last 4 are held out"),
        ("new-households", "by group 'household': of its values 288 train, 72 are held out"),
    ):
        done = command(
            "doctor", "brand.toml", "--wait", "0", "--job", f"{job}.toml", folder=work / "brand"
        )
        assert said in done.out and "FAIL  table" not in done.out


def test_a_party_file_of_one_holder(demo: ModuleType, work: Path, tmp_path: Path) -> None:
    file = tmp_path / "with-social.toml"
    file.write_text(demo.without(work / "brand" / "brand.toml", {"eshop", "retailer"}))
    party = load_party(file)
    assert list(party.peers) == ["social", "trustee"] and party.align.join == "left"


def test_the_demo_draws_what_it_found(demo: ModuleType, tmp_path: Path) -> None:
    auc = {
        demo.ALONE: {demo.LATER: 0.66},
        demo.ALL: {demo.LATER: 0.78, demo.NEW: 0.77},
        "only on new ones": {demo.NEW: 0.7},
    }
    demo.draw(auc, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert "0.780" in text and "brand alone" in text and "only on new ones" not in text


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VFL_NOTEBOOK_WORK", str(tmp_path / "work"))
    smaller = {
        "weeks=18, trees=None": "weeks=12, trees=2",
        "holders = demo.HOSTS": "holders = demo.HOSTS[:1]",
        'brand = work / "brand"': 'brand = work / "brand"; job = brand / "next-week-linear.toml"\n'
        'job.write_text(job.read_text().replace("tolerance = 1e-3", "tolerance = 5e-2"))',
    }
    shown = printed(run_notebook(NOTEBOOK, smaller))
    assert "social knows 1,440 of the brand's 4,320 rows" in shown and "report.html" in shown
    assert "2 trees: 3,600 rows train, 720 are held out" in shown
    assert (tmp_path / "work" / "brand" / "report" / "report.html").is_file()
    scores = pd.read_csv(tmp_path / "work" / "brand" / "scores.csv")
    assert len(scores) == 360 and np.isfinite(scores["probability"]).all()


def test_the_kept_outputs_are_of_this_notebook() -> None:
    check_kept_outputs(NOTEBOOK, pictures=2)


def test_the_kept_outputs_say_what_messages_reveal() -> None:
    assert {"Offer", "AskedRows", "VectorSums", "TreeCandidates", "MaskSeed"} <= told_of(NOTEBOOK)


def test_the_table_of_the_text_is_that_of_the_notebook() -> None:
    text = (SCENARIO / "README.md").read_text()
    shown = dict(re.findall(r"^│ (.*?) +│ +(0\.\d{3}) │", text, re.M))
    assert len(shown) == 7
    kept = "".join(kept_tables(NOTEBOOK))
    for model, auc in shown.items():
        assert re.search(rf"<th>{re.escape(model)}</th>\s*<td>{auc}</td>", kept), model
