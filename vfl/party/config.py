"""The two files a person writes: the party file, kept by each organisation, and the job file.

Both are TOML, read with every type strict and every unknown key refused. A failure is one
`ConfigError` line that names file, section and key and says what is allowed, never the value. A
job travels to the hosts as its canonical bytes, so that all parties mean the same job.
"""

import difflib
import hashlib
import itertools
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from vfl.crypto.workers import Machine
from vfl.errors import ConfigError
from vfl.learn.binning import Monotone
from vfl.learn.losses import Family, Loss, Objective, loss_of
from vfl.learn.params import BoostParams, GlmParams
from vfl.party.id_cells import IdReading
from vfl.party.ids import STEP, compose
from vfl.party.reading import SEPARATOR, SEPARATOR_WORDS, Reading
from vfl.text import near_file

MAX_FILE = 1024 * 1024  # bytes of a TOML file
MAX_JOB = 64 * 1024  # bytes of a job on the wire
MAX_KEYS = 200  # in it; it has some 40

PARTY_NAME = r"^[a-z][a-z0-9-]{0,31}$"
JOB_NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
_PATTERN_WORDS = {
    PARTY_NAME: "up to 32 lower-case letters, digits and hyphens, starting with a letter",
    JOB_NAME: "up to 64 lower-case letters, digits, dots, hyphens and underscores, "
    "starting with a letter or digit",
    SEPARATOR: SEPARATOR_WORDS,
    f"^({STEP})$": '"nfkc" or "trim" or "upper" or "digits" or "alnum" or "nozeros" or "vin" or '
    '"plate" or "date" or "date:dmy" or "date:mdy" or "phone" or "phone:33" (or another country code)',
}


def to_the_end(pattern: str) -> str:
    """A pattern for Python's `re`, to which $ is also what stands before a newline at the end."""
    return pattern.removesuffix("$") + r"\Z"


def _resolved(path: object, info: ValidationInfo) -> object:
    """Text as a path, from the party file's folder when that is known."""
    if not isinstance(path, str | Path):
        return path
    if not str(path) or "\0" in str(path):
        raise ValueError("must be a path")
    return Path((info.context or {}).get("folder", "")) / _on_disk(path)


def _on_disk(path: str | Path) -> str | Path:
    """The path with the bytes of UTF-8 for letters that this system's locale lacks (LC_ALL=C)."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return os.fsdecode(str(path).encode())
    return path


def _several(value: object) -> object:
    """One name as a list of one; a list as a tuple, which a frozen model can hold."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("must not name anything twice")
    return names


def _endpoint(least_port: int, words: str) -> AfterValidator:
    def check(text: str) -> str:
        host, _, port = text.rpartition(":")
        plain = re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", host)
        digits = re.fullmatch(r"[0-9]{1,5}", port)
        if not plain or not digits or not least_port <= int(port) <= 65535:
            raise ValueError(f"must be {words}")
        return text

    return AfterValidator(check)


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be one line of printable text")
    return text


def _rule(value: object, info: ValidationInfo) -> object:
    """Steps for all id columns, or a list by column, as the one list that the parties compare."""
    if isinstance(value, dict):
        columns = info.data.get("id", tuple(value))  # a bad id has its own error
        if set(value) != set(columns):
            raise ValueError(
                f"must have a list of steps for each id column: {', '.join(map(_shown, columns))}"
            )
        lists = [value[column] for column in columns]
    else:
        lists = [value]
    for steps in lists:
        known = isinstance(steps, list | tuple) and all(
            isinstance(step, str) and re.fullmatch(STEP, step) for step in steps
        )
        if not known:
            raise ValueError(f"must be {_allowed(_STEPS, {})}")
        _distinct(tuple(steps))
    return compose(lists)


_STEPS = {"type": "array", "items": {"type": "string", "pattern": f"^({STEP})$"}}
_LIST_OF_TEXT = {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}}

_STEPS_OF_ID = ("nfkc", "trim", "upper", "alnum")
_NUMBERS_ALONE = ("sum", "mean", "max", "min")  # rules for repeated ids that names cannot follow

USES = ("exposure", "offset", "weight")
"""Columns of a guest that a job may use, or leave alone."""

_KINDS = {"objective": Objective, "family": Family}

