"""The command line: one party of a federation."""

import asyncio
import contextlib
import itertools
import json
import logging
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vfl.errors import ConfigError, Refused, VflError
from vfl.terminal.news import telling
from vfl.terminal.streams import put_json, stderr, stdout
from vfl.terminal.usage import ENDING, Group, Number, put_version
from vfl.text import counted

if TYPE_CHECKING:
    from datetime import datetime

    from vfl.jobs.finding import Finding
    from vfl.party.audit.tables import Choice
    from vfl.party.config_values import Engine, JoinKind
    from vfl.party.identity import Certificate, Identity

T = TypeVar("T")

_PARTY = click.argument("party", type=click.Path(path_type=Path), metavar="PARTY.toml")
_WAIT = click.option(
    "--wait",
    type=Number(0, 86400),
    metavar="SECONDS",
    default=30.0,
    show_default=True,
    help="How long to wait for the other parties to be there.",
)
_MODEL = click.option(
    "--model",
    metavar="NAME",
    required=True,
    help="A model, or its job (the newest model of it), or a path.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
_NAMED = 5  # names that an error lists at most
_FORCE = click.option(
    "--force",
    is_flag=True,
    help="Replace what is there also if it is no earlier output of this command.",
)


@click.group("vfl", cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=put_version,
    help="Show the version and exit.",
)
def main() -> None:
    """Train and score models together with other companies, without sharing data.

    Results go to stdout, news and errors to stderr. An error is one line and an exit code.

    \b
    Exit codes:
        0  done (a host: ended by Ctrl-C, SIGTERM or SIGHUP)
        1  a fault of vfl itself, or what was checked is not in order
        2  configuration or command line
        3  table or storage
        4  keys
        5  model or alignment
        6  refused by this party's own rules
        7  a peer cannot be reached
        8  a peer was lost
        9  a peer stopped the job
       10  a peer broke the protocol
      130  interrupted
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


@main.group()
def keys() -> None:
    """This party's identity."""


@keys.command("new")
@click.argument("name")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("keys"),
    show_default=True,
    metavar="FOLDER",
    help="Where the two files go.",
)
@click.option("--passphrase", is_flag=True, help="Put the private key under a passphrase.")
@_JSON
def keys_new(name: str, folder: Path, passphrase: bool, as_json: bool) -> None:
    """Make a key and a certificate for the party NAME.

    The passphrase is typed twice, or taken from VFL_PASSPHRASE or the file that VFL_PASSPHRASE_FILE
    names; every later command takes it from there, too.
    """
    from vfl.party import identity
    from vfl.party.passphrase import choose

    identity.check_new(folder / name, name)  # before a passphrase is asked for
    words = choose(folder / f"{name}.key") if passphrase else None
    made = identity.create(folder / name, name, words)
    if as_json:
        put_json(_key_document(made))
        return
    stdout.put(
        f"{folder / name}.key   the private key: never leaves this machine",
        f"{folder / name}.pem   the certificate: give it to the other parties",
        f"fingerprint  {made.certificate.fingerprint_groups}",
        "Compare the fingerprint by phone before the others pin the certificate.",
    )


@keys.command("show")
@click.argument("certificate", type=click.Path(path_type=Path), metavar="CERTIFICATE.pem")
@_JSON
def keys_show(certificate: Path, as_json: bool) -> None:
    """Show whose a certificate is, and its fingerprint."""
    from vfl.party import identity

    found = identity.load_certificate(certificate)
    if as_json:
        put_json({"name": found.name, "fingerprint": found.fingerprint})
        return
    stdout.put(found.name, f"fingerprint  {found.fingerprint_groups}")


@keys.command("rotate")
@_PARTY
@click.option(
    "--passphrase/--no-passphrase",
    default=None,
    help="Whether the new key is under one; as the old key by default.",
)
@_JSON
def keys_rotate(party: Path, passphrase: bool | None, as_json: bool) -> None:
    """Make a new key for this party, for which the old one vouches."""
    from vfl.party import identity, rotation
    from vfl.party.config import load_party
    from vfl.party.passphrase import choose
    from vfl.party.reading import settings_line

    prefix = load_party(party).party.identity
    old = identity.load(prefix, expired=True)
    following, folder = rotation.next_prefix(prefix), party.parent.resolve()
    name = following.name
    where = following.relative_to(folder) if following.is_relative_to(folder) else following
    sealed = old.tls_key.password is not None if passphrase is None else passphrase
    words = choose(prefix.with_name(f"{name}.key")) if sealed else None
    new, path = rotation.rotate(old, words)
    if as_json:
        put_json({**_key_document(new), "rotation": str(path)})
        return
    stdout.put(
        f"{new.key_path}   the new private key: never leaves this machine",
        f"{new.certificate_path}   the new certificate and",
        f"{path}   what vouches for it: give both to the other parties",
        f"fingerprint  {new.certificate.fingerprint_groups}",
        f"The others run `vfl keys accept THEIRS.toml {name}.pem --rotation {name}.rotation`.",
        f"At a time agreed with them set {settings_line('identity', where.as_posix())} in [party] and "
        "restart what runs; keep the old files.",
    )


