"""The model that a job begins with, `init_model` of its settings: what guest and hosts check of it."""

import hashlib

from vfl.errors import ConfigError, ModelError, Refused
from vfl.jobs.aligned_rows import GuestRows
from vfl.jobs.commitments import digest_of_half
from vfl.jobs.connect import Site
from vfl.jobs.evidence import HALF
from vfl.jobs.names import resolve_model
from vfl.jobs.record import load_record
from vfl.jobs.scoring import check_parties
from vfl.models.halves import GuestHalf, HostHalf
from vfl.models.kind import AnyKind
from vfl.models.kinds import kind_of_job, kind_of_model, load_half
from vfl.models.uses import misfit
from vfl.net.peer import Peer
from vfl.party.config import Job
from vfl.party.policy import Usage, check_batch, check_columns, check_score, today
from vfl.party.store import Store
from vfl.party.table import Table


def guest_kind(site: Site, job: Job, own: GuestRows) -> AnyKind:
    """The kind of model that a job is about, with the guest's half of the model that it begins with.

    Raises ConfigError for a model that cannot be continued so, ModelError for one that is not there.
    """
    kind = kind_of_job(job)
    if (name := kind.init_model) is None:
        return kind
    what, store = f'init_model = "{name}" of [secureboost]', site.store
    if (full := resolve_model(store, name)) != name:
        raise ConfigError(f'{what}: all parties know the model by its full name, write "{full}"')
    half = load_half(store, name, GuestHalf)
    model = half.model
    if not isinstance(kind, kind_of_model(model)):
        raise ConfigError(f"{what} is of another kind of model: remove the line")
    hosts = {party for party in site.party.partners if party in own.aligned.parties}
    if {*model.parties[1:]} != hosts:
        raise ConfigError(
            f"{what} is of {_listed(model.parties[1:])}, but alignment {own.aligned.name} of "
            f"{_listed(sorted(hosts))}: train on an alignment with the same hosts"
        )
    check_parties(site, half)
    for key, then, now in (
        ("objective", half.objective, job.job.objective),
        ("quantile", half.loss.quantile, job.loss.quantile),
        ("exposure", half.exposure, own.table.exposure is not None),
        ("offset", half.offset, "offset" in job.uses(site.party.data)),
    ):
        if then != now:
            said = f"{then!r}" if isinstance(then, str | float) else "one" if then else "none"
            raise ConfigError(
                f"{what} was trained with another {key} ({said}): train as it was in [job]"
            )
    features = own.table.take(slice(0, 1))
    if (column := misfit(kind.uses(model), features)) is not None:
        raise ConfigError(
            f"{what} uses column '{column}', which {own.table.path.name} lacks or has of another "
            "kind: correct columns, ignore and categorical in [data]"
        )
    return kind.begun_with(model, {}, _training(store, name))


def host_kind(site: Site, peer: Peer, job: Job, table: Table, rows: int | None) -> AnyKind:
    """The same, with this host's half. `rows`: of the alignment that it knows, whose scores the guest
    learns of the model; None where it has learnt them.

    Raises Refused for what the policy does not allow, or for a half of something else.
    """
    kind, party, store = kind_of_job(job), site.party, site.store
    if (name := kind.init_model) is None:
        return kind
    # The rows are aligned already: which engine did so does not matter here.
    check_score(party.policy, peer.name, today(), party.policy.engines[0])
    half = load_half(store, name, HostHalf)
    if not isinstance(kind, kind_of_model(half.model)):
        raise Refused(f"init_model {name} is of another kind of model")
    if not site.same_party(peer.name, half.guest):
        raise Refused(f"model {name} was not trained with this {peer.name}")
    check_columns(party.policy, name, half.columns)
    if (column := misfit(kind.uses(half.model), table.features)) is not None:
        raise ConfigError(
            f"{table.path.name}: column '{column}' of model {name} is missing or of another kind: "
            "correct columns, ignore and categorical in [data]",
            for_peer="one of its columns is not as it was in training (its log has the details)",
        )
    if rows is not None:
        check_batch(party.policy, rows)
        Usage(store).count(party.policy, peer.name, "scored_rows", rows, today())
    return kind.begun_with(None, {party.name: half.model}, _training(store, name))


def kept_kind(site: Site, job: Job) -> AnyKind:
    """The same in a replay, in which nothing is asked of the policy or counted."""
    kind = kind_of_job(job)
    if (name := kind.init_model) is None:
        return kind
    half = load_half(site.store, name, HostHalf)
    return kind.begun_with(None, {site.party.name: half.model}, _training(site.store, name))


def half_begun_with(store: Store, kind: AnyKind) -> dict[str, str]:
    """What a training commits to of the half that it goes on from, if it does. Raises ModelError."""
    return {} if kind.init_model is None else {HALF: digest_of_half(store, kind.init_model)}


def _training(store: Store, name: str) -> bytes:
    """The digest of what the parties of a model's training signed. Raises ModelError without it."""
    agreement = load_record(store, name)[0].agreement
    if agreement is None:
        raise ModelError(f"the record of run {name} has no agreement: no training can begin with it")
    return hashlib.sha256(agreement.terms.statement).digest()


def _listed(names: object) -> str:
    return " and ".join(names) if isinstance(names, list | tuple) and names else "no host"