Kind = Literal["party", "job"]
Role = Literal["guest", "host", "coordinator"]
Duplicates = Literal["refuse", "first", "keep", "last", "sum", "mean", "max", "min"]
Aggregate = Literal["first", "last", "sum", "mean", "max", "min", "mode"]
PartyName = Annotated[str, Field(pattern=PARTY_NAME)]
JobName = Annotated[str, Field(pattern=JOB_NAME)]
Column = Annotated[str, Field(min_length=1)]
Columns = Annotated[tuple[Column, ...], BeforeValidator(_as_tuple), AfterValidator(_distinct)]
OneOrMoreColumns = Annotated[
    tuple[Column, ...],
    Field(min_length=1),
    BeforeValidator(_several),
    AfterValidator(_distinct),
    WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, _LIST_OF_TEXT]}),
]
Names = Annotated[
    tuple[PartyName, ...], Field(min_length=1), BeforeValidator(_as_tuple), AfterValidator(_distinct)
]
Patterns = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1), BeforeValidator(_as_tuple)
]
Models = Annotated[
    tuple[Literal["secureboost", "glm"], ...], Field(min_length=1), BeforeValidator(_as_tuple)
]
Objectives = Annotated[
    tuple[Literal[Objective, Family], ...], Field(min_length=1), BeforeValidator(_as_tuple)
]
Encryption = Literal["paillier", "ou", "lattice"]
Encryptions = Annotated[tuple[Encryption, ...], Field(min_length=1), BeforeValidator(_as_tuple)]
Engine = Literal["ecdh", "ot"]
JoinKind = Literal["inner", "left"]
Engines = Annotated[tuple[Engine, ...], Field(min_length=1), BeforeValidator(_as_tuple)]
Joins = Annotated[tuple[JoinKind, ...], Field(min_length=1), BeforeValidator(_as_tuple)]
Rule = Annotated[
    tuple[str, ...],
    BeforeValidator(_rule),
    WithJsonSchema({"anyOf": [_STEPS, {"type": "object", "additionalProperties": _STEPS}]}),
]
LocalPath = Annotated[Path, BeforeValidator(_resolved)]
Address = Annotated[str, _endpoint(1, "host:port with a port from 1 to 65535")]
Listen = Annotated[str, _endpoint(0, "host:port with a port from 0 (any free one) to 65535")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PartySection(_Section):
    """Who this organisation is."""

    name: PartyName = Field(description="the name that peers know this party by")
    role: Role = Field(description="guest holds the labels, host adds columns, coordinator has no data")
    identity: LocalPath = Field(description="path of the keys without .key and .pem")
    listen: Listen | None = Field(default=None, description="address to listen on")
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
    others_may_write: bool = Field(
        default=False,
        description="the folders of store, keys and certificates may be writable by other accounts: "
        "where modes mean nothing, or all of them are trusted",
    )

    @property
    def machine(self) -> Machine:
        """What this party lends to encrypted arithmetic."""
        workers = self.workers or os.cpu_count() or 1
        return Machine(workers, self.memory << 20, self.store / "scratch")


class KeySection(_Section):
    """A further key, for rows that no earlier key has matched."""

    id: OneOrMoreColumns = Field(description="columns that name a row where earlier keys do not")
    normalise: Rule = Field(
        default=_STEPS_OF_ID, description="steps that make the same id equal on both sides"
    )


class DataSection(Reading):
    """The party's own table, how its file is written and what its columns are."""

    path: LocalPath = Field(
        description="table: .csv (also .tsv, .txt; compressed as .csv.gz), .parquet, .feather or .xlsx"
    )
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
    as_text: Columns = Field(
        default=(),
        description="id columns whose cells are text alone: no number and no word for a missing id is "
        "read in them",
    )
    label: Column | None = Field(default=None, description="column to predict (guest)")
    weight: Column | None = Field(default=None, description="column of row weights (guest)")
    exposure: Column | None = Field(
        default=None, description="column of time at risk, for counts: poisson (guest)"
    )
    offset: Column | None = Field(
        default=None, description="column added to the score, on the scale of the link (guest)"
    )
    categorical: Columns = Field(default=(), description="columns whose values are names")
    unknown_levels: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="share of a batch's rows with a level that was not in training, above which scoring "
        "stops; 1: never (guest)",
    )
    monotone: dict[str, Monotone] = Field(
        default_factory=dict,
        description='by numeric column, "increasing" or "decreasing": how the score of trees may change '
        "with its known values",
    )
    columns: Columns | None = Field(default=None, description="the only columns used as features")
    ignore: Columns | None = Field(default=None, description="columns never used as features")

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

    @model_validator(mode="after")
    def _one_use_a_column(self) -> "DataSection":
        if self.columns is not None and self.ignore is not None:
            raise ValueError("columns and ignore exclude each other: keep one of them")
        named = [(key, name) for key, name in self.guests.items() if name is not None]
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
                    f"dates has '{_shown(name)}', which is under categorical: dates become numbers, "
                    "take it out of one of the two"
                )
            if name in (self.ignore or ()) or (self.columns is not None and name not in self.columns):
                raise ValueError(
                    f"dates has '{_shown(name)}', which is no feature by columns or ignore: "
                    "take it out of dates"
                )
        for name in self.monotone:
            if name in self.categorical:
                raise ValueError(
                    f"monotone has '{_shown(name)}', which is under categorical: names have no order, "
                    "take it out of one of the two"
                )
            if name in (self.ignore or ()) or (self.columns is not None and name not in self.columns):
                raise ValueError(
                    f"monotone has '{_shown(name)}', which is no feature by columns or ignore: "
                    "take it out of monotone"
                )
        for name in self.as_text:
            if name not in self.id_columns:
                raise ValueError(f"as_text has '{_shown(name)}', which is no id column")
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
                raise ValueError(f"aggregate has '{_shown(name)}', which is no feature")
            if names and own in _NUMBERS_ALONE:
                raise ValueError(
                    f"aggregate has '{_shown(name)}', which is under categorical: names have first, "
                    "last and mode alone"
                )
            if not names and own == "mode":
                raise ValueError(
                    f"aggregate has '{_shown(name)}' with mode, which is for columns under categorical"
                )
        left = [name for name in self.categorical if name not in self.aggregate]
        if rule in _NUMBERS_ALONE and left:
            raise ValueError(
                f"duplicates = \"{rule}\" says nothing of categorical column '{_shown(left[0])}': add "
                "first, last or mode for it under aggregate"
            )


