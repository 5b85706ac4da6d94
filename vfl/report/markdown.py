"""A page in Markdown, for who goes on writing in it: the same blocks, figures as their messages."""

import re
from collections.abc import Sequence

from vfl.report import words
from vfl.report.blocks import (
    Code,
    DataTable,
    Facts,
    Gallery,
    Heat,
    Messages,
    Note,
    PageBlock,
    PageSection,
    Pair,
    Picker,
    TableCell,
    Tiles,
    ToFill,
    Warned,
)
from vfl.report.page import PageHead
from vfl.text import shown

_SIGNS = re.compile(r"([\\`*_\[\]<>|#~])")


def write_markdown(head: PageHead, sections: Sequence[PageSection]) -> str:
    """A page as Markdown, of GitHub's kind: with tables."""
    lines = [f"# {_text(head.title)}", "", _text(head.over), ""]
    lines += [f"{_text(head.purpose)} · {_text(words.day(head.ended))}", ""]
    for section in sections:
        lines += [f"## {_text(section.title)}", ""]
        for text in section.lead:
            lines += [_text(text), ""]
        for block in section.blocks:
            lines += _block(block)
    lines += ["---", "", f"vfl {_text(head.version)} · {_text(head.about)}"]
    return "\n".join(lines) + "\n"


def _block(one: PageBlock) -> list[str]:
    if isinstance(one, DataTable):
        return _table(one)
    if isinstance(one, Heat):
        rows: list[list[TableCell]] = [[name, *(cell.text for cell in row)] for name, row in one.rows]
        return _table(DataTable(one.caption, ["", *one.head], rows))
    if isinstance(one, Messages):
        return _messages(one)
    if isinstance(one, Gallery):
        figures = [f"- {_text(figure.title)}: {_text(figure.message)}" for figure in one.figures]
        return [*figures, ""]
    if isinstance(one, Facts):
        return [*(f"- {_text(name)}: {_text(value)}" for name, value in one.pairs), ""]
    if isinstance(one, Tiles):
        tiles = [f"- {_text(t.label)}: {_text(t.value)} {_text(t.beside)}".rstrip() for t in one.tiles]
        return [*tiles, ""]
    return _of_others(one)


def _of_others(one: Note | Warned | ToFill | Code | Pair | Picker) -> list[str]:
    if isinstance(one, Note):
        return [_text(one.text), ""]
    if isinstance(one, Warned | ToFill):
        title = one.title if isinstance(one, Warned) else f"To be filled in by {one.who}"
        items = [f"> - {_text(text)}" for text in one.texts]
        return [f"> **{_text(title)}**", ">", *items, ""]
    if isinstance(one, Code):
        text = [shown(line) for line in one.text.splitlines()]
        fence = "`" * (2 + max([1, *(len(run) for line in text for run in re.findall("`+", line))]))
        return [f"{_text(one.title)}:", "", f"{fence}toml", *text, fence, ""]
    if isinstance(one, Pair):
        return [line for block in one.blocks for line in _block(block)]
    lines = []
    for name, block in one.items:
        lines += [f"### {_text(name)}", "", *_block(block)]
    return lines


def _table(one: DataTable) -> list[str]:
    rule = ["---"] * one.text + ["---:"] * (len(one.head) - one.text)
    return [
        f"{_text(one.caption)}:",
        "",
        _row(one.head),
        _row(rule, ready=True),
        *(_row([_cell(cell) for cell in row], ready=True) for row in one.rows),
        "",
    ]


def _messages(one: Messages) -> list[str]:
    rows = [
        _row([name, peer, count, size, reveals])
        for name, reveals, peers in one.types
        for peer, count, size in peers
    ]
    head = ["message", "peer", "count", "size", "what it reveals"]
    rule = _row(["---", "---", "---:", "---:", "---"], ready=True)
    return [f"{_text(one.caption)}:", "", _row(head), rule, *rows, ""]


def _row(cells: Sequence[str], *, ready: bool = False) -> str:
    return f"| {' | '.join(cells if ready else [_text(cell) for cell in cells])} |"


def _cell(cell: TableCell) -> str:
    if isinstance(cell, str):
        return _text(cell)
    return f"{_text(cell[0])}<br>{_text(cell[1])}" if cell[1] else _text(cell[0])


def _text(text: str) -> str:
    """A text in one line that no reader of Markdown takes for anything else."""
    return _SIGNS.sub(r"\\\1", " ".join(shown(part) for part in text.split()))
