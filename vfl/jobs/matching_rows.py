"""Rows of a batch matched by lookups under several keys, as an alignment of the batch matches them."""

from collections.abc import Mapping, Sequence

import numpy as np

from vfl.arrays import Bytes, Mask
from vfl.jobs.directories import DirectoryReader
from vfl.protocols.align.join import KeyIds
from vfl.protocols.lookup import directory as sealed


class RowMatcher:
    """Takes each of a host's rows once, by the first key that finds it; key after key."""

    def __init__(self, reader: DirectoryReader, rows: int) -> None:
        self._reader, self._size = reader, reader.header.handle
        self.found: list[bytes | None] = [None] * rows
        """By row of the batch the part of the host's row, None so far."""
        self._taken = set[bytes]()  # the handles of rows that were found, as entries by the last key say

    @property
    def open(self) -> Mask:
        """Which rows no key has found so far."""
        return np.array([part is None for part in self.found], np.bool_)

    def add(self, key: KeyIds, places: Sequence[int], outputs: Bytes) -> None:
        """Match by a key: `outputs` are F of its ids at these places."""
        parts: dict[int, bytes] = {}
        before = {sealed.hint_of(handle): handle for handle in self._taken}
        self._taken = {*map(sealed.next_handle, self._taken)}
        wanted = {*key.of_row[self.open & (key.of_row >= 0)].tolist()}
        taken: list[bytes] = []
        for place, text, output in zip(places, self._reader.texts(outputs), outputs, strict=True):
            if place not in wanted:
                continue
            own = self._left(output[np.newaxis], before) if text is None else text
            if own is not None and own[: self._size] not in self._taken:
                parts[place] = own[self._size :]
                taken.append(own[: self._size])
        self._taken |= {*taken}
        for row in np.flatnonzero(self.open & (key.of_row >= 0)).tolist():
            self.found[row] = parts.get(int(key.of_row[row]))

    def _left(self, output: Bytes, taken: Mapping[bytes, bytes]) -> bytes | None:
        """What is sealed of the row that is left of those with an id, where all others are `taken`: by
        hint the handles of rows that earlier keys have found."""
        hints = self._reader.hints(output)
        others = [taken[hint] for hint in hints if hint in taken]
        if not hints or len(others) != len(hints) - 1:
            return None
        return self._reader.texts(output, sealed.locked(others))[0]
