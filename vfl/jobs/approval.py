"""A person of a host decides on a job: the host asks, waits and signs; the guest waits with it.

1. A host whose policy has `approve = "person"` holds an Offer against its rules as ever, then writes
   down what is asked (vfl/party/approvals.py) and sends Waiting.
2. Somebody decides, with `vfl approvals` or in `vfl console`. The decision goes into the ledger.
3. Approved, the host's Accept has when that was, signed; refused, or with nobody there in time, it sends
   Stop with the reason, as for a rule.

An approval holds for one job. A training goes on under it for a week, at most ten times, where this
party itself has kept steps of that very run: what a guest says to have done counts for nothing. A
search, of which a host keeps nothing, is asked about each time; lookups of a model go on as long as
`approved_lookup_days` and `max_approved_lookups` say. A party whose [data] names another table or query
by then is asked anew, too.
"""

import asyncio
import hashlib
import time
from datetime import UTC, datetime, timedelta
from weakref import WeakKeyDictionary

import msgspec

from vfl.errors import Refused
from vfl.jobs.approval_view import Brought, request_of
from vfl.jobs.approved import approval_statement
from vfl.jobs.connect import Site
from vfl.jobs.lookup_limits import is_old
from vfl.jobs.offer import Approved, Offer, Terms, Waiting
from vfl.jobs.resume import kept_runs
from vfl.jobs.show import Show
from vfl.net.peer import Peer
from vfl.net.wire import encode
from vfl.party.approval_uses import ApprovalUses
from vfl.party.approvals import Approvals, Asked, Decision, Request
from vfl.party.documents import canonical_json
from vfl.party.kept_query import rows_of
from vfl.party.ledger import DecisionEntry

_LOOK = 0.5  # seconds between two looks for a decision
_HOLDS = timedelta(days=7)  # an approval of a training
_RESUMED = 10  # times that a training goes on under it: each may repeat the steps after the last state
_REFUSAL_HOLDS = timedelta(days=1)  # of lookups, which are asked for again and again


async def approve(
    site: Site, peer: Peer, offer: Offer, show: Show, brought: Brought | None = None
) -> Approved | None:
    """Have a person decide on a job that the rules allow, where the policy asks for one.

    Returns what Accept says of it, None where nobody is asked. Raises Refused for a job that was refused
    or that nobody decided on in time, DataError where the request cannot be written.
    """
    if site.party.policy.approve != "person":
        return None
    terms, subject = offer.terms(peer.name), subject_of(site, peer, offer)
    if offer.task != "lookup":
        return await _decided(site, peer, offer, show, brought, subject, terms)
    turns = _turns.setdefault(asyncio.get_running_loop(), {})
    async with turns.setdefault(f"{site.store.root} {subject}", asyncio.Lock()):
        # Of sessions that ask for the same lookups the first one asks, the others take its answer.
        return await _decided(site, peer, offer, show, brought, subject, terms)


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Lock]] = WeakKeyDictionary()


async def _decided(
    site: Site,
    peer: Peer,
    offer: Offer,
    show: Show,
    brought: Brought | None,
    subject: str,
    terms: Terms,
) -> Approved:
    approvals = Approvals(site.store)
    earlier = await asyncio.to_thread(_earlier, site, approvals, offer, subject)
    if earlier is not None and earlier.decision is not None:
        if earlier.state == "refused":
            raise _refused(site, earlier.decision)
        show.say(f"approved before: request {earlier.request.id}")
        return _signed(site, terms, earlier.decision)
    within = site.party.policy.approve_within
    await peer.send(Waiting(within))
    entry = site.journal.entry_of(peer.name, encode(offer))
    if entry is None:
        raise AssertionError("an Offer that is none")
    drawn = await asyncio.to_thread(request_of, site, offer, entry, subject, brought)
    with approvals.open(drawn) as request:
        show.say(
            f"the job waits for a person's approval, {within:,} s at most: "
            f"`vfl approvals show PARTY.toml {request.id}`"
        )
        decision = await _wait(site, approvals, request, within, show)
    _write_down(site, request, decision, show)
    if decision.outcome != "approved":
        raise _refused(site, decision)
    show.say(f"approved by {decision.who}")
    return _signed(site, terms, decision)


