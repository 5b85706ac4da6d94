"""The page of a report: which sections a party's has, and what stands in them."""

import base64
import hashlib
import io
import re
from collections.abc import Iterable
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from vfl.party.spreadsheet import write_rows
from vfl.report import words
from vfl.report.evidence import Evidence
from vfl.report.guest_page import GuestPage
from vfl.report.sections import (
    CoordinatorPage,
    HostPage,
    SheetRow,
)
from vfl.text import shown

PAGE = "report.html"
SHEETS = (
    "metrics",
    "roc",
    "lorenz",
    "lift",
    "double_lift",
    "factors",
    "importance",
    "partial_dependence",
    "relativities",
    "training",
    "phases",
    "splits",
    "gave_away",
    "messages",
)
"""The tables that a report may have, as NAME.csv beside the page."""

_LONGEST = 500  # characters of a piece of text, so that no name fills the page

_PIECE = re.compile("[^\n\u00a0]+")


def render(evidence: Evidence) -> dict[str, bytes]:
    """The files of a report by name: the page and its tables."""
    pages = {"guest": GuestPage, "host": HostPage, "coordinator": CoordinatorPage}
    page = pages[evidence.role](evidence)
    sections = page.sections()
    package = resources.files("vfl.report")
    style, script = (package.joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_seen,
    )
    environment.filters["whole"] = _whole
    template = environment.from_string(package.joinpath("page.html.j2").read_text("utf-8"))
    text = template.render(
        evidence=evidence,
        title=evidence.job["job"]["name"],
        over=f"Report of {evidence.party}, {_role(evidence)}",
        purpose=evidence.job["job"]["purpose"],
        ended=words.day(evidence.ended),
        sections=sections,
        style=Markup(style),  # noqa: S704 - files of this package
        script=Markup(script),  # noqa: S704
        policy=_policy(style, script),
    )
    files = {PAGE: text.encode()}
    return files | {f"{name}.csv": csv_of(rows) for name, rows in page.sheets.items()}


def _role(evidence: Evidence) -> str:
    """What the party is in the run, in a word or two."""
    if not evidence.over_rows:
        return evidence.role
    return "server" if evidence.role == "coordinator" else "a party with rows"


def _policy(style: str, script: str) -> str:
    """Nothing is loaded from anywhere; this style and this script alone apply."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)
    )
    return (
        f"default-src 'none'; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; "
        "base-uri 'none'; form-action 'none'"
    )


def csv_of(rows: Iterable[SheetRow]) -> bytes:
    file = io.BytesIO()
    write_rows(file, rows)
    return file.getvalue()


def _seen(value: object) -> object:
    """What the template writes: text as a reader may see it, no name endless. Line ends and our own
    blanks stay."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return _PIECE.sub(lambda found: shown(found[0], _LONGEST), value)


def _whole(text: str) -> Markup:
    """A text as `_seen` has it, however long its lines are."""
    return escape(_PIECE.sub(lambda found: shown(found[0]), text))


# --- What every party's page has. ---------------------------------------------------------------------


# --- The guest's. -------------------------------------------------------------------------------------


# --- A host's and a coordinator's. --------------------------------------------------------------------
