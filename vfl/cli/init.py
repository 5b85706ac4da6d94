"""vfl init: a first party file, or a job file, drafted from a table."""

import os
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack, cast

import click

from vfl.cli.group import main
from vfl.cli.options import JSON
from vfl.errors import ConfigError, DataError
from vfl.terminal.streams import put_json, stderr, stdout

if TYPE_CHECKING:
    from vfl.jobs.draft import Draft, Own, Peers
    from vfl.party.config_values import ModelName, Role
    from vfl.party.sources.source import Source


class _Given(TypedDict):
    """What options say of a party file."""

    role: "Role | None"
    data: Path | None
    ids: Sequence[str]
    label: str | None
    listen: str | None
    guest: str | None
    hosts: Sequence[str]
    coordinators: Sequence[str]


_FILE = click.Path(path_type=Path)
_PEER = "NAME[=HOST:PORT]"


@main.command(short_help="Draft a party file from a table, or a job file.")
@click.argument("name")
@click.option("--role", type=click.Choice(["guest", "host"]), help="The guest has the labels.")
@click.option("--data", type=_FILE, metavar="TABLE", help="The party's own table.")
@click.option("--id", "ids", multiple=True, metavar="COLUMN", help="Names a row; repeat for several.")
@click.option("--label", metavar="COLUMN", help="What is predicted (guest).")
@click.option("--listen", metavar="HOST:PORT", help="Where others dial in; without it they are dialled.")
@click.option(
    "--guest",
    metavar=_PEER,
    help="The guest (of a host), with its address if it is dialled; or later, by `vfl join`.",
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar=_PEER,
    help="A host; repeat for several, or none: `vfl invite` adds them.",
)
@click.option(
    "--coordinator",
    "coordinators",
    multiple=True,
    metavar="NAME=HOST:PORT",
    help="A party without data.",
)
@click.option("--job", "party", type=_FILE, metavar="PARTY.toml", help="Draft a job of this guest.")
@click.option(
    "--model",
    type=click.Choice(["secureboost", "glm"]),
    default="secureboost",
    show_default=True,
    help="Of a job.",
)
@click.option("--purpose", metavar="TEXT", help="What the model is for, as every host reads it (--job).")
@click.option("--out", type=_FILE, metavar="FILE", help="By default NAME.toml.")
@JSON
def init(
    name: str,
    party: Path | None,
    model: "ModelName",
    purpose: str | None,
    out: Path | None,
    as_json: bool,
    **given: Unpack[_Given],
) -> None:
    """Draft the party file of NAME from its table, with what the table needs to be read, each line with
    its reason; with --job a job file, by what the label is.

    What is not given is asked for at a terminal. Nothing is sent anywhere and no file is replaced.
    Exit code 3 where the table has to be corrected before it can be used.
    """
    from vfl.party.config_errors import check_name
    from vfl.party.config_words import JOB_NAME, PARTY_NAME

    pattern = PARTY_NAME if party is None else JOB_NAME
    try:
        check_name(name, pattern)
    except ConfigError as error:
        raise ConfigError(f"{error}{_like(name, pattern)}") from None
    file = Path(f"{name}.toml") if out is None else out
    if os.path.lexists(file):
        raise ConfigError(f"{file} is there already: name another file by --out, or remove it")
    if party is not None:
        said = _purpose(purpose)
        job = _job(party, name, model, said)
        _write(file, job)
        if as_json:
            put_json({"file": str(file), "notes": job.notes})
        else:
            first = "" if said else f"say its purpose in {file}, then "
            stdout.put(f"{file} is drafted", *job.notes, f"next: {first}vfl train {party} {file}")
        return
    if purpose is not None:
        raise ConfigError("--purpose is of a job: leave it out, or name the guest's file by --job")
    _check_addresses(given)
    own, table = _own(name, given, file.absolute().parent)
    from vfl.jobs.draft import Peers, draft_party

    peers = Peers(
        guest=_addresses([given["guest"]] if given["guest"] is not None else []),
        hosts=_addresses(given["hosts"]),
        coordinators=_addresses(given["coordinators"]),
    )
    draft = draft_party(own, peers, table)
    _write(file, draft)
    if as_json:
        put_json({"file": str(file), "notes": draft.notes, "faults": draft.faults})
    else:
        stdout.put(f"{file} is drafted", *draft.notes, *_next(own, peers, file))
    if draft.faults:
        stderr.put(*draft.faults)
        count = "one thing" if len(draft.faults) == 1 else f"{len(draft.faults)} things"
        raise DataError(f"{table.name} has {count} to correct first: then vfl doctor {file}")
    _check(file, peers)


