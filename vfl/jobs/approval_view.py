"""What whoever decides on a job is shown of it: who asks for what, and what it would tell whom."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import msgspec

from vfl.errors import ModelError
from vfl.jobs.alignments import Alignment, count_known_rows
from vfl.jobs.connect import Site
from vfl.jobs.names import began
from vfl.jobs.offer import Offer
from vfl.jobs.policy_check import examine_policy
from vfl.jobs.sums_given import SumsGiven, WeighedSums
from vfl.jobs.table_sizes import sizes_of
from vfl.leakage.disclosure import Circumstances, Disclosure, merged
from vfl.leakage.meter import disclosures
from vfl.learn.params import BoostParams
from vfl.models.kinds import expected_share
from vfl.party.approvals import Change, Learnt, Request, new_id, now
from vfl.party.config import Job
from vfl.party.kept_query import described
from vfl.party.ledger import JobEntry
from vfl.party.policy import LIMITS, Usage, rule_text, today
from vfl.party.table import Table
from vfl.text import counted, shown_value

_MOST = 400  # changes, or columns, that are kept

_ASKS: Mapping[str, str] = {
    "align": "which of its own rows all parties know, and how many ids this party has; with a left join "
    "which of them this party knows",
    "train": "a model of all parties' columns, and what its training shows, line by line below",
    "score": "scores of a batch, to which this party's columns add; which rows of the batch this party "
    "knows; this party learns which of its rows these are",
    "lookup": "this party's part of a model for each id that it looks up, and whether this party knows "
    "the id; this party learns how many, not which. An approval holds for all lookups of the model "
    "within the limits below",
    "oneway": "its own numbers added up by the levels of the columns below: how many rows each level "
    "has, and the sums",
    "screen": "how strong each of the columns below is by itself; of those that `oneway` allows the "
    "rows and sums of each level",
    "worth": "how good models are with and without this party's columns: several trainings, each of "
    "which shows what is below; no model is kept",
    "tune": "which settings do best: many trainings, each of which shows what is below; no model is "
    "kept",
}
"""By task, what the guest would get."""


@dataclass(frozen=True)
class Brought:
    """What this party would bring to a job: the columns that it would use, of a training the rest."""

    columns: Sequence[str] = ()
    job: Job | None = None
    table: Table | None = None
    alignment: Alignment | None = None
    given: SumsGiven | None = None
    trainings: int = 1


def request_of(
    site: Site, offer: Offer, entry: JobEntry, subject: str, brought: Brought | None
) -> Request:
    """The request of a job, with what there is to say of it. `entry`: as the ledger names the job.

    Raises ModelError for damaged counts.
    """
    party, brought = site.party, brought or Brought()
    asked = datetime.now(UTC).replace(microsecond=0)
    until = asked + timedelta(seconds=party.policy.approve_within)
    found = Request(
        id=new_id(),
        asked=now(),
        until=until.isoformat(),
        subject=subject,
        guest=entry.peer,
        task=offer.task,
        run=entry.run,
        hosts=[*offer.hosts],
        job=entry.job,
        purpose=entry.purpose,
        model=offer.model,
        alignment=offer.alignment,
        table=described(party.data),
        columns=[*brought.columns][:_MOST],
        asks=_ASKS[offer.task],
        budget=_used_today(site, entry.peer) + _of_lookups(site, offer),
    )
    if brought.alignment is not None:
        found = _with(found, rows=count_known_rows(brought.alignment.rows))
    if brought.job is None:
        return found
    return _of_training(site, offer, found, brought, brought.job)


def _of_training(site: Site, offer: Offer, found: Request, brought: Brought, job: Job) -> Request:
    """With what a job of trainings shows, and how it differs from the last one of its name."""
    party = site.party
    last, changes = _changes(site, job, found.guest)
    alignment = None if brought.alignment is None else brought.alignment.name
    budget, weighed = [*found.budget], _weighed(site, offer, brought, job)
    checked = examine_policy(party, job, found.guest, alignment, site.store, weighed)
    if weighed is not None:
        what = "what is left of this" if offer.done else "this"
        budget.append(
            f"open sums about a row: {weighed.before:.3g} of earlier jobs, "
            f"{weighed.job.equations_a_row * brought.trainings:.3g} by {what} job, of "
            f"{shown_value(party.policy.max_sums_a_row)} that max_sums_a_row allows"
        )
    if brought.trainings > 1:
        budget.append(f"the job is of {counted(brought.trainings, 'training')}, each as below")
    return _with(
        found,
        job=job.name,
        purpose=job.job.purpose,
        kind=f"{job.job.model}, {job.objective}",
        learns=[_line(one) for one in _learns(site, offer, found.guest, brought, job, weighed)],
        budget=budget,
        policy=[f"it breaks: {rule}" for rule in checked.broken] + checked.notes,
        last=last,
        changes=changes,
    )


def _with(found: Request, **fields: object) -> Request:
    return msgspec.structs.replace(found, **fields)


def _used_today(site: Site, guest: str) -> list[str]:
    """What is counted of the guest's day, beside its limits."""
    used = Usage(site.store).of(guest, today())
    policy = site.party.policy
    return [
        f"{what.replace('_', ' ')} of {guest} today: {many:,}, of "
        f"{shown_value(getattr(policy, LIMITS[what]))}"
        for what, many in used.items()
    ]


