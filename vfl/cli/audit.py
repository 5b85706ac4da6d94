"""vfl audit: whether what a party did in a run follows from what it committed to."""

import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click
import msgspec

from vfl.cli.completion import names_of
from vfl.cli.group import main
from vfl.cli.kept import YES, ask_and_remove
from vfl.cli.options import FORCE, JSON, LOG, PARTY, WAIT
from vfl.cli.running import need_role, open_party, open_site
from vfl.cli.running import run as wait_for
from vfl.errors import ConfigError, ModelError
from vfl.terminal.streams import put_json, stderr, stdout

if TYPE_CHECKING:
    from vfl.jobs.certificate import Checked
    from vfl.jobs.certificates import RunTogether
    from vfl.jobs.connect import Site
    from vfl.jobs.evidence import Evidence
    from vfl.jobs.replaying import Replay
    from vfl.party.identity import Certificate, Identity
    from vfl.protocols.common.participant import LooksAt

_RUN = click.option(
    "--run",
    metavar="NAME",
    required=True,
    help="A model or an alignment (all runs that are about it), or the first digits of one run.",
    shell_complete=names_of("model", "run", "alignment"),
)


@main.group(short_help="Replay what this party did in a run, and check others.")
def audit() -> None:
    """Replay what this party did in a run, and check what was replayed at a peer.

    A party keeps what that needs of runs that begin while [party] tape = "all"; a host of trees with a
    number such as 0.1 what it needs of a share of them.
    """


@audit.command("list", short_help="List the runs of which something is kept.")
@PARTY
@JSON
def audit_list(party: Path, as_json: bool) -> None:
    """List the runs of which something is kept, the oldest first: who has committed to what it brings,
    and whether this party's part can be replayed; and the models that a host may have audited."""
    from vfl.jobs.audits import list_audits
    from vfl.jobs.connect import store_of
    from vfl.jobs.kept_evidence import list_evidence
    from vfl.party.config import load_party
    from vfl.terminal.audit import put_audits, put_evidence

    store = store_of(load_party(party))
    found, audits = list_evidence(store), list_audits(store)
    if as_json:
        runs = [{**asdict(one), "kept": msgspec.to_builtins(one.kept)} for one in found]
        put_json({"runs": runs, "audits": [asdict(one) for one in audits]})
        return
    if not found:
        stdout.put('nothing is kept of any run; [party] tape = "all" keeps it of later ones')
    else:
        put_evidence(found)
    if audits:
        put_audits(audits)