def _key_document(identity: "Identity") -> dict[str, Any]:
    """What the JSON says of a key that was made: never the key."""
    return {
        "name": identity.certificate.name,
        "key": str(identity.key_path),
        "certificate": str(identity.certificate_path),
        "fingerprint": identity.certificate.fingerprint,
    }


@keys.command("accept")
@_PARTY
@click.argument("certificate", type=click.Path(path_type=Path), metavar="NEW.pem")
@click.option(
    "--rotation",
    "vouching",
    type=click.Path(path_type=Path),
    required=True,
    metavar="NEW.rotation",
    help="The file made with the certificate, in which the old key vouches for it.",
)
@_JSON
def keys_accept(party: Path, certificate: Path, vouching: Path, as_json: bool) -> None:
    """Pin a peer's new certificate, for which its pinned one vouches."""
    from vfl.party import identity, rotation
    from vfl.party.config import load_party
    from vfl.party.revocation import revoked_by

    settings = load_party(party)
    name = identity.load_certificate(certificate).name
    if name not in settings.peers:
        raise ConfigError(f"{party.name}: {certificate} is {name}'s, which [peers] has not")
    pinned = settings.peers[name].certificate
    listed = revoked_by(settings.party.identity)
    old, new, kept = rotation.accept(pinned, certificate, vouching, listed)
    if as_json:
        prints = {"old_fingerprint": old.fingerprint, "fingerprint": new.fingerprint}
        put_json({"name": name, **prints, "certificate": str(pinned), "kept": str(kept)})
        return
    stdout.put(
        name,
        f"old fingerprint  {old.fingerprint_groups}",
        f"new fingerprint  {new.fingerprint_groups}",
        f"{pinned} is the new certificate; the old one is kept as {kept.name}",
        "Restart `vfl serve` when the other side uses its new key. If the old one may be in other",
        "hands its word is worth nothing: compare the new fingerprint by phone.",
    )


@keys.command("revoke", short_help="Stop trusting a peer's certificate for good.")
@_PARTY
@click.argument("peer")
@click.option(
    "--reason",
    metavar="TEXT",
    default="no reason given",
    show_default=True,
    help="Why, for the list of revoked certificates.",
)
@_JSON
def keys_revoke(party: Path, peer: str, reason: str, as_json: bool) -> None:
    """Stop trusting the certificate of PEER for good, also if it is pinned again."""
    from vfl.party import identity, revocation
    from vfl.party.config import load_party
    from vfl.party.policy import today

    settings = load_party(party)
    if peer not in settings.peers:
        raise ConfigError(f"{party.name}: there is no [peers.{peer}]")
    pinned = settings.peers[peer].certificate
    certificate = identity.load_certificate(pinned)
    day = today().isoformat()
    away = revocation.revoke(settings.party.identity, pinned, certificate, reason, day)
    if as_json:
        put_json({"name": peer, "fingerprint": certificate.fingerprint, "moved_to": str(away)})
        return
    stdout.put(
        f"revoked the certificate of {peer}",
        f"fingerprint  {certificate.fingerprint_groups}",
        f"It lies in {away.name} now. A `vfl serve` that runs refuses it from now on, at the next "
        "connection and the next job; a job under way ends only with it.",
        f"Tell {peer} and the other parties by phone, so that they revoke it too.",
        f"Then take [peers.{peer}] out of {party.name}, or put a certificate there that is made anew "
        "and compared by phone. Restart `vfl serve` after that.",
    )


@main.group()
def policy() -> None:
    """What this party allows, and what all parties have signed."""


