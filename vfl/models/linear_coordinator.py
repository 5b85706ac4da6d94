"""A coordinator's role in a linear model."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from vfl.learn.losses import Family
from vfl.learn.params import GlmParams
from vfl.models.kind import CoordinatorRole, CoordinatorRun
from vfl.net.peer import Peer
from vfl.protocols.common.key import generate_key
from vfl.protocols.linear.hidden import BlindIteration, coordinator_fit
from vfl.text import counted


@dataclass(frozen=True)
class LinearCoordinator(CoordinatorRole):
    params: GlmParams
    family: Family

    async def train(self, parties: Sequence[Peer], run: CoordinatorRun) -> str:
        def follow(step: BlindIteration) -> None:
            most = counted(step.of, "iteration")
            run.progress(f"gradient {step.gradient:.1e}, at most {most}", step.iteration, None)

        key = await asyncio.to_thread(
            generate_key, self.params, run.resources.randomness.at("Paillier key")
        )
        quadratic = self.family == "logistic"
        converged = await coordinator_fit(
            parties, self.params, quadratic, key, run.resources, progress=follow, done=run.done
        )
        return "converged" if converged else "not converged"
