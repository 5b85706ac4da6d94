"""vfl status: what runs in a party's store now."""

from dataclasses import asdict
from pathlib import Path

from vfl.cli.group import main
from vfl.cli.options import JSON, PARTY
from vfl.terminal.streams import put_json


@main.command(short_help="Say what this party's commands are doing now.")
@PARTY
@JSON
def status(party: Path, as_json: bool) -> None:
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
        return
    put_processes(found, store.root)
