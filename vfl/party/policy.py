"""A host's own rules, [policy] in its party file, held against what a guest asks for.

The host checks them itself, whatever the guest says. Rules and limits are no secret: a guest that breaks
some is told which. What a host counts by the day lies in its store and outlives a restart; days are UTC.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from vfl.blocks.columns import choose_columns
from vfl.errors import BrokenRule, ConfigError, DayIsFull, RateIsFull, Refused
from vfl.learn.binning import Features
from vfl.learn.params import BoostParams, GlmParams
from vfl.party.config import Job, Party
from vfl.party.config_values import Engine, FractionLimit, JoinKind, Limit
from vfl.party.counts import Counts
from vfl.party.policy_section import PolicySection
from vfl.party.store import Store
from vfl.text import counted, nearest_name

Counted = Literal["jobs", "scored_rows", "alignments", "ids"]
LIMITS: dict[Counted, str] = {
    "jobs": "max_jobs_a_day",
    "scored_rows": "max_scored_rows_a_day",
    "alignments": "max_alignments_a_day",
    "ids": "max_ids_a_day",
}
"""What is counted by the day, and the rule that limits it."""


@dataclass(frozen=True)
class Sides:
    """What the two sides of a policy are called: who starts jobs, and who allows them."""

    starts: str
    allows: str


OVER_COLUMNS, OVER_ROWS = Sides("guest", "host"), Sides("server", "party")


def sides_of(party: Party) -> Sides:
    """Those of the jobs that this party allows or refuses."""
    return OVER_ROWS if party.role == "guest" else OVER_COLUMNS


def today() -> date:
    """The day that the rules mean."""
    return datetime.now(UTC).date()


def broken_by_any(
    policy: PolicySection, guest: str | None, on: date, sides: Sides = OVER_COLUMNS
) -> list[str]:
    """The rules that any job of this guest breaks on this day, a sentence each; of no guest in
    particular if None."""
    broken: list[str] = []
    if policy.expires is not None and on > policy.expires:
        rule = f"rule expires = {policy.expires} of [policy]"
        text = f"the day {on} breaks {rule}: {remedy('expires', sides)}"
        broken.append(BrokenRule(text, "expires"))
    if guest is not None and policy.guests is not None and guest not in policy.guests:
        broken.append(_breach(f"the {sides.starts} {guest}", policy, "guests", sides))
    return broken


def broken_by_job(policy: PolicySection, job: Job, guest: str | None, on: date) -> list[str]:
    """The rules that training this job breaks, a sentence each, in the order of [policy]."""
    sides = OVER_ROWS if job.over_rows else OVER_COLUMNS
    broken = broken_by_any(policy, guest, on, sides)
    section, params, label = job.job, job.params, job.job.label_key
    broken += broken_by_purpose(policy, section.purpose, sides)
    for what, value, rule in (
        ("model", section.model, "models"),
        (label, getattr(section, label), "objectives"),
    ):
        if (allowed := getattr(policy, rule)) is not None and value not in allowed:
            broken.append(broken_setting(what, value, policy, rule, sides))
    if job.over_rows:
        if job.rows.without and job.rows.min_parties < policy.min_parties:
            broken.append(
                broken_setting("min_parties", job.rows.min_parties, policy, "min_parties", sides)
            )
        if job.rows.without and not policy.without:
            broken.append(broken_setting("without", True, policy, "without", sides))
        least = ["min_child_rows"]
    else:
        least = ["min_child_rows"] if params.encryption == "lattice" else ["min_child_rows", "key_bits"]
    broken += [
        broken_setting(key, getattr(params, key), policy, key, sides)
        for key in least
        if hasattr(params, key) and getattr(params, key) < getattr(policy, key)
    ]
    if not job.over_rows and params.encryption not in policy.encryptions:
        broken.append(broken_setting("encryption", params.encryption, policy, "encryptions", sides))
    if not (job.over_rows or policy.exact_zeros) and isinstance(params, GlmParams) and params.l1_ratio:
        broken.append(broken_setting("l1_ratio", params.l1_ratio, policy, "exact_zeros", sides))
    if not job.over_rows and isinstance(params, GlmParams) and params.inference:
        if not policy.inference:
            broken.append(broken_setting("inference", True, policy, "inference", sides))
        elif "lattice" not in policy.encryptions and params.encryption != "lattice":
            broken.append(_breach("inference = true", policy, "encryptions", sides))
        if exceeds(params.max_leverage, policy.max_leverage):
            broken.append(
                broken_setting("max_leverage", params.max_leverage, policy, "max_leverage", sides)
            )
    if not job.over_rows and isinstance(params, GlmParams) and params.across:
        if not policy.interactions_across:
            broken.append(_breach("across", policy, "interactions_across", sides))
        elif params.across_rows < policy.min_cell_rows:
            broken.append(
                broken_setting("across_rows", params.across_rows, policy, "min_cell_rows", sides)
            )
    if isinstance(params, GlmParams) and params.fits > 1:
        if exceeds(params.iterations, policy.max_iterations):
            broken.append(_too_many_fits(policy, params, sides))
        limits: tuple[tuple[str, str], ...] = ()
    elif isinstance(params, BoostParams) and params.round > 1:
        limits = ()
        if exceeds(params.most_trees, policy.max_trees):
            what = f"{counted(params.most_trees, 'tree')} (trees = {params.trees}, each of which is of "
            what += f"{params.round} classes)"
            text = f"{what} break {rule_words(policy, 'max_trees')}: {remedy('max_trees', sides)}"
            broken.append(BrokenRule(text, "max_trees"))
    else:
        limits = (("trees", "max_trees"), ("max_iterations", "max_iterations"))
    for key, rule in limits:
        if hasattr(params, key) and exceeds(getattr(params, key), getattr(policy, rule)):
            broken.append(broken_setting(key, getattr(params, key), policy, rule, sides))
    if job.over_rows:
        return broken
    ordered = isinstance(params, BoostParams) and params.ordered_categories == "all"
    if ordered and not policy.category_groups:
        broken.append(broken_setting("ordered_categories", "all", policy, "category_groups", sides))
    if policy.hidden_sums and isinstance(params, BoostParams) and params.sums != "hidden":
        broken.append(broken_setting("sums", params.sums, policy, "hidden_sums", sides))
    if policy.hidden_scores and isinstance(params, GlmParams) and params.scores != "hidden":
        broken.append(broken_setting("scores", params.scores, policy, "hidden_scores", sides))
    return broken


def _too_many_fits(policy: PolicySection, params: GlmParams, sides: Sides) -> str:
    """What breaks the rule on iterations in several fits, and by which settings either side mends it."""
    most = int(policy.max_iterations) // params.fits
    each = f"{params.max_iterations:,} (max_iterations in [glm]) in each of {params.fits} fits"
    what = f"{counted(params.iterations, 'iteration')}, {each}"
    ways = [f"set max_iterations = {most} in [glm]"] if most else []
    ways += ["name fewer alphas or folds"] if params.alphas else []
    ways += ["leave profile out"] if params.profile else []
    text = (
        f"{what} breaks {rule_words(policy, 'max_iterations')}: {' or '.join(ways)}, or the "
        f"{sides.allows} sets max_iterations = {params.iterations} there"
    )
    return BrokenRule(text, "max_iterations")


def broken_by_purpose(policy: PolicySection, purpose: str, sides: Sides) -> list[str]:
    patterns = policy.purposes
    if patterns is None or any(fnmatchcase(purpose, _literal(pattern)) for pattern in patterns):
        return []
    return [broken_setting("purpose", purpose, policy, "purposes", sides)]


def broken_by_pool(policy: PolicySection, parties: int | None, rows: int | None = None) -> list[str]:
    """The rules that a job over the rows of so many parties breaks, of so many rows that train."""
    broken = []
    if parties is not None and parties < policy.min_parties:
        broken.append(broken_setting("the number of parties", parties, policy, "min_parties", OVER_ROWS))
    if rows is not None and rows < policy.min_pooled_rows:
        broken.append(
            broken_setting("the rows of all parties", rows, policy, "min_pooled_rows", OVER_ROWS)
        )
    return broken


def check_guest(party: Party, guest: str) -> None:
    """Raises ConfigError for a guest that is no peer, whose jobs the party would not even hear of."""
    over_rows = party.role == "guest"
    known = party.coordinators if over_rows else party.partners
    if guest not in known:
        near = nearest_name(guest, known)
        hint = f"did you mean {near}?" if near else f"it has {', '.join(known)}"
        what = "the server of a job over rows" if over_rows else "a guest"
        raise ConfigError(f"[peers] has no {rule_text(guest)} that could be {what}: {hint}")


def check_job(policy: PolicySection, job: Job, guest: str, on: date) -> None:
    """Raises Refused naming the rules that training this job breaks."""
    refuse(broken_by_job(policy, job, guest, on))


def check_align(
    policy: PolicySection, guest: str, on: date, engine: Engine = "ecdh", join: JoinKind = "inner"
) -> None:
    """Raises Refused naming the rules that an alignment breaks before it starts."""
    broken = broken_by_any(policy, guest, on) + _broken_by_engine(policy, engine)
    refuse(broken + _broken_by_join(policy, join))


def check_join(policy: PolicySection, join: JoinKind) -> None:
    """Raises Refused for an alignment whose kind of join this party does not take part in."""
    refuse(_broken_by_join(policy, join))


def _broken_by_join(policy: PolicySection, join: JoinKind) -> list[str]:
    return [] if join in policy.joins else [broken_setting("join", join, policy, "joins")]


def check_score(policy: PolicySection, guest: str, on: date, engine: Engine = "ecdh") -> None:
    """Raises Refused naming the rules that scoring breaks before it starts."""
    broken = broken_by_any(policy, guest, on)
    if not policy.scoring:
        broken.append(_breach("scoring", policy, "scoring"))
    refuse(broken + _broken_by_engine(policy, engine))


def check_lookup(policy: PolicySection, guest: str, on: date) -> None:
    """Raises Refused naming the rules that lookups break, and directories to be fetched for them."""
    broken = broken_by_any(policy, guest, on)
    for rule, what in (("scoring", "scoring"), ("directories", "a sealed directory")):
        if not getattr(policy, rule):
            broken.append(_breach(what, policy, rule))
    refuse(broken)


def check_oneway(
    policy: PolicySection, purpose: str, guest: str, on: date, *, pair: bool = False
) -> None:
    """Raises Refused naming the rules that a table by this party's factors breaks before it starts.
    pair: whether it is by another host's, too."""
    broken = broken_by_any(policy, guest, on) + broken_by_purpose(policy, purpose, OVER_COLUMNS)
    if policy.oneway is False:
        broken.append(_breach("a table", policy, "oneway"))
    if pair and not policy.oneway_pairs:
        broken.append(_breach("a table with another host's factor", policy, "oneway_pairs"))
    refuse(broken)


