"""The command that shows what columns add in a model of trees of depth 1 or 2."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfl.cli.group import main
from vfl.cli.options import FORCE, JSON, MODEL, PARTY
from vfl.terminal.streams import put_json, stdout
from vfl.text import counted

if TYPE_CHECKING:
    from vfl.party.config import Party


@main.command(short_help="Write what columns add in trees of depth 1 or 2, offline.")
@PARTY
@MODEL
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="PLACE",
    help="The folder of the tables; with --give the file for the host.  [default: ./shapes-MODEL]",
)
@click.option(
    "--edits",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="Changes of shapes of own columns, with a reason each: they make a version of the model.",
)
@click.option(
    "--give",
    metavar="HOST",
    help="Write what the splits of a host add, for that host to see its own shapes.",
)
@click.option(
    "--values",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="At a host: what the guest has given.",
)
@click.option(
    "--pairs",
    is_flag=True,
    help="List pairs of an own column and a host's that meet in trees, by gain: what across in [glm] "
    "may take.",
)
@FORCE
@JSON
def shapes(
    party: Path,
    model: str,
    out: Path | None,
    edits: Path | None,
    give: str | None,
    values: Path | None,
    pairs: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write the shapes of this party's columns: what each adds to the score, place by place, in a model
    of trees of one level or two (depth = 1, depth = 2).

    With --edits the edited half is kept as a new version of the model, which scores like any other; the
    old one stays. A host has shapes of its columns only if the guest gives it what they add (--give).
    """
    from vfl.jobs.shapes import give_shapes, write_shapes
    from vfl.party.config import load_party

    settings = load_party(party)
    if pairs:
        if any(one is not None for one in (out, edits, give, values)):
            raise click.UsageError("--pairs goes without --out, --edits, --give and --values")
        _put_pairs(settings, model, as_json)
        return
    if give is not None:
        if edits is not None or values is not None:
            raise click.UsageError("--give goes without --edits and --values")
        file = out or Path(f"shapes-{model}-{give}.json")
        steps = give_shapes(settings, model, give, file, force=force)
        if as_json:
            put_json({"file": str(file.absolute()), "host": give, "steps": steps})
        else:
            then = f"send it to {give}"
            if not steps:  # a file that shows its host nothing
                then = "no tree splits by its columns alone, so that it has no shapes"
            stdout.put(f"{counted(steps, 'step')} of {give}'s columns in {file.absolute()}: {then}")
        return
    folder = (out or Path(f"shapes-{model}")).absolute()
    done = write_shapes(settings, model, folder, edits=edits, values=values, force=force)
    if as_json:
        put_json(
            {
                "shapes": str(done.folder),
                "model": done.model,
                "edited_from": done.edited_from or None,
                "columns": [one.column for one in done.own.shapes],
                "pairs": [[one.first.column, one.second.column] for one in done.own.pairs],
                "centre": done.centre,
                "steps_with_others": done.elsewhere,
                "changes": len(done.changes),
            }
        )
        return
    parts = [counted(len(done.own.shapes), "shape"), counted(len(done.own.pairs), "pair")]
    stdout.put(f"{' and '.join(parts)} of {done.model} in {done.folder}")
    if done.edited_from:
        changes = counted(len(done.changes), "change")
        stdout.put(f"{changes}: kept as a new version of {done.edited_from}, which stays")
    if done.centre is not None:
        stdout.put(f"score of the mean row: {done.centre:.6g}")
    if done.elsewhere:
        stdout.put(f"{counted(done.elsewhere, 'step')} of columns of hosts, or of pairs with them")


def _put_pairs(settings: "Party", model: str, as_json: bool) -> None:
    from vfl.jobs.shapes import list_met_columns

    name, found, gain = list_met_columns(settings, model)
    if as_json:
        columns = ("own", "theirs", "splits", "gain")
        told = [{key: getattr(one, key) for key in columns} for one in found]
        put_json({"model": name, "pairs": told, "gain": gain})
        return
    if not found:
        stdout.put(f"{name}: no column of this party meets one of a host's on a path of a tree")
    for one in found:
        share = f"{100 * one.gain / gain:.1f} % of all gain" if gain > 0 else "no gain"
        stdout.put(f"{one.own} × {one.theirs}: {counted(one.splits, 'split')}, {share}")
