"""Checks of sealed directories before any lookup: which are of use, and what to do about the others."""

from datetime import UTC, datetime, timedelta

from vfl.errors import ModelError
from vfl.jobs.check_result import CheckResult, Reporter
from vfl.jobs.connect import Site
from vfl.jobs.publishing import days_of_use, is_over
from vfl.party.directories import Directory, Withdrawn, load_directory
from vfl.party.policy import last_day, rule_words
from vfl.protocols.lookup.directory import CLOCKS_APART
from vfl.text import counted

_SOON = timedelta(days=3)  # before a directory ends in which it is said


def check_directories(site: Site, report: Reporter) -> bool:
    """Report on each directory of a party's store; False where lookups by one would be refused."""
    healthy = True
    for name in site.store.names("directory"):
        try:
            kept = load_directory(site.store, name)
            if isinstance(kept, Withdrawn):
                text = f"the directory of {kept.model} was withdrawn on {kept.withdrawn:%Y-%m-%d}"
                report(CheckResult("note", "directories", text))
            elif kept is not None:
                kept.directory.mapped()
                healthy = _check(site, kept.directory, report) and healthy
        except ModelError as error:
            if site.party.role == "host":
                text = f"directories: {error}: run `vfl publish PARTY.toml --model {name}`"
                report(CheckResult("FAIL", "directories", text))
                healthy = False
            else:
                report(CheckResult("note", "directories", f"directories: {error}"))
    return healthy


def _check(site: Site, directory: Directory, report: Reporter) -> bool:
    header, party, now = directory.header, site.party, datetime.now(UTC)
    hosts = party.role == "host"
    what = f"the directory of {header.model} " + (
        f"for {header.guest}" if hosts else f"of {header.host}"
    )
    made = f"{header.made:%Y-%m-%d %H:%M} UTC"
    publish = f"run `vfl publish PARTY.toml --model {header.model}`"
    if header.made > now + CLOCKS_APART:
        text = f"{what} is of {made}, which is yet to come: mend the clock; {publish} at {header.host}"
        report(CheckResult("FAIL", "directories", text))
        return False
    if not hosts:
        text = f"{what} is of {made}, with {counted(header.rows, 'row')}"
        report(CheckResult("ok", "directories", text))
        return True
    if header.model not in site.store.names("model"):
        text = f"{what}: the model is not there any more, and no lookup is answered"
        report(CheckResult("note", "directories", text))
        return True
    if is_over(party.policy, header.made, now):
        rule = rule_words(party.policy, "directory_days")
        text = f"{what} is of {made}, older than {rule} allows: lookups are refused; {publish}"
        report(CheckResult("FAIL", "directories", text))
        return False
    if not party.policy.directories:
        text = f"{what} is kept, and no guest gets it: {rule_words(party.policy, 'directories')}"
        report(CheckResult("note", "directories", text))
        return True
    last = last_day(header.made.date(), days_of_use(party.policy))
    until = "" if last is None else f", of use until {last}"
    soon = last is not None and last - now.date() <= _SOON
    text = f"{what} is of {made}, with {counted(header.rows, 'row')}{until}"
    report(CheckResult("note" if soon else "ok", "directories", text + (f": {publish}" if soon else "")))
    return True
