"""A host's rules against what a guest asks for, and what it counts by the day."""

import datetime
import json
import multiprocessing
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vfl.errors import ConfigError, ModelError, Refused
from vfl.jobs.admission import fresh_name
from vfl.leakage.estimate import estimate
from vfl.learn.params import BoostParams
from vfl.party.config import Job, load_party
from vfl.party.policy import (
    LIMITS,
    OVER_ROWS,
    Usage,
    allowed_columns,
    broken_by_job,
    broken_by_pool,
    check_age,
    check_align,
    check_batch,
    check_intersection,
    check_job,
    check_repeats,
    check_score,
    last_day,
    widened,
)
from vfl.party.policy_section import PolicySection
from vfl.party.store import Store

DAY = datetime.date(2027, 6, 30)


def job(model: str = "secureboost", purpose: str = "motor pricing 2027", **settings: Any) -> Job:
    family = settings.pop("family", "poisson")
    label = {"objective": "binary"} if model == "secureboost" else {"family": family}
    section = {"name": "claims", "purpose": purpose, "model": model, **label}
    return Job.model_validate({"job": section, model: settings})


def rules(**keys: Any) -> PolicySection:
    return PolicySection.model_validate(keys)


def party_file(folder: Path, line: str) -> Path:
    """A host's with a line under [policy]."""
    path = folder / "p.toml"
    path.write_text(
        '[party]\nname = "registry"\nrole = "host"\nidentity = "k"\n[data]\npath = "t.csv"\nid = "id"\n'
        f'[policy]\n{line}\n[peers.insurer]\naddress = "a:1"\ncertificate = "c"\n'
    )
    return path


def test_jobs_by_default_are_allowed_by_default() -> None:
    for model in ("secureboost", "glm"):
        check_job(PolicySection(), job(model), "insurer", DAY)
    check_align(PolicySection(), "insurer", DAY)
    check_score(PolicySection(), "insurer", DAY)
    check_batch(PolicySection(), 100)
    check_intersection(PolicySection(), 1000)
    check_intersection(PolicySection(), 10**7)
    check_repeats(PolicySection(), 1)
    # Of so many rows a job tells no more than max_sums_a_row.
    sums = estimate(34_000, BoostParams(), known=round(0.8 * 34_000))
    assert sums.equations_a_row <= PolicySection().max_sums_a_row


def test_the_defaults_are_what_the_document_recommends() -> None:
    document = (Path(__file__).parents[1] / "docs" / "security.md").read_text()
    (default, own) = re.findall(r"```toml\n(.*?)```", document, re.S)
    said = tomllib.loads(default)["policy"]
    assert PolicySection.model_validate(said) == PolicySection()
    # What has no default but everything is for the owner to add; min_bin_rows follows min_child_rows.
    left = {"guests", "purposes", "models", "objectives", "columns", "expires", "min_bin_rows"}
    left |= {"auditor"}
    assert set(said) == PolicySection.model_fields.keys() - left
    assert all(getattr(PolicySection(), key) is None for key in left)
    added = tomllib.loads(own)["policy"]
    PolicySection.model_validate(added)
    assert set(added) == left - {"min_bin_rows"}
    for key in said:
        assert re.search(rf"^{key} = .* # \w", default, re.M), key  # why


LIMITED = [key for key in PolicySection.model_fields if key.startswith("max_")] + ["alignment_days"]


@pytest.mark.parametrize("key", LIMITED)
def test_a_limit_is_a_number_or_unlimited(tmp_path: Path, key: str) -> None:
    for value in ("unlimited", 7):
        assert getattr(rules(**{key: value}), key) == value
    written = PolicySection.model_validate_json(json.dumps({key: "unlimited"}))
    assert written.model_dump(mode="json")[key] == "unlimited"
    fraction = key in ("max_sums_a_row", "max_leverage")
    number = "a number above 0" if fraction else "a whole number of at least 1"
    for value in ('"none"', '""', '"Unlimited"', "0", "-1", "true", "[]", "inf", "nan"):
        line = f"{key} = {value}"
        said = f'[policy] {key} must be {number} or "unlimited"'
        with pytest.raises(ConfigError, match=re.escape(said) + "$"):
            load_party(party_file(tmp_path, line))
    load_party(party_file(tmp_path, f'{key} = "unlimited"'))
    schema = PolicySection.model_json_schema()["properties"][key]
    assert {"const": "unlimited"} in schema["anyOf"]


