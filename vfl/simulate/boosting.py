"""Trees by all parties in one process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vfl.crypto.workers import Machine
from vfl.errors import ConfigError, DataError
from vfl.frames.features import FrameTable, RowIndices, suggest_name
from vfl.learn.binning import Binned, Features, Monotone, bin_columns
from vfl.learn.losses import Floats
from vfl.learn.params import BoostParams
from vfl.net.peer import Peer
from vfl.protocols.common.batches import all_scores
from vfl.protocols.common.course import GuestCourse
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.common.rows import Training
from vfl.protocols.trees.grower import GuestModel, HostModel
from vfl.protocols.trees.quantisation import quantisation_of
from vfl.protocols.trees.scoring import guest_score, host_score
from vfl.protocols.trees.training import guest_train, host_train
from vfl.simulate.method import GUEST, Fitted, Method, Progress
from vfl.text import counted


@dataclass(frozen=True)
class Boosting(Method):
    """Trees with these settings, monotone in some columns of each party."""

    params: BoostParams
    monotone: Mapping[str, Mapping[str, Monotone]]

    def named(self, party: str) -> frozenset[str]:
        return frozenset(self.monotone.get(party, ()))

    async def plain(self, features: Mapping[str, Features], rows: Training, done: Progress) -> Fitted:
        model, score = await self._pooled(features, rows, self.params, done)
        own, halves = divided(model)
        return Fitted(own, halves, score)

    async def _pooled(
        self, features: Mapping[str, Features], rows: Training, params: BoostParams, done: Progress
    ) -> tuple[GuestModel, Floats]:
        blocks = {name: self._binned(name, own, params) for name, own in features.items()}
        try:
            quantisation_of(len(rows.label), params)
        except ValueError as error:
            raise ConfigError(
                f"encryption={params.encryption!r} is not for so many rows: {error}"
            ) from None
        return await guest_train([], blocks, rows, params, course=GuestCourse(done))

    async def guest(
        self,
        hosts: list[Peer],
        features: Features,
        rows: Training,
        machine: Machine,
        done: Progress,
    ) -> tuple[GuestModel, Floats]:
        own = {GUEST: self._binned(GUEST, features, self.params)}
        resources = Resources(machine)
        return await guest_train(
            hosts, own, rows, self.params, resources=resources, course=GuestCourse(done)
        )

    async def host(self, guest: Peer, own: Participant, features: Features, rows: int) -> HostModel:
        binned = self._binned(own.name, features, self.params)
        return await host_train(guest, binned, self.params, own, shown=str)

    async def guest_scores(
        self, hosts: list[Peer], model: GuestModel, table: FrameTable, places: list[RowIndices]
    ) -> Floats:
        return await all_scores(guest_score(hosts, model, table.features, places, table.rows))

    async def host_scores(
        self, guest: Peer, half: HostModel, name: str, features: Features, rows: int
    ) -> None:
        await host_score(guest, half, features, rows)

    def drawn(self, whole: Training, rows: RowIndices) -> Training:
        """Those that decide when to stop are drawn by the seed as in a job."""
        draw = np.random.default_rng([self.params.seed, 1]).random(len(whole.label))[rows]
        validation = draw < self.params.validation_share
        return replace(super().drawn(whole, rows), train=~validation, validation=validation)

    async def idle(self, features: Mapping[str, Features], rows: Training, model: Any) -> str:
        if any(tree.branches for tree in model.trees):
            rate = f"learning_rate={self.params.learning_rate:g}"
            return f"{rate} is so small that no score changes: raise it"
        count = int(rows.train.sum())
        strict = [name for name, mild in _MILD.items() if getattr(self.params, name) != mild]
        if not await self._would_split(features, rows, strict):
            return f"no column tells the {counted(count, 'row')} to train on apart by their label"
        alone = [name for name in strict if await self._would_split(features, rows, [name])]
        if alone:
            return _blamed(self.params, alone, f"no split of {counted(count, 'row')}", " or ")
        # None is enough: those without which none of the others are.
        needed = strict
        for name in sorted(strict, key=lambda name: getattr(self.params, name) != _DEFAULT[name]):
            fewer = [other for other in needed if other != name]
            if await self._would_split(features, rows, fewer):
                needed = fewer
        return _blamed(self.params, needed, f"no split of {counted(count, 'row')}", " and ")

    async def _would_split(
        self, features: Mapping[str, Features], rows: Training, names: Sequence[str]
    ) -> bool:
        """Whether a tree splits once these parameters do not stand in its way."""
        changed = {name: _MILD[name] for name in names} | {"trees": 1, "depth": 1}
        params = self.params.model_copy(update=changed)
        tried, _ = await self._pooled(features, rows, params, lambda _: None)
        return bool(tried.trees[0].branches)

    def _binned(self, party: str, features: Features, params: BoostParams) -> Binned:
        monotone = self.monotone.get(party, {})
        for column in monotone:
            if column not in features:
                advice = suggest_name(column, features)
                raise DataError(f"{party}: monotone= names {column!r}, which is no column; {advice}")
        try:
            return bin_columns(features, params.max_bins, params.min_bin_rows, monotone)
        except ValueError as error:
            raise DataError(f"{party}: monotone=: {error}") from None


_MILD: Mapping[str, Any] = {
    "min_child_rows": 1,
    "min_child_weight": 0.0,
    "gamma": 0.0,
    "min_bin_rows": 1,
    "reg_lambda": 0.0,
    "subsample": 1.0,
    "colsample": 1.0,
    "first_tree": "joint",
}
"""What can keep a tree from splitting, with the value at which it does not."""

_ADVICE = {
    **{name: f"lower {name}" for name in _MILD},
    "subsample": "raise subsample",
    "colsample": "raise colsample",
    "first_tree": 'set first_tree="joint"',
}
_DEFAULT = {name: BoostParams.model_fields[name].default for name in _MILD}


def _blamed(params: BoostParams, names: Sequence[str], what: str, together: str) -> str:
    """Which parameters are at fault, what they allow, and what to do about it."""
    at_fault = " and ".join(f"{name}={_shown(getattr(params, name))}" for name in names)
    todo = together.join(_ADVICE[name] for name in names)
    return f"{at_fault} allow{'' if len(names) > 1 else 's'} {what}: {todo}"


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str) else f"{value:g}"


def divided(model: GuestModel) -> tuple[GuestModel, dict[str, HostModel]]:
    """The model that the guest has made of everybody's columns, as the parties keep it apart."""
    splits: list[list[Any]] = [[] for _ in model.parties]
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
    half = GuestModel(model.parties, model.start, tuple(trees), guest)
    return half, {name: HostModel(own) for name, own in zip(model.parties[1:], hosts, strict=True)}
