"""What a matching of ids asks of the party's store while it runs, asked through `Answers` (evidence.py).

A host may keep its ids as evaluated under a key, and a guest what it has heard of them, for later runs.
A run that goes on with what an earlier one has kept writes that down, the key and digests among its
answers, arrays beside them, and its replay starts from there. What a run keeps and what it goes on with
has the same name and digest in the certificates of both runs.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np

from vfl.arrays import Bytes
from vfl.crypto import okvs
from vfl.errors import DayIsFull, ModelError
from vfl.jobs.evidence import Answers, damaged_answers
from vfl.net.peer import Peer
from vfl.party.kept_ids import GuestKeptAnswers, HostKeptIds
from vfl.protocols.align.answered import HASH, KeepsAnswers
from vfl.protocols.align.answered import Answers as KeptOutputs
from vfl.protocols.align.kept import Asked, GuestKeeps, HostKeeps, KeptIds, KeyAlone
from vfl.protocols.align.oprf import OUTPUT
from vfl.protocols.align.psi import Admit, PsiSettings

T = TypeVar("T")
_WIDTH = 16  # bytes of a slot of a store
_Bytes32 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class EarlierKey(msgspec.Struct, frozen=True):
    """Ids under a key as an earlier run has kept them: all of `KeyAlone`, of stores the digests."""

    run: str  # in hex
    context: _Bytes32
    scalar: _Bytes32
    stores: list[_Bytes32]
    sizes: list[Annotated[int, msgspec.Meta(ge=1)]]


class EarlierOutputs(msgspec.Struct, frozen=True):
    """A host's answers as an earlier run has kept them."""

    run: str  # in hex
    context: _Bytes32
    key: _Bytes32
    arrays: _Bytes32  # SHA-256 of hashes and outputs, one after the other


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

    def keep(self, content: bytes) -> None:
        self.answers.keep(content)

    def kept(self, digest: bytes) -> bytes:
        return self.answers.kept(digest)

    def leaves(self, what: str, digest: bytes) -> None:
        self.answers.leaves(f"{what} ({self.peer})", digest)

    def takes(self, what: str, run: str, digest: bytes) -> None:
        self.answers.takes(f"{what} ({self.peer})", run, digest)


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


def _run_before(keeps: HostKeeps | KeepsAnswers | None) -> str:
    """The run, in hex, that has kept what was loaded; empty where that is not known."""
    return keeps.run_before if isinstance(keeps, HostKeptIds | GuestKeptAnswers) else ""


def _array(content: bytes, width: int, what: str) -> Bytes:
    """Rows of bytes that were kept. Raises ModelError for what is none."""
    if len(content) % width:
        raise ModelError(f"{what} that an earlier run has kept are damaged: they have no whole rows")
    return np.frombuffer(content, np.uint8).reshape(-1, width)


def _of_earlier_version(what: str) -> ModelError:
    return ModelError(
        f"the run goes on with {what} that an earlier run has kept, and is of a version that did not "
        "write them down with it: it cannot be replayed"
    )


class _HostIds:
    """`HostKeeps`."""

    WHAT = "ids under a key"

    def __init__(self, keeps: HostKeeps | None, answers: Answers) -> None:
        self._keeps, self._answers = keeps, answers
        self._saved: KeptIds | None = None

    def load(self, asked: Asked) -> KeptIds | KeyAlone | None:
        keeps = self._keeps
        loaded = None if keeps is None else keeps.load(asked)
        assert not isinstance(loaded, KeyAlone)  # noqa: S101 - a store has all
        before = None if loaded is None else _key_of(loaded, _run_before(keeps))
        told = self._answers.ask(self.WHAT, EarlierKey | bool | None, lambda: before)
        if not told:
            return None
        if loaded is not None:
            for store in loaded.stores:
                self._answers.keep(np.ascontiguousarray(store).tobytes())
            return loaded
        if not isinstance(told, EarlierKey):
            raise _of_earlier_version(self.WHAT)
        if len(told.sizes) != len(told.stores):
            raise damaged_answers()
        saved = self._saved
        if saved is not None and _key_of(saved, told.run) == told:
            return saved
        self._answers.takes(self.WHAT, told.run, _digest_of_key(told))
        stores = tuple(_array(self._answers.kept(one), _WIDTH, "stores") for one in told.stores)
        if [len(store) for store in stores] != [okvs.slots(size) for size in told.sizes]:
            raise damaged_answers()
        return KeyAlone(told.context, told.scalar, stores, tuple(told.sizes))

    def save(self, kept: KeptIds, asked: Asked) -> bool:
        keeps = self._keeps
        save: Callable[[], bool] = (lambda: False) if keeps is None else lambda: keeps.save(kept, asked)
        if not self._answers.ask("whether ids are kept", bool, save):
            return False
        self._saved = kept if keeps is None else None
        self._answers.leaves(self.WHAT, _digest_of_key(_key_of(kept, "")))
        return True


