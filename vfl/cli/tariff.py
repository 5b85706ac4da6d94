"""The command that writes rating tables."""

from pathlib import Path

import click

from vfl.cli.group import main
from vfl.cli.options import FORCE, JSON, MODEL, PARTY
from vfl.terminal.streams import put_json, stdout
from vfl.text import counted


@main.command(short_help="Write a linear model's rating tables as a workbook, offline.")
@PARTY
@MODEL
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE.xlsx",
    required=True,
    help="The workbook: a sheet a factor, the base rate, a log of changes.",
)
@click.option(
    "--edits",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="Rounding, caps, edits with a reason, the target of the base rate, points.",
)
@click.option(
    "--factors",
    multiple=True,
    metavar="HOST=FILE.json",
    help="Factors that a host has given: its output of vfl relativities --json.",
)
@FORCE
@JSON
def tariff(
    party: Path,
    model: str,
    out: Path,
    edits: Path | None,
    factors: tuple[str, ...],
    force: bool,
    as_json: bool,
) -> None:
    """Write a linear model's rating tables. With --edits that change something, the edited half is kept
    as a new version of the model, which scores like any other; the old one stays. Edits change the model
    that was trained, or the version whose full name is given; a tariff that the newest version is
    already is not kept again.

    Factors of hosts are rated by the service, unless their owner has given them.
    """
    from vfl.jobs.tariff import TariffRequest, write_tariff
    from vfl.party.config import load_party

    given = {}
    for one in factors:
        host, _, path = one.partition("=")
        if not host or not path or host in given:
            raise click.BadParameter("each is HOST=FILE.json, a host once", param_hint="--factors")
        given[host] = Path(path)
    done = write_tariff(load_party(party), model, out, TariffRequest(edits, given), force=force)
    if as_json:
        names = ("column", "level", "before", "after", "rule", "reason")
        put_json(
            {
                "tariff": str(done.path),
                "model": done.model,
                "edited_from": done.edited_from or None,
                "new": done.kept,
                "base": done.base,
                "off_balance": done.off_balance,
                "loss_ratio": done.loss_ratio,
                "changes": [{name: getattr(one, name) for name in names} for one in done.changes],
                "rated_by_the_service": list(done.by_service),
            }
        )
        return
    stdout.put(f"rating tables of {done.model} in {done.path}")
    if done.kept:
        stdout.put(
            f"{counted(len(done.changes), 'change')}: kept as a new version of {done.edited_from}, "
            "which stays"
        )
    elif done.changes:
        stdout.put(
            f"{counted(len(done.changes), 'change')} to {done.edited_from}: the newest version is this "
            "tariff already, and no other is kept"
        )
    for change in done.changes:
        if change.rule == "base":
            stdout.put(f"base rate {change.after:.6g}, {change.before:.6g} before")
    if done.off_balance is not None:
        stdout.put(f"off-balance before the base rate: {done.off_balance:.4f}")
    if done.loss_ratio is not None:
        stdout.put(f"loss ratio over the rows held out: {done.loss_ratio:.4f}")
    if done.by_service:
        stdout.put(f"rated by the service: {', '.join(done.by_service)}")
