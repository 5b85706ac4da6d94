"""Commands about what a party keeps: models, runs that are unfinished, alignments."""

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfl.cli.completion import names_of
from vfl.cli.group import main
from vfl.cli.options import JSON, PARTY
from vfl.errors import ConfigError
from vfl.terminal.streams import put_json, stderr, stdout
from vfl.terminal.usage import FileGroup

if TYPE_CHECKING:
    from vfl.jobs.removal import Removal

YES = click.option("--yes", is_flag=True, help="Do not ask.")
ONE_MODEL = click.option(
    "--model",
    metavar="NAME",
    required=True,
    help="A model, or its job (the newest model of it).",
    shell_complete=names_of("model", "run", jobs=True),
)
WHOLE_NAME = click.option(
    "--model",
    metavar="NAME",
    required=True,
    help="A model, by its whole name.",
    shell_complete=names_of("model", "run"),
)
ONE_RUN = click.option(
    "--run",
    metavar="NAME",
    required=True,
    help="An unfinished run, by its name.",
    shell_complete=names_of("checkpoint"),
)


@main.group(
    "models",
    cls=FileGroup,
    short_help="List, show and remove what this party keeps of models.",
    subcommand_metavar="PARTY.toml | show | remove",
)
def models() -> None:
    """List, show and remove what this party keeps of models.

    `vfl models PARTY.toml` lists them, the oldest first. No peer is asked. Names cannot be changed: all
    parties have signed them.
    """


@models.command("list", hidden=True)
@PARTY
@JSON
def list_models(party: Path, as_json: bool) -> None:
    """List all models, the oldest first."""
    from vfl.jobs.connect import store_of
    from vfl.jobs.kept_models import list_models as find_models
    from vfl.party.config import load_party
    from vfl.terminal.kept import put_models

    found = find_models(store_of(load_party(party)))
    if as_json:
        put_json({"models": [asdict(one) for one in found]})
    elif not found:
        stdout.put("there is no model yet")
    else:
        put_models(found)


@models.command("show", short_help="Show a model in detail.")
@PARTY
@ONE_MODEL
@JSON
def show_model(party: Path, model: str, as_json: bool) -> None:
    """Show a model: its job, measures, columns of this party, versions and files."""
    from vfl.jobs.connect import store_of
    from vfl.jobs.kept_models import show_model as find_model
    from vfl.party.config import load_party
    from vfl.terminal.kept import put_shown_model

    settings = load_party(party)
    found = find_model(store_of(settings), settings, model)
    if as_json:
        document = asdict(found)
        put_json(document.pop("model") | document)
        return
    put_shown_model(found)


@models.command("remove", short_help="Remove a model with all that belongs to it.")
@PARTY
@WHOLE_NAME
@YES
@JSON
def remove_model(party: Path, model: str, yes: bool, as_json: bool) -> None:
    """Remove a model: this party's half, the record of its run, tables and sealed directories of it.

    What was counted of its job (sums, labels, bytes) stays counted. Refused while `vfl serve`, `vfl
    online` or a job may use it.
    """
    from vfl.jobs.connect import store_of
    from vfl.jobs.kept_models import plan_removal, remove_kept_model
    from vfl.party.config import load_party

    settings = load_party(party)
    store = store_of(settings)
    plan = plan_removal(store, settings, model)
    ask_and_remove(plan, yes, as_json, lambda: remove_kept_model(store, plan.name))


def _refuse_renaming(group: click.Group, why: str) -> None:
    """Add a command that says why a name cannot be changed, and does nothing else."""

    @group.command("rename", hidden=True, context_settings={"ignore_unknown_options": True})
    @click.argument("words", nargs=-1)
    def rename(words: tuple[str, ...]) -> None:
        """Refused: a name cannot be changed."""
        del words
        raise ConfigError(why)


_refuse_renaming(
    models,
    "the name of a model cannot be changed: all its parties have signed it and keep their halves under "
    "it; the name of its job alone counts for the next model",
)


@main.group(
    "runs",
    cls=FileGroup,
    short_help="List, show and remove trainings that are unfinished.",
    subcommand_metavar="PARTY.toml | show | remove",
)
def runs() -> None:
    """List, show and remove trainings that are unfinished.

    `vfl runs PARTY.toml` lists them, the one that was at work last first: how far each is, and which one
    `vfl train` goes on with. No peer is asked.
    """


_refuse_renaming(
    runs,
    "the name of a run cannot be changed: all its parties keep their steps under it; the name of its "
    "job alone counts for the next run",
)


@runs.command("list", hidden=True)
@PARTY
@JSON
def list_runs(party: Path, as_json: bool) -> None:
    """List all unfinished trainings."""
    from vfl.jobs.connect import store_of
    from vfl.jobs.kept_runs import list_runs as find_runs
    from vfl.party.config import load_party
    from vfl.terminal.kept import put_runs

    found = find_runs(store_of(load_party(party)))
    if as_json:
        put_json({"runs": [asdict(one) for one in found]})
    elif not found:
        stdout.put("there is no unfinished run")
    else:
        put_runs(found)