def check_worth(policy: PolicySection, job: Job, guest: str, on: date) -> None:
    """Raises Refused naming the rules that finding out what data is worth to a job breaks."""
    broken = [] if policy.worth else [_breach("what its data is worth", policy, "worth")]
    refuse(broken + broken_by_job(policy, job, guest, on))


def check_tune(policy: PolicySection, jobs: Sequence[Job], trials: int, guest: str, on: date) -> None:
    """Raises Refused naming the rules that a search breaks; jobs: those of its most extreme trials."""
    broken = []
    if exceeds(trials, policy.tune_trials):
        broken.append(_breach(f"a search of {counted(trials, 'trial')}", policy, "tune_trials"))
    for job in jobs:
        broken += broken_by_job(policy, job, guest, on)
    refuse(dict.fromkeys(broken))


def check_auditable(policy: PolicySection, *, tape: bool) -> None:
    """Raises Refused for a training that could not be audited, where the policy has trainings audited.
    tape: whether the guest keeps one of it."""
    if policy.audit and not tape:
        refuse([_breach("a training of which the guest keeps no tape", policy, "audit")])


def check_columns(policy: PolicySection, model: str, columns: Collection[str]) -> None:
    """Raises Refused for a model of columns that may not enter one any more."""
    if policy.columns is not None and not set(columns) <= set(policy.columns):
        raise Refused(
            f"model {model} has columns that rule columns of [policy] leaves out: train again, or "
            "the host adds them there"
        )


