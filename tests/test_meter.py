"""What a job could give away, in figures before and after it, and attacks on tables at hand."""

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import vfl
from vfl.errors import ConfigError
from vfl.leakage import Measured, estimate, measure, membership, reconstruction
from vfl.leakage.disclosure import Circumstances, Disclosure, Ran, merged
from vfl.leakage.meter import disclosures
from vfl.leakage.readable_labels import labels_readable
from vfl.leakage.recording import record
from vfl.leakage.shown import of_trees as of_trees_alone
from vfl.leakage.shown import restricted
from vfl.learn.binning import bin_columns
from vfl.learn.losses import loss_of
from vfl.learn.params import BoostParams, GlmParams
from vfl.protocols.common.rows import Training
from vfl.terminal.results import BASES
from vfl.text import counted

TWO = Circumstances("insurer", ["registry"], 2000)
HIDDEN = {"sums": "hidden", "coordinator": "trustee"}


def of_job(
    of: Circumstances, params: BoostParams | GlmParams, two_labels: bool = True
) -> dict[str, Disclosure]:
    """By name; the last host's where each has one."""
    found = disclosures(of, params, two_labels)
    for one in found:
        assert one.what and one.how and one.who and one.about
        assert one.advantage is None or 0 <= one.advantage <= 1
        assert (one.success is None) == (one.basis in ("told", "unknown"))
        # Whatever is more than nothing has a line that lowers it.
        assert one.lower or not one.advantage
        assert not one.lower or one.advantage != 0
    return {one.name: one for one in found}


def boost(**settings: object) -> BoostParams:
    return BoostParams.model_validate(settings)


# Curves.


@pytest.mark.parametrize(
    "told",
    [
        estimate.expected,
        estimate.told_by_model,
        estimate.told_by_scoring,
        estimate.told_by_gradient,
        lambda trees: estimate.told_by_nodes(trees) * 2 - 1,
        lambda trees: estimate.told_by_nodes(trees, True) * 2 - 1,
    ],
)
def test_a_curve_begins_at_guessing_never_falls_and_is_a_share(told: object) -> None:
    assert callable(told)
    worth = [told(x) for x in np.concatenate([np.linspace(0, 2, 400), [10, 100, 1e4]])]
    assert worth[0] == 0
    assert worth == sorted(worth)
    assert worth[-1] <= 1


# Trees.


def test_open_sums_of_a_small_table_tell_all_of_it_and_hidden_ones_nothing() -> None:
    open_, hidden = of_job(TWO, boost()), of_job(TWO, boost(**HIDDEN))
    table = open_["table_from_sums"]
    assert (table.who, table.about, table.basis) == ("insurer", "registry", "curve")
    assert table.success is not None and table.success > 0.95
    assert table.amount == pytest.approx(0.4)
    assert 'sums = "hidden"' in table.lower[0]
    assert (table.number, table.chance) == ("98 % of what guessing misses", "0 %")
    none = hidden["table_from_sums"]
    assert (none.success, none.basis, none.amount) == (0.0, "bound", 0.0)
    # What the coordinator and the guest have together is what the guest alone had.
    assert hidden["coordinator_and_guest"].success == table.success
    assert "coordinator" not in open_
    # The model tells the same either way.
    assert hidden["table_from_model"] == open_["table_from_model"]


@pytest.mark.parametrize("rows", [1000, 10_000, 50_000])
@pytest.mark.parametrize("allowed", [None, 0.03, 0.3])
def test_the_line_that_helps_is_within_the_budget(rows: int, allowed: float | None) -> None:
    of = replace(TWO, rows=rows, allowed=allowed, given=0.004)
    sums = of_job(of, boost(trees=1000))["table_from_sums"]
    whose = "a host's default" if allowed is None else "registry's"
    assert f"{whose} max_sums_a_row = {allowed or 0.03:g} refuses the job" in sums.how
    if "trees = " not in sums.lower[1]:
        assert not estimate.estimate(rows, boost()).joint_within((allowed or 0.03) - 0.004)
        return
    trees = int(sums.lower[1].split(" = ")[1])
    assert f"refuses the job, of which trees = {trees} would pass" in sums.how
    assert "refuses" not in of_job(of, boost(trees=trees))["table_from_sums"].how
    assert "refuses" in of_job(of, boost(trees=trees + 2))["table_from_sums"].how