@policy.command("check", short_help="Say which rules of a host a job breaks.")
@click.argument("job", type=click.Path(path_type=Path), metavar="JOB.toml")
@_PARTY
@click.option(
    "--guest", metavar="NAME", help="Who would start the job; without it rule guests is not checked."
)
@_JSON
def policy_check(job: Path, party: Path, guest: str | None, as_json: bool) -> None:
    """Say which rules of a host's [policy] a job breaks, all at once; no peer is needed.

    Exit code 6 where it breaks any.
    """
    from vfl.party.config import load_job, load_party
    from vfl.party.policy import broken_by_job, check_guest, today

    wanted, settings = load_job(job), load_party(party)
    _need_role(settings.role, "host", party)
    if guest is not None:
        check_guest(settings, guest)
    broken = broken_by_job(settings.policy, wanted, guest, today())
    days = settings.policy.alignment_days
    if as_json:
        allowed = {"allowed": not broken, "broken_rules": broken, "alignment_days": days}
        put_json({"job": wanted.name, "job_digest": wanted.digest, "host": settings.name, **allowed})
    else:
        stdout.put(*broken)
    if broken:
        rules = "a rule" if len(broken) == 1 else f"{len(broken)} rules"
        raise Refused(f"{wanted.name} breaks {rules} of {settings.name}")
    if as_json:
        return
    stdout.put(f"{settings.name} allows {wanted.name}, whose digest is {wanted.digest}")
    if days is not None:
        stdout.put(f"on alignments of at most {counted(days, 'day')} (alignment_days)")


@policy.command("agreement", short_help="Show and check what all parties have signed.")
@_PARTY
@_MODEL
@_JSON
def policy_agreement(party: Path, model: str, as_json: bool) -> None:
    """Show what all parties of a model's training have signed, and check the signatures, offline."""
    from vfl.jobs.record import verified_agreement
    from vfl.party.config import load_party

    name, agreement, signed = verified_agreement(load_party(party), model)
    terms = agreement.terms
    if as_json:
        put_json(
            {
                "model": name,
                "job_digest": terms.job.hex(),
                "alignment": terms.alignment,
                "run": terms.run.hex(),
                "guest": terms.guest,
                "hosts": terms.hosts,
                "fingerprints": terms.fingerprints,
                "signatures": signed,
            }
        )
        return
    stdout.put(f"model {name}, alignment {terms.alignment}", f"job digest {terms.job.hex()}")
    for who, words in signed.items():
        stdout.put(f"{who}: {words}; fingerprint {terms.fingerprints[who]}")


@main.group("config")
def config_group() -> None:
    """The files a person writes."""


@config_group.command("schema")
@click.argument("kind", metavar="party|job", type=click.Choice(["party", "job"]))
def config_schema(kind: str) -> None:
    """Print the JSON Schema of a party or job file."""
    from vfl.party import config

    stdout.write(json.dumps(config.schema("party" if kind == "party" else "job"), indent=2) + "\n")


@main.command()
@_PARTY
@click.option(
    "--wait",
    type=Number(0, 3600),
    metavar="SECONDS",
    default=5.0,
    show_default=True,
    help="How long to wait for each peer.",
)
@_JSON
def doctor(party: Path, wait: float, as_json: bool) -> None:
    """Check files, keys, table and peers before any job.

    Exit code 1 where a line begins with FAIL.
    """
    from vfl.jobs.doctor import examine
    from vfl.party.config import load_party

    findings = []

    def report(finding: "Finding") -> None:
        findings.append(asdict(finding))
        if not as_json:
            stdout.put(finding.line)
            stdout.flush()

    healthy = _run(examine(load_party(party), wait, report))
    if as_json:
        put_json({"healthy": healthy, "findings": findings})
    if not healthy:
        raise click.exceptions.Exit(1)


@main.command(short_help="Serve jobs as a host or coordinator.")
@_PARTY
def serve(party: Path) -> None:
    """Serve jobs as a host or coordinator, one after the other, until Ctrl-C, SIGTERM or SIGHUP."""
    with contextlib.suppress(KeyboardInterrupt):  # it may come before anything is served
        _serve(party)


def _serve(party: Path) -> None:
    from vfl.jobs.connect import Office
    from vfl.jobs.coordinator import coordinate
    from vfl.jobs.host import serve as serve_host
    from vfl.party.config import load_party

    settings = load_party(party)
    if settings.role == "guest":
        _need_role(settings.role, "host", party)
    work = serve_host if settings.role == "host" else coordinate
    with telling(times=True) as show:
        try:
            _run(work(Office.open(settings), show))
        except KeyboardInterrupt:
            show.say(f"{settings.name} stops serving")