def _check_addresses(given: _Given) -> None:
    """Raises ConfigError for an address that is none, before anything is written."""
    from vfl.net.addresses import SCHEME, split_address

    peers = [text for key in ("hosts", "coordinators") for text in given[key]]
    peers += [given["guest"]] if given["guest"] is not None else []
    dialled = [text.partition("=")[2] for text in peers if "=" in text]
    for address in (given["listen"], *dialled):
        if address is not None:
            split_address(address.removeprefix(SCHEME))


def _like(name: str, pattern: str) -> str:
    """A name that may be, made of one that may not."""
    plain = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode()
    made = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:32]
    return f", as {made}" if re.search(pattern, made) else ""


def _purpose(given: str | None) -> str | None:
    """What the model is for, by the option or as answered at the terminal. Raises ConfigError."""
    if given is None and not _at_terminal():
        return None
    said = (
        given if given is not None else _ask("purpose", "What is the model for, as every host reads it?")
    )
    if not (said.isprintable() and 0 < len(said.strip()) <= 200):
        raise ConfigError("--purpose must be one line of printable text, of 200 characters at most")
    return said.strip()


def _job(party: Path, name: str, model: "ModelName", purpose: str | None) -> "Draft":
    from vfl.jobs.alignments import find_alignment
    from vfl.jobs.connect import store_of
    from vfl.jobs.draft import draft_job
    from vfl.party.config import load_party
    from vfl.party.table import read_table

    settings = load_party(party)
    if settings.role != "guest":
        raise ConfigError(f"{party.name} is the party file of a {settings.role}: a guest starts jobs")
    table = read_table(settings.data, role="guest", need_label=True)
    store = store_of(settings)
    rows = len(find_alignment(store, None).rows) if store.names("alignment") else None
    return draft_job(settings, table, name, model, rows, purpose)


def _own(name: str, given: _Given, folder: Path) -> "tuple[Own, Path]":
    """Who the party is, by the options or as answered at the terminal; and where its table is."""
    from vfl.jobs.draft import Own, likely_ids, open_table

    role, data, ids, label = given["role"], given["data"], given["ids"], given["label"]
    if role is None:
        chosen = _ask("role", "Does this party have the label (guest) or further columns (host)?")
        if chosen not in ("guest", "host"):
            raise ConfigError("--role is guest or host")
        role = cast("Role", chosen)
    table = (
        data if data is not None else Path(_ask("data", "Its table (a file, a folder or a pattern)?"))
    )
    if role == "host" and label is not None:
        raise ConfigError("--label is a guest's: leave it out, or give --role guest")
    if not ids or (role == "guest" and label is None):
        source = open_table(table)
        if not ids:
            likely = ", ".join(likely_ids(source)[:1])
            ids = _columns(_ask("id", _which("names a row", source), likely), source)
        if role == "guest" and label is None:
            label = _ask("label", _which("is to be predicted", source))
    place = Path(os.path.relpath(table.absolute(), folder))
    return Own(name, role, place, ids, label, given["listen"]), table


def _which(what: str, source: "Source") -> str:
    names = ", ".join(source.names[:30]) + (", ..." if len(source.names) > 30 else "")
    return f"Which column {what}? ({names})"


def _columns(answer: str, source: "Source") -> list[str]:
    if answer in source.names:  # a name with a comma in it
        return [answer]
    return [name.strip() for name in answer.split(",") if name.strip()]


def _ask(option: str, question: str, default: str | None = None) -> str:
    """An answer typed at the terminal. Raises ConfigError where there is none."""
    if not _at_terminal():
        hint = f": perhaps {default}" if default else ""
        raise ConfigError(f"--{option} is missing, and there is no terminal to ask at{hint}")
    return str(click.prompt(question, default=default or None, err=True)).strip()


def _at_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and stderr.isatty()


def _addresses(given: Sequence[str]) -> Mapping[str, str | None]:
    """Names of peers with their addresses, as options give them."""
    found: dict[str, str | None] = {}
    for text in given:
        name, _, address = text.partition("=")
        if name in found:
            raise ConfigError(f"{name} is given twice: once is enough")
        found[name] = address or None
    return found


def _write(file: Path, draft: "Draft") -> None:
    from vfl.party.files import replacing

    with replacing(file) as out:
        out.write(draft.text.encode())


def _next(own: "Own", peers: "Peers", file: Path) -> list[str]:
    """What a person does now."""
    names = peers.names or ["NAME"]
    if own.listen is not None:
        meeting = [f"vfl invite {file} {name}, which shows them a code" for name in names]
    else:
        meeting = [f"vfl join {file}, with the code that {' and '.join(names)} read out"]
    lines = [f"vfl keys new {own.name}", *meeting, f"vfl doctor {file}"]
    return [f"{'next: ' if line is lines[0] else ' ' * 6}{line}" for line in lines]


def _check(file: Path, peers: "Peers") -> None:
    """Raises ConfigError for what a person has to add to the draft; peers may be still to come."""
    from vfl.party.config import load_party

    load_party(file, peers_to_come=not peers.names)
