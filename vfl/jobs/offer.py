"""The first messages of a job: what the guest asks for, the host's yes, and what all have signed.

A host that says no sends Stop with the rule that forbids it. How the signatures are made and checked is
in agreement.py.
"""

import hashlib
import secrets
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType

from vfl.net.peer import Peer
from vfl.net.wire import KIB, Message
from vfl.party.config_values import Engine, JoinKind, to_the_end
from vfl.party.config_words import JOB_NAME, PARTY_NAME
from vfl.party.documents import canonical_json

Name = Annotated[str, msgspec.Meta(pattern=to_the_end(JOB_NAME))]
OfferedName = Annotated[str, msgspec.Meta(pattern=to_the_end(PARTY_NAME))]
Run = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
OfferedDigest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Fingerprint = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Signature = Annotated[bytes, msgspec.Meta(max_length=256)]
Task = Literal["align", "train", "score", "lookup", "oneway", "worth", "tune", "screen", "audit"]
RowCount = Annotated[int, msgspec.Meta(ge=1)]
Steps = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
ShortText = Annotated[str, msgspec.Meta(pattern=r"^[a-z_]{1,32}\Z")]
QueryDigest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
QueryDigests = list[Annotated[bytes, msgspec.Meta(max_length=32)]]
Commitment = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]  # jobs/commitments.py
Commitments = list[Annotated[bytes, msgspec.Meta(max_length=32)]]
Sealed = Annotated[bytes, msgspec.Meta(max_length=32)]  # the hash of a ledger's newest seal, or nothing


