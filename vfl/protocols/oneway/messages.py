"""The messages of tables.py."""

from typing import Annotated, ClassVar, Literal

import msgspec

from vfl.learn.cells import MOST_LEVELS
from vfl.learn.fixed_point import BITS
from vfl.net.wire import CIPHERTEXT, MIB, Message

TableEncryption = Literal["lattice", "paillier"]
MOST_VECTORS = 64
"""Of a table, without those for each level of the guest's factor."""
_MOST_CELLS = (MOST_LEVELS + 1) ** 2


class TableRows(Message, frozen=True):
    """guest -> host. Reveals: which aligned rows a table is of, as those that were held out of a
    training."""

    rows: bytes  # a bit an aligned row; empty for all
    limit: ClassVar[int] = 16 * MIB
    per_row = ("rows", 1)


class FactorCells(Message, frozen=True):
    """host -> guest. Reveals: the levels of the factor that was asked for, or of both, by name if the
    host's policy shows names, those of few rows together, and how many rows each has or each cell of
    two; how few rows a cell may have and how the host adds up, by its policy."""

    encryption: TableEncryption
    key_bits: Literal[2048, 3072, 4096]
    least: Annotated[int, msgspec.Meta(ge=1)]
    levels: Annotated[
        list[Annotated[list[str], msgspec.Meta(max_length=MOST_LEVELS + 1)]],
        msgspec.Meta(min_length=1, max_length=2),
    ]
    rows: Annotated[list[Annotated[int, msgspec.Meta(ge=-1)]], msgspec.Meta(max_length=_MOST_CELLS)]
    limit: ClassVar[int] = MIB


class TableVectors(Message, frozen=True):
    """guest -> host. Reveals: how many levels the guest's own factor has, if there is one; how many sums
    of each cell are asked for, how long the numbers are, and roughly, in three binary digits, in how
    many rows each is not zero."""

    groups: Annotated[int, msgspec.Meta(ge=0, le=MOST_LEVELS + 1)]
    value_bits: Annotated[int, msgspec.Meta(ge=2, le=BITS + 1)]
    filled: Annotated[
        list[Annotated[int, msgspec.Meta(ge=1)]],
        msgspec.Meta(min_length=1, max_length=MOST_VECTORS),
    ]  # rounded down


class TableValues(Message, frozen=True):
    """guest -> host. Reveals: nothing to who lacks the key; encrypted numbers of the rows of a table."""

    ciphertexts: bytes
    limit: ClassVar[int] = 4 * MIB
    per_row = ("ciphertexts", CIPHERTEXT)


class TableSums(Message, frozen=True):
    """host -> guest. Reveals: the sums of the guest's numbers in each cell that is told; with a factor
    of the guest's nothing, as masks lie on them."""

    ciphertexts: bytes
    limit: ClassVar[int] = 16 * MIB


class MaskedRows(Message, frozen=True):
    """guest -> host. Reveals: how many rows each level of the host's factor has in common with each
    level of the guest's, which are numbers without a name."""

    sums: bytes  # int64, (groups, cells), under the host's masks


class OpenedCells(Message, frozen=True):
    """host -> guest. Reveals: the sums of cells that have enough rows, and which these are."""

    shown: bytes  # a bit a cell, (cells, groups)
    masks: bytes  # uint64, (cells that are shown, vectors and that of rows)
    limit: ClassVar[int] = 16 * MIB


class TableShared(Message, frozen=True):
    """guest -> host. Reveals: that the table is done; where the guest shares it, rows, exposure, what
    happened and what the model expected in each cell that is told, and in all."""

    lines: Annotated[
        list[Annotated[list[float | None], msgspec.Meta(max_length=16)]],
        msgspec.Meta(max_length=_MOST_CELLS + 2),
    ] = []  # noqa: RUF012 - msgspec copies it
    limit: ClassVar[int] = MIB
