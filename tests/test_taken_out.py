"""An encryption that earlier versions had: who still names it is told, and models made under it stay."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_tables import quick, small

import vfl
from vfl.errors import ConfigError
from vfl.estimators import saved
from vfl.party.config import load_job, load_party, schema
from vfl.party.documents import canonical_json, document

WHY = '"ou" (Okamoto-Uchiyama) was taken out in this version: it needs trust in both directions'
JOB_FILE = """
[job]
name = "claims"
purpose = "a test"
model = "secureboost"
objective = "binary"
[secureboost]
encryption = "ou"
"""
PARTY_FILE = (Path(__file__).parent / "stores" / "v1" / "registry" / "registry.toml").read_text()


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(("model", "label"), [("secureboost", "objective"), ("glm", "family")])
def test_a_job_file_is_told(tmp_path: Path, model: str, label: str) -> None:
    text = JOB_FILE.replace("secureboost", model).replace('objective = "binary"', f'{label} = "poisson"')
    with pytest.raises(ConfigError) as caught:
        load_job(written(tmp_path, "claims.toml", text))
    said = f'claims.toml: [{model}] encryption must be "paillier" or "lattice": {WHY}'
    assert str(caught.value) == said
    assert load_job(written(tmp_path, "claims.toml", text.replace('"ou"', '"lattice"')))


@pytest.mark.parametrize("listed", ['["paillier", "ou"]', '["ou"]', '["ou", "lattice"]'])
def test_a_party_file_is_told(tmp_path: Path, listed: str) -> None:
    text = PARTY_FILE.replace('["paillier", "ou"]', listed)
    with pytest.raises(ConfigError) as caught:
        load_party(written(tmp_path, "registry.toml", text))
    said = f'registry.toml: [policy] encryptions must be a list of "paillier" or "lattice": {WHY}'
    assert str(caught.value) == said


def test_a_policy_allows_paillier_alone_unless_it_says_more(tmp_path: Path) -> None:
    text = PARTY_FILE.replace('encryptions = ["paillier", "ou"]', "")
    assert load_party(written(tmp_path, "registry.toml", text)).policy.encryptions == ("paillier",)


def test_no_schema_has_it() -> None:
    for kind in ("party", "job"):
        assert '"lattice"' in json.dumps(schema(kind))
        assert '"ou"' not in json.dumps(schema(kind))


def test_an_estimator_is_told() -> None:
    insurer, y, hosts = small()
    with pytest.raises(ConfigError, match=r"^encryption='ou': must be .*taken out in this"):
        quick(encryption="ou").fit(insurer, y, hosts=hosts)


def test_an_estimator_that_was_saved_predicts(tmp_path: Path) -> None:
    """It is told where it is to be fitted again."""
    insurer, y, hosts = small()
    model = quick(hosts=hosts).fit(insurer, y)
    path = tmp_path / "model.json"
    model.save(path)
    body = json.loads(path.read_text())["body"]
    body["parameters"]["encryption"] = "ou"
    path.write_bytes(document(saved.FORMAT, saved.VERSION, canonical_json(body)))
    again = vfl.load(path).set_params(hosts=hosts)
    assert np.array_equal(again.predict_proba(insurer), model.predict_proba(insurer))
    with pytest.raises(ConfigError, match="taken out in this version"):
        again.fit(insurer, y)
    assert np.array_equal(
        again.set_params(encryption="paillier").fit(insurer, y).predict_proba(insurer),
        model.predict_proba(insurer),
    )