@runs.command("show", short_help="Show an unfinished training in detail.")
@PARTY
@ONE_RUN
@JSON
def show_run(party: Path, run: str, as_json: bool) -> None:
    """Show an unfinished training: how far it is, with whom, its files."""
    from vfl.jobs.connect import store_of
    from vfl.jobs.kept_runs import show_run as find_run
    from vfl.party.config import load_party
    from vfl.terminal.kept import put_shown_run

    found = find_run(store_of(load_party(party)), run)
    if as_json:
        put_json(asdict(found))
        return
    put_shown_run(found)


@runs.command("remove", short_help="Remove an unfinished training.")
@PARTY
@ONE_RUN
@YES
@JSON
def remove_run(party: Path, run: str, yes: bool, as_json: bool) -> None:
    """Remove an unfinished training: its job begins anew. Refused while a training is at it."""
    from vfl.jobs.connect import store_of
    from vfl.jobs.kept_runs import plan_removal
    from vfl.jobs.kept_runs import remove_run as remove_kept
    from vfl.party.config import load_party

    settings = load_party(party)
    store = store_of(settings)
    plan = plan_removal(store, settings, run)
    ask_and_remove(plan, yes, as_json, lambda: remove_kept(store, plan.name))


@main.group(
    "alignments",
    cls=FileGroup,
    short_help="List, show and remove the alignments that this party keeps.",
    subcommand_metavar="PARTY.toml | show | remove",
)
def alignments() -> None:
    """List, show and remove the alignments that this party keeps.

    `vfl alignments PARTY.toml` lists them, the oldest first. No peer is asked.
    """


_refuse_renaming(
    alignments,
    "the name of an alignment cannot be changed: all its parties keep their rows under it; `vfl align "
    "--name` gives the next one a name of its own beside",
)


@alignments.command("list", hidden=True)
@PARTY
@JSON
def list_alignments(party: Path, as_json: bool) -> None:
    """List all alignments, the oldest first."""
    from vfl.jobs.connect import store_of
    from vfl.jobs.kept_alignments import alignments_of
    from vfl.party.config import load_party
    from vfl.terminal.results import put_alignments

    settings = load_party(party)
    found = alignments_of(store_of(settings), settings)
    if as_json:
        put_json({"alignments": found})
    elif not found:
        stdout.put("there is no alignment yet")
    else:
        put_alignments(found)


@alignments.command("show", short_help="Show an alignment in detail.")
@PARTY
@click.option(
    "--alignment",
    metavar="NAME",
    required=True,
    help="An alignment, or what --name called it (the newest).",
    shell_complete=names_of("alignment", jobs=True),
)
@JSON
def show_alignment(party: Path, alignment: str, as_json: bool) -> None:
    """Show an alignment: its parties, rows, what was trained on it, its files."""
    from vfl.jobs.connect import store_of
    from vfl.jobs.kept_alignments import show_alignment as find_alignment
    from vfl.party.config import load_party
    from vfl.terminal.kept import put_shown_alignment

    settings = load_party(party)
    found = find_alignment(store_of(settings), settings, alignment)
    if as_json:
        document = asdict(found)
        put_json(document.pop("alignment") | document)
        return
    put_shown_alignment(found)


@alignments.command("remove", short_help="Remove an alignment.")
@PARTY
@click.option(
    "--alignment",
    metavar="NAME",
    required=True,
    help="An alignment, by its whole name.",
    shell_complete=names_of("alignment"),
)
@YES
@JSON
def remove_alignment(party: Path, alignment: str, yes: bool, as_json: bool) -> None:
    """Remove an alignment: no training or extension is based on it any more, at any of its parties.

    What was counted about its rows and labels stays counted. Refused while `vfl serve`, `vfl online`
    or a job may use it.
    """
    from vfl.jobs.connect import store_of
    from vfl.jobs.kept_alignments import plan_removal
    from vfl.jobs.kept_alignments import remove_alignment as remove_kept
    from vfl.party.config import load_party

    settings = load_party(party)
    store = store_of(settings)
    plan = plan_removal(store, settings, alignment)
    ask_and_remove(plan, yes, as_json, lambda: remove_kept(store, settings, plan.name))


def ask_and_remove(plan: "Removal", yes: bool, as_json: bool, remove: Callable[[], None]) -> None:
    """Name what goes, ask, and remove it."""
    from vfl.terminal.kept import put_plan, room

    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError(f"{plan.what} {plan.name} is not removed without being asked: add --yes")
        put_plan(plan)
        if not click.confirm(f"Remove {plan.what} {plan.name}?", err=True):
            raise click.Abort
    elif not as_json:
        put_plan(plan)
    files, size = [str(path) for path in plan.files], plan.bytes
    remove()
    if as_json:
        put_json({"removed": plan.name, "files": files, "bytes": size, "notes": plan.notes})
        return
    stderr.flush()
    stdout.put(f"{plan.what} {plan.name} is removed: {room(size)} free")
