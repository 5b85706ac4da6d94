"""Trees: SecureBoost over the columns of all parties."""

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from vfl.arrays import Floats
from vfl.errors import ConfigError
from vfl.learn.binning import Binned, Features, Monotone, bin_columns
from vfl.learn.losses import OBJECTIVES, Link
from vfl.learn.params import BoostParams
from vfl.learn.splits import Split
from vfl.learn.tree import Obstacle
from vfl.models.dependence import dependence_on
from vfl.models.findings import Finding, NothingTrained
from vfl.models.halves import GuestHalf, HostHalf
from vfl.models.kind import (
    NOTHING,
    ClientRole,
    ClientRun,
    ColumnRules,
    CoordinatorRole,
    CoordinatorRun,
    Explanation,
    Fitted,
    GuestBatch,
    GuestRole,
    GuestRun,
    HostBatch,
    HostOutcome,
    HostRole,
    HostRun,
    ModelKind,
    OwnScores,
    PartyColumns,
    StepReport,
    TrainingStep,
)
from vfl.models.tree_parts import TreesAnswers, TreesPacker, TreesScorer
from vfl.models.unsplit import no_split, none_kept, why_unsplit
from vfl.net.peer import Peer
from vfl.party.documents import Body
from vfl.party.policy_section import PolicySection
from vfl.protocols.common.batches import ScoredPart
from vfl.protocols.common.checkpoints import Checkpoints
from vfl.protocols.common.course import GuestCourse, HostCourse
from vfl.protocols.common.rows import Training
from vfl.protocols.lookup.layout import PartLayout
from vfl.protocols.pooled.adding import Adder
from vfl.protocols.pooled.bins import Schema
from vfl.protocols.pooled.trees import PooledTrees, check_params, grow_client
from vfl.protocols.trees.grower import BinnedTables, GuestTrees, HostTrees, TreeDone
from vfl.protocols.trees.hidden_coordinator import coordinate_trees
from vfl.protocols.trees.model import GuestModel, HostModel
from vfl.protocols.trees.paths import strangers
from vfl.protocols.trees.quantisation import quantisation_of
from vfl.protocols.trees.scoring import check_explains, guest_score, host_score
from vfl.protocols.trees.training import guest_train, host_train
from vfl.protocols.trees.warm_start import (
    Initial,
    guest_begin,
    host_begin,
    pooled_begin,
    start_from,
)
from vfl.text import counted

_MANY = 0.1  # of the trees


