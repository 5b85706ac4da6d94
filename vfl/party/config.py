"""The two files a person writes: the party file, kept by each organisation, and the job file.

Both are TOML, read with every type strict and every unknown key refused. A failure is one
`ConfigError` line that names file, section and key and says what is allowed, never the value. A
job travels to the hosts as its canonical bytes, so that all parties mean the same job.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from vfl.errors import ConfigError
from vfl.learn.losses import Family, Loss, Objective, loss_of
from vfl.learn.params import OF_ORDERED, UNSAID, BoostParams, GlmParams
from vfl.party.config_errors import error_for_all, explain_errors
from vfl.party.config_values import (
    ColumnName,
    FileKind,
    JobName,
    JobNames,
    ModelName,
    PartyName,
    Role,
    one_line,
)
from vfl.party.config_words import Schema
from vfl.party.console_section import ConsoleSection
from vfl.party.documents import canonical_json
from vfl.party.label_rules import check_family, check_objective
from vfl.party.linear_rules import GlmSection, check_columns_of
from vfl.party.online_section import OnlineSection
from vfl.party.policy_section import PolicySection
from vfl.party.relay_file import RelayFile
from vfl.party.row_sections import (
    MOST_COLUMNS,
    JobGlmSection,
    RowsSection,
    SharedColumnSection,
    check_shared_rules,
)
from vfl.party.screen_section import ScreenSection
from vfl.party.sections import (
    USES,
    AlignSection,
    DataSection,
    Lookup,
    PartySection,
    PeerSection,
    ScoreSection,
    Section,
)
from vfl.party.toml_files import read_toml
from vfl.party.tune_section import TuneSection, check_space
from vfl.text import either

MAX_JOB = 64 * 1024  # bytes of a job on the wire
MAX_KEYS = 2000  # in it; it has some 40, and four for each column of a job over rows

LABEL_KEYS: Mapping[ModelName, str] = {"secureboost": "objective", "glm": "family"}
"""The key of [job] that says what the label is, by kind of model; a section of the kind's name has its
settings."""
PEERS_TO_COME = "peers to come"
"""In the context in which a party file is checked: whether peers may still be missing in it."""
_LABEL_KINDS = {"objective": Objective, "family": Family}
SPLITS = ("group", "time")
"""Columns of the guest's table by which a job splits rows, of which no other party is told; over rows of
each party's."""
_OF_COLUMNS = frozenset(
    {
        *("goss_top", "goss_other", "sums", "coordinator", "guest_trees", "encryption", "key_bits"),
        *("obfuscators", "scores", "max_labels", "inference", "alphas", "folds", "one_standard_error"),
        *("theta", "profile", "dispersion", "l1_on", "credibility"),
        *("across", "across_rows", "across_names", "max_leverage"),
        *(*UNSAID, *OF_ORDERED),
    }
)
"""Settings of models over columns alone."""


