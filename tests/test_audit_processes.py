"""Runs between processes of the program as it is, that all their parties replay."""

import asyncio
import contextlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from federation import HIDDEN_JOB, JOB, WAIT, Federation, ended, toml
from room import HOSTS, Said
from test_drawn_jobs import RULES

from vfl.jobs.certificate import check_certificate, make_certificate
from vfl.jobs.connect import Site
from vfl.jobs.evidence import Evidence, find_evidence
from vfl.jobs.replaying import Replay, replay, runs_named
from vfl.party.config import load_party

ALL = ("insurer", "registry", "bureau", "umpire")
HIDDEN_TREES: dict[str, Any] = {
    **JOB,
    "job": {**JOB["job"], "name": "hidden-trees"},
    "secureboost": {**JOB["secureboost"], "sums": "hidden", "coordinator": "umpire"},
}
PROGRAM = (sys.executable, "-m", "vfl.cli")  # not as `start` has it: there keys draw from elsewhere


@contextlib.contextmanager
def served(
    federation: Federation, names: Sequence[str], tapes: Mapping[str, float] = {}
) -> Iterator[None]:
    """All keep tapes, some of a share, and these serve."""
    parties, guest = federation.parties, federation.guest
    for party in parties.values():
        party.settings["party"]["tape"] = tapes.get(party.name, "all")
    serving = {name: parties[name].start("serve", program=PROGRAM) for name in names}
    for name, running in serving.items():
        lines = "\n".join(running.until("listening on 127.0.0.1:"))
        port = re.search(r"listening on (127.0.0.1:\d+)", lines)
        assert port is not None
        guest.settings["peers"][name]["address"] = port[1]
    yield
    for running in serving.values():
        running.stop()


def certify_all(sites: Mapping[str, Site], name: str, run: Evidence, folder: Path) -> Replay:
    """A party replays a run, and all its peers find that it is all but sums of trees not on its tape."""
    done = asyncio.run(replay(sites[name], run, Said()))
    assert not done.ended
    for peer, shown in done.shown.items():
        path = folder / "certificate.json"
        path.write_bytes(make_certificate(done.evidence, shown, sites[name].identity))
        kinds = {kind for _, kind in check_certificate(sites[peer], path).uncovered}
        assert kinds <= (set() if shown.steps is None else {"MaskedCandidates"})
    return done


@pytest.mark.slow
def test_runs_with_a_coordinator_replay(tmp_path: Path, keys: Path) -> None:
    with ended(Federation(tmp_path, keys, coordinator=True)) as federation:
        guest = federation.guest
        tapes = {"registry": 0.5, "umpire": 0.5}
        with served(federation, ALL[1:], tapes):
            guest.start("align", *WAIT, program=PROGRAM).wait().ok()
            for job in (HIDDEN_JOB, HIDDEN_TREES):
                (guest.folder / "job.toml").write_text(toml(job))
                guest.start("train", "job.toml", *WAIT, program=PROGRAM).wait().ok()
        sites = {name: Site.open(load_party(federation.parties[name].file)) for name in ALL}
        for job in (HIDDEN_JOB, HIDDEN_TREES):
            for name, site in sites.items():
                run = runs_named(site.store, job["job"]["name"])[-1]
                done = certify_all(sites, name, run, tmp_path)
                shares = name == "registry" and job is HIDDEN_TREES
                assert (done.shown.get("insurer", done.shown.get("bureau")).steps is not None) == shares
                assert len(done.shown) == (2 if name in ("registry", "bureau") else 3)


@pytest.mark.slow
def test_batches_tables_and_screenings_replay(tmp_path: Path, keys: Path) -> None:
    with ended(Federation(tmp_path, keys)) as federation:
        guest = federation.guest
        for name in HOSTS:
            federation.parties[name].settings["policy"] |= {**RULES, "show_names": False}
        with served(federation, HOSTS):
            (guest.folder / "job.toml").write_text(toml({**JOB, "screen": {"vif": True}}))
            for command in (
                ["align"],
                ["screen", "job.toml"],
                ["train", "job.toml"],
                ["score", "--model", "claims", "--data", "new.csv", "--out", "scores.csv"],
                ["oneway", "--by", "registry:2", "--model", "claims"],
                ["oneway", "--by", "registry:2", "--by", "bureau:1"],
            ):
                guest.start(*command, *WAIT, program=PROGRAM).wait().ok()
        sites = {name: Site.open(load_party(federation.parties[name].file)) for name in ALL[:3]}
        of_all = ["align", "screen", "train", "score"]
        for name, site in sites.items():
            runs = find_evidence(site.store)
            tables = 1 if name == "bureau" else 2
            assert [run.agreement.terms.task for run in runs] == [*of_all, *["oneway"] * tables]
            for run in runs:
                certify_all(sites, name, run, tmp_path)
