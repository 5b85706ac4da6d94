"""Rows joined over several keys, many to one, left, extended: against joins by hand; hostile peers."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import over_memory

from vfl.blocks.texts import Packed
from vfl.errors import PeerError
from vfl.net.peer import MemoryPeer, Peer, together
from vfl.protocols.align import join
from vfl.protocols.align.join import (
    DroppedRows,
    JoinRows,
    KeyIds,
    Matched,
    RowCounts,
    RowPlaces,
    VanishedRows,
    guest_drop,
    guest_inner,
    guest_left,
    guest_match,
    host_drop,
    host_inner,
    host_left,
    host_match,
    number_values,
)
from vfl.protocols.align.psi import OprfEngine, PsiSettings
from vfl.protocols.common.bits import pack_bits
from vfl.protocols.common.participant import Participant

Cells = Sequence[str]  # one key of a table, "" where a row has none


def key(cells: Cells) -> KeyIds:
    """Ids in the order of their first rows."""
    place: dict[str, int] = {}
    of_row = [place.setdefault(cell, len(place)) if cell else -1 for cell in cells]
    return KeyIds(Packed.of([[one.encode() for one in place]]), np.array(of_row, np.int64))


def table(*keys: Cells) -> list[KeyIds]:
    return [key(cells) for cells in keys]


def run_match(
    guest: list[KeyIds],
    hosts: dict[str, list[KeyIds]],
    *,
    many: bool = False,
    starts: dict[str, Matched] | None = None,
    left: bool = False,
    engine: OprfEngine = "ecdh",
) -> tuple[np.ndarray, dict[str, np.ndarray], list[Matched]]:
    """(guest's rows, each host's rows, what is matched) of an inner or a left join of all."""
    starts, settings = starts or {}, PsiSettings(engine)

    async def play_guest(peers: Sequence[Peer]) -> tuple[np.ndarray, list[Matched]]:
        if not left:
            start = starts.get("insurer")
            start = None if start is None else await guest_drop(peers, start)
            matched = await guest_match(
                peers, guest, context=b"run", settings=settings, start=start, many=many
            )
            return await guest_inner(peers, matched, many=many), [matched]

        async def one(peer: Peer) -> Matched:
            start = starts.get(f"insurer {peer.name}")
            start = None if start is None else await guest_drop([peer], start)
            context = b"run" + peer.name.encode()
            return await guest_match(
                [peer], guest, context=context, settings=settings, start=start, many=many
            )

        apart = await together([one(peer) for peer in peers])
        every = np.arange(len(guest[0].of_row))
        return await guest_left(peers, apart, every, os.urandom), apart

    async def play_host(name: str, peer: Peer) -> np.ndarray:
        start = starts.get(name)
        start = None if start is None else await host_drop(peer, start)
        names = [name] if left else list(hosts)
        own = Participant(name, names, b"run" + (name.encode() if left else b""))
        matched = await host_match(peer, hosts[name], own, settings=settings, start=start)
        return await (host_left if left else host_inner)(peer, matched, many=many)

    (rows, matched), *others = over_memory(list(hosts), play_guest, play_host, guest="insurer")
    return rows, dict(zip(hosts, others, strict=True)), matched


def by_hand(guest: Sequence[Cells], hosts: Sequence[Sequence[Cells]], many: bool) -> set[tuple]:
    """Pairs of rows (guest, host, ...) that go together, a key after another."""
    parties = [guest, *hosts]
    left = [set(range(len(party[0]))) for party in parties]
    found = set()
    for number in range(len(guest)):
        rows_of = []
        for i, party in enumerate(parties):
            rows: dict[str, list[int]] = {}
            for row in sorted(left[i]):
                if party[number][row]:
                    rows.setdefault(party[number][row], []).append(row)
            if i or not many:
                rows = {one: r for one, r in rows.items() if len(r) == 1}
            rows_of.append(rows)
        for one in set(rows_of[0]).intersection(*rows_of[1:]):
            for row in rows_of[0][one]:
                found.add((row, *(rows[one][0] for rows in rows_of[1:])))
            for i, rows in enumerate(rows_of):
                left[i] -= set(rows[one])
    return found


VINS = st.sampled_from(["", *(f"vin{i}" for i in range(8))])
PLATES = st.sampled_from(["", *(f"plate{i}" for i in range(6))])


@st.composite
def tables(draw: st.DrawFn, unique: bool) -> list[Cells]:
    rows = draw(st.integers(1, 14))
    plates = draw(st.lists(PLATES, min_size=rows, max_size=rows))
    if unique:  # as a party file without duplicates asks of the first key
        vins = draw(st.permutations([f"vin{i}" for i in range(rows)]))
        vins = [vin if draw(st.booleans()) else "" for vin in vins]
    else:
        vins = draw(st.lists(VINS, min_size=rows, max_size=rows))
    return [vins, plates]


@settings(max_examples=25)
@given(st.data(), st.booleans(), st.integers(1, 3))
def test_an_inner_join_is_that_by_hand(data: st.DataObject, many: bool, hosts: int) -> None:
    own = data.draw(tables(unique=not many))
    others = {f"host{i}": data.draw(tables(unique=True)) for i in range(hosts)}
    rows, theirs, (matched,) = run_match(
        table(*own), {name: table(*one) for name, one in others.items()}, many=many
    )
    assert all(len(one) == len(rows) for one in theirs.values())
    found = list(zip(rows.tolist(), *(one.tolist() for one in theirs.values()), strict=True))
    assert len(set(found)) == len(found)
    assert set(found) == by_hand(own, list(others.values()), many)
    assert sum(matched.by_key) == len({one[1:] for one in found})
    # Rows of one id lie together.
    assert len(number_values(matched.of_row[rows])[1]) == len(
        np.flatnonzero(np.diff(matched.of_row[rows]))
    ) + (len(rows) > 0)


@settings(max_examples=20)
@given(st.data(), st.booleans())
def test_a_left_join_has_all_rows_of_the_guest(data: st.DataObject, many: bool) -> None:
    own = data.draw(tables(unique=not many))
    others = {f"host{i}": data.draw(tables(unique=True)) for i in range(2)}
    rows, theirs, _ = run_match(
        table(*own), {name: table(*one) for name, one in others.items()}, many=many, left=True
    )
    assert sorted(rows.tolist()) == list(range(len(own[0])))
    for name, joined in theirs.items():
        found = {(g, h) for g, h in zip(rows.tolist(), joined.tolist(), strict=True) if h >= 0}
        assert found == by_hand(own, [others[name]], many)


def test_the_order_of_a_left_join_is_random() -> None:
    cells = [f"vin{i}" for i in range(50)]
    orders = {
        tuple(run_match(table(cells), {"registry": table(cells[:25])}, left=True)[0].tolist())
        for _ in range(3)
    }
    assert len(orders) == 3


def test_a_further_key_that_is_not_unique_names_no_row() -> None:
    own = table(["", "", "c"], ["p1", "p1", "p2"])
    host = table(["", "x", ""], ["p1", "p2", "p2"])
    rows, theirs, (matched,) = run_match(own, {"registry": host})
    assert not len(rows) and not len(theirs["registry"])
    assert matched.by_key == (0, 0)
    assert matched.ambiguous == (0, 2)
    rows, theirs, (matched,) = run_match(own, {"registry": host}, many=True)
    assert rows.tolist() == [0, 1] and theirs["registry"].tolist() == [0, 0]


def started(cells: Sequence[KeyIds], rows: Sequence[int], keys: Sequence[int]) -> Matched:
    """That these rows are matched already, by these keys."""
    none = Matched.none(len(cells[0].of_row))
    of_row, by = none.of_row.copy(), none.key_of_row.copy()
    for number, (row, one) in enumerate(zip(rows, keys, strict=True)):
        if row >= 0:
            of_row[row], by[row] = number, one
    return replace(none, of_row=of_row, key_of_row=by, earlier=len(rows))


def test_what_is_asked_about_is_counted_by_key() -> None:
    """Of a further key the ids of rows that no earlier one has matched, at each party."""
    guest = table(["a", "b", "c", ""], ["p", "q", "r", "s"])
    hosts = {
        "registry": table(["a", "b", "", "d", "e"], ["x", "y", "r", "s", "s"]),
        "bureau": table(["a", "c"], ["p", "r"]),
    }
    _, _, (matched,) = run_match(guest, hosts)
    assert matched.by_key == (1, 1)
    assert matched.asked == (3, 3)
    assert matched.asked_of == ({"registry": 4, "bureau": 2}, {"registry": 2, "bureau": 1})


@pytest.mark.parametrize("engine", ["ecdh", "vole"])
def test_an_extension_keeps_what_is_matched_and_drops_what_is_gone(engine: OprfEngine) -> None:
    own = table(["a", "b", "d", "n"])
    first, second = table(["n", "d", "c", "b", "a"]), table(["a", "b", "n", "d"])
    starts = {
        # a, b, c were matched: the guest no longer has c, the second host no longer has a.
        "insurer": started(own, [0, 1, -1], [0, 0, -1]),
        "first": started(first, [4, 3, 2], [0, 0, 0]),
        "second": started(second, [-1, 1, -1], [-1, 0, -1]),
    }
    rows, theirs, (matched,) = run_match(
        own, {"first": first, "second": second}, starts=starts, engine=engine
    )
    # Only what is not matched is asked about.
    assert matched.asked == (3,) and matched.asked_of == ({"first": 4, "second": 3},)
    assert matched.earlier == 1 and matched.by_key == (3,)  # a is matched anew: it is there
    assert rows[0] == 1 and theirs["first"][0] == 3 and theirs["second"][0] == 1
    names = [["a", "b", "d", "n"][row] for row in rows]
    assert sorted(names) == ["a", "b", "d", "n"]
    assert [["n", "d", "c", "b", "a"][row] for row in theirs["first"]] == names
    assert [["a", "b", "n", "d"][row] for row in theirs["second"]] == names


def test_further_rows_of_a_matched_id_are_joined_without_asking() -> None:
    own = table(["a", "a", "b", "a"])
    host = table(["a", "b"])
    starts = {"insurer": started(own, [0], [0]), "registry": started(host, [0], [0])}
    rows, theirs, (matched,) = run_match(own, {"registry": host}, many=True, starts=starts)
    assert rows.tolist() == [0, 1, 3, 2] and theirs["registry"].tolist() == [0, 0, 0, 1]
    assert (matched.earlier, matched.by_key) == (1, (1,))


def test_a_left_extension_drops_apart() -> None:
    own = table(["a", "b", "c"])
    hosts = {"first": table(["c", "b"]), "second": table(["a", "b", "c"])}
    starts = {
        "insurer first": started(own, [0, 1], [0, 0]),
        "first": started(hosts["first"], [-1, 1], [-1, 0]),
        "insurer second": started(own, [0, 1], [0, 0]),
        "second": started(hosts["second"], [0, 1], [0, 0]),
    }
    rows, theirs, matched = run_match(own, hosts, starts=starts, left=True)
    assert [one.earlier for one in matched] == [1, 2]
    assert {(g, h) for g, h in zip(rows, theirs["first"], strict=True)} == {(0, -1), (1, 1), (2, 0)}
    assert {(g, h) for g, h in zip(rows, theirs["second"], strict=True)} == {(0, 0), (1, 1), (2, 2)}


@given(st.lists(st.integers(-1, 5)))
def test_numbers_by_first_occurrence(values: list[int]) -> None:
    numbers, first = number_values(np.array(values, np.int64))
    seen: list[int] = []
    for value, number in zip(values, numbers.tolist(), strict=True):
        if value < 0:
            assert number == -1
            continue
        if value not in seen:
            assert first[len(seen)] == values.index(value)
            seen.append(value)
        assert seen[number] == value
    assert len(first) == len(seen)


# Hostile peers.

THREE = Matched(np.array([0, 1, 2]), np.zeros(3, np.int64), by_key=(3,))


def u32(*values: int) -> bytes:
    return np.array(values, "<u4").tobytes()


@pytest.mark.parametrize(
    ("left", "many", "messages", "said"),
    [
        (False, True, [RowCounts(u32(1, 2))], "RowCounts of another number of rows than due"),
        (False, True, [RowCounts(u32(1, 2, 0))], "RowCounts of no row"),
        (False, True, [RowCounts(u32(1, 1, 2**32 - 1))], "RowCounts of no row or of more than"),
        (True, False, [JoinRows(2)], "JoinRows of fewer rows than are matched"),
        (True, False, [JoinRows(-1)], "JoinRows of fewer rows than are matched"),
        (True, False, [JoinRows(10**12)], "or of more than"),
        (True, False, [JoinRows(4), RowPlaces(u32(0, 1, 2))], "RowPlaces of another number of rows"),
        (True, False, [JoinRows(3), RowPlaces(u32(0, 1, 3))], "RowPlaces with an id that is not"),
        (True, False, [JoinRows(3), RowPlaces(u32(0, 1, 1))], "leave out a matched id or repeat one"),
        (True, False, [JoinRows(4), RowPlaces(u32(0, 1, 2, 2))], "leave out a matched id or repeat one"),
        (True, True, [JoinRows(3), RowPlaces(u32(0, 1, 2**32 - 1))], "leave out a matched id"),
        (True, True, [RowPlaces(u32(0, 1, 2))], "RowPlaces where JoinRows or Stop was due"),
    ],
)
def test_a_guest_that_joins_what_cannot_be(left: bool, many: bool, messages: list, said: str) -> None:
    async def play() -> None:
        guest, host = MemoryPeer.pair("registry", "insurer")[::-1]
        for message in messages:
            await guest.send(message)
        await (host_left if left else host_inner)(host, THREE, many=many)

    with pytest.raises(PeerError, match=said):
        asyncio.run(play())


def test_bits_of_another_number_of_ids() -> None:
    three = replace(THREE, earlier=3, by_key=())

    async def dropped(data: bytes, matched: Matched) -> None:
        to_host, to_guest = MemoryPeer.pair("insurer", "registry")
        await to_host.send(DroppedRows(data))
        await host_drop(to_guest, matched)

    for data in (b"", b"\0\0"):
        with pytest.raises(PeerError, match="DroppedRows of another number of ids"):
            asyncio.run(dropped(data, three))
    gone = replace(three, of_row=np.array([0, -1, 2]))
    with pytest.raises(PeerError, match="DroppedRows that keep a row which this party no longer has"):
        asyncio.run(dropped(pack_bits(np.zeros(3, np.bool_)), gone))

    async def vanished(data: bytes) -> None:
        to_host, to_guest = MemoryPeer.pair("insurer", "registry")
        await to_guest.send(VanishedRows(data))
        await guest_drop([to_host], three)

    with pytest.raises(PeerError, match="VanishedRows of another number of ids"):
        asyncio.run(vanished(b"\0\0"))


def test_rows_go_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "CHUNK", 3)
    cells = [f"vin{i}" for i in range(8)]
    doubled = [*cells, *cells[::2]]
    for left in (False, True):
        rows, theirs, _ = run_match(table(doubled), {"registry": table(cells)}, many=True, left=left)
        assert len(rows) == 12
        assert [doubled[g] for g in rows] == [cells[h] for h in theirs["registry"]]