def limit_breach(what: str, policy: PolicySection, rule: str) -> str:
    """What breaks a limit, the rule with its value, and what either side can do."""
    return _breach(what, policy, rule)


def check_rate(policy: PolicySection, lookups: int, seconds: float) -> None:
    """Raises RateIsFull for so many lookups in a minute that has `seconds` left."""
    if exceeds(lookups, policy.max_lookups_a_minute):
        what = f"{counted(lookups, 'lookup')} in a minute"
        raise RateIsFull(_breach(what, policy, "max_lookups_a_minute"), seconds)


def _broken_by_engine(policy: PolicySection, engine: Engine) -> list[str]:
    return [] if engine in policy.engines else [broken_setting("engine", engine, policy, "engines")]


def check_coordinator(party: Party, name: str) -> str:
    """The coordinator's address. Raises ConfigError when the party file has no such coordinator."""
    peer = party.peers.get(name)
    if peer is None or peer.role != "coordinator" or peer.address is None:
        text = (
            f"the job's coordinator is {name}: {party.name}'s party file needs [peers.{name}] "
            'with its address, its certificate and role = "coordinator"'
        )
        raise ConfigError(text, for_peer=text)
    return peer.address


def check_age(policy: PolicySection, name: str, made: date, on: date) -> None:
    """Raises Refused for an alignment that is too old to be used."""
    last = last_day(made, policy.days_of_use)
    if last is not None and on > last:
        refuse([_breach(f"alignment {name} of {made}", policy, "alignment_days")])


