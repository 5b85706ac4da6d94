"""Attacks on tables at hand: what each party of a training would get, against guessing.

The training is that of the plaintext oracle, and what its protocol would show is recorded, so that no
key is needed. Time is bounded by taking a sample of rows and of a host's columns:

- of sums as many equations a row are kept as the whole job gives away, by fewer trees;
- small nodes of a sample are none of the job, and are left alone;
- of a gradient as many columns a row, by fewer columns;
- all else is of all trees, over the sampled rows.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from vfl.arrays import Floats, Integers, Mask
from vfl.blocks.engine import ENGINE
from vfl.errors import ConfigError, VflError
from vfl.leakage import differences, membership, reconstruction, residuals, scores, small_nodes
from vfl.leakage.model_alone import model_alone
from vfl.leakage.recording import Recording, record
from vfl.leakage.shown import Shown, Truth, of_large_nodes, of_trees, restricted
from vfl.leakage.success import Success
from vfl.learn.binning import bin_columns
from vfl.learn.matrix import Matrix
from vfl.protocols.linear.plain import DesignTables, plain_fit
from vfl.protocols.trees.grower import BinnedTables
from vfl.text import counted

T = TypeVar("T")

ROWS = 2000
CANDIDATES = 80
"""Of a host, that sums are worked on for; columns beyond are left out of that attack."""

_KNOWN = 0.05  # of the rows, whose label or level an attacker has from elsewhere
_FEW = 1  # rows in the difference of two sums
_MOST_SETS = 600
_BINS = 16  # that a number's value is found in

AnyTables = BinnedTables | DesignTables


class Simulated(Protocol):
    """A model whose parties are all in this process (vfl.SecureBoost and the others)."""

    def inspected(self, look: Callable[[AnyTables], None]) -> Any:
        """A copy whose `fit` tells what it would train on."""


@dataclass(frozen=True)
class Measured:
    """What attacks got.

    successes: each attack's success beside that of guessing. rows: that it was made on, of_rows: of so
    many. notes: where less than the whole job was attacked. seconds: that it took.
    """

    successes: tuple[Success, ...]
    rows: int
    of_rows: int
    notes: tuple[str, ...]
    seconds: float

    def document(self) -> dict[str, object]:
        """The same as JSON has it."""
        found = [asdict(one) | {"advantage": one.advantage} for one in self.successes]
        return asdict(self) | {"successes": found, "notes": [*self.notes]}

    def __str__(self) -> str:
        lines = [f"attacks on {self.rows:,} of {counted(self.of_rows, 'row')}, {self.seconds:.0f} s"]
        lines += [f"({note})" for note in self.notes]
        lines += [
            f"{one.who} about {one.about}, {one.attack}: {one.success:.3f} of {one.unit}, guessing "
            f"{one.guessing:.3f}, advantage {one.advantage:.3f}"
            for one in self.successes
        ]
        return "\n".join(lines)


def measure(
    model: Simulated,
    X: object,
    y: object,
    hosts: Mapping[str, object] | None = None,
    *,
    rows: int = ROWS,
    candidates: int = CANDIDATES,
    min_summed_rows: int = 1,
    seed: int = 0,
    **given: object,
) -> Measured:
    """Attack what training a model of the estimators would show each party.

    model: vfl.SecureBoost, SecureBoostRegressor, FederatedGLM or FederatedLogisticRegression, which
    stays as it is. X, y, hosts and further arguments: as of its `fit`. rows: how many of the common rows
    are attacked, at most; candidates: of a host, how many its sums are worked on for, by a sample of its
    columns. min_summed_rows: of the hosts' [policy], for the attack on small nodes; by default they tell
    the sums of all nodes. seed: of these samples. The time grows with rows and candidates; at their
    defaults it is a minute or two.

    Raises ConfigError and DataError as `fit` does.
    """
    for name, value, least in (
        ("rows", rows, 50),
        ("candidates", candidates, 1),
        ("min_summed_rows", min_summed_rows, 1),
        ("seed", seed, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{name} must be a whole number of at least {least}, not {value!r}")
    if not hasattr(model, "inspected"):
        raise ConfigError(
            "model must be one of vfl's estimators over columns (SecureBoost, FederatedGLM, ...), not "
            f"{type(model).__name__}"
        )
    seen: list[AnyTables] = []
    model.inspected(seen.append).fit(X, y, hosts=hosts, **given)
    return measure_tables(
        seen[-1], rows=rows, candidates=candidates, min_summed_rows=min_summed_rows, seed=seed
    )


def measure_tables(
    tables: AnyTables,
    *,
    rows: int = ROWS,
    candidates: int = CANDIDATES,
    min_summed_rows: int = 1,
    seed: int = 0,
    of_rows: int | None = None,
) -> Measured:
    """Attack a training on these columns.

    min_summed_rows: the least rows of a node whose sums hosts tell, for the attack on small nodes alone.
    of_rows: the rows of the job that the tables stand for; as many as they have by default.
    """
    started, draw, notes = time.monotonic(), np.random.default_rng(seed), []
    have = len(tables.rows.label)
    if (given := max(of_rows or 0, have)) > have or have > rows:
        notes.append(f"a sample of {min(rows, have):,} of {counted(given, 'row')}")
    if have > rows:
        chosen = np.zeros(have, np.bool_)
        chosen[draw.choice(have, rows, replace=False)] = True
        tables = _sampled(tables, chosen)
    share = len(tables.rows.label) / given
    found: _Trees | _Linear
    if isinstance(tables, BinnedTables):
        found = _Trees(tables, share, candidates, min_summed_rows, draw)
    else:
        found = _Linear(tables, share, draw)
    successes = tuple(found.attacks())
    said = tuple(dict.fromkeys((*notes, *found.notes)))  # hosts alike are said once
    return Measured(successes, len(tables.rows.label), given, said, time.monotonic() - started)


def _sampled(tables: AnyTables, chosen: Mask) -> AnyTables:
    """The chosen rows alone."""
    offset = tables.rows.offset
    of_rows = {
        name: getattr(tables.rows, name)[chosen] for name in ("label", "weight", "train", "validation")
    }
    training = replace(tables.rows, **of_rows, offset=None if offset is None else offset[chosen])
    if isinstance(tables, BinnedTables):
        blocks = {
            name: replace(block, codes=block.codes[:, chosen]) for name, block in tables.blocks.items()
        }
        return replace(tables, blocks=blocks, rows=training)
    matrices = {name: matrix.take(chosen) for name, matrix in tables.matrices.items()}
    return replace(tables, matrices=matrices, rows=training)


class _Trees:
    """Attacks on a training of trees."""

    def __init__(
        self,
        tables: BinnedTables,
        share: float,
        candidates: int,
        least: int,
        draw: np.random.Generator,
    ) -> None:
        self.notes: list[str] = []
        self._params, self._training, self._share = tables.params, tables.rows, share
        self._guest = next(iter(tables.blocks))
        self._most, self._least, self._draw = candidates, least, draw
        self._recording: Recording = _outside_loop(
            lambda: record(tables.blocks, tables.rows, tables.params)
        )

    def attacks(self) -> list[Success]:
        shown, truth = self._recording.shown, self._recording.truth
        found = []
        for host in shown:
            found += self._on_table(host, shown[host], truth[host])
        for host in shown:
            found += self._on_labels(host, shown[host], truth[host])
        return found

    def _on_table(self, host: str, shown: Shown, truth: Truth) -> list[Success]:
        """By the guest."""
        if not len(truth.sides):
            self.notes.append(f"{host} has no candidate")
            return []
        at = reconstruction.compared(shown, truth)
        found = [
            model_alone(shown, truth, at, about=host),
            model_alone(shown, truth, at, scored=True, about=host),
        ]
        if self._params.sums == "open" and len(at):
            joint = [tree for tree in shown.trees if tree.nodes]
            used = max(1, round(len(joint) * self._share)) if joint else 0
            if used < len(joint):
                trees = counted(used, "tree")
                self.notes.append(
                    f"sums of {trees} of {len(joint):,}: as many equations a row as in the whole job"
                )
            skipped = len(shown.trees) - len(joint)
            part = replace(shown, trees=shown.trees[: skipped + used])
            part, theirs = restricted(part, truth, self._some(host, at, truth))
            about = reconstruction.compared(part, theirs)
            # Of the same trees and candidates, that both can be compared.
            alone = model_alone(part, theirs, about, about=host)
            found.append(replace(alone, attack="model alone, as sums are of"))
            result = reconstruction.reconstruct(part)
            both = reconstruction.success(result, part, theirs, about=host)
            # The guest has the splits, too, and keeps to them where sums are too few to help.
            found.append(replace(both, success=max(both.success, alone.success)))
            found += self._on_small_nodes(host, part, theirs)
            found.append(self._differences(host, part))
        return [replace(one, who=self._guest) for one in found]

    def _on_small_nodes(self, host: str, shown: Shown, truth: Truth) -> list[Success]:
        """Where there are any with sums."""
        # Over the lattice engine hosts see no nodes.
        least = 1 if self._params.encryption == "lattice" else self._least
        if least > small_nodes.MOST_ROWS:
            return []
        if self._share < 1:
            self.notes.append("sums of small nodes were not attacked: a sample has smaller ones")
            return []
        large = of_large_nodes(shown, least)
        result = small_nodes.small_nodes(large)
        found = reconstruction.success(result, large, truth, about=host)
        return [replace(found, attack="sums of small nodes")]

    def _some(self, host: str, at: Integers, truth: Truth) -> Integers:
        """Candidates of a sample of columns, as many as are worked on."""
        if len(at) <= self._most:
            return at
        chosen = np.zeros(0, np.int64)
        columns = self._draw.permutation(np.unique(truth.column[at]))
        for taken, column in enumerate(columns.tolist()):
            more = at[truth.column[at] == column]
            if taken and len(chosen) + len(more) > self._most:
                break
            chosen = np.concatenate([chosen, more])
        used = len(np.unique(truth.column[chosen]))
        if used < len(columns):
            self.notes.append(f"sums of {used:,} of {counted(len(columns), 'column')} of {host}")
        return np.sort(chosen)

    def _differences(self, host: str, shown: Shown) -> Success:
        """Rows that a difference of two sums is about."""
        masks = [node.rows for tree in shown.trees for node in tree.nodes if not node.derived]
        sets = np.array(masks[:_MOST_SETS]).reshape(-1, shown.rows)
        told = float(differences.close(sets, _FEW).mean()) if len(sets) else 0.0
        return Success("differences of sums", self._guest, host, told, 0.0, "rows told by themselves")

    def _on_labels(self, host: str, shown: Shown, truth: Truth) -> list[Success]:
        """By a host; of several classes, which are told apart from all others by trees of their own, the
        one that is told best."""
        label, classes = self._training.label, self._params.round
        known = self._draw.random(len(label)) < _KNOWN
        given = [None, known] if len(np.unique(label[known])) > 1 else [None]
        every = range(len(shown.trees))
        found = []
        for of_class in range(classes):
            # Under a key a host is told what it would be over the lattice engine, too.
            some = every[of_class::classes]
            part, theirs = of_trees(shown, truth, some)
            ways = [membership.asked(part)]
            if self._params.encryption != "lattice":
                leaves = self._recording.leaves[of_class::classes]
                ways.append(membership.told(leaves, self._params.depth, part))
            views = [(nodes, membership.known_splits(nodes, part, theirs)) for nodes in ways]
            own = (label == of_class).astype(np.float64) if classes > 1 else label
            found += [
                membership.success(nodes, own, some_known, splits, host, self._guest)
                for some_known in given
                for nodes, splits in views
            ]
        attacks = dict.fromkeys(one.attack for one in found)
        if classes > 1:
            self.notes.append("labels are those of the class that hosts tell best from all others")
        of_attack = ([one for one in found if one.attack == attack] for attack in attacks)
        return [max(some, key=lambda one: one.success) for some in of_attack]


class _Linear:
    """Attacks on a fit of a linear model."""

    def __init__(self, tables: DesignTables, share: float, draw: np.random.Generator) -> None:
        self.notes: list[str] = []
        self._tables, self._share, self._draw = tables, share, draw
        self._guest, *self._hosts = tables.matrices

    def attacks(self) -> list[Success]:
        tables, found = self._tables, []
        coefficients: Mapping[str, Floats] = {}
        try:
            coefficients = _outside_loop(self._fit)
        except VflError as error:
            self.notes.append(f"scores were not attacked, as no model could be fitted: {error}")
        for host in self._hosts:
            matrix = tables.matrices[host].take(np.ones(len(tables.rows.label), np.bool_))
            if host in coefficients and matrix.columns:
                found.append(self._on_columns(host, matrix, coefficients[host]))
            if tables.rows.loss.link == "logit":
                found.append(self._on_labels(host, matrix))
        return found

    async def _fit(self) -> Mapping[str, Floats]:
        """Each host's coefficients."""
        tables = self._tables
        own = {self._guest: tables.matrices[self._guest]}
        theirs = {name: tables.matrices[name] for name in self._hosts}
        _, coefficients = await plain_fit(own, theirs, tables.rows, tables.params)
        return coefficients

    def _on_labels(self, host: str, matrix: Matrix) -> Success:
        """By a host, from its first gradient."""
        columns = _dense(matrix)
        used = max(1, round(len(columns) * self._share))
        if used < len(columns):
            self.notes.append(
                f"gradients of {counted(used, 'column')} of {len(columns):,} of {host}: as many a row "
                "as in the whole job"
            )
            columns = columns[np.sort(self._draw.choice(len(columns), used, replace=False))]
        label = self._tables.rows.label > 0
        return residuals.success(columns, label, who=host, about=self._guest)

    def _on_columns(self, host: str, matrix: Matrix, beta: Floats) -> Success:
        """By the guest, from its part of scores: the mean over the host's columns."""
        part = matrix.times(beta)
        known = self._draw.random(len(part)) < _KNOWN
        numbers = {str(i): values for i, values in enumerate(matrix.floats)}
        columns: Sequence[Integers] = [
            *np.asarray(ENGINE.gather(matrix.codes), np.int64),
            *bin_columns(numbers, _BINS, 1).codes,
        ]
        found = [scores.success(part, known, values) for values in columns]
        return replace(
            found[0],
            who=self._guest,
            about=host,
            success=float(np.mean([one.success for one in found])),
            guessing=float(np.mean([one.guessing for one in found])),
        )


def _dense(matrix: Matrix) -> Floats:
    """A design matrix with its zeros, shape (columns, rows)."""
    levels = [
        (codes == level).astype(np.float64)
        for codes, count in zip(ENGINE.gather(matrix.codes), matrix.levels, strict=True)
        for level in range(1, count + 1)
    ]
    return np.concatenate([np.array(levels).reshape(-1, matrix.rows), matrix.floats])


def _outside_loop(work: Callable[[], Coroutine[object, None, T]]) -> T:
    """Run in a thread of its own: a notebook's thread has a loop that runs already."""
    with ThreadPoolExecutor(1, "vfl") as pool:
        return pool.submit(lambda: asyncio.run(work())).result()
