"""Jobs that wait for a person's decision, and the decisions: files of the store, one writer each.

    ID.json            what is asked, written once by who serves
    ID.lock            held while somebody waits for the decision
    ID.decision.json   the decision, written once: whoever is first has decided

So `vfl serve`, `vfl approvals` and `vfl console` share them without a server between them. A file
appears whole, readable by its owner only. None holds an id, a value or a key.
"""

import contextlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from vfl.errors import ConfigError, DataError, ModelError, Refused
from vfl.party import locks
from vfl.party.files import replacing, unwritable
from vfl.party.store import Store
from vfl.text import nearest_name

Outcome = Literal["approved", "refused", "lapsed", "withdrawn"]
"""What became of a request; of the last two no person decided: the time was over, or who asked left."""

State = Literal["waiting", "approved", "refused", "lapsed", "withdrawn"]

MOST_REASON = 200
"""Characters of a reason."""

_ID = re.compile(r"[0-9a-f]{8}")
_KEPT = 500  # requests that are over; the ledger has the decisions of all
_MOST = 1 << 20  # bytes of a file


class Learnt(msgspec.Struct, frozen=True):
    """A line of `vfl leakage`, in words."""

    who: str
    about: str
    what: str
    number: str
    guessing: str
    how: str
    less_by: str


class Change(msgspec.Struct, frozen=True):
    """A setting that differs from that of the last job of the name; empty where there was none."""

    setting: str
    before: str
    now: str


class Request(msgspec.Struct, frozen=True):
    """A job that waits: who asks for what, and what there is to say of it."""

    id: str
    asked: str  # ISO 8601, UTC
    until: str  # the same
    subject: str  # a digest of what is asked, the run left out
    guest: str
    task: str
    run: str
    hosts: list[str]
    job: str | None = None
    purpose: str | None = None
    model: str | None = None
    alignment: str | None = None
    kind: str = ""  # the kind of model and what it predicts, in words
    table: str = ""  # this party's, and a digest of the query that makes it
    rows: int | None = None  # of the alignment, that this party knows
    columns: list[str] = []  # this party's, that the job would use
    asks: str = ""  # what the guest would get by a job of this task
    learns: list[Learnt] = []
    budget: list[str] = []  # what was told before, what is counted of a day
    policy: list[str] = []  # what the rules say
    last: str | None = None  # the model of the last job of the name
    changes: list[Change] = []


class Decision(msgspec.Struct, frozen=True):
    """What became of a request."""

    outcome: Outcome
    who: str  # the account or the person; of a lapsed or withdrawn one the service
    when: str  # ISO 8601, UTC
    reason: str = ""


class Asked(msgspec.Struct, frozen=True):
    """A request and where it stands."""

    request: Request
    decision: Decision | None = None
    waiting: bool = False  # whether somebody waits for the decision

    @property
    def state(self) -> State:
        """In a word. Of a service that was killed nobody waits any more."""
        if self.decision is not None:
            return self.decision.outcome
        return "waiting" if self.waiting else "withdrawn"