class AlignSection(_Section):
    """How a guest matches rows."""

    engine: Engine = Field(
        default="ecdh", description="ecdh sends least, ot takes least time (docs/alignment.md)"
    )
    join: JoinKind = Field(
        default="inner", description="inner: rows that all parties know; left: all rows of the guest"
    )


class PolicySection(_Section):
    """What a host allows, whatever a guest's job asks for; vfl/party/policy.py holds jobs against it."""

    guests: Names | None = Field(default=None, description="the only peers that may start jobs")
    purposes: Patterns | None = Field(
        default=None, description="the only purposes of jobs; * stands for any text"
    )
    models: Models | None = Field(default=None, description="the only kinds of model")
    objectives: Objectives | None = Field(
        default=None, description="the only objectives (trees) and families (linear models)"
    )
    columns: Columns | None = Field(
        default=None, description="the only own columns that enter a model, of those that [data] has"
    )
    min_intersection: int = Field(default=100, ge=1, description="least rows of an alignment")
    max_intersection: int | None = Field(default=None, ge=1, description="most rows of an alignment")
    max_rows_an_id: int | None = Field(
        default=None, ge=1, description="most rows that the guest may join to one of this party's"
    )
    engines: Engines = Field(
        default=("ecdh", "ot"), description="the engines of alignment it takes part in"
    )
    joins: Joins = Field(default=("inner", "left"), description="the kinds of join it takes part in")
    alignment_days: int | None = Field(
        default=None, ge=1, description="days for which an alignment is of use; for ever if absent"
    )
    max_alignments_a_day: int | None = Field(
        default=24, ge=1, description="most alignments of a guest in a day (UTC), extended ones included"
    )
    max_ids_a_day: int | None = Field(
        default=None, ge=1, description="most ids that a guest may ask about in a day (UTC), for any job"
    )
    min_child_rows: int = Field(
        default=10, ge=1, description="least rows on either side of a split that it offers"
    )
    min_bin_rows: int | None = Field(
        default=None, ge=1, description="least rows of a bin; min_child_rows if absent"
    )
    encryptions: Encryptions = Field(
        default=("paillier", "ou"),
        description="the encryptions it takes part in; lattice is for guests that it trusts to follow "
        "the protocol: one that does not can ask for sums of single rows",
    )
    key_bits: Literal[2048, 3072, 4096] = Field(
        default=2048, description="least modulus of the guest's key, which lattice does not have"
    )
    max_trees: int | None = Field(default=None, ge=1, description="most trees of a job")
    max_iterations: int | None = Field(
        default=None, ge=1, description="most iterations of a linear model's fit"
    )
    hidden_scores: bool = Field(default=False, description='linear models with scores = "hidden" alone')
    max_jobs_a_day: int | None = Field(
        default=None, ge=1, description="most jobs of a guest in a day (UTC), of any kind"
    )
    scoring: bool = Field(default=True, description="the guest may score rows with its models")
    min_scored_rows: int | None = Field(
        default=None, ge=1, description="least rows of a batch that this party knows"
    )
    max_scored_rows_a_day: int | None = Field(
        default=None, ge=1, description="most rows scored for a guest in a day (UTC)"
    )
    show_names: bool = Field(default=True, description="the guest may see column names in importances")
    explain: bool = Field(
        default=True, description="the guest may see what each column adds to a linear model's scores"
    )
    diagnose: bool = Field(
        default=True,
        description="the guest may count, on a sample, how many ids match by other rules when few match",
    )
    expires: date | None = Field(default=None, description="last day (UTC) on which jobs are accepted")