def subject_of(site: Site, peer: Peer, offer: Offer) -> str:
    """What is asked, in a digest: the same for a job that goes on, of this guest's certificate, about
    what [data] of this party names as its table. No peer is sent it.

    Of what is signed only the run and the steps done are left out.
    """
    terms = msgspec.to_builtins(offer.terms(peer.name))
    asked = {key: value for key, value in terms.items() if key not in ("run", "done")}
    about = [asked, site.pinned[peer.name].fingerprint, rows_of(site.party.data)]
    return hashlib.sha256(canonical_json(about)).hexdigest()


def _earlier(site: Site, approvals: Approvals, offer: Offer, subject: str) -> Asked | None:
    """The request whose decision holds for this job, too; that a training goes on under it is counted.
    Raises ModelError for damaged counts."""
    found = [
        one
        for one in approvals.every()
        if one.request.subject == subject and one.state in ("approved", "refused")
    ]
    if not found or found[0].decision is None:
        return None
    newest, decided, uses = found[0], found[0].decision.when, ApprovalUses(site.store)
    age = datetime.now(UTC) - datetime.fromisoformat(decided)
    if offer.task == "lookup":
        if newest.state == "refused":
            return newest if age < _REFUSAL_HOLDS else None
        if is_old(decided, site.party.policy.approved_lookup_days):
            return None
        return newest if uses.holds(subject, decided) else None
    holds = newest.state == "approved" and age < _HOLDS and _goes_on(site, offer)
    return newest if holds and uses.resume(subject, decided, _RESUMED) else None


def _goes_on(site: Site, offer: Offer) -> bool:
    """Whether this party has kept steps of the very training, which goes on from them.

    `done` alone is the guest's word. That there is a state of just so many steps, and that the run is
    about the same, `open_run` and `Unfinished.checkpoints` check.
    """
    if offer.task != "train" or offer.done == 0:
        return False
    job = hashlib.sha256(offer.job).hexdigest()
    return any(
        run.name == offer.model and run.done > 0 and run.subject is not None and run.subject.job == job
        for run in kept_runs(site.store)
    )


async def _wait(
    site: Site, approvals: Approvals, request: Request, within: float, show: Show
) -> Decision:
    """What is decided, or that nobody did."""
    started = time.monotonic()
    try:
        while (decision := approvals.decision(request.id)) is None:
            waited = time.monotonic() - started
            if waited >= within:
                said = f"nobody at {site.party.name} decided on the job within {within:,.0f} s"
                return approvals.end(request.id, "lapsed", said)
            show.progress("waiting for a person's approval", int(waited), int(within))
            await asyncio.sleep(min(_LOOK, within - waited))
    except asyncio.CancelledError:
        said = "whoever waited left, or this party's service was stopped"
        gone = approvals.end(request.id, "withdrawn", said)
        _write_down(site, request, gone, show)
        raise
    return decision


def _write_down(site: Site, request: Request, decision: Decision, show: Show) -> None:
    """Have the ledger hold the decision, and sign it. Raises DataError when it cannot be written."""
    site.journal.ledger.note(
        DecisionEntry(
            peer=request.guest,
            task=request.task,
            job=request.job,
            model=request.model,
            run=request.run,
            request=request.id,
            outcome=decision.outcome,
            who=decision.who,
            decided=decision.when,
            reason=decision.reason,
        )
    )
    site.journal.seal(show.say)


def _refused(site: Site, decision: Decision) -> Refused:
    """What the guest hears: the reason, and not who it was."""
    if decision.outcome != "refused":
        text = f"{decision.reason}: ask its people, then start the job again"
        return Refused(text, rules=("approve_within",))
    why = f": {decision.reason}" if decision.reason else ", without a reason"
    return Refused(f"a person at {site.party.name} refused the job{why}", rules=("approve",))


def _signed(site: Site, terms: Terms, decision: Decision) -> Approved:
    return Approved(decision.when, site.identity.sign(approval_statement(terms, decision.when)))
