"""Audits by agreement: what is due of a model, and what was shown of it, at a host and its guest.

A host with `audit` in its policy demands that this share of a training's trees be audited. Which ones
guest and host draw once the model is done (audit_draw.py). If there are any, the model is of no use at
the host until the guest, or an auditor on its premises, has replayed its runs (replaying.py) and their
certificates hold against the host's own ledger. A replay plays a run from its beginning, for each tree
is about the scores that those before it have left; of trees that were not drawn it need not encrypt the
gradients, which is nearly all of a guest's work under Paillier. All other messages are compared.

Both parties keep a document of the model: a host under its guest's name, a guest one for each host. An
attempt that breaks off may be followed by others at the same model; what the last one draws is about
the trees of all of them, and what an earlier one has drawn stays drawn. Where the last attempt has ended
before its draw, all of all attempts has to be shown: to hang up is no way out.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

import msgspec

from vfl.crypto.randomness import Randomness
from vfl.errors import ConfigError, ModelError, Refused
from vfl.jobs.agreement import Agreement
from vfl.jobs.audit_draw import TREES, Drawing, HostDraw, draw_with, steps_of
from vfl.jobs.certificate import Checked
from vfl.jobs.connect import Site
from vfl.jobs.evidence import Evidence
from vfl.jobs.record import now
from vfl.jobs.show import Show
from vfl.net.peer import Peer, together
from vfl.party.audit.conversations import STOP, conversations
from vfl.party.config import Party
from vfl.party.documents import convert_document
from vfl.party.identity import Certificate, Identity, load_certificate
from vfl.party.kinds import DocumentKind
from vfl.party.ledger import FOLDER
from vfl.party.store import Store
from vfl.protocols.common.participant import LooksAt, every_step
from vfl.protocols.trees.paillier_messages import Gradients
from vfl.text import counted, in_words

_KIND: DocumentKind = "audit"
_DIGITS = 12  # of a run that are shown
State = Literal["not drawn", "not audited", "due", "shown"]


@dataclass(frozen=True)
class AuditedRun:
    """An attempt at a model."""

    drawn: list[int] = field(default_factory=list)  # steps, counted from 0
    shown: str = ""  # when a certificate of it was found to hold, ISO 8601; empty: none was
    signed_by: str = ""  # in words, that certificate
    certificate: str = ""  # at a guest: the content of one that the host has not got yet


@dataclass(frozen=True)
class Audit:
    """What is agreed with one peer about a model."""

    probability: float  # of a step to be audited
    begun: str  # ISO 8601, UTC
    auditor: str = ""  # fingerprint of who has to sign; empty: the guest
    runs: dict[str, AuditedRun] = field(default_factory=dict)  # by run, in hex
    drawn: str = ""  # the last attempt, in hex, once it has come to its draw

    @property
    def state(self) -> State:
        """What is to be said of it."""
        if self.missing:
            return "due" if self.is_drawn else "not drawn"
        return "shown" if any(one.shown for one in self.runs.values()) else "not audited"

    @property
    def is_drawn(self) -> bool:
        """Whether the last attempt has come to its draw."""
        return bool(self.drawn)

    @property
    def missing(self) -> list[str]:
        """The runs of which a certificate is due, and none was found to hold."""
        due = [run for run, one in self.runs.items() if one.drawn or not self.is_drawn]
        return [run for run in due if not self.runs[run].shown]

    def with_run(self, run: str, changed: AuditedRun) -> "Audit":
        """The same with an attempt, or with another state of it."""
        return replace(self, runs={**self.runs, run: changed})


def load_audits(store: Store, model: str) -> dict[str, Audit]:
    """What is agreed about a model, by peer. Raises ModelError where that is damaged."""
    if model not in store.names(_KIND):
        return {}
    return convert_document(store.read(_KIND, model), dict[str, Audit], f"audit {model}")


def save_audit(store: Store, model: str, peer: str, audit: Audit) -> None:
    """Keep what is agreed with a peer. Raises DataError when the store cannot be written."""
    found = {**load_audits(store, model), peer: audit}
    store.write(_KIND, model, {name: msgspec.to_builtins(one) for name, one in found.items()})


@dataclass(frozen=True)
class ListedAudit:
    """What is agreed about a model, as it is listed."""

    model: str
    peer: str
    probability: float
    begun: str  # ISO 8601, UTC
    state: State
    missing: list[str]  # runs, in hex, of which a certificate is wanted


def list_audits(store: Store) -> list[ListedAudit]:
    """Of all models, the oldest first. Raises ModelError for what is damaged."""
    found = [
        ListedAudit(
            model,
            peer,
            one.probability,
            one.begun,
            one.state,
            one.missing,
        )
        for model in store.names(_KIND)
        for peer, one in load_audits(store, model).items()
    ]
    return sorted(found, key=lambda one: (one.begun, one.model, one.peer))


def begin_audit(store: Store, agreement: Agreement, host: str, peer: str) -> None:
    """Note that an attempt at a model may be audited by a host, as all have signed; `peer`: the other of
    the two."""
    if (demand := agreement.audits.get(host)) is None:
        return
    terms = agreement.terms
    found = load_audits(store, terms.model or "").get(peer) or Audit(demand.probability, now())
    audit = replace(found, probability=demand.probability, auditor=demand.auditor or "", drawn="")
    save_audit(store, terms.model or "", peer, audit.with_run(terms.run.hex(), AuditedRun()))


def note_draw(store: Store, agreement: Agreement, peer: Peer, drawing: Drawing) -> list[int]:
    """Note which steps a draw at the end of a run has come to, of this attempt and of those before it,
    with a peer in whose session all of the run went; those of this one. Raises ModelError for a ledger
    that does not say what an earlier attempt had."""
    model, last = agreement.terms.model or "", agreement.terms.run.hex()
    audit = load_audits(store, model)[peer.name]
    steps = steps_of(_kinds(peer.traffic.sent_messages + peer.traffic.received_messages))
    for run, one in audit.runs.items():
        many = steps if run == last else _steps_before(store, run, peer.name)
        drawn = sorted({*one.drawn, *drawing.steps(bytes.fromhex(run), many)})
        if drawn != one.drawn:
            audit = audit.with_run(run, AuditedRun(drawn))
    save_audit(store, model, peer.name, replace(audit, drawn=last))
    return audit.runs[last].drawn


def _kinds(messages: Counter[str]) -> Iterator[str]:
    """The type of each of the messages that matter here."""
    return (kind for kind in TREES for _ in range(messages[kind]))


def _steps_before(store: Store, run: str, peer: str) -> int:
    """The steps of an attempt that has ended."""
    talk = conversations(store.root / FOLDER, run).get(peer)
    if talk is None or not (talk.sent or talk.received):
        return 0
    return steps_of(one.kind for one in (*talk.sent, *talk.received))


def new_draw(party: Party) -> HostDraw | None:
    """What a host brings to the draw of a training; None where its policy audits none. Raises
    IdentityError for the certificate of an auditor that cannot be read."""
    auditor = auditor_of(party)
    prints = "" if auditor is None else auditor.fingerprint
    return HostDraw.new(party.policy.audit, prints) if party.policy.audit else None


def auditor_of(party: Party) -> Certificate | None:
    """Who has to sign what is replayed for this host, if not the guest. Raises IdentityError."""
    path = party.policy.auditor
    return None if path is None else load_certificate(path)


# --- A guest. ---------------------------------------------------------------------------------------


async def draw_all(
    hosts: Sequence[Peer], agreement: Agreement, randomness: Randomness
) -> dict[str, Drawing]:
    """The guest's draws with those hosts that demand one. Raises as `draw_with`."""
    run, demands = agreement.terms.run, agreement.audits
    asked = [host for host in hosts if host.name in demands]
    found = await together(
        [
            draw_with(host, run, demands[host.name], randomness.at("share of an audit", host.name))
            for host in asked
        ]
    )
    return {drawing.host: drawing for drawing in found}