class Matching(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How rows are matched, of an alignment or of a batch that is scored."""

    fallback: list[list[str]] = []  # the rules of further keys; that of the first is `normalise`
    columns: list[Annotated[int, msgspec.Meta(ge=1, le=100)]] = []  # of the id, by key
    engine: Engine = "ecdh"
    join: JoinKind = "inner"
    many: bool = False  # whether the guest joins several rows to one of a host's
    extends: Name | None = None  # the alignment that is extended


class Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the parties of a job sign: all that the job is, and who they are."""

    task: Task
    run: Run
    guest: OfferedName
    hosts: list[OfferedName]
    fingerprints: dict[OfferedName, Fingerprint]  # of the certificates of guest, hosts and coordinator
    normalise: list[str]
    alignment: Name | None
    model: Name | None
    job: OfferedDigest  # SHA-256 of the canonical job, of nothing without one
    done: Steps = 0  # trees or gradients that an interrupted run of the model has done
    matching: Matching = Matching()
    training: RowCount | None = None  # aligned rows that train

    @property
    def statement(self) -> bytes:
        """The bytes that are signed: a fixed text and the SHA-256 of the terms as canonical JSON, run
        and job in hex. What is plain of `matching`, and no `training`, are left out: what was signed
        before there was such a thing can still be verified."""
        return self.statement_of(b"")

    def statement_of(self, query: bytes, commitment: bytes = b"") -> bytes:
        """What a party signs whose table was made by a query of this digest, and which commits to what
        it brings to the run; empty: by none, and to nothing."""
        fields = {**msgspec.structs.asdict(self), "run": self.run.hex(), "job": self.job.hex()}
        plain = Matching()
        matching = msgspec.structs.asdict(fields.pop("matching"))
        stated = {name: value for name, value in matching.items() if value != getattr(plain, name)}
        if stated:
            fields["matching"] = stated
        if self.training is None:
            del fields["training"]
        if query:
            fields["query"] = query.hex()
        if commitment:
            fields["commitment"] = commitment.hex()
        return b"vfl agreement\0" + hashlib.sha256(canonical_json(fields)).digest()

    @property
    def signers(self) -> list[str]:
        """Those who sign before the job starts, the guest first; a coordinator comes later."""
        return [self.guest, *self.hosts]


class Offer(Message, frozen=True):
    """guest -> host. Reveals: what the guest asks for: the task, for training the whole job file with
    its purpose, for a table its factors and its purpose, for screening its purpose, what
    the label is and its thresholds, the names of the hosts, the rules for ids and
    how rows are matched, which alignment or model it is about; how many of the aligned rows train; how
    many steps of an interrupted run the guest has kept; the fingerprints of all parties' certificates;
    the hash of the newest seal of the guest's ledger, random to who does not have the ledger; a salted
    digest of its query, if any; where it keeps a tape, a salted digest of its secret of the run, its
    table and its settings. Signed by the guest but for the hash."""

    task: Task
    run: Run  # random, names this run
    hosts: list[OfferedName]
    normalise: list[str]
    alignment: Name | None = None
    model: Name | None = None
    job: bytes = b""  # canonical, for training and for a table
    training: RowCount | None = None  # aligned rows that train
    done: Steps = 0
    matching: Matching = Matching()
    fingerprints: dict[OfferedName, Fingerprint] = {}  # noqa: RUF012 - msgspec copies it
    signature: Signature = b""
    ledger: Sealed = b""
    query: QueryDigest | UnsetType = UNSET
    commitment: Commitment | UnsetType = UNSET
    limit: ClassVar[int] = 96 * KIB

    def terms(self, guest: str) -> Terms:
        """What is offered by this guest, to be signed."""
        return Terms(
            self.task,
            self.run,
            guest,
            self.hosts,
            self.fingerprints,
            self.normalise,
            self.alignment,
            self.model,
            hashlib.sha256(self.job).digest(),
            self.done,
            self.matching,
            self.training,
        )


class Approved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a person of the host approved the job, signed (approval.py: approval_statement)."""

    decided: Annotated[str, msgspec.Meta(pattern=r"^[0-9T:+-]{19,25}\Z")]  # ISO 8601, UTC
    signature: Signature


class AuditDemand(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which share of its trees a host has replayed, a commitment to its part of the draw that decides
    which, and whose certificate has to sign, if not the guest's (audit_draw.py); signed."""

    probability: Annotated[float, msgspec.Meta(gt=0, le=1)]
    commitment: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    signature: Signature
    auditor: Fingerprint | UnsetType = UNSET


class Waiting(Message, frozen=True):
    """host -> guest. Reveals: that the host's rules allow the job and a person there decides on it, and
    in how many seconds at most."""

    within: Annotated[int, msgspec.Meta(ge=1, le=604_800)]


class Accept(Message, frozen=True):
    """Either -> either. Reveals: that the host takes part; for training, the number of aligned rows;
    the hash of the newest seal of the host's ledger, which is random to who does not have the ledger;
    a salted digest of the query that made the host's table, if one did; where the host keeps a tape, a
    salted digest of its secret of the run, its table and its settings; when a person there approved
    the job, if one did; where it audits trainings, which share of trees, the fingerprint of the
    auditor that it names, if any, and a digest of 32 random bytes. The guest's own, once ids are
    matched, repeats the number of matched ids."""

    rows: int | None = None
    signature: Signature = b""  # the host's
    ledger: Sealed = b""  # the host's
    query: QueryDigest | UnsetType = UNSET  # the host's
    approved: Approved | UnsetType = UNSET
    commitment: Commitment | UnsetType = UNSET  # the host's
    audit: AuditDemand | UnsetType = UNSET
    per_row = ("rows", 1)


class Agreed(Message, frozen=True):
    """guest -> host. Reveals: that all hosts take part, with the signatures of all, and the digests of
    queries and the commitments that some of them signed."""

    signatures: list[Signature]  # in the order of Terms.signers
    queries: QueryDigests | UnsetType = UNSET  # in that order, empty for who has none
    commitments: Commitments | UnsetType = UNSET  # the same
    limit: ClassVar[int] = 64 * KIB


class Kept(Message, frozen=True):
    """Either -> either. Reveals: that the host has stored the alignment, and for how many days it is of
    use by its policy, or the page of what data is worth; the guest's own, at the end of training, that
    it has stored the model, so that no checkpoint is needed any more, and what the job's settings did to
    it, in a word (that its predictions hardly differ, many trees have no split, no row was left to
    evaluate on)."""

    days: Annotated[int, msgspec.Meta(ge=1)] | None = None
    found: Annotated[list[ShortText], msgspec.Meta(max_length=16)] = []  # noqa: RUF012 - msgspec copies it


class Join(Message, frozen=True):
    """party -> coordinator. Reveals: what is asked for: the whole job file with its purpose; the names
    of the guest and the hosts, the fingerprints of their certificates, and which alignment and model it
    is about, as all of them have signed it, some with the digest of a query or with a commitment."""

    terms: Terms
    signatures: list[Signature]  # in the order of Terms.signers
    job: bytes  # canonical
    queries: QueryDigests | UnsetType = UNSET  # as of Agreed
    commitments: Commitments | UnsetType = UNSET  # the same
    limit: ClassVar[int] = 128 * KIB

    @property
    def parties(self) -> list[str]:
        """All who hold data, the guest first."""
        return self.terms.signers


class Gathered(Message, frozen=True):
    """coordinator -> party. Reveals: that all parties of the job have come; the coordinator has signed
    what they agreed to; where it keeps a tape, a salted digest of its secret of the run."""

    signature: Signature
    commitment: Commitment | UnsetType = UNSET


def bind(peer: Peer, offer: Offer) -> None:
    """Bind what follows to this run and this job; both ends call it after Accept."""
    peer.bind(b"job", offer.run, offer.task.encode(), offer.job)


def new_run() -> bytes:
    """A fresh name of a run."""
    return secrets.token_bytes(32)


def stamp(run: bytes) -> str:
    """A run's short name: when, and a few random letters."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{run[:3].hex()}"
