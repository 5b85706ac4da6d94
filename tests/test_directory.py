"""Sealed directories: entries found by who has looked their ids up alone, parts that change, lies."""

import hashlib
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import over_memory
from reference.data import Stream

from vfl.arrays import Bytes, Integers
from vfl.blocks.texts import Packed
from vfl.crypto import voprf
from vfl.errors import ModelError
from vfl.jobs.directories import DirectoryReader, _groups
from vfl.jobs.sealed_scores import _matched
from vfl.net import wire
from vfl.party.directories import Directory
from vfl.protocols.align.join import KeyIds, guest_match, host_match
from vfl.protocols.common.participant import Participant
from vfl.protocols.lookup import directory as sealed
from vfl.protocols.lookup.directory import Catalogue, Header, decode_header, encode_header
from vfl.protocols.lookup.messages import AskParts, SealedParts
from vfl.protocols.lookup.sealing import OpenTable, Sealed, Sealing, seal

KEY = voprf.derive_key(bytes(32), b"a directory")
PART = 5  # bytes


def part_of(row: int) -> bytes:
    return row.to_bytes(PART, "big")


def keys_of(columns: Sequence[Sequence[int | None]], stem: bytes = b"id") -> list[KeyIds]:
    """Keys of a table, by key and row a number that names the row, None where it has none."""
    keys = []
    for column in columns:
        ids = sorted({one for one in column if one is not None})
        place = {one: at for at, one in enumerate(ids)}
        of_row = np.array([-1 if one is None else place[one] for one in column], np.int64)
        keys.append(KeyIds(Packed.of([[stem + b"%d" % one for one in ids]]), of_row))
    return keys


def header_of(table: OpenTable, made: Sealed, bits: int) -> Header:
    return Header(
        model="m",
        host="registry",
        guest="insurer",
        version="20261129-120000-aaaaaa",
        made=datetime(2026, 11, 29, 12, tzinfo=UTC),
        key=voprf.public_key(KEY),
        entries=int(made.catalogue.counts.sum()),
        rows=table.rows,
        rules=[["trim"]] * len(table.keys),
        columns=[1] * len(table.keys),
        bits=bits,
        handle=table.handle,
        missing=bytes(PART),
        same=[],
        shown=[],
        unknown_levels=0,
        table=made.table,
        catalogue=made.catalogue.digest,
    )


CONTEXT = Header.context.fget(
    header_of(OpenTable([], 0, bytes, 0), Sealed(Catalogue(*[np.empty(0)] * 3), bytes(32), 0), 0)
)  # type: ignore[attr-defined]


def sealed_table(
    keys: Sequence[KeyIds],
    parts: Sequence[bytes],
    before: Catalogue | None = None,
    bits: int = 3,
    seed: str = "s",
) -> tuple[OpenTable, Sealed, bytes]:
    """A table as it is sealed, and its entries."""
    rows = np.frombuffer(b"".join(parts), np.uint8).reshape(-1, PART)
    table = OpenTable(keys, len(parts), lambda part: rows[part], PART)
    sink = io.BytesIO()
    made = seal(table, Sealing(KEY, CONTEXT, bits, before), sink, None, Stream(seed))
    assert table.entries == int(made.catalogue.counts.sum())
    return table, made, sink.getvalue()


def reader_of(
    table: OpenTable, made: Sealed, entries: bytes, path: Path, bits: int = 3
) -> DirectoryReader:
    path.write_bytes(entries)
    header = header_of(table, made, bits)
    assert header.context == CONTEXT and header.size == len(entries)
    content = encode_header(header)
    return DirectoryReader(Directory(decode_header(content), content, b"", made.catalogue, path))


ROWS = 300
PLAIN = keys_of([range(ROWS)])
PARTS = [part_of(row) for row in range(ROWS)]


