"""An adversary in a protocol's run: one message of one party, spoilt in every way that its type allows.

A scenario is a protocol with all its parties over memory. One party is the liar: it plays its role as it
should, and one frame that it sends is replaced by what an attack makes of it. Attacks are made from the
types of the messages' fields, so that a message or field that is new is attacked as well. What the
others end with is the outcome:

- refused: a party ended with PeerError, which names the liar, or it and one other, and the message; the
  others were told;
- rule: a rule of its own or the mathematics ended it (Refused, ConfigError, DataError, ModelError);
- silent: the liar owed a message, and all ended when it hung up;
- done: the job went on to its end, as with an honest party that has other data.

Anything else is a fault: another class of exception, an error that blames a party that did as it should,
or a party that never ends.
"""

import asyncio
import contextlib
import math
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import inspect as types

from vfl.errors import (
    ConfigError,
    DataError,
    ModelError,
    PeerError,
    PeerLost,
    PeerStopped,
    Refused,
    VflError,
)
from vfl.jobs.reveals import message_types
from vfl.net.hello import OtherProtocol
from vfl.net.peer import HEADER, TAG, MemoryPeer, Peer, stop_all

PATIENCE = 240.0  # seconds after which a run hangs
_LOOKS = 350  # at parties that wait, twenty milliseconds apart: longer than any time limit of theirs

Peers = dict[str, MemoryPeer]  # what a party holds to speak to each other one, by name


@dataclass(frozen=True)
class Scenario:
    """A protocol with its parties."""

    name: str
    sessions: tuple[tuple[str, str], ...]
    roles: Callable[[Mapping[str, Peers]], Mapping[str, Awaitable[Any]]]
    patterns: Mapping[str, Sequence[bytes]] = field(default_factory=dict)
    """By a field's name, what may stand in place of its first bytes: elements that are none."""
    relayed: frozenset[str] = frozenset()
    """Messages whose content another party passes on unread, so that it is blamed for them."""

    def open(self) -> dict[str, Peers]:
        """A session for each pair of parties."""
        ends: dict[str, Peers] = defaultdict(dict)
        for a, b in self.sessions:
            ends[a][b], ends[b][a] = MemoryPeer.pair(a, b)
        return ends


@dataclass(frozen=True)
class Place:
    """A message of a run: the `number`-th of its kind from one party to another."""

    sender: str
    receiver: str
    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind} {self.number} {self.sender} -> {self.receiver}"


@dataclass(frozen=True)
class Sent:
    """A frame as an honest party sent it."""

    place: Place
    frame: bytes

    @property
    def body(self) -> dict[str, Any]:
        """The message's fields."""
        return dict(msgspec.msgpack.decode(self.frame[HEADER:], strict=False)[1])


Forge = Callable[[bytes, list[bytes]], list[bytes]]
"""What is sent in place of a frame, given those sent before in its direction."""


@dataclass(frozen=True)
class Attack:
    """What is done to a message."""

    name: str
    forge: Forge
    illegal: bool = False  # no honest party could send it: to go on would be a fault
    later: bool = False  # holds the frame back until the next one has been sent


def kind_of(frame: bytes) -> str:
    """The name of a frame's message; empty for garbage."""
    try:
        return str(msgspec.msgpack.decode(frame[HEADER:])[0])
    except (msgspec.MsgspecError, TypeError, IndexError, ValueError):
        return ""


# ------------------------------------------------------------------------------------- attacks


def attacks(
    sent: Sent, others: Sequence[Sent], patterns: Mapping[str, Sequence[bytes]], rng: random.Random
) -> Iterator[Attack]:
    """Everything that can be done to a message; `others` are all messages of the run."""
    yield from _of_frames(sent, rng)
    yield from _of_types(sent, others)
    kind = message_types()[sent.place.kind]
    info = types.type_info(kind)
    assert isinstance(info, types.StructType)
    body = sent.body
    strict = kind.__struct_config__.forbid_unknown_fields
    yield _body(sent, "a field that is none", {**body, "extra": 1}, illegal=strict)
    yield _body(sent, "no fields", [], illegal=True)
    if kind.limit <= 256 * 1024:
        yield _body(sent, "over its limit", {**body, "extra": bytes(kind.limit)}, illegal=True)
    for one in info.fields:
        if one.required:
            without = {k: v for k, v in body.items() if k != one.name}
            yield _body(sent, f"without {one.name}", without, illegal=True)
        if one.name not in body:
            continue  # a default is not always written
        for what, value, illegal in _variants(one.type, body[one.name], patterns.get(one.name, ()), rng):
            yield _body(sent, f"{one.name} {what}", {**body, one.name: value}, illegal=illegal)