@main.command(short_help="Find the rows that all parties know.")
@_PARTY
@_WAIT
@click.option(
    "--name", metavar="NAME", help="What to call it; its time is added. Only its time by default."
)
@click.option(
    "--join",
    type=click.Choice(["inner", "left"]),
    help="Rows that all parties know, or all of this party's; as [align] says by default.",
)
@click.option(
    "--engine",
    type=click.Choice(["ecdh", "ot"]),
    help="ecdh sends least, ot takes least time; as [align] says by default.",
)
@click.option(
    "--extend",
    metavar="[NAME]",
    is_flag=False,
    flag_value="",
    help="Match only what an alignment (the latest by default) has not: new and late rows.",
)
@click.option(
    "--diagnose",
    is_flag=True,
    help="Try other rules for ids on a sample; else only if fewer than half of the ids match.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only report on this party's own ids (a host can, too); no peer needed.",
)
@_JSON
def align(
    party: Path,
    wait: float,
    name: str | None,
    join: "JoinKind | None",
    engine: "Engine | None",
    extend: str | None,
    diagnose: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Find the rows that all parties know, by private set intersection."""
    from vfl.jobs.alignment import Plan
    from vfl.jobs.alignment import align as align_guest
    from vfl.jobs.connect import Office
    from vfl.party.config import load_party
    from vfl.terminal.results import account_document, cost, put_ids

    settings = load_party(party)
    if dry_run and settings.role != "coordinator":
        from vfl.party.id_report import profile_ids

        found = profile_ids(settings.data)
        if as_json:
            put_json(asdict(found))
        else:
            put_ids(found)
        return
    _need_role(settings.role, "guest", party)
    with telling() as show:
        plan = Plan(name, join, engine, extend, diagnose)
        office = Office.open(settings)
        office.warn(show)
        done = _run(align_guest(office, plan, wait=wait, show=show))
    alignment = done.alignment
    if as_json:
        put_json(
            {
                "alignment": alignment.name,
                "rows": len(alignment.rows),
                "of_rows": done.rows,
                "join": alignment.join,
                "engine": alignment.engine,
                "extends": alignment.extends,
                "known": done.known,
                "matched_by_key": {who or "all": counts for who, counts in alignment.by_key.items()},
                "kept": {who or "all": count for who, count in done.kept.items()},
                "ids": done.asked,
                "ids_of_hosts": done.have,
                "notes": done.notes,
                "match_rates": {
                    host: [one.as_json() for one in of_keys] for host, of_keys in done.diagnoses.items()
                },
                **account_document(done.account),
            }
        )
    else:
        stdout.put(f"alignment {alignment.name} is kept; {cost(done.account)}")


@main.command()
@_PARTY
@_JSON
def alignments(party: Path, as_json: bool) -> None:
    """List the alignments that this party keeps, the oldest first."""
    from vfl.jobs.alignments import listed
    from vfl.party.config import load_party
    from vfl.party.store import Store
    from vfl.terminal.results import put_alignments

    settings = load_party(party)
    found = listed(Store(settings.party.store), settings.policy)
    if as_json:
        put_json({"alignments": found})
    elif not found:
        stdout.put("there is no alignment yet")
    else:
        put_alignments(found)


@main.command()
@_PARTY
@click.argument("job", type=click.Path(path_type=Path), metavar="JOB.toml")
@click.option(
    "--alignment",
    metavar="NAME",
    help="An alignment, or what --name called it (the newest); the latest by default.",
)
@click.option("--fresh", is_flag=True, help="Start anew where an interrupted training would go on.")
@_WAIT
@_JSON
def train(
    party: Path, job: Path, alignment: str | None, fresh: bool, wait: float, as_json: bool
) -> None:
    """Train the model of a job file together with the hosts."""
    from vfl.jobs.connect import Office
    from vfl.jobs.training import train as train_guest
    from vfl.party.config import load_job, load_party
    from vfl.terminal.results import account_document, model_document, put_model

    settings, wanted = load_party(party), load_job(job)
    _need_role(settings.role, "guest", party)
    with telling() as show:
        office = Office.open(settings)
        office.warn(show)
        work = train_guest(office, wanted, alignment=alignment, fresh=fresh, wait=wait, show=show)
        done = _run(work)
    if as_json:
        put_json(
            {
                "model": done.half.name,
                **model_document(done),
                "rows": done.rows,
                "metrics": done.half.metrics,
                "warnings": done.warnings,
                "phases": done.phases,
                **account_document(done.account),
            }
        )
    else:
        put_model(done)
    for warning in done.warnings:
        stderr.put(f"warning: {warning}")


@main.command()
@_PARTY
@_MODEL
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="FILE",
    required=True,
    help="The rows to score, .csv or .parquet.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    required=True,
    help="Where the scores go, .csv or .parquet.",
)
@click.option("--explain", is_flag=True, help="Add what each column or party adds, and reasons.")
@click.option(
    "--top",
    type=Number(1, 100, whole=True),
    metavar="NUMBER",
    help="How many reasons, with --explain.  [default: 3]",
)
@click.option("--fresh", is_flag=True, help="Do not go on with an unfinished batch.")
@_FORCE
@_WAIT
@_JSON
def score(
    party: Path,
    model: str,
    data: Path,
    out: Path,
    explain: bool,
    top: int | None,
    fresh: bool,
    force: bool,
    wait: float,
    as_json: bool,
) -> None:
    """Score a file of rows without labels.

    After any failure or kill the same command goes on where it was; the output appears only when all
    rows are scored, in place of earlier scores. In .csv an apostrophe stands before text that a
    spreadsheet would take for a formula; .parquet has all text as it is.

    Exit codes: 0 all rows scored; 7, 8 a host cannot be reached or was lost: run it again; 6 another run
    writes the output; 9 a host ended the job, such as by its limit of rows a day; all others need a
    person (vfl --help).
    """
    from vfl.jobs.connect import Office
    from vfl.jobs.scoring import score as score_batch
    from vfl.party.config import load_party
    from vfl.terminal.results import account_document, put_scored

    if top is not None and not explain:
        raise ConfigError("--top goes with --explain: add it, or leave --top out")
    settings = load_party(party)
    _need_role(settings.role, "guest", party)
    with telling() as show:
        office = Office.open(settings)
        office.warn(show)
        done = _run(
            score_batch(
                office,
                model,
                data,
                out,
                explain=explain,
                top=top or 3,
                fresh=fresh,
                force=force,
                wait=wait,
                show=show,
            )
        )
    if as_json:
        put_json(
            {
                "out": str(out.resolve()),
                "rows": done.rows,
                "unknown": done.unknown,
                "resumed_from": done.resumed_from,
                "rows_per_second": done.rows_per_second,
                "seconds_by_phase": done.seconds,
                "drift": done.drift,
                "unknown_levels": done.unknown_levels,
                "score_psi": done.score_psi,
                "replaced": done.replaced,
                "escaped": done.escaped,
                **account_document(done.account),
            }
        )
        return
    put_scored(done, out)


@main.group()
def ledger() -> None:
    """What this party has sent and received, sealed by its key."""


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


@ledger.command("show", short_help="Show what went to and came from whom.")
@_LEDGER
@click.option("--job", metavar="NAME", help="Only of this job.")
@click.option("--peer", metavar="NAME", help="Only to and from this party.")
@click.option("--type", "kind", metavar="TYPE", help="Only this type of message.")
@_SINCE
@click.option("--lines", is_flag=True, help="Every message, not totals by job and type.")
@_JSON
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
    choice = tables.Choice(job, peer, kind, since.isoformat() if since else None)
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


def _check_known(ledger: Path, choice: "Choice") -> None:
    """Raises ConfigError for a job, peer or type of which a ledger has nothing at all."""
    from vfl.party.audit import tables
    from vfl.party.config_errors import did_you_mean

    found = tables.known(ledger)
    for option, name, there in (
        ("job", choice.job, found.jobs),
        ("peer", choice.peer, found.peers),
        ("type", choice.type, found.types),
    ):
        if name is None or name in there:
            continue
        near = did_you_mean(name, there)
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
@_JSON
def ledger_verify(
    ledger: Path, certificate: Path | None, head: str | None, known: Path | None, as_json: bool
) -> None:
    """Find every line that was changed, cut, moved or put in, and check the seals.

    LEDGER is a party file, or a ledger's folder, file or copy. Exit code 1 where anything is wrong.
    """
    from vfl.party.audit import verify
    from vfl.party.identity import load_certificate
    from vfl.terminal.results import put_verdict

    head = None if head is None else verify.checked_hash(head)
    path, own, earlier = _ledger_of(ledger)
    kept, noted = _seals_known(ledger, known)
    pinned = load_certificate(certificate) if certificate is not None else own
    found = verify.verify(path, pinned, earlier=earlier, head=head, kept=kept, noted=noted)
    if as_json:
        put_json(asdict(found))
    else:
        put_verdict(found)
    if found.damage:
        raise click.exceptions.Exit(1)


@ledger.command("compare", short_help="Check that two parties' ledgers tell the same.")
@click.argument("ours", type=click.Path(path_type=Path), metavar="LEDGER_A")
@click.argument("theirs", type=click.Path(path_type=Path), metavar="LEDGER_B")
@_SINCE
@_JSON
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
@_FORCE
@_JSON
def ledger_export(ledger: Path, out: Path, peer: str | None, force: bool, as_json: bool) -> None:
    """Write the messages as a table (.csv), or a copy for a peer that can be verified (.jsonl).

    LEDGER is a party file, or a ledger's folder or file.
    """
    from vfl.party.audit import compare, tables
    from vfl.party.config import load_party
    from vfl.party.output import Target

    if out.suffix != ".csv" and (out.suffix != ".jsonl" or peer is None):
        raise ConfigError("--out must end in .csv, or in .jsonl with --peer: a copy for this party")
    path, *_ = _ledger_of(ledger)
    if peer is not None:
        _check_known(path, tables.Choice(peer=peer))
    owner = compare.party_of(path)
    target = Target.of(
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
            count = tables.export_csv(path, file, tables.Choice(peer=peer))
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


@main.command(short_help="Show a linear model's factors of own columns.")
@_PARTY
@_MODEL
@_JSON
def relativities(party: Path, model: str, as_json: bool) -> None:
    """Show what a linear model says about this party's own columns.

    A level's relativity is its factor against the base level, a numeric column's that of a step: a
    standard deviation (SD), or what step in [glm] of the party file says.
    """
    from vfl.jobs.relativities import load_lines
    from vfl.party.config import load_party
    from vfl.party.linear import COLUMNS
    from vfl.party.store import Store
    from vfl.terminal.results import put_relativities

    settings = load_party(party)
    store, steps = Store(settings.party.store), settings.glm.step
    name, lines = load_lines(store, model, settings.role, steps)
    if as_json:
        rows = [dict(zip(COLUMNS, line.cells, strict=True)) for line in lines]
        put_json({"model": name, "relativities": rows})
        return
    put_relativities(name, lines)


@main.command(short_help="Write a page about a model's run, offline.")
@_PARTY
@_MODEL
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where it goes.  [default: ./report-MODEL]",
)
@_FORCE
@_JSON
def report(party: Path, model: str, out: Path | None, force: bool, as_json: bool) -> None:
    """Write a page about a model's run, with its tables as CSV: from what this party keeps, offline.

    An earlier report in the same folder is replaced; a folder with other files is refused.
    """
    from vfl.jobs.report import write_report
    from vfl.party.config import load_party

    written = write_report(load_party(party), model, out, force=force)
    if as_json:
        files = sorted(path.name for path in written.page.parent.iterdir())
        put_json({"report": str(written.page), "files": files, "replaced": written.replaced})
        return
    stdout.put(f"report in {written.page}{', in place of an earlier one' if written.replaced else ''}")


def _need_role(role: str, needed: str, path: Path) -> None:
    if role != needed:
        command = "align, train and score" if role == "guest" else "serve"
        raise ConfigError(f"{path.name}: this party is a {role}, whose commands are {command}")


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; SIGTERM and SIGHUP end it like Ctrl-C, so that peers are told."""

    async def supervised() -> T:
        asyncio.get_running_loop().set_default_executor(_Threads())
        task = asyncio.current_task()
        if task is not None:
            for number in ENDING:
                with contextlib.suppress(NotImplementedError):  # on Windows
                    if signal.getsignal(number) is not signal.SIG_IGN:
                        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await work

    try:
        return asyncio.run(supervised())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except BaseExceptionGroup as failures:
        first = failures.exceptions[0]
        if isinstance(first, VflError):
            raise first from None
        raise


class _Threads(ThreadPoolExecutor):
    """A thread for each call, for which nobody waits when a job is interrupted."""

    def submit(self, call: Callable[..., T], /, *arguments: Any, **named: Any) -> Future[T]:
        outcome: Future[T] = Future()

        def compute() -> None:
            try:
                outcome.set_result(call(*arguments, **named))
            except BaseException as error:
                outcome.set_exception(error)

        outcome.set_running_or_notify_cancel()
        threading.Thread(target=compute, daemon=True).start()
        return outcome


if __name__ == "__main__":
    main()
