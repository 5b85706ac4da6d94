"""The command line: one party of a federation."""

import asyncio
import contextlib
import json
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vfl import __version__
from vfl.errors import VflError, fault

if TYPE_CHECKING:
    from datetime import datetime

    from vfl.jobs.guest import Trained
    from vfl.party.audit import Row, Total
    from vfl.party.config import Engine, JoinKind
    from vfl.party.id_report import Counts, IdColumn, IdReport
    from vfl.party.identity import Certificate
    from vfl.party.linear import Line

T = TypeVar("T")
INTERRUPTED = 130
_LOG_SECONDS = 30.0
_TELLING = 1.0  # seconds of a step from which the time left can be told
_WIDE = 240  # characters of a line where there is no terminal
_METRICS = {  # those of the models' documents that the terminal shows, in words
    "auc": "AUC",
    "log_loss": "log loss",
    "deviance": "deviance",
    "d2": "D²",
    "mae": "mean absolute error",
}

_PARTY = click.argument("party", type=click.Path(path_type=Path), metavar="PARTY.toml")
_WAIT = click.option(
    "--wait",
    type=click.FloatRange(0, 86400),
    default=30.0,
    show_default=True,
    help="Seconds to wait for the other parties to be there.",
)
_MODEL = click.option(
    "--model", required=True, help="Name of a model or of its job (the newest), or a path."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")


class _Group(click.Group):
    """Turns every failure into one line and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except VflError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            click.echo(f"error: {fault(error)}", err=True)
            ctx.exit(VflError.exit_code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vfl")
def main() -> None:
    """Train and score models together with other companies, without sharing data.

    \b
    Exit codes: 0 done (a host: ended by Ctrl-C or SIGTERM), 1 a fault of vfl itself, or unhealthy,
    2 configuration, 3 table or storage, 4 keys, 5 model or alignment, 6 refused by policy,
    7 peer unreachable, 8 peer lost, 9 peer stopped the job, 10 peer broke the protocol, 130 interrupted.
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
    help="Folder of the two files.",
)
@click.option("--passphrase", is_flag=True, help="Put the private key under a passphrase.")
def keys_new(name: str, folder: Path, passphrase: bool) -> None:
    """Make a key and a certificate for the party NAME.

    The passphrase is typed twice, or taken from VFL_PASSPHRASE or the file that VFL_PASSPHRASE_FILE
    names; every later command takes it from there, too.
    """
    from vfl.party import identity
    from vfl.party.passphrase import choose

    identity.check_new(folder / name, name)  # before a passphrase is asked for
    words = choose(folder / f"{name}.key") if passphrase else None
    made = identity.create(folder / name, name, words)
    click.echo(f"{folder / name}.key   the private key: never leaves this machine")
    click.echo(f"{folder / name}.pem   the certificate: give it to the other parties")
    click.echo(f"fingerprint  {made.certificate.fingerprint_groups}")
    click.echo("Compare the fingerprint by phone before the others pin the certificate.")


@keys.command("show")
@click.argument("certificate", type=click.Path(path_type=Path), metavar="CERTIFICATE.pem")
def keys_show(certificate: Path) -> None:
    """Show whose a certificate is, and its fingerprint."""
    from vfl.party import identity

    found = identity.load_certificate(certificate)
    click.echo(f"{found.name}\nfingerprint  {found.fingerprint_groups}")


@keys.command("rotate")
@_PARTY
@click.option(
    "--passphrase/--no-passphrase", default=None, help="Of the new key; as the old one if not said."
)
def keys_rotate(party: Path, passphrase: bool | None) -> None:
    """Make a new key for this party, for which the old one vouches."""
    from vfl.party import identity, rotation
    from vfl.party.config import load_party
    from vfl.party.passphrase import choose

    prefix = load_party(party).party.identity
    old = identity.load(prefix, expired=True)
    name = rotation.next_prefix(prefix).name
    sealed = old.tls_key.password is not None if passphrase is None else passphrase
    words = choose(prefix.with_name(f"{name}.key")) if sealed else None
    new, path = rotation.rotate(old, words)
    click.echo(f"{new.key_path}   the new private key: never leaves this machine")
    click.echo(f"{new.certificate_path}   the new certificate and")
    click.echo(f"{path}   what vouches for it: give both to the other parties")
    click.echo(f"fingerprint  {new.certificate.fingerprint_groups}")
    click.echo(f"The others run `vfl keys accept THEIRS.toml {name}.pem --rotation {name}.rotation`.")
    click.echo(
        f"At a time agreed with them set identity in [party] to the new files ({name}) and restart; "
        "keep the old ones until then."
    )