class GlmSection(_Section):
    """How this party's columns enter a linear model."""

    binned: Columns = Field(default=(), description="numeric columns cut at quantiles, each bin a level")
    bins: int = Field(default=10, ge=2, le=255, description="bins of such a column")
    missing: Literal["mean", "median", "level"] = Field(
        default="mean",
        description="what takes the place of a missing number; level: a column that marks it, too",
    )
    base: dict[str, str] = Field(
        default_factory=dict,
        description="by column, the level that others are compared with; the most frequent if absent",
    )
    min_level_rows: int = Field(
        default=20, ge=1, description="levels with fewer rows are joined to the base level"
    )
    step: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="by numeric column, of how many units relativities are shown; a standard deviation "
        "if absent",
    )

    @property
    def rules(self) -> dict[str, Any]:
        """What shapes the model; a step only says how it is shown."""
        return {name: getattr(self, name) for name in type(self).model_fields if name != "step"}


class PeerSection(_Section):
    """Another party: where it is and what proves that it is the one."""

    address: Address | None = Field(default=None, description="where it listens, if it does")
    certificate: LocalPath = Field(description="its certificate, handed over out of band")
    role: Literal["coordinator"] | None = Field(
        default=None, description="for a coordinator: it is dialled for jobs that name it, and no other"
    )