def test_without_limit_anything_goes(tmp_path: Path) -> None:
    policy = rules(**dict.fromkeys(LIMITED, "unlimited"))
    check_job(policy, job(trees=5000), "insurer", DAY)
    check_job(policy, job("glm", max_iterations=10_000), "insurer", DAY)
    check_repeats(policy, 10**6)
    check_age(policy, "a1", datetime.date.min, DAY)
    for what in LIMITS:
        Usage(Store(tmp_path)).count(policy, "insurer", what, 10**12, DAY)
    assert policy.days_of_use is None and rules(alignment_days=3).days_of_use == 3


def test_what_is_wider_than_by_default_is_named() -> None:
    assert widened(PolicySection()) == []
    narrower = {"min_child_rows": 30, "max_trees": 5, "engines": ["ot"], "scoring": False}
    assert widened(rules(**narrower, hidden_sums=True, guests=["insurer"], key_bits=4096)) == []
    assert widened(rules(max_trees=60, alignment_days="unlimited", min_child_rows=5, explain=True)) == [
        'alignment_days = "unlimited" (by default 365)',
        "min_child_rows = 5 (by default 20)",
        "max_trees = 60 (by default 50)",
        "explain = true (by default false)",
    ]
    assert widened(rules(min_bin_rows=3, joins=["left"])) == [
        'joins = ["left"] (by default ["inner"])',
        "min_bin_rows = 3 (by default 20)",
    ]


