"""A figure as an element of the page: drawn by matplotlib, in the page's colours and font.

Text stays text. Colours are the page's CSS variables, so that a figure follows the theme.
"""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from vfl.text import shown

_WIDTH, HEIGHT, TALL = 360, 270, 345  # units of the SVG: pixels on a phone, as wide as the page
_POINTS_PER_INCH = 72
BELOW = 16  # characters of a name below an axis, or in a legend

# What matplotlib draws with, and the variable of the page that takes its place.
_NAMES = ("ink", "muted", "grid", "ours", "theirs", "third", "fourth", "fifth", "bar", "surface")
COLOUR = {name: f"#0000{number:02x}" for number, name in enumerate(_NAMES, start=1)}
_VARIABLES = {code: f"var(--{name})" for name, code in COLOUR.items()}

_SETTINGS: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name may hold dollars
    "font.family": "DejaVu Sans",
    "font.size": 11.5,
    "axes.labelsize": 11.5,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 11.5,
    "text.color": COLOUR["ink"],
    "axes.labelcolor": COLOUR["muted"],
    "xtick.color": COLOUR["muted"],
    "ytick.color": COLOUR["muted"],
    "axes.edgecolor": COLOUR["grid"],
    "grid.color": COLOUR["grid"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
}
_REFERENCE = re.compile(r"""(?:href="|url\()#([^")]+)""")
_DECIMALS = re.compile(r"-?\d+\.\d+")
_ATTRIBUTES = frozenset(
    (
        *("id", "d", "x", "y", "width", "height", "transform", "viewBox", "href", "clip-path"),
        *("fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-dashoffset"),
        *("stroke-opacity", "opacity", "font-size", "text-anchor"),
    )
)


@dataclass
class Drawing:
    figure: Figure
    svg: str = ""  # once it is done

    def legend(self, order: Sequence[str] = ()) -> None:
        """Above all axes; one entry a name, those of `order` in this order."""
        (axes, *_) = self.figure.axes
        found: dict[str, Artist] = {}
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
        names = [name for name in order or found if name in found]
        handles = [found[name] for name in names]
        self.figure.legend(
            handles,
            [shown(name, BELOW) for name in names],
            loc="outside upper left",
            ncols=3,
            handlelength=1.9,
            columnspacing=1.1,
            handletextpad=0.5,
            borderaxespad=0.1,
        )


@contextmanager
def drawing(message: str, height: float = HEIGHT) -> Iterator[Drawing]:
    """A figure to draw into; its SVG is there at the end."""
    # A salt of its own makes the ids of a figure differ from those of the page's other ones.
    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": message}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # the page has others
        made = Drawing(
            Figure((_WIDTH / _POINTS_PER_INCH, height / _POINTS_PER_INCH), layout="constrained")
        )
        yield made
        text = io.StringIO()
        # Not savefig, which draws twice.
        FigureCanvasSVG(made.figure).print_svg(text, metadata={"Date": None})  # type: ignore[no-untyped-call]
    made.svg = _for_page(text.getvalue(), message)


def _for_page(text: str, message: str) -> str:
    """matplotlib's SVG as an element of the page: presentation attributes in place of styles, which the
    page's policy forbids, the theme's colours, and no id but those referred to."""
    root = ElementTree.fromstring(text)  # noqa: S314 - made by matplotlib a moment ago
    message = shown(message)
    _tidy(root, set(_REFERENCE.findall(text)))
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-label": message,
        "class": "chart",
    }
    return ElementTree.tostring(root, encoding="unicode")


def _tidy(element: ElementTree.Element, referred: set[str]) -> None:
    element.tag = element.tag.rpartition("}")[2]
    attributes = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
    for part in attributes.pop("style", "").split(";"):
        name, _, value = (piece.strip() for piece in part.partition(":"))
        if name == "font":
            name, value = "font-size", next(word for word in value.split() if word.endswith("px"))
        attributes[name] = value
    if attributes.get("id") not in referred:
        attributes.pop("id", None)
    if attributes.get("transform", "").startswith("rotate(-0 "):
        del attributes["transform"]
    element.attrib = {
        name: _attribute(name, value) for name, value in attributes.items() if name in _ATTRIBUTES
    }
    if element.tag != "text":
        element.text = None
    element.tail = None
    for child in list(element):
        _tidy(child, referred)
        unseen = child.tag == "path" and child.get("fill") == "none" and child.get("stroke") is None
        empty = child.tag in ("g", "defs") and not len(child)
        if unseen or empty or child.tag in ("metadata", "style"):
            element.remove(child)


def _attribute(name: str, value: str) -> str:
    if name in ("d", "x", "y", "transform"):
        return _DECIMALS.sub(lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), value)
    return _VARIABLES.get(value, value.removesuffix("px"))