def _key_of(kept: KeptIds, run: str) -> EarlierKey:
    return EarlierKey(run, kept.context, kept.scalar, list(kept.digests), list(kept.sizes))


def _digest_of_key(key: EarlierKey) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode(msgspec.structs.replace(key, run=""))).digest()


class _GuestStores:
    """`GuestKeeps`. A store has its digest for its name, and its host has sent that in the run."""

    def __init__(self, keeps: GuestKeeps | None, answers: Answers) -> None:
        self._keeps, self._answers = keeps, answers
        self._saved: dict[bytes, Bytes] = {}

    def known(self, stores: Sequence[bytes]) -> list[bytes]:
        keeps = self._keeps
        return self._answers.ask(
            "stores of a host", list[bytes], lambda: [] if keeps is None else keeps.known(stores)
        )

    def load(self, store: bytes) -> Bytes | None:
        loaded = None if self._keeps is None else self._keeps.load(store)
        if not self._answers.ask("a store of a host", bool, lambda: loaded is not None):
            return None
        if loaded is not None:
            self._answers.keep(np.ascontiguousarray(loaded).tobytes())
            return loaded
        if store not in self._saved:
            self._saved[store] = _array(self._answers.kept(store), _WIDTH, "stores of a host")
        return self._saved[store]

    def save(self, store: bytes, slots: Bytes) -> None:
        if self._keeps is None:
            self._saved[store] = slots
        else:
            self._keeps.save(store, slots)


class _Outputs:
    """`KeepsAnswers`."""

    WHAT = "a host's answers"

    def __init__(self, keeps: KeepsAnswers | None, answers: Answers) -> None:
        self._keeps, self._answers = keeps, answers
        self._saved: KeptOutputs | None = None

    def load(self) -> KeptOutputs | None:
        keeps = self._keeps
        loaded = None if keeps is None else keeps.load()
        before = None if loaded is None else _outputs_of(loaded, _run_before(keeps))
        told = self._answers.ask(self.WHAT, EarlierOutputs | bool | None, lambda: before)
        if not told:
            return None
        if loaded is not None:
            self._answers.keep(_arrays_of(loaded))
            return loaded
        if not isinstance(told, EarlierOutputs):
            raise _of_earlier_version(self.WHAT)
        if self._saved is not None and _outputs_of(self._saved, told.run) == told:
            return self._saved
        self._answers.takes(self.WHAT, told.run, _digest_of_outputs(told))
        arrays = self._answers.kept(told.arrays)
        count, rest = divmod(len(arrays), HASH + OUTPUT)
        if rest:
            raise damaged_answers()
        hashes = _array(arrays[: count * HASH], HASH, self.WHAT)
        return KeptOutputs(
            told.context, told.key, hashes, _array(arrays[count * HASH :], OUTPUT, self.WHAT)
        )

    def save(self, answers: KeptOutputs) -> None:
        if self._keeps is None:
            self._saved = answers
        else:
            self._keeps.save(answers)
        self._answers.leaves(self.WHAT, _digest_of_outputs(_outputs_of(answers, "")))


def _arrays_of(outputs: KeptOutputs) -> bytes:
    return outputs.hashes.tobytes() + outputs.outputs.tobytes()


def _outputs_of(outputs: KeptOutputs, run: str) -> EarlierOutputs:
    digest = hashlib.sha256(_arrays_of(outputs)).digest()
    return EarlierOutputs(run, outputs.context, outputs.key, digest)


def _digest_of_outputs(outputs: EarlierOutputs) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode(msgspec.structs.replace(outputs, run=""))).digest()