class Party(Section):
    """A party file. Paths are resolved from its folder."""

    party: PartySection
    section: DataSection | None = Field(default=None, alias="data")
    align: AlignSection = Field(default_factory=AlignSection)
    score: ScoreSection = Field(default_factory=ScoreSection)
    policy: PolicySection = Field(default_factory=PolicySection)
    glm: GlmSection = Field(default_factory=GlmSection)
    online: OnlineSection | None = None
    console: ConsoleSection | None = None
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
        """The names of peers with which columns are shared, in the party file's order."""
        return [name for name, peer in self.peers.items() if peer.role is None]

    def lookup_at(self, host: str) -> Lookup:
        """How rows are scored with a host."""
        return self.peers[host].lookup or self.score.lookup

    @property
    def clients(self) -> list[str]:
        """The names of peers that have the same columns and rows of their own."""
        return [name for name, peer in self.peers.items() if peer.role == "client"]

    @property
    def coordinators(self) -> list[str]:
        """The names of peers without data."""
        return [name for name, peer in self.peers.items() if peer.role == "coordinator"]

    @model_validator(mode="after")
    def _fits_together(self, info: ValidationInfo) -> "Party":
        self._check_online()
        if self.policy.approve == "person" and self.party.others_may_write:
            raise ValueError(
                '[policy] approve = "person" is nothing with others_may_write = true in [party]: who '
                "can write to the store could decide; remove one of the two"
            )
        peers_to_come = bool(info.context and info.context.get(PEERS_TO_COME))
        if self.role == "coordinator":
            return self._check_coordinator(peers_to_come)
        if self.section is None:
            raise ValueError("section [data] is missing")
        if self.role == "host":
            for key, name in (*self.data.guests.items(), *self.data.for_reports):
                if name is not None:
                    raise ValueError(
                        f"[data] {key} belongs to the guest: a host has none, remove the line"
                    )
            if "unknown_levels" in self.data.model_fields_set:
                raise ValueError(
                    "[data] unknown_levels belongs to the guest, who is told of such rows: remove it"
                )
        self._check_matching()
        check_columns_of(self.glm, self.data, is_guest=self.role == "guest")
        if self.name in self.peers:
            raise ValueError(f"[peers.{self.name}] is this party itself: remove it")
        return self if peers_to_come else self._check_peers()

    def _check_peers(self) -> "Party":
        """Raises ValueError where peers are missing, or nobody would dial."""
        known = (*self.partners, *self.coordinators) if self.role == "guest" else self.partners
        strangers = [name for name in self.policy.guests or () if name not in known]
        if strangers:
            raise ValueError(f"[policy] guests has {strangers[0]}, which [peers] has not")
        if not self.peers:
            other = "host" if self.role == "guest" else "guest"
            raise ValueError(
                f"[peers] is empty: add a section [peers.NAME] for the {other}, as `vfl invite` and "
                "`vfl join` do"
            )
        for name, peer in self.peers.items():
            if peer.role == "coordinator" and peer.address is None:
                raise ValueError(f"[peers.{name}] needs an address: a coordinator is always dialled")
            if peer.role == "client" and self.role != "guest":
                raise ValueError(
                    f'[peers.{name}] role = "client" is for parties that have the label and rows of '
                    "their own: remove the line"
                )
            if peer.role == "client" and peer.address is not None:
                raise ValueError(f"[peers.{name}] is a client, which is never dialled: remove address")
        if not self.partners and not self.clients:
            raise ValueError("[peers] has a coordinator alone: add a section for a party with data")
        if self.clients and not self.coordinators:
            raise ValueError(
                f"[peers.{self.clients[0]}] is a client, which needs a server: add a section for a peer "
                'with role = "coordinator"'
            )
        silent = [name for name in self.partners if self.peers[name].address is None]
        # A host may pin a fellow host without ever dialling it, to check what the guest relays.
        enough = self.role == "host" and len(silent) < len(self.partners)
        if silent and self.party.listen is None and not enough:
            raise ValueError(
                f"[peers.{silent[0]}] needs an address, or [party] needs listen: "
                "one of the two sides must listen, or wait at a relay"
            )
        return self

    def _check_online(self) -> None:
        """Raises ValueError for a service of another party than a guest, and for hosts that are none."""
        for name, peer in self.peers.items():
            for key, own, other in (("lookup", "guest", "host"), ("online", "host", "guest")):
                if getattr(peer, key) is not None and (self.role, peer.role) != (own, None):
                    raise ValueError(f"[peers.{name}] {key} is for a {own}'s {other}: remove the line")
        if self.online is None:
            return
        if self.role != "guest":
            raise ValueError("[online] belongs to the guest, who scores: remove the section")
        dialled = [name for name in self.partners if self.peers[name].address is not None]
        self.online.check_second_address(self.party.listen, len(dialled) == len(self.partners))
        for name in self.online.hosts:
            if name not in self.partners:
                raise ValueError(f"[online.hosts.{name}] is of no host under [peers]: remove it")

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

    def _check_coordinator(self, peers_to_come: bool) -> "Party":
        """The file of a coordinator. Raises ValueError for what it cannot have."""
        if self.section is not None:
            raise ValueError("[data] is for parties with a table: a coordinator has none, remove it")
        if self.party.listen is None:
            raise ValueError("[party] listen is missing: a coordinator is dialled by all others")
        if (len(self.peers) < 2 and not peers_to_come) or self.name in self.peers:
            raise ValueError("[peers] must have a section for the guest and for each host")
        return self


