"""Inference on the command line: a process for every party, real sockets and certificates."""

from pathlib import Path

import numpy as np
from federation import GLM_JOB, Federation, private_words
from test_glm_jobs import latest, parts

from vfl.jobs.alignments import load_alignment
from vfl.jobs.policy_check import examine_policy
from vfl.party.config import load_job, load_party
from vfl.party.store import Store
from vfl.report.page import PAGE

JOB = {**GLM_JOB, "glm": {**GLM_JOB["glm"], "encryption": "lattice", "inference": True}}


def test_each_party_has_the_errors_of_its_own_columns(keys: Path, tmp_path: Path) -> None:
    made = Federation(tmp_path, keys)
    hosts = ("registry", "bureau")
    for host in hosts:
        rules = {"encryptions": ["lattice"], "inference": True, "told_columns": 4}
        made.parties[host].settings["policy"] |= rules
    try:
        insurer = made.serve().guest
        insurer.align().ok()
        far = {**JOB, "glm": {**JOB["glm"], "max_leverage": 0.001}}
        insurer.train(far).failed(3, "makes single rows stand out, with a leverage of 0.0")
        trained = insurer.train(JOB).ok().json
        refused = insurer.train(JOB)
        said = "1 column of the guest's, after 4 of earlier jobs, breaks rule told_columns = 4"
        refused.failed(9, said)
        registry, job = load_party(made.parties["registry"].file), load_job(insurer.folder / "job.toml")
        assert said in "".join(examine_policy(registry, job, "insurer", None).broken)
        found = [*parts(made, insurer, trained["model"])]
        shown = []
        for party in (insurer, *(made.parties[host] for host in hosts)):
            shown.append(party.run("relativities", "--model", trained["model"], "--json").ok().json)
            out = tmp_path / f"report-{party.folder.name}"
            party.run("report", "--model", trained["model"], "--out", str(out)).ok()
            assert "Type III tests of whole columns" in (out / PAGE).read_text()
            assert "relativity_low" in (out / "relativities.csv").read_text()
            party.processes[-2].own = [cell for cell in private_words(made.tables) if cell.isalnum()]
    finally:
        made.close()
    rows = load_alignment(Store(insurer.store), latest(insurer)).rows
    train = np.random.default_rng([0, 1]).random(len(made.tables["insurer"]["claim"]))[rows] >= 0.25
    dense = np.hstack([np.ones((len(rows), 1)), *(matrix for _, matrix, _ in found)])[train]
    beta = np.concatenate([[found[0][0].model.intercept], *(one for _, _, one in found)])
    mean = 1 / (1 + np.exp(-dense @ beta))
    information = dense.T @ ((mean * (1 - mean))[:, None] * dense)
    expected = np.sqrt(np.diag(np.linalg.inv(information)))
    errors = np.concatenate([half.model.inference.errors for half, _, _ in found])
    np.testing.assert_allclose(errors, expected, rtol=1e-6)
    for told in shown:
        assert {"standard_error", "p_value", "relativity_low"} <= told["relativities"][0].keys()
        assert told["tests"]
    assert any(note.startswith("AIC") for note in shown[0]["notes"]) and not shown[1]["notes"]