def last_day(made: date, days: int | None) -> date | None:
    """The last day on which an alignment is of use; None where it is for ever."""
    try:
        return None if days is None else made + timedelta(days)
    except OverflowError:
        return None


def exceeds(value: float, most: Limit | FractionLimit) -> bool:
    """Whether a value is more than a limit allows."""
    return not isinstance(most, str) and value > most


def check_repeats(policy: PolicySection, most: int) -> None:
    """Raises Refused when the guest joins too many rows to one of this party's."""
    if exceeds(most, policy.max_rows_an_id):
        refuse([_breach(f"{counted(most, 'row')} joined to one row", policy, "max_rows_an_id")])


def check_intersection(policy: PolicySection, rows: int, *, most: bool = True) -> None:
    """Raises Refused for an alignment with too few or, if `most`, too many rows of this party."""
    for rule, breach in (
        ("min_intersection", rows < policy.min_intersection),
        ("max_intersection", most and exceeds(rows, policy.max_intersection)),
    ):
        if breach:
            refuse([_breach(f"an alignment of {counted(rows, 'row')}", policy, rule)])


def check_batch(policy: PolicySection, rows: int) -> None:
    """Raises Refused for a batch of which this party knows too few rows, but some."""
    if 0 < rows < policy.min_scored_rows:
        known = counted(rows, "row")
        refuse([_breach(f"a batch of {known} known to the host", policy, "min_scored_rows")])


def allowed_columns(
    policy: PolicySection, features: Features, table: str, faults: Collection[str] = ()
) -> Features:
    """The columns that may enter a model; `faults` are those that cannot be used as they are.

    Raises ConfigError for a rule about a column that is none.
    """
    if policy.columns is None:
        return features
    for name in policy.columns:
        if name not in features and name not in faults:
            raise ConfigError(f"[policy] columns has {name!r}, which is no feature of {table}")
    return choose_columns(features, [name for name in features if name in policy.columns])


_MORE: dict[Counted, Callable[[int], str]] = {
    "jobs": lambda many: "another job" if many == 1 else f"{many} more jobs",
    "scored_rows": lambda many: f"{counted(many, 'more row')} to score",
    "alignments": lambda _: "another alignment",
    "ids": lambda many: f"{counted(many, 'more id')} to look for",
}


def widened(policy: PolicySection) -> list[str]:
    """The rules that allow more than by default, with both values, in the order of [policy]."""
    usual = PolicySection(min_bin_rows=PolicySection().min_child_rows)
    found = []
    for rule in PolicySection.model_fields:
        value, default = getattr(policy, rule), getattr(usual, rule)
        if _allows_more(rule, value, default):
            found.append(f"{rule} = {rule_text(value)} (by default {rule_text(default)})")
    return found


def _allows_more(rule: str, value: object, default: object) -> bool:
    if value is None or default is None or rule.startswith(("hidden_", "approve_", "audit")):
        return False
    if isinstance(default, bool):
        return value is not False and not default
    if isinstance(default, tuple) and isinstance(value, tuple):
        return not set(value) <= set(default)
    if not isinstance(default, int | float):  # no limit
        return False
    if not isinstance(value, int | float):
        return True
    return value < default if rule.startswith("min_") or rule == "key_bits" else value > default


