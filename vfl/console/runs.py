"""What was trained: the list of runs, some of them side by side, the report of one."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import anyio.to_thread
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from vfl.console.access import Session
from vfl.console.app import Console, looking
from vfl.console.charts import curves, legend
from vfl.console.form import BadForm
from vfl.console.live import no_curve
from vfl.console.packages import needs
from vfl.console.pages import Cell, Table, when
from vfl.errors import ModelError, VflError
from vfl.jobs.approval_view import flat
from vfl.jobs.names import began
from vfl.jobs.record import Record, read_record
from vfl.learn.losses import loss_of
from vfl.models.halves import GuestHalf, HostHalf, objective_of
from vfl.models.kinds import kind_of_model, load_half, rules_of
from vfl.report.words import METRICS
from vfl.text import NOT_SET, counted

_PAGE = 50  # runs on a page
_PAGES = 1000
_LEAST, _MOST = 2, 5  # runs side by side
_IMPORTANT = 25  # columns
_POLICY = re.compile(r'http-equiv="Content-Security-Policy" content="([^"<>]+)"')


def routes(console: Console) -> list[Route]:
    """The addresses of these pages."""

    async def listed(request: Request, session: Session) -> Response:
        page = page_of(request)
        runs, more = await anyio.to_thread.run_sync(list_runs, console, page)
        return await console.page("runs", session, here="/runs", runs=runs, page=page, more=more)

    async def compared(request: Request, session: Session) -> Response:
        names = list(dict.fromkeys(request.query_params.getlist("run")))
        if not _LEAST <= len(names) <= _MOST:
            raise BadForm(400, f"choose {_LEAST} to {_MOST} runs: {len(names)} are chosen")
        found = await anyio.to_thread.run_sync(compare_runs, console, names)
        return await console.page("compare", session, here="/runs", found=found)

    async def report(request: Request, session: Session) -> Response:
        name = request.path_params["name"]
        text, policy = await anyio.to_thread.run_sync(report_of, console, name)
        headers = {"content-security-policy": f"{policy}; frame-ancestors 'none'"}
        return HTMLResponse(text, headers=headers)

    return [
        Route("/runs", looking(console, listed)),
        Route("/runs/compare", looking(console, compared)),
        Route("/runs/{name}/report", looking(console, report)),
    ]


def page_of(request: Request) -> int:
    """The number of a page, from 0."""
    text = request.query_params.get("page", "0")
    return min(int(text), _PAGES) if text.isascii() and text.isdigit() and len(text) < 7 else 0


def list_runs(console: Console, page: int) -> tuple[list[dict[str, object]], bool]:
    """The runs of a page, the newest first, and whether there are more."""
    names = sorted(console.store.names("run"), key=began, reverse=True)
    chosen = names[page * _PAGE : (page + 1) * _PAGE]
    return [_run(console, name) for name in chosen], len(names) > (page + 1) * _PAGE


def _run(console: Console, name: str) -> dict[str, object]:
    try:
        record = read_record(console.store, name)
    except ModelError as error:
        return {"name": name, "error": str(error)}
    return {
        "name": name,
        "error": "",
        "job": record.job["job"]["name"],
        "purpose": record.job["job"].get("purpose") or "",
        "kind": f"{record.job['job']['model']}, {objective_of(record.job)}",
        "ended": when(record.ended),
        "parties": ", ".join(record.parties),
        "measure": _first_measure(record),
        "report": name in console.store.names("model") or record.role == "coordinator",
    }


def _first_measure(record: Record) -> str:
    values = record.metrics.get("federation", {})
    for key, (word, _) in METRICS.items():
        if key in values:
            return f"{word} {values[key]:.4f}"
    return ""


@dataclass(frozen=True)
class Chart:
    """A figure of several runs."""

    title: str
    svg: Markup
    lines: list[tuple[str, Markup]]


@dataclass(frozen=True)
class Comparison:
    """Runs side by side."""

    names: list[str]
    measures: Table
    charts: list[Chart]
    no_charts: str  # why there are none
    importance: Table
    settings: Table
    facts: Table


def compare_runs(console: Console, names: Sequence[str]) -> Comparison:
    """Runs of this store side by side. Raises ModelError for one that is not there, or damaged."""
    known = set(console.store.names("run"))
    for name in names:
        if name not in known:
            raise ModelError(f"there is no run {name!r:.60}")
    records = [read_record(console.store, name) for name in names]
    return Comparison(
        [*names],
        _measures(records),
        _charts(records),
        no_curve(console.party.role),
        _importance(console, records),
        _settings(records),
        _facts(records),
    )


def _side_by_side(
    caption: str, first: str, names: Sequence[str], rows: list[list[str]], empty: str
) -> Table:
    heads = [first, *names]
    return Table(caption, heads, rows, frozenset(names), empty, halves=True)


def _measures(records: Sequence[Record]) -> Table:
    rows = []
    models = list(dict.fromkeys(model for record in records for model in record.metrics))
    for model in models:
        for key in dict.fromkeys(key for one in records for key in one.metrics.get(model, {})):
            values = [record.metrics.get(model, {}).get(key) for record in records]
            cells = ["" if value is None else f"{value:.4f}" for value in values]
            word = METRICS[key][0] if key in METRICS else key
            rows.append([f"{word}, {model}", *cells])
    empty = "No measure is kept here: rows are held out at the guest."
    return _side_by_side("Measures on the rows held out", "measure", _names(records), rows, empty)


def _names(records: Sequence[Record]) -> list[str]:
    return [record.model for record in records]


def _charts(records: Sequence[Record]) -> list[Chart]:
    keys = dict.fromkeys(key for record in records for step in record.curve for key in step)
    found = []
    for key in keys:
        series = {record.model: [step.get(key) for step in record.curve] for record in records}
        measure = next((record.measure for record in records if record.measure), "loss")
        title = f"{measure}, {key}"
        lines = legend(series)
        label = f"{title}, by step, of {', '.join(name for name, _ in lines)}"
        if svg := curves(series, label, "tree or iteration"):
            found.append(Chart(title, svg, lines))
    return found


def _importance(console: Console, records: Sequence[Record]) -> Table:
    """By column, of the guest's half what all columns gain, of a host's how often its own split."""
    by_run = [_columns_of(console, record) for record in records]
    total: dict[str, float] = {}
    for columns in by_run:
        for name, (weight, _) in columns.items():
            total[name] = max(total.get(name, 0.0), weight)
    order = sorted(total, key=lambda name: (-total[name], name))[:_IMPORTANT]
    rows = [[name, *(columns.get(name, (0.0, ""))[1] for columns in by_run)] for name in order]
    return _side_by_side(
        "Importance of columns", "column", _names(records), rows, "These models tell of none."
    )


def _columns_of(console: Console, record: Record) -> dict[str, tuple[float, str]]:
    """By column a weight to order by, and what is said of it."""
    try:
        if console.party.role == "guest":
            half = load_half(console.store, record.model, GuestHalf)
            kind = kind_of_model(half.model)
            return {
                f"{party}: {column}": (gain, f"gain {gain:,.1f} in {splits:,}")
                for party, column, splits, gain in kind.importance(half.model)
            }
        if console.party.role == "host":
            theirs = load_half(console.store, record.model, HostHalf)
            shown = kind_of_model(theirs.model).explain_host(
                theirs.model, rules_of(console.party), loss_of(objective_of(record.job)).link
            )
            return {
                name: (float(many), counted(int(many), "split"))
                for name, many in dict(shown.splits).items()
            }
    except VflError:  # the half was removed, or is another party's
        return {}
    return {}


def _settings(records: Sequence[Record]) -> Table:
    """The settings that differ."""
    settings: list[Mapping[str, str]] = [flat(record.job) for record in records]
    names = dict.fromkeys(name for one in settings for name in one)
    rows = [
        [name, *(one.get(name, NOT_SET) for one in settings)]
        for name in names
        if len({one.get(name) for one in settings}) > 1
    ]
    return _side_by_side(
        "Settings that differ", "setting", _names(records), rows, "No setting of the jobs differs."
    )


def _facts(records: Sequence[Record]) -> Table:
    rows = [
        ["ended (UTC)", *(when(record.ended) for record in records)],
        ["alignment", *(record.alignment or "none" for record in records)],
        ["aligned rows", *(f"{record.aligned_rows:,}" for record in records)],
        ["steps", *(f"{len(record.curve):,}" if record.curve else "" for record in records)],
        ["seconds", *(f"{record.account.seconds:,.1f}" for record in records)],
    ]
    told = [row for row in rows if any(row[1:])]
    return _side_by_side("The runs", "run", _names(records), told, "")


def report_of(console: Console, name: str) -> tuple[str, str]:
    """The page of `vfl report` for a run of this store, and the policy that it asks browsers for.

    Raises ModelError where there is none, ConfigError where a package is not installed.
    """
    from vfl.jobs.report import gather

    if name not in console.store.names("run"):
        raise ModelError(f"there is no run {name!r:.60}")
    with needs("report", "matplotlib"):
        from vfl.report.page import PAGE, render

        text = render(gather(console.party, name, console.store))[PAGE].decode()
    text = re.sub(r'<a class="sheet"[^>]*>[^<]*</a>', "", text)  # tables are files of `vfl report`
    found = _POLICY.search(text)
    if found is None:
        raise AssertionError("a report without a policy")
    return text, found[1].replace("&#39;", "'")


def run_cell(console: Console, name: str) -> Cell:
    """A link to the report of a run, where it has one."""
    return Cell(name, f"/runs/{name}/report" if name in console.store.names("run") else "")
