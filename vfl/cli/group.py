"""The command line: one party of a federation."""

import logging

import click

from vfl.terminal.usage import CommandGroup, put_version


@click.group("vfl", cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
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
       11  the cluster of this party cannot go on
      130  interrupted
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