class _TreesGuest(GuestRole[GuestModel]):
    def __init__(
        self,
        params: BoostParams,
        own: PartyColumns,
        rows: Training,
        initial: Initial | None = None,
    ) -> None:
        self._params, self._rows, self._initial = params, rows, initial
        self._begins_with = (own.features if initial else {}), (initial.trees if initial else 0)
        self._own = {own.party: _binned(own, params)}
        self._split = False  # whether any tree has a split
        self._obstacle: Obstacle = "label"  # of the last tree without one
        self._withheld: Mapping[str, int] = {}  # by host, nodes whose sums it kept to itself

    async def train(self, hosts: Sequence[Peer], run: GuestRun) -> tuple[GuestModel, Floats]:
        check_constraints(self._params, [*self._own, *(host.name for host in hosts)])
        checkpoints, rows = run.checkpoints, self._rows
        features, begun = self._begins_with
        kept = [] if checkpoints.last is None else checkpoints.last.trees[begun:]
        self._split = any(tree.branches for tree in kept)
        if checkpoints.last is not None:
            self._withheld = checkpoints.last.withheld
        if self._initial is not None:
            rows = start_from(self._initial, rows)
            if not checkpoints.done:
                first = await guest_begin(hosts, self._initial, features, rows)
                checkpoints = replace(checkpoints, last=first)
        course = GuestCourse[TreeDone, GuestTrees](
            run.progress, checkpoints, run.hints, run.hint_progress
        )
        return await guest_train(
            hosts,
            self._own,
            rows,
            self._params,
            resources=run.resources,
            course=course,
            coordinator=run.coordinator,
        )

    async def train_alone(self) -> Floats:
        trees = self._params.trees + self._begins_with[1]  # as many as the model may have
        params = self._params.model_copy(update={"trees": trees, "interaction_constraints": None})
        _, score = await guest_train([], self._own, self._rows, params)
        return score

    def report(self, step: TrainingStep, curve: Sequence[Mapping[str, float | None]]) -> StepReport:
        done = _tree_done(step)
        validation = "" if done.validation_loss is None else f", validation {done.validation_loss:.4f}"
        what = f"training, {self._rows.loss.measure} {done.train_loss:.4f}{validation}"
        losses = {"train": done.train_loss, "validation": done.validation_loss}
        return StepReport(what, done.tree, done.of, losses, done.seconds)

    def check_rows(self) -> None:
        if self._drawn < 2 * self._params.min_child_rows:
            raise no_split("min_child_rows", self._params, self._count, self._drawn)

    def check_step(self, step: TrainingStep) -> None:
        done, params = _tree_done(step), self._params
        self._withheld = done.withheld
        if done.obstacle is None:
            self._split = True
            return
        self._obstacle = done.obstacle
        drawn = params.subsample < 1 or params.colsample < 1 or params.goss_top > 0
        all_parties = done.tree > params.first_joint
        # A later tree is of the same gradients, once those of all classes had none.
        every = done.tree % params.round == 0
        if not self._split and not drawn and all_parties and every:
            raise self._no_split()

    def check_model(self, model: GuestModel) -> None:
        if not any(tree.branches for tree in model.trees[self._begins_with[1] :]):
            raise none_kept() if self._split else self._no_split()

    def ending(self, model: GuestModel) -> str | None:
        if not self._withheld:
            return None
        hosts = " and ".join(f"{host} those of {many:,}" for host, many in self._withheld.items())
        return (
            "note: hosts kept sums of nodes to themselves, by max_sums_a_row and min_summed_rows of "
            f"[policy]: {hosts}; other columns may have split these. Fewer trees, a higher "
            'min_child_rows, more rows, or sums = "hidden" with a coordinator leave fewer out'
        )

    def _no_split(self) -> NothingTrained:
        return no_split(self._obstacle, self._params, self._count, self._drawn)

    @property
    def _count(self) -> int:
        """Of the rows that train."""
        return int(self._rows.train.sum())

    @property
    def _drawn(self) -> int:
        """Of those of a tree."""
        share = self._params.subsample
        return self._count if share == 1 else max(1, round(share * self._count))


class _TreesClient(_TreesGuest, ClientRole[GuestModel]):
    def __init__(self, params: BoostParams, own: PartyColumns, rows: Training, schema: Schema) -> None:
        check_params(params)
        schema.check(own.features)
        super().__init__(params, own, rows)
        self._features, self._schema = own.features, schema

    async def add_up(self, adder: Adder, run: ClientRun) -> tuple[GuestModel, Floats]:
        course = GuestCourse[TreeDone, PooledTrees](run.progress, run.checkpoints)
        params, rows = self._params, self._rows
        model, score = await grow_client(
            adder, self._features, rows, self._schema, params, course=course
        )
        return replace(model, parties=tuple(self._own)), score

    def check_rows(self) -> None:
        """Few rows here may be many with those of others."""


class _TreesHost(HostRole[HostModel]):
    def __init__(self, params: BoostParams, own: PartyColumns, initial: Initial | None = None) -> None:
        self._params, self._binned = params, _binned(own, params)
        self._name, self._initial = own.party, initial
        self._features = own.features if initial else {}

    async def train(self, guest: Peer, run: HostRun[HostModel]) -> HostOutcome:
        checkpoints, initial = run.checkpoints, self._initial
        if initial is not None and not checkpoints.done:
            half = initial.hosts[self._name]
            first = await host_begin(guest, half, initial.training, self._features, run.rows)
            checkpoints = replace(checkpoints, last=first)
        course = HostCourse[HostModel, HostTrees](
            keep=run.keep,
            progress=lambda tree, of: run.progress(f"training {run.job}", tree, of),
            checkpoints=checkpoints,
            hints=run.hints,
            hint_progress=run.hint_progress,
            draws=run.draws,
            sums=run.sums,
        )
        model = await host_train(
            guest,
            self._binned,
            self._params,
            run.participant,
            shown=run.shown,
            course=course,
            coordinator=run.coordinator,
        )
        remark = None
        if not model.splits:
            why = (
                f"guest_trees = {self._params.guest_trees} of the job leaves hosts out of all trees"
                if self._params.guest_trees >= self._params.trees
                else "min_bin_rows and min_child_rows in [policy] and in the job may leave none"
            )
            remark = f"no split is of this party's columns: its half of the model says nothing ({why})"
        return HostOutcome(counted(len(model.splits), "split"), remark)