def test_trees_of_the_guest_alone_lower_what_is_shown_and_nothing_else() -> None:
    all_, fewer = of_job(TWO, boost(trees=20)), of_job(TWO, boost(trees=20, guest_trees=10))
    for name in ("table_from_sums", "table_from_model", "scored_rows", "labels_from_nodes"):
        more, less = all_[name].success, fewer[name].success
        assert more is not None and less is not None and less < more
    none = of_job(TWO, boost(trees=20, guest_trees=20))
    assert none["table_from_sums"].success == none["table_from_model"].success == 0
    assert none["labels_from_nodes"].advantage == 0


@pytest.mark.parametrize("trees", [1, 2, 3, 15, 30, 200])
@pytest.mark.parametrize("alone", [0, 1])
@pytest.mark.parametrize("depth", [1, 4])
def test_what_is_said_to_lower_a_figure_lowers_it_as_is_said(trees: int, alone: int, depth: int) -> None:
    settings: dict[str, object] = {"trees": trees, "guest_trees": alone, "depth": depth}
    before = of_job(TWO, boost(**settings))
    for name in ("table_from_model", "labels_from_nodes", "labels_from_nodes_some_known"):
        one = before[name]
        if alone == trees:
            assert (one.advantage, one.lower) == (0, ())
            continue
        setting, value = re.findall(r"^\[secureboost\] (\w+) = (\d+)", one.lower[0])[0]
        after = of_job(TWO, boost(**settings | {setting: int(value)}))[name]
        assert after.success is not None and one.success is not None and after.success < one.success
        said = re.search(r"(\d+ %) by the curve|AUC (\d\.\d\d) by the curve", one.lower[0])
        if said is not None:
            assert (said[1] or f"AUC {said[2]}") == after.number.removesuffix(" of what guessing misses")
        if setting == "trees" and int(value) > alone + 1:
            assert after.success <= one.success / 2


def test_a_run_that_stopped_early_is_lowered_from_where_it_stopped() -> None:
    stopped = of_job(replace(TWO, ran=Ran(joint=4)), boost(trees=50))
    assert "trees = 1 (" in stopped["table_from_model"].lower[0]
    assert "guest_trees = 3: " in stopped["labels_from_nodes"].lower[0]


def test_more_columns_and_known_splits_change_what_the_model_tells() -> None:
    of = replace(TWO, candidates={"registry": 30})
    few = of_job(of, boost())["table_from_model"]
    many = of_job(replace(TWO, candidates={"registry": 3000}), boost())["table_from_model"]
    assert few.success is not None and many.success is not None and few.success > many.success
    assert (
        "taken for" not in few.how
        and "taken for 5 columns of 32 bins" in of_job(TWO, boost())["table_from_model"].how
    )
    ran = of_job(replace(of, ran=Ran(joint=50, splits={"registry": 3})), boost())["table_from_model"]
    assert "the 3 splits that it won" in ran.how
    assert ran.success is not None and ran.success < few.success


def test_a_run_counts_the_trees_that_there_were() -> None:
    stopped = of_job(replace(TWO, ran=Ran(joint=5)), boost(trees=50))
    assert stopped["table_from_sums"].amount == of_job(TWO, boost(trees=5))["table_from_sums"].amount
    assert "refuses" not in of_job(replace(TWO, ran=Ran(joint=50)), boost())["table_from_sums"].how


def test_what_cheats_and_what_large_gradients_tell() -> None:
    found = of_job(TWO, boost(goss_top=0.1, goss_other=0.1, encryption="lattice"))
    assert "200 rows" in found["large_gradients"].what
    assert found["large_gradients"].lower == ("[secureboost] goss_top = 0, the default",)
    assert found["cheating_guest"].kind == "cheating"
    assert found["cheating_guest"].success == 1.0
    assert found["cheating_guest"].number == "100 % of what guessing misses"
    assert found["single_rows_from_differences"].basis == "unknown"


def test_what_ordered_categories_and_fewer_leaves_tell() -> None:
    assert "category_groups" not in of_job(TWO, boost(ordered_categories="guest"))
    found = of_job(TWO, boost(ordered_categories="all"))["category_groups"]
    assert found.kind == "told" and '"guest"' in found.lower[0]
    # Few leaves tell fewer sums, and fewer splits.
    most, few = (of_job(TWO, boost(depth=6, max_leaves=leaves)) for leaves in (None, 8))
    for name in ("table_from_sums", "scored_rows"):
        assert few[name].amount < most[name].amount / 2