class Party(_Section):
    """A party file. Paths are resolved from its folder."""

    party: PartySection
    section: DataSection | None = Field(default=None, alias="data")
    align: AlignSection = Field(default_factory=AlignSection)
    policy: PolicySection = Field(default_factory=PolicySection)
    glm: GlmSection = Field(default_factory=GlmSection)
    peers: dict[PartyName, PeerSection] = Field(
        default_factory=dict, validate_default=True, description="the parties it works with"
    )

    @property
    def name(self) -> str:
        return self.party.name

    @property
    def role(self) -> Role:
        return self.party.role

    @property
    def data(self) -> DataSection:
        """The party's table. Raises ConfigError for a coordinator, which has none."""
        if self.section is None:
            raise ConfigError("[data] is missing in the party file: a coordinator has no table")
        return self.section

    @property
    def partners(self) -> list[str]:
        """The names of peers that hold data, in the party file's order."""
        return [name for name, peer in self.peers.items() if peer.role is None]

    @model_validator(mode="after")
    def _fits_together(self) -> "Party":
        if self.role == "coordinator":
            return self._coordinates()
        if self.section is None:
            raise ValueError("section [data] is missing")
        if self.role == "host":
            for key, name in self.data.guests.items():
                if name is not None:
                    raise ValueError(
                        f"[data] {key} belongs to the guest: a host has none, remove the line"
                    )
            if "unknown_levels" in self.data.model_fields_set:
                raise ValueError(
                    "[data] unknown_levels belongs to the guest, who is told of such rows: remove it"
                )
        self._check_matching()
        strangers = [name for name in self.policy.guests or () if name not in self.partners]
        if strangers:
            raise ValueError(f"[policy] guests has {strangers[0]}, which [peers] has not")
        glm = self.glm
        for key, columns in (("binned", glm.binned), ("base", glm.base), ("step", glm.step)):
            self._check_features(key, columns)
        if not self.peers:
            other = "host" if self.role == "guest" else "guest"
            raise ValueError(f"[peers] is empty: add a section [peers.NAME] for the {other}")
        if self.name in self.peers:
            raise ValueError(f"[peers.{self.name}] is this party itself: remove it")
        for name, peer in self.peers.items():
            if peer.role == "coordinator" and peer.address is None:
                raise ValueError(f"[peers.{name}] needs an address: a coordinator is always dialled")
        if not self.partners:
            raise ValueError("[peers] has a coordinator alone: add a section for a party with data")
        silent = [name for name in self.partners if self.peers[name].address is None]
        # A host may pin a fellow host without ever dialling it, to check what the guest relays.
        enough = self.role == "host" and len(silent) < len(self.partners)
        if silent and self.party.listen is None and not enough:
            raise ValueError(
                f"[peers.{silent[0]}] needs an address, or [party] needs listen: "
                "one of the two sides must listen"
            )
        return self

    def _check_matching(self) -> None:
        """Raises ValueError for what the other role alone can say of ids that come twice."""
        rule = self.data.duplicates
        if self.role == "host":
            if rule == "keep":
                raise ValueError(
                    '[data] duplicates = "keep" belongs to the guest: a host has one row an id'
                )
            if "align" in self.model_fields_set:
                raise ValueError(
                    "[align] belongs to the guest: a host says in [policy] what it takes part in"
                )
        elif rule not in ("refuse", "first", "keep") or self.data.aggregate:
            what = "aggregate" if rule in ("refuse", "first", "keep") else f'duplicates = "{rule}"'
            raise ValueError(
                f"[data] {what} belongs to a host: a guest refuses repeated ids, takes the first row "
                "or keeps all"
            )

    def _coordinates(self) -> "Party":
        """What a coordinator's file must be."""
        if self.section is not None:
            raise ValueError("[data] is for parties with a table: a coordinator has none, remove it")
        if self.party.listen is None:
            raise ValueError("[party] listen is missing: a coordinator is dialled by all others")
        if len(self.peers) < 2 or self.name in self.peers:
            raise ValueError("[peers] must have a section for the guest and for each host")
        return self

    def _check_features(self, key: str, names: Iterable[str]) -> None:
        """Raises ValueError when a name of [glm] is no feature of the kind that is due there."""
        data = self.data
        for name in names:
            if name in (*data.id_columns, *data.guests.values(), *(data.ignore or ())) or (
                data.columns is not None and name not in data.columns
            ):
                raise ValueError(f"[glm] {key} names a column that is no feature by [data]")
            if key in ("binned", "step") and name in data.categorical:
                raise ValueError(f"[glm] {key} names a column that [data] lists under categorical")
            if key == "step" and name in self.glm.binned:
                raise ValueError(
                    "[glm] step names a column that binned cuts into levels: they have none"
                )
            if key == "base" and name not in (*data.categorical, *self.glm.binned):
                raise ValueError(
                    "[glm] base names a column without levels: neither [data] categorical nor "
                    "[glm] binned lists it"
                )


class JobSection(_Section):
    """What is to be trained and why."""

    name: JobName = Field(description="of the model and the run")
    purpose: Annotated[str, AfterValidator(_one_line)] = Field(
        min_length=1, max_length=200, description="why, shown to every host"
    )
    model: Literal["secureboost", "glm"] = Field(description="kind of model")
    objective: Objective | None = Field(default=None, description="what the label is (secureboost)")
    family: Family | None = Field(default=None, description="what the label is (glm)")
    holdout: float = Field(
        default=0.2, ge=0, lt=1, description="share of the aligned rows kept out for evaluation"
    )
    exposure: bool | None = Field(
        default=None,
        description="whether it uses the exposure of the party file; for counts alone if absent",
    )
    offset: bool | None = Field(
        default=None, description="whether it uses the offset of the party file; yes if absent"
    )
    weight: bool | None = Field(
        default=None, description="whether it uses the weight of the party file; yes if absent"
    )

    @property
    def unsaid(self) -> set[str]:
        """The uses of columns that the job says nothing of, and that are no part of it then."""
        return {name for name in USES if getattr(self, name) is None}

    @model_validator(mode="after")
    def _one_kind_of_label(self) -> "JobSection":
        due, other = ("objective", "family") if self.model == "secureboost" else ("family", "objective")
        if getattr(self, other) is not None:
            raise ValueError(f'{other} is not for model = "{self.model}": write {due}')
        if getattr(self, due) is None:
            kinds = " or ".join(f'"{name}"' for name in get_args(_KINDS[due]))
            raise ValueError(f'{due} is missing, which model = "{self.model}" needs: {kinds}')
        return self


