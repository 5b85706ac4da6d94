"""Linear models: generalised linear models over the columns of all parties."""

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from vfl.arrays import Floats, Mask
from vfl.errors import PeerStopped
from vfl.learn.across import PairOfParties
from vfl.learn.binning import Features
from vfl.learn.design import Design
from vfl.learn.glm import APART, are_apart
from vfl.learn.inference import JointTest
from vfl.learn.losses import FAMILIES, Family, Link, loss_of
from vfl.learn.matrix import Whole
from vfl.learn.params import GlmParams
from vfl.models.across import (
    guest_levels,
    host_half,
    named_cells,
    own_pairs,
    plain_pairs,
    said_cells,
)
from vfl.models.findings import Finding, NothingTrained, remark_on
from vfl.models.fit_progress import iteration_done, report_fit, said_choice, said_zeros
from vfl.models.halves import GuestHalf, HostHalf
from vfl.models.inference import column_tests, said_aliases, said_errors, said_inference, shorten
from vfl.models.kind import (
    NOTHING,
    ColumnRules,
    CoordinatorRole,
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
from vfl.models.linear_client import LinearClient
from vfl.models.linear_columns import (
    check_levels,
    check_rules,
    own_scores,
    prepare_columns,
    shorten_design,
)
from vfl.models.linear_coordinator import LinearCoordinator
from vfl.models.linear_parts import LinearAnswers, LinearPacker, LinearScorer
from vfl.models.own_penalties import said_alone, said_bands, said_credible, said_idle
from vfl.models.relativities import Line, lines
from vfl.models.unbounded import (
    HELP,
    name_host_levels,
    name_own_levels,
    same_label_levels,
    unbounded_cells,
    unbounded_levels,
)
from vfl.models.unbounded import say as say_unbounded
from vfl.net.peer import Peer
from vfl.party.documents import Body
from vfl.party.linear_rules import GlmSection
from vfl.party.policy_section import PolicySection
from vfl.protocols.common.batches import AskingCourse, ScoredPart
from vfl.protocols.common.course import GuestCourse, HostCourse
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.fit import Fit, GuestFitState, HostFit, HostFitState, IterationDone
from vfl.protocols.linear.fitting import guest_fit
from vfl.protocols.linear.hidden import (
    BlindIteration,
    HiddenState,
    hidden_guest_fit,
    hidden_host_fit,
)
from vfl.protocols.linear.host_fitting import host_fit
from vfl.protocols.linear.plain import DesignTables, plain_fit
from vfl.protocols.linear.scoring import (
    GuestGlm,
    HostGlm,
    guest_glm_score,
    host_glm_score,
)
from vfl.protocols.linear.start import SeparableLabel
from vfl.protocols.lookup.layout import PartLayout
from vfl.protocols.pooled.bins import Schema
from vfl.protocols.pooled.glm import PooledGlmState
from vfl.text import counted


class _LinearGuest(GuestRole[GuestGlm]):
    def __init__(self, kind: "Linear", own: PartyColumns, rows: Training) -> None:
        self._kind, self._params, self._rows, self._party = kind, kind.params, rows, own.party
        self._design, self._matrix = prepare_columns(
            *(own.table, own.features, rows.train, own.rules.glm, kind.params, own.scratch),
            exposure=rows.sizes,
            about=rows.about,
        )
        self._idle = said_idle(own.rules.glm, kind.params)
        self._across = guest_levels(own.table, self._design, own.features, kind.params)

    async def train(self, hosts: Sequence[Peer], run: GuestRun) -> tuple[GuestGlm, Floats]:
        try:
            fit = await (self._fit if self._kind.coordinator is None else self._hidden_fit)(hosts, run)
        except SeparableLabel as error:
            names = same_label_levels(self._design, self._matrix, self._rows)
            raise name_own_levels(error, names) from None
        parties = (self._party, *(host.name for host in hosts))
        model = GuestGlm.of(parties, self._design, fit.coefficients[self._party], fit)
        return replace(model, across=self._params.across), fit.score

    async def _fit(self, hosts: Sequence[Peer], run: GuestRun) -> Fit:
        course = GuestCourse[IterationDone, GuestFitState](
            run.progress,
            run.checkpoints,
            run.hints,
            run.hint_progress,
            run.fit_progress,
            run.inference_progress,
            run.labels,
        )
        return await guest_fit(
            hosts,
            {self._party: self._matrix},
            self._rows,
            self._params,
            resources=run.resources,
            course=course,
            across=self._across,
        )

    async def _hidden_fit(self, hosts: Sequence[Peer], run: GuestRun) -> Fit:
        """The fit in which a coordinator has the key."""
        if run.coordinator is None:
            raise ValueError("hidden scores need a coordinator")
        fit, score = await hidden_guest_fit(
            run.coordinator,
            hosts,
            self._matrix,
            self._rows,
            self._params,
            run.resources,
            GuestCourse(run.progress, run.checkpoints),
        )
        free = int(self._params.fit_intercept)
        return Fit(
            float(fit.coefficients[:free].sum()),
            {self._party: fit.coefficients[free:]},
            score,
            fit.iterations,
            fit.converged,
            None,
            None,
            fit.gradient,
        )

    async def train_alone(self) -> Floats:
        fit = await guest_fit([], {self._party: self._matrix}, self._rows, self._params)
        return fit.score

    def report(self, step: TrainingStep, curve: Sequence[Mapping[str, float | None]]) -> StepReport:
        return report_fit(step, curve, self._params.tolerance)

    def ending(self, model: GuestGlm) -> str:
        many = counted(model.iterations, "iteration")
        at = f"gradient {model.gradient:.1e}"
        if model.deviance is not None and model.explained is not None:
            at = f"deviance {model.deviance:.4f}, D² {model.explained:.4f}, {at}"
        rows = self._rows.weighing
        if model.readable:
            at += f", {min(model.readable, rows):,} of {rows:,} labels readable by a host that cheats"
        at += said_choice(model, self._kind.family)
        if self._params.l1_ratio and (zeros := said_zeros(model.part)):
            at += f", {zeros}"
        own = [*(said_bands(model.part) if self._params.l1_ratio else ()), *self._idle]
        at += "".join(f", {text}" for text in own)
        if model.converged:
            ended = f"converged after {many}: {at}"
            return ended if not self._params.inference else f"{ended}{said_errors(model)}"
        limits = "max_iterations" if self._params.max_labels is None else "max_iterations, max_labels"
        return (
            f"note: not converged after {many}: {at} (tolerance {self._params.tolerance:.1e}); the "
            f"model is kept as it is: raise {limits} or alpha in [glm]"
        )


class _LinearHost(HostRole[HostGlm]):
    """Its columns are prepared once the guest has said which rows train."""

    def __init__(self, kind: "Linear", own: PartyColumns) -> None:
        self._kind, self._params, self._own = kind, kind.params, own

    async def train(self, guest: Peer, run: HostRun[HostGlm]) -> HostOutcome:
        designs: list[Design] = []
        kept: list[HostGlm] = []
        alone: list[str] = []  # columns that the guest may have seen

        def prepare(training: Mask) -> Whole:
            run.admit(training)
            own = self._own
            given = own.table, own.features, training, own.rules.glm, self._params, own.scratch
            design, matrix = prepare_columns(*given, about=own.about)
            designs.append(design)
            return matrix

        def keep(fit: HostFit) -> None:
            (design,) = designs
            kept.append(host_half(design, self._params, (guest.name, run.participant.name), fit))
            names = dict.fromkeys(design.coefficients[place][0] for place in fit.alone)
            alone.extend(names)
            run.keep(kept[-1])

        def follow(iteration: int, of: int) -> None:
            run.progress(f"fitting {run.job}, at most {counted(of, 'iteration')}", iteration, None)

        reached: list[Floats] = []

        def unbounded(coefficients: Floats) -> list[tuple[str, str]]:
            link = loss_of(self._kind.family).link
            own = coefficients[: len(designs[0].coefficients)].tolist()  # cells are behind them
            return unbounded_levels(designs[0], own, link, self._params.least_alpha)

        write = run.checkpoints.write

        def remember(state: HostFitState | HiddenState) -> None:
            reached[:] = [state.block.beta]
            if write is not None:
                write(state)

        def crossed() -> Sequence[PairOfParties]:
            least = self._own.rules.glm.min_level_rows
            name = run.participant.name
            return own_pairs(self._own.table, designs[0], name, self._params, least)

        run = replace(run, checkpoints=replace(run.checkpoints, write=remember))
        try:
            coefficients = await self._fit(guest, run, prepare, keep, follow, crossed)
        except PeerStopped as error:
            raise name_host_levels(error, unbounded(*reached) if reached else []) from None
        names = unbounded(coefficients)
        for half in kept:
            link = loss_of(self._kind.family).link
            names += unbounded_cells(half.across, link, self._params.least_alpha)
        remark = f"{say_unbounded(names)}: {HELP}" if names else remark_on(coefficients)
        said = [remark, *(text for half in kept for text in said_aliases(half))]
        said += [text for half in kept for text in said_cells(half.across)]
        if self._params.l1_ratio and not remark:
            said += [said_zeros(half.part) for half in kept]
            said += [text for half in kept for text in said_bands(half.part)]
        said += [said_alone(alone, guest.name), *said_idle(self._own.rules.glm, self._params)]
        remarks = "; ".join(text for text in said if text) or None
        return HostOutcome(counted(len(coefficients), "coefficient"), remarks)

    async def _fit(
        self,
        guest: Peer,
        run: HostRun[HostGlm],
        prepare: Callable[[Mask], Whole],
        keep: Callable[[HostFit], None],
        follow: Callable[[int, int], None],
        crossed: Callable[[], Sequence[PairOfParties]],
    ) -> Floats:
        """The coefficients of this host's columns."""
        params, own = self._params, run.participant
        if self._kind.coordinator is None:
            open_course = HostCourse[HostFit, HostFitState](
                *(keep, follow, run.checkpoints, run.hints, run.hint_progress),
                inference_progress=lambda done, of: run.progress("standard errors, %", done, of),
            )
            return await host_fit(guest, run.rows, prepare, params, own, open_course, crossed)
        if run.coordinator is None:
            raise ValueError("hidden scores need a coordinator")
        course = HostCourse[HostFit, HiddenState](keep, follow, run.checkpoints)
        fit = await hidden_host_fit(
            *(guest, run.coordinator, run.rows, prepare, params, self._kind.family, own, course)
        )
        return fit.coefficients


@dataclass(frozen=True)
class Linear(ModelKind[GuestGlm, HostGlm]):
    """A generalised linear model with these settings."""

    params: GlmParams
    family: Family

    name = "glm"
    title = "generalised linear model"
    plural = "linear models"
    step = "iteration"
    curve_measure = "deviance"
    guest_half = GuestHalf[GuestGlm]
    host_half = HostHalf[HostGlm]
    losses = FAMILIES
    first_settings = (
        "alpha = 0.001  # L2 penalty; 0 is the plain maximum of the likelihood",
        '# encryption = "lattice"  # faster by far, where hosts allow it',
    )
    has_relativities = True

    @property
    def guest_state(self) -> type[GuestFitState | HiddenState]:  # type: ignore[override]
        return GuestFitState if self.coordinator is None else HiddenState

    @property
    def host_state(self) -> type[HostFitState | HiddenState]:  # type: ignore[override]
        return HostFitState if self.coordinator is None else HiddenState

    client_state = PooledGlmState

    @property
    def coordinator(self) -> str | None:
        return self.params.coordinator

    @property
    def seed(self) -> int:
        return self.params.seed

    @property
    def has_folds(self) -> bool:
        return bool(self.params.alphas)

    @property
    def tweedie_power(self) -> float:
        return self.params.tweedie_power

    def least_rows(self, policy: PolicySection) -> int:
        return policy.min_intersection

    @classmethod
    def stored_params(cls, settings: Mapping[str, object]) -> GlmParams:
        own = {name: value for name, value in settings.items() if name not in GlmSection.model_fields}
        return GlmParams.model_validate(own)

    def steps(self, done: int) -> str:
        return f"iteration {done - 1:,} of at most {self.params.max_iterations:,}"

    @classmethod
    def check_rules(cls, rules: ColumnRules, columns: Collection[str], table: str) -> None:
        check_rules(rules.glm, columns, table)

    @classmethod
    def check_levels(cls, rules: ColumnRules, features: Features, table: str) -> None:
        check_levels(rules.glm, features, table)

    def guest(self, own: PartyColumns, rows: Training) -> _LinearGuest:
        return _LinearGuest(self, own, rows)

    def client(self, own: PartyColumns, rows: Training, schema: Schema) -> LinearClient:
        return LinearClient(self.params, own, rows, schema, lambda: _LinearGuest(self, own, rows))

    def host(self, own: PartyColumns) -> _LinearHost:
        return _LinearHost(self, own)

    def coordinator_role(self) -> CoordinatorRole:
        return LinearCoordinator(self.params, self.family)

    async def train_pooled(
        self, parties: Sequence[PartyColumns], rows: Training, progress: Callable[[TrainingStep], None]
    ) -> Fitted[GuestGlm, HostGlm]:
        prepared = self._prepared(parties, rows)
        designs = {name: design for name, (design, _) in prepared.items()}
        across = plain_pairs(parties, designs, self.params)
        matrices = {name: matrix for name, (_, matrix) in prepared.items()}
        guest = parties[0].party
        held = {guest: matrices.pop(guest)}
        try:
            fit, theirs = await plain_fit(held, matrices, rows, self.params, progress, across)
        except SeparableLabel as error:
            names = [
                (column if name == guest else f"{name}:{column}", level)
                for name, (design, matrix) in prepared.items()
                for column, level in same_label_levels(design, matrix, rows)
            ]
            raise name_own_levels(error, names) from None
        model = GuestGlm.of(tuple(designs), designs[guest], fit.coefficients[guest], fit)
        model = replace(model, across=self.params.across)
        halves = {}
        for name, beta in theirs.items():
            cells = named_cells(across, fit.cells.get(name, ()), self.params)
            own = HostFit(beta, fit.converged, fit.inferences.get(name), across=cells)
            halves[name] = host_half(designs[name], self.params, (guest, name), own)
        return Fitted(model, halves, fit.score)

    def tables(self, parties: Sequence[PartyColumns], rows: Training) -> DesignTables:
        prepared = self._prepared(parties, rows)
        matrices = {name: matrix for name, (_, matrix) in prepared.items()}
        designs = {name: design for name, (design, _) in prepared.items()}
        across = plain_pairs(parties, designs, self.params)
        return DesignTables(self.params, matrices, rows, across)

    def _prepared(
        self, parties: Sequence[PartyColumns], rows: Training
    ) -> dict[str, tuple[Design, Whole]]:
        return {
            own.party: prepare_columns(
                *(own.table, own.features, rows.train, own.rules.glm, self.params),
                exposure=rows.sizes if place == 0 else None,  # the guest's
            )
            for place, own in enumerate(parties)
        }

    @property
    def flatteners(self) -> str:
        return self._penalties

    @property
    def advice(self) -> str:
        return (
            "try a higher alpha in [glm], a higher min_level_rows or fewer columns at each party, or "
            "more rows; a larger holdout tells more surely"
        )

    @property
    def _penalties(self) -> str:
        if self.params.alphas:
            return "alphas in [glm]"
        return f"alpha = {self.params.alpha:g} in [glm]"

    def constant(self, model: GuestGlm) -> NothingTrained:
        if self.params.least_alpha > 0:
            return NothingTrained(
                f"{self._penalties} leaves no coefficient: lower it",
                "all coefficients vanish (alpha of [glm])",
            )
        if model.iterations == 0:
            return NothingTrained(
                f"under tolerance = {self.params.tolerance:g} in [glm] the fit ended before its first "
                "step: lower it",
                "the fit ended before its first step (tolerance of [glm])",
            )
        return NothingTrained(
            "no column of any party tells anything about the label in the rows that train",
            "no column tells anything about the label",
            settings=False,
        )

    def findings(self, model: GuestGlm, known: Floats, rows: Training) -> list[Finding]:
        names = self._unbounded(model, rows.loss.link)
        if names:
            return [Finding("guest_apart", f"{say_unbounded(names)}: {HELP}")]
        if not are_apart(known, rows.loss, self.params.least_alpha):
            return []
        apart = f"{APART}; no level of this party's own columns is one, and a host is told of its own"
        return [Finding("apart", apart)]

    def _unbounded(self, model: GuestGlm | HostGlm, link: Link) -> list[tuple[str, str]]:
        return unbounded_levels(
            model.part.design, model.part.coefficients, link, self.params.least_alpha
        )

    async def idle(self, parties: Sequence[PartyColumns], rows: Training, model: GuestGlm) -> str:
        if self.params.alphas:
            return "alphas= keep all coefficients at 0: add lower ones"
        if self.params.alpha:
            return f"alpha={self.params.alpha:g} keeps all coefficients at 0: lower it"
        return "no column tells the rows apart by their label"

    def doubts(
        self, model: GuestGlm, known: Floats, rows: Training, halves: Mapping[str, HostGlm] = NOTHING
    ) -> str | None:
        names = self._unbounded(model, rows.loss.link)
        for name, half in halves.items():
            theirs = self._unbounded(half, rows.loss.link)
            theirs += unbounded_cells(half.across, rows.loss.link, self.params.least_alpha)
            names += [(f"{name}:{column}", level) for column, level in theirs]
        if names:
            return f"{say_unbounded(names)}: {HELP}"
        return APART if are_apart(known, rows.loss, self.params.least_alpha) else None

    @classmethod
    def news(cls, step: TrainingStep) -> tuple[str, int, int | None]:
        if isinstance(step, BlindIteration):
            return f"gradient {step.gradient:.1e}", step.iteration, None
        done = iteration_done(step)
        return f"deviance {done.deviance:.4f}, gradient {done.gradient:.1e}", done.iteration, None

    @classmethod
    def parameters(cls, half: HostGlm) -> int:
        return len(half.part.coefficients) + sum(len(one.cells) for one in half.across)

    @classmethod
    def size(cls, model: GuestGlm) -> str:
        not_ = "" if model.converged else "NOT "
        return f"{not_}converged after {counted(model.iterations, 'iteration')}"

    @classmethod
    def by_levels(cls, model: GuestGlm, features: Features) -> Features:
        made = {one.name: one for one in model.part.design.factors if one.labels or one.grouped}
        return {
            name: made[name].named(values) if name in made else values
            for name, values in features.items()
        }

    @classmethod
    def shorten_document(cls, model: Body) -> None:
        shorten_design(model["part"]["design"])
        shorten(model)
        for name in (one for one in ("choice", "variance", "across") if not model.get(one)):
            model.pop(name, None)

    @classmethod
    def document(cls, model: GuestGlm) -> dict[str, object]:
        return dict(model.ending)

    @classmethod
    def relativities(
        cls, half: GuestGlm | HostGlm, link: Link, steps: Mapping[str, float] | None = None
    ) -> list[Line]:
        return lines(half, link, steps)

    @classmethod
    def inferred(cls, half: GuestGlm | HostGlm) -> tuple[Mapping[str, JointTest], Sequence[str]]:
        own = *said_bands(half.part), *said_credible(half)
        return column_tests(half), [*said_inference(half), *own]

    @classmethod
    def ending(cls, model: GuestGlm) -> Mapping[str, float | None]:
        return model.ending

    @classmethod
    def remark(cls, half: HostGlm, guest: str) -> str | None:
        return None if half.converged else f"note: the fit had not converged when {guest} ended it"

    @classmethod
    def explain_guest(
        cls, model: GuestGlm, columns: Collection[str], values: Features, rules: ColumnRules, link: Link
    ) -> Explanation:
        return _explained(model, cls.relativities(model, link, rules.glm.step))

    @classmethod
    def explain_host(cls, half: HostGlm, rules: ColumnRules, link: Link) -> Explanation:
        return _explained(half, cls.relativities(half, link, rules.glm.step))

    @classmethod
    def uses(cls, half: GuestGlm | HostGlm) -> Sequence[tuple[str, bool]]:
        """All of them: each has a coefficient."""
        design = half.part.design
        factors = [(factor.name, factor.edges is None) for factor in design.factors]
        return [*factors, *((one.name, False) for one in design.numeric)]

    @classmethod
    def own_scores(
        cls, half: GuestGlm | HostGlm, table: str, features: Features, rows: int
    ) -> OwnScores:
        return own_scores(table, half.part, features, rows)

    @classmethod
    def guest_parts(
        cls, hosts: Sequence[Peer], model: GuestGlm, batch: GuestBatch
    ) -> AsyncGenerator[ScoredPart, None]:
        return guest_glm_score(
            hosts,
            model,
            batch.features,
            batch.own.rows,
            batch.places,
            AskingCourse(batch.progress, batch.unknown_levels, batch.randomness),
            explain=batch.explain,
        )

    @classmethod
    async def host_parts(cls, guest: Peer, half: HostGlm, batch: HostBatch) -> int:
        return await host_glm_score(
            guest,
            half,
            batch.features,
            batch.own.rows,
            batch.own.missing,
            batch.course,
            show_columns=batch.shows_columns,
            unknown_levels=batch.unknown_levels,
        )

    @classmethod
    def packer(
        cls, half: HostGlm, features: Features, own: OwnScores, shows_columns: bool
    ) -> LinearPacker:
        return LinearPacker(half, features, own, shows_columns)

    @classmethod
    def scorer(cls, model: GuestGlm, layouts: Mapping[str, PartLayout], explain: bool) -> LinearScorer:
        return LinearScorer(model, layouts, explain)

    @classmethod
    def answers(cls, host: str, layout: PartLayout) -> LinearAnswers:
        return LinearAnswers(host, layout)


def _explained(half: GuestGlm | HostGlm, own: Sequence[Line]) -> Explanation:
    tests, said = Linear.inferred(half)
    return Explanation(own, tests=tests, inferred=said)
