"""What the party keeps: models, alignments, directories; and its policy, with what each rule refused."""

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vfl.console.access import Session
from vfl.console.app import Console, looking
from vfl.console.pages import Cell, Table, size, when
from vfl.console.runs import run_cell
from vfl.jobs.kept_alignments import alignments_of
from vfl.jobs.kept_models import list_models
from vfl.jobs.publishing import list_directories
from vfl.party.policy import widened
from vfl.party.policy_section import PolicySection
from vfl.party.refusals import RefusalCounts, Refusals
from vfl.text import shown_value


def routes(console: Console) -> list[Route]:
    """The addresses of these pages."""

    async def kept(request: Request, session: Session) -> Response:
        tables = await anyio.to_thread.run_sync(kept_tables, console)
        return await console.page("tables", session, here="/kept", title="Kept", lead="", tables=tables)

    async def policy(request: Request, session: Session) -> Response:
        table = await anyio.to_thread.run_sync(policy_table, console)
        whose = "jobs over rows" if console.party.role == "guest" else "what guests ask of this party"
        lead = f"What [policy] of the party file says to {whose}. It is changed there, not here."
        return await console.page(
            "tables", session, here="/policy", title="Policy", lead=lead, tables=[table]
        )

    return [Route("/kept", looking(console, kept)), Route("/policy", looking(console, policy))]


def kept_tables(console: Console) -> list[Table]:
    """Models, alignments, directories, the newest first."""
    return [_models(console), _alignments(console), _directories(console)]


def _models(console: Console) -> Table:
    rows = [
        [
            run_cell(console, one.name),
            f"{one.kind}, {one.objective}" if one.kind else one.error,
            when(one.made),
            one.alignment,
            ", ".join(one.parties),
            "yes" if one.half else "the record alone",
            size(one.bytes),
        ]
        for one in reversed(list_models(console.store))
    ]
    heads = ["model", "kind", "made (UTC)", "alignment", "parties", "own half", "disk"]
    return Table("Models", heads, rows, frozenset(("disk",)), "There is no model yet.")


def _alignments(console: Console) -> Table:
    rows = []
    for one in reversed(alignments_of(console.store, console.party)):
        if "error" in one:
            rows.append([str(one["name"]), str(one["error"]), "", "", "", "", ""])
            continue
        parties = one["parties"]
        expires = str(one["expires"] or "never")
        until = Cell(expires, mark="refused") if one["expired"] else Cell(expires)
        rows.append(
            [
                str(one["name"]),
                when(str(one["made"])),
                f"{one['rows']:,}",
                f"{one['known']:,}",
                ", ".join(parties) if isinstance(parties, list) else "",
                f"{one['engine']}, {one['join']}",
                until,  # type: ignore[list-item]
            ]
        )
    heads = ["alignment", "made", "rows", "known here", "parties", "how", "of use until"]
    return Table(
        "Alignments", heads, rows, frozenset(("rows", "known here")), "There is no alignment yet."
    )


def _directories(console: Console) -> Table:
    rows = [
        [
            one["model"],
            one["peer"],
            when(one["made"]),
            f"{one['rows']:,}",
            size(one["bytes"]),
            "withdrawn" if one["withdrawn"] else one["of_use_until"] or "not limited here",
        ]
        for one in reversed(list_directories(console.store, console.party))
    ]
    heads = ["directory of", "peer", "made", "rows", "size", "of use until"]
    return Table(
        "Sealed directories", heads, rows, frozenset(("rows", "size")), "There is no directory."
    )


def policy_table(console: Console) -> Table:
    """Every rule, its value, and what it has refused."""
    policy, usual = console.party.policy, PolicySection()
    wider = {text.partition(" ")[0] for text in widened(policy)}
    refused = RefusalCounts(console.store).read()
    rows: list[list[str | Cell]] = []
    for rule, field in PolicySection.model_fields.items():
        of_rule = refused.get(rule, Refusals())
        value = getattr(policy, rule)
        set_here = rule in policy.model_fields_set
        mark = Cell("allows more", mark="wider") if rule in wider else Cell("set" if set_here else "")
        rows.append(
            [
                Cell(rule, note=field.description or ""),
                shown_value(_plain(value)),
                shown_value(_plain(getattr(usual, rule))),
                mark,
                f"{of_rule.times:,}" if of_rule.times else "",
                f"{when(of_rule.last)}, {of_rule.peer}" if of_rule.times else "",
            ]
        )
    heads = ["rule", "value", "by default", "here", "refused", "last (UTC)"]
    return Table("Rules", heads, rows, frozenset(("refused",)))


def _plain(value: object) -> object:
    """A value as JSON has it."""
    if isinstance(value, tuple):
        return [*value]
    return value if isinstance(value, str | int | float | bool | list | None) else str(value)