class Job(_Section):
    """A job file, proposed by the guest and shown to every host."""

    job: JobSection
    secureboost: BoostParams = Field(default_factory=lambda: BoostParams.model_validate({}))
    glm: GlmParams = Field(default_factory=lambda: GlmParams.model_validate({}))

    @model_validator(mode="after")
    def _one_model(self) -> "Job":
        hidden = self.job.model == "glm" and self.glm.scores == "hidden"
        if hidden and self.job.family not in ("logistic", "poisson"):
            raise ValueError(
                'scores = "hidden" is for family = "logistic" and "poisson": of the others no residual '
                'can be formed under encryption, use scores = "guest"'
            )
        if self.job.exposure and (reason := self.loss.no_exposure):
            raise ValueError(f"[job] exposure {reason}")
        for section in {"secureboost", "glm"} & self.model_fields_set:
            if section != self.job.model:
                raise ValueError(f'section [{section}] is not for model = "{self.job.model}": remove it')
        return self

    @property
    def name(self) -> str:
        return self.job.name

    @property
    def loss(self) -> Loss:
        """What the model minimises."""
        if self.job.objective is not None:
            return loss_of(self.job.objective, self.secureboost.tweedie_power)
        if self.job.family is not None:
            return loss_of(self.job.family, self.glm.tweedie_power)
        raise ValueError("a job has an objective or a family")

    def uses(self, data: DataSection) -> dict[str, str]:
        """The columns of exposure, offset and weight that the job uses of a guest's, by use.

        Raises ConfigError for one that the job asks for and the party file does not name.
        """
        used = {}
        for key in USES:
            said, name = getattr(self.job, key), getattr(data, key)
            if said and name is None:
                raise ConfigError(
                    f"[job] {key} = true, but [data] of the party file names no column for it: add "
                    f"{key} there, or take the line out of the job"
                )
            by_default = key != "exposure" or self.loss.no_exposure is None
            if name is not None and (by_default if said is None else said):
                used[key] = name
        return used

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that the job says, defaults written out, of its own kind of model alone."""
        boosts = self.job.model == "secureboost"
        left_out: dict[str, Any] = {
            "glm" if boosts else "secureboost": True,
            "job": {"family" if boosts else "objective", *self.job.unsaid},
        }
        return self.model_dump(mode="json", exclude=left_out)

    @cached_property
    def canonical(self) -> bytes:
        """UTF-8 JSON with sorted keys, no spaces and every default written out."""
        return canonical_settings(self.settings)

    @property
    def digest(self) -> str:
        """SHA-256 of `canonical` in hex: the same for two parties that mean the same job."""
        return hashlib.sha256(self.canonical).hexdigest()

    @classmethod
    def from_canonical(cls, data: bytes) -> "Job":
        """The job that a peer sent as its `canonical` bytes.

        Raises ConfigError, whose text may be told to the peer, when the bytes are over 64 KiB or have
        too many keys, are no valid job, or not in canonical form (two parties could then hold two
        digests of one job). What has been read once is not read again.
        """
        return _received(data)


@lru_cache(maxsize=8)
def _received(data: bytes) -> Job:
    if len(data) > MAX_JOB:
        raise _told(f"the job received has {len(data):,} bytes, over {MAX_JOB:,}")
    keys = 0

    def counted(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal keys
        keys += len(pairs)
        if keys > MAX_KEYS:
            raise _told(f"the job received has over {MAX_KEYS} keys")
        return dict(pairs)

    try:
        raw = json.loads(data.decode(), object_pairs_hook=counted)
    except (ValueError, RecursionError):
        raise _told("the job received is no valid JSON") from None
    if not isinstance(raw, dict):
        raise _told("the job received is no table")
    try:
        job = Job.model_validate(raw, strict=True)
    except ValidationError as error:
        raise _told(f"the job received: {_explained(error, Job)}") from None
    if job.canonical != data:
        raise _told("the job received is not in canonical form: both sides need the same vfl")
    return job


def canonical_settings(settings: Mapping[str, Any]) -> bytes:
    """`Job.canonical` of a job's `settings`, also of those that a document keeps."""
    return json.dumps(
        settings,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    ).encode()