def test_a_job_of_several_fits_is_told_which_settings_let_it_in() -> None:
    """A job with alphas and a profile: 100 steps in each fit, of which a default policy allows 2,000 in
    all."""

    def said(policy: PolicySection, which: Job) -> str:
        with pytest.raises(Refused) as refused:
            check_job(policy, which, "insurer", DAY)
        return str(refused.value)

    settings = {"alphas": [0.1, 0.01, 0.001], "profile": True, "family": "negative_binomial"}
    several, fits = job("glm", **settings), 1 + 3 * 5 + 10
    told = said(rules(), several)
    assert told.startswith(f"2,600 iterations, 100 (max_iterations in [glm]) in each of {fits} fits")
    ways = "name fewer alphas or folds or leave profile out"
    assert f"set max_iterations = {2000 // fits} in [glm] or {ways}" in told
    assert f"the host sets max_iterations = {100 * fits} there" in told
    check_job(rules(), job("glm", max_iterations=2000 // fits, **settings), "insurer", DAY)
    check_job(rules(max_iterations=100 * fits), several, "insurer", DAY)
    assert "set max_iterations" not in said(rules(max_iterations=3), several)
    alone = job("glm", profile=True, family="negative_binomial")
    told = said(rules(max_iterations=100), alone)
    assert "set max_iterations = 9 in [glm] or leave profile out" in told


def test_three_penalties_and_a_policy_that_say_nothing_of_iterations_go_together() -> None:
    check_job(rules(), job("glm", alphas=[0.1, 0.01, 0.001]), "insurer", DAY)
    check_job(rules(), job("glm", profile=True, family="negative_binomial"), "insurer", DAY)


TREES, LINEAR = job(trees=40, min_child_rows=25), job("glm", max_iterations=50)
SEVERAL = job("glm", max_iterations=50, alphas=[0.1, 0.01], folds=3)
HIDDEN = job("glm", scores="hidden", coordinator="umpire")


@pytest.mark.parametrize(
    ("kept", "broken", "which", "said"),
    [
        ({"guests": ["insurer"]}, {"guests": ["bank"]}, TREES, "the guest insurer"),
        (
            {"purposes": ["x", "motor * 20??", "motor pricing*"]},
            {"purposes": ["motor", "pricing", "MOTOR *", "motor pricing 202?", "[m]otor*"]},
            TREES,
            'purpose = "motor pricing 2027"',
        ),
        ({"models": ["glm", "secureboost"]}, {"models": ["glm"]}, TREES, 'model = "secureboost"'),
        ({"models": ["glm"]}, {"models": ["secureboost"]}, LINEAR, 'model = "glm"'),
        ({"objectives": ["binary"]}, {"objectives": ["logistic"]}, TREES, 'objective = "binary"'),
        ({"objectives": ["poisson"]}, {"objectives": ["gamma"]}, LINEAR, 'family = "poisson"'),
        ({"min_child_rows": 25}, {"min_child_rows": 26}, TREES, "min_child_rows = 25"),
        ({"key_bits": 2048}, {"key_bits": 3072}, TREES, "key_bits = 2048"),
        ({"key_bits": 2048}, {"key_bits": 3072}, LINEAR, "key_bits = 2048"),
        ({"max_trees": 40}, {"max_trees": 39}, TREES, "trees = 40"),
        ({"max_iterations": 50}, {"max_iterations": 49}, LINEAR, "max_iterations = 50"),
        (
            {"exact_zeros": True},
            {"exact_zeros": False},
            job("glm", max_iterations=50, alpha=0.1, l1_ratio=0.5),
            "l1_ratio = 0.5",
        ),
        (
            {"max_iterations": 350},
            {"max_iterations": 349},
            SEVERAL,
            "350 iterations, 50 (max_iterations in [glm]) in each of 7 fits",
        ),
        ({"hidden_sums": False}, {"hidden_sums": True}, TREES, 'sums = "open"'),
        ({"hidden_scores": False}, {"hidden_scores": True}, LINEAR, 'scores = "guest"'),
    ],
)
def test_each_rule_of_training_at_its_limit(
    kept: dict[str, Any], broken: dict[str, Any], which: Job, said: str
) -> None:
    check_job(rules(**kept), which, "insurer", DAY)
    with pytest.raises(Refused) as refused:
        check_job(rules(**broken), which, "insurer", DAY)
    (rule,) = broken
    assert re.fullmatch(
        rf"{re.escape(said)} breaks rule {rule} = [^;]+ of \[policy\]: (.* )?the host [a-z].*",
        str(refused.value),
    )
    assert refused.value.for_peer == str(refused.value)


def test_rules_of_one_kind_of_model_are_not_those_of_the_other() -> None:
    check_job(rules(max_trees=1, min_child_rows=500, hidden_scores=True), HIDDEN, "insurer", DAY)
    check_job(rules(max_iterations=1, hidden_scores=True), TREES, "insurer", DAY)


def test_all_broken_rules_are_named_at_once() -> None:
    policy = rules(
        guests=["bank"], purposes=["x*"], max_trees=5, min_child_rows=500, expires=DAY, models=["glm"]
    )
    broken = broken_by_job(policy, TREES, "insurer", DAY + datetime.timedelta(1))
    assert [re.search(r"breaks rule (\w+)", rule)[1] for rule in broken] == [
        "expires",
        "guests",
        "purposes",
        "models",
        "min_child_rows",
        "max_trees",
    ]
    with pytest.raises(Refused, match=re.escape("; ".join(broken))):
        check_job(policy, TREES, "insurer", DAY + datetime.timedelta(1))
    assert len(broken_by_job(policy, TREES, None, DAY)) == len(broken) - 2  # no guest, the last day


def test_rules_of_every_task() -> None:
    after = DAY + datetime.timedelta(1)
    for check in (check_align, check_score):
        check(rules(guests=["insurer"], expires=DAY), "insurer", DAY)
        with pytest.raises(Refused, match="the day 2027-07-01 breaks rule expires = 2027-06-30 of"):
            check(rules(expires=DAY), "insurer", after)
        with pytest.raises(Refused, match=r'breaks rule guests = \["bank"\] of \[policy\]'):
            check(rules(guests=["bank"]), "insurer", DAY)
    with pytest.raises(Refused, match="scoring breaks rule scoring = false of"):
        check_score(rules(scoring=False), "insurer", DAY)
    check_align(rules(scoring=False), "insurer", DAY)


def test_rows_of_alignments_and_batches() -> None:
    policy = rules(min_intersection=5, max_intersection=10, min_scored_rows=3)
    for rows in (5, 10):
        check_intersection(policy, rows)
    for rows in (0, 3, 100):  # of no row nothing is told
        check_batch(policy, rows)
    for check, rows, rule in (
        (check_intersection, 4, "min_intersection = 5"),
        (check_intersection, 11, "max_intersection = 10"),
        (check_batch, 2, "min_scored_rows = 3"),
    ):
        with pytest.raises(Refused, match=rf"of {rows} rows .*breaks rule {rule} of"):
            check(policy, rows)


def test_how_rows_may_be_matched() -> None:
    policy = rules(engines=["ot"], joins=["left"], max_rows_an_id=3)
    check_align(policy, "insurer", DAY, "ot", "left")
    check_score(policy, "insurer", DAY, "ot")
    with pytest.raises(Refused) as refused:
        check_align(policy, "insurer", DAY, "ecdh", "inner")
    remedy = "use one of these, or the host adds it there"
    assert str(refused.value) == (
        f'engine = "ecdh" breaks rule engines = ["ot"] of [policy]: {remedy}; '
        f'join = "inner" breaks rule joins = ["left"] of [policy]: {remedy}'
    )
    with pytest.raises(Refused, match=r'engine = "ecdh" breaks rule engines = \["ot"\] of'):
        check_score(policy, "insurer", DAY)
    check_repeats(policy, 3)
    with pytest.raises(Refused, match="4 rows joined to one row breaks rule max_rows_an_id = 3 of"):
        check_repeats(policy, 4)


def test_an_alignment_is_of_use_for_so_many_days() -> None:
    made = DAY - datetime.timedelta(30)
    check_age(rules(), "a1", DAY - datetime.timedelta(365), DAY)
    check_age(rules(alignment_days=30), "a1", made, DAY)
    with pytest.raises(Refused, match=r"alignment a1 of 2027-05-31 breaks rule alignment_days = 29 of"):
        check_age(rules(alignment_days=29), "a1", made, DAY)
    check_age(rules(alignment_days=10**9), "a1", made, DAY)  # beyond any calendar
    assert last_day(made, 30) == DAY and last_day(made, None) is None


def test_columns_that_may_not_be_used_are_not_there() -> None:
    features = {name: np.ones(3) for name in ("power", "brand", "age")}
    assert list(allowed_columns(rules(), features, "t.csv")) == ["power", "brand", "age"]
    assert list(allowed_columns(rules(columns=["age", "power"]), features, "t.csv")) == ["power", "age"]
    assert allowed_columns(rules(columns=[]), features, "t.csv") == {}
    with pytest.raises(
        ConfigError, match=r"^\[policy\] columns has 'agee', which is no feature of t.csv"
    ):
        allowed_columns(rules(columns=["agee"]), features, "t.csv")


def test_a_day_is_counted_across_restarts_and_by_guest(tmp_path: Path) -> None:
    policy = rules(
        max_jobs_a_day=2,
        max_alignments_a_day=24,
        max_ids_a_day="unlimited",
        max_scored_rows_a_day=1000,
    )
    for _ in range(2):
        Usage(Store(tmp_path / "store")).count(policy, "insurer", "jobs", 1, DAY)
    with pytest.raises(Refused, match="another job on 2027-06-30 breaks rule max_jobs_a_day = 2 of"):
        Usage(Store(tmp_path / "store")).count(policy, "insurer", "jobs", 1, DAY)
    usage = Usage(Store(tmp_path / "store"))
    usage.count(policy, "bank", "jobs", 1, DAY)
    usage.count(policy, "insurer", "alignments", 24, DAY)
    with pytest.raises(
        Refused, match=r"another alignment on .* breaks rule max_alignments_a_day = 24 of"
    ):
        usage.count(policy, "insurer", "alignments", 1, DAY)
    usage.count(policy, "insurer", "ids", 10**7, DAY)
    with pytest.raises(
        Refused, match=r"2 more ids to look for on .* breaks rule max_ids_a_day = 10000001 of"
    ):
        usage.count(rules(max_ids_a_day=10**7 + 1), "insurer", "ids", 2, DAY)
    usage.count(policy, "insurer", "scored_rows", 600, DAY)
    with pytest.raises(Refused, match=r"401 more rows to score on .* max_scored_rows_a_day = 1000 of"):
        usage.count(policy, "insurer", "scored_rows", 401, DAY)
    usage.count(policy, "insurer", "scored_rows", 400, DAY)  # what was refused is not counted
    yesterday = DAY - datetime.timedelta(1)
    with pytest.raises(Refused, match="another job on 2027-06-30"):  # a clock that was set back
        usage.count(policy, "insurer", "jobs", 1, yesterday)
    usage.count(policy, "insurer", "jobs", 1, DAY + datetime.timedelta(1))
    free = rules(max_jobs_a_day="unlimited")
    usage.count(free, "insurer", "jobs", 10**6, DAY + datetime.timedelta(1))
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "store").iterdir()} == {0o600}


