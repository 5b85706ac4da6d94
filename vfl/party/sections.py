"""The sections of a party file: what each key means, checked by itself and with its neighbours."""

import itertools
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from vfl.crypto.workers import PAYS, Machine
from vfl.learn.binning import Monotone
from vfl.net.addresses import is_loopback
from vfl.party.config_values import (
    Address,
    Aggregate,
    ClusterAddress,
    ColumnName,
    ColumnNames,
    Duplicates,
    Engine,
    JoinKind,
    KeptOnTape,
    Listen,
    LocalPath,
    OneOrMoreColumns,
    OwnPort,
    PartyName,
    Role,
    Rule,
    _as_tuple,
)
from vfl.party.config_words import plain_key
from vfl.party.id_cells import IdReading
from vfl.party.rows_from import RowsFrom

_STEPS_OF_ID = ("nfkc", "trim", "upper", "alnum")
_NUMBERS_ALONE = ("sum", "mean", "max", "min")  # rules for repeated ids that names cannot follow
FOR_REPORTS = frozenset({"current_premium", "premium_per_exposure", "protected", "report_by"})
"""Keys of [data] that reports alone look at."""

USES = ("exposure", "offset", "weight")
"""Columns of a guest that a job may use, or leave alone."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _is_this_machine(address: str) -> bool:
    """Whether nothing that is sent there leaves this machine."""
    return is_loopback(address.partition("://")[2].rpartition(":")[0])


class PartySection(Section):
    """Who this organisation is."""

    name: PartyName = Field(description="the name that peers know this party by")
    role: Role = Field(description="guest holds the labels, host adds columns, coordinator has no data")
    identity: LocalPath = Field(description="path of the keys without .key and .pem")
    listen: Listen | None = Field(
        default=None, description="address to listen on, or a relay to wait at: relay://host:port"
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="processes for encrypted arithmetic; all cores if absent",
    )
    memory: int = Field(
        default=2048,
        ge=16,
        le=1_000_000,
        description="MB of ciphertexts kept in memory; more of them lie in a file in the store",
    )
    reconnect: float = Field(
        default=300,
        ge=0,
        le=86400,
        description="seconds for which a party that was lost is waited for before a job ends; 0: none",
    )
    store: LocalPath = Field(
        default=Path("vfl-store"),
        validate_default=True,
        description="folder of models, alignments and runs",
    )
    tape: KeptOnTape = Field(
        default="none",
        description="what is kept of the messages that arrive in a run, so that it can be replayed: at "
        "a host also of a share of each training's trees alone, such as 0.1",
    )
    others_may_write: bool = Field(
        default=False,
        description="the folders of store, keys and certificates may be writable by other accounts: "
        "where modes mean nothing, or all of them are trusted",
    )
    metrics: OwnPort | None = Field(
        default=None,
        description="address where a monitor reads figures of vfl serve in plain HTTP, such as "
        "127.0.0.1:9464; nowhere if absent",
    )
    cluster: ClusterAddress | None = Field(
        default=None,
        description="scheduler of a Dask cluster of this company, with whose workers rows lie",
    )
    cluster_ca: LocalPath | None = Field(
        default=None, description="certificate (PEM) of the authority that alone certifies the cluster"
    )
    cluster_certificate: LocalPath | None = Field(
        default=None, description="certificate (PEM) by which the cluster knows this party"
    )
    cluster_key: LocalPath | None = Field(default=None, description="private key (PEM) of it")
    cluster_in_clear: bool = Field(
        default=False,
        description="take tcp:// to other machines: all on the way can read the rows, and run programs "
        "at the workers and here",
    )

    @model_validator(mode="after")
    def _cluster_is_protected(self) -> "PartySection":
        keys = ("cluster_ca", "cluster_certificate", "cluster_key")
        given = [key for key in keys if getattr(self, key) is not None]
        if self.cluster is None:
            if given or self.cluster_in_clear:
                key = [*given, "cluster_in_clear"][0]
                raise ValueError(f"{key} is of a cluster: name it by cluster, or remove the line")
            return self
        secure = self.cluster.startswith("tls://")
        if secure and len(given) < len(keys):
            lacking = next(key for key in keys if key not in given)
            raise ValueError(f'cluster = "tls://..." needs {lacking}, a path')
        if not secure and given:
            raise ValueError(f'{given[0]} is for cluster = "tls://...": write that, or remove the line')
        if not secure and not self.cluster_in_clear and not _is_this_machine(self.cluster):
            raise ValueError(
                'cluster = "tcp://..." to another machine is not encrypted: write tls://, or set '
                "cluster_in_clear = true where nobody else is on the way"
            )
        return self

    @property
    def machine(self) -> Machine:
        """What this party lends to encrypted arithmetic."""
        workers = self.workers or os.cpu_count() or 1
        return Machine(workers, self.memory << 20, self.store / "scratch", PAYS)


class KeySection(Section):
    """A further key, for rows that no earlier key has matched."""

    id: OneOrMoreColumns = Field(description="columns that name a row where earlier keys do not")
    normalise: Rule = Field(
        default=_STEPS_OF_ID, description="steps that make the same id equal on both sides"
    )


class DataSection(RowsFrom):
    """The party's own table, how its file is written and what its columns are."""

    id: OneOrMoreColumns = Field(description="columns that name a row")
    normalise: Rule = Field(
        default=_STEPS_OF_ID,
        description="steps that make the same id equal on both sides; by id column, if they differ",
    )
    fallback: Annotated[tuple[KeySection, ...], Field(max_length=7), BeforeValidator(_as_tuple)] = Field(
        default=(), description="further keys, in order, for rows that no earlier key has matched"
    )
    duplicates: Duplicates = Field(
        default="refuse",
        description="if an id comes twice; \"keep\" is the guest's, what follows it a host's",
    )
    aggregate: dict[str, Aggregate] = Field(
        default_factory=dict, description="by column, the rule for repeated ids, where it is another one"
    )
    empty: Literal["refuse", "drop"] = Field(default="refuse", description="if a row has no id at all")
    merging: Literal["refuse", "allow"] = Field(
        default="refuse",
        description="if normalise makes different ids equal; allow takes them for spellings of one id",
    )
    as_text: ColumnNames = Field(
        default=(),
        description="id columns whose cells are text alone: no number and no word for a missing id is "
        "read in them",
    )
    label: ColumnName | None = Field(default=None, description="column to predict (guest)")
    weight: ColumnName | None = Field(default=None, description="column of row weights (guest)")
    exposure: ColumnName | None = Field(
        default=None, description="column of time at risk, for counts: poisson (guest)"
    )
    offset: ColumnName | None = Field(
        default=None, description="column added to the score, on the scale of the link (guest)"
    )
    current_premium: ColumnName | None = Field(
        default=None,
        description="column of the premium by the present tariff, which reports compare the model with; "
        "never a feature (guest)",
    )
    premium_per_exposure: bool = Field(
        default=False,
        description="whether current_premium is for a unit of exposure, such as a year; else it is its "
        "row's in all (guest)",
    )
    protected: ColumnNames = Field(
        default=(),
        description="columns of protected classes, by which reports look at predictions and premiums; "
        "never features (guest)",
    )
    report_by: ColumnNames = Field(
        default=(),
        description="further columns by whose values reports show what happened and what was expected, "
        "such as the year; never features (guest)",
    )
    categorical: ColumnNames = Field(default=(), description="columns whose values are names")
    unknown_levels: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="share of a batch's rows with a level that was not in training, above which scoring "
        "stops; 1: never (guest)",
    )
    monotone: dict[str, Monotone] = Field(
        default_factory=dict,
        description="by numeric column, how the score of trees may change with its known values",
    )
    columns: ColumnNames | None = Field(default=None, description="the only columns used as features")
    ignore: ColumnNames | None = Field(default=None, description="columns never used as features")

    @property
    def keys(self) -> tuple[KeySection, ...]:
        """All keys in order."""
        first = KeySection.model_construct(id=self.id, normalise=self.normalise)  # checked already
        return (first, *self.fallback)

    @property
    def id_columns(self) -> tuple[str, ...]:
        """The columns of all keys, each once."""
        return tuple(dict.fromkeys(name for key in self.keys for name in key.id))

    @property
    def id_readings(self) -> list[IdReading]:
        """How the cells of each key's columns are read."""
        return [
            IdReading(
                self.decimal,
                as_text=frozenset(i for i, name in enumerate(key.id) if name in self.as_text),
                merging=self.merging,
            )
            for key in self.keys
        ]

    @property
    def guests(self) -> dict[str, str | None]:
        """The columns that only a guest has, by use; none of them is a feature."""
        return {key: getattr(self, key) for key in ("label", "weight", "exposure", "offset")}

    @property
    def for_reports(self) -> list[tuple[str, str]]:
        """The columns that reports alone look at, each with its use; none of them is a feature."""
        found = [] if self.current_premium is None else [("current_premium", self.current_premium)]
        found += [("protected", name) for name in self.protected]
        return found + [("report_by", name) for name in self.report_by]

    @model_validator(mode="after")
    def _one_use_a_column(self) -> "DataSection":
        if self.columns is not None and self.ignore is not None:
            raise ValueError("columns and ignore exclude each other: keep one of them")
        if self.premium_per_exposure and (
            self.current_premium is None or (self.exposure is None and self.weight is None)
        ):
            raise ValueError(
                "premium_per_exposure is of a current_premium, and of an exposure or a weight: name them"
            )
        named = [(key, name) for key, name in self.guests.items() if name is not None]
        named += self.for_reports
        for (key, name), (other, same) in itertools.combinations(named, 2):
            if name == same:
                raise ValueError(f"{key} and {other} must be two different columns")
        for key, name in named:
            for use, names in (
                ("id", self.id_columns),
                ("categorical", self.categorical),
                ("dates", tuple(self.dates)),
                ("monotone", tuple(self.monotone)),
                ("columns", self.columns or ()),
            ):
                if name in names:
                    raise ValueError(f"{key} must not be listed under {use} as well")
        for use, names in (
            ("categorical", self.categorical),
            ("dates", tuple(self.dates)),
            ("monotone", tuple(self.monotone)),
            ("columns", self.columns or ()),
        ):
            if set(self.id_columns) & set(names):
                raise ValueError(f"an id column is never a feature: take it out of {use}")
        for name in self.dates:
            if name in self.categorical:
                raise ValueError(
                    f"dates has '{plain_key(name)}', which is under categorical: dates become numbers, "
                    "take it out of one of the two"
                )
            if name in (self.ignore or ()) or (self.columns is not None and name not in self.columns):
                raise ValueError(
                    f"dates has '{plain_key(name)}', which is no feature by columns or ignore: "
                    "take it out of dates"
                )
        for name in self.monotone:
            if name in self.categorical:
                raise ValueError(
                    f"monotone has '{plain_key(name)}', which is under categorical: names have no "
                    "order, take it out of one of the two"
                )
            if name in (self.ignore or ()) or (self.columns is not None and name not in self.columns):
                raise ValueError(
                    f"monotone has '{plain_key(name)}', which is no feature by columns or ignore: "
                    "take it out of monotone"
                )
        for name in self.as_text:
            if name not in self.id_columns:
                raise ValueError(f"as_text has '{plain_key(name)}', which is no id column")
        self._check_duplicates()
        return self

    def _check_duplicates(self) -> None:
        """Raises ValueError for keys that are the same and for rules that columns cannot follow."""
        if len({key.id for key in self.keys}) < len(self.keys):
            raise ValueError("two keys have the same id columns: keep one of them")
        rule = self.duplicates
        if self.aggregate and rule in ("refuse", "keep"):
            raise ValueError(
                "aggregate goes with a rule for repeated ids: set duplicates to "
                f'"first" or another rule in place of "{rule}"'
            )
        for name, own in self.aggregate.items():
            names = name in self.categorical
            if name in (*self.id_columns, *self.guests.values(), *(self.ignore or ())) or (
                self.columns is not None and name not in self.columns
            ):
                raise ValueError(f"aggregate has '{plain_key(name)}', which is no feature")
            if names and own in _NUMBERS_ALONE:
                raise ValueError(
                    f"aggregate has '{plain_key(name)}', which is under categorical: names have first, "
                    "last and mode alone"
                )
            if not names and own == "mode":
                raise ValueError(
                    f"aggregate has '{plain_key(name)}' with mode, which is for columns under "
                    "categorical"
                )
        left = [name for name in self.categorical if name not in self.aggregate]
        if rule in _NUMBERS_ALONE and left:
            raise ValueError(
                f"duplicates = \"{rule}\" says nothing of categorical column '{plain_key(left[0])}': "
                "add first, last or mode for it under aggregate"
            )


