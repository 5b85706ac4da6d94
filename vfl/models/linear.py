"""Linear models: generalised linear models over the columns of all parties."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vfl.arrays import Floats, Mask
from vfl.learn.binning import Features
from vfl.learn.design import Design, Matrix
from vfl.learn.glm import APART, are_apart
from vfl.learn.losses import FAMILIES, Family, Link
from vfl.learn.params import GlmParams
from vfl.models.findings import Finding, NothingTrained, remark_on
from vfl.models.fit_progress import iteration_done, report_fit
from vfl.models.halves import GuestHalf, HostHalf
from vfl.models.kind import (
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
from vfl.models.linear_client import LinearClient
from vfl.models.linear_columns import check_levels, check_rules, own_scores, prepare_columns
from vfl.models.relativities import Line, lines
from vfl.net.peer import Peer
from vfl.party.sections import PolicySection
from vfl.protocols.common.batches import ScoredPart
from vfl.protocols.common.course import GuestCourse, HostCourse
from vfl.protocols.common.key import generate_key
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.fit import Fit, GuestFitState, HostFit, HostFitState, IterationDone
from vfl.protocols.linear.fitting import guest_fit, host_fit
from vfl.protocols.linear.hidden import (
    BlindIteration,
    HiddenState,
    coordinator_fit,
    hidden_guest_fit,
    hidden_host_fit,
)
from vfl.protocols.linear.plain import DesignTables, plain_fit
from vfl.protocols.linear.scoring import (
    GuestGlm,
    HostGlm,
    LinearPart,
    guest_glm_score,
    host_glm_score,
)
from vfl.protocols.pooled.bins import Schema
from vfl.protocols.pooled.glm import PooledGlmState
from vfl.text import counted


class _LinearGuest(GuestRole[GuestGlm]):
    def __init__(self, kind: "Linear", own: PartyColumns, rows: Training) -> None:
        self._kind, self._params, self._rows, self._party = kind, kind.params, rows, own.party
        self._design, self._matrix = prepare_columns(
            own.table, own.features, rows.train, own.rules.glm, kind.params.alpha
        )

    async def train(self, hosts: Sequence[Peer], run: GuestRun) -> tuple[GuestGlm, Floats]:
        fit = await (self._fit if self._kind.coordinator is None else self._hidden_fit)(hosts, run)
        parties = (self._party, *(host.name for host in hosts))
        return GuestGlm.of(parties, self._design, fit.coefficients[self._party], fit), fit.score

    async def _fit(self, hosts: Sequence[Peer], run: GuestRun) -> Fit:
        course = GuestCourse[IterationDone, GuestFitState](
            run.progress, run.checkpoints, run.hints, run.hint_progress, run.labels
        )
        return await guest_fit(
            hosts,
            {self._party: self._matrix},
            self._rows,
            self._params,
            resources=run.resources,
            course=course,
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
        rows = int(self._rows.train.sum())
        if model.readable:
            at += f", {min(model.readable, rows):,} of {rows:,} labels readable by a host that cheats"
        if model.converged:
            return f"converged after {many}: {at}"
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

        def prepare(training: Mask) -> Matrix:
            run.admit(training)
            own, alpha = self._own, self._params.alpha
            design, matrix = prepare_columns(own.table, own.features, training, own.rules.glm, alpha)
            designs.append(design)
            return matrix

        def keep(fit: HostFit) -> None:
            (design,) = designs
            run.keep(HostGlm(LinearPart(design, tuple(fit.coefficients.tolist())), fit.converged))

        def follow(iteration: int, of: int) -> None:
            run.progress(f"fitting {run.job}, at most {counted(of, 'iteration')}", iteration, None)

        params, own = self._params, run.participant
        if self._kind.coordinator is None:
            course = HostCourse[HostFit, HostFitState](
                keep, follow, run.checkpoints, run.hints, run.hint_progress
            )
            coefficients = await host_fit(guest, run.rows, prepare, params, own, course)
        else:
            if run.coordinator is None:
                raise ValueError("hidden scores need a coordinator")
            followed = HostCourse[HostFit, HiddenState](keep, follow, run.checkpoints)
            fit = await hidden_host_fit(
                guest,
                run.coordinator,
                run.rows,
                prepare,
                params,
                self._kind.family,
                own,
                followed,
            )
            coefficients = fit.coefficients
        return HostOutcome(counted(len(coefficients), "coefficient"), remark_on(coefficients))


@dataclass(frozen=True)
class _LinearCoordinator(CoordinatorRole):
    params: GlmParams
    family: Family

    async def train(self, parties: Sequence[Peer], run: CoordinatorRun) -> str:
        def follow(step: BlindIteration) -> None:
            most = counted(step.of, "iteration")
            run.progress(f"gradient {step.gradient:.1e}, at most {most}", step.iteration, None)

        key = await asyncio.to_thread(generate_key, self.params)
        quadratic = self.family == "logistic"
        converged = await coordinator_fit(
            parties, self.params, quadratic, key, run.resources, progress=follow, done=run.done
        )
        return "converged" if converged else "not converged"


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
    def tweedie_power(self) -> float:
        return self.params.tweedie_power

    def least_rows(self, policy: PolicySection) -> int:
        return policy.min_intersection

    @classmethod
    def stored_params(cls, settings: Mapping[str, object]) -> GlmParams:
        return GlmParams.model_validate(settings)

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
        return _LinearCoordinator(self.params, self.family)

    async def train_pooled(
        self, parties: Sequence[PartyColumns], rows: Training, progress: Callable[[TrainingStep], None]
    ) -> Fitted[GuestGlm, HostGlm]:
        prepared = self._prepared(parties, rows)
        designs = {name: design for name, (design, _) in prepared.items()}
        matrices = {name: matrix for name, (_, matrix) in prepared.items()}
        guest = parties[0].party
        held = {guest: matrices.pop(guest)}
        fit, theirs = await plain_fit(held, matrices, rows, self.params, progress)
        model = GuestGlm.of(tuple(designs), designs[guest], fit.coefficients[guest], fit)
        halves = {
            name: HostGlm(LinearPart(designs[name], tuple(beta.tolist())), fit.converged)
            for name, beta in theirs.items()
        }
        return Fitted(model, halves, fit.score)

    def tables(self, parties: Sequence[PartyColumns], rows: Training) -> DesignTables:
        prepared = self._prepared(parties, rows)
        matrices = {name: matrix for name, (_, matrix) in prepared.items()}
        return DesignTables(self.params, matrices, rows)

    def _prepared(
        self, parties: Sequence[PartyColumns], rows: Training
    ) -> dict[str, tuple[Design, Matrix]]:
        every = np.ones(len(rows.label), np.bool_)
        return {
            own.party: prepare_columns(own.table, own.features, every, own.rules.glm, self.params.alpha)
            for own in parties
        }

    @property
    def flatteners(self) -> str:
        return f"alpha = {self.params.alpha:g} in [glm]"

    @property
    def advice(self) -> str:
        return (
            "try a higher alpha in [glm], a higher min_level_rows or fewer columns at each party, or "
            "more rows; a larger holdout tells more surely"
        )

    def constant(self, model: GuestGlm) -> NothingTrained:
        if self.params.alpha > 0:
            return NothingTrained(
                f"alpha = {self.params.alpha:g} in [glm] leaves no coefficient: lower it",
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
        return [Finding("apart", APART)] if are_apart(known, rows.loss, self.params.alpha) else []

    async def idle(self, parties: Sequence[PartyColumns], rows: Training, model: GuestGlm) -> str:
        if self.params.alpha:
            return f"alpha={self.params.alpha:g} keeps all coefficients at 0: lower it"
        return "no column tells the rows apart by their label"

    def doubts(self, model: GuestGlm, known: Floats, rows: Training) -> str | None:
        return APART if are_apart(known, rows.loss, self.params.alpha) else None

    @classmethod
    def news(cls, step: TrainingStep) -> tuple[str, int, int | None]:
        if isinstance(step, BlindIteration):
            return f"gradient {step.gradient:.1e}", step.iteration, None
        done = iteration_done(step)
        return f"deviance {done.deviance:.4f}, gradient {done.gradient:.1e}", done.iteration, None

    @classmethod
    def parameters(cls, half: HostGlm) -> int:
        return len(half.part.coefficients)

    @classmethod
    def size(cls, model: GuestGlm) -> str:
        not_ = "" if model.converged else "NOT "
        return f"{not_}converged after {counted(model.iterations, 'iteration')}"

    @classmethod
    def document(cls, model: GuestGlm) -> dict[str, object]:
        return dict(model.ending)

    @classmethod
    def relativities(
        cls, half: GuestGlm | HostGlm, link: Link, steps: Mapping[str, float] | None = None
    ) -> list[Line]:
        return lines(half, link, steps)

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
        return Explanation(lines=cls.relativities(model, link, rules.glm.step))

    @classmethod
    def explain_host(cls, half: HostGlm, rules: ColumnRules, link: Link) -> Explanation:
        return Explanation(lines=cls.relativities(half, link, rules.glm.step))

    @classmethod
    def uses(cls, half: GuestGlm | HostGlm) -> Sequence[tuple[str, bool]]:
        """All of them: each has a coefficient."""
        design = half.part.design
        factors = [(factor.name, factor.edges is None) for factor in design.factors]
        return [*factors, *((covariate.name, False) for covariate in design.covariates)]

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
            batch.progress,
            explain=batch.explain,
            unknown_levels=batch.unknown_levels,
        )

    @classmethod
    async def host_parts(cls, guest: Peer, half: HostGlm, batch: HostBatch) -> int:
        return await host_glm_score(
            guest,
            half.part,
            batch.features,
            batch.own.rows,
            batch.own.missing,
            batch.course,
            show_columns=batch.shows_columns,
            unknown_levels=batch.unknown_levels,
        )
