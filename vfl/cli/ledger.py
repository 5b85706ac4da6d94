"""vfl ledger: what was sent and received, for who checks it."""

import itertools
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfl.cli.group import main
from vfl.cli.options import FORCE, JSON, PARTY
from vfl.errors import ConfigError
from vfl.terminal.streams import put_json, stderr, stdout
from vfl.text import counted

if TYPE_CHECKING:
    from datetime import datetime

    from vfl.party.audit.tables import MessageFilter
    from vfl.party.identity import Certificate


@main.group()
def ledger() -> None:
    """What this party has sent and received, sealed by its key."""


_NAMED = 5  # names that an error lists at most
_LEDGER = click.argument("ledger", type=click.Path(path_type=Path), metavar="LEDGER")
_SINCE = click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
    metavar="TIME",
    help="None earlier; UTC, such as 2026-11-23 or 2026-11-23T08:00:00.",
)
_CERTIFICATE = click.option(
    "--certificate",
    type=click.Path(path_type=Path),
    metavar="PARTY.pem",
    help="Whose seals they must be, where LEDGER is no party file.",
)

_TSA_CERTIFICATE = click.option(
    "--tsa-certificate",
    type=click.Path(path_type=Path),
    metavar="FILE.pem",
    help="The certificate of the time-stamping authority, with those above it, if any.",
)


@ledger.command("show", short_help="Show what went to and came from whom.")
@_LEDGER
@click.option("--job", metavar="NAME", help="Only of this job.")
@click.option("--peer", metavar="NAME", help="Only to and from this party.")
@click.option("--type", "kind", metavar="TYPE", help="Only this type of message.")
@_SINCE
@click.option("--lines", is_flag=True, help="Every message, not totals by job and type.")
@JSON
def ledger_show(
    ledger: Path,
    job: str | None,
    peer: str | None,
    kind: str | None,
    since: "datetime | None",
    lines: bool,
    as_json: bool,
) -> None:
    """Show what went to and came from whom, for which job, and what it reveals.

    LEDGER is a party file, or a ledger's folder, file or copy.
    """
    import msgspec

    from vfl.party.audit import tables
    from vfl.terminal.results import put_messages, put_totals

    path, *_ = _ledger_of(ledger)
    choice = tables.MessageFilter(job, peer, kind, since.isoformat() if since else None)
    found = tables.rows(path, choice)
    first = next(found, None)
    if first is None:
        _check_known(path, choice)
        if not as_json:
            stderr.put("note: there is no such message")
            return
    rows = itertools.chain([] if first is None else [first], found)
    if lines:
        put_messages(rows, as_json)
    elif as_json:
        put_json({"totals": msgspec.to_builtins(tables.totals(rows))})
    else:
        put_totals(tables.totals(rows))


def _check_known(ledger: Path, choice: "MessageFilter") -> None:
    """Raises ConfigError for a job, peer or type of which a ledger has nothing at all."""
    from vfl.party.audit import tables
    from vfl.text import nearest_name

    found = tables.known_names(ledger)
    for option, name, there in (
        ("job", choice.job, found.jobs),
        ("peer", choice.peer, found.peers),
        ("type", choice.type, found.types),
    ):
        if name is None or name in there:
            continue
        near = nearest_name(name, there)
        what = {"job": "of a job", "peer": "to or from", "type": "of a type"}[option]
        others = f"; there are {', '.join(sorted(there)[:_NAMED])}" if there else ""
        more = f" and {len(there) - _NAMED:,} more" if len(there) > _NAMED else ""
        advice = f": did you mean {near}?" if near else others + more
        raise ConfigError(f"{ledger} has no message {what} {name} (--{option}){advice}")


@ledger.command("verify", short_help="Find every line that was changed; check the seals.")
@_LEDGER
@_CERTIFICATE
@click.option("--head", metavar="HASH", help="A hash noted down earlier, which must still be there.")
@click.option(
    "--known",
    type=click.Path(path_type=Path),
    metavar="PARTY.toml",
    help="Whose runs have noted seals of the ledger, which must still be there: of a copy from a peer.",
)
@_TSA_CERTIFICATE
@JSON
def ledger_verify(
    ledger: Path,
    certificate: Path | None,
    head: str | None,
    known: Path | None,
    tsa_certificate: Path | None,
    as_json: bool,
) -> None:
    """Find every line that was changed, cut, moved or put in, and check the seals and their time stamps.

    LEDGER is a party file, or a ledger's folder, file or copy. Exit code 1 where anything is wrong.
    """
    from vfl.party.audit import stamps, verify
    from vfl.party.identity import load_certificate
    from vfl.terminal.results import put_stamps, put_verdict

    authority = None if tsa_certificate is None else stamps.Authority(tsa_certificate)
    head = None if head is None else verify.parse_hash(head)
    path, own, earlier = _ledger_of(ledger)
    kept, noted = _seals_known(ledger, known)
    pinned = load_certificate(certificate) if certificate is not None else own
    found = verify.verify(path, pinned, earlier=earlier, head=head, kept=kept, noted=noted)
    stamped = stamps.check_stamps(path, authority)
    found.damage += stamped.damage
    found.notes += stamped.notes
    if as_json:
        put_json(asdict(found) | {"stamps": [asdict(one) for one in stamped.stamps]})
    else:
        put_stamps(stamped.stamps)
        put_verdict(found)
    if found.damage:
        raise click.exceptions.Exit(1)


