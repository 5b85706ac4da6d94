"""Tables of results, for whoever reads them.

On a terminal that is wide enough a table has lines around its cells; on a narrower one it has blanks
between them; on a narrow one each row is a block of its own. So no name is cut, and all can be copied.
In a file or a pipe cells are parted by tabs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vfl.terminal.streams import stdout
from vfl.text import MOST, shown, shown_in

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

SheetCell = str | int | None
"""Text, or a count, which has commas on a terminal alone."""

_LEAST_PROSE = 24  # characters of a column of prose below which a table is none


@dataclass(frozen=True)
class Sheet:
    """A table: the names of its columns, its rows, a line above."""

    heads: Sequence[str]
    rows: Sequence[Sequence[SheetCell]]
    title: str = ""
    numbers: frozenset[str] = frozenset()  # columns that are read from the right
    prose: frozenset[str] = frozenset()  # columns whose text may be broken


def put_sheet(sheet: Sheet) -> None:
    """Print a table on stdout."""
    if sheet.title:
        stdout.put(sheet.title)
    if not stdout.isatty():
        for row in (sheet.heads, *sheet.rows):
            stdout.write("\t".join(_plain("" if cell is None else str(cell)) for cell in row) + "\n")
        return
    console = _console()
    heads = [_plain(name) for name in sheet.heads]
    rows = [
        [_on_terminal(cell, name in sheet.prose) for name, cell in zip(sheet.heads, row, strict=True)]
        for row in sheet.rows
    ]
    needed = _needed(sheet, heads, rows)
    columns = len(heads)
    if needed + 3 * columns + 1 <= console.width:
        console.print(_table(sheet, heads, rows, lines=True))
    elif needed + 2 * (columns - 1) <= console.width:
        console.print(_table(sheet, heads, rows, lines=False))
    else:
        _put_blocks(heads, rows)


def _plain(text: str) -> str:
    return shown_in(shown(text), stdout.encoding)


def _on_terminal(cell: SheetCell, prose: bool) -> str:
    if cell is None:
        return ""
    if isinstance(cell, int):
        return f"{cell:,}"
    return shown_in(shown(cell, None if prose else MOST), stdout.encoding)


def _console() -> "Console":
    from rich.console import Console

    return Console(file=stdout, highlight=False, markup=False, emoji=False)  # type: ignore[arg-type]


def _needed(sheet: Sheet, heads: list[str], rows: list[list[str]]) -> int:
    """How wide all columns are together at least."""
    from rich.cells import cell_len

    wide = [max(cell_len(row[place]) for row in (heads, *rows)) for place in range(len(heads))]
    return sum(
        min(width, _LEAST_PROSE) if name in sheet.prose else width
        for name, width in zip(sheet.heads, wide, strict=True)
    )


def _table(sheet: Sheet, heads: list[str], rows: list[list[str]], lines: bool) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table() if lines else Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name, head in zip(sheet.heads, heads, strict=True):
        prose = name in sheet.prose
        table.add_column(
            Text(head),
            justify="right" if name in sheet.numbers else "left",
            overflow="fold",
            no_wrap=not prose,
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _put_blocks(heads: list[str], rows: list[list[str]]) -> None:
    """The first cell of a row, and below it the others that say something, with their names."""
    from rich.cells import cell_len

    wide = max((cell_len(head) for head in heads[1:]), default=0)
    for first, *others in rows:
        stdout.put(f"{heads[0]} {first}" if heads[0] else first)
        for head, cell in zip(heads[1:], others, strict=True):
            if cell:
                stdout.put(f"  {head}{' ' * (wide - cell_len(head))}  {cell}")
