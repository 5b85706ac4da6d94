"""A host's ids as they were evaluated for a guest, kept for the guest's next jobs as its policy allows;
and at the guest the stores and answers of such a host (vfl/protocols/align/kept.py, answered.py)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Literal

import msgspec
import numpy as np

from vfl.arrays import Bytes
from vfl.errors import ModelError
from vfl.party.locks import in_turn
from vfl.party.policy import exceeds
from vfl.party.policy_section import PolicySection
from vfl.party.store import Store
from vfl.protocols.align.answered import HASH, KEY, Answers
from vfl.protocols.align.kept import CONTEXT, Asked, KeptIds
from vfl.protocols.align.oprf import OUTPUT

_KIND: Literal["kept"] = "kept"
_WIDTH = 16
_OF_TABLE = ("hashes", "tags")  # arrays in the order of the table


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A host's document: of which guest and rule, since when, how many ids were asked about."""

    guest: str
    rule: list[str]
    made: str
    asked: int
    context: str
    scalar: str
    sizes: list[int]
    arrays: dict[str, dict[str, object]]
    table: str = ""
    run: str = ""  # that has kept it last, in hex


class HostKeptIds:
    """Where a host keeps its ids as evaluated for one guest: `HostKeeps` of the protocol."""

    def __init__(
        self,
        store: Store,
        guest: tuple[str, str],
        rule: Sequence[str],
        policy: PolicySection,
        on: date,
        run: str = "",
    ) -> None:
        """guest: its name and its certificate's fingerprint. rule: for ids. on: today. run: in hex."""
        self._store, (self._name, self._fingerprint) = store, guest
        self._rule, self._policy, self._on = list(rule), policy, on
        self._loaded: str | None = None  # the context of what was loaded
        self._run = run
        self.run_before = ""
        """Of what was loaded: the run that has kept it."""

    def load(self, asked: Asked) -> KeptIds | None:
        body, self._loaded = self._read(), None
        if body is None or self._exceeds(body, asked):
            return None
        if (self._on - date.fromisoformat(body.made)).days >= self._policy.kept_key_days:
            return None
        try:
            hashes, tags, *stores = (
                _rows(self._store, body.arrays[name]) for name in _names(len(body.sizes))
            )
        except (ModelError, KeyError):
            return None  # another key takes its place
        if len(hashes) != len(tags) or len(tags) != sum(body.sizes):
            return None
        self.run_before = body.run
        key, self._loaded = (bytes.fromhex(body.context), bytes.fromhex(body.scalar)), body.context
        return KeptIds(*key, hashes, tags, tuple(stores), tuple(body.sizes), bytes.fromhex(body.table))

    def _exceeds(self, body: _Body, asked: Asked) -> bool:
        """Whether these would be too many ids under a key."""
        by_then = body.asked + asked.under(bytes.fromhex(body.context))
        return exceeds(by_then, self._policy.max_ids_a_key)

    def save(self, kept: KeptIds, asked: Asked) -> bool:
        with self._in_turn():
            before = self._read()
            same = before is not None and before.context == kept.context.hex()
            if kept.context.hex() == self._loaded and (
                before is None or not same or self._exceeds(before, asked)
            ):
                return False
            arrays: dict[str, dict[str, object]] = {}
            as_it_was = before is not None and same and before.sizes == list(kept.sizes)
            table = kept.table.hex()
            for name, rows in zip(
                _names(len(kept.stores)), (kept.hashes, kept.tags, *kept.stores), strict=True
            ):
                of_table = name in _OF_TABLE
                if before is not None and as_it_was and (before.table == table or not of_table):
                    arrays[name] = before.arrays[name]
                else:
                    arrays[name] = dict(self._store.write_array(_KIND, self._name, rows))
            body = _Body(
                self._fingerprint,
                self._rule,
                before.made if same and before is not None else self._on.isoformat(),
                asked.under(kept.context) + (before.asked if same and before is not None else 0),
                kept.context.hex(),
                kept.scalar.hex(),
                list(kept.sizes),
                arrays,
                table,
                self._run,
            )
            self._store.write(_KIND, self._name, msgspec.to_builtins(body))
        return True

    def _read(self) -> _Body | None:
        """What is kept for this guest by this rule; a damaged document counts for none."""
        if self._name not in self._store.names(_KIND):
            return None
        try:
            body = msgspec.convert(self._store.read(_KIND, self._name), _Body)
            date.fromisoformat(body.made)
            key = bytes.fromhex(body.context), bytes.fromhex(body.scalar)
            bytes.fromhex(body.table)
        except (ModelError, msgspec.ValidationError, ValueError):
            return None
        ours = body.guest == self._fingerprint and body.rule == self._rule
        return body if ours and [len(part) for part in key] == [CONTEXT, 32] else None

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        self._store.make(_KIND)
        with in_turn(self._store.path(_KIND, self._name).with_suffix(".lock")):
            yield


