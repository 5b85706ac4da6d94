"""Fitted estimators as files: bit for bit the same predictions, no table, no code."""

import json
import stat

import numpy as np
import pandas as pd
import pytest
from small_tables import alone, pooled_claims, quick, small

import vfl
from vfl.errors import DataError, InputError, ModelError
from vfl.estimators import saved
from vfl.party.documents import canonical_json, document


def fitted():
    """A model of each kind with its guest's table and its hosts'."""
    insurer, y, hosts = small()
    lender = hosts["lender"].assign(debt=lambda t: t["debt"].where(t.index != "id 3"))
    text = np.where(y == 1, "yes", "no")
    yield quick(trees=4, depth=3, min_child_rows=1, hosts={**hosts, "lender": lender}).fit(insurer, text)
    yield quick(monotone={"guest": {"age": "increasing"}}, hosts=hosts).fit(insurer, y == 1)
    yield alone(seed=3, random_state=None).fit(insurer.to_numpy(), y * 1.0)
    yield alone(random_state=np.random.RandomState(3), subsample=0.5).fit(insurer, y - 5)
    insurer, y, hosts, years = pooled_claims(120)
    tweedie = vfl.SecureBoostRegressor(objective="tweedie", tweedie_power=1.3, trees=3, hosts=hosts)
    yield tweedie.fit(insurer, y, offset=np.log(years))
    rules = {"lender": {"binned": ("debt",), "bins": 3}, "guest": {"missing": "level"}}
    yield vfl.FederatedGLM(family="poisson", hosts=hosts, rules=rules).fit(insurer, y, exposure=years)
    yield vfl.FederatedLogisticRegression(hosts=hosts, alpha=0.1).fit(insurer, y > 0)


@pytest.mark.parametrize("number", range(7))
def test_a_loaded_model_is_the_saved_one(number, tmp_path):
    model = list(fitted())[number]
    path = tmp_path / "model.json"
    model.save(path)
    again = vfl.load(str(path))
    assert type(again) is type(model) and type(type(model).load(path)) is type(model)
    insurer, _, hosts = small()
    X = insurer if hasattr(model, "feature_names_in_") else insurer.to_numpy()
    known = {name: hosts[name] for name in model.halves_}
    given = {"offset": np.linspace(0, 1, 80)} if getattr(model, "with_offset_", False) else {}
    assert np.array_equal(again.predict(X, known, **given), model.predict(X, known, **given))
    assert np.array_equal(again.decision_function(X, known), model.decision_function(X, known))
    assert again.hosts is None
    assert np.array_equal(
        again.set_params(hosts=known).decision_function(X), model.decision_function(X, known)
    )
    for name in ("model_", "halves_", "n_aligned_", "n_features_in_", "traffic_", "train_log_"):
        assert getattr(again, name) == getattr(model, name), name
    before, after = model.get_params(), again.get_params()
    for name in ("hosts", "random_state"):
        before.pop(name, None), after.pop(name, None)
    assert json.dumps(after, sort_keys=True) == json.dumps(before, sort_keys=True)
    assert list(again.halves_) == list(model.halves_)
    for name in ("classes_", "feature_names_in_", "feature_importances_"):
        assert hasattr(again, name) == hasattr(model, name)
        if hasattr(model, name):
            assert np.array_equal(getattr(again, name), getattr(model, name))
            assert getattr(again, name).dtype.kind == getattr(model, name).dtype.kind
    if hasattr(model, "coef_"):
        for party, coefficients in model.coef_.items():
            pd.testing.assert_series_equal(again.coef_[party], coefficients)
            pd.testing.assert_frame_equal(again.relativities_[party], model.relativities_[party])
        assert (again.intercept_, again.converged_) == (model.intercept_, model.converged_)
    # Saved again it is the same file.
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"id 3" not in path.read_bytes()


def test_a_loaded_model_can_be_fitted_anew(tmp_path):
    insurer, y, hosts = small()
    model = quick(hosts=hosts, normalise=["upper"], id={"guest": None, "lender": None, "registry": None})
    model.fit(insurer, y).save(tmp_path / "m")
    again = vfl.load(tmp_path / "m").fit(insurer, y, hosts=hosts)
    assert np.array_equal(again.decision_function(insurer, hosts), model.decision_function(insurer))
    assert again.aligned_.tolist() == model.aligned_.tolist()


def test_a_class_of_its_own_is_loaded_as_such(tmp_path):
    class Claims(vfl.SecureBoost):
        pass

    insurer, y, _ = small()
    Claims(hosts={}, trees=1).fit(insurer, y).save(tmp_path / "m")
    assert type(Claims.load(tmp_path / "m")) is Claims
    assert type(vfl.load(tmp_path / "m")) is vfl.SecureBoost
    with pytest.raises(ModelError, match="m holds a SecureBoost, where a FederatedGLM is due"):
        vfl.FederatedGLM.load(tmp_path / "m")


