"""Requests for a person's decision, on a terminal."""

from collections.abc import Sequence

from vfl.party.approvals import Asked, Request, describe
from vfl.terminal.kept import put_lines, when
from vfl.terminal.sheets import Sheet, SheetCell, put_sheet
from vfl.terminal.streams import stdout
from vfl.text import NOT_SET, counted


def put_requests(found: Sequence[Asked]) -> None:
    """Requests, a line each."""
    heads = ("id", "state", "asked (UTC)", "until", "guest", "job", "purpose")
    rows: list[list[SheetCell]] = [
        [
            one.request.id,
            one.state,
            when(one.request.asked),
            when(one.request.until) if one.state == "waiting" else "",
            one.request.guest,
            title(one.request),
            one.request.purpose or "",
        ]
        for one in found
    ]
    put_sheet(Sheet(heads, rows, prose=frozenset(("purpose",))))


def title(request: Request) -> str:
    """What is asked, in a few words."""
    about = request.job or request.model or request.alignment
    return f"{request.task} {about}" if about else request.task


def put_request(asked: Asked) -> None:
    """A request in detail."""
    one = asked.request
    own = counted(len(one.columns), "column")
    lines = {
        "state": describe(asked),
        "guest": one.guest,
        "purpose": one.purpose or "",
        "kind": one.kind,
        "model": one.model or "",
        "alignment": one.alignment or "",
        "parties": ", ".join([one.guest, *one.hosts]),
        "known rows": "" if one.rows is None else f"{one.rows:,}",
        "own table": one.table,
        "own columns": f"{own}: {', '.join(one.columns)}" if one.columns else "",
        "asked": f"{when(one.asked)} UTC",
        "waits until": f"{when(one.until)} UTC",
        "the guest gets": one.asks,
    }
    put_lines(f"request {one.id}: {title(one)}", lines)
    for line in one.budget:
        stdout.put(f"budget: {line}")
    if one.learns:
        heads = ("who", "about", "could learn", "how much", "guessing", "from", "less by")
        rows = [
            (line.who, line.about, line.what, line.number, line.guessing, line.how, line.less_by)
            for line in one.learns
        ]
        prose = frozenset(("who", "could learn", "how much", "from", "less by"))
        put_sheet(Sheet(heads, rows, "what could be learnt of this party", prose=prose))
    _put_changes(one)
    for line in one.policy:
        stdout.put(f"policy: {line}")


def _put_changes(one: Request) -> None:
    if one.last is None:
        if one.kind:
            stdout.put(f"changes: no earlier job {one.job} of {one.guest} is kept here")
        return
    if not one.changes:
        stdout.put(f"changes: no setting differs from {one.last}")
        return
    rows = [(change.setting, change.before or NOT_SET, change.now or NOT_SET) for change in one.changes]
    put_sheet(Sheet(("setting", "before", "now"), rows, f"changes since {one.last}"))
