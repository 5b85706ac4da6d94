"""The page of a report: which sections a party's has, and what stands in them."""

import base64
import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from vfl.party.spreadsheet import write_rows
from vfl.report import words
from vfl.report.blocks import PageSection
from vfl.report.evidence import Evidence
from vfl.report.guest_page import GuestPage
from vfl.report.host_page import HostPage
from vfl.report.sections import CoordinatorPage, SheetRow
from vfl.text import shown

PAGE = "report.html"
SHEETS = (
    "metrics",
    "roc",
    "lorenz",
    "lift",
    "double_lift",
    "calibration",
    "coverage",
    "classes",
    "confusion",
    "class_calibration",
    "residuals",
    "residuals_by_prediction",
    "benchmark",
    "benchmark_groups",
    "benchmark_kept",
    "benchmark_changes",
    "benchmark_segments",
    "factors",
    "tables",
    "factors_by",
    "fairness",
    "fairness_parity",
    "fairness_proxy",
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

_LONGEST = 1000  # characters of a piece of text: no name fills the page, no sentence of ours is cut

_PIECE = re.compile("[^\n\u00a0]+")


Told = dict[str, list[dict[str, object]]]
TOLD = frozenset({"metrics", *(name for name in SHEETS if name.startswith(("benchmark", "fairness")))})
"""The tables that are in what `vfl report --json` prints, too."""


def render(evidence: Evidence, told: Told | None = None) -> dict[str, bytes]:
    """The files of a report by name: the page and its tables. Those of TOLD go into `told` as well, a
    row each."""
    pages = {"guest": GuestPage, "host": HostPage, "coordinator": CoordinatorPage}
    page = pages[evidence.role](evidence)
    sections = page.sections()
    around = PageHead(
        title=evidence.job["job"]["name"],
        over=f"Report of {evidence.party}, {_role(evidence)}",
        purpose=evidence.job["job"]["purpose"],
        ended=evidence.ended,
        party=evidence.party,
        version=evidence.version,
        about=f"model {evidence.model}",
    )
    text = write_page(around, sections)
    if told is not None:
        for name in sorted(TOLD & page.sheets.keys()):
            head, *rows = page.sheets[name]
            told[name] = [dict(zip(map(str, head), row, strict=True)) for row in rows]
    files = {PAGE: text.encode()}
    return files | {f"{name}.csv": csv_of(rows) for name, rows in page.sheets.items()}


@dataclass(frozen=True)
class PageHead:
    """What stands around the sections of a page. `about`: what it is of, at its foot."""

    title: str
    over: str
    purpose: str
    ended: str  # ISO 8601, UTC
    party: str
    version: str  # of vfl
    about: str
    what: str = "report"


def write_page(head: PageHead, sections: Sequence[PageSection]) -> str:
    """A page as HTML, in one file."""
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
    return template.render(
        **{**asdict(head), "ended": words.day(head.ended)},
        sections=sections,
        style=Markup(style),  # noqa: S704 - files of this package
        script=Markup(script),  # noqa: S704
        policy=_policy(style, script),
    )


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
