"""What parties can tell from lookups beyond what they are told: no more than by tossing a coin."""

import asyncio
import io
import secrets
from collections import Counter

import numpy as np
import pytest
from drawn import seeded
from reference.data import Stream
from test_directory import CONTEXT, KEY, PART, Sealed, keys_of, sealed_table

from vfl.arrays import Floats, Integers
from vfl.crypto import group, voprf
from vfl.errors import PeerError
from vfl.net.peer import MemoryPeer
from vfl.protocols.align.join import KeyIds
from vfl.protocols.lookup import directory as sealed
from vfl.protocols.lookup import lookup
from vfl.protocols.lookup.lookup import LookupSession, host_lookups
from vfl.protocols.lookup.sealing import OpenTable, Sealing, seal

PUBLIC = voprf.public_key(KEY)


def success(features: Floats, truth: Integers) -> float:
    """How often a linear rule, learnt from one half, is right about the other one."""
    half = len(truth) // 2
    signs = truth * 2.0 - 1
    known = np.column_stack([np.ones(half), features[:half]])
    rule = np.linalg.solve(known.T @ known + 30 * np.eye(known.shape[1]), known.T @ signs[:half])
    guessed = np.column_stack([np.ones(len(truth) - half), features[half:]]) @ rule > 0
    return float((guessed == (truth[half:] == 1)).mean())


def within_chance(right: float, trials: int) -> bool:
    """Whether a coin may well be right so often: above once in a million or so."""
    return abs(right - 0.5) < 5 * 0.5 / np.sqrt(trials)