@pytest.mark.parametrize("encryption", ["paillier", "lattice"])
def test_no_figure_bounds_what_sums_over_nearly_the_same_rows_tell(encryption: str) -> None:
    one = of_job(TWO, boost(trees=5000, depth=10, encryption=encryption))["single_rows_from_differences"]
    assert (one.success, one.basis, one.number) == (None, "unknown", "no figure")
    assert 'sums = "hidden"' in one.lower[0]
    if encryption == "paillier":
        assert "neighbouring thresholds" in one.how and "more than two draws" in one.how
    hidden = boost(**HIDDEN)
    none = of_job(TWO, hidden)["single_rows_from_differences"]
    assert (none.success, none.basis) == (0.0, "bound")
    # With open sums of earlier jobs there is no bound either.
    earlier = of_job(replace(TWO, given=0.01), hidden)["single_rows_from_differences"]
    assert (earlier.success, earlier.basis) == (None, "unknown") and "earlier jobs" in earlier.how


def test_hidden_sums_after_open_ones_say_that_earlier_jobs_told() -> None:
    found = of_job(replace(TWO, given=0.065), boost(trees=5, **HIDDEN))
    table, together = found["table_from_sums"], found["coordinator_and_guest"]
    assert (table.basis, table.success) == ("curve", estimate.expected(0.065))
    assert (
        "no sum of this job" in table.how and "0.065 equations a row of earlier, open jobs" in table.how
    )
    assert "nothing takes back" in table.lower[0]
    assert together.amount == pytest.approx(0.065 + 0.04)
    assert together.success == estimate.expected(0.065 + 0.04)
    assert "0.04 equations a row at most, after 0.065 of earlier jobs" in together.how


def test_hosts_of_which_the_same_is_said_share_a_line() -> None:
    of = replace(TWO, hosts=["registry", "bureau"])
    lines = merged(disclosures(of, boost(), True))
    names = [one.name for one in lines]
    assert len(names) == len(set(names))
    by = {one.name: one for one in lines}
    assert by["table_from_sums"].about == "registry, bureau"
    assert by["labels_from_nodes"].who == "registry, bureau"
    apart = merged(disclosures(replace(of, candidates={"registry": 7}), boost(), True))
    assert [one.about for one in apart if one.name == "scored_rows"] == ["registry", "bureau"]


# Linear models.


def test_a_linear_model_tells_the_guest_combinations_and_hosts_gradients() -> None:
    found = of_job(replace(TWO, columns={"registry": 400}), GlmParams())
    assert found["columns_from_steps"].basis == "told"
    assert 'scores = "hidden"' in found["columns_from_steps"].lower[0]
    gradient = found["labels_from_gradients"]
    assert gradient.amount == pytest.approx(0.2)
    assert gradient.success == pytest.approx(0.15)
    # No curve for labels of more values.
    counts = of_job(TWO, GlmParams(), two_labels=False)["labels_from_gradients"]
    assert (counts.success, counts.basis, counts.number) == (None, "unknown", "no figure")


def test_hidden_scores_show_the_guest_no_steps_and_name_the_coordinator() -> None:
    found = of_job(TWO, GlmParams(scores="hidden", coordinator="trustee"))
    assert "columns_from_steps" not in found
    assert found["scores_held_out"].lower[0].startswith("[job] holdout = 0")
    # Whole plaintexts are opened: no limit holds there.
    assert found["cheating_host"].success == 1.0 and "max_labels" not in found["cheating_host"].lower[0]
    assert found["coordinator"].who == "trustee"


def test_a_limit_of_labels_is_the_figure() -> None:
    of, free = replace(TWO, rows=20_000), GlmParams()
    labels = of_job(of, free)["cheating_host"]
    # Who guesses has the labels of the more frequent kind right: the figure is of the others.
    assert labels.number.endswith(" of what guessing misses") and "most frequent label" in labels.how
    assert labels.lower[0].startswith("[glm] max_labels = 0.05: ")
    some = of_job(of, GlmParams(max_labels=0.05))["cheating_host"]
    assert (some.amount, some.success, some.basis) == (1000, 0.05, "bound")
    assert "by max_labels = 0.05" in some.how and "max_labels = 0.025" in some.lower[0]
    assert labels.success is not None and labels.success > 0.05
    # A run counts the iterations that there were, and the gradient at the start.
    ran = of_job(replace(of, ran=Ran(iterations=2)), free)["cheating_host"]
    assert ran.amount == labels_readable(20_000, 5, 2, free) < 20_000


