"""Linear models by all parties in one process."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vfl.crypto.workers import Machine
from vfl.frames.features import FrameTable, RowIndices
from vfl.learn.binning import Features
from vfl.learn.design import Design, Matrix
from vfl.learn.glm import APART, are_apart
from vfl.learn.losses import Floats
from vfl.learn.params import GlmParams
from vfl.net.peer import Peer
from vfl.party.linear import own_scores, prepared
from vfl.party.sections import GlmSection
from vfl.protocols.common.batches import all_scores
from vfl.protocols.common.course import GuestCourse, HostCourse
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.fitting import HostFit, HostFitState, guest_fit, host_fit
from vfl.protocols.linear.plain import plain_fit
from vfl.protocols.linear.scoring import (
    GuestGlm,
    HostGlm,
    LinearPart,
    guest_glm_score,
    host_glm_score,
)
from vfl.simulate.method import GUEST, Fitted, Method, Progress


@dataclass(frozen=True)
class Fitting(Method):
    """A linear model with these settings, and each party's rules for its columns."""

    params: GlmParams
    rules: Mapping[str, GlmSection]

    def named(self, party: str) -> frozenset[str]:
        rules = self.rules.get(party, GlmSection())
        return frozenset((*rules.binned, *rules.base, *rules.step))

    async def plain(self, features: Mapping[str, Features], rows: Training, done: Progress) -> Fitted:
        designs: dict[str, Design] = {}
        matrices: dict[str, Matrix] = {}
        for name, own in features.items():
            designs[name], matrices[name] = self._prepared(name, own, len(rows.label))
        guest = {GUEST: matrices.pop(GUEST)}
        fit, theirs = await plain_fit(guest, matrices, rows, self.params, done)
        model = GuestGlm.of(tuple(designs), designs[GUEST], fit.coefficients[GUEST], fit)
        halves = {
            name: HostGlm(LinearPart(designs[name], tuple(beta.tolist())), fit.converged)
            for name, beta in theirs.items()
        }
        return Fitted(model, halves, fit.score)

    async def guest(
        self,
        hosts: list[Peer],
        features: Features,
        rows: Training,
        machine: Machine,
        done: Progress,
    ) -> tuple[GuestGlm, Floats]:
        design, matrix = self._prepared(GUEST, features, len(rows.label))
        fit = await guest_fit(
            hosts,
            {GUEST: matrix},
            rows,
            self.params,
            resources=Resources(machine),
            course=GuestCourse(done),
        )
        parties = (GUEST, *(host.name for host in hosts))
        return GuestGlm.of(parties, design, fit.coefficients[GUEST], fit), fit.score

    async def host(self, guest: Peer, own: Participant, features: Features, rows: int) -> HostGlm:
        design, matrix = self._prepared(own.name, features, rows)
        kept: list[HostFit] = []
        course = HostCourse[HostFit, HostFitState](kept.append)
        await host_fit(guest, rows, lambda training: matrix, self.params, own, course)
        (fit,) = kept
        return HostGlm(LinearPart(design, tuple(fit.coefficients.tolist())), fit.converged)

    async def guest_scores(
        self, hosts: list[Peer], model: GuestGlm, table: FrameTable, places: list[RowIndices]
    ) -> Floats:
        own = own_scores(GUEST, model.part, table.features, table.rows)
        return await all_scores(guest_glm_score(hosts, model, table.features, own.rows, places))

    async def host_scores(
        self, guest: Peer, half: HostGlm, name: str, features: Features, rows: int
    ) -> None:
        own = own_scores(name, half.part, features, rows)
        await host_glm_score(guest, half.part, features, own.rows, own.missing)

    async def idle(self, features: Mapping[str, Features], rows: Training, model: Any) -> str:
        if self.params.alpha:
            return f"alpha={self.params.alpha:g} keeps all coefficients at 0: lower it"
        return "no column tells the rows apart by their label"

    def doubts(self, scores: Floats, rows: Training) -> str | None:
        return APART if are_apart(scores, rows.loss, self.params.alpha) else None

    def _prepared(self, name: str, features: Features, rows: int) -> tuple[Design, Matrix]:
        every = np.ones(rows, np.bool_)
        section = self.rules.get(name, GlmSection())
        return prepared(name, features, every, section, self.params.alpha)
