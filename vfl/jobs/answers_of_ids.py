"""What a matching of ids asks of the party's store while it runs, asked through `Answers` (evidence.py).

A host may keep its ids as evaluated under a key, and a guest what it has heard of them, for later runs.
A replay starts without; one of a run that went on with what an earlier run has kept is refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from vfl.arrays import Bytes
from vfl.errors import DayIsFull, ModelError
from vfl.jobs.evidence import Answers
from vfl.net.peer import Peer
from vfl.protocols.align.answered import Answers as KeptOutputs
from vfl.protocols.align.answered import KeepsAnswers
from vfl.protocols.align.kept import Asked, GuestKeeps, HostKeeps, KeptIds
from vfl.protocols.align.psi import Admit, PsiSettings

T = TypeVar("T")


def with_answers(settings: PsiSettings, answers: Answers, *, replayed: bool = False) -> PsiSettings:
    """The same, asked through `answers`; `replayed`: the store is not asked at all."""
    host, guest, kept = settings.host_keeps, settings.guest_keeps, settings.answers
    if kept.keeps is not None:
        outputs = _Outputs(None if replayed else kept.keeps, answers)
        settings = replace(settings, answers=replace(kept, keeps=outputs))
    if host is not None:
        settings = replace(settings, host_keeps=_HostIds(None if replayed else host, answers))
    if guest is not None:
        settings = replace(settings, guest_keeps=_GuestStores(None if replayed else guest, answers))
    return settings


@dataclass(frozen=True)
class AnswersAbout:
    """`Answers` about one peer, asked beside those about others."""

    answers: Answers
    peer: str

    def ask(self, what: str, kind: Any, answer: Callable[[], T]) -> T:
        return self.answers.ask(f"{what} ({self.peer})", kind, answer)


def admit_with_answers(admit: Admit, answers: Answers) -> Admit:
    """Counts ids that a guest asks about, or says that the day is full, as it was in the run."""

    def counted(peer: Peer, ids: int) -> None:
        count_with_answers(lambda many: admit(peer, many), answers, "room for ids")(ids)

    return counted


def count_with_answers(
    count: Callable[[int], None], answers: Answers, what: str
) -> Callable[[int], None]:
    """The same of anything else that is counted by the day."""

    def counted(many: int) -> None:
        full: list[DayIsFull] = []

        def has_room() -> bool:
            try:
                count(many)
            except DayIsFull as error:
                full.append(error)
            return not full

        if not answers.ask(what, bool, has_room):
            raise full[0] if full else DayIsFull("more than this party allowed on that day")

    return counted


def _earlier(what: str) -> ModelError:
    return ModelError(
        f"the run goes on with {what} that an earlier run has kept: it cannot be replayed yet"
    )


class _Once:
    """Something that a store may have: whether it has is an answer, what it has stays there."""

    def __init__(self, answers: Answers, what: str) -> None:
        self._answers, self._what = answers, what

    def load(self, loaded: T | None, saved: T | None) -> T | None:
        """`loaded`: from the store in a run; `saved`: by this very run, in a replay."""
        if not self._answers.ask(self._what, bool, lambda: loaded is not None):
            return None
        if (found := saved if loaded is None else loaded) is None:
            raise _earlier(self._what)
        return found


class _HostIds:
    """`HostKeeps`."""

    def __init__(self, keeps: HostKeeps | None, answers: Answers) -> None:
        self._keeps, self._answers = keeps, answers
        self._saved: KeptIds | None = None

    def load(self, asked: Asked) -> KeptIds | None:
        loaded = None if self._keeps is None else self._keeps.load(asked)
        return _Once(self._answers, "ids under a key").load(loaded, self._saved)

    def save(self, kept: KeptIds, asked: Asked) -> bool:
        keeps = self._keeps
        save: Callable[[], bool] = (lambda: False) if keeps is None else lambda: keeps.save(kept, asked)
        if not self._answers.ask("whether ids are kept", bool, save):
            return False
        self._saved = kept if keeps is None else None
        return True


class _GuestStores:
    """`GuestKeeps`."""

    def __init__(self, keeps: GuestKeeps | None, answers: Answers) -> None:
        self._keeps, self._answers = keeps, answers
        self._saved: dict[bytes, Bytes] = {}

    def known(self, stores: Sequence[bytes]) -> list[bytes]:
        keeps = self._keeps
        found = self._answers.ask(
            "stores of a host", list[bytes], lambda: [] if keeps is None else keeps.known(stores)
        )
        if keeps is None and not self._saved.keys() >= set(found):
            raise _earlier("stores of a host")
        return found

    def load(self, store: bytes) -> Bytes | None:
        loaded = None if self._keeps is None else self._keeps.load(store)
        return _Once(self._answers, "a store of a host").load(loaded, self._saved.get(store))

    def save(self, store: bytes, slots: Bytes) -> None:
        if self._keeps is None:
            self._saved[store] = slots
        else:
            self._keeps.save(store, slots)


class _Outputs:
    """`KeepsAnswers`."""

    def __init__(self, keeps: KeepsAnswers | None, answers: Answers) -> None:
        self._keeps, self._answers = keeps, answers
        self._saved: KeptOutputs | None = None

    def load(self) -> KeptOutputs | None:
        loaded = None if self._keeps is None else self._keeps.load()
        return _Once(self._answers, "a host's answers").load(loaded, self._saved)

    def save(self, answers: KeptOutputs) -> None:
        if self._keeps is None:
            self._saved = answers
        else:
            self._keeps.save(answers)