def _body(sent: Sent, name: str, body: object, *, illegal: bool = False) -> Attack:
    def forge(frame: bytes, _: list[bytes]) -> list[bytes]:
        return [frame[:HEADER] + msgspec.msgpack.encode([sent.place.kind, body])]

    return Attack(name, forge, illegal)


def _of_frames(sent: Sent, rng: random.Random) -> Iterator[Attack]:
    size = len(sent.frame)

    def whole(name: str, change: Callable[[bytes], bytes], illegal: bool = True) -> Attack:
        return Attack(name, lambda frame, _: [change(frame)], illegal)

    for length in sorted({0, TAG - 1, HEADER - 1, HEADER, HEADER + 1, (HEADER + size) // 2, size - 1}):
        yield whole(f"cut to {length} bytes", lambda f, n=length: f[: min(n, len(f) - 1)])
    yield whole("a byte more", lambda f: f + b"\0")
    yield whole("of another session", lambda f: bytes(b ^ 1 for b in f[:TAG]) + f[TAG:])
    for step in (-1, 1, 2**63):
        yield whole(f"number off by {step}", lambda f, s=step: _renumbered(f, s))
    garbage = rng.randbytes(40)
    yield whole("garbage", lambda f: f[:HEADER] + garbage)
    yield whole("deep nesting", lambda f: f[:HEADER] + b"\x91" * 50_000)
    yield whole("a huge array", lambda f: f[:HEADER] + b"\xdd\xff\xff\xff\xff")
    for _ in range(3):
        at, bit = rng.randrange(HEADER, size), 1 << rng.randrange(8)
        flipped = lambda f, i=at, b=bit: f[:i] + bytes([f[i] ^ b]) + f[i + 1 :]  # noqa: E731
        yield whole(f"bit {bit} of byte {at} flipped", flipped, illegal=False)
    # Where nothing is due any more, a frame too many is never read.
    yield Attack("replayed", lambda frame, _: [frame, frame])
    yield Attack("an earlier one again", lambda frame, before: [before[-1] if before else b""], True)
    yield Attack("left out", lambda frame, _: [])
    yield Attack("swapped with the next", lambda frame, _: [frame], later=True)


def _renumbered(frame: bytes, step: int) -> bytes:
    number = (int.from_bytes(frame[TAG:HEADER], "big") + step) % 2**64
    return frame[:TAG] + number.to_bytes(8, "big") + frame[HEADER:]


def _of_types(sent: Sent, others: Sequence[Sent]) -> Iterator[Attack]:
    """Another message of the run in its place, and its body under another name."""
    bodies = {other.place.kind: other.frame[HEADER:] for other in others}
    for kind, payload in bodies.items():
        if kind != sent.place.kind:
            yield Attack(f"{kind} instead", lambda frame, _, p=payload: [frame[:HEADER] + p])
    for name in ("Nothing", "Message", "", "\x1b[31m", 7, None):
        payload = msgspec.msgpack.encode([name, sent.body])
        yield Attack(f"called {name!r}", lambda frame, _, p=payload: [frame[:HEADER] + p], True)


Variant = tuple[str, Any, bool]  # how it differs, the value, whether it has another type
_OTHER_TYPES: dict[type[types.Type], tuple[object, ...]] = {
    types.IntType: (1.5, "1", None, [], b"\1", {}, 2**64 - 1),
    types.FloatType: ("1", None, [], b"\1"),
    types.BoolType: (1, "true", None),
    types.StrType: (5, None, [], b"bytes"),
    types.BytesType: (5, None, [0], {}),
    types.MemoryViewType: (5, None, [0], {}),
    types.ListType: (None, 5, {}, [[]], [None]),
    types.DictType: (None, 5, [], {"": []}, {None: None}),
}


def _variants(
    kind: types.Type, value: Any, patterns: Sequence[bytes], rng: random.Random
) -> Iterator[Variant]:
    """Other values of a field."""
    for other in _OTHER_TYPES.get(type(kind), ()):
        if other == 2**64 - 1:
            yield "of 2^64 - 1", other, False
        else:
            is_one = isinstance(kind, types.ListType) and _is_one(kind, other)
            yield f"of type {type(other).__name__} {other!r}", other, not is_one
    if isinstance(kind, types.UnionType):
        for one in kind.types:
            if not isinstance(one, types.NoneType) and value is not None:
                yield from (v for v in _variants(one, value, patterns, rng) if v[1] is not None)
        optional = any(isinstance(one, types.NoneType) for one in kind.types)
        yield "none", None, not optional
    elif isinstance(kind, types.StructType):
        for one in kind.fields:
            for what, changed, illegal in _variants(one.type, value[one.name], patterns, rng):
                yield f"{one.name} {what}", {**value, one.name: changed}, illegal
    elif isinstance(kind, types.LiteralType):
        for other in (*kind.values, "nothing", ""):
            if other != value:
                yield f"{other!r}", other, other not in kind.values
    elif isinstance(kind, types.BoolType):
        yield "the opposite", not value, False
    elif isinstance(kind, types.IntType):
        for number in (-1, 0, 1, value - 1, value + 1, 2**31, 2**32, 2**63 - 1, -(2**31), -(2**63)):
            if number != value:
                yield f"{number}", number, False
    elif isinstance(kind, types.FloatType):
        for real in (
            math.nan,
            math.inf,
            -math.inf,
            0.0,
            -value,
            1e308,
            -1e308,
            1e300,
            5e-324,
            1e-300,
            3,
        ):
            yield f"{real}", real, False
    elif isinstance(kind, types.StrType):
        for text in ("", "x" * 1000, value + "\0", "../../etc", "\x1b[31m" + value, "é" * 40):
            yield f"{text[:12]!r}", text, False
    elif isinstance(kind, types.BytesType | types.MemoryViewType):
        yield from _of_bytes(value, patterns, rng)
    elif isinstance(kind, types.ListType):
        yield from _of_lists(kind, value, patterns, rng)
    elif isinstance(kind, types.DictType):
        yield from _of_dicts(kind, value, patterns, rng)


def _is_one(kind: types.ListType, other: object) -> bool:
    """Whether a list of None, or one of an empty list, is one of the kind all the same."""
    item = kind.item_type
    if other == [[]]:
        return isinstance(item, types.ListType) and not item.min_length
    some = item.types if isinstance(item, types.UnionType) else ()
    return other == [None] and any(isinstance(one, types.NoneType) for one in some)


def _of_bytes(value: bytes, patterns: Sequence[bytes], rng: random.Random) -> Iterator[Variant]:
    size = len(value)
    for what, other in {
        "empty": b"",
        "one byte less": value[:-1],
        "one byte more": value + b"\0",
        "twice": value + value,
        "half": value[: size // 2],
        "zeros": bytes(size),
        "ones": b"\xff" * size,
        "random": rng.randbytes(size),
        "a mebibyte": bytes(1 << 20),
    }.items():
        if other != value:
            yield what, other, False
    for width in (1, 4, 8, 16, 32):
        if size >= 2 * width:
            rest = value[width:]
            yield f"{width} bytes: zero", bytes(width) + rest, False
            yield f"{width} bytes: ones", b"\xff" * width + rest, False
            yield f"{width} bytes less", rest, False
            yield f"{width} bytes twice", value[width : 2 * width] + rest, False
    for real in (math.nan, math.inf, -1e308):
        if size and size % 8 == 0:
            yield f"begins with {real}", msgspec.msgpack.encode(real)[:0:-1] + value[8:], False
    for k, pattern in enumerate(patterns):
        yield f"begins with element {k}", pattern + value[len(pattern) :], False


def _of_lists(
    kind: types.ListType, value: list[Any], patterns: Sequence[bytes], rng: random.Random
) -> Iterator[Variant]:
    yield "empty", [], False
    yield "twice", value * 2, False
    yield "of 3000", (value[:1] or [0]) * 3000, False
    if value:
        yield "one less", value[:-1], False
        yield "one more", [*value, value[0]], False
        yield "reversed", value[::-1], False
        for what, other, illegal in _variants(kind.item_type, value[0], patterns, rng):
            yield f"first {what}", [other, *value[1:]], illegal


def _of_dicts(
    kind: types.DictType, value: dict[Any, Any], patterns: Sequence[bytes], rng: random.Random
) -> Iterator[Variant]:
    yield "empty", {}, False
    if value:
        first = next(iter(value))
        rest = {k: v for k, v in value.items() if k != first}
        yield "one less", rest, False
        for what, key, illegal in _variants(kind.key_type, first, (), rng):
            if key.__hash__ is not None:
                yield f"key {what}", {key: value[first], **rest}, illegal
        for what, other, illegal in _variants(kind.value_type, value[first], patterns, rng):
            yield f"first {what}", {first: other, **rest}, illegal
    if isinstance(kind.key_type, types.IntType):
        yield "of 2000", {k: [0] for k in range(2000)}, False


# ---------------------------------------------------------------------------------------- runs


@dataclass
class Run:
    """A run with or without an attack."""

    scenario: Scenario
    sent: list[Sent]
    ends: dict[str, Any]  # what each honest party returned or raised
    made: bool = False  # the attack, since its message came to be sent
    hung_up: bool = False  # the liar, since nothing could move any more


def play(scenario: Scenario, place: Place | None = None, attack: Attack | None = None) -> Run:
    """Run all parties; the place's sender, if there is one, sends what the attack makes of it."""
    runs: list[Run] = []

    async def main() -> None:
        # Not returned: all that a task returns is written out as text where asyncio takes its handler of
        # signals back.
        runs.append(await _play(scenario, place, attack))

    asyncio.run(main())
    return runs[0]


async def _play(scenario: Scenario, place: Place | None, attack: Attack | None) -> Run:
    peers = scenario.open()
    run = Run(scenario, [], {})
    working = _threads(asyncio.get_running_loop())

    def watch(sender: str, receiver: str, peer: MemoryPeer) -> None:
        put, seen, before = peer._put, Counter[str](), list[bytes]()
        held: list[bytes] = []

        async def spoil(frame: bytes) -> None:
            kind = kind_of(frame)
            here = Place(sender, receiver, kind, seen[kind])
            seen[kind] += 1
            frames = [frame]
            if here == place and attack is not None:
                run.made = True
                frames = attack.forge(frame, before)
                if attack.later:
                    held.extend(frames)
                    return
            elif place is None:
                run.sent.append(Sent(here, frame))
            before.append(frame)
            for one in frames:
                await put(one)
            while held:
                await put(held.pop())

        peer._put = spoil  # type: ignore[method-assign]

    for sender, others in peers.items():
        for receiver, peer in others.items():
            watch(sender, receiver, peer)

    liar = None if place is None else place.sender
    tasks = {
        name: asyncio.create_task(_ending(role, list(peers[name].values())))
        for name, role in scenario.roles(peers).items()
    }
    honest = {name: task for name, task in tasks.items() if name != liar}
    gone: set[str] = set()
    looks = 0
    try:
        async with asyncio.timeout(PATIENCE):
            while not await _at_rest(honest.values(), working):
                if liar is not None and not run.hung_up:
                    run.hung_up = True
                    _hang_up(peers[liar])
                    gone.add(liar)
                elif ended := {name for name, task in honest.items() if task.done()} - gone:
                    for name in ended:  # as a job does that has come to its end
                        _hang_up(peers[name])
                    gone |= ended
                elif run.hung_up and looks == _LOOKS:
                    break
                else:
                    await asyncio.sleep(0.02)  # whoever still waits does so for a time limit of its own
                    looks += 1
    except TimeoutError:
        pass
    for name, task in honest.items():
        if task.done():
            run.ends[name] = task.result()
        else:
            # Those who wait for each other do so no longer than another of their peers is there:
            # `while_here` of jobs/telling.py.
            lost = sorted(gone & peers[name].keys())
            run.ends[name] = PeerLost(f"{lost[0]} is gone") if lost else TimeoutError()
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)
    return run


def _hang_up(peers: Peers) -> None:
    for peer in peers.values():
        with contextlib.suppress(asyncio.QueueFull):
            peer._outbox.put_nowait(None)


def _threads(loop: asyncio.AbstractEventLoop) -> set[asyncio.Future[Any]]:
    """The work of the loop that is under way in threads, from now on."""
    working: set[asyncio.Future[Any]] = set()
    run_in_executor = loop.run_in_executor

    def counted(*arguments: Any) -> asyncio.Future[Any]:
        future = run_in_executor(*arguments)
        working.add(future)
        future.add_done_callback(working.discard)
        return future

    loop.run_in_executor = counted  # type: ignore[method-assign]
    return working


async def _at_rest(parties: Iterable[asyncio.Task[Any]], working: set[asyncio.Future[Any]]) -> bool:
    """Wait until no party can go on without a further frame; whether all have ended.

    That nothing has moved for a while would not do: a party that computes says nothing either, and a
    liar that hangs up then has not lied yet. All is still when no thread works and the loop has nothing
    left to run but this.
    """
    loop: Any = asyncio.get_running_loop()
    while not all(task.done() for task in parties):
        if working:
            await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0)
        if not working and not loop._ready:
            return all(task.done() for task in parties)
    return True


async def _ending(role: Awaitable[Any], peers: Sequence[Peer]) -> Any:
    """What a role returns or raises; as in a job, a party whose part has failed tells the others."""
    try:
        return await role
    except VflError as error:
        with contextlib.suppress(VflError):
            await stop_all(peers, error, 0.2)
        return error
    except Exception as error:
        await stop_all(peers, VflError(""), 0.2)
        return error


def outcome(run: Run, place: Place, attack: Attack) -> str:
    """refused, rule, silent or done; else AssertionError.

    What no honest party could send has to be refused, whatever else may come of it.
    """
    assert run.made, f"{run.scenario.name}: {place} was never sent"
    found = set()
    for name, end in run.ends.items():
        said = f"{run.scenario.name}: {place}, {attack.name}: {name} ended with {end!r}"
        if isinstance(end, PeerError):
            did = " runs " if isinstance(end, OtherProtocol) else " broke the protocol: "
            names_liar = place.sender in str(end).partition(did)[0].split(" or ")
            assert names_liar or place.kind in run.scenario.relayed, said
            found.add("refused")
        elif isinstance(end, Refused | ConfigError | DataError | ModelError):
            found.add("rule")
        elif isinstance(end, PeerLost):
            assert run.hung_up, said
            found.add("silent")
        elif isinstance(end, PeerStopped):
            found.add("stopped")
        else:
            assert not isinstance(end, BaseException), said
            found.add("done")
    # A liar whose own part of the job fails on what came of its lie stops it: that counts as done.
    verdict = next((one for one in ("refused", "rule", "silent") if one in found), "done")
    if attack.illegal:
        assert verdict in ("refused", "rule"), f"{run.scenario.name}: {place}, {attack.name}: {verdict}"
    return verdict


def places(run: Run) -> dict[Place, Sent]:
    """The first and the last message of each kind in each direction."""
    found: dict[tuple[str, str, str], list[Sent]] = defaultdict(list)
    for sent in run.sent:
        found[sent.place.sender, sent.place.receiver, sent.place.kind].append(sent)
    return {sent.place: sent for several in found.values() for sent in (several[0], several[-1])}


@dataclass(frozen=True)
class Case:
    """One attack on one message."""

    scenario: Scenario
    sent: Sent
    attack: Attack

    def outcome(self) -> str:
        """Raises AssertionError for a fault."""
        return outcome(play(self.scenario, self.sent.place, self.attack), self.sent.place, self.attack)


def cases(scenario: Scenario, seed: int) -> list[Case]:
    """All attacks on all messages of a scenario."""
    rng = random.Random(seed)
    run = play(scenario)
    for name, end in run.ends.items():
        assert not isinstance(end, BaseException), (scenario.name, name, end)
    return [
        Case(scenario, sent, attack)
        for sent in places(run).values()
        for attack in attacks(sent, run.sent, scenario.patterns, rng)
    ]
