"""The guest's part of training, by kind of model: what is prepared alone, what is done with hosts."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeVar

from vfl.crypto.workers import Operations
from vfl.errors import VflError
from vfl.jobs.agreement import Agreement
from vfl.jobs.connect import Office
from vfl.jobs.coordinator import coordinator_of
from vfl.jobs.findings import check_rows, no_split, none_kept
from vfl.jobs.hints import GuestHints
from vfl.jobs.offer import Offer
from vfl.jobs.resume import News, Unfinished
from vfl.jobs.show import Show
from vfl.learn.binning import Features, bin_columns
from vfl.learn.losses import Floats
from vfl.learn.params import BoostParams, GlmParams
from vfl.learn.tree import Obstacle
from vfl.net.peer import Peer
from vfl.party.config import Job, Party
from vfl.party.linear import prepared
from vfl.party.store import Store
from vfl.protocols.common.checkpoints import Checkpoints, State
from vfl.protocols.common.course import GuestCourse
from vfl.protocols.common.lattice_hints import NoShelf, Shelf
from vfl.protocols.common.participant import Resources
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.fitting import Fit, GuestFitState, IterationDone, guest_fit
from vfl.protocols.linear.hidden import BlindIteration, HiddenState, hidden_guest_fit
from vfl.protocols.linear.scoring import GuestGlm
from vfl.protocols.trees.grower import GuestTrees, TreeDone
from vfl.protocols.trees.model import GuestModel
from vfl.protocols.trees.training import guest_train
from vfl.text import counted

S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class Run:
    """What all parties have agreed to."""

    office: Office
    offer: Offer
    agreement: Agreement
    unfinished: Unfinished
    wait: float  # seconds for a party to be reached
    sessions: AsyncExitStack  # beside those with hosts; they end with the attempt, and are told how
    keeps_hints: bool = True  # whether no other run is at those of the alignment

    def hints(self, model: str) -> Shelf:
        """Where hints of the alignment are kept, for this kind of model."""
        if not self.keeps_hints:
            return NoShelf()
        store = Store(self.office.party.party.store)
        return GuestHints(store, f"{self.offer.alignment} {model}", self.office.fingerprints)


class Learner(ABC):
    """Trains the model of a job on aligned rows.

    Making one prepares the guest's columns, before any host is asked; raises DataError for columns that
    cannot be used.
    """

    params: BoostParams | GlmParams

    def __init__(self, show: Show) -> None:
        self._show = show
        self.news = News()
        self.others: list[Peer] = []
        """Those of the run's sessions that are beside those with hosts."""

    @property
    def phases(self) -> list[dict[str, float]]:
        """Seconds by phase, of each tree or iteration."""
        return self.news.phases

    @property
    def curve(self) -> list[dict[str, float | None]]:
        """The losses, of each tree or iteration."""
        return self.news.curve

    def _receiving_hints(self, done: int, of: int) -> None:
        self._show.progress("receiving hints", done, of)

    def begin(self, run: Run, kind: type[S]) -> Checkpoints[S]:
        """Where the run goes on from; what there is to tell of it so far. Raises ModelError."""
        checkpoints = run.unfinished.checkpoints(kind, run.offer.done)
        self.news, self.others = run.unfinished.news, []
        return checkpoints

    @abstractmethod
    def steps(self, done: int) -> str:
        """So many steps of its checkpoints, in words."""

    @abstractmethod
    async def learn(
        self, hosts: Sequence[Peer], run: Run, operations: Operations
    ) -> tuple[GuestModel | GuestGlm, Floats]:
        """The guest's half and every aligned row's score, shape (rows,), NaN where nobody knows it.

        May be called again, when an attempt has failed.
        """

    @abstractmethod
    async def alone(self) -> Floats:
        """Every aligned row's score by the guest's own columns, in the same way, without any host."""


def learner_of(job: Job, party: Party, features: Features, rows: Training, show: Show) -> Learner:
    """The learner of the job's kind of model. `features` are those of the aligned rows."""
    if job.job.model == "glm":
        return _Linear(job.glm, party, features, rows, show)
    return _Trees(job.secureboost, party, features, rows, show)


class _Trees(Learner):
    def __init__(
        self, params: BoostParams, party: Party, features: Features, rows: Training, show: Show
    ) -> None:
        super().__init__(show)
        self.params: BoostParams = params
        self._party, self._rows = party, rows
        monotone = party.data.monotone
        binned = bin_columns(features, params.max_bins, params.min_bin_rows, monotone)
        self._own = {party.name: binned}
        self._split = False  # whether any tree has a split
        self._obstacle: Obstacle = "label"  # of the last tree without one

    def steps(self, done: int) -> str:
        return f"tree {done:,} of {self.params.trees:,}"

    async def learn(
        self, hosts: Sequence[Peer], run: Run, operations: Operations
    ) -> tuple[GuestModel, Floats]:
        check_rows(self.params, int(self._rows.train.sum()))
        checkpoints = self.begin(run, GuestTrees)
        kept = [] if checkpoints.last is None else checkpoints.last.trees
        self._split = any(tree.branches for tree in kept)
        model, score = await guest_train(
            hosts,
            self._own,
            self._rows,
            self.params,
            resources=Resources(self._party.party.machine, operations),
            course=GuestCourse(self._tree, checkpoints, run.hints("secureboost"), self._receiving_hints),
        )
        if not any(tree.branches for tree in model.trees):
            raise none_kept() if self._split else self._no_split()
        return model, score

    async def alone(self) -> Floats:
        _, score = await guest_train([], self._own, self._rows, self.params)
        return score

    def _no_split(self) -> VflError:
        params, rows = self.params, int(self._rows.train.sum())
        drawn = max(1, round(params.subsample * rows)) if params.subsample < 1 else rows
        return no_split(self._obstacle, params, rows, drawn)

    def _tree(self, done: TreeDone) -> None:
        params = self.params
        if done.obstacle is None:
            self._split = True
        else:
            self._obstacle = done.obstacle
            drawn = params.subsample < 1 or params.colsample < 1 or params.goss_top > 0
            all_parties = done.tree > 1 or params.first_tree == "joint"
            if not self._split and not drawn and all_parties:  # a later tree is of the same gradients
                raise self._no_split()
        self.phases.append(done.seconds)
        self.curve.append({"train": done.train_loss, "validation": done.validation_loss})
        measure = self._rows.loss.measure
        validation = "" if done.validation_loss is None else f", validation {done.validation_loss:.4f}"
        news = f"training, {measure} {done.train_loss:.4f}{validation}"
        self._show.progress(news, done.tree, done.of)