@keys.command("accept")
@_PARTY
@click.argument("certificate", type=click.Path(path_type=Path), metavar="NEW.pem")
@click.option(
    "--rotation",
    "vouching",
    type=click.Path(path_type=Path),
    required=True,
    help="The file made with the certificate, in which the old key vouches for it.",
)
def keys_accept(party: Path, certificate: Path, vouching: Path) -> None:
    """Pin a peer's new certificate, for which its pinned one vouches."""
    from vfl.errors import ConfigError
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
    click.echo(f"{name}\nold fingerprint  {old.fingerprint_groups}")
    click.echo(f"new fingerprint  {new.fingerprint_groups}")
    click.echo(f"{pinned} is the new certificate; the old one is kept as {kept.name}")
    click.echo(
        "Restart `vfl serve` when the other side uses its new key. If the old one may be in other"
    )
    click.echo("hands its word is worth nothing: compare the new fingerprint by phone.")


@keys.command("revoke")
@_PARTY
@click.argument("peer")
@click.option("--reason", default="no reason given", show_default=True, help="For the list.")
def keys_revoke(party: Path, peer: str, reason: str) -> None:
    """Stop trusting the certificate of PEER for good, also if it is pinned again."""
    from vfl.errors import ConfigError
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
    click.echo(f"revoked the certificate of {peer}\nfingerprint  {certificate.fingerprint_groups}")
    click.echo(f"It lies in {away.name} now and is refused from the next start on.")
    click.echo(
        f"Restart `vfl serve`: one that runs still accepts it. Tell {peer} and the other parties by"
    )
    click.echo(
        f"phone, so that they revoke it too. Then take [peers.{peer}] out of {party.name}, or put a "
        "certificate there that is made anew and compared by phone."
    )


@main.group()
def policy() -> None:
    """What this party allows, and what all parties have signed."""


@policy.command("check")
@click.argument("job", type=click.Path(path_type=Path), metavar="JOB.toml")
@_PARTY
@click.option("--guest", help="Who would start the job; without it rule guests is not checked.")
def policy_check(job: Path, party: Path, guest: str | None) -> None:
    """Say which rules of a host's [policy] a job breaks, all at once; no peer is needed."""
    from vfl.errors import Refused
    from vfl.party.config import load_job, load_party
    from vfl.party.policy import broken_by_job, check_guest, today

    wanted, settings = load_job(job), load_party(party)
    _need_role(settings.role, "host", party)
    if guest is not None:
        check_guest(settings, guest)
    broken = broken_by_job(settings.policy, wanted, guest, today())
    for rule in broken:
        click.echo(rule)
    if broken:
        rules = "a rule" if len(broken) == 1 else f"{len(broken)} rules"
        raise Refused(f"{wanted.name} breaks {rules} of {settings.name}")
    click.echo(f"{settings.name} allows {wanted.name}, whose digest is {wanted.digest}")
    days = settings.policy.alignment_days
    if days is not None:
        click.echo(f"on alignments of at most {days:,} day{'' if days == 1 else 's'} (alignment_days)")


