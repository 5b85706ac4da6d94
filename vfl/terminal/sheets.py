"""Tables of results, for whoever reads them.

On a terminal that is wide enough a table has lines around its cells; on a narrow one each row is a block
of its own, so that no name is cut and all can be copied. In a file or a pipe cells are parted by tabs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vfl.terminal.streams import stdout
from vfl.text import MOST, shown, shown_in

Cell = str | int | None
"""Text, or a count, which has commas on a terminal alone."""

_LEAST_PROSE = 24  # characters of a column of prose below which a table is none


@dataclass(frozen=True)
class Sheet:
    """A table: the names of its columns, its rows, a line above."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
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
    rows = [[_on_terminal(cell) for cell in row] for row in sheet.rows]
    if _fits(sheet, heads, rows, console.width):
        console.print(_boxed(sheet, heads, rows))
    else:
        _put_blocks(heads, rows)


def _plain(text: str) -> str:
    return shown_in(shown(text), stdout.encoding)


def _on_terminal(cell: Cell) -> str:
    if cell is None:
        return ""
    return f"{cell:,}" if isinstance(cell, int) else shown_in(shown(cell, MOST), stdout.encoding)


def _console() -> Any:
    from rich.console import Console

    return Console(file=stdout, highlight=False, markup=False, emoji=False)  # type: ignore[arg-type]


def _fits(sheet: Sheet, heads: list[str], rows: list[list[str]], width: int) -> bool:
    from rich.cells import cell_len

    needed = 1
    for place, name in enumerate(sheet.heads):
        longest = max(cell_len(row[place]) for row in (heads, *rows))
        needed += 3 + (min(longest, _LEAST_PROSE) if name in sheet.prose else longest)
    return needed <= width


def _boxed(sheet: Sheet, heads: list[str], rows: list[list[str]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table()
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