_LIST = "use one of these, or the {allows} adds it there"
_LOWER = "lower it in the job, or the {allows} raises the rule"
_RAISE = "raise it in the job, or the {allows} lowers the rule"
_TOMORROW = "try again tomorrow (UTC), or the {allows} raises the rule"
_REMEDIES = {
    "guests": "the {allows} adds it there if it may start jobs",
    "purposes": _LIST,
    "models": _LIST,
    "objectives": _LIST,
    "min_intersection": "bring more rows that all parties have, or the {allows} lowers the rule",
    "max_intersection": "bring fewer rows, or the {allows} raises the rule",
    "max_rows_an_id": 'set duplicates = "first" in [data], or the {allows} raises the rule',
    "engines": _LIST,
    "joins": _LIST,
    "alignment_days": "run `vfl align` again",
    "max_alignments_a_day": _TOMORROW,
    "max_ids_a_day": _TOMORROW,
    "min_child_rows": _RAISE,
    "encryptions": "use one of these, or the {allows} adds it there if it trusts the {starts} with it",
    "key_bits": _RAISE,
    "exact_zeros": "leave it out of [glm], or the {allows} sets it to true",
    "inference": "leave it out of [glm], or the {allows} sets it to true, with lattice among its "
    "encryptions",
    "max_leverage": _LOWER,
    "told_columns": "ask with fewer columns, or without inference in [glm] and vif in [screen], or the "
    "{allows} raises the rule",
    "min_cell_rows": _RAISE,
    "interactions_across": "leave it out of [glm], or the {allows} sets it to true",
    "min_parties": "as many parties, and min_parties in [rows], or the {allows} lowers the rule",
    "min_pooled_rows": "more parties, or more rows, or the {allows} lowers the rule",
    "without": "leave it out of [rows], so that the job ends when a party is gone, or the {allows} sets "
    "it to true if the others may learn what its rows alone come to",
    "max_trees": _LOWER,
    "min_summed_rows": "draw more rows, or the {allows} lowers the rule",
    "max_iterations": _LOWER,
    "category_groups": 'set ordered_categories = "guest" or leave it out of [secureboost], or the '
    "{allows} sets it to true if the {starts} may see which sums are of one column",
    "hidden_sums": 'set sums = "hidden" and a coordinator, or the {allows} takes the rule out',
    "hidden_scores": 'set scores = "hidden" and a coordinator, or the {allows} takes the rule out',
    "max_jobs_a_day": _TOMORROW,
    "audit": 'set tape = "all" in [party] of the {starts} (docs/audit.md), or the {allows} sets audit '
    "to 0",
    "scoring": "the {allows} sets it to true if its columns may be scored with",
    "min_scored_rows": "score more rows at a time, or the {allows} lowers the rule",
    "max_scored_rows_a_day": _TOMORROW,
    "directories": 'set lookup = "aligned" in [score], or in [peers.NAME] for one host, or the {allows} '
    "sets it to true",
    "max_fetches_a_day": _TOMORROW,
    "max_lookups_a_minute": "look up fewer rows at a time, or the {allows} raises the rule",
    "oneway": "the {allows} sets it to true, or names its columns there, if the {starts} may have them",
    "oneway_pairs": "ask for a factor of one host, or the {allows} sets it to true if the {starts} and "
    "the other host do not work together",
    "screen": "the {allows} sets it to true, or names columns there, if the {starts} may know how "
    "strong they are",
    "told_correlations": "set correlations = false in [screen], ask with fewer columns, or the {allows} "
    "raises the rule",
    "min_correlated_rows": "bring more rows, or the {allows} lowers the rule",
    "worth": "the {allows} sets it to true if the {starts} may train on its columns to judge them",
    "tune_trials": "lower trials in [tune], or the {allows} raises the rule",
    "max_approved_lookups": "ask again, and a person at the {allows} decides anew, or the {allows} "
    "raises the rule",
    "approved_lookup_days": "ask again, and a person at the {allows} decides anew",
    "expires": "the {allows} sets a later day if the agreement goes on",
}
"""By rule, what to do about a job that breaks it: who starts it, or who allows it."""

_Guests = dict[str, dict[Counted, int]]


