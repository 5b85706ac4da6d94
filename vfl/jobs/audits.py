"""Audits by agreement: what is due of a model, and what was shown of it, at a host and its guest.

A host with `audit` in its policy demands that trainings be audited with that probability. Whether one
is, guest and host draw once the model is done (audit_draw.py). If so, the model is of no use at the host
until the guest, or an auditor on its premises, has replayed all its runs (replaying.py) and the
certificates hold against the host's own ledger. All of a run is audited or none of it: a replay plays it
from its beginning anyway, for each tree is about the scores that those before it have left
(docs/audit.md).

Both parties keep a document of the model: a host under its guest's name, a guest one for each host. An
attempt that breaks off may be followed by others at the same model, each with a draw of its own once it
is done: the model is audited if any of them says so, and all its attempts then have to be shown. One
whose last attempt ended before the draw counts as due: to hang up is no way out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

import msgspec

from vfl.crypto.randomness import Randomness
from vfl.errors import ConfigError, ModelError, Refused
from vfl.jobs.agreement import Agreement
from vfl.jobs.audit_draw import HostDraw, draw_with
from vfl.jobs.certificate import Checked
from vfl.jobs.connect import Site
from vfl.jobs.evidence import Evidence
from vfl.jobs.record import now
from vfl.jobs.show import Show
from vfl.net.peer import Peer, together
from vfl.party.audit.conversations import STOP, conversations
from vfl.party.config import Party
from vfl.party.documents import convert_document
from vfl.party.identity import Certificate, load_certificate
from vfl.party.kinds import DocumentKind
from vfl.party.ledger import FOLDER
from vfl.party.store import Store
from vfl.text import counted, in_words

_KIND: DocumentKind = "audit"
_DIGITS = 12  # of a run that are shown
State = Literal["not drawn", "not audited", "due", "shown"]


@dataclass(frozen=True)
class AuditedRun:
    """An attempt at a model."""

    shown: str = ""  # when a certificate of it was found to hold, ISO 8601; empty: none was
    signed_by: str = ""  # in words, that certificate
    certificate: str = ""  # at a guest: the content of one that the host has not got yet


@dataclass(frozen=True)
class Audit:
    """What is agreed with one peer about a model."""

    probability: float
    begun: str  # ISO 8601, UTC
    auditor: str = ""  # fingerprint of who has to sign; empty: the guest
    runs: dict[str, AuditedRun] = field(default_factory=dict)  # by run, in hex
    drawn: str = ""  # the run whose draw was the last, in hex
    due: bool = False  # whether a draw has said so

    @property
    def state(self) -> State:
        """What is to be said of it."""
        if self.is_drawn and not self.due:
            return "not audited"
        if not self.missing:
            return "shown"
        return "due" if self.due else "not drawn"

    @property
    def is_drawn(self) -> bool:
        """Whether the last attempt has come to its draw."""
        return bool(self.runs) and self.drawn == [*self.runs][-1]

    @property
    def missing(self) -> list[str]:
        """The runs of which no certificate was found to hold."""
        return [run for run, one in self.runs.items() if not one.shown]

    @property
    def is_open(self) -> bool:
        """Whether certificates are missing, as far as is known."""
        return self.state in ("due", "not drawn")

    def with_run(self, run: str, **changes: str) -> "Audit":
        """The same with an attempt, or with another state of it."""
        return replace(
            self, runs={**self.runs, run: replace(self.runs.get(run, AuditedRun()), **changes)}
        )


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
            one.missing if one.is_open else [],
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
    audit = replace(found, probability=demand.probability, auditor=demand.auditor or "")
    save_audit(store, terms.model or "", peer, audit.with_run(terms.run.hex()))


def note_draw(store: Store, model: str, peer: str, run: str, due: bool) -> None:
    """Note what a draw has come to, which an earlier one of the model may have said already."""
    audit = load_audits(store, model)[peer]
    save_audit(store, model, peer, replace(audit, drawn=run, due=audit.due or due))


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
) -> dict[str, bool]:
    """The guest's draws with those hosts that demand one: whether each audits the model. Raises as
    `draw_with`."""
    run, demands = agreement.terms.run, agreement.audits
    asked = [host for host in hosts if host.name in demands]
    found = await together(
        [
            draw_with(host, run, demands[host.name], randomness.at("share of an audit", host.name))
            for host in asked
        ]
    )
    return {host.name: due for host, due in zip(asked, found, strict=True)}


def note_draws(store: Store, agreement: Agreement, draws: Mapping[str, bool], show: Show) -> None:
    """Keep what draws have come to at the guest, and say so."""
    model, run = agreement.terms.model or "", agreement.terms.run.hex()
    for name, due in draws.items():
        note_draw(store, model, name, run, due)
        if load_audits(store, model)[name].due:
            show.say(
                f"{name} has this model audited: `vfl audit replay PARTY.toml --run {model}` here, "
                f"before {name} lets it score"
            )
        else:
            show.say(f"{name} does not have this model audited")


def begin_audits(store: Store, agreement: Agreement, show: Show) -> None:
    """Note at the guest what hosts demand of an attempt, and say so before it begins."""
    for name, demand in agreement.audits.items():
        begin_audit(store, agreement, name, name)
        how = f"with probability {demand.probability:g}, drawn by both of you once the model is done"
        by = f" and signed by the auditor {demand.auditor}" if demand.auditor else ""
        show.say(
            f"{name} audits this training {'whatever comes' if demand.probability == 1 else how}: "
            "the model is then of no use there until this party's part was replayed "
            f"(`vfl audit replay`){by}"
        )


def wants_certificate(store: Store, evidence: Evidence, peer: str) -> bool:
    """Whether a certificate of this run is of use at a peer."""
    audit = load_audits(store, evidence.subject).get(peer)
    return audit is not None and audit.is_open and evidence.run in audit.missing


def check_signer(store: Store, runs: Sequence[Evidence], signer: Certificate) -> None:
    """Raises ConfigError where a host that waits for the certificate of one of these runs wants it
    signed by somebody else."""
    for evidence in runs:
        for name, audit in load_audits(store, evidence.subject).items():
            wanted = audit.auditor if wants_certificate(store, evidence, name) else ""
            if wanted and wanted != signer.fingerprint:
                raise ConfigError(
                    f"{name} wants the audit of {evidence.subject} signed by the auditor whose "
                    f"certificate has the fingerprint {wanted}: name that key by --auditor"
                )


def keep_certificate(store: Store, evidence: Evidence, peer: str, content: bytes) -> None:
    """Keep a certificate until the peer has it."""
    audit = load_audits(store, evidence.subject)[peer]
    save_audit(store, evidence.subject, peer, audit.with_run(evidence.run, certificate=content.decode()))


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
        audit = audit.with_run(run, certificate="", shown=now())
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
        lacks = {kind: many for kind, many in checked.uncovered_by_type.items() if kind != STOP}
        if lacks:
            many = counted(sum(lacks.values()), "message")
            raise Refused(
                f"the certificate of run {made.run[:_DIGITS]} does not cover {many} of it "
                f"({in_words(list(lacks))}): replay all of it"
            )
        by = {"shown": now(), "signed_by": checked.signed_by}
        save_audit(store, model, made.party, audit.with_run(made.run, **by))
        return True
    return False


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
        if not audit.is_open or not missing_runs(site, audit, peer):
            continue
        text = f"model {model} has to be audited before it is used, as {_why(site, audit)}: {peer} "
        text += f"runs `vfl audit replay PARTY.toml --run {model}`, then `vfl audit send`"
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
        if audit is None or not audit.is_open or _days_since(audit.begun) <= policy.audit_days:
            continue
        if missing_runs(site, audit, guest):
            raise Refused(
                f"{guest} owes the audit of model {model} since {audit.begun[:10]}, longer than rule "
                f"audit_days = {policy.audit_days} of [policy] allows: {guest} runs `vfl audit replay "
                f"PARTY.toml --run {model}`, then `vfl audit send`, or the host raises the rule",
                rules=("audit_days",),
            )


def _why(site: Site, audit: Audit) -> str:
    rule = f"rule audit = {audit.probability:g} of [policy] of {site.party.name}"
    if audit.due:
        return f"was drawn by {rule}"
    return f"its training ended before it was drawn whether {rule} applies"


def _days_since(begun: str) -> int:
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(begun)).days
    except ValueError:
        raise ModelError(f"an audit that was begun at {begun!r} is damaged") from None