def test_an_entry_is_found_and_opened_by_its_id(tmp_path: Path) -> None:
    table, made, entries = sealed_table(PLAIN, PARTS)
    reader = reader_of(table, made, entries, tmp_path / "entries")
    asked = [b"id%d" % row for row in range(-5, ROWS + 5)]
    opened = reader.open(voprf.outputs(KEY, sealed.inputs_of(0, asked)))
    known = {b"id%d" % row: part_of(row) for row in range(ROWS)}
    assert opened == [known.get(one) for one in asked]
    # By another key of the table, or under another secret key, nothing is found.
    assert set(reader.open(voprf.outputs(KEY, sealed.inputs_of(1, asked)))) == {None}
    other = voprf.derive_key(bytes(32), b"another one")
    assert set(reader.open(voprf.outputs(other, sealed.inputs_of(0, asked)))) == {None}


def test_entries_are_sorted_whatever_the_files_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vfl.protocols.lookup import sealing

    _, once, entries = sealed_table(PLAIN, PARTS)
    monkeypatch.setattr(sealing, "PIECE", 7)
    monkeypatch.setattr(sealing, "_IN_MEMORY", 1000)
    _, again, same = sealed_table(PLAIN, PARTS)
    assert same == entries and again.table == once.table
    width = sealed.TAG + PART
    tags = [entries[at : at + sealed.TAG] for at in range(0, len(entries), width)]
    assert tags == sorted(tags)


def test_long_ids_and_no_rows_and_wide_parts(tmp_path: Path) -> None:
    long = [b"x" * 70_000, b"x" * 70_001, b"x" * 1025, b""]
    keys = [KeyIds(long, np.arange(4))]
    table, made, entries = sealed_table(keys, PARTS[:4], bits=0)
    reader = reader_of(table, made, entries, tmp_path / "entries", bits=0)
    assert reader.open(voprf.outputs(KEY, sealed.inputs_of(0, long))) == PARTS[:4]
    table, made, entries = sealed_table(keys_of([[]]), [])
    reader = reader_of(table, made, entries, tmp_path / "entries")
    assert (entries, reader.open(voprf.outputs(KEY, sealed.inputs_of(0, [b"id1"])))) == (b"", [None])
    seeds = np.zeros((2, 32), np.uint8)
    pads = sealed.pads(seeds, np.zeros((2, 8), np.uint8), 200)
    assert len({pads[0, at : at + 64].tobytes() for at in range(0, 192, 64)}) == 3  # no block twice


# --- What changes.


def changed_parts(old: Sealed, new: Sealed) -> list[int]:
    return np.flatnonzero((old.catalogue.digests != new.catalogue.digests).any(axis=1)).tolist()


def test_what_did_not_change_is_the_same_bytes() -> None:
    _, first, entries = sealed_table(PLAIN, PARTS)
    _, again, same = sealed_table(PLAIN, PARTS, first.catalogue, seed="another salt")
    assert (same, again.written, again.table) == (entries, 0, first.table)
    assert again.catalogue.digest == first.catalogue.digest
    # The same table in another order.
    order = np.random.default_rng(0).permutation(ROWS)
    keys = [KeyIds(PLAIN[0].ids, PLAIN[0].of_row[order])]
    _, other, same = sealed_table(
        keys, [PARTS[row] for row in order.tolist()], first.catalogue, seed="x"
    )
    assert (same, other.written, other.table) == (entries, 0, first.table)


def test_a_change_writes_the_whole_part_anew_and_no_other(tmp_path: Path) -> None:
    bits, width = 5, sealed.TAG + PART
    table, first, entries = sealed_table(PLAIN, PARTS, bits=bits)
    parts = [*PARTS]
    parts[17] = b"other"
    _, second, anew = sealed_table(PLAIN, parts, first.catalogue, bits=bits, seed="another salt")
    (part,) = changed_parts(first, second)
    assert second.written == 1 and second.table != first.table
    starts = first.catalogue.starts
    at = slice(int(starts[part]) * width, int(starts[part + 1]) * width)
    assert entries[: at.start] == anew[: at.start] and entries[at.stop :] == anew[at.stop :]
    old, new = (
        np.frombuffer(content[at], np.uint8).reshape(-1, width)[:, sealed.TAG :]
        for content in (entries, anew)
    )
    # All rows of the part have other pads, so that nobody sees which of them has changed.
    assert (old != new).any(axis=1).all()
    reader = reader_of(table, second, anew, tmp_path / "entries", bits)
    assert reader.open(voprf.outputs(KEY, sealed.inputs_of(0, [b"id17", b"id18"]))) == [
        b"other",
        PARTS[18],
    ]