def test_a_clock_that_was_far_ahead_once_freezes_no_counts(tmp_path: Path) -> None:
    policy, ahead = rules(max_jobs_a_day=3), DAY + datetime.timedelta(30_000)
    usage, morrow = Usage(Store(tmp_path / "store")), DAY + datetime.timedelta(1)
    usage.count(policy, "insurer", "jobs", 1, DAY)
    usage.count(policy, "insurer", "jobs", 1, ahead)
    usage.count(policy, "insurer", "jobs", 1, DAY)  # what was counted meanwhile is not lost
    with pytest.raises(Refused, match="another job on 2027-06-30 breaks"):
        usage.count(policy, "insurer", "jobs", 1, DAY)
    usage.count(policy, "insurer", "jobs", 3, morrow)
    with pytest.raises(Refused, match="another job on 2027-07-01 breaks"):
        usage.count(policy, "insurer", "jobs", 1, morrow)
    # Of a file that an earlier version left in this state, too.
    (tmp_path / "store" / "usage.json").write_text(
        '{"day":"2099-01-01","guests":{"insurer":{"jobs":2}}}'
    )
    usage.count(policy, "insurer", "jobs", 1, morrow)
    with pytest.raises(Refused, match="another job on 2027-07-01 breaks"):
        usage.count(policy, "insurer", "jobs", 1, morrow)
    usage.count(policy, "insurer", "jobs", 3, morrow + datetime.timedelta(1))