@policy.command("agreement")
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
        _print_json(
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
    click.echo(f"model {name}, alignment {terms.alignment}\njob digest {terms.job.hex()}")
    for who, words in signed.items():
        click.echo(f"{who}: {words}; fingerprint {terms.fingerprints[who]}")


@main.group("config")
def config_group() -> None:
    """The files a person writes."""


@config_group.command("schema")
@click.argument("kind", type=click.Choice(["party", "job"]))
def config_schema(kind: str) -> None:
    """Print the JSON Schema of a party or job file."""
    from vfl.party import config

    click.echo(json.dumps(config.schema("party" if kind == "party" else "job"), indent=2))


@main.command()
@_PARTY
@click.option("--wait", type=click.FloatRange(0, 3600), default=5.0, show_default=True)
def doctor(party: Path, wait: float) -> None:
    """Check files, keys, table and peers before any job."""
    from vfl.jobs.doctor import examine
    from vfl.party.config import load_party

    healthy = _run(examine(load_party(party), wait, click.echo))
    if not healthy:
        raise click.exceptions.Exit(1)


@main.command()
@_PARTY
def serve(party: Path) -> None:
    """Serve jobs as a host or coordinator, one after the other, until Ctrl-C or SIGTERM."""
    from vfl.jobs.connect import Office
    from vfl.jobs.coordinator import coordinate
    from vfl.jobs.host import serve as serve_host
    from vfl.party.config import load_party

    settings = load_party(party)
    if settings.role == "guest":
        _need_role(settings.role, "host", party)
    work = serve_host if settings.role == "host" else coordinate
    with _terminal() as show:
        try:
            _run(work(Office.open(settings), show))
        except KeyboardInterrupt:
            show.say(f"{settings.name} stops serving")


@main.command()
@_PARTY
@_WAIT
@click.option("--name", help="What to call it; its time is added. Only its time by default.")
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

    settings = load_party(party)
    if dry_run and settings.role != "coordinator":
        from vfl.party.id_report import profile_ids

        found = profile_ids(settings.data)
        if as_json:
            _print_json(asdict(found))
        else:
            _print_ids(found)
        return
    _need_role(settings.role, "guest", party)
    with _terminal() as show:
        plan = Plan(name, join, engine, extend, diagnose)
        done = _run(align_guest(Office.open(settings), plan, wait=wait, show=show))
    alignment = done.alignment
    if as_json:
        _print_json(
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
                **_account(done.account),
            }
        )
    else:
        click.echo(f"alignment {alignment.name} is kept; {_cost(done.account)}")


@main.command()
@_PARTY
@_JSON
def alignments(party: Path, as_json: bool) -> None:
    """List the alignments that this party keeps, the oldest first."""
    from vfl.jobs.alignment import listed
    from vfl.party.config import load_party
    from vfl.party.store import Store

    settings = load_party(party)
    found = listed(Store(settings.party.store), settings.policy)
    if as_json:
        _print_json({"alignments": found})
    elif not found:
        click.echo("there is no alignment yet")
    else:
        _print_alignments(found)


@main.command()
@_PARTY
@click.argument("job", type=click.Path(path_type=Path), metavar="JOB.toml")
@click.option(
    "--alignment",
    help="Name of an alignment, or the one given to it (the newest); the latest by default.",
)
@click.option("--fresh", is_flag=True, help="Start anew where an interrupted training would go on.")
@_WAIT
@_JSON
def train(
    party: Path, job: Path, alignment: str | None, fresh: bool, wait: float, as_json: bool
) -> None:
    """Train the model of a job file together with the hosts."""
    from vfl.jobs.connect import Office
    from vfl.jobs.guest import train as train_guest
    from vfl.party.config import load_job, load_party

    settings, wanted = load_party(party), load_job(job)
    _need_role(settings.role, "guest", party)
    with _terminal() as show:
        work = train_guest(
            Office.open(settings), wanted, alignment=alignment, fresh=fresh, wait=wait, show=show
        )
        done = _run(work)
    if as_json:
        _print_json(
            {
                "model": done.half.name,
                **_model_document(done),
                "rows": done.rows,
                "metrics": done.half.metrics,
                "warnings": done.warnings,
                "phases": done.phases,
                **_account(done.account),
            }
        )
    else:
        _print_metrics(done.half.metrics, done.rows["held out"])
        click.echo(f"model {done.half.name}: {_print_model(done)}; {_cost(done.account)}")
    for warning in done.warnings:
        click.echo(f"warning: {warning}", err=True)


