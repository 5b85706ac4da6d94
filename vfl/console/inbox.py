"""Jobs that wait for a person: the list, one in detail, the decision."""

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from vfl.console.access import Session
from vfl.console.app import Console, deciding, looking
from vfl.console.form import BadForm, field
from vfl.console.pages import Cell, Table, when
from vfl.party.approvals import Asked, Outcome, describe
from vfl.text import NOT_SET

_PAST = 50  # decisions on the page


def routes(console: Console) -> list[Route]:
    """The addresses of these pages."""

    async def inbox(request: Request, session: Session) -> Response:
        every = await anyio.to_thread.run_sync(console.approvals.every)
        past = [one for one in every if one.state != "waiting"][:_PAST]
        return await console.page(
            "inbox",
            session,
            here="/",
            jobs=waiting_jobs(every),
            past=past_table(past),
            person=console.party.policy.approve == "person",
        )

    async def one(request: Request, session: Session) -> Response:
        name = request.path_params["name"]
        asked = await anyio.to_thread.run_sync(console.approvals.find, name)
        return await console.page(
            "request",
            session,
            here="/",
            asked=asked,
            one=asked.request,
            state=describe(asked),
            learns=learns_table(asked),
            changes=changes_table(asked),
            title=title(asked),
        )

    async def decide(request: Request, session: Session, form: dict[str, str]) -> Response:
        name = request.path_params["name"]
        outcomes: dict[str, Outcome] = {"approve": "approved", "refuse": "refused"}
        outcome = outcomes.get(field(form, "decision"))
        if outcome is None:
            raise BadForm(400, "approve or refuse: the form says neither")
        await anyio.to_thread.run_sync(
            console.approvals.decide, name, outcome, session.who, field(form, "reason")
        )
        console.say(f"request {name}: {outcome} by {session.who}")
        return RedirectResponse(f"/requests/{name}", 303)

    return [
        Route("/", looking(console, inbox)),
        Route("/requests/{name}", looking(console, one)),
        Route("/requests/{name}", deciding(console, decide), methods=["POST"]),
    ]


def title(asked: Asked) -> str:
    """What is asked, in a few words."""
    one = asked.request
    about = one.job or one.model or one.alignment
    return f"{one.task} {about}" if about else one.task


def waiting_jobs(every: list[Asked]) -> list[dict[str, object]]:
    """What the page says of each job that waits, the oldest first."""
    return [
        {
            "id": one.request.id,
            "title": title(one),
            "guest": one.request.guest,
            "purpose": one.request.purpose or "",
            "asked": one.request.asked,
            "until": one.request.until,
            "columns": len(one.request.columns),
            "rows": one.request.rows,
            "changes": len(one.request.changes),
            "last": one.request.last,
        }
        for one in reversed(every)
        if one.state == "waiting"
    ]


def past_table(past: list[Asked]) -> Table:
    """What became of earlier requests."""
    return Table(
        "Decided, and over",
        ["job", "guest", "asked (UTC)", "outcome", "by", "reason"],
        [
            [
                Cell(title(one), f"/requests/{one.request.id}"),
                one.request.guest,
                when(one.request.asked),
                Cell(one.state, mark=one.state),
                "" if one.decision is None else one.decision.who,
                "" if one.decision is None else one.decision.reason,
            ]
            for one in past
        ],
        empty="No job was asked about yet.",
    )


def learns_table(asked: Asked) -> Table:
    """What the others could learn, by `vfl leakage`."""
    return Table(
        "What could be learnt of this party's rows by one training",
        ["who", "could learn", "how much", "guessing gets", "from", "less by"],
        [
            [line.who, line.what, line.number, line.guessing, line.how, line.less_by]
            for line in asked.request.learns
        ],
    )


def changes_table(asked: Asked) -> Table:
    """The settings that differ from those of the last job of the name."""
    return Table(
        f"Settings that differ from {asked.request.last or ''}",
        ["setting", "before", "now"],
        [[one.setting, one.before or NOT_SET, one.now or NOT_SET] for one in asked.request.changes],
        empty="No setting differs.",
    )
