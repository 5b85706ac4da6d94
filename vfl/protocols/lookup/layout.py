"""How a host's part of a model is packed for one row: a few bytes that the guest scores the row with."""

from dataclasses import dataclass

NUMBER = 8  # bytes of a part of a linear score, float64 little-endian: as exact as in a batch


@dataclass(frozen=True)
class PartLayout:
    """What the parts of all rows have in common.

    missing: the part of a row that the host does not know, every value missing; all parts are as long.
    same: of trees, for each split of the host's half by its record number, which bit of a part is its
    direction: 1 is left, the first bit the most significant of the first byte, equal splits have one.
    columns: of linear models, the columns whose own parts follow the whole one, where the host shows
    them.
    """

    missing: bytes
    same: tuple[int, ...] = ()
    columns: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of a part."""
        return len(self.missing)