def note_draws(
    store: Store,
    agreement: Agreement,
    hosts: Sequence[Peer],
    draws: Mapping[str, Drawing],
    show: Show,
) -> None:
    """Keep what draws have come to at the guest, and say so."""
    model = agreement.terms.model or ""
    for host in hosts:
        if host.name not in draws:
            continue
        note_draw(store, agreement, host, draws[host.name])
        audit = load_audits(store, model)[host.name]
        if not audit.missing:
            show.say(f"{host.name} audits nothing of this model: none of its trees was drawn")
            continue
        many = sum(len(audit.runs[run].drawn) for run in audit.missing)
        show.say(
            f"{host.name} audits {counted(many, 'tree')} of this model (a linear model counts as one): "
            f"before it is of use there, run {how_to_show(audit, model)}"
        )


def begin_audits(store: Store, agreement: Agreement, show: Show) -> None:
    """Note at the guest what hosts demand of an attempt, and say so before it begins."""
    for name, demand in agreement.audits.items():
        begin_audit(store, agreement, name, name)
        by = f", signed by the auditor with the fingerprint {demand.auditor}," if demand.auditor else ""
        show.say(
            f"{name} audits a share of {demand.probability:g} of this training's trees (a linear model "
            "counts as one), drawn by both of you once the model is done: it is then of no use there "
            f"until a replay (`vfl audit replay`){by} has shown them"
        )