def test_rows_that_come_and_go_change_their_parts_alone() -> None:
    _, first, _ = sealed_table(PLAIN, PARTS, bits=6)
    keys = keys_of([range(2, ROWS + 1)])
    _, second, _ = sealed_table(
        keys, [part_of(row) for row in range(2, ROWS + 1)], first.catalogue, 6, "s2"
    )
    assert 1 <= len(changed_parts(first, second)) <= 3
    # Back again: what was there once has another salt now, so that no pad lies over two texts.
    _, third, _ = sealed_table(PLAIN, PARTS, second.catalogue, 6, "s3")
    for part in changed_parts(first, second):
        assert third.catalogue.salts[part].tobytes() != first.catalogue.salts[part].tobytes()


# --- Who sees what.


def test_a_guest_tells_nothing_of_rows_that_it_has_not_looked_up() -> None:
    """Guess a bit of each row by everything that shows: no better than tossing a coin."""
    rng = np.random.default_rng(5)
    rows = 4000
    bits = rng.integers(0, 2, rows)
    keys = keys_of([range(rows)])
    parts = [bytes([128 * int(bit)]) + bytes(PART - 1) for bit in bits]
    _, _, entries = sealed_table(keys, parts)
    shown = np.frombuffer(entries, np.uint8).reshape(rows, -1)
    tags, _ = sealed.tags_and_seeds(CONTEXT, voprf.outputs(KEY, sealed.inputs_of(0, keys[0].ids)))
    order = sealed.sorted_by_tag(tags)
    truth = bits[order] * 2.0 - 1
    every = np.unpackbits(shown, axis=1) * 2.0 - 1
    agree = np.abs(every.T @ truth) / np.sqrt(rows)  # of a fair coin: above 5 once in a million
    assert agree.max() < 5
    # With one looked up row at hand, its pad opens no other one's part.
    assert len({row[sealed.TAG :].tobytes() for row in shown}) > rows - 5


# --- Several keys: as an alignment of the whole batch.


def by_alignment(own: Sequence[KeyIds], theirs: Sequence[KeyIds]) -> list[int | None]:
    """The host's row of each row of the batch, by the intersection of ids key by key."""

    async def host(name: str, peer: Any) -> Any:
        return await host_match(peer, theirs, Participant(name, [name], b"run"))

    matched, known = over_memory(
        ["registry"], lambda peers: guest_match(peers, own, context=b"run", many=True), host
    )
    rows: Integers = known.rows
    return [None if at < 0 else int(rows[at]) for at in matched.of_row.tolist()]


numbers = st.one_of(st.none(), st.integers(0, 5))


