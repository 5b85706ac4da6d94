"""vfl invite and vfl join: two companies that pin each other by a code read out by phone."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfl.cli.group import main
from vfl.cli.options import JSON, PARTY, WAIT
from vfl.cli.running import run
from vfl.errors import ConfigError
from vfl.terminal.progress import show_progress
from vfl.terminal.streams import put_json, stderr, stdout
from vfl.terminal.usage import NumberType

if TYPE_CHECKING:
    from vfl.jobs.introducing import Met, Wishes
    from vfl.net.invitation import Code

_TRIES = 5  # at typing a code
_ADDRESS = click.option(
    "--address",
    metavar="HOST:PORT",
    help="Where the others dial this party, if listen does not say it (0.0.0.0).",
)
_COMPARE = click.option(
    "--compare", is_flag=True, help="Ask whether both see the same number before anything is written."
)


@main.command(short_help="Invite a party by a code read out by phone.")
@PARTY
@click.argument("name", required=False)
@click.option(
    "--at",
    metavar="HOST:PORT",
    help="Where to wait for it, or relay://HOST:PORT; by default where [party] listens.",
)
@_ADDRESS
@click.option(
    "--minutes",
    type=NumberType(1, 1440),
    default=10.0,
    show_default=True,
    help="How long the invitation lasts.",
)
@_COMPARE
@JSON
def invite(
    party: Path,
    name: str | None,
    at: str | None,
    address: str | None,
    minutes: float,
    compare: bool,
    as_json: bool,
) -> None:
    """Invite another party (NAME, if only it may come) to pin this one's certificate and be pinned.

    Shows a code of twelve digits, to be read out by phone, for `vfl join` there. It serves once: a wrong
    one that comes here ends the invitation (a slip is seen at `vfl join`, and never sent). Then
    certificates, names, roles and addresses have gone both ways, and the two files are written.
    """
    from vfl.jobs.introducing import invite as await_party

    _check(at, address, compare)
    _check_awaited(name, party)
    put = stderr.put if as_json else stdout.put

    def ready(code: "Code", where: str) -> None:
        until = datetime.now(UTC) + timedelta(minutes=minutes)
        put(
            f"code  {code.spoken}",
            f"Read it out by phone to who is to join. It serves once, until {until:%H:%M} UTC. They run",
            f"  vfl join THEIRS.toml --at {_seen_from_outside(where, address)}",
        )
        stdout.flush()
        stderr.flush()

    with show_progress() as show:
        wishes = _wishes(put, "joined", show.say, at, address, name, compare)
        met = run(await_party(party, wishes, 60 * minutes, ready))
    _report(met, party, as_json)


@main.command(short_help="Join a party that invites, by its code.")
@PARTY
@click.argument("code", required=False)
@click.option(
    "--at",
    metavar="HOST:PORT",
    help="Where the other party waits, as its `vfl invite` shows; by default what the party file says.",
)
@_ADDRESS
@_COMPARE
@WAIT
@JSON
def join(
    party: Path,
    code: str | None,
    at: str | None,
    address: str | None,
    compare: bool,
    wait: float,
    as_json: bool,
) -> None:
    """Join the party that read out CODE by phone: each pins the other's certificate.

    Without CODE it is asked for, so that it stands in no list of processes. A slip in it is seen before
    anything is sent; else it is tried once, and a wrong one ends the invitation.
    """
    from vfl.jobs.introducing import check_joining
    from vfl.jobs.introducing import join as join_party
    from vfl.net.invitation import Code

    _check(at, address, compare)
    check_joining(party, at)  # before a code is asked for
    typed = Code.typed(code) if code is not None else _asked()
    put = stderr.put if as_json else stdout.put
    with show_progress() as show:
        wishes = _wishes(put, "invited", show.say, at, address, None, compare)
        met = run(join_party(party, typed, wishes, wait))
    _report(met, party, as_json)


def _asked() -> "Code":
    """The code as typed, or the first line of stdin. A slip is asked for again. Raises ConfigError."""
    from vfl.net.invitation import Code

    if not _at_terminal():
        line = "" if sys.stdin is None else sys.stdin.readline(200)
        if not line.strip():
            raise ConfigError("CODE is missing, and there is no terminal to ask at")
        return Code.typed(line)
    for _ in range(_TRIES - 1):
        try:
            return Code.typed(str(click.prompt("Code", err=True)))
        except ConfigError as error:
            stderr.put(str(error))
    return Code.typed(str(click.prompt("Code", err=True)))


def _at_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and stderr.isatty()


def _check(at: str | None, address: str | None, compare: bool) -> None:
    """Raises ConfigError for options that cannot be."""
    from vfl.net.addresses import SCHEME, split_address

    if compare and not _at_terminal():
        raise ConfigError("--compare asks at a terminal, and there is none: leave it out")

    for given in (at, address):
        if given is not None:
            split_address(given.removeprefix(SCHEME))


def _check_awaited(name: str | None, party: Path) -> None:
    """Raises ConfigError for a name under which nobody can come."""
    from vfl.party.config import load_party
    from vfl.party.config_errors import check_name
    from vfl.party.config_words import PARTY_NAME

    if name is None:
        return
    check_name(name, PARTY_NAME)
    if name == load_party(party, peers_to_come=True).name:
        raise ConfigError(f"{name} is this party itself: name the one that is to come, or nobody")


def _seen_from_outside(where: str, address: str | None) -> str:
    """Where the other party finds this one, as far as this one knows."""
    from vfl.party.introduced import reachable

    if address is not None and not where.startswith("relay://"):
        return f"{address.rpartition(':')[0]}:{where.rpartition(':')[2]}"
    return reachable(where) or f"THIS-MACHINE:{where.rpartition(':')[2]}"


def _wishes(
    put: Callable[..., None],
    did: str,
    say: Callable[[str], None],
    at: str | None,
    address: str | None,
    name: str | None,
    compare: bool,
) -> "Wishes":
    from vfl.jobs.introducing import Wishes

    def met(found: "Met") -> None:
        put(
            f"{found.change.name} {did}: a {found.change.role}",
            f"fingerprint  {found.change.certificate.fingerprint_groups}",
            f"number       {_spoken(found.number)}, the same there unless somebody is between the two",
        )
        stdout.flush()
        stderr.flush()

    return Wishes(met, say, at, address, name, _confirm if compare else None)


def _confirm(number: str) -> bool:
    return click.confirm(f"Does the other party see {_spoken(number)} too?", err=True)


def _spoken(number: str) -> str:
    return f"{number[:3]} {number[3:]}"


def _report(met: "Met", path: Path, as_json: bool) -> None:
    from vfl.jobs.storage import serves_an_older_file
    from vfl.party.config import load_party

    change = met.change
    if as_json:
        put_json(
            {
                "name": change.name,
                "role": change.role,
                "fingerprint": change.certificate.fingerprint,
                "number": met.number,
                "certificate": str(change.pin),
                "address": change.address,
            }
        )
        return
    stdout.put(f"written: {change.pin} and [peers.{change.name}] in {path.name}")
    if met.dialled is not None:
        name, where = met.dialled
        stdout.put(f"{name} is dialled at {where}")
    store = load_party(path, peers_to_come=True).party.store
    if older := serves_an_older_file(store, path):
        stdout.put(f"note: {older}")
    stdout.put(f"next: vfl {'doctor' if met.starts_jobs else 'serve'} {path}")