def _names(stores: int) -> list[str]:
    return [*_OF_TABLE, *(f"store {number}" for number in range(stores))]


def _rows(store: Store, ref: Mapping[str, object], width: int = _WIDTH) -> Bytes:
    rows = store.read_array(_KIND, ref)
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != width:
        raise ModelError("kept ids are damaged: an array has another shape than due")
    return rows


class GuestKeptStores:
    """Where a guest keeps the stores of one host: `GuestKeeps` of the protocol."""

    def __init__(self, store: Store, host: str) -> None:
        self._store, self._name = store, f"stores-{host}"

    def known(self, stores: Sequence[bytes]) -> list[bytes]:
        held = self._read()
        wanted = {digest.hex(): digest for digest in stores}
        left = {digest: ref for digest, ref in held.items() if digest in wanted}
        if len(left) < len(held):
            self._store.write(_KIND, self._name, {"stores": left})
        return [wanted[digest] for digest in left]

    def load(self, store: bytes) -> Bytes | None:
        try:
            return _rows(self._store, self._read()[store.hex()])
        except (ModelError, KeyError):
            return None

    def save(self, store: bytes, slots: Bytes) -> None:
        self._store.make(_KIND)
        held = self._read()
        held[store.hex()] = dict(self._store.write_array(_KIND, self._name, slots))
        self._store.write(_KIND, self._name, {"stores": held})

    def _read(self) -> dict[str, dict[str, object]]:
        if self._name not in self._store.names(_KIND):
            return {}
        try:
            body = self._store.read(_KIND, self._name)
            return msgspec.convert(body.get("stores"), dict[str, dict[str, object]])
        except (ModelError, msgspec.ValidationError):
            return {}


class _Answers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A guest's document of a host's answers."""

    context: str
    key: str
    hashes: dict[str, object]
    outputs: dict[str, object]
    run: str = ""  # that has kept them, in hex


class GuestKeptAnswers:
    """Where a guest keeps the answers of one host: `KeepsAnswers` of the protocol."""

    def __init__(self, store: Store, host: str, run: str = "") -> None:
        """run: in hex."""
        self._store, self._name, self._run = store, f"answers-{host}", run
        self.run_before = ""
        """Of what was loaded: the run that has kept it."""

    def load(self) -> Answers | None:
        if self._name not in self._store.names(_KIND):
            return None
        try:
            body = msgspec.convert(self._store.read(_KIND, self._name), _Answers)
            context, key = bytes.fromhex(body.context), bytes.fromhex(body.key)
            hashes = _rows(self._store, body.hashes, HASH)
            outputs = _rows(self._store, body.outputs, OUTPUT)
        except (ModelError, msgspec.ValidationError, ValueError):
            return None  # all is asked anew
        if len(hashes) != len(outputs) or (len(context), len(key)) != (CONTEXT, KEY):
            return None
        self.run_before = body.run
        return Answers(context, key, hashes, outputs)

    def save(self, answers: Answers) -> None:
        hashes = self._store.write_array(_KIND, self._name, answers.hashes)
        outputs = self._store.write_array(_KIND, self._name, answers.outputs)
        key = answers.context.hex(), answers.key.hex()
        body = _Answers(*key, dict(hashes), dict(outputs), self._run)
        self._store.write(_KIND, self._name, msgspec.to_builtins(body))