@given(st.data(), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_batches_match_as_by_alignment(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, keys: int
) -> None:
    of_guest, of_host = (data.draw(st.integers(1, 9)) for _ in range(2))
    own = [data.draw(st.lists(numbers, min_size=of_guest, max_size=of_guest)) for _ in range(keys)]
    first = data.draw(st.permutations(range(9)))[:of_host]
    hidden = data.draw(st.lists(st.booleans(), min_size=of_host, max_size=of_host))
    theirs = [[None if gone and keys > 1 else one for one, gone in zip(first, hidden, strict=True)]]
    theirs += [data.draw(st.lists(numbers, min_size=of_host, max_size=of_host)) for _ in range(keys - 1)]
    table, made, entries = sealed_table(keys_of(theirs), PARTS[:of_host], bits=1)
    path = tmp_path_factory.mktemp("keys") / "entries"
    reader = reader_of(table, made, entries, path, bits=1)
    asked = keys_of(own)
    outputs = [
        voprf.outputs(KEY, sealed.inputs_of(n, key.ids)) for n, key in enumerate(asked) if len(key.ids)
    ]
    joined = np.concatenate([np.empty((0, voprf.OUTPUT), np.uint8), *outputs])
    places = [list(range(len(key.ids))) for key in asked]
    found = _matched(reader, asked, places, joined)
    assert [None if part is None else int.from_bytes(part, "big") for part in found] == by_alignment(
        asked, keys_of(theirs)
    )


def test_what_a_later_key_found_opens_nothing_by_an_earlier_one(tmp_path: Path) -> None:
    """Two rows have the same id by the second key. Who knows it, and one of them by the first key, is
    left with the other one, as in a batch; who knows one by the third key is not."""
    keys = keys_of([[0, 1], [5, 5], [7, 8]])
    table, made, entries = sealed_table(keys, [part_of(0), part_of(1)], bits=0)
    reader = reader_of(table, made, entries, tmp_path / "entries", bits=0)

    def found(number: int, one: bytes) -> bytes:
        (text,) = reader.texts(output(number, one))
        assert text is not None
        return text[: sealed.HANDLE]

    def output(number: int, one: bytes) -> Bytes:
        return voprf.outputs(KEY, sealed.inputs_of(number, [one]))

    first, third, shared = found(0, b"id1"), found(2, b"id8"), output(1, b"id5")
    assert sealed.next_handle(sealed.next_handle(first)) == third
    hints = reader.hints(shared)
    assert len(hints) == 2 and sealed.hint_of(first) in hints
    (text,) = reader.texts(shared, sealed.locked([first]))
    assert text is not None and text[sealed.HANDLE :] == part_of(0)
    for handle in (third, sealed.next_handle(first), sealed.next_handle(third)):
        assert sealed.hint_of(handle) not in hints
        assert reader.texts(shared, sealed.locked([handle])) == [None]


# --- Headers.


def lies() -> dict[str, bytes]:
    table, made, _ = sealed_table(PLAIN, PARTS)
    good = header_of(table, made, 3)
    content = encode_header(good)
    plain: dict[str, Any] = msgspec.msgpack.decode(content)
    changes: dict[str, dict[str, Any]] = {
        "a key that is no element": {"key": bytes(32)},
        "a short key": {"key": bytes(31)},
        "more parts than there may be": {"bits": 21},
        "fewer entries than none": {"entries": -1},
        "more entries than there may be": {"entries": 2_000_000_001},
        "no keys": {"rules": [], "columns": []},
        "columns of another number of keys": {"columns": [1, 1]},
        "a handle of one key": {"handle": 12},
        "a handle of another size": {"handle": 5},
        "a part that is too wide": {"missing": bytes(5000)},
        "a short digest": {"catalogue": bytes(31)},
        "a further field": {"more": 1},
        "a model that is no text": {"model": b"m"},
    }
    found = {name: msgspec.msgpack.encode(plain | change) for name, change in changes.items()}
    backwards = dict(reversed(plain.items()))
    return found | {
        "fields in another order": msgspec.msgpack.encode(backwards),
        "cut short": content[:-1],
        "extended": content + b"\0",
        "no bytes": b"",
        "garbage": hashlib.sha256(content).digest(),
    }


@pytest.mark.parametrize("lie", lies())
def test_a_header_that_is_none_is_refused(lie: str) -> None:
    with pytest.raises(ValueError, match=r"^a header "):
        decode_header(lies()[lie])


def test_a_catalogue_of_another_directory_is_none_of_this_one() -> None:
    table, made, _ = sealed_table(PLAIN, PARTS)
    header, good = header_of(table, made, 3), made.catalogue
    assert good.fault(header) is None
    swapped = Catalogue(good.counts, good.salts, good.digests[::-1])
    fewer = Catalogue(good.counts[:-1], good.salts[:-1], good.digests[:-1])
    moved = Catalogue(np.roll(good.counts, 1), good.salts, good.digests)
    assert [bad.fault(header) is None for bad in (swapped, fewer, moved)] == [False] * 3


def test_no_part_is_larger_than_a_message_takes_whatever_its_host_says() -> None:
    table, made, _ = sealed_table(PLAIN, PARTS)
    header = header_of(table, made, 3)
    for whole, taken in ((SealedParts.limit, False), (SealedParts.limit // 2, True)):
        counts = np.zeros(header.parts, np.uint32)
        counts[5] = whole // header.width
        lying = Catalogue(counts, made.catalogue.salts, made.catalogue.digests)
        said = msgspec.structs.replace(header, entries=int(counts[5]), catalogue=lying.digest)
        assert (lying.fault(said) is None) == taken
        assert taken or lying.fault(said) == "with a part that no message takes"


def test_a_file_that_was_damaged_scores_nothing(tmp_path: Path) -> None:
    table, made, entries = sealed_table(PLAIN, PARTS)
    outputs = voprf.outputs(KEY, sealed.inputs_of(0, PLAIN[0].ids))
    whole = reader_of(table, made, entries, tmp_path / "whole").open(outputs)
    assert whole == PARTS
    flipped = bytearray(entries)
    flipped[sealed.TAG] ^= 1  # of the first part a row's part
    reader = reader_of(table, made, bytes(flipped), tmp_path / "flipped")
    tags, _ = sealed.tags_and_seeds(CONTEXT, outputs)
    first = sealed.numbers_of_parts(tags, 3) == 0
    assert reader.open(outputs[~first]) == [
        one for one, out in zip(whole, first, strict=True) if not out
    ]
    with pytest.raises(ModelError, match="flipped is damaged: remove it, and it is fetched anew"):
        reader.open(outputs[first])


def test_parts_that_are_none_are_asked_for_in_messages_of_a_size_that_may_be() -> None:
    """A host may say of a million parts that they have no entries, and digests of others."""
    parts = 1 << 18
    none = Catalogue(
        np.zeros(parts, np.uint32), np.zeros((parts, 8), np.uint8), np.zeros((parts, 32), np.uint8)
    )
    table, made, _ = sealed_table(PLAIN, PARTS)
    directory = Directory(header_of(table, made, 18), b"", b"", none, Path())
    asked = [*_groups(range(parts), directory)]
    assert np.concatenate(asked).tolist() == [*range(parts)]
    for group in asked:
        wire.encode(AskParts("20261129-120000-aaaaaa", np.array(group, "<u4").tobytes()))


def test_an_id_has_no_more_hints_than_rows_may_be_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Endless(DirectoryReader):
        def texts(self, outputs: Bytes, which: bytes = b"") -> list[bytes | None]:
            return [bytes(20)]

    table, made, entries = sealed_table(PLAIN, PARTS)
    reader = Endless(reader_of(table, made, entries, tmp_path / "entries").directory)
    assert sealed.hint(sealed.MOST_ALIKE - 1)  # the last one has a number
    monkeypatch.setattr(sealed, "MOST_ALIKE", 7)
    assert reader.hints(np.zeros((1, 64), np.uint8)) == [bytes(sealed.HANDLE)] * 7


def test_parts_are_of_a_size_that_one_message_takes() -> None:
    for entries, width in (
        (0, 20),
        (1, 20),
        (1024, 60),
        (1025, 60),
        (10_000_000, 60),
        (5_000_000, 4108),
    ):
        parts = 1 << sealed.bits_for(entries, width)
        assert entries * width / parts <= max(width, 128 << 10)
        assert parts == 1 or entries / parts > 15  # and not too small to hide a change
    for least in (8, 100, 512):
        for entries in (5000, 65_536, 65_537, 900_000):
            assert least <= entries / (1 << sealed.bits_for(entries, 56, 2 * least)) <= 2 * least


@pytest.mark.parametrize("compiled", [False, True])
def test_entries_are_found_in_their_part_alone(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "is_compiled", lambda kernel: compiled)
    rng = np.random.default_rng(4)
    starts = np.array([0, 5, 5, 9])
    entries = rng.integers(0, 256, (9, 20), dtype=np.uint8)
    entries[3, :12] = entries[1, :12]  # of two entries the first counts
    entries[7, :11] = entries[2, :11]  # all but a byte
    entries[7, 11] = entries[2, 11] ^ 1
    tags = np.concatenate([entries[[1, 2, 7, 8, 4, 0, 2], :12], np.zeros((1, 12), np.uint8)])
    numbers = np.array([0, 0, 2, 2, 0, 2, 1, 2])
    entries.flags.writeable = False
    found = sealed.find_entries(entries, starts, tags, numbers)
    assert found.tolist() == [1, 2, 7, 8, 4, -1, -1, -1]
    assert sealed.find_entries(entries, starts, tags[:0], numbers[:0]).tolist() == []