def load_party(path: str | Path) -> Party:
    """The party file at `path`. Raises ConfigError."""
    return _load(Path(path), Party, "party")


def load_job(path: str | Path) -> Job:
    """The job file at `path`. Raises ConfigError."""
    return _load(Path(path), Job, "job")


def schema(kind: Kind) -> dict[str, Any]:
    """The JSON Schema of a party file or a job file."""
    model: type[BaseModel] = Party if kind == "party" else Job
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **model.model_json_schema(mode="validation"),
        "title": f"vfl {kind} file",
    }


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was most likely meant to be, if any comes near."""
    names = {k.casefold(): k for k in known}
    near = difflib.get_close_matches(name.casefold(), names, n=1, cutoff=0.6)
    return names[near[0]] if near else None


C = TypeVar("C", Party, Job)


def _load(path: Path, model: type[C], kind: Kind) -> C:
    raw = _read_toml(path, kind)
    other: Kind = "job" if kind == "party" else "party"
    if kind not in raw and other in raw:
        raise ConfigError(f"{path.name} is a {other} file, where a {kind} file is due")
    try:
        return model.model_validate(raw, strict=True, context={"folder": path.absolute().parent})
    except ValidationError as error:
        raise ConfigError(f"{path.name}: {_explained(error, model)}") from None


def _read_toml(path: Path, kind: Kind) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        raise ConfigError(f"no {kind} file {path}{_others(path)}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise ConfigError(f"{path} cannot be read: {reason}") from None
    if len(data) > MAX_FILE:
        raise ConfigError(f"{path.name} is over 1 MiB: this is no {kind} file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path.name}: line {line} is not UTF-8: save the file as UTF-8") from None
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path.name}: {_syntax(error, text)}") from None


def _syntax(error: Exception, text: str) -> str:
    """Where a file stops being TOML. The parser's own words may quote the file: left out."""
    at = re.search(r"at line (\d+), column (\d+)", str(error))
    where = f"line {at[1]}, column {at[2]}" if at else f"line {max(1, len(text.splitlines()))}"
    advice = ""
    if "\\" in (text.splitlines()[int(at[1]) - 1] if at else ""):
        advice = "; write paths with / instead of \\"
    elif "overwrite" in str(error) or "twice" in str(error):
        advice = "; a key or section is given twice"
    return f"{where} is not valid TOML{advice}"


def _others(path: Path) -> str:
    """What else the folder offers."""
    if not path.parent.is_dir():
        return f": there is no folder {path.parent}"
    there = sorted(p.name for p in path.parent.glob("*.toml"))
    near = near_file(path.name, there)
    if near:
        return f": did you mean {near}?"
    return f": the folder has {', '.join(there[:5])}" if there else ""


def _told(text: str) -> ConfigError:
    return ConfigError(text, for_peer=text)