@dataclass(frozen=True)
class _TreesCoordinator(CoordinatorRole):
    params: BoostParams

    async def train(self, parties: Sequence[Peer], run: CoordinatorRun) -> str:
        def follow(tree: int, of: int) -> None:
            run.progress("opening sums", tree, of)

        trees = await coordinate_trees(parties, self.params, follow)
        return counted(trees, "tree")


@dataclass(frozen=True)
class Trees(ModelKind[GuestModel, HostModel]):
    """Gradient-boosted trees with these settings, which may be added to those of a model."""

    params: BoostParams
    initial: Initial | None = None

    name = "secureboost"
    title = "gradient-boosted trees (SecureBoost)"
    plural = "trees"
    step = "tree"
    guest_half = GuestHalf[GuestModel]
    host_half = HostHalf[HostModel]
    losses = OBJECTIVES
    first_settings = (
        "trees = 50",
        "depth = 4",
        "learning_rate = 0.2",
        '# encryption = "lattice"  # faster by far, where hosts allow it',
    )
    guest_state = GuestTrees
    host_state = HostTrees
    client_state = PooledTrees

    @property
    def coordinator(self) -> str | None:
        return self.params.coordinator

    @property
    def seed(self) -> int:
        return self.params.seed

    @property
    def validation_share(self) -> float:
        return self.params.validation_share

    @property
    def stops_early(self) -> bool:
        return self.params.early_stopping_rounds > 0

    @property
    def tweedie_power(self) -> float:
        return self.params.tweedie_power

    def least_rows(self, policy: PolicySection) -> int:
        return policy.min_child_rows

    @property
    def init_model(self) -> str | None:
        return self.params.init_model

    def begun_with(
        self, guest: GuestModel | None, hosts: Mapping[str, HostModel], training: bytes
    ) -> Self:
        return replace(self, initial=Initial(guest, hosts, training))

    def with_classes(self, classes: int) -> Self:
        if classes == 1:
            return self
        if self.initial is not None:
            raise ConfigError("init_model is not for several classes: leave it out")
        return replace(self, params=self.params.model_copy(update={"classes": classes}))

    @property
    def tells_sums(self) -> BoostParams:
        return self.params

    @classmethod
    def stored_params(cls, settings: Mapping[str, object]) -> BoostParams:
        return BoostParams.of_stored(settings)

    def steps(self, done: int) -> str:
        return f"tree {done:,} of {self.params.most_trees:,}"

    def recorded_rules(self, rules: ColumnRules) -> Mapping[str, Monotone]:
        return rules.monotone

    def guest(self, own: PartyColumns, rows: Training) -> _TreesGuest:
        return _TreesGuest(self.params, own, rows, self.initial)

    def client(self, own: PartyColumns, rows: Training, schema: Schema) -> _TreesClient:
        return _TreesClient(self.params, own, rows, schema)

    def host(self, own: PartyColumns) -> _TreesHost:
        return _TreesHost(self.params, own, self.initial)

    def coordinator_role(self) -> CoordinatorRole:
        return _TreesCoordinator(self.params)

    async def train_pooled(
        self, parties: Sequence[PartyColumns], rows: Training, progress: Callable[[TrainingStep], None]
    ) -> Fitted[GuestModel, HostModel]:
        model, score = await self._pooled(parties, rows, progress)
        return Fitted(*split_by_party(model), score)

    async def _pooled(
        self, parties: Sequence[PartyColumns], rows: Training, progress: Callable[[TrainingStep], None]
    ) -> tuple[GuestModel, Floats]:
        blocks = self.tables(parties, rows).blocks
        checkpoints = Checkpoints[GuestTrees]()
        if self.initial is not None:
            rows = start_from(self.initial, rows)
            features = {own.party: own.features for own in parties}
            checkpoints = Checkpoints(await pooled_begin(self.initial, features, rows))
        course = GuestCourse[TreeDone, GuestTrees](progress, checkpoints)
        return await guest_train([], blocks, rows, self.params, course=course)

    def tables(self, parties: Sequence[PartyColumns], rows: Training) -> BinnedTables:
        check_constraints(self.params, [own.party for own in parties])
        blocks = {own.party: _binned(own, self.params) for own in parties}
        try:
            quantisation_of(len(rows.label), self.params)
        except ValueError as error:
            raise ConfigError(
                f"encryption={self.params.encryption!r} is not for so many rows: {error}"
            ) from None
        return BinnedTables(self.params, blocks, rows)

    @property
    def flatteners(self) -> str:
        names = ["learning_rate", "reg_lambda", *["reg_alpha"] * (self.params.reg_alpha > 0)]
        values = [f"{name} = {getattr(self.params, name):g}" for name in names]
        return f"{' and '.join(values)} in [secureboost]"

    @property
    def advice(self) -> str:
        early = self.params.early_stopping_rounds
        stop = "" if early else ", early_stopping_rounds with a validation_share"
        return (
            "try fewer trees, less depth or a lower learning_rate, a higher min_child_rows or "
            f"reg_lambda{stop}, or more rows; a larger holdout tells more surely"
        )

    def constant(self, model: GuestModel) -> NothingTrained:
        return NothingTrained(
            f"all leaves vanish: {self.flatteners} make every prediction the same",
            "all leaves vanish (learning_rate and reg_lambda of [secureboost])",
        )

    def doubts(
        self, model: GuestModel, known: Floats, rows: Training, halves: Mapping[str, HostModel] = NOTHING
    ) -> str | None:
        found = [] if (bare := _bare(model)) is None else [bare]
        if self.params.guest_trees >= self.params.trees:
            # In the words of the estimators.
            found.append(self._guest_alone(self.params.trees).replace(" = ", "="))
        return "; ".join(found) or None

    def _guest_alone(self, trees: int) -> str:
        every = "the only tree" if trees == 1 else f"all {counted(trees, 'tree')}"
        return (
            f"guest_trees = {self.params.guest_trees} leaves the hosts out of {every}: lower it, or "
            "raise trees"
        )

    def findings(self, model: GuestModel, known: Floats, rows: Training) -> list[Finding]:
        found = []
        if (bare := _bare(model)) is not None:
            found.append(Finding("no_split", bare))
        if len(model.trees) <= self.params.first_joint:
            found.append(Finding("guest_alone", self._guest_alone(len(model.trees))))
        if self.params.early_stopping_rounds and not rows.validation.any():
            text = (
                f"validation_share = {self.params.validation_share:g} leaves no row to decide when to "
                "stop: training went on to the last tree"
            )
            found.append(Finding("no_validation_rows", text))
        return found

    async def idle(self, parties: Sequence[PartyColumns], rows: Training, model: GuestModel) -> str:
        if any(tree.branches for tree in model.trees):
            rate = f"learning_rate={self.params.learning_rate:g}"
            return f"{rate} is so small that no score changes: raise it"

        async def splits(params: BoostParams) -> bool:
            model, _ = await Trees(params)._pooled(parties, rows, lambda step: None)
            return any(tree.branches for tree in model.trees[: params.round])

        return await why_unsplit(self.params, int(rows.train.sum()), splits)

    @classmethod
    def news(cls, step: TrainingStep) -> tuple[str, int, int | None]:
        done = _tree_done(step)
        validation = "" if done.validation_loss is None else f", validation {done.validation_loss:.4f}"
        return f"loss {done.train_loss:.4f}{validation}", done.tree, done.of

    @classmethod
    def size(cls, model: GuestModel) -> str:
        return counted(len(model.trees), "tree")

    @classmethod
    def shorten_document(cls, model: Body) -> None:
        if not model.get("class_starts"):
            model.pop("class_starts", None)

    @classmethod
    def document(cls, model: GuestModel) -> dict[str, object]:
        return {"trees": len(model.trees), "importance": model.importance()}

    @classmethod
    def parameters(cls, half: HostModel) -> int:
        return len(half.splits)

    @classmethod
    def importance(cls, model: GuestModel) -> list[tuple[str, str, int, float]]:
        return model.importance()

    @classmethod
    def explain_guest(
        cls,
        model: GuestModel,
        columns: Collection[str],
        values: Features,
        rules: ColumnRules,
        link: Link,
    ) -> Explanation:
        if model.class_starts:
            no_dependence = "Partial dependence is not drawn of models of several classes."
            return Explanation(importance=model.importance(), no_dependence=no_dependence)
        dependence, no_dependence = dependence_on(model, columns, values)
        return Explanation(
            importance=model.importance(), dependence=dependence, no_dependence=no_dependence
        )

    @classmethod
    def explain_host(cls, half: HostModel, rules: ColumnRules, link: Link) -> Explanation:
        return Explanation(splits=Counter(split.column for split in half.splits))

    @classmethod
    def uses(cls, half: GuestModel | HostModel) -> Sequence[tuple[str, bool]]:
        """Those that have a split."""
        return [(split.column, split.categorical) for split in half.splits]

    @classmethod
    def check_half(cls, model: GuestModel, hosts: Sequence[HostModel] | None = None) -> None:
        model.check(None if hosts is None else [len(half.splits) for half in hosts])

    @classmethod
    def check_explains(cls, model: GuestModel) -> None:
        check_explains(model)

    @classmethod
    def guest_parts(
        cls, hosts: Sequence[Peer], model: GuestModel, batch: GuestBatch
    ) -> AsyncGenerator[ScoredPart, None]:
        return guest_score(
            hosts,
            model,
            batch.features,
            batch.places,
            batch.rows,
            batch.progress,
            explain=batch.explain,
            unknown_levels=batch.unknown_levels,
        )

    @classmethod
    async def host_parts(cls, guest: Peer, half: HostModel, batch: HostBatch) -> int:
        return await host_score(
            guest,
            half,
            batch.features,
            batch.rows,
            batch.course,
            unknown_levels=batch.unknown_levels,
        )

    @classmethod
    def packer(
        cls, half: HostModel, features: Features, own: OwnScores, shows_columns: bool
    ) -> TreesPacker:
        return TreesPacker(half, features)

    @classmethod
    def scorer(cls, model: GuestModel, layouts: Mapping[str, PartLayout], explain: bool) -> TreesScorer:
        return TreesScorer(model, layouts, explain)

    @classmethod
    def answers(cls, host: str, layout: PartLayout) -> TreesAnswers:
        return TreesAnswers(host, layout)