def test_a_count_that_cannot_be_read_is_no_count_of_zero(tmp_path: Path) -> None:
    for content in (b"", b"{}", b'{"day":"2027-06-30","guests":{"insurer":{"jobs":"0"}}}', b"\xff"):
        (tmp_path / "usage.json").write_bytes(content)
        with pytest.raises(ModelError, match=r"usage.json is damaged: remove it to count this day anew"):
            Usage(Store(tmp_path)).count(rules(), "insurer", "jobs", 1, DAY)


def _count(store: Path) -> None:
    for _ in range(20):
        Usage(Store(store)).count(rules(), "insurer", "scored_rows", 1, DAY)


def test_processes_that_count_at_once_count_together(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_count, args=(tmp_path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    Usage(Store(tmp_path)).count(rules(max_scored_rows_a_day=81), "insurer", "scored_rows", 1, DAY)
    with pytest.raises(Refused):
        Usage(Store(tmp_path)).count(rules(max_scored_rows_a_day=81), "insurer", "scored_rows", 1, DAY)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('guests = ["stranger"]', "[policy] guests has stranger, which [peers] has not"),
        ('objectives = ["claims"]', "[policy] objectives must be a list of"),
        ('models = ["gbm"]', '[policy] models must be a list of "secureboost" or "glm"'),
        ('expires = "2027-06-30"', "[policy] expires must be a date such as 2027-12-31, without quotes"),
        ("max_trees = 0", "[policy] max_trees must be a whole number of at least 1"),
        ("purposes = []", "[policy] purposes must be a list of non-empty text in quotes"),
    ],
)
def test_a_rule_that_means_nothing_is_named(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_party(party_file(tmp_path, line))


def test_words_for_jobs_over_rows_name_server_and_party(tmp_path: Path) -> None:
    """There is no host there, and no guest."""
    policy = rules(
        guests=["office"],
        purposes=["study*"],
        models=["glm"],
        objectives=["poisson"],
        min_child_rows=30,
        max_trees=10,
        min_pooled_rows=500,
        max_jobs_a_day=1,
        expires=DAY - datetime.timedelta(1),
    )
    settings = {
        "job": {"name": "a", "purpose": "b", "model": "secureboost", "objective": "binary"},
        "secureboost": {"min_child_rows": 2},
        "columns": {"age": {"type": "number"}},
        "rows": {"without": True},
    }
    settings["job"]["partition"] = "rows"
    broken = broken_by_job(policy, Job.model_validate(settings), "server", DAY)
    broken += broken_by_pool(policy, 2, 400)
    usage = Usage(Store(tmp_path), OVER_ROWS)
    usage.count(policy, "server", "jobs", 1, DAY)
    with pytest.raises(Refused) as refused:
        usage.count(policy, "server", "jobs", 1, DAY)
    broken.append(str(refused.value))
    assert len(broken) == 12
    assert "the server server breaks rule guests" in broken[1]
    for text in broken:
        assert "host" not in text and "the guest" not in text
        assert "the party " in text or "the server" in text, text
    with pytest.raises(Refused, match="the model that the server names exists already at the party"):
        fresh_name(Store(tmp_path), "model", None, OVER_ROWS)