class AlignSection(Section):
    """How a guest matches rows."""

    engine: Engine = Field(
        default="ecdh",
        description="how ids are compared: all show the same, at another price (docs/alignment.md)",
    )
    join: JoinKind = Field(
        default="inner", description="inner: rows that all parties know; left: all rows of the guest"
    )


Lookup = Literal["aligned", "sealed"]


class ScoreSection(Section):
    """How a guest scores rows."""

    lookup: Lookup = Field(
        default="aligned",
        description="aligned: hosts learn which of their rows are in a batch; sealed: by lookups in "
        "their "
        "sealed directories, of which they learn how many there are",
    )


class PeerSection(Section):
    """Another party: where it is and what proves that it is the one."""

    address: Address | None = Field(
        default=None, description="where it listens, if it does, or the relay where it waits"
    )
    online: Address | None = Field(
        default=None,
        description="at a host that dials its guest: where the guest's `vfl online` waits, which is "
        "[online] listen_for_hosts of the guest",
    )
    lookup: Lookup | None = Field(
        default=None,
        description="at a guest: how batches are scored with this host; as [score] lookup says, if "
        "absent",
    )
    certificate: LocalPath = Field(description="its certificate, handed over out of band")
    ca: LocalPath | None = Field(
        default=None,
        description="certificates (PEM) of the authority that must have issued its certificate, besides",
    )
    ca_name: str | None = Field(
        default=None,
        min_length=1,
        max_length=253,
        description="the DNS name that the authority certified, where it is not NAME",
    )
    crl: LocalPath | None = Field(
        default=None, description="list (PEM or DER) of certificates that the authority has revoked"
    )
    role: Literal["coordinator", "client"] | None = Field(
        default=None,
        description="coordinator: it is dialled for jobs that name it, or leads those over rows; "
        "client: it has the same columns and rows of its own, and is never dialled",
    )

    @model_validator(mode="after")
    def _an_authority(self) -> "PeerSection":
        for key in ("ca_name", "crl"):
            if self.ca is None and getattr(self, key) is not None:
                raise ValueError(
                    f"{key} belongs to ca, the authority's certificates: add ca, or remove it"
                )
        return self

    @model_validator(mode="after")
    def _two_addresses(self) -> "PeerSection":
        if self.online is not None and self.address is None:
            raise ValueError(
                "online is for a guest that is dialled, and it has no address: `vfl online` dials a "
                "host that listens"
            )
        if self.online is not None and self.online == self.address:
            raise ValueError(
                "online and address are the same: two commands of the guest cannot listen at one"
            )
        return self
