"""What the sections of a report are made of; page.html.j2 says how each looks."""

from dataclasses import dataclass
from typing import ClassVar

from markupsafe import Markup


@dataclass(frozen=True)
class FigureBlock:
    """A figure: its title, its message, where its numbers are."""

    title: str
    message: str
    svg: Markup
    sheet: str = ""


@dataclass(frozen=True)
class Gallery:
    kind: ClassVar[str] = "gallery"
    figures: list[FigureBlock]


TableCell = str | tuple[str, str]
"""Text, or text and a line of explanation below it."""


@dataclass(frozen=True)
class DataTable:
    """A table."""

    kind: ClassVar[str] = "cells"
    caption: str
    head: list[str]
    rows: list[list[TableCell]]
    text: int = 1  # columns of text, before those of numbers
    sheet: str = ""


@dataclass(frozen=True)
class HeatCell:
    """A figure; shade: how strong, as a class of page.css, and whether it is written as well."""

    text: str
    shade: str
    written: bool


@dataclass(frozen=True)
class Heat:
    """A table of figures by two names, shaded by their size."""

    kind: ClassVar[str] = "heat"
    caption: str
    head: list[str]
    rows: list[tuple[str, list[HeatCell]]]
    sheet: str


@dataclass(frozen=True)
class Messages:
    """A table of messages by type: (name, what it reveals, of each peer name, count, size)."""

    kind: ClassVar[str] = "messages"
    caption: str
    types: list[tuple[str, str, list[tuple[str, str, str]]]]
    sheet: str


@dataclass(frozen=True)
class Pair:
    """Blocks side by side where there is room."""

    kind: ClassVar[str] = "pair"
    blocks: list["PageBlock"]


@dataclass(frozen=True)
class Note:
    kind: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True)
class Warned:
    """What a run warned of, each of it a text."""

    kind: ClassVar[str] = "warned"
    title: str
    texts: list[str]


@dataclass(frozen=True)
class ToFill:
    """What no run knows: who fills it in, and each thing that is missing."""

    kind: ClassVar[str] = "fill"
    who: str
    texts: list[str]


@dataclass(frozen=True)
class Facts:
    kind: ClassVar[str] = "facts"
    pairs: list[tuple[str, str]]


@dataclass(frozen=True)
class Tile:
    label: str
    value: str
    beside: str


@dataclass(frozen=True)
class Tiles:
    kind: ClassVar[str] = "tiles"
    tiles: list[Tile]


@dataclass(frozen=True)
class Code:
    kind: ClassVar[str] = "code"
    title: str
    text: str


@dataclass(frozen=True)
class Picker:
    """Blocks of which the reader picks one on the screen; all are there without script and in print."""

    kind: ClassVar[str] = "picker"
    label: str
    items: list[tuple[str, "PageBlock"]]


PageBlock = (
    Gallery | DataTable | Heat | Messages | Pair | Note | Warned | ToFill | Facts | Tiles | Code | Picker
)


@dataclass(frozen=True)
class PageSection:
    anchor: str
    title: str
    lead: list[str]
    blocks: list[PageBlock]