def check_constraints(params: BoostParams, parties: Sequence[str]) -> None:
    """Raises ConfigError for interaction constraints that are not among these parties."""
    constraints = params.interaction_constraints
    if constraints is not None and (why := strangers(constraints, parties)) is not None:
        raise ConfigError(
            f"interaction_constraints {why}",
            for_peer="its interaction_constraints do not fit the parties",
        )


def _binned(own: PartyColumns, params: BoostParams) -> Binned:
    least = max(params.min_bin_rows, own.rules.min_bin_rows)
    return bin_columns(own.features, params.max_bins, least, own.rules.monotone, room=own.scratch.codes)


def _tree_done(step: TrainingStep) -> TreeDone:
    if not isinstance(step, TreeDone):
        raise TypeError("a step of another kind of model")
    return step


def split_by_party(model: GuestModel) -> tuple[GuestModel, dict[str, HostModel]]:
    """The model that the guest has made of everybody's columns, as the parties keep it apart."""
    splits: list[list[Split]] = [[] for _ in model.parties]
    trees = []
    for tree in model.trees:
        branches = dict(tree.branches)
        # In the order in which splits were taken.
        for node, branch in sorted(tree.branches.items(), key=lambda item: item[1].record):
            own = splits[branch.party]
            branches[node] = replace(branch, record=len(own))
            own.append(model.splits[branch.record])
        trees.append(replace(tree, branches=branches))
    guest, *hosts = (tuple(own) for own in splits)
    half = GuestModel(model.parties, model.start, tuple(trees), guest, model.class_starts)
    return half, {name: HostModel(own) for name, own in zip(model.parties[1:], hosts, strict=True)}


def _bare(model: GuestModel) -> str | None:
    """What there is to say of trees without a split, if they are many."""
    bare = sum(not tree.branches for tree in model.trees)
    if not _MANY * len(model.trees) < bare < len(model.trees):  # without any split it is no model
        return None
    share = f"{bare:,} of {counted(len(model.trees), 'tree')}"
    return f"{share} {'has' if bare == 1 else 'have'} no split: fewer trees do as well"