@audit.command("replay", short_help="Play this party's part of a run again, and certify it.")
@PARTY
@_RUN
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Where the certificates go, one for each peer. Without, those alone are made, and kept for "
    "`vfl audit send` and `vfl score`, that a host waits for.",
)
@click.option(
    "--auditor",
    type=click.Path(path_type=Path),
    metavar="KEY",
    help="Keys of the auditor who signs, without .key and .pem; this party's own by default.",
)
@click.option(
    "--drawn",
    is_flag=True,
    help="Of a model that hosts audit: encrypt again the trees alone that were drawn.",
)
@click.option(
    "--any-machine",
    is_flag=True,
    help="Play also where this machine computes real numbers otherwise than that of the run.",
)
@FORCE
@LOG
@JSON
def audit_replay(
    party: Path,
    run: str,
    out: Path | None,
    auditor: Path | None,
    drawn: bool,
    any_machine: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Play this party's part of a run again, and compare every message with the one that left.

    Reads the table, the secret and the tape of the run, and the ledger; asks no peer, and keeps nothing
    but certificates that hosts wait for. The first message that differs is named, with what the program
    would have sent. Exit code 1 where anything differs.

    Plays with the instructions of the processor that the run had, where this one has more; the program
    starts itself anew for that.
    """
    from vfl.jobs.audits import check_signer, looks_at_drawn
    from vfl.jobs.connect import Site
    from vfl.jobs.replaying import replay_runs, runs_named, variables_of, whole_run
    from vfl.party.identity import load
    from vfl.terminal.audit import put_replay
    from vfl.terminal.progress import show_progress

    settings = open_party(party)
    site = Site.open(settings)
    signer = site.identity if auditor is None else load(auditor)
    runs = runs_named(site.store, run)
    check_signer(site.store, runs, signer.certificate)
    if variables := variables_of(site.store, runs):
        flags = {"--any-machine": any_machine, "--drawn": drawn, "--force": force, "--json": as_json}
        named = {"--run": run, "--out": out, "--auditor": auditor}
        given = [f"{option}={value}" for option, value in named.items() if value is not None]
        given += [option for option, on in flags.items() if on]
        _start_anew(["audit", "replay", *given, "--", str(party)], variables)

    def certify(done: "Replay") -> list[Path]:
        return _certify(site, done, out, signer, force)

    def looks_at(evidence: "Evidence") -> "LooksAt":
        return looks_at_drawn(site.store, evidence) if drawn else whole_run(evidence)

    with show_progress() as show:
        documents = []
        played = replay_runs(site, runs, show, looks_at, any_machine=any_machine)
        for done, files in _replayed(played, certify):
            documents.append(_document(site, done, files))
            if not as_json:
                put_replay(done, files)
    if as_json:
        put_json({"runs": documents})


def _start_anew(arguments: list[str], variables: dict[str, str]) -> NoReturn:
    """Give this process up for one with these variables of the environment, which libraries read before
    all else."""
    from vfl.jobs.arithmetic import TOLD, describe
    from vfl.terminal.log import VARIABLE

    stderr.put(f"note: computing as the machine of the run: {describe(variables)}")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    environment = {
        **os.environ,
        **variables,
        TOLD: "1",
        VARIABLE: "json" if stderr.logs_json else "text",
    }
    # Like the installed command, which takes no code from the folder that it is started in.
    started = ["-m", "vfl"] if sys.path[0] in ("", str(Path.cwd())) else ["-P", "-m", "vfl"]
    os.execve(sys.executable, [sys.executable, *started, *arguments], environment)  # noqa: S606 - this program itself


def _replayed(
    played: "AsyncIterator[Replay]", certify: "Callable[[Replay], list[Path]]"
) -> "list[tuple[Replay, list[Path]]]":
    async def play() -> "list[tuple[Replay, list[Path]]]":
        return [(one, certify(one)) async for one in played]

    return wait_for(play())


def _certify(
    site: "Site", done: "Replay", out: Path | None, signer: "Identity", force: bool
) -> list[Path]:
    """Write the certificates of a replay, one for each peer, and keep those that hosts wait for."""
    from vfl.jobs.audits import keep_certificate, wants_certificate
    from vfl.jobs.certificate import make_certificate
    from vfl.party.files import replacing

    files = []
    for peer, shown in done.shown.items():
        wanted = wants_certificate(site.store, done.evidence, peer)
        if out is None and not wanted:
            continue
        content = make_certificate(done.evidence, shown, signer)
        if wanted:
            keep_certificate(site.store, done.evidence, peer, content)
            stderr.put(f"{peer} gets this certificate by `vfl audit send`, or by the next `vfl score`")
        if out is None:
            continue
        path = out / f"{done.evidence.run[:12]}-{done.evidence.party}-for-{peer}.json"
        if path.exists() and not force:
            raise ConfigError(f"{path} is there already: add --force to replace it")
        out.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(content)
        files.append(path)
    return files


def _document(site: "Site", done: "Replay", files: list[Path]) -> dict[str, object]:
    from vfl.jobs.commitments import shown_digests

    opening = done.evidence.opening
    return {
        "run": done.evidence.run,
        "task": done.evidence.agreement.terms.task,
        "complete": done.complete,
        "ended": done.ended,
        "table": {} if opening is None else shown_digests(site.identity, opening.table),
        "peers": {
            peer: {
                "messages": one.compared,
                "of": one.of,
                "checked": list(one.checked),
                "relies": list(one.relies),
                "kept": msgspec.to_builtins(one.steps),
                "took": [msgspec.to_builtins(taken) for taken in one.took],
            }
            for peer, one in done.shown.items()
        },
        "certificates": [str(path) for path in files],
    }


@audit.command("directory", short_help="Make this host's directory again, and certify it.")
@PARTY
@click.option(
    "--model",
    metavar="MODEL",
    required=True,
    help="The model whose sealed directory is made again.",
    shell_complete=names_of("model"),
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Where the certificate for the guest goes.",
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
def audit_directory(
    party: Path, model: str, out: Path | None, auditor: Path | None, force: bool, as_json: bool
) -> None:
    """Make this host's sealed directory of a model again from its half, its table and the directory's
    key, and compare it with the one that is served. Keeps nothing.

    Exit code 1 where they differ.
    """
    from vfl.jobs.connect import Site
    from vfl.jobs.directory_audit import replay_directory, sign_directory
    from vfl.jobs.names import resolve_model
    from vfl.party.files import replacing
    from vfl.party.identity import load
    from vfl.terminal.progress import show_progress

    settings = open_party(party)
    need_role(settings.role, "host", party)
    site = Site.open(settings)
    signer = site.identity if auditor is None else load(auditor)
    with show_progress() as show:
        made = replay_directory(site, resolve_model(site.store, model), show)
        path = None
        if out is not None:
            path = out / f"{made.directory}-{made.host}-for-{made.guest}.json"
            if path.exists() and not force:
                raise ConfigError(f"{path} is there already: add --force to replace it")
            out.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                file.write(sign_directory(made, signer))
    if as_json:
        certificates = [] if path is None else [str(path)]
        put_json({"model": made.model, "directory": made.directory, "certificates": certificates})
        return
    stdout.put(f"directory {made.directory} of {made.model}: all entries are the program's")
    for taken in made.took:
        stdout.put(f"note: it is made of the {taken.what} that run {taken.run[:12]} has left")
    if path is not None:
        stdout.put(f"certificate {path}")


def _check_directories(
    site: "Site", paths: Sequence[Path], auditor: "Certificate | None", together: "list[RunTogether]"
) -> list[dict[str, object]]:
    """Hold certificates of directories against what is kept of these, and against those of runs."""
    from vfl.jobs.certificates import links_of
    from vfl.jobs.directory_audit import check_directory

    documents = []
    made = {(one.made.run, one.made.party): one.made for run in together for one in run.certificates}
    for path in paths:
        found = check_directory(site, path, auditor)
        said = found.certificate
        head = f"directory {said.directory} of {said.model} at {said.host}"
        notes = links_of(said.host, head, said.took, made)
        if not said.took:
            notes.append(f"{head} relies on the half of the model, of whose training no tape was kept")
        documents.append(
            {**msgspec.to_builtins(said), "signed_by": found.signed_by, "complete": True, "notes": notes}
        )
    return documents


def _put_directories(documents: list[dict[str, object]]) -> None:
    for one in documents:
        head = f"directory {one['directory']} of {one['model']} at {one['host']}"
        stdout.put(f"{head}: signed by {one['signed_by']}; all entries are the program's")
        for note in one["notes"] if isinstance(one["notes"], list) else ():
            stdout.put(f"note: {note}")


@audit.command("check", short_help="Hold peers' certificates against this party's ledger.")
@PARTY
@click.argument(
    "certificates",
    type=click.Path(path_type=Path),
    metavar="CERTIFICATE.json...",
    nargs=-1,
    required=True,
)
@click.option(
    "--auditor",
    type=click.Path(path_type=Path),
    metavar="FILE.pem",
    help="The certificate of the auditor who must have signed; the peer itself by default.",
)
@JSON
def audit_check(
    party: Path, certificates: tuple[Path, ...], auditor: Path | None, as_json: bool
) -> None:
    """Hold a peer's certificate of a replay against what was signed and against this party's ledger; of
    several, also of other parties and for others, whether they show all of a run together. A host's
    certificate of a directory is held against the directory that is kept here.

    A model that this host has audited is of use once the certificates of its runs hold. Exit code 1
    where one does not hold, or messages came in the run that none covers.
    """
    from vfl.jobs.audits import auditor_of, settle
    from vfl.jobs.certificate import check_certificate
    from vfl.jobs.certificates import hold_together
    from vfl.jobs.connect import Site
    from vfl.jobs.directory_audit import is_of_directory
    from vfl.party.identity import load_certificate
    from vfl.terminal.audit import put_checked, put_together

    site = Site.open(open_party(party))
    of_policy = auditor_of(site.party)
    pinned = of_policy if auditor is None else load_certificate(auditor)
    settles = of_policy is None or (pinned is not None and pinned.fingerprint == of_policy.fingerprint)
    of_runs = [path for path in certificates if not is_of_directory(path)]
    if len(certificates) == 1 and of_runs:
        found = check_certificate(site, of_runs[0], pinned)
        settled = settles and settle(site.store, found)
        if as_json:
            put_json(_checked_document(found, settled))
        else:
            put_checked(found, settled)
        if not found.complete and not settled:
            raise click.exceptions.Exit(1)
        return
    together = hold_together(site, of_runs, pinned)
    of_directories = [path for path in certificates if path not in of_runs]
    directories = _check_directories(site, of_directories, pinned, together)
    for one in (held for run in together for held in run.certificates):
        if settles and one.checked is not None:
            settle(site.store, one.checked)
    proven = all(run.proven for run in together)
    if as_json:
        runs = [_run_document(run) for run in together]
        put_json({"proven": proven, "runs": runs, "directories": directories})
    else:
        for run in together:
            put_together(run)
        _put_directories(directories)
    if not proven:
        raise click.exceptions.Exit(1)


def _checked_document(found: "Checked", settled: bool) -> dict[str, object]:
    made = found.certificate
    return {
        "run": made.run,
        "party": made.party,
        "signed_by": found.signed_by,
        "complete": found.complete,
        "settled": settled,
        "received": found.received,
        "covered": found.received - len(found.uncovered),
        "uncovered": [{"number": number, "type": kind} for number, kind in found.uncovered],
        "replay": made.replay,
        "went_on_from": made.went_on_from,
        "checked": made.checked,
        "relies": made.relies,
        "answers_sealed": found.answers_sealed,
        "left": made.left,
        "took": [msgspec.to_builtins(taken) for taken in made.took],
        "kept": msgspec.to_builtins(found.steps),
    }


def _run_document(run: "RunTogether") -> dict[str, object]:
    return {
        "run": run.run,
        "task": run.task,
        "proven": run.proven,
        "certificates": [
            {"party": one.made.party, "peer": one.made.peer, "signed_by": one.signed_by}
            for one in run.certificates
        ],
        "uncovered": [asdict(one) for one in run.uncovered],
        "notes": run.notes,
    }


@audit.command("send", short_help="Hand the certificates of a model to the hosts that wait for them.")
@PARTY
@click.option(
    "--run",
    metavar="MODEL",
    required=True,
    help="The model whose runs were replayed.",
    shell_complete=names_of("model", "run"),
)
@WAIT
@LOG
@JSON
def audit_send(party: Path, run: str, wait: float, as_json: bool) -> None:
    """Hand the certificates of a model to the hosts that have it audited, as `vfl score` does by itself.

    `vfl audit replay` makes them.
    """
    from vfl.jobs.audits import to_present
    from vfl.jobs.names import resolve_model
    from vfl.jobs.presenting import present
    from vfl.terminal.progress import show_progress

    settings = open_party(party)
    need_role(settings.role, "guest", party)
    with show_progress() as show, open_site(settings, show) as site:
        model = resolve_model(site.store, run)
        if not to_present(site.store, model):
            raise ModelError(
                f"no certificate of {model} is kept here that a host waits for: `vfl audit replay` "
                "makes them, and `vfl audit list` says who waits for one"
            )
        done = wait_for(present(site, model, wait=wait, show=show))
    if as_json:
        put_json({"model": model, "hosts": done})


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