# Attacks on tables at hand.


def tables(rows: int, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray, dict[str, pd.DataFrame]]:
    """A guest's, the label, a host's."""
    draw = np.random.default_rng(seed)
    own = pd.DataFrame({"id": np.arange(rows), "age": draw.normal(size=rows)})
    host = pd.DataFrame(
        {
            "id": draw.permutation(rows),
            "power": draw.normal(size=rows),
            "km": draw.normal(size=rows),
            "colour": draw.choice(list("abcd"), rows),
        }
    )
    power = host.set_index("id").power.reindex(own.id).to_numpy()
    y = (own.age + power + draw.logistic(size=rows) > 1).astype(int).to_numpy()
    return own, y, {"registry": host}


@pytest.fixture(scope="module")
def of_trees() -> Measured:
    own, y, hosts = tables(240)
    model = vfl.SecureBoost(id="id", trees=15, depth=3, max_bins=8, min_child_rows=10)
    found = vfl.leakage.measure(model, own, y, hosts, seed=1)
    assert not hasattr(model, "model_")  # it stays as it was
    return found


def test_attacks_on_trees_come_close_to_the_table(of_trees: Measured) -> None:
    by = {one.attack: one for one in of_trees.successes}
    assert (of_trees.rows, of_trees.of_rows, of_trees.notes) == (240, 240, ())
    sums, alone = by["reconstruction"], by["model alone, as sums are of"]
    assert (sums.who, sums.about) == ("guest", "registry")
    assert sums.advantage > alone.advantage + 0.05
    assert by["model alone, rows scored"].success >= by["model alone"].success
    assert by["differences of sums"].success == 0
    few = by["sums of small nodes"]  # told of all nodes, as no rule of a host is given
    assert few.guessing < few.success and few.guessing == sums.guessing
    labels = by["node membership"]
    assert (labels.who, labels.about) == ("registry", "guest")
    assert labels.guessing + 0.1 < labels.success < 1
    document = of_trees.document()
    assert document["rows"] == 240
    assert len(str(of_trees).splitlines()) == 1 + len(of_trees.successes)


def test_the_curve_is_no_less_than_what_attacks_get(of_trees: Measured) -> None:
    by = {one.attack: one for one in of_trees.successes}
    params = boost(trees=15, depth=3, max_bins=8, min_child_rows=10)
    said = of_job(replace(TWO, rows=240), params)
    beyond = by["reconstruction"].advantage - by["model alone, as sums are of"].advantage
    assert beyond <= (said["table_from_sums"].success or 0)


def test_a_sample_keeps_equations_a_row() -> None:
    own, y, hosts = tables(240)
    model = vfl.SecureBoost(id="id", trees=12, depth=2, max_bins=8, min_child_rows=5)
    found = measure(model, own, y, hosts, rows=60, candidates=4)
    assert (found.rows, found.of_rows) == (60, 240)
    assert "a sample of 60 of 240 rows" in found.notes
    assert "sums of 3 trees of 12: as many equations a row as in the whole job" in found.notes
    assert "sums of 1 of 3 columns of registry" in found.notes
    assert "sums of small nodes were not attacked: a sample has smaller ones" in found.notes
    by = {one.attack: one for one in found.successes}
    assert by["reconstruction"].success >= by["model alone, as sums are of"].success


def test_hosts_alike_share_a_note() -> None:
    own, y, hosts = tables(240)
    both = {**hosts, "bureau": hosts["registry"].rename(columns=lambda name: name.replace("km", "age2"))}
    model = vfl.SecureBoost(id="id", trees=8, depth=2, max_bins=4, min_child_rows=5)
    found = measure(model, own, y, both, rows=60, candidates=4)
    assert len(found.notes) == len(set(found.notes)) and any("trees of 8" in n for n in found.notes)
    by = {(one.about, one.attack): one for one in found.successes}
    for host in both:
        alone = by[host, "model alone, as sums are of"]
        assert by[host, "reconstruction"].success >= alone.success


