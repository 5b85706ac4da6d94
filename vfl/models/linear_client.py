"""A party of a linear model over rows: it has the label and all columns of rows of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from vfl.arrays import Floats
from vfl.learn.design import Rules
from vfl.learn.params import GlmParams
from vfl.models.fit_progress import report_fit
from vfl.models.kind import ClientRole, ClientRun, GuestRole, PartyColumns, StepReport, TrainingStep
from vfl.net.peer import Peer
from vfl.protocols.common.course import GuestCourse
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.fit import IterationDone
from vfl.protocols.linear.scoring import GuestGlm
from vfl.protocols.pooled.adding import Adder
from vfl.protocols.pooled.bins import Schema
from vfl.protocols.pooled.glm import PooledGlmState, fit_client
from vfl.text import counted


class LinearClient(ClientRole[GuestGlm]):
    """`alone` makes the role of a guest with this party's rows and nobody else's."""

    def __init__(
        self,
        params: GlmParams,
        own: PartyColumns,
        rows: Training,
        schema: Schema,
        alone: Callable[[], GuestRole[GuestGlm]],
    ) -> None:
        schema.check(own.features)
        self._params, self._rows, self._alone, self._party = params, rows, alone, own.party
        self._features = {name: own.features[name] for name in schema.columns}
        self._schema, self._rules = schema, Rules(**own.rules.glm.rules)

    async def add_up(self, adder: Adder, run: ClientRun) -> tuple[GuestGlm, Floats]:
        model, score = await fit_client(
            adder,
            self._features,
            self._rows,
            self._schema,
            self._rules,
            self._params,
            course=GuestCourse[IterationDone, PooledGlmState](run.progress, run.checkpoints),
        )
        return replace(model, parties=(self._party,)), score

    async def train(self, hosts: Sequence[Peer], run: object) -> tuple[GuestGlm, Floats]:
        raise TypeError("a client has no hosts")

    async def train_alone(self) -> Floats:
        return await self._alone().train_alone()

    def report(self, step: TrainingStep, curve: Sequence[Mapping[str, float | None]]) -> StepReport:
        return report_fit(step, curve, self._params.tolerance)

    def ending(self, model: GuestGlm) -> str:
        how = "converged" if model.converged else "note: not converged"
        return f"{how} after {counted(model.iterations, 'step')}"
