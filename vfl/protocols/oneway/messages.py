"""The messages of tables.py, pairs.py and screening.py."""

from typing import Annotated, ClassVar, Literal

import msgspec

from vfl.learn.cells import MOST_LEVELS
from vfl.learn.fixed_point import BITS
from vfl.net.wire import CIPHERTEXT, MIB, Message

TableEncryption = Literal["lattice", "paillier"]
MOST_VECTORS = 64
"""Of a table, without those for each level of the guest's factor."""
MOST_SCREENED = 2000
"""Columns of a host that are screened at once."""
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


class PairCells(Message, frozen=True):
    """host -> guest. Reveals: the levels of the factor that was asked for, by name if the host's policy
    shows names, those of few rows together, and how many rows each has; how few rows a cell may have and
    how long a key must be, by its policy."""

    key_bits: Literal[2048, 3072, 4096]
    least: Annotated[int, msgspec.Meta(ge=1)]
    levels: Annotated[list[str], msgspec.Meta(min_length=1, max_length=MOST_LEVELS + 1)]
    rows: Annotated[list[Annotated[int, msgspec.Meta(ge=1)]], msgspec.Meta(max_length=MOST_LEVELS + 1)]
    limit: ClassVar[int] = MIB


class PairVectors(Message, frozen=True):
    """guest -> host. Reveals: how many levels the other host's factor has; how many sums of each cell
    are asked for, how long the numbers and the key are, and roughly, in three binary digits, in how many
    rows each number is not zero."""

    levels: Annotated[int, msgspec.Meta(ge=1, le=MOST_LEVELS + 1)]
    key_bits: Literal[2048, 3072, 4096]
    value_bits: Annotated[int, msgspec.Meta(ge=2, le=BITS + 1)]
    filled: Annotated[
        list[Annotated[int, msgspec.Meta(ge=1)]],
        msgspec.Meta(min_length=1, max_length=MOST_VECTORS),
    ]  # rounded down


class PairLevels(Message, frozen=True):
    """Either -> either, between hosts, sealed. Reveals: how many levels its factor has, and how few rows
    a cell may have by its policy."""

    levels: Annotated[int, msgspec.Meta(ge=1, le=MOST_LEVELS + 1)]
    least: Annotated[int, msgspec.Meta(ge=1)]


class ScreenedColumn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column in ScreenColumns; without levels where the guest gets no table of it."""

    name: Annotated[str, msgspec.Meta(max_length=1000)]
    cells: Annotated[int, msgspec.Meta(ge=1, le=MOST_LEVELS + 2)]
    levels: Annotated[list[str], msgspec.Meta(max_length=MOST_LEVELS + 2)]
    rows: Annotated[list[Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(max_length=MOST_LEVELS + 2)]


class ScreenColumns(Message, frozen=True):
    """host -> guest. Reveals: how many columns may be screened, by name if the host's policy shows
    names, and how many levels each has; of those whose tables the policy allows the levels, those of few
    rows together, and how many rows each has; how few rows a level may have and how the host adds up, by
    its policy."""

    encryption: TableEncryption
    key_bits: Literal[2048, 3072, 4096]
    least: Annotated[int, msgspec.Meta(ge=1)]
    columns: Annotated[list[ScreenedColumn], msgspec.Meta(min_length=1, max_length=MOST_SCREENED)]
    limit: ClassVar[int] = 16 * MIB


class ScreenMasks(Message, frozen=True):
    """host -> guest. Reveals: the sums of the guest's numbers in each level of the columns whose tables
    the host's policy allows."""

    masks: bytes  # uint64, (vectors, cells of these columns)
    limit: ClassVar[int] = 64 * MIB


class ScreenSums(Message, frozen=True):
    """guest -> host. Reveals: with the host's masks, the sums of what happened and of exposure in each
    level of the host's own columns and in all; half of what a row brings that has any of it; the
    deviance without any column. Where the guest's job tells hosts, and else not sent."""

    sums: bytes  # int64, (vectors, cells), under the host's masks
    digits: Annotated[list[Annotated[int, msgspec.Meta(ge=1, le=64)]], msgspec.Meta(max_length=2)]
    decimals: Annotated[list[Annotated[int, msgspec.Meta(ge=-64, le=64)]], msgspec.Meta(max_length=2)]
    totals: Annotated[list[str], msgspec.Meta(max_length=2)]  # whole numbers
    half_actual: float
    half_other: float
    deviance: float
    limit: ClassVar[int] = 64 * MIB


class ScreenFigure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Information value, and share of the deviance, of a column; None where there is none."""

    information: float | None = None
    share: float | None = None


class ScreenFigures(Message, frozen=True):
    """host -> guest. Reveals: to four digits, the information value, and the share of the deviance, of
    each column whose table the guest does not get."""

    figures: Annotated[list[ScreenFigure], msgspec.Meta(max_length=MOST_SCREENED)]
    limit: ClassVar[int] = MIB


class ScreenTold(Message, frozen=True):
    """guest -> host. Reveals: the information value, and the share of the deviance, of each of the
    host's columns that were screened: how strong they are beside the label."""

    figures: Annotated[list[ScreenFigure], msgspec.Meta(max_length=MOST_SCREENED)]
    limit: ClassVar[int] = MIB
