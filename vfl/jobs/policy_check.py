"""What a host's policy says to a job before anybody asks for it, by what lies in the host's store."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from vfl.errors import ConfigError, Refused
from vfl.jobs.alignments import Alignment, count_known_rows, find_alignment, made_on, most_joined
from vfl.jobs.columns_given import ColumnsGiven
from vfl.jobs.connect import store_of
from vfl.jobs.sums_given import SumsGiven, WeighedSums
from vfl.learn.params import BoostParams, GlmParams
from vfl.learn.told_sums import equations_a_tree
from vfl.models.kinds import expected_share
from vfl.party.config import Job, Party
from vfl.party.policy import (
    LIMITS,
    Counted,
    Usage,
    broken_by_job,
    broken_by_pool,
    check_age,
    check_coordinator,
    check_intersection,
    check_join,
    check_repeats,
    exceeds,
    rule_text,
    today,
)
from vfl.party.policy_section import PolicySection
from vfl.party.store import Store
from vfl.text import counted, shown_value

_LATER = {
    "an alignment": (
        "min_intersection",
        "max_intersection",
        "max_rows_an_id",
        "engines",
        "joins",
        "alignment_days",
        "kept_key_days",
        "max_ids_a_key",
    ),
    "a day of a guest": tuple(LIMITS.values()),
    "scoring": ("scoring", "min_scored_rows"),
    "scoring by lookups": (
        "directories",
        "directory_days",
        "min_changed_rows",
        "max_fetches_a_day",
        "max_lookups_a_minute",
    ),
    "open sums": ("min_summed_rows",),
    "tables by factors": ("oneway", "oneway_pairs", "min_cell_rows"),
    "screening of columns": (
        "screen",
        "told_correlations",
        "min_correlated_rows",
        "correlations_between_hosts",
    ),
    "what data is worth": ("worth",),
    "a search for settings": ("tune_trials",),
    "a job over rows": ("min_parties", "min_pooled_rows", "without"),
    "audits": ("audit", "unaudited", "auditor", "audit_days"),
    "a person's decision": (
        "approve",
        "approve_within",
        "max_approved_lookups",
        "approved_lookup_days",
    ),
    "columns": ("columns", "min_bin_rows", "show_names", "explain", "diagnose"),
    "standard errors and variance inflation": ("inference", "max_leverage", "told_columns"),
}
"""Rules that are held against a job when it runs, by what they are about."""


@dataclass(frozen=True)
class PolicyCheck:
    """What a policy says to a job."""

    broken: list[str]  # the rules that it breaks, a sentence each
    alignment: str | None  # the one that was looked at
    sums: WeighedSums | None  # of trees on it
    used: dict[Counted, int]  # what the guest has used up today
    notes: list[str] = field(default_factory=list)  # what else there is to say of the other rules


def examine_policy(
    party: Party,
    job: Job,
    guest: str | None,
    alignment: str | None,
    store: Store | None = None,
    weighed: WeighedSums | None = None,
) -> PolicyCheck:
    """Hold a job against a host's policy, on an alignment of its store: the latest, if none is named.

    `store`: the party's, where it is open; `weighed`: what the job's sums come to, where that is known
    better than by its file.

    Raises ModelError for an alignment that is not there, or damaged, and for damaged counts.
    """
    policy, store, on = party.policy, store or store_of(party), today()
    broken, notes = broken_by_job(policy, job, guest, on), []
    if job.over_rows:
        return _examine_pool(party, broken, {} if guest is None else Usage(store).of(guest, on), guest)
    aligned, sums, used = None, None, {}
    if (coordinator := job.params.coordinator) is not None:
        try:
            check_coordinator(party, coordinator)
        except ConfigError as error:
            broken.append(str(error))
    if alignment is not None or store.names("alignment"):
        aligned = find_alignment(store, alignment)
        broken += _broken_on(policy, store, aligned)
    params = job.params
    if isinstance(params, BoostParams):
        if aligned is not None:
            sums = weighed or SumsGiven(store, aligned).weigh(policy, params, expected_share(job))
            broken += [] if sums.broken is None else [sums.broken]
        notes.append(_sums_note(policy, params, aligned, sums))
    if guest is not None:
        used = Usage(store).of(guest, on)
        broken += _broken_today(policy, guest, used)
        if isinstance(params, GlmParams) and params.inference:
            broken += _broken_by(lambda: ColumnsGiven(store).check_room(policy, guest))
    notes += [_later(policy, about, rules, used) for about, rules in _LATER.items()]
    return PolicyCheck(broken, None if aligned is None else aligned.name, sums, used, notes)


def _examine_pool(
    party: Party, broken: list[str], used: dict[Counted, int], server: str | None
) -> PolicyCheck:
    """The same of a job over rows: with the parties of the party file, whose rows nobody knows yet."""
    policy = party.policy
    broken = broken + broken_by_pool(policy, len(party.clients) + 1)
    if server is not None:
        broken += _broken_today(policy, server, used)
    rules = {"the rows of all parties": ("min_pooled_rows",), "a day of a server": ("max_jobs_a_day",)}
    notes = [_later(policy, about, of, used) for about, of in rules.items()]
    return PolicyCheck(broken, None, None, used, notes)


def _broken_today(policy: PolicySection, starts: str, used: Mapping[Counted, int]) -> list[str]:
    """Whether who starts a job has had as many today as it may."""
    if not exceeds(used.get("jobs", 0) + 1, policy.max_jobs_a_day):
        return []
    return [
        f"{starts} has had {counted(used['jobs'], 'job')} today, which is all that rule "
        f"max_jobs_a_day = {policy.max_jobs_a_day} of [policy] allows"
    ]


def _broken_on(policy: PolicySection, store: Store, alignment: Alignment) -> list[str]:
    """The rules that training on an alignment breaks, whatever the job."""
    checks: list[Callable[[], None]] = [
        lambda: check_age(policy, alignment.name, made_on(store, alignment), today()),
        lambda: check_join(policy, alignment.join),
        lambda: check_intersection(policy, count_known_rows(alignment.rows)),
        lambda: check_repeats(policy, most_joined(alignment.rows)),
    ]
    return [text for check in checks for text in _broken_by(check)]


def _broken_by(check: Callable[[], None]) -> list[str]:
    """What a check refuses."""
    try:
        check()
    except Refused as refused:
        return [str(refused)]
    return []


def _sums_note(
    policy: PolicySection, params: BoostParams, alignment: Alignment | None, sums: WeighedSums | None
) -> str:
    """What open sums come to, or on how many rows they may be."""
    rule = f"max_sums_a_row = {rule_text(policy.max_sums_a_row)}"
    trees = counted(params.most_trees, "tree")
    if params.sums == "hidden":
        return f"hidden sums of {trees} count nothing against {rule}"
    if alignment is not None and sums is not None:
        earlier = f", after {sums.before:.3g} of earlier jobs" if sums.before else ""
        return (
            f"alignment {alignment.name}: {sums.job.equations_a_row:.3g} sums a row of {trees} over "
            f"{counted(sums.rows, 'row')} that train{earlier}; {rule}"
        )
    if isinstance(policy.max_sums_a_row, str):
        return f"no alignment is here yet; {rule}"
    # A tree tells most where rows are many, and then the same of all of them.
    most = params.most_trees * equations_a_tree(2**40, params)
    least = math.ceil(most / policy.max_sums_a_row)
    return f"no alignment is here yet: open sums of {trees} need {counted(least, 'row')}, by {rule}"


def _later(policy: PolicySection, about: str, rules: Iterable[str], used: Mapping[Counted, int]) -> str:
    """The rules that are held against a job when it runs, and what a guest has used up of them."""
    spent = {rule: used[what] for what, rule in LIMITS.items() if what in used}
    said = [
        f"{rule} = {shown_value(getattr(policy, rule))}"
        + (f" ({spent[rule]:,} today)" if rule in spent else "")
        for rule in rules
        if getattr(policy, rule) is not None
    ]
    return f"{about}: {', '.join(said)}"
