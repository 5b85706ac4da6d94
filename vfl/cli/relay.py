"""vfl relay: joins parties of which none opens a port."""

import contextlib
from pathlib import Path

import click

from vfl.cli.group import main
from vfl.cli.options import LOG
from vfl.cli.running import run
from vfl.terminal.progress import show_progress


@main.command(short_help="Join parties that all dial out.")
@click.argument("config", type=click.Path(path_type=Path), metavar="RELAY.toml")
@LOG
def relay(config: Path) -> None:
    """Join connections of parties that all dial out, until Ctrl-C, SIGTERM or SIGHUP.

    What passes is encrypted from party to party: a relay sees addresses, sizes and times. It keeps
    nothing and prints no names.
    """
    from vfl.jobs.relaying import relay as serve
    from vfl.party.config import load_relay

    settings = load_relay(config).relay
    with contextlib.suppress(KeyboardInterrupt), show_progress(times=True) as show:
        run(serve(settings, show.say))