def looks_at_drawn(store: Store, evidence: Evidence) -> LooksAt:
    """Which steps of a run have to be looked at, for all hosts that audit it: those that were drawn."""
    drawn: set[int] = set()
    for audit in load_audits(store, evidence.subject).values():
        if not audit.is_drawn:
            return every_step
        drawn.update(audit.runs.get(evidence.run, AuditedRun()).drawn)
    return drawn.__contains__


def wants_certificate(store: Store, evidence: Evidence, peer: str) -> bool:
    """Whether a certificate of this run is of use at a peer."""
    audit = load_audits(store, evidence.subject).get(peer)
    return audit is not None and evidence.run in audit.missing


def waiting_for(store: Store, evidence: Evidence) -> list[str]:
    """The hosts that wait for a replay of this run of a guest."""
    if evidence.party != evidence.agreement.terms.guest:
        return []
    return [
        name
        for name, audit in load_audits(store, evidence.subject).items()
        if evidence.run in audit.missing
    ]


def signer_for(
    store: Store, evidence: Evidence, peer: str, own: Identity, named: Identity
) -> Identity | None:
    """Who signs the certificate of a run that a host waits for: the auditor it wants, if that is who is
    named, else the guest itself where it wants no auditor, and nobody where it wants another one."""
    wanted = load_audits(store, evidence.subject)[peer].auditor
    if not wanted:
        return own
    return named if named.certificate.fingerprint == wanted else None


def check_signer(store: Store, runs: Sequence[Evidence], own: Identity, named: Identity) -> list[str]:
    """What is to be said of hosts that wait for the certificate of one of these runs and want it signed
    by somebody else than is there. Raises ConfigError where all do."""
    waiting = [(one, name) for one in runs for name in waiting_for(store, one)]
    said, served = dict[str, None](), False
    for one, name in waiting:
        if signer_for(store, one, name, own, named) is not None:
            served = True
            continue
        wanted = load_audits(store, one.subject)[name].auditor
        said[
            f"{name} wants the audit of {one.subject} signed by the auditor whose certificate has the "
            f"fingerprint {wanted}: name that key by --auditor"
        ] = None
    if said and not served:
        raise ConfigError(next(iter(said)))
    return list(said)


def how_to_show(audit: Audit, model: str) -> str:
    """What its guest runs to show what is due of a model, in words."""
    by = " --auditor KEY" if audit.auditor else ""
    text = f"`vfl audit replay PARTY.toml --run {model} --drawn{by}`"
    if audit.auditor:
        text += f" by the auditor with the fingerprint {audit.auditor}"
    return f"{text}, then `vfl audit send PARTY.toml --run {model}`"


def keep_certificate(store: Store, evidence: Evidence, peer: str, content: bytes) -> None:
    """Keep a certificate until the peer has it."""
    audit = load_audits(store, evidence.subject)[peer]
    changed = replace(audit.runs[evidence.run], certificate=content.decode())
    save_audit(store, evidence.subject, peer, audit.with_run(evidence.run, changed))


def to_present(store: Store, model: str) -> dict[str, dict[str, str]]:
    """The certificates of a model that hosts have not got, by host and run."""
    found = {
        name: {run: one.certificate for run, one in audit.runs.items() if one.certificate}
        for name, audit in load_audits(store, model).items()
    }
    return {name: some for name, some in found.items() if some}