class JobSection(Section):
    """What is to be trained and why."""

    name: JobName = Field(description="of the model and the run")
    partition: Literal["columns", "rows"] | None = Field(
        default=None,
        description="what parties have of a table: its columns, if absent, or its rows, each with the "
        "label and all columns",
    )
    purpose: Annotated[str, AfterValidator(one_line)] = Field(
        min_length=1, max_length=200, description="why, shown to every host"
    )
    model: ModelName = Field(description="kind of model")
    objective: Objective | None = Field(default=None, description="what the label is (secureboost)")
    family: Family | None = Field(default=None, description="what the label is (glm)")
    holdout: float = Field(
        default=0.2, ge=0, lt=1, description="share of the aligned rows kept out for evaluation"
    )
    group: ColumnName | None = Field(
        default=None,
        description="column of the guest's table, over rows of each party's: rows of one value train, "
        "or are held out, together",
    )
    time: ColumnName | None = Field(
        default=None,
        description="column of the guest's table, over rows of each party's: the rows of its last "
        "values are held out",
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
    project: JobNames | None = Field(default=None, description="of a project, all its models' jobs")

    @property
    def label_key(self) -> str:
        """The key that says what the label is."""
        return LABEL_KEYS[self.model]

    @property
    def unsaid(self) -> set[str]:
        """The keys that the job says nothing of, and that are no part of it then."""
        return {name for name in (*USES, *SPLITS, "partition", "project") if getattr(self, name) is None}

    @model_validator(mode="after")
    def _one_kind_of_label(self) -> "JobSection":
        if self.group is not None and self.group == self.time:
            raise ValueError("group and time must be two different columns")
        if self.project is not None and self.name not in self.project:
            raise ValueError("project must name the job itself among those of its models")
        due = self.label_key
        for other in LABEL_KEYS.values():
            if other != due and getattr(self, other) is not None:
                raise ValueError(f'{other} is not for model = "{self.model}": write {due}')
        if getattr(self, due) is None:
            kinds = either([f'"{name}"' for name in get_args(_LABEL_KINDS[due])])
            raise ValueError(f'{due} is missing, which model = "{self.model}" needs: {kinds}')
        return self


class Job(Section):
    """A job file, proposed by the guest and shown to every host."""

    job: JobSection
    secureboost: BoostParams = Field(default_factory=lambda: BoostParams.model_validate({}))
    glm: JobGlmSection = Field(default_factory=lambda: JobGlmSection.model_validate({}))
    columns: dict[ColumnName, SharedColumnSection] | None = Field(
        default=None,
        min_length=1,
        max_length=MOST_COLUMNS,
        description="of a job over rows, the columns that all parties have",
    )
    rows: RowsSection = Field(default_factory=RowsSection)
    tune: TuneSection | None = Field(default=None, description="of `vfl tune`: a search for settings")
    screen: ScreenSection = Field(default_factory=ScreenSection)

    @property
    def over_rows(self) -> bool:
        """Whether each party has rows of its own."""
        return self.job.partition == "rows"

    @model_validator(mode="after")
    def _partition(self) -> "Job":
        if not self.over_rows:
            for section in ("columns", "rows"):
                if section in self.model_fields_set:
                    raise ValueError(
                        f'section [{section}] is for partition = "rows" in [job]: add it, or remove the '
                        "section"
                    )
            if named := [name for name in GlmSection.model_fields if name in self.glm.model_fields_set]:
                raise ValueError(
                    f"[glm] {named[0]} is each party's own, in [glm] of its party file: in a job it is "
                    'for partition = "rows"'
                )
            return self
        if "screen" in self.model_fields_set:
            raise ValueError("section [screen] is for jobs over columns: remove it")
        if self.columns is None:
            raise ValueError(
                'partition = "rows" needs a section [columns.NAME] for each column that all parties have'
            )
        unfit = sorted(_OF_COLUMNS & self.params.model_fields_set)
        if unfit:
            raise ValueError(
                f'[{self.job.model}] {unfit[0]} is not for partition = "rows": parties add up numbers '
                "that nobody sees, remove the line"
            )
        check_shared_rules(self.columns, self.glm, linear=self.job.model == "glm")
        return self

    @model_validator(mode="after")
    def _one_model(self) -> "Job":
        if self.job.model == "glm":
            check_family(self.job.family, self.linear, over_rows=self.over_rows)
        check_objective(self.job.objective, self.secureboost, over_rows=self.over_rows)
        if self.tune is not None:
            check_space(self.tune, self.params)
        for key in ("exposure", "offset"):
            if getattr(self.job, key) and (reason := getattr(self.loss, f"no_{key}")):
                raise ValueError(f"[job] {key} {reason}")
        by = [key for key in SPLITS if getattr(self.job, key) is not None]
        if by and not self.job.holdout and not getattr(self.params, "validation_share", 0):
            stop = "" if self.job.model != "secureboost" else " or a validation_share in [secureboost]"
            raise ValueError(
                f"[job] {by[0]} splits no row with holdout = 0: set a holdout{stop}, or remove the line"
            )
        for section in LABEL_KEYS.keys() & self.model_fields_set:
            if section != self.job.model:
                raise ValueError(f'section [{section}] is not for model = "{self.job.model}": remove it')
        return self

    @property
    def name(self) -> str:
        return self.job.name

    @property
    def linear(self) -> GlmParams:
        """The settings of a linear model."""
        return self.glm.params

    @property
    def params(self) -> BoostParams | GlmParams:
        """The settings of its kind of model."""
        return self.secureboost if self.job.model == "secureboost" else self.linear

    @property
    def objective(self) -> Objective | Family:
        """What the label is: the objective of trees, the family of a linear model."""
        said = self.job.objective or self.job.family
        if said is None:
            raise ValueError("a job has an objective or a family")
        return said

    @property
    def loss(self) -> Loss:
        """What the model minimises."""
        of_trees = self.secureboost.quantile, self.secureboost.classes
        return loss_of(self.objective, self.params.tweedie_power, self.linear.theta, *of_trees)

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
            meaningless = {"exposure": self.loss.no_exposure, "offset": self.loss.no_offset}.get(key)
            by_default = not self.over_rows and meaningless is None
            if name is not None and (by_default if said is None else said):
                used[key] = name
        return used

    def splits(self, data: DataSection) -> dict[str, str]:
        """The columns of a guest by which the job splits rows, by use.

        Raises ConfigError for one that the party file names as the label or the like.
        """
        by = {key: name for key in SPLITS if (name := getattr(self.job, key)) is not None}
        for key, name in by.items():
            for use, own in data.guests.items():
                if name == own:
                    raise ConfigError(
                        f"[job] {key} names the {use} of the party file: name another column"
                    )
        return by

    @property
    def settings(self) -> dict[str, object]:
        """Everything that the job says to all parties, defaults written out, of its own kind of model
        alone; not how a guest splits its rows, searches and screens."""
        of_guest = () if self.over_rows else SPLITS
        left_out: dict[str, bool | set[str]] = {
            "job": {*LABEL_KEYS.values(), *self.job.unsaid, *of_guest} - {self.job.label_key}
        }
        left_out |= dict.fromkeys({*LABEL_KEYS, "tune", "screen"} - {self.job.model}, True)
        unsaid = self.secureboost.unsaid if self.job.model == "secureboost" else set[str]()
        left_out[self.job.model] = unsaid
        if self.over_rows:
            left_out[self.job.model] = {*_OF_COLUMNS, *unsaid}
        else:
            left_out |= dict.fromkeys(("columns", "rows"), True)
            if self.job.model == "glm":
                left_out["glm"] = {*GlmSection.model_fields, *self.glm.unsaid_settings}
        if self.over_rows and self.job.model == "glm":
            left_out["glm"] = {*_OF_COLUMNS, *self.glm.unsaid, *self.glm.unsaid_settings}
        return self.model_dump(mode="json", exclude=left_out)

    @property
    def canonical(self) -> bytes:
        """UTF-8 JSON with sorted keys, no spaces and every default written out."""
        return canonical_json(self.settings)

    @property
    def searched(self) -> bytes:
        """`canonical` with the search that the job file describes, if any: of `vfl tune` alone."""
        tune = {} if self.tune is None else {"tune": self.tune.model_dump(mode="json")}
        return canonical_json(self.settings | tune)

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
        return _parse_received(data)


@lru_cache(maxsize=8)
def _parse_received(data: bytes) -> Job:
    if len(data) > MAX_JOB:
        raise error_for_all(f"the job received has {len(data):,} bytes, over {MAX_JOB:,}")
    keys = 0

    def counted(pairs: list[tuple[str, object]]) -> dict[str, object]:
        nonlocal keys
        keys += len(pairs)
        if keys > MAX_KEYS:
            raise error_for_all(f"the job received has over {MAX_KEYS} keys")
        return dict(pairs)

    try:
        raw = json.loads(data.decode(), object_pairs_hook=counted)
    except (ValueError, RecursionError):
        raise error_for_all("the job received is no valid JSON") from None
    if not isinstance(raw, dict):
        raise error_for_all("the job received is no table")
    try:
        job = Job.model_validate(raw, strict=True)
    except ValidationError as error:
        raise error_for_all(f"the job received: {explain_errors(error, Job)}") from None
    if job.searched != data:
        raise error_for_all("the job received is not in canonical form: both sides need the same vfl")
    return job


def load_party(path: str | Path, *, peers_to_come: bool = False) -> Party:
    """The party file at `path`, of which peers may be missing that are still to come. Raises "
    "ConfigError."""
    return _load(Path(path), Party, "party", peers_to_come)


def load_job(path: str | Path) -> Job:
    """The job file at `path`. Raises ConfigError."""
    return _load(Path(path), Job, "job")


def load_relay(path: str | Path) -> RelayFile:
    """The file of a relay at `path`. Raises ConfigError."""
    return _load(Path(path), RelayFile, "relay")


_MODELS: dict[FileKind, type[BaseModel]] = {"party": Party, "job": Job, "relay": RelayFile}


def schema(kind: FileKind) -> Schema:
    """The JSON Schema of a kind of file."""
    model = _MODELS[kind]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **model.model_json_schema(mode="validation"),
        "title": f"vfl {kind} file",
    }


C = TypeVar("C", Party, Job, RelayFile)


def _load(path: Path, model: type[C], kind: FileKind, peers_to_come: bool = False) -> C:
    raw = read_toml(path, kind)
    other = next((other for other in (*_MODELS, "project") if other in raw), None)
    if kind not in raw and other is not None:
        swapped = " (are they the other way round?)" if {kind, other} == {"party", "job"} else ""
        raise ConfigError(f"{path.name} is a {other} file, where a {kind} file is due{swapped}")
    try:
        return model.model_validate(raw, strict=True, context=context_of(path, peers_to_come))
    except ValidationError as error:
        raise ConfigError(f"{path.name}: {explain_errors(error, model)}") from None


def context_of(path: Path, peers_to_come: bool = False) -> dict[str, object]:
    """What the checks of a file need to know: its folder, and whether peers are still to come."""
    return {"folder": path.absolute().parent, PEERS_TO_COME: peers_to_come}
