"""vfl audit: whether what a party did in a run follows from what it committed to."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfl.cli.completion import names_of
from vfl.cli.group import main
from vfl.cli.kept import YES, ask_and_remove
from vfl.cli.options import FORCE, JSON, LOG, PARTY
from vfl.cli.running import open_party, run
from vfl.errors import ConfigError
from vfl.terminal.streams import put_json, stdout

if TYPE_CHECKING:
    from vfl.jobs.connect import Site
    from vfl.jobs.evidence import Evidence
    from vfl.jobs.replaying import Replay
    from vfl.jobs.show import Show
    from vfl.party.identity import Identity

_RUN = click.option(
    "--run",
    metavar="NAME",
    required=True,
    help="A model or an alignment (all runs that are about it), or the first digits of one run.",
    shell_complete=names_of("model", "run", "alignment"),
)


@main.group()
def audit() -> None:
    """Replay what this party did in a run, and check what was replayed at a peer.

    A party keeps what that needs of runs that begin while [party] tape = "all".
    """


@audit.command("list", short_help="List the runs of which something is kept.")
@PARTY
@JSON
def audit_list(party: Path, as_json: bool) -> None:
    """List the runs of which something is kept, the oldest first: who has committed to what it brings,
    and whether this party's part can be replayed."""
    from vfl.jobs.connect import store_of
    from vfl.jobs.kept_evidence import list_evidence
    from vfl.party.config import load_party
    from vfl.terminal.audit import put_evidence

    found = list_evidence(store_of(load_party(party)))
    if as_json:
        put_json({"runs": [asdict(one) for one in found]})
    elif not found:
        stdout.put('nothing is kept of any run; [party] tape = "all" keeps it of later ones')
    else:
        put_evidence(found)


@audit.command("replay", short_help="Play this party's part of a run again, and certify it.")
@PARTY
@_RUN
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Where the certificates go, one for each peer; none are made without.",
)
@click.option(
    "--auditor",
    type=click.Path(path_type=Path),
    metavar="KEY",
    help="Keys of the auditor who signs, without .key and .pem; this party's own by default.",
)
@FORCE
@LOG
@JSON
def audit_replay(
    party: Path, run: str, out: Path | None, auditor: Path | None, force: bool, as_json: bool
) -> None:
    """Play this party's part of a run again, and compare every message with the one that left.

    Reads the table, the secret and the tape of the run, and the ledger; asks no peer, and keeps and
    counts nothing. The first message that differs is named, with what the program would have sent. Exit
    code 1 where anything differs.
    """
    from vfl.jobs.connect import Site
    from vfl.jobs.replaying import runs_named
    from vfl.party.identity import load
    from vfl.terminal.audit import put_replay
    from vfl.terminal.progress import show_progress

    settings = open_party(party)
    if auditor is not None and out is None:
        raise ConfigError("--auditor signs certificates: name their folder by --out")
    with show_progress() as show:
        site = Site.open(settings)
        signer = site.identity if auditor is None else load(auditor)
        runs = runs_named(site.store, run)
        documents = []
        for done, files in _replayed(site, runs, show, lambda one: _certify(one, out, signer, force)):
            documents.append(_document(done, files))
            if not as_json:
                put_replay(done, files)
    if as_json:
        put_json({"runs": documents})


def _replayed(
    site: "Site",
    runs: "list[Evidence]",
    show: "Show",
    certify: "Callable[[Replay], list[Path]]",
) -> "list[tuple[Replay, list[Path]]]":
    from vfl.jobs.replaying import replay_runs

    async def play() -> "list[tuple[Replay, list[Path]]]":
        return [(one, certify(one)) async for one in replay_runs(site, runs, show)]

    return run(play())


def _certify(done: "Replay", out: Path | None, signer: "Identity", force: bool) -> list[Path]:
    """Write the certificates of a replay, one for each peer."""
    from vfl.jobs.certificate import make_certificate
    from vfl.party.files import replacing

    if out is None:
        return []
    files = []
    for peer, shown in done.shown.items():
        path = out / f"{done.evidence.run[:12]}-{done.evidence.party}-for-{peer}.json"
        if path.exists() and not force:
            raise ConfigError(f"{path} is there already: add --force to replace it")
        out.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(make_certificate(done.evidence, shown, signer))
        files.append(path)
    return files


def _document(done: "Replay", files: list[Path]) -> dict[str, object]:
    return {
        "run": done.evidence.run,
        "task": done.evidence.agreement.terms.task,
        "complete": done.complete,
        "ended": done.ended,
        "table": {} if done.evidence.opening is None else done.evidence.opening.table,
        "peers": {
            peer: {
                "messages": len(one.messages),
                "of": one.of,
                "checked": list(one.checked),
                "relies": list(one.relies),
            }
            for peer, one in done.shown.items()
        },
        "certificates": [str(path) for path in files],
    }


@audit.command("check", short_help="Hold a peer's certificate against this party's ledger.")
@PARTY
@click.argument("certificate", type=click.Path(path_type=Path), metavar="CERTIFICATE.json")
@click.option(
    "--auditor",
    type=click.Path(path_type=Path),
    metavar="FILE.pem",
    help="The certificate of the auditor who must have signed; the peer itself by default.",
)
@JSON
def audit_check(party: Path, certificate: Path, auditor: Path | None, as_json: bool) -> None:
    """Hold a peer's certificate of a replay against what was signed and against this party's ledger.

    Exit code 1 where it does not hold, or messages came in the run that it does not cover.
    """
    from vfl.jobs.certificate import check_certificate
    from vfl.jobs.connect import Site
    from vfl.party.identity import load_certificate
    from vfl.terminal.audit import put_checked

    site = Site.open(open_party(party))
    pinned = None if auditor is None else load_certificate(auditor)
    found = check_certificate(site, certificate, pinned)
    if as_json:
        made = found.certificate
        put_json(
            {
                "run": made.run,
                "party": made.party,
                "signed_by": found.signed_by,
                "complete": found.complete,
                "received": found.received,
                "covered": found.received - len(found.uncovered),
                "uncovered": [{"number": number, "type": kind} for number, kind in found.uncovered],
                "checked": made.checked,
                "relies": made.relies,
            }
        )
    else:
        put_checked(found)
    if not found.complete:
        raise click.exceptions.Exit(1)


@audit.command("forget", short_help="Remove the secrets and tapes of runs.")
@PARTY
@_RUN
@YES
@JSON
def audit_forget(party: Path, run: str, yes: bool, as_json: bool) -> None:
    """Remove the secrets and tapes of a model's or an alignment's runs, or of one run: they cannot be
    replayed any more. What all parties signed stays."""
    from vfl.jobs.connect import store_of
    from vfl.jobs.kept_evidence import forget, plan_forgetting
    from vfl.jobs.replaying import runs_named
    from vfl.party.config import load_party

    store = store_of(load_party(party))
    runs = runs_named(store, run)
    ask_and_remove(plan_forgetting(store, runs, run), yes, as_json, lambda: forget(store, runs))