@ledger.command("stamp", short_help="Have the newest seal stamped with the time by an authority.")
@PARTY
@click.option("--tsa", metavar="URL", required=True, help="The address of the authority (RFC 3161).")
@_TSA_CERTIFICATE
@JSON
def ledger_stamp(party: Path, tsa: str, tsa_certificate: Path | None, as_json: bool) -> None:
    """Have the newest seal of the ledger stamped with the time by an authority, and keep the stamp.

    The authority learns a digest of the seal and nothing else. `vfl ledger verify` checks the stamps.
    """
    from vfl.party.audit.stamps import Authority, stamp_ledger

    if tsa_certificate is None:
        raise ConfigError(
            "--tsa-certificate is missing: the file with the authority's certificate, which says whose "
            "stamps are believed"
        )
    path, *_ = _ledger_of(party)
    made = stamp_ledger(path, Authority(tsa_certificate), tsa)
    if as_json:
        put_json(asdict(made))
        return
    stdout.put(f"the seal in line {made.line:,} was there at {made.time}: {path / made.file}")


@ledger.command("compare", short_help="Check that two parties' ledgers tell the same.")
@click.argument("ours", type=click.Path(path_type=Path), metavar="LEDGER_A")
@click.argument("theirs", type=click.Path(path_type=Path), metavar="LEDGER_B")
@_SINCE
@JSON
def ledger_compare(ours: Path, theirs: Path, since: "datetime | None", as_json: bool) -> None:
    """Check that two parties' ledgers tell the same: what one sent, the other received.

    Each is a party file, or a ledger's folder, file or copy. Exit code 1 where they differ or one is
    damaged.
    """
    from vfl.party.audit import compare, verify
    from vfl.terminal.results import put_comparison

    paths = []
    for given in (ours, theirs):
        path, own, earlier = _ledger_of(given)
        kept, noted = _seals_known(given)
        if verify.verify(path, own, earlier=earlier, kept=kept, noted=noted).damage:
            stderr.put(f"error: {path} is damaged: see `vfl ledger verify`")
            raise click.exceptions.Exit(1)
        paths.append(path)
    found = compare.compare(paths[0], paths[1], since.isoformat() if since else "")
    if as_json:
        put_json(asdict(found))
    else:
        put_comparison(found)
    if found.differences:
        raise click.exceptions.Exit(1)


@ledger.command("export", short_help="Write the messages as a table, or a copy for a peer.")
@_LEDGER
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    required=True,
    help="Where they go: .csv, or .jsonl for a peer.",
)
@click.option("--peer", metavar="NAME", help="Only what went to and came from this party.")
@FORCE
@JSON
def ledger_export(ledger: Path, out: Path, peer: str | None, force: bool, as_json: bool) -> None:
    """Write the messages as a table (.csv), or a copy for a peer that can be verified (.jsonl).

    LEDGER is a party file, or a ledger's folder or file.
    """
    from vfl.party.audit import compare, tables
    from vfl.party.config import load_party
    from vfl.party.output import OutputPlace

    if out.suffix != ".csv" and (out.suffix != ".jsonl" or peer is None):
        raise ConfigError("--out must end in .csv, or in .jsonl with --peer: a copy for this party")
    path, *_ = _ledger_of(ledger)
    if peer is not None:
        _check_known(path, tables.MessageFilter(peer=peer))
    owner = compare.party_of(path)
    target = OutputPlace.of(
        out,
        "ledger export",
        party=load_party(ledger) if ledger.suffix == ".toml" else None,
        reads={path: "the ledger", ledger: "the party file or ledger that was named"},
        is_former=lambda there: (
            tables.is_table(there) if out.suffix == ".csv" else tables.is_copy(there, owner, peer or "")
        ),
        force=force,
    )
    with target.writing() as file:
        if out.suffix == ".csv":
            count = tables.export_csv(path, file, tables.MessageFilter(peer=peer))
        else:
            count = tables.export_copy(path, peer or "", file)
    if as_json:
        put_json({"out": str(out.resolve()), "messages": count})
        return
    stdout.put(f"{counted(count, 'message')} in {out}")


def _ledger_of(path: Path) -> "tuple[Path, Certificate | None, frozenset[str]]":
    """Where a ledger is; of a party file the certificate that must have sealed it, and the fingerprints
    of those before it."""
    if path.suffix != ".toml":
        return path, None, frozenset()
    from vfl.party.config import load_party
    from vfl.party.identity import load_certificate, paths
    from vfl.party.ledger import FOLDER
    from vfl.party.rotation import formerly

    settings = load_party(path)
    _, certificate = paths(settings.party.identity)
    own = load_certificate(certificate)
    return settings.party.store / FOLDER, own, formerly(own, certificate)


def _seals_known(ledger: Path, known: Path | None = None) -> tuple[Path | None, dict[str, str]]:
    """Where the newest seal of a party's own ledger is kept, and the seals that its runs have noted, or
    of any ledger those of the party file `known`."""
    from vfl.jobs.record import noted_seals
    from vfl.party.audit import compare
    from vfl.party.config import load_party
    from vfl.party.ledger import kept_beside
    from vfl.party.store import Store

    kept: Path | None = None
    noted: dict[str, str] = {}
    if ledger.suffix == ".toml":
        own = load_party(ledger)
        kept = kept_beside(own.party.identity.parent, own.name, _ledger_of(ledger)[0])
        noted |= noted_seals(Store(own.party.store), own.name)
    if known is not None:
        theirs = load_party(known)
        noted |= noted_seals(Store(theirs.party.store), compare.party_of(_ledger_of(ledger)[0]))
    return kept, noted
