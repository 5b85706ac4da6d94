"""vfl policy and vfl config: what this party allows, and the files that say so."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfl.cli.completion import names_of
from vfl.cli.group import main
from vfl.cli.options import JSON, MODEL, PARTY
from vfl.cli.running import need_role
from vfl.errors import Refused
from vfl.terminal.streams import put_json, stdout

if TYPE_CHECKING:
    from vfl.party.config_values import FileKind


@main.group()
def policy() -> None:
    """What this party allows, and what all parties have signed."""


@policy.command("check", short_help="Say which rules of a party a job breaks.")
@click.argument("job", type=click.Path(path_type=Path), metavar="JOB.toml")
@PARTY
@click.option(
    "--guest", metavar="NAME", help="Who would start the job; without it rule guests is not checked."
)
@click.option(
    "--alignment",
    metavar="NAME",
    help="An alignment of the host's store to check the job on; the latest, if none is named.",
    shell_complete=names_of("alignment", jobs=True),
)
@JSON
def policy_check(
    job: Path, party: Path, guest: str | None, alignment: str | None, as_json: bool
) -> None:
    """Say which rules of a host's [policy] a job breaks, all at once; no peer is needed. The same of a
    party of jobs over rows, whose server is the one that starts them.

    Rules that are held against a job when it runs are listed, with what is used up of them. Exit code 6
    where it breaks any.
    """
    from vfl.jobs.policy_check import examine_policy
    from vfl.jobs.storage import serves_an_older_file
    from vfl.party.config import load_job, load_party
    from vfl.party.policy import check_guest

    wanted, settings = load_job(job), load_party(party)
    if not (wanted.over_rows and settings.clients):
        need_role(settings.role, "host", party)
    if guest is not None:
        check_guest(settings, guest)
    found = examine_policy(settings, wanted, guest, alignment)
    older = serves_an_older_file(settings.party.store, party)
    if as_json:
        put_json(
            {
                "job": wanted.name,
                "job_digest": wanted.digest,
                "host": settings.name,
                "allowed": not found.broken,
                "broken_rules": found.broken,
                "policy": settings.policy.model_dump(mode="json"),
                "alignment": found.alignment,
                "alignment_days": settings.policy.days_of_use,
                "sums_a_row": None if found.sums is None else found.sums.job.equations_a_row,
                "sums_a_row_before": None if found.sums is None else found.sums.before,
                "used_today": found.used,
                "serve_is_older": older is not None,
            }
        )
    else:
        stdout.put(*found.broken, *([] if older is None else [older]))
    if broken := found.broken:
        rules = "a rule" if len(broken) == 1 else f"{len(broken)} rules"
        raise Refused(f"{wanted.name} breaks {rules} of {settings.name}")
    if not as_json:
        stdout.put(
            f"{settings.name} allows {wanted.name}, whose digest is {wanted.digest}", *found.notes
        )


@policy.command("agreement", short_help="Show and check what all parties have signed.")
@PARTY
@MODEL
@JSON
def policy_agreement(party: Path, model: str, as_json: bool) -> None:
    """Show what all parties of a model's training have signed, and check the signatures, offline."""
    from vfl.jobs.record import verify_agreement
    from vfl.party.config import load_party

    name, agreement, signed = verify_agreement(load_party(party), model)
    terms = agreement.terms
    if as_json:
        put_json(
            {
                "model": name,
                "job_digest": terms.job.hex(),
                "alignment": terms.alignment,
                "run": terms.run.hex(),
                "guest": terms.guest,
                "hosts": terms.hosts,
                "fingerprints": terms.fingerprints,
                "signatures": signed,
                **({"queries": agreement.queries} if agreement.queries else {}),
            }
        )
        return
    over = "over rows" if terms.alignment is None else f"alignment {terms.alignment}"
    stdout.put(f"model {name}, {over}", f"job digest {terms.job.hex()}")
    for who, words in signed.items():
        query = agreement.queries.get(who)
        of_query = "" if query is None else f"; its table is of a query, digest {query}"
        stdout.put(f"{who}: {words}; fingerprint {terms.fingerprints[who]}{of_query}")


@main.group("config")
def config_group() -> None:
    """The files a person writes."""


@config_group.command("schema")
@click.argument("kind", metavar="party|job|relay", type=click.Choice(["party", "job", "relay"]))
def config_schema(kind: "FileKind") -> None:
    """Print the JSON Schema of a party, job or relay file."""
    from vfl.party import config

    stdout.write(json.dumps(config.schema(kind), indent=2) + "\n")
