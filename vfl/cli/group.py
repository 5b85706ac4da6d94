"""The command line: one party of a federation."""

import logging

import click

from vfl.errors import EXIT_CODES
from vfl.terminal.usage import CommandGroup, put_version

_HELP = """Train and score models together with other companies, without sharing data.

Results go to stdout, news and errors to stderr. An error is one line and an exit code.

\b
Exit codes:
"""


@click.group(
    "vfl",
    cls=CommandGroup,
    help=_HELP + "\n".join(f"{code:>5}  {meaning}" for code, meaning in EXIT_CODES.items()),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=put_version,
    help="Show the version and exit.",
)
def main() -> None:
    """The command line of a party; `_HELP` says what it is."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