@main.command()
@_PARTY
@_MODEL
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Rows to score.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help=".csv or .parquet")
@click.option("--explain", is_flag=True, help="Add what each column or party adds, and reasons.")
@click.option(
    "--top", type=click.IntRange(1, 100), help="How many reasons, with --explain.  [default: 3]"
)
@click.option("--fresh", is_flag=True, help="Do not go on with an unfinished batch.")
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
    wait: float,
    as_json: bool,
) -> None:
    """Score a file of rows without labels.

    \b
    After any failure or kill the same command goes on where it was; the output
    appears only when all rows are scored. Exit codes: 0 all rows scored; 7, 8 a
    host cannot be reached or was lost: run it again; 6 another run writes the
    output; 9 a host ended the job, such as by its limit of rows a day; all others
    need a person (vfl --help).
    """
    from vfl.jobs.connect import Office
    from vfl.jobs.scoring import score as score_batch
    from vfl.party.config import load_party

    if top is not None and not explain:
        raise click.UsageError("--top goes with --explain")
    settings = load_party(party)
    _need_role(settings.role, "guest", party)
    with _terminal() as show:
        done = _run(
            score_batch(
                Office.open(settings),
                model,
                data,
                out,
                explain=explain,
                top=top or 3,
                fresh=fresh,
                wait=wait,
                show=show,
            )
        )
    speed = done.rows_per_second
    if as_json:
        _print_json(
            {
                "out": str(out.resolve()),
                "rows": done.rows,
                "unknown": done.unknown,
                "resumed_from": done.resumed_from,
                "rows_per_second": speed,
                "seconds_by_phase": done.seconds,
                "drift": done.drift,
                "score_psi": done.score_psi,
                **_account(done.account),
            }
        )
        return
    for name, rows in done.unknown.items():
        if rows:
            click.echo(
                f"{name} does not know {rows:,} of {done.rows:,} rows: scored without its columns"
            )
    fast = "" if speed is None else f"; {speed:,.0f} rows a second"
    click.echo(f"{done.rows:,} scores in {out}{fast}; {_cost(done.account)}")


@main.group()
def ledger() -> None:
    """What this party has sent and received: a chain of hashes, sealed by its key."""


_LEDGER = click.argument("ledger", type=click.Path(path_type=Path), metavar="LEDGER")
_SINCE = click.option(
    "--since", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]), help="UTC; none earlier."
)
_CERTIFICATE = click.option(
    "--certificate",
    type=click.Path(path_type=Path),
    metavar="PARTY.pem",
    help="Whose seals they must be, where LEDGER is no party file.",
)


@ledger.command("show")
@_LEDGER
@click.option("--job", help="Only of this job.")
@click.option("--peer", help="Only to and from this party.")
@click.option("--type", "kind", help="Only this type of message.")
@_SINCE
@click.option("--lines", is_flag=True, help="Every message instead of totals by job and type.")
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

    from vfl.party import audit

    path, *_ = _ledger_of(ledger)
    rows = audit.rows(path, audit.Choice(job, peer, kind, since.isoformat() if since else None))
    if lines:
        for row in rows:
            click.echo(msgspec.json.encode(row) if as_json else _message_line(row))
        return
    totals = audit.totals(rows)
    if as_json:
        _print_json({"totals": msgspec.to_builtins(totals)})
        return
    _print_totals(totals)


@ledger.command("verify")
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
    from dataclasses import asdict

    from vfl.party import audit
    from vfl.party.identity import load_certificate

    head = None if head is None else audit.checked_hash(head)
    path, own, earlier = _ledger_of(ledger)
    kept, noted = _seals_known(ledger, known)
    pinned = load_certificate(certificate) if certificate is not None else own
    found = audit.verify(path, pinned, earlier=earlier, head=head, kept=kept, noted=noted)
    if as_json:
        _print_json(asdict(found))
    else:
        for note in found.notes:
            click.echo(f"note: {note}")
        for damage in found.damage:
            click.echo(f"DAMAGE {damage}")
        sealed = f"the last at line {found.sealed:,} of {found.sealed_at}" if found.sealed else "no more"
        click.echo(f"{found.lines:,} lines of {found.party}, {found.seals:,} seals, {sealed}")
        click.echo(f"the last line is {found.last:,}, its hash {found.head}")
        if not found.damage:
            click.echo("whole")
    if found.damage:
        raise click.exceptions.Exit(1)


@ledger.command("compare")
@click.argument("ours", type=click.Path(path_type=Path), metavar="LEDGER_A")
@click.argument("theirs", type=click.Path(path_type=Path), metavar="LEDGER_B")
@_SINCE
@_JSON
def ledger_compare(ours: Path, theirs: Path, since: "datetime | None", as_json: bool) -> None:
    """Check that two parties' ledgers tell the same: what one sent, the other received.

    Each is a party file, or a ledger's folder, file or copy. Exit code 1 where they differ or one is
    damaged.
    """
    from dataclasses import asdict

    from vfl.party import audit

    paths = []
    for given in (ours, theirs):
        path, own, earlier = _ledger_of(given)
        kept, noted = _seals_known(given)
        if audit.verify(path, own, earlier=earlier, kept=kept, noted=noted).damage:
            click.echo(f"error: {path} is damaged: see `vfl ledger verify`", err=True)
            raise click.exceptions.Exit(1)
        paths.append(path)
    found = audit.compare(paths[0], paths[1], since.isoformat() if since else "")
    if as_json:
        _print_json(asdict(found))
    else:
        for difference in found.differences:
            click.echo(f"DIFFERS {difference}")
        for line in found.in_flight:
            click.echo(f"note: in flight when its session ended: {line}")
        who = " and ".join(found.parties)
        click.echo(f"{who}: {found.sessions:,} sessions, {found.messages:,} messages in both")
    if found.differences:
        raise click.exceptions.Exit(1)