def _of_lookups(site: Site, offer: Offer) -> list[str]:
    """For how many lookups and how long an approval of them would hold."""
    policy, rules = site.party.policy, ("max_approved_lookups", "approved_lookup_days")
    if offer.task != "lookup":
        return []
    said = " and ".join(f"{rule} = {shown_value(getattr(policy, rule))}" for rule in rules)
    return [f"an approval holds for later sessions, too, by {said}"]


def _weighed(site: Site, offer: Offer, brought: Brought, job: Job) -> WeighedSums | None:
    """What earlier jobs have told or reserved and what this one would tell: all lines of a request that
    say "of earlier jobs" have the figure from here. None where no sums of trees are counted."""
    if brought.given is None or not isinstance(job.params, BoostParams):
        return None
    share = _share(offer, brought, job)
    return brought.given.weigh(site.party.policy, job.params, share, offer.done)


def _share(offer: Offer, brought: Brought, job: Job) -> float:
    """The share of the aligned rows that train."""
    if offer.training is None or brought.alignment is None or not len(brought.alignment.rows):
        return expected_share(job)
    return min(1.0, offer.training / len(brought.alignment.rows))


def _learns(
    site: Site, offer: Offer, guest: str, brought: Brought, job: Job, weighed: WeighedSums | None
) -> Sequence[Disclosure]:
    """What the guest and the others could learn of this party's columns by one training."""
    party = site.party
    if job.over_rows:
        # Its attacks are made with libraries that no job needs.
        from vfl.jobs.leakage import foresee

        return foresee(party, job, guest=guest).found
    if brought.alignment is None:
        return []
    name, rows = party.name, brought.alignment.rows
    others = [host for host in offer.hosts if host != name]
    most = party.policy.max_sums_a_row
    of = Circumstances(
        guest,
        [name, *others],
        len(rows),
        given=0.0 if weighed is None else weighed.before,
        known=count_known_rows(rows),
        allowed=math.inf if isinstance(most, str) else most,
        training=_share(offer, brought, job),
    )
    if brought.table is not None and party.party.cluster is None:
        sizes = sizes_of(brought.table, party, job)
        of = replace(of, candidates={name: sizes.candidates}, columns={name: sizes.of_design})
    found = merged(disclosures(of, job.params, job.loss.link == "logit"))
    return [one for one in found if one.who != name]


def _line(one: Disclosure) -> Learnt:
    less = one.lower[0] if one.lower else ""
    return Learnt(one.who, one.about, one.what, one.number, one.chance, one.how, less)


# --- What has changed since the last job of the name. ------------------------------------------------


def _changes(site: Site, job: Job, guest: str) -> tuple[str | None, list[Change]]:
    """The model of the newest run of a job of this name and guest, and the settings that differ."""
    last = last_run(site, job.name, guest)
    if last is None:
        return None, []
    model, settings = last
    return model, differences(settings, job.settings)[:_MOST]


def last_run(site: Site, job: str, guest: str) -> tuple[str, Mapping[str, object]] | None:
    """The model and the settings of the newest run of a job, if there is one that can be read."""
    store = site.store
    for name in sorted(store.names("run"), key=began, reverse=True):
        if not job.startswith(name.rsplit("-", 3)[0]):
            continue
        try:
            body = store.read("run", name)
            if body["job"]["job"]["name"] == job and guest in body["parties"]:
                return name, body["job"]
        except (ModelError, KeyError, TypeError):
            continue
    return None


def differences(before: Mapping[str, object], after: Mapping[str, object]) -> list[Change]:
    """The settings that differ between two jobs, by their names in the job file."""
    old, new = flat(before), flat(after)
    return [
        Change(name, old.get(name, ""), new.get(name, ""))
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]


def flat(settings: Mapping[str, object], within: str = "") -> dict[str, str]:
    """Every setting by its name: `secureboost.trees`."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        name = f"{within}{key}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{name}.")
        elif value is not None:
            found[name] = rule_text(value)[:200]
    return found
