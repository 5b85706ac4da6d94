"""Options that several commands have."""

from pathlib import Path

import click

from vfl.cli.completion import names_of
from vfl.terminal.usage import NumberType

PARTY = click.argument("party", type=click.Path(path_type=Path), metavar="PARTY.toml")
WAIT = click.option(
    "--wait",
    type=NumberType(0, 86400),
    metavar="SECONDS",
    default=30.0,
    show_default=True,
    help="How long to wait for the other parties to be there.",
)
MODEL = click.option(
    "--model",
    metavar="NAME",
    required=True,
    help="A model, or its job (the newest model of it), or a path.",
    shell_complete=names_of("model", "run", jobs=True, paths=True),
)
ALIGNMENT = click.option(
    "--alignment",
    metavar="NAME",
    help="An alignment, or what --name called it (the newest); the latest by default.",
    shell_complete=names_of("alignment", jobs=True),
)
LOCAL_CLUSTER = click.option(
    "--local-cluster",
    "local",
    type=NumberType(1, 256, whole=True),
    metavar="WORKERS",
    help="Have rows lie with so many processes of this machine, to try what a cluster does.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
LOG = click.option(
    "--log",
    type=click.Choice(["text", "json"]),
    expose_value=False,  # it is read before all else: vfl/terminal/log.py
    help="How lines on stderr are written; as VFL_LOG says by default, else as text.",
)
FORCE = click.option(
    "--force",
    is_flag=True,
    help="Replace what is there also if it is no earlier output of this command.",
)