@ledger.command("export")
@_LEDGER
@click.option("--out", type=click.Path(path_type=Path), required=True, help=".csv, or .jsonl for a peer")
@click.option("--peer", help="Only what went to and came from this party.")
def ledger_export(ledger: Path, out: Path, peer: str | None) -> None:
    """Write the messages as a table (.csv), or a copy for a peer that can be verified (.jsonl).

    LEDGER is a party file, or a ledger's folder or file.
    """
    from vfl.errors import ConfigError
    from vfl.party import audit

    path, *_ = _ledger_of(ledger)
    if out.suffix == ".csv":
        count = audit.export_csv(path, out, audit.Choice(peer=peer))
    elif out.suffix == ".jsonl" and peer is not None:
        count = audit.export_copy(path, peer, out)
    else:
        raise ConfigError("--out must end in .csv, or in .jsonl with --peer: a copy for this party")
    click.echo(f"{count:,} messages in {out}")


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
    from vfl.party import audit
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
        noted |= noted_seals(Store(theirs.party.store), audit.party_of(_ledger_of(ledger)[0]))
    return kept, noted


@main.command()
@_PARTY
@_MODEL
@_JSON
def relativities(party: Path, model: str, as_json: bool) -> None:
    """Show what a linear model says about this party's own columns."""
    from vfl.jobs.relativities import load_lines
    from vfl.party.config import load_party
    from vfl.party.linear import COLUMNS
    from vfl.party.store import Store

    settings = load_party(party)
    name, lines = load_lines(Store(settings.party.store), model, settings.role)
    if as_json:
        rows = [dict(zip(COLUMNS, line.cells, strict=True)) for line in lines]
        _print_json({"model": name, "relativities": rows})
        return
    _print_relativities(name, lines)


@main.command()
@_PARTY
@_MODEL
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder to make.  [default: ./report-MODEL]"
)
@_JSON
def report(party: Path, model: str, out: Path | None, as_json: bool) -> None:
    """Write a page about a model's run, with its tables as CSV: from what this party keeps, offline."""
    from vfl.jobs.report import write_report
    from vfl.party.config import load_party

    page = write_report(load_party(party), model, out)
    if as_json:
        _print_json({"report": str(page), "files": sorted(path.name for path in page.parent.iterdir())})
        return
    click.echo(f"report in {page}")


def _need_role(role: str, needed: str, path: Path) -> None:
    from vfl.errors import ConfigError

    if role != needed:
        command = "align, train and score" if role == "guest" else "serve"
        raise ConfigError(f"{path.name}: this party is a {role}, whose commands are {command}")


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; SIGTERM ends it like Ctrl-C, so that peers are told."""

    async def supervised() -> T:
        asyncio.get_running_loop().set_default_executor(_Threads())
        task = asyncio.current_task()
        if task is not None:
            with contextlib.suppress(NotImplementedError):  # Windows has no such signal
                asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
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


class _Terminal:
    """News on stderr: lines, and on a terminal one bar with the time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._step: tuple[str, Any] = ("", None)
        self._started = self._said = time.monotonic()

    def say(self, line: str) -> None:
        """Print a line."""
        self._console.print(line, markup=False)

    def progress(self, what: str, done: int, of: int | None) -> None:
        """Move the bar; another step starts a new one."""
        kind, now = what.partition(",")[0], time.monotonic()
        if self._step[0] != kind:
            self._started = now
            if self._step[1] is not None:
                self.bar.remove_task(self._step[1])
            self._step = (kind, self.bar.add_task(what, total=None, count=""))
        count = f"{done:,} so far" if of is None else f"{done:,} of {of:,}"
        if of is not None and 0 < done < of and now - self._started >= _TELLING:
            count += f", about {(now - self._started) * (of - done) / done:,.0f} s left"
        self.bar.update(self._step[1], description=what, completed=done, total=of, count=count)
        if self.bar.disable and now - self._said >= _LOG_SECONDS and done and done != of:
            # No terminal: a line now and then, for the log.
            self._said = now
            self.say(f"{what}: {count}")