def test_a_rule_of_hosts_about_small_nodes_is_kept_to() -> None:
    own, y, hosts = tables(240)
    model = vfl.SecureBoost(id="id", trees=3, guest_trees=2, depth=3, max_bins=8, min_child_rows=10)
    found = {
        least: {
            one.attack: one for one in measure(model, own, y, hosts, min_summed_rows=least).successes
        }
        for least in (1, 241, 300)
    }
    few = found[1].pop("sums of small nodes"), found[241].pop("sums of small nodes")
    assert few[0].advantage > 0.02 and few[1].success == few[1].guessing
    assert found[1] == found[241] == found[300]  # where no node could be small it is left out


@pytest.mark.parametrize(
    "given", [{"trees": 4, "guest_trees": 4}, {"trees": 4, "encryption": "lattice"}]
)
def test_settings_change_what_is_attacked(given: dict[str, object]) -> None:
    own, y, hosts = tables(120)
    model = vfl.SecureBoost(id="id", depth=2, max_bins=4, min_child_rows=5, **given)
    by = {one.attack: one for one in measure(model, own, y, hosts).successes}
    if "guest_trees" in given:
        assert by["reconstruction"].advantage == 0
        assert by["model alone"].advantage == pytest.approx(0)
        assert by["node membership"].success <= by["node membership"].guessing
    else:
        assert by["reconstruction"].advantage > 0


def test_hidden_sums_leave_the_model_alone() -> None:
    own, y, hosts = tables(120)
    block = {
        "guest": bin_columns({"age": own.age.to_numpy()}, 4, 5),
        "host": bin_columns({"power": hosts["registry"].sort_values("id").power.to_numpy()}, 4, 5),
    }
    every = np.ones(120, np.bool_)
    training = Training(y.astype(float), np.ones(120), every, ~every, loss_of("binary"))
    from vfl.leakage.measuring import measure_tables
    from vfl.protocols.trees.grower import BinnedTables

    params = boost(trees=2, depth=2, min_child_rows=5, **HIDDEN)
    found = measure_tables(BinnedTables(params, block, training), of_rows=1000)
    attacks = {one.attack for one in found.successes}
    assert "model alone" in attacks and "reconstruction" not in attacks
    assert found.notes == (f"a sample of 120 of {counted(1000, 'row')}",)


def test_labels_of_several_classes_are_told_class_by_class() -> None:
    """A host names a class by the trees of that class: where classes are numbered as nobody would order
    them, what it gets is far more than of labels above the middle."""
    from vfl.leakage.measuring import measure_tables
    from vfl.protocols.trees.grower import BinnedTables

    draw, rows = np.random.default_rng(2), 500
    own, power, km = draw.normal(size=(3, rows))
    scores = np.array([1.5 * power, own, -1.5 * power, 1.5 * km - 1]) + draw.gumbel(size=(4, rows))
    label = np.array([0.0, 2.0, 1.0, 3.0])[scores.argmax(axis=0)]
    block = {
        "guest": bin_columns({"age": own}, 8, 10),
        "host": bin_columns({"power": power, "km": km}, 8, 10),
    }
    every = np.ones(rows, np.bool_)
    loss = loss_of("multiclass", classes=4)
    training = Training(label, np.ones(rows), every, ~every, loss)
    params = boost(trees=2, depth=3, classes=4, min_child_rows=10, **HIDDEN)
    found = measure_tables(BinnedTables(params, block, training))
    assert any("the class that hosts tell best" in note for note in found.notes)
    alone, some = (one for one in found.successes if one.attack.startswith("node membership"))
    assert some.attack.endswith("some labels known")
    recording = asyncio.run(record(block, training, params))
    shown, truth = recording.shown["host"], recording.truth["host"]
    nodes = membership.told(recording.leaves, 3, shown)
    above = membership.success(nodes, label, None, membership.known_splits(nodes, shown, truth))
    assert alone.advantage > above.advantage + 0.1 and alone.success > 0.7
    # Trees of one class are the only ones that are looked at.
    part, theirs = of_trees_alone(shown, truth, [1, 5])
    assert len(part.trees) == 2 and {tree for tree, _ in theirs.order} == {0, 1}
    for (tree, node), places in theirs.order.items():
        assert places is truth.order[(1, 5)[tree], node]