def note_presented(store: Store, model: str, peer: str, runs: Sequence[str]) -> None:
    """The host has these certificates, and they hold."""
    audit = load_audits(store, model)[peer]
    for run in runs:
        audit = audit.with_run(run, replace(audit.runs[run], certificate="", shown=now()))
    save_audit(store, model, peer, audit)


# --- A host. ----------------------------------------------------------------------------------------


def settle(store: Store, checked: Checked) -> bool:
    """Note a certificate of a peer that holds, at a host that has the run audited; whether it has.

    Raises Refused where messages of the run are not covered.
    """
    made = checked.certificate
    for model in store.names(_KIND):
        audit = load_audits(store, model).get(made.party)
        if audit is None or made.run not in audit.runs:
            continue
        if lacks := _lacking(audit, checked):
            which = in_words(list(dict.fromkeys(lacks)))
            raise Refused(
                f"the certificate of run {made.run[:_DIGITS]} does not cover "
                f"{counted(len(lacks), 'message')} that it has to ({which}): replay what was drawn, or "
                "train anew (`vfl train --fresh`) where its tape does not reach so far"
            )
        shown = replace(audit.runs[made.run], shown=now(), signed_by=checked.signed_by)
        save_audit(store, model, made.party, audit.with_run(made.run, shown))
        return True
    return False


def _lacking(audit: Audit, checked: Checked) -> list[str]:
    """The types of messages that a certificate does not cover and has to: all but gradients of trees
    that were not drawn."""
    made, step, may_lack = checked.certificate, -1, set[int]()
    drawn = audit.runs[made.run].drawn
    for number, one in enumerate(made.messages, 1):
        step += one.type in TREES
        if one.type == Gradients.__name__ and audit.is_drawn and step not in drawn:
            may_lack.add(number)
    return [kind for number, kind in checked.uncovered if kind != STOP and number not in may_lack]


def missing_runs(site: Site, audit: Audit, peer: str) -> list[str]:
    """The runs of an audit of which a certificate is missing: in which the peer has sent anything after
    the agreement. Raises DataError and ModelError for a ledger that cannot be read."""
    ledger = site.store.root / FOLDER
    found = []
    for run in audit.missing:
        talk = conversations(ledger, run).get(peer)
        if talk is not None and any(one.kind != STOP for one in talk.received):
            found.append(run)
    return found


def check_audited(site: Site, model: str, show: Show) -> None:
    """Raises Refused for a model that is of no use here until it was audited; where the policy only has
    that noted, `show` says so."""
    for peer, audit in load_audits(site.store, model).items():
        if not missing_runs(site, audit, peer):
            continue
        text = f"model {model} has to be audited before it is used, as {_why(site, audit)}: {peer} "
        text += f"runs {how_to_show(audit, model)}"
        if site.party.policy.unaudited == "refused":
            raise Refused(text, rules=("audit",))
        show.say(f"note: {text}")


def check_outstanding(site: Site, guest: str) -> None:
    """Raises Refused for a guest that has owed an audit for longer than the policy allows."""
    policy, store = site.party.policy, site.store
    if not policy.audit or isinstance(policy.audit_days, str):
        return
    for model in store.names(_KIND):
        audit = load_audits(store, model).get(guest)
        if audit is None or not audit.missing or _days_since(audit.begun) <= policy.audit_days:
            continue
        if missing_runs(site, audit, guest):
            raise Refused(
                f"{guest} owes the audit of model {model} since {audit.begun[:10]}, longer than rule "
                f"audit_days = {policy.audit_days} of [policy] allows: {guest} runs "
                f"{how_to_show(audit, model)}, or the host raises the rule",
                rules=("audit_days",),
            )


def _why(site: Site, audit: Audit) -> str:
    rule = f"rule audit = {audit.probability:g} of [policy] of {site.party.name}"
    if audit.is_drawn:
        return f"was drawn by {rule}"
    return f"its training ended before it was drawn what {rule} is about"


def _days_since(begun: str) -> int:
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(begun)).days
    except ValueError:
        raise ModelError(f"an audit that was begun at {begun!r} is damaged") from None
