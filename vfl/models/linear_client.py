"""A party of a linear model over rows: it has the label and all columns of rows of its own."""

from collections.abc import Callable, Mapping, Sequence

from vfl.arrays import Floats
from vfl.learn.binning import Features
from vfl.learn.design import Rules
from vfl.learn.params import GlmParams
from vfl.models.fit_progress import report_fit
from vfl.models.kind import ClientRole, ClientRun, GuestRole, PartyColumns, StepReport, TrainingStep
from vfl.net.peer import Peer
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.scoring import GuestGlm, LinearPart
from vfl.protocols.pooled.adding import Adder
from vfl.protocols.pooled.bins import Schema
from vfl.protocols.pooled.columns import CommonColumns
from vfl.protocols.pooled.glm import ClientCourse, PooledGlm, fit_client
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
        self._common = CommonColumns(schema.levels)

    async def add_up(self, adder: Adder, run: ClientRun) -> tuple[GuestGlm, Floats]:
        course = ClientCourse(run.progress, run.checkpoints)
        fit = await fit_client(
            adder, self._features, self._rows, self._common, Rules(), self._params, course
        )
        score = fit.scores(self._common.known(self._features), len(self._rows.label))
        return self._half(fit), score if self._rows.offset is None else score + self._rows.offset

    def _half(self, fit: PooledGlm) -> GuestGlm:
        """The whole model, as this party keeps it."""
        return GuestGlm(
            (self._party,),
            fit.intercept,
            fit.part,
            fit.iterations,
            fit.converged,
            fit.deviance,
            fit.explained,
            fit.gradient,
            errors=fit.errors,
            intercept_error=fit.intercept_error,
            dispersion=fit.dispersion,
            agreed_levels=True,
        )

    async def train(self, hosts: Sequence[Peer], run: object) -> tuple[GuestGlm, Floats]:
        raise TypeError("a client has no hosts")

    async def train_alone(self) -> Floats:
        return await self._alone().train_alone()

    def report(self, step: TrainingStep, curve: Sequence[Mapping[str, float | None]]) -> StepReport:
        return report_fit(step, curve, self._params.tolerance)

    def ending(self, model: GuestGlm) -> str:
        how = "converged" if model.converged else "note: not converged"
        return f"{how} after {counted(model.iterations, 'step')}"


def known_levels(part: LinearPart, features: Features) -> Features:
    """Columns of rows to score, with all levels that were not agreed on as one."""
    factors = [factor for factor in part.design.factors if factor.edges is None]
    levels = {factor.name: (*factor.levels, *factor.joined) for factor in factors}
    numbers = {one.name for one in part.design.covariates}
    used = {name: values for name, values in features.items() if name in levels or name in numbers}
    return {**features, **CommonColumns(levels).known(used)}
