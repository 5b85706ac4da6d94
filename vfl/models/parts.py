"""Scores from parts: what a host says of each row, packed, and what the guest makes of it.

A part is what a host would send of a row in a batch: the directions of its splits, or its part of a
linear score. Scores are those of the batch, bit for bit.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vfl.arrays import Bytes
from vfl.errors import PeerError
from vfl.learn.binning import Features
from vfl.net.wire import Message
from vfl.protocols.common.batches import ScoredPart, ScoreStart
from vfl.protocols.lookup.layout import PartLayout

Parts = Sequence[bytes | None]
"""By row a host's part; None of a row that it does not know."""


@dataclass(frozen=True)
class OwnColumns:
    """The guest's columns of some rows, with levels as training had them. `table`: as errors name it."""

    table: str
    features: Features
    rows: int


class PartsScorer(ABC):
    """Scores rows from the guest's columns and the hosts' parts; made once for a model, to be used for
    any number of rows."""

    @abstractmethod
    def score(self, own: OwnColumns, parts_by_host: Mapping[str, Parts]) -> ScoredPart:
        """The scores without any offset, and what adds up to them if that is explained.

        Raises DataError for columns that are not as they were in training, PeerError naming a host whose
        parts are none.
        """


class PartsPacker(ABC):
    """Packs a host's part of a model, for each row of its table."""

    @property
    @abstractmethod
    def layout(self) -> PartLayout:
        """What all parts have in common."""

    @abstractmethod
    def pack(self, rows: slice) -> Bytes:
        """The parts of these rows, shape (rows, layout.size)."""


class PartsAnswers(ABC):
    """What a host would say of the rows of a batch, made of its parts. Making one raises PeerError for a
    layout that is none."""

    @abstractmethod
    def begin(self, start: ScoreStart) -> Message:
        """The answer with which a batch begins. Raises PeerError for a layout without what is asked."""

    @abstractmethod
    def answer(self, parts: Parts) -> Message:
        """The answer for rows with these parts. Raises PeerError for parts that are none."""


def packed(host: str, layout: PartLayout, parts: Parts) -> Bytes:
    """Parts as rows of bytes, shape (rows, layout.size), those of unknown rows filled in.

    Raises PeerError for one of another size.
    """
    filled = [layout.missing if part is None else part for part in parts]
    if any(len(part) != layout.size for part in filled):
        raise broken_parts(host, "of another size than it said")
    return np.frombuffer(b"".join(filled), np.uint8).reshape(len(parts), layout.size)


def broken_parts(host: str, what: str) -> PeerError:
    """The error for a host whose directory holds what is no part."""
    return PeerError(
        f"{host} broke the protocol: its directory holds parts {what}",
        for_peer=f"a peer broke the protocol with a directory of parts {what}",
    )