def _explained(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem in words, and how many more there are."""
    full = model.model_json_schema(mode="validation")
    problems: list[dict[str, Any]] = [
        dict(e) for e in error.errors(include_input=False, include_url=False)
    ]
    unknown = [p for p in problems if p["type"] == "extra_forbidden"]
    # A misspelt key is the cause of the missing one: it goes first and stands for both.
    meant = {(*p["loc"][:-1], _meant(p, full)) for p in unknown}
    rest = [
        p
        for p in problems
        if p["type"] != "extra_forbidden" and not (p["type"] == "missing" and p["loc"] in meant)
    ]
    texts = list(dict.fromkeys(_sentence(p, full) for p in unknown + rest))
    more = len(texts) - 1
    return texts[0] + (f" (and {more} more problem{'s' if more > 1 else ''})" if more else "")


def _meant(problem: Mapping[str, Any], full: Mapping[str, Any]) -> str | None:
    *parents, key = problem["loc"]
    return did_you_mean(str(key), _properties(parents, full))


def _sentence(problem: Mapping[str, Any], full: Mapping[str, Any]) -> str:
    kind, loc = problem["type"], tuple(problem["loc"])
    if kind == "value_error" and len(loc) <= 1:
        # A rule over several keys says itself where it applies.
        return f"[{loc[0]}] {_own(problem)}" if loc else _own(problem)
    *parents, key = loc
    if key == "[key]":
        return f"[{_shown(parents[0])}.NAME]: the NAME must be {_PATTERN_WORDS[PARTY_NAME]}"
    if isinstance(key, int):  # an entry of a list: the list is what the person looks for
        *parents, key = parents
    place = ".".join(_shown(p) for p in parents)
    here = f"[{place}] {_shown(key)}" if place else f"section [{_shown(key)}]"
    if kind == "extra_forbidden":
        known = _properties(parents, full)
        near = _meant(problem, full)
        what = f"unknown key '{_shown(key)}' in [{place}]" if place else f"unknown {here}"
        return what + (f": did you mean '{near}'?" if near else f": allowed are {', '.join(known)}")
    if kind == "missing":
        return f"{here} is missing"
    if kind == "value_error":
        return f"{here} {_own(problem)}"
    return f"{here} must be {_allowed(_lookup((*parents, key), full), full)}"


def _own(problem: Mapping[str, Any]) -> str:
    return str(problem["ctx"]["error"])


def _shown(key: object) -> str:
    """A key as a terminal can take it, since a job's keys may come from a peer."""
    text = "".join(c if c.isprintable() else "?" for c in str(key))
    return text if len(text) <= 40 else text[:40] + "..."


def _lookup(loc: Sequence[object], full: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of what `loc` points at, or an empty one."""
    node = cast(dict[str, Any], full)
    for key in loc:
        node = _followed(node, full)
        if "properties" in node:
            node = node["properties"].get(key, {})
        else:
            # Peers are named freely: their sections share one schema.
            patterns = node.get("patternProperties") or {"": node.get("additionalProperties") or {}}
            node = next(iter(patterns.values()))
    return _followed(node, full)


def _followed(node: dict[str, Any], full: Mapping[str, Any]) -> dict[str, Any]:
    for option in node.get("anyOf", ()):
        if "$ref" in option:  # a section that may be absent
            return _followed(option, full)
    if "$ref" in node:
        return cast(dict[str, Any], full["$defs"][node["$ref"].rsplit("/", 1)[-1]])
    return node


def _properties(loc: Sequence[object], full: Mapping[str, Any]) -> list[str]:
    return list(_lookup(loc, full).get("properties", {}))


def _allowed(node: Mapping[str, Any], full: Mapping[str, Any]) -> str:
    """What a value may be, in words: 'a whole number from 1 to 5000'."""
    if "anyOf" in node:
        options = [_allowed(o, full) for o in node["anyOf"] if o.get("type") != "null"]
        return " or ".join(dict.fromkeys(options))
    if "enum" in node or "const" in node:
        values = node.get("enum") or [node["const"]]
        return " or ".join(json.dumps(v) for v in values)
    kind = node.get("type")
    if kind in ("integer", "number"):
        return ("a whole number" if kind == "integer" else "a number") + _range(node)
    if kind == "string":
        if node.get("format") == "date":
            return "a date such as 2027-12-31, without quotes"
        if "pattern" in node:
            return _PATTERN_WORDS[node["pattern"]]
        if "maxLength" in node:
            return f"text of {node.get('minLength', 0)} to {node['maxLength']} characters"
        return "non-empty text in quotes" if node.get("minLength") else "text in quotes"
    if kind == "array":
        items = _allowed(node.get("items", {}), full)
        return f"a list of {items}" if items != "something else" else "a list"
    return {"boolean": "true or false", "object": "a section"}.get(str(kind), "something else")


def expected(model: type[BaseModel], key: str) -> str:
    """What a key of a section may be, in words: 'a whole number from 1 to 5000'."""
    full = model.model_json_schema(mode="validation")
    return _allowed(_lookup((key,), full), full)


def _range(node: Mapping[str, Any]) -> str:
    least, most = node.get("minimum"), node.get("maximum")
    above, below = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
    if least is not None and most is not None:
        return f" from {least:g} to {most:g}" if most < 1e6 else f" from {least} to {most}"
    parts = [
        # Some versions of pydantic have 0.0 for 0.
        f" {words} {f'{bound:g}' if isinstance(bound, float) else bound}"
        for words, bound in (
            ("of at least", least),
            ("above", above),
            ("of at most", most),
            ("below", below),
        )
        if bound is not None
    ]
    return " and".join(parts)
