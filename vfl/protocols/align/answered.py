"""What a guest keeps of the answers of a host that keeps its key (kept.py): it asks about new ids alone.

The guest has F of the ids that it asked about in its last alignments under the key. In the next one

  1. it says in AlignStart under which context it has answers, and how many ids it will ask about: those
     that it has no answer to, and random ones, so that they are 1,024, or twice, four times as many;
     never more than it has ids. To a host with another key by now it sends all, as without answers.
  2. to 4. are of these ids. It looks all of its ids up, with what it has of the others.

Answers to ids that are no longer in the guest's table are forgotten with the run. A replay of a run
needs the answers that the guest had before it.

What the host learns more than by a key a run: about how many ids are new to the guest's table, to within
a factor of two, and below 1,024 nothing. What the guest may do with answers that it does not forget is
said in kept.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vfl.arrays import Bytes, Integers
from vfl.blocks.texts import TextPlaces, pack_rows
from vfl.crypto.digests import digests
from vfl.crypto.randomness import Entropy
from vfl.protocols.align.oprf import OUTPUT, parts

KEY = 32  # bytes
HASH = 16
LEAST = 1024  # ids that are asked about, if there are as many
_AT_ONCE = 65536  # ids that are hashed at a time


@dataclass(frozen=True)
class Answers:
    """F (n, 32) of ids under a context, and by which they are found again: `hashes` (n, 16) under a
    secret `key`."""

    context: bytes
    key: bytes
    hashes: Bytes
    outputs: Bytes

    @classmethod
    def none(cls, context: bytes, entropy: Entropy) -> "Answers":
        """Under a context under which nothing was asked yet."""
        return cls(context, entropy(KEY), *(np.empty((0, width), np.uint8) for width in (HASH, OUTPUT)))

    def hashes_of(self, ids: Sequence[bytes]) -> Bytes:
        """As `hashes`, of any ids."""
        hashes = np.empty((len(ids), HASH), np.uint8)
        for start, stop in parts(len(ids), _AT_ONCE):
            hashes[start:stop] = digests(
                ids[start:stop], domain=b"vfl answered id", key=self.key, size=HASH
            )
        return hashes


class KeepsAnswers(Protocol):
    """Where a guest keeps answers of a host."""

    def load(self) -> Answers | None:
        """What it has; None where there is nothing, or it cannot be read."""

    def save(self, answers: Answers) -> None:
        """Keep these in place of what there is."""


@dataclass(frozen=True)
class KeptAnswers:
    """Where a run's answers are kept, if they are: with those of other ids of the same table."""

    keeps: KeepsAnswers | None = None
    table: Sequence[bytes] = ()

    def before(self, ids: Sequence[bytes]) -> "AskedBefore | None":
        """What there is of a run's ids."""
        answers = None if self.keeps is None else self.keeps.load()
        return None if answers is None else AskedBefore.of(answers, ids)

    def save(self, before: Answers, ids: Sequence[bytes], outputs: Bytes) -> None:
        """Keep F of a run's ids (n, 32) beside what there was before; of ids that are not in the table
        everything is forgotten."""
        if self.keeps is not None:
            now = _with(before, ids, outputs, self.table)
            if now is not None:
                self.keeps.save(now)


NOTHING_KEPT = KeptAnswers()


@dataclass(frozen=True)
class AskedBefore:
    """What is kept of answers to a run's ids: `places` (n,) of each among them, -1 for an id that is to
    be asked about, and `number`, how many elements the host is sent for these."""

    answers: Answers
    places: Integers
    number: int

    @classmethod
    def of(cls, answers: Answers, ids: Sequence[bytes]) -> "AskedBefore":
        """Of these ids, with any answers."""
        places = places_in(answers.hashes, answers.hashes_of(ids))
        return cls(answers, places, rounded(int(np.count_nonzero(places < 0)), len(ids)))

    @property
    def new(self) -> Integers:
        """The rows that are to be asked about."""
        return np.flatnonzero(self.places < 0)

    def asked(self, ids: Sequence[bytes], entropy: Entropy) -> list[bytes]:
        """What is sent: the new ids, and random ones."""
        new = [ids[row] for row in self.new.tolist()]
        return [*new, *(entropy(KEY) for _ in range(self.number - len(new)))]

    def outputs(self, given: Bytes) -> Bytes:
        """F of all ids of the run, (n, 32), with what the host gave at those that were sent."""
        known, outputs = self.places >= 0, np.empty((len(self.places), OUTPUT), np.uint8)
        outputs[known] = self.answers.outputs[self.places[known]]
        outputs[~known] = given[: np.count_nonzero(~known)]
        return outputs


def _with(
    before: Answers, ids: Sequence[bytes], outputs: Bytes, table: Sequence[bytes]
) -> Answers | None:
    """Answers with those of a run, without those of ids that the table has not; None: as before."""
    asked = before.hashes_of(ids)
    others = places_in(asked, before.hashes) < 0
    kept = others & (places_in(before.hashes_of(table), before.hashes) >= 0)
    # Without any before the key may be new: what is kept of the last one is to be forgotten.
    same = 0 < len(before.hashes) == len(ids) + np.count_nonzero(kept)
    if same and np.array_equal(kept, others):
        return None  # nothing new, and nothing to forget
    return Answers(
        before.context,
        before.key,
        np.concatenate([before.hashes[kept], asked]),
        np.concatenate([before.outputs[kept], outputs]),
    )


def rounded(new: int, ids: int) -> int:
    """How many ids are asked about where so many of them are new."""
    return min(ids, max(LEAST, 1 << max(0, new - 1).bit_length()))


def places_in(hashes: Bytes, others: Bytes) -> Integers:
    """Where each of other hashes is among these, -1 where it is not: int64 (m,)."""
    return TextPlaces(pack_rows(hashes), _first(hashes)).find(pack_rows(others), _first(others))


def _first(hashes: Bytes) -> Integers:
    return np.ascontiguousarray(hashes.view(np.int64)[:, 0])