@contextlib.contextmanager
def _terminal() -> Iterator[_Terminal]:
    from vfl.jobs.compiling import told

    terminal = _Terminal()
    with terminal.bar, told(terminal.say):
        yield terminal


def _print_json(result: dict[str, Any]) -> None:
    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: finite(inner) for key, inner in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    click.echo(json.dumps(finite(result)))


def _print_metrics(metrics: dict[str, dict[str, float]], rows: int) -> None:
    if not metrics:
        return
    from rich.table import Table

    table = Table(title=f"on {rows:,} held-out rows", title_justify="left")
    table.add_column("model")
    keys = [key for key in _METRICS if any(key in values for values in metrics.values())]
    for key in keys:
        table.add_column(_METRICS[key], justify="right")
    for name, values in metrics.items():
        table.add_row(name, *(f"{values[key]:.4f}" if key in values else "" for key in keys))
    _print(table)


def _print_alignments(found: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for heading in ("alignment", "made (UTC)"):
        table.add_column(heading, overflow="fold")
    table.add_column("rows", justify="right")
    for heading in ("parties", "join", "engine", "keys", "extends", "expires"):
        table.add_column(heading, overflow="fold")
    for one in found:
        if "error" in one:
            table.add_row(Text(one["name"]), Text(f"cannot be read: {one['error']}"))
            continue
        rows = f"{one['rows']:,}"
        if one["known"] < one["rows"]:
            rows += f" ({one['known']:,} known)"
        expires = one["expires"] or "never"
        table.add_row(
            Text(one["name"]),
            one["made"][:16].replace("T", " "),
            rows,
            ", ".join(one["parties"]),
            one["join"] + (", many to one" if one["many"] else ""),
            one["engine"],
            "; ".join(", ".join(rule) for rule in one["keys"]),
            Text(one["extends"] or ""),
            expires + (" (expired)" if one["expired"] else ""),
        )
    _print(table)


def _print_ids(report: "IdReport") -> None:
    click.echo(f"{report.file}: {report.rows:,} rows")
    _print_key(report)
    for line in report.plan:
        click.echo(line)
    for number, further in enumerate(report.further, 2):
        click.echo(f"\nkey {number}")
        _print_key(further)


def _print_key(report: "IdReport") -> None:
    click.echo(f"normalise: {report.rule}")
    click.echo(f"digest of the rule, the same at all parties: {report.digest[:16]}")
    click.echo(f"whole ids, normalised: {_counted(report.ids)}")
    for column in report.columns:
        _print_id_column(column, report.rows)


def _print_id_column(column: "IdColumn", rows: int) -> None:
    from rich.table import Table
    from rich.text import Text

    click.echo(f"\nid column '{column.name}' ({column.rule})")
    click.echo(f"  as written: {_counted(column.written)}")
    more = column.normalised.repeated - column.written.repeated
    click.echo(f"  normalised: {_counted(column.normalised)} ({more:+,})")
    filled = max(1, rows - column.written.empty)
    if column.lengths:
        shares = ", ".join(f"{length} in {_share(count / filled)}" for length, count in column.lengths)
        click.echo(f"  characters: {shares}; from {column.shortest} to {column.longest}")
        shapes = [f"{shape} {_share(count / filled)}" for shape, count in column.shapes]
        shapes += [f"others {_share(column.other_shapes / filled)}"] if column.other_shapes else []
        click.echo(f"  shapes (A upper case, a lower case, 9 digit, _ blank): {', '.join(shapes)}")
    if not column.findings:
        click.echo("  nothing found")
        return
    table = Table()
    table.add_column("rows", justify="right")
    table.add_column("share", justify="right")
    for heading in ("finding", "first rows", "what to do"):
        table.add_column(heading, overflow="fold")
    for finding in column.findings:
        table.add_row(
            f"{finding.rows:,}",
            _share(finding.share),
            finding.what,
            ", ".join(map(str, finding.first)),
            Text("nothing: normalise mends it" if finding.mended else finding.advice),
        )
    _print(table)


def _counted(counts: "Counts") -> str:
    return (
        f"{counts.distinct:,} distinct, {counts.empty:,} empty, "
        f"{counts.repeated:,} rows that share theirs with another row"
    )


def _share(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "< 0.1%"


def _model_document(done: "Trained") -> dict[str, Any]:
    """What the JSON says about a model, by its kind."""
    from vfl.protocols.grower import GuestModel

    model = done.half.model
    if isinstance(model, GuestModel):
        return {"trees": len(model.trees), "importance": model.importance()}
    return {**model.ending, "relativities": str(done.relativities)}


def _print_model(done: "Trained") -> str:
    """Print what there is to see of a model, by its kind; in words how large it is."""
    from vfl.protocols.grower import GuestModel

    model = done.half.model
    if isinstance(model, GuestModel):
        _print_importance(model.importance())
        return f"{len(model.trees)} trees"
    click.echo(f"relativities are in {done.relativities}")
    many = f"{model.iterations:,} iteration{'' if model.iterations == 1 else 's'}"
    return f"{'' if model.converged else 'NOT '}converged after {many}"


def _print_relativities(name: str, lines: "Sequence[Line]") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"model {name}", title_justify="left")
    for heading in ("column", "level"):
        table.add_column(heading, overflow="fold")
    for heading in ("coefficient", "per unit", "relativity", "rows"):
        table.add_column(heading, justify="right")
    for line in lines:
        table.add_row(
            Text(line.column),
            Text(line.level),
            f"{line.coefficient:.4f}",
            "" if line.per_unit is None else f"{line.per_unit:.4g}",
            "" if line.relativity is None else f"{line.relativity:.4f}",
            "" if line.rows is None else f"{line.rows:,}",
        )
    _print(table)


def _message_line(row: "Row") -> str:
    rows = "" if row.rows is None else f", {row.rows:,} rows"
    job = " ".join(word for word in (row.task, row.job) if word) or "-"
    arrow = "->" if row.direction == "sent" else "<-"
    return f"{row.n:>8} {row.time} {job}: {arrow} {row.peer} {row.type}, {row.bytes:,} bytes{rows}"


def _print_totals(totals: "Sequence[Total]") -> None:
    from rich.table import Table
    from rich.text import Text

    for (task, job, purpose), group in groupby(totals, lambda t: (t.task, t.job, t.purpose)):
        title = " ".join(word for word in (task, job, f"({purpose})" if purpose else "") if word)
        table = Table(title=Text(title or "before any job"), title_justify="left")
        for heading in ("type", ""):
            table.add_column(heading)
        for heading in ("messages", "rows", "bytes"):
            table.add_column(heading, justify="right")
        table.add_column("reveals", overflow="fold")
        said = None
        for total in group:
            first, said = said != (total.type, total.direction), (total.type, total.direction)
            table.add_row(
                Text(total.type if first else ""),
                f"{'to' if total.direction == 'sent' else 'from'} {total.peer}",
                f"{total.messages:,}",
                f"{total.rows:,}" if total.rows else "",
                f"{total.bytes:,}",
                Text(total.reveals if first else ""),
            )
        _print(table)


def _print_importance(importance: list[tuple[str, str, int, float]]) -> None:
    from rich.table import Table

    table = Table(title="importance", title_justify="left")
    for heading in ("party", "column"):
        table.add_column(heading)
    for heading in ("splits", "gain"):
        table.add_column(heading, justify="right")
    for party, column, splits, gain in importance[:15]:
        table.add_row(party, column, f"{splits}", f"{gain:.1f}")
    _print(table)


def _print(table: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDE)  # nothing is cut in a file or a pipe
    console.print(table)


def _account(account: Any) -> dict[str, Any]:
    return {
        "seconds": account.seconds,
        "bytes_sent": account.sent,
        "bytes_received": account.received,
        "peak_memory": account.peak_memory,
    }


def _cost(account: Any) -> str:
    parties = ", ".join(
        f"{name} {account.sent[name] / 1e6:.1f} MB out, {account.received[name] / 1e6:.1f} MB in"
        for name in account.sent
    )
    return f"{account.seconds:.1f} s; {parties}"


if __name__ == "__main__":
    main()
