"""vfl approvals: jobs that wait for a person of this party, and what was decided."""

import getpass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from vfl.cli.group import main
from vfl.cli.options import JSON, PARTY
from vfl.terminal.streams import put_json, stdout
from vfl.terminal.usage import FileGroup

if TYPE_CHECKING:
    from vfl.party.approvals import Approvals, Asked, Outcome

ID = click.argument("name", metavar="ID")
REASON = click.option("--reason", default="", metavar="TEXT", help="Why; the guest is told it.")


@main.group(
    "approvals",
    cls=FileGroup,
    short_help="List, show and decide on jobs that wait for a person here.",
    subcommand_metavar="PARTY.toml | show | approve | refuse",
)
def approvals() -> None:
    """List, show and decide on jobs that wait for a person of this party.

    With approve = "person" in [policy] every job that a peer asks of this party waits for a decision,
    once the rules allow it: here, or in `vfl console`. No peer is asked, and no key is needed.
    """


@approvals.command("list", hidden=True)
@PARTY
@click.option("--all", "every", is_flag=True, help="Also those that are over, the newest first.")
@JSON
def list_requests(party: Path, every: bool, as_json: bool) -> None:
    """List the jobs that wait, the oldest first."""
    from vfl.terminal.approvals import put_requests

    known = _approvals(party)
    found = known.every() if every else known.waiting()
    if as_json:
        put_json({"requests": [_document(one) for one in found]})
    elif not found:
        stdout.put("there is no request yet" if every else "no job waits for a decision")
    else:
        put_requests(found)


@approvals.command("show", short_help="Show what a job asks, and what it would tell whom.")
@PARTY
@ID
@JSON
def show_request(party: Path, name: str, as_json: bool) -> None:
    """Show a request: who asks for what, this party's columns, what the others would learn, what is left
    of the limits, and what has changed since the last job of the name."""
    from vfl.terminal.approvals import put_request

    found = _approvals(party).find(name)
    if as_json:
        put_json(_document(found))
    else:
        put_request(found)


@approvals.command("approve", short_help="Let a job begin.")
@PARTY
@ID
@REASON
@JSON
def approve(party: Path, name: str, reason: str, as_json: bool) -> None:
    """Let a job begin. The decision, who made it and when go into the ledger."""
    _decide(party, name, "approved", reason, as_json)


@approvals.command("refuse", short_help="Refuse a job.")
@PARTY
@ID
@REASON
@JSON
def refuse(party: Path, name: str, reason: str, as_json: bool) -> None:
    """Refuse a job: its guest is told the reason, and not who refused it."""
    _decide(party, name, "refused", reason, as_json)


def _decide(party: Path, name: str, outcome: "Outcome", reason: str, as_json: bool) -> None:
    known = _approvals(party)
    known.decide(name, outcome, getpass.getuser(), reason)
    found = known.find(name)
    if as_json:
        put_json(_document(found))
    else:
        stdout.put(f"{outcome}: {found.request.task} {found.request.job or ''}".rstrip())


def _approvals(party: Path) -> "Approvals":
    from vfl.party.approvals import Approvals
    from vfl.party.config import load_party
    from vfl.party.store import Store

    return Approvals(Store(load_party(party).party.store))


def _document(asked: "Asked") -> dict[str, object]:
    """A request as JSON has it."""
    decision = None if asked.decision is None else msgspec.to_builtins(asked.decision)
    return {"state": asked.state, **msgspec.to_builtins(asked.request), "decision": decision}