def test_attacks_on_linear_models() -> None:
    own, y, hosts = tables(300)
    found = measure(vfl.FederatedLogisticRegression(id="id"), own, y, hosts)
    by = {one.attack: one for one in found.successes}
    # A part of both columns: near ones are near in both.
    assert by["scores of known rows"].advantage > 0.05
    assert by["residues of a gradient"].about == "guest"
    alone = {"registry": hosts["registry"][["id", "colour"]]}
    model = vfl.FederatedGLM(id="id", family="poisson")
    (one,) = measure(model, own, y, alone).successes
    assert (one.attack, one.success) == ("scores of known rows", 1.0)  # a factor by itself


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rows": 10}, "rows must be a whole number of at least 50, not 10"),
        ({"candidates": 0}, "candidates must be"),
        ({"min_summed_rows": 0}, "min_summed_rows must be"),
        ({"seed": True}, "seed must be"),
    ],
)
def test_what_cannot_be_measured(given: dict[str, object], said: str) -> None:
    own, y, hosts = tables(60)
    with pytest.raises(ConfigError, match=said):
        measure(vfl.SecureBoost(id="id"), own, y, hosts, **given)
    with pytest.raises(ConfigError, match=r"one of vfl's estimators over columns .*, not object"):
        measure(object(), own, y, hosts)  # type: ignore[arg-type]


def test_candidates_apart_are_shown_as_they_were() -> None:
    draw = np.random.default_rng(0)
    blocks = {
        name: bin_columns({f"{name}{i}": draw.normal(size=80) for i in range(2)}, 5, 3)
        for name in ("guest", "host")
    }
    every = np.ones(80, np.bool_)
    label = (draw.random(80) < 0.4).astype(float)
    training = Training(label, np.ones(80), every, ~every, loss_of("binary"))
    seen = asyncio.run(record(blocks, training, boost(trees=3, depth=2, min_child_rows=3)))
    shown, truth = seen.shown["host"], seen.truth["host"]
    some = np.flatnonzero(truth.column == 1)
    part, theirs = restricted(shown, truth, some)
    assert (theirs.sides == truth.sides[some]).all()
    for number, (tree, before) in enumerate(zip(part.trees, shown.trees, strict=True)):
        assert len(tree.nodes) == len(before.nodes)
        for node, whole in zip(tree.nodes, before.nodes, strict=True):
            for place, candidate in enumerate(theirs.order[number, node.number]):
                was = int(np.flatnonzero(truth.order[number, node.number] == some[candidate])[0])
                assert node.gradient[place] == whole.gradient[was]
                assert node.known[place] == whole.known[was]
        for split in tree.splits:
            side = theirs.sides[theirs.order[number, split.node][split.place]]
            assert (side[split.rows] == split.left[split.rows]).all()
    assert len(reconstruction.compared(part, theirs)) == len(some)


def test_the_page_on_leakage_says_what_is_printed(of_trees: Measured) -> None:
    """Where a figure is from, the names of attacks, and on how many rows default jobs pass."""
    docs = Path(__file__).parent.parent / "docs"
    page = (docs / "leakage.md").read_text()
    for basis in ("told", "bound", "curve", "measured", "unknown"):
        assert f"\n- *{BASES[basis]}*" in page
    own, y, hosts = tables(100)
    linear = measure(vfl.FederatedLogisticRegression(id="id"), own, y, hosts)
    for one in (*of_trees.successes, *linear.successes):
        assert f"\n| `{one.attack}` | {'the guest' if one.who == 'guest' else 'a host'} |" in page
    limit = estimate.MAX_SUMS_A_ROW
    said = (docs / "security.md").read_text().replace("\n", " ")
    assert "of 34,000 rows or more, of which four fifths train" in said and "67,000 rows" in said

    def a_row(rows: int) -> float:
        return estimate.estimate(rows, boost(), known=round(0.8 * rows)).equations_a_row

    assert a_row(34_000) < limit < a_row(33_000)
    assert 2 * a_row(67_000) < limit < 2 * a_row(66_000)
    for limits in ("max_trees", "max_sums_a_row"):
        assert f"`{limits}`" in page


def test_figures_of_attacks_name_tests_that_are_there() -> None:
    root = Path(__file__).parent.parent
    page = (root / "docs" / "security.md").read_text()
    table = re.split(r"\n#{2,3} ", page.partition("\n### In figures\n")[2])[0]
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(lines) > 15
    for line in lines:
        held = line.rstrip("| ").rpartition("|")[2]
        files = re.findall(r"`((?:tests|benchmarks)/\w+\.py)", held)
        assert files or "vfl leakage" in held, line
        for file in files:
            assert (root / file).is_file(), file
        for file, name in re.findall(r"`(tests/\w+\.py)` `(test_\w+)`", held):
            assert f"def {name}(" in (root / file).read_text(), name