class _Used(msgspec.Struct):
    """What is counted of a day, and of the day before it that had any counts."""

    day: date
    guests: _Guests
    before: tuple[date, _Guests] | None = None


_DECODER = msgspec.json.Decoder(_Used)


class Usage:
    """What each guest has used up today, in a file of the host's store.

    Sessions and processes that share the file count together.
    """

    def __init__(self, store: Store, sides: Sides = OVER_COLUMNS) -> None:
        self._sides, remedy = sides, "remove it to count this day anew"
        self._counts = Counts(store, "usage", _DECODER, remedy, "the day's jobs")

    def count(self, policy: PolicySection, guest: str, what: Counted, many: int, on: date) -> None:
        """Count, before it is done. Raises Refused when it would be more than the policy's limit, and
        then counts nothing; ModelError when the file is damaged, DataError when it cannot be written.
        """
        with self._counts.in_turn():
            used = self._read(on)
            self._check_room(used, policy, guest, what, many)
            counts = used.guests.setdefault(guest, {})
            counts[what] = counts.get(what, 0) + many
            self._counts.write(used)

    def check_room(self, policy: PolicySection, guest: str, what: Counted, many: int, on: date) -> None:
        """Raises as `count` where so many could not be counted on the day, and counts nothing."""
        self._check_room(self._read(on), policy, guest, what, many)

    def _check_room(
        self, used: _Used, policy: PolicySection, guest: str, what: Counted, many: int
    ) -> None:
        if exceeds(used.guests.get(guest, {}).get(what, 0) + many, getattr(policy, LIMITS[what])):
            more = _MORE[what](many)
            raise DayIsFull(_breach(f"{more} on {used.day}", policy, LIMITS[what], self._sides))

    def of(self, guest: str, on: date) -> dict[Counted, int]:
        """What a guest has used up on a day so far. Raises ModelError when the file is damaged."""
        return self._read(on).guests.get(guest, {})

    def _read(self, on: date) -> _Used:
        used = self._counts.read()
        if used is None:
            return _Used(on, {})
        if on > used.day:
            return _Used(on, {}, (used.day, used.guests))
        # A clock that is set back does not begin a day again.
        return used if on >= used.day - timedelta(1) else _back(used, on)


def _back(used: _Used, on: date) -> _Used:
    """Counts of a day far ahead: the clock was wrong, and would be waited for. They are today's, with
    what had been counted today before."""
    guests = used.guests
    if used.before is not None and used.before[0] >= on:
        for guest, counts in used.before[1].items():
            own = guests.setdefault(guest, {})
            for what, many in counts.items():
                own[what] = own.get(what, 0) + many
    return _Used(on, guests)


def _literal(pattern: str) -> str:
    """A pattern in which * alone has a meaning."""
    return pattern.replace("[", "[[]").replace("?", "[?]")


def broken_setting(
    what: str, value: object, policy: PolicySection, rule: str, sides: Sides = OVER_COLUMNS
) -> str:
    return _breach(f"{what} = {rule_text(value)}", policy, rule, sides)


def _breach(what: str, policy: PolicySection, rule: str, sides: Sides = OVER_COLUMNS) -> str:
    """What breaks a rule, the rule with its value, and what either side can do."""
    return BrokenRule(f"{what} breaks {rule_words(policy, rule)}: {remedy(rule, sides)}", rule)


def remedy(rule: str, sides: Sides) -> str:
    return _REMEDIES[rule].format(starts=sides.starts, allows=sides.allows)


def rule_words(policy: PolicySection, rule: str) -> str:
    """A rule with its value in words, and whether the party file has it."""
    usual = "" if rule in policy.model_fields_set else " (the default)"
    return f"rule {rule} = {rule_text(getattr(policy, rule))} of [policy]{usual}"


def rules_in(text: str) -> list[str]:
    """The rules that a refusal names, as `rule_words` writes them."""
    return [rule for rule in re.findall(r"\brule (\w+) = ", text) if rule in PolicySection.model_fields]


def rule_text(value: object) -> str:
    """A value as the party file has it."""
    return json.dumps(value, ensure_ascii=False, default=str)


def refuse(broken: Iterable[str]) -> None:
    found = [*broken]
    if text := "; ".join(found):
        raise Refused(text, rules=tuple(one.rule for one in found if isinstance(one, BrokenRule)))
