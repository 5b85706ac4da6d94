"""What a training asks of the party's store while it runs, asked through `Answers` (evidence.py).

A replay gets the answers of the run in their place. None of them is among what the party has committed
to: docs/audit.md says what could be done with that.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from vfl.arrays import Mask
from vfl.jobs.audit_draw import HostDraw
from vfl.jobs.evidence import Answers, damaged_answers
from vfl.jobs.hints import StoredHostHints
from vfl.protocols.common.course import SumsCount
from vfl.protocols.common.label_count import LabelCount
from vfl.protocols.common.lattice_hints import HostHint, HostHints, KeptHints, KnownHint


def answered_draw(draw: HostDraw, answers: Answers) -> HostDraw:
    """What a host brings to a draw (audit_draw.py), as it was in the run."""
    return replace(draw, share=answers.ask("share of an audit", bytes, lambda: draw.share))


class AnsweredSums:
    """Which sums a host may still tell: `SumsCount`."""

    def __init__(self, sums: SumsCount, answers: Answers) -> None:
        self._sums, self._answers = sums, answers

    def begin_tree(self, drawn: Mask | None) -> None:
        self._sums.begin_tree(drawn)

    @property
    def least(self) -> int:
        return self._answers.ask("least rows of a sum", int, lambda: self._sums.least)

    def tell(self, pairs: Sequence[tuple[Mask, Mask]]) -> list[bool]:
        told = self._answers.ask("sums that may be told", list[bool], lambda: self._sums.tell(pairs))
        if len(told) != len(pairs):
            raise damaged_answers()
        return told


class AnsweredLabels:
    """How many labels hosts could have read, over all attempts: `LabelCount`."""

    def __init__(self, labels: LabelCount, answers: Answers) -> None:
        self._labels, self._answers = labels, answers

    def so_far(self) -> Counter[str]:
        told = self._answers.ask(
            "labels that could be read", dict[str, int], lambda: dict(self._labels.so_far())
        )
        return Counter(told)

    def add(self, labels: Mapping[str, int], most: float) -> bool:
        return self._answers.ask("room for labels", bool, lambda: self._labels.add(labels, most))


class EarlierHint(msgspec.Struct, frozen=True, array_like=True):
    """A host's hint, and the run, in hex, that has made it; empty where that is not known."""

    run: str
    hint: HostHint

    @property
    def digest(self) -> bytes:
        """Of the hint, whatever it was promised for."""
        hint = replace(self.hint, vectors=0)
        return hashlib.sha256(msgspec.msgpack.encode(hint)).digest()


class AnsweredHostHints:
    """The hint that a host keeps for later jobs: `HostHints`."""

    WHAT = "hint"

    def __init__(self, hints: HostHints, answers: Answers) -> None:
        self._hints, self._answers = hints, answers
        self._made = set[bytes]()
        self._known: dict[bytes, EarlierHint] = {}

    def known(self) -> HostHint | None:
        def find() -> EarlierHint | None:
            hint = self._hints.known()
            if hint is None:
                return None
            run = self._hints.run_before if isinstance(self._hints, StoredHostHints) else ""
            return EarlierHint(run, hint)

        # Runs of earlier versions have the hint alone.
        told = self._answers.ask("a kept hint", EarlierHint | HostHint | None, find)
        if told is None:
            return None
        found = told if isinstance(told, EarlierHint) else EarlierHint("", told)
        self._known[found.hint.name] = found
        return found.hint

    def keep(self, hint: HostHint) -> None:
        self._made.add(hint.name)
        self._answers.leaves(self.WHAT, EarlierHint("", hint).digest)
        self._hints.keep(hint)

    def promise(self, name: bytes, vectors: int, life: int) -> bool:
        has_room = self._answers.ask(
            "room for a kept hint", bool, lambda: self._hints.promise(name, vectors, life)
        )
        if has_room and name not in self._made and (earlier := self._known.get(name)) is not None:
            self._answers.takes(self.WHAT, earlier.run, earlier.digest)
        return has_room


class AnsweredGuestHints:
    """The hints that a guest keeps for later jobs: `KeptHints`."""

    def __init__(self, hints: KeptHints, answers: Answers) -> None:
        self._hints, self._answers = hints, answers

    def known(self, host: str) -> KnownHint | None:
        return self._answers.ask(
            f"the kept hint of {host}", KnownHint | None, lambda: self._hints.known(host)
        )

    def file(self, host: str) -> Path | None:
        return self._hints.file(host)

    def keep(self, host: str, hint: KnownHint) -> None:
        self._hints.keep(host, hint)

    def clear(self, host: str, size: int) -> None:
        self._hints.clear(host, size)
