"""vfl status: what runs in a party's store now."""

from dataclasses import asdict
from pathlib import Path

import click

from vfl.cli.group import main
from vfl.cli.options import JSON, PARTY
from vfl.terminal.streams import put_json


@main.command(short_help="Say what this party's commands are doing now.")
@PARTY
@click.option(
    "--expect",
    type=click.Choice(["serve", "online"]),
    help="Exit code 1 unless such a command runs, for probes.",
)
@JSON
def status(party: Path, expect: str | None, as_json: bool) -> None:
    """Say what this party's commands are doing now: which, since when, with whom, and how far.

    Also which of them ended without a word, as by a kill, since the last one began. No peer is asked,
    and no key is needed.
    """
    from vfl.jobs.activity import find_processes
    from vfl.party.config import load_party
    from vfl.party.store import Store
    from vfl.terminal.kept import put_processes

    store = Store(load_party(party).party.store)
    found = find_processes(store)
    if as_json:
        put_json(asdict(found))
    else:
        put_processes(found, store.root)
    if expect is not None and not any(one.does(expect) for one in found.running):
        raise click.exceptions.Exit(1)