class Served:
    """A host that notes all that it sees."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes]] = []
        self.version, self.most_a_minute = "20261129-120000-aaaaaa", 0

    async def newest(self) -> "Served":
        return self

    async def admit(self, points: int) -> None: ...

    async def admit_fetch(self, size: int) -> None: ...

    def secret_of(self, public: bytes) -> bytes | None:
        return KEY


def looked_up(batches: list[list[bytes]]) -> list[tuple[tuple[str, int], bytes]]:
    """By batch what the host sees of it: type and size of the message, and the points."""
    host = Served()

    async def run() -> None:
        to_host, to_guest = MemoryPeer.pair("insurer", "registry")
        to_guest.observers.append(lambda way, kind, payload: host.seen.append((kind, payload)))
        serving = asyncio.create_task(host_lookups(to_guest, host, secrets.token_bytes))  # type: ignore[arg-type]
        async with LookupSession(to_host, secrets.token_bytes).open() as session:
            for batch in batches:
                inputs = sealed.inputs_of(0, batch)
                await session.outputs(inputs, PUBLIC, lambda version: None)
        assert await serving == sum(map(len, batches))

    asyncio.run(run())
    asked = [payload for kind, payload in host.seen if kind == "LookUp"]
    size = group.POINT * len(batches[0])
    # The points are the last field of the message.
    return [(("LookUp", len(payload)), payload[-size:]) for payload in asked]


@pytest.mark.parametrize("known", ["which of two batches", "whether rows are its own"])
def test_a_host_tells_nothing_of_what_is_looked_up(known: str) -> None:
    rng = np.random.default_rng(11)
    trials = 300
    truth = rng.integers(0, 2, trials)
    own, others = [b"id%d" % i for i in range(3)], [b"id%d" % i for i in range(7, 10)]
    if known != "which of two batches":
        others = [b"nobody's %d" % i for i in range(3)]
    seen = looked_up([others if one else own for one in truth.tolist()])
    assert len(Counter(shape for shape, _ in seen)) == 1  # the same messages of the same size
    points = np.array([np.frombuffer(content, np.uint8) for _, content in seen])
    assert len({content for _, content in seen}) == trials  # no batch looks like an earlier one
    bits = np.unpackbits(points, axis=1) * 2.0 - 1
    # The order of the points and what the host makes of them by its key, too.
    evaluated = group.multiply(points.reshape(-1, group.POINT), KEY).reshape(trials, -1)
    order = np.argsort(points[:, :: group.POINT], axis=1)
    features = np.column_stack([bits, np.unpackbits(evaluated, axis=1) * 2.0 - 1, order])
    assert within_chance(success(features, truth), trials // 2)


def rows_of(made: Sealed, content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8).reshape(int(made.catalogue.counts.sum()), -1)


def test_a_guest_tells_nothing_of_rows_that_it_has_not_looked_up() -> None:
    """Half of the rows are looked up to learn from: their bits say nothing of the others'."""
    rng = np.random.default_rng(12)
    rows = 4000
    truth = rng.integers(0, 2, rows)
    keys = keys_of([range(rows)])
    parts = [bytes([128 * int(bit), *b"same"]) for bit in truth]
    _, made, content = sealed_table(keys, parts)
    shown = rows_of(made, content)
    outputs = voprf.outputs(KEY, sealed.inputs_of(0, keys[0].ids))
    tags, _ = sealed.tags_and_seeds(CONTEXT, outputs)
    order = sealed.sorted_by_tag(tags)
    by_id = np.empty_like(shown)
    by_id[order] = shown
    mixed = rng.permutation(rows)
    features = np.unpackbits(by_id[mixed], axis=1) * 2.0 - 1
    assert within_chance(success(features, truth[mixed]), rows // 2)
    # That the rule learns at all: with the parts in the open it is right about every row.
    opened = np.unpackbits(np.array([list(part) for part in parts], np.uint8)[mixed], axis=1)
    assert success(opened * 2.0 - 1, truth[mixed]) == 1.0


def test_a_guest_does_not_see_which_row_of_a_part_has_changed() -> None:
    rng = np.random.default_rng(13)
    rows, trials = 80, 60
    keys = keys_of([range(rows)])
    right = expected = 0.0
    for trial in range(trials):
        parts = [rng.bytes(PART) for _ in range(rows)]
        _, first, before = sealed_table(keys, parts, bits=2, seed=f"{trial}")
        row = int(rng.integers(rows))
        changed = [*parts]
        changed[row] = rng.bytes(PART)
        _, second, after = sealed_table(keys, changed, first.catalogue, 2, f"{trial} again")
        old, new = rows_of(first, before), rows_of(second, after)
        (moved,) = np.nonzero((old != new).any(axis=1))
        # Guess the row of which most bits differ.
        bits = np.unpackbits(old[moved] ^ new[moved], axis=1).sum(axis=1)
        guess = moved[int(np.argmax(bits))]
        tags, _ = sealed.tags_and_seeds(
            CONTEXT, voprf.outputs(KEY, sealed.inputs_of(0, [b"id%d" % row]))
        )
        right += bool((new[guess, : sealed.TAG] == tags[0]).all())
        expected += 1 / len(moved)
    assert right < expected + 5 * np.sqrt(expected)


def test_the_secret_key_is_in_nothing_that_a_guest_sees() -> None:
    _, made, content = sealed_table(keys_of([range(50)]), [bytes(PART)] * 50)
    shown = io.BytesIO()
    shown.write(content + made.table + made.catalogue.salts.tobytes() + made.catalogue.digests.tobytes())
    assert KEY not in shown.getvalue() and KEY[:8] not in shown.getvalue()


def entries_by_row(
    keys: list[KeyIds], parts: list[bytes], secret: bytes, context: bytes, seed: str
) -> np.ndarray:
    """The entries of a directory, by the rows of the table, which no guest can sort them by."""
    plain = np.frombuffer(b"".join(parts), np.uint8).reshape(len(parts), -1)
    table = OpenTable(keys, len(parts), lambda rows: plain[rows], plain.shape[1])
    sink = io.BytesIO()
    seal(table, Sealing(secret, context, 3), sink, None, Stream(seed))
    outputs = voprf.outputs(secret, sealed.inputs_of(0, keys[0].ids))
    tags, _ = sealed.tags_and_seeds(context, outputs)
    found = np.frombuffer(sink.getvalue(), np.uint8).reshape(len(parts), -1)
    by_row = np.empty_like(found)
    by_row[sealed.sorted_by_tag(tags)] = found
    return by_row


def bits_of(rows: np.ndarray) -> Floats:
    return np.unpackbits(rows, axis=1) * 2.0 - 1


def test_a_guest_does_not_see_which_rows_are_alike() -> None:
    """Pairs of rows of which half have the same part."""
    rng = np.random.default_rng(14)
    pairs = 600
    truth = rng.integers(0, 2, pairs)
    parts = []
    for same in truth.tolist():
        first = rng.bytes(PART)
        parts += [first, first if same else rng.bytes(PART)]
    shown = entries_by_row(keys_of([range(2 * pairs)]), parts, KEY, CONTEXT, "alike")
    differ = bits_of(shown[::2] ^ shown[1::2])
    assert within_chance(success(differ, truth), pairs // 2)
    opened = np.array([list(part) for part in parts], np.uint8)
    learns = (opened[::2] == opened[1::2]).all(axis=1)
    assert (learns == truth).all()  # in the open it would be seen of every pair


@pytest.mark.parametrize("other", ["another key", "another model under the same key"])
def test_a_guest_does_not_see_which_entries_of_two_directories_are_of_the_same_row(other: str) -> None:
    """Of two models of the same table, say: half of the pairs are of one row."""
    rng = np.random.default_rng(15)
    rows = 1000
    parts = [rng.bytes(PART) for _ in range(rows)]
    keys = keys_of([range(rows)])
    secret = voprf.derive_key(b"\1" * 32, b"a directory") if other == "another key" else KEY
    context = CONTEXT if other == "another key" else bytes(16)
    first = entries_by_row(keys, parts, KEY, CONTEXT, "one")
    second = entries_by_row(keys, parts, secret, context, "other")
    truth = rng.integers(0, 2, rows)
    partner = np.where(truth == 1, np.arange(rows), rng.permutation(rows))
    truth = (partner == np.arange(rows)).astype(np.int64)
    differ = bits_of(first ^ second[partner])
    order = np.column_stack([first[:, :4], second[partner, :4]]).astype(float) / 128 - 1
    assert within_chance(success(np.column_stack([differ, order]), truth), rows // 2)


def test_a_guest_does_not_see_the_tables_order_in_that_of_entries() -> None:
    rows = 1200
    shown = entries_by_row(keys_of([range(rows)]), [bytes(PART)] * rows, KEY, CONTEXT, "order")
    order = np.random.default_rng(16).permutation(rows)
    truth = (order < rows // 2).astype(np.int64)  # of the table's first half, or of the second
    assert within_chance(success(bits_of(shown[order]), truth), rows // 2)


class Cheating(Served):
    """A host that answers under other keys than it should, or what it has answered before."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.turn = how, 0
        self.other = voprf.derive_key(b"\2" * 32, b"a directory")

    def secret_of(self, public: bytes) -> bytes | None:
        self.turn += 1
        return self.other if self.how == "another key" or self.turn % 2 == 0 else KEY


@pytest.mark.parametrize("how", ["another key", "another key at every second lookup", "an old answer"])
def test_a_host_that_answers_under_another_key_is_found_at_once(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it could tell guests, or lookups of the same id, apart by what is still found."""
    host, kept = Cheating(how), list[lookup.LookedUp]()
    real = lookup._look_up

    async def again(*arguments: object) -> object:
        answer = await real(*arguments)  # type: ignore[arg-type]
        kept.append(answer)  # type: ignore[arg-type]
        return kept[0]

    if how == "an old answer":
        host.secret_of = lambda public: KEY  # type: ignore[method-assign]
        monkeypatch.setattr(lookup, "_look_up", again)

    async def run() -> int:
        to_host, to_guest = MemoryPeer.pair("insurer", "registry")
        serving = asyncio.create_task(host_lookups(to_guest, host, secrets.token_bytes))  # type: ignore[arg-type]
        right = 0
        async with LookupSession(to_host, secrets.token_bytes).open() as session:
            with pytest.raises(PeerError, match="LookedUp with a proof that does not hold"):
                for _ in range(4):
                    found = await session.outputs([b"id1"], PUBLIC, lambda version: None)
                    right += (found == voprf.outputs(KEY, [b"id1"])).all()
        serving.cancel()
        return right

    assert asyncio.run(run()) == (0 if how == "another key" else 1)


def test_a_lookup_that_is_sent_again_tells_no_more_and_counts_again() -> None:
    counted: list[int] = []

    async def admit(points: int) -> None:
        counted.append(points)

    host = Served()
    host.admit = admit  # type: ignore[method-assign]

    async def run() -> list[bytes]:
        to_host, to_guest = MemoryPeer.pair("insurer", "registry")
        serving = asyncio.create_task(host_lookups(to_guest, host, secrets.token_bytes))  # type: ignore[arg-type]
        async with LookupSession(to_host, secrets.token_bytes).open() as session:
            request = lookup.LookUp(PUBLIC, voprf.blind([b"a", b"b"]).points.tobytes())
            found = [await session.ask(request, lookup.LookedUp) for _ in range(3)]
        await serving
        return [one.points for one in found]  # type: ignore[attr-defined]

    assert len(set(asyncio.run(run()))) == 1
    assert counted == [2, 2, 2]


def test_a_session_drawn_twice_does_not_give_the_key_away() -> None:
    """As two answers with proofs of one scalar would: as where a run's secret served for two runs."""

    async def answers(asked: list[bytes]) -> list[bytes]:
        to_host, to_guest = MemoryPeer.pair("insurer", "registry")
        entropy = seeded(1).at("proofs")
        serving = asyncio.create_task(host_lookups(to_guest, Served(), entropy))  # type: ignore[arg-type]
        async with LookupSession(to_host, secrets.token_bytes).open() as session:
            blinded = voprf.blind(asked)
            found = await session.ask(lookup.LookUp(PUBLIC, blinded.points.tobytes()), lookup.LookedUp)
            assert isinstance(found, lookup.LookedUp)
        await serving
        return [found.proof[:32], found.proof[32:]]

    key = int.from_bytes(KEY, "little")
    scalars = set()
    for asked in ([b"a"], [b"b"]):
        challenge, response = (int.from_bytes(one, "little") for one in asyncio.run(answers(asked)))
        scalars.add((response + challenge * key) % group.ORDER)
    assert len(scalars) == 2
