"""Runs with a coordinator, between processes of the program as it is, that all their parties replay."""

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from federation import HIDDEN_JOB, JOB, WAIT, Federation, ended, toml
from room import Said

from vfl.jobs.certificate import check_certificate, make_certificate
from vfl.jobs.connect import Site
from vfl.jobs.replaying import replay, runs_named
from vfl.party.config import load_party

ALL = ("insurer", "registry", "bureau", "umpire")
HIDDEN_TREES: dict[str, Any] = {
    **JOB,
    "job": {**JOB["job"], "name": "hidden-trees"},
    "secureboost": {**JOB["secureboost"], "sums": "hidden", "coordinator": "umpire"},
}
PROGRAM = (sys.executable, "-m", "vfl.cli")  # not as `start` has it: there keys draw from elsewhere


@pytest.mark.slow
def test_runs_with_a_coordinator_replay(tmp_path: Path, keys: Path) -> None:
    with ended(Federation(tmp_path, keys, coordinator=True)) as federation:
        parties, guest = federation.parties, federation.guest
        for party in parties.values():
            party.settings["party"]["tape"] = "all"
        serving = {name: parties[name].start("serve", program=PROGRAM) for name in ALL[1:]}
        for name, running in serving.items():
            lines = "\n".join(running.until("listening on 127.0.0.1:"))
            port = re.search(r"listening on (127.0.0.1:\d+)", lines)
            assert port is not None
            guest.settings["peers"][name]["address"] = port[1]
        guest.start("align", *WAIT, program=PROGRAM).wait().ok()
        for job in (HIDDEN_JOB, HIDDEN_TREES):
            (guest.folder / "job.toml").write_text(toml(job))
            guest.start("train", "job.toml", *WAIT, program=PROGRAM).wait().ok()
        for running in serving.values():
            running.stop()
        sites = {name: Site.open(load_party(parties[name].file)) for name in ALL}
        for job in (HIDDEN_JOB, HIDDEN_TREES):
            for name, site in sites.items():
                run = runs_named(site.store, job["job"]["name"])[-1]
                done = asyncio.run(replay(site, run, Said()))
                assert done.complete and not done.ended
                assert len(done.shown) == (2 if name in ("registry", "bureau") else 3)
                for peer, shown in done.shown.items():
                    path = tmp_path / "certificate.json"
                    path.write_bytes(make_certificate(done.evidence, shown, site.identity))
                    assert check_certificate(sites[peer], path).complete
