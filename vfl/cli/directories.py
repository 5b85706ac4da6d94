"""Commands about sealed directories: publish, directories."""

from pathlib import Path

import click

from vfl.cli.group import main
from vfl.cli.options import JSON, MODEL, PARTY
from vfl.cli.running import need_role
from vfl.errors import ConfigError
from vfl.terminal.progress import show_progress
from vfl.terminal.streams import put_json, stdout


@main.command(short_help="Seal a model's directory of this host's table.")
@PARTY
@MODEL
@click.option("--new-key", is_flag=True, help="Under a new key: guests have to fetch all of it.")
@click.option("--withdraw", is_flag=True, help="Remove it: no lookup is answered from now on.")
@JSON
def publish(party: Path, model: str, new_key: bool, withdraw: bool, as_json: bool) -> None:
    """Seal this host's part of a model for every row of the table as it is now.

    Guests fetch the directory and look rows up in it, of which this party learns how many and not which.
    Run it again whenever the table has changed; a guest fetches what is not as before. `vfl serve` goes
    on meanwhile, and answers by the new one at once.
    """
    from vfl.jobs.connect import Site
    from vfl.jobs.names import resolve_model
    from vfl.jobs.publishing import publish as seal
    from vfl.jobs.publishing import say_published
    from vfl.jobs.publishing import withdraw as remove
    from vfl.jobs.storage import working
    from vfl.party.config import load_party

    if new_key and withdraw:
        raise ConfigError("--new-key and --withdraw exclude each other: leave one of them out")
    settings = load_party(party)
    need_role(settings.role, "host", party)
    with show_progress() as show:
        site = Site.open(settings)
        with working(site) as store, site.activity.job("publish", show) as followed:
            name = resolve_model(store, model)
            site.activity.tell(about=[name])
            if withdraw:
                since = remove(site, name)
                found: dict[str, object] = {"model": name, "withdrawn": since.isoformat()}
                show.say(f"the directory of {name} is withdrawn: no lookup is answered any more")
            else:
                if not settings.policy.directories:
                    show.say(
                        "note: directories = false of [policy]: no guest gets the "
                        "directory until it is true"
                    )
                done = seal(site, name, followed, renew=new_key)
                say_published(show, done)
                header = done.own.directory.header
                found = {
                    "model": name,
                    "guest": header.guest,
                    "version": header.version,
                    "made": header.made.isoformat(),
                    "rows": header.rows,
                    "entries": header.entries,
                    "bytes": header.size,
                    "parts": header.parts,
                    "parts_written": done.written,
                    "new_key": done.renewed,
                    "unchanged": done.unchanged,
                }
    if as_json:
        put_json(found)


@main.command()
@PARTY
@JSON
def directories(party: Path, as_json: bool) -> None:
    """List sealed directories: those made here, or kept of hosts."""
    from vfl.jobs.connect import store_of
    from vfl.jobs.publishing import list_directories
    from vfl.party.config import load_party
    from vfl.terminal.results import put_directories

    settings = load_party(party)
    found = list_directories(store_of(settings), settings)
    if as_json:
        put_json({"directories": found})
    elif not found:
        stdout.put("there is no directory yet")
    else:
        put_directories(found)