def rewritten(path, change) -> None:
    """The file with a changed body and the right digest."""
    body = json.loads(path.read_bytes())["body"]
    change(body)
    path.write_bytes(document(saved.FORMAT, saved.VERSION, canonical_json(body)))


def deeper(tree: dict) -> None:
    """The rightmost leaf of a tree, many levels down."""
    node = 0
    for _ in range(13):
        tree["leaves"].pop(str(node), None)
        tree["branches"][str(node)] = next(iter(tree["branches"].values()))
        tree["leaves"][str(2 * node + 1)] = 0.0
        node = 2 * node + 2
    tree["leaves"][str(node)] = 0.0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda b: b.pop("model"), "damaged: .*required field `model`"),
        (
            lambda b: b.update(estimator="Forest"),
            "of an estimator that this version of vfl does not know",
        ),
        (lambda b: b["parameters"].update(hosts={}), "parameters that the estimator lacks"),
        (lambda b: b["parameters"].update(n_estimators=1), "parameters that the estimator lacks"),
        (lambda b: b["halves"].pop("lender"), "it lacks the half of a party"),
        (lambda b: b["columns"].pop("lender"), "it does not have the columns of every party"),
        (lambda b: b.update(classes=None), "its classes are not those of its kind"),
        (lambda b: b.update(objective="gaussian"), "it has no objective of its kind"),
        (lambda b: b["model"]["trees"][0]["leaves"].popitem(), "a tree is not whole"),
        (lambda b: deeper(b["model"]["trees"][0]), "a tree is not whole"),
        (lambda b: b["halves"]["lender"].update(splits=[]), "a tree is not whole"),
        (lambda b: b["categorical"]["lender"].update(debt=True), "categorical in one place and numeric"),
        (lambda b: b["categorical"]["lender"].pop("debt"), "damaged: 'debt'"),
        (lambda b: b["model"].update(start="0"), r"damaged: Expected `float`, got `str`"),
        (lambda b: b.update(tweedie_power=7, objective="tweedie"), "damaged: the power of Tweedie"),
        (lambda b: b["classes"].update(values=[1]), "damaged: "),
    ],
)
def test_damaged_models_are_refused(change, text, tmp_path):
    insurer, y, hosts = small()
    path = tmp_path / "m"
    hosts = {"lender": hosts["lender"]}
    model = quick(hosts=hosts, depth=3, trees=2, min_child_rows=1)
    model.fit(insurer, y).save(path)
    rewritten(path, change)
    with pytest.raises(ModelError, match=text):
        vfl.load(path)


def test_a_model_of_before_guest_trees_is_loaded(tmp_path):
    insurer, y, hosts = small()
    path = tmp_path / "m"
    model = quick(hosts=hosts, guest_trees=1, trees=2).fit(insurer, y)
    for kept, trees in (("guest", 1), ("joint", 0)):
        model.save(path)

        def older(body: dict, kept: str = kept) -> None:
            del body["parameters"]["guest_trees"]
            body["parameters"]["first_tree"] = kept

        rewritten(path, older)
        again = vfl.load(path)
        assert again.guest_trees == trees and "first_tree" not in again.get_params()
        assert np.array_equal(again.decision_function(insurer, hosts), model.decision_function(insurer))


def test_other_files_are_refused(tmp_path):
    insurer, y, _ = small()
    path = tmp_path / "m"
    with pytest.raises(ModelError, match=f"no file {path}"):
        vfl.load(path)
    alone().fit(insurer, y).save(path)
    whole = path.read_bytes()
    for content, text in (
        (b"{", "is damaged: it is no valid JSON"),
        (b"[]", "was not written by save"),
        (b'{"format":"vfl/model"}', "was not written by save"),
        (
            whole.replace(b'"version":1', b'"version":2'),
            "was written by a newer vfl: update vfl to read",
        ),
        (whole.replace(b'"trees":1', b'"trees":2'), "is damaged: its content does not match its digest"),
        (whole[: len(whole) // 2], "is damaged: it is no valid JSON"),
    ):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=text):
            vfl.load(path)
    with pytest.raises(ModelError, match="cannot be read"):
        vfl.load(tmp_path)
    with pytest.raises(InputError, match="a path is due, not int"):
        vfl.load(5)
    with pytest.raises(DataError, match="cannot be written: No such file"):
        alone().fit(insurer, y).save(tmp_path / "none" / "m")
    with pytest.raises(InputError, match="a path is due, not NoneType"):
        alone().fit(insurer, y).save(None)