def now() -> str:
    """The present time, as requests and decisions have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_id() -> str:
    """The id of a new request."""
    return secrets.token_hex(4)


def check_reason(text: str) -> str:
    """A reason as it goes to the guest. Raises ConfigError for one that is too long or no plain line."""
    reason = text.strip()
    if len(reason) > MOST_REASON:
        raise ConfigError(f"a reason has at most {MOST_REASON} characters, not {len(reason):,}")
    if not reason.isprintable():
        raise ConfigError("a reason is one line of plain text")
    return reason


class Approvals:
    """The requests of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def folder(self) -> Path:
        return self._store.approvals(make=False)

    def every(self) -> list[Asked]:
        """All requests, the newest first. Raises DataError for a folder that cannot be read."""
        try:
            names = [path.stem for path in self.folder.glob("*.json") if _ID.fullmatch(path.stem)]
        except OSError as error:
            raise unwritable(f"{self.folder} cannot be read", error) from None
        found = [asked for name in names if (asked := self._read(name)) is not None]
        return sorted(found, key=lambda one: (one.request.asked, self._written(one)), reverse=True)

    def waiting(self) -> list[Asked]:
        """Those that wait, the oldest first."""
        return [one for one in self.every() if one.state == "waiting"][::-1]

    def find(self, name: str) -> Asked:
        """A request by its id. Raises ModelError where there is none."""
        asked = self._read(name) if _ID.fullmatch(name) else None
        if asked is None:
            known = [one.request.id for one in self.every()]
            near = nearest_name(name, known)
            hint = f"did you mean {near}?" if near else "`vfl approvals PARTY.toml` lists them"
            raise ModelError(f"there is no request {name!r:.40}: {hint}")
        return asked

    def decide(self, name: str, outcome: Outcome, who: str, reason: str = "") -> Decision:
        """Decide on a request that waits; who is first has decided.

        Raises Refused when it does not wait any more, ModelError where there is none, ConfigError for a
        reason that is none, DataError where it cannot be written.
        """
        asked = self.find(name)
        if asked.state != "waiting":
            raise Refused(f"request {name} does not wait any more: {describe(asked)}")
        decision = Decision(outcome, _plain(who), now(), check_reason(reason))
        if not self._write_once(name, decision):
            raise Refused(f"request {name} does not wait any more: {describe(self.find(name))}")
        return decision

    # What serves.

    @contextlib.contextmanager
    def open(self, request: Request) -> Iterator[Request]:
        """A request, for as long as somebody waits for the decision: with another id where there is one
        of its own already, so that it never takes another's decision. Raises DataError."""
        folder = self._store.approvals()
        self._forget_old()
        with contextlib.ExitStack() as stack:
            while not self._take(stack, folder, request.id):
                request = msgspec.structs.replace(request, id=new_id())
            with replacing(folder / f"{request.id}.json") as file:
                file.write(msgspec.json.encode(request))
            yield request

    def _take(self, stack: contextlib.ExitStack, folder: Path, name: str) -> bool:
        """Lock an id that no request has, until the stack ends; whether that was done."""
        lock = folder / f"{name}.lock"
        with contextlib.ExitStack() as taken:
            try:
                taken.enter_context(locks.locked(lock))
            except locks.Held:
                return False
            except OSError as error:
                raise unwritable(f"{lock} cannot be locked", error) from None
            taken.callback(lock.unlink, missing_ok=True)
            if (folder / f"{name}.json").exists() or self._decision(name).exists():
                return False
            stack.push(taken.pop_all())
        return True

    def decision(self, name: str) -> Decision | None:
        """The decision on a request, if there is one: asked for often. Raises DataError for a damaged
        one."""
        path = self._decision(name)
        if not os.path.exists(path):  # noqa: PTH110 - one call of the system, no object
            return None
        try:
            return msgspec.json.decode(path.read_bytes()[:_MOST], type=Decision)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            raise DataError(f"{path} is damaged: remove it, and decide again") from None

    def end(self, name: str, outcome: Outcome, reason: str) -> Decision:
        """Write down that nobody decided; what a person decided meanwhile stands. Raises DataError."""
        made = Decision(outcome, "vfl serve", now(), reason)
        if self._write_once(name, made):
            return made
        return self.decision(name) or made

    def _decision(self, name: str) -> Path:
        return self.folder / f"{name}.decision.json"

    def _read(self, name: str) -> Asked | None:
        try:
            content = (self.folder / f"{name}.json").read_bytes()[:_MOST]
            request = msgspec.json.decode(content, type=Request)
            decision = self.decision(name)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, DataError):
            return None  # removed meanwhile, or of another version
        waits = decision is None and locks.holder(self.folder / f"{name}.lock") is not None
        return Asked(request, decision, waits) if request.id == name else None

    def _written(self, one: Asked) -> int:
        """When a request was written, for those of one second; 0 where it was removed meanwhile."""
        try:
            return (self.folder / f"{one.request.id}.json").stat().st_mtime_ns
        except OSError:
            return 0

    def _write_once(self, name: str, decision: Decision) -> bool:
        """Write a decision unless there is one already; whether that was done."""
        path = self._decision(name)
        try:
            handle, unfinished = tempfile.mkstemp(
                dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
            )
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(msgspec.json.encode(decision))
                    file.flush()
                    os.fsync(file.fileno())
                Path(path).hardlink_to(unfinished)  # fails where the file is there
            finally:
                Path(unfinished).unlink(missing_ok=True)
        except FileExistsError:
            return False
        except OSError as error:
            raise unwritable(f"{path} cannot be written", error) from None
        return True

    def _forget_old(self) -> None:
        """Remove requests that are long over."""
        over = [one for one in self.every() if one.state != "waiting"]
        for one in over[_KEPT:]:
            for path in (self._decision(one.request.id), self.folder / f"{one.request.id}.json"):
                path.unlink(missing_ok=True)


def describe(asked: Asked) -> str:
    """Where a request stands, in words."""
    decision = asked.decision
    if decision is None:
        return "it waits for a decision" if asked.waiting else "who waited for it was stopped"
    if decision.outcome in ("lapsed", "withdrawn"):
        return f"{decision.reason} ({decision.when})"
    why = f": {decision.reason}" if decision.reason else ""
    return f"{decision.outcome} by {decision.who} on {decision.when}{why}"


def _plain(who: str) -> str:
    """A name as one printable line."""
    return "".join(c if c.isprintable() else " " for c in who)[:100].strip() or "somebody"