class _Linear(Learner):
    def __init__(
        self, params: GlmParams, party: Party, features: Features, rows: Training, show: Show
    ) -> None:
        super().__init__(show)
        self.params: GlmParams = params
        self._party, self._rows = party, rows
        self._design, self._matrix = prepared(
            party.data.path.name, features, rows.train, party.glm, params.alpha
        )

    def steps(self, done: int) -> str:
        return f"iteration {done - 1:,} of at most {self.params.max_iterations:,}"

    async def learn(
        self, hosts: Sequence[Peer], run: Run, operations: Operations
    ) -> tuple[GuestGlm, Floats]:
        name = self._party.name
        fit = await self._fit(hosts, run, operations)
        self._say_how_it_ended(fit)
        parties = (name, *(host.name for host in hosts))
        model = GuestGlm.of(parties, self._design, fit.coefficients[name], fit)
        return model, fit.score

    async def _fit(self, hosts: Sequence[Peer], run: Run, operations: Operations) -> Fit:
        if self.params.coordinator is not None:
            return await self._hidden(hosts, run, self.params.coordinator, operations)
        checkpoints = self.begin(run, GuestFitState)
        return await guest_fit(
            hosts,
            {self._party.name: self._matrix},
            self._rows,
            self.params,
            resources=Resources(self._party.party.machine, operations),
            course=GuestCourse(self._iteration, checkpoints, run.hints("glm"), self._receiving_hints),
        )

    async def _hidden(
        self, hosts: Sequence[Peer], run: Run, coordinator: str, operations: Operations
    ) -> Fit:
        """The fit in which a coordinator has the key."""
        party, signed = self._party, run.agreement
        checkpoints = self.begin(run, HiddenState)
        session = await run.sessions.enter_async_context(
            coordinator_of(run.office, signed, run.offer.job, coordinator, run.wait, self._show, hosts)
        )
        self.others.append(session)
        fit, score = await hidden_guest_fit(
            session,
            hosts,
            self._matrix,
            self._rows,
            self.params,
            Resources(party.party.machine, operations),
            GuestCourse(self._blind_iteration, checkpoints),
        )
        free = int(self.params.fit_intercept)
        return Fit(
            float(fit.coefficients[:free].sum()),
            {party.name: fit.coefficients[free:]},
            score,
            fit.iterations,
            fit.converged,
            None,
            None,
            fit.gradient,
        )

    async def alone(self) -> Floats:
        fit = await guest_fit([], {self._party.name: self._matrix}, self._rows, self.params)
        return fit.score

    def _iteration(self, done: IterationDone) -> None:
        self.phases.append(done.seconds)
        self.curve.append({"train": done.deviance, "gradient": done.gradient})
        news = (
            f"fitting, deviance {done.deviance:.4f}, D² {done.explained:.4f}, "
            f"gradient {done.gradient:.1e}"
        )
        first = self.curve[0]["gradient"] or 0.0
        expected = expected_iterations(done, first, self.params.tolerance)
        self._show.progress(news, done.iteration, expected)

    def _blind_iteration(self, done: BlindIteration) -> None:
        self.curve.append({"gradient": done.gradient})
        most = counted(done.of, "iteration")
        self._show.progress(
            f"fitting, gradient {done.gradient:.1e}, at most {most}", done.iteration, None
        )

    def _say_how_it_ended(self, fit: Fit) -> None:
        many = counted(fit.iterations, "iteration")
        at = f"gradient {fit.gradient:.1e}"
        if fit.deviance is not None and fit.explained is not None:
            at = f"deviance {fit.deviance:.4f}, D² {fit.explained:.4f}, {at}"
        if fit.converged:
            self._show.say(f"converged after {many}: {at}")
            return
        self._show.say(
            f"note: not converged after {many}: {at} (tolerance {self.params.tolerance:.1e}); the model "
            "is kept as it is: raise max_iterations or alpha in [glm]"
        )


def expected_iterations(done: IterationDone, first: float, tolerance: float) -> int | None:
    """How many iterations there will be if the gradient's logarithm goes on falling at the mean rate
    since `first`, its greatest component before any step; None while it has not fallen."""
    if not 0 < done.gradient < first or done.iteration == 0:
        return None
    needed = done.iteration * math.log(first / tolerance) / math.log(first / done.gradient)
    return min(max(math.ceil(needed), done.iteration + 1), done.of)
