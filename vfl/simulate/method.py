"""How one kind of model is trained and scored, by all parties at once or each in its role."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vfl.crypto.workers import Machine
from vfl.frames.features import FrameTable, RowIndices
from vfl.learn.binning import Features
from vfl.learn.losses import Floats
from vfl.net.peer import Peer
from vfl.protocols.common.participant import Participant
from vfl.protocols.common.rows import Training

GUEST = "guest"
"""The name of the party with the labels."""

Engine = Literal["plain", "protocol"]
Progress = Callable[[Any], None]
"""Told of each tree (TreeDone) or iteration (IterationDone)."""


@dataclass(frozen=True)
class Fitted:
    """A model as the parties keep it, and the score of every aligned row, shape (rows,)."""

    model: Any
    halves: dict[str, Any]  # of hosts, by name
    score: Floats


class Method(ABC):
    """How one kind of model is trained and scored. Features are those of the rows at hand."""

    params: Any

    @abstractmethod
    def named(self, party: str) -> frozenset[str]:
        """The columns of a party that a parameter names: they are meant to be features."""

    @abstractmethod
    async def plain(self, features: Mapping[str, Features], rows: Training, done: Progress) -> Fitted:
        """The model by everybody's columns in one place, by party's name, the guest's first."""

    @abstractmethod
    async def guest(
        self,
        hosts: list[Peer],
        features: Features,
        rows: Training,
        machine: Machine,
        done: Progress,
    ) -> tuple[Any, Floats]:
        """The guest's half, and the score of every row."""

    @abstractmethod
    async def host(self, guest: Peer, own: Participant, features: Features, rows: int) -> Any:
        """A host's half."""

    @abstractmethod
    async def guest_scores(
        self, hosts: list[Peer], model: Any, table: FrameTable, places: list[RowIndices]
    ) -> Floats:
        """The score of every row of the guest's table."""

    @abstractmethod
    async def host_scores(
        self, guest: Peer, half: Any, name: str, features: Features, rows: int
    ) -> None:
        """A host's part of these."""

    @abstractmethod
    async def idle(self, features: Mapping[str, Features], rows: Training, model: Any) -> str:
        """Why a model gives all rows the same score: the parameter at fault, and what to do."""

    def doubts(self, scores: Floats, rows: Training) -> str | None:
        """What to say of a model by the scores, without offset, that rows get."""
        return None

    def drawn(self, whole: Training, rows: RowIndices) -> Training:
        """The aligned rows, of the guest's; all of them train unless the method keeps some back."""
        validation = np.zeros(len(rows), np.bool_)
        offset = None if whole.offset is None else whole.offset[rows]
        return Training(
            whole.label[rows], whole.weight[rows], ~validation, validation, whole.loss, offset
        )
