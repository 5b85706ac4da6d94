"""Pages from templates, and the tables in them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from vfl.text import shown
from vfl.version import __version__

_FOLDER = Path(__file__).parent
_LONGEST = 1000  # characters of a piece of text: no name fills a page
_PIECE = re.compile("[^\n\u00a0]+")


@dataclass(frozen=True)
class Cell:
    """A cell of a table: a text, where it leads, a line of explanation, how it is marked."""

    text: str
    href: str = ""
    note: str = ""
    mark: str = ""  # a class of the style: waiting, approved, refused, ...
    time: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a caption; on a narrow page each row is a block of its own, with as much room for
    heads as for cells where they are `halves`."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    numbers: frozenset[str] = field(default_factory=frozenset)  # heads of columns read from the right
    empty: str = "Nothing yet."
    halves: bool = False

    @property
    def cells(self) -> list[list[Cell]]:
        """All rows, of cells alone."""
        return [[one if isinstance(one, Cell) else Cell(one) for one in row] for row in self.rows]


class Pages:
    """The templates of the console."""

    def __init__(self, always: Mapping[str, object]) -> None:
        """always: what every page knows."""
        self._environment = Environment(
            loader=FileSystemLoader(_FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_seen,
        )
        self._environment.globals |= {**always, "version": __version__}
        self._environment.filters["when"] = when

    def render(self, template: str, **known: object) -> str:
        """A page, or a part of one."""
        return self._environment.get_template(f"{template}.html.j2").render(**known)


def static_files() -> dict[str, tuple[str, bytes]]:
    """By name, the kind and the content of the style and the script: there are no others."""
    report = _FOLDER.parent / "report" / "page.css"
    own = _FOLDER / "static"
    style = report.read_bytes() + (own / "console.css").read_bytes()
    script = (own / "console.js").read_bytes()
    return {
        "console.css": ("text/css; charset=utf-8", style),
        "console.js": ("text/javascript; charset=utf-8", script),
    }


def when(time: str) -> str:
    """A time of a document to the second, as people read it."""
    return time[:19].replace("T", " ")


def size(many: int) -> str:
    """Bytes in words."""
    for unit, of in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if many >= of:
            return f"{many / of:,.1f} {unit}"
    return f"{many} bytes"


def _seen(value: object) -> object:
    """What a template writes: text as a reader may see it, no name endless."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return _PIECE.sub(lambda found: shown(found[0], _LONGEST), value)
