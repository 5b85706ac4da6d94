"""What a kind of model is: how guest and host train and score it, and what there is to say of it.

trees.py and linear.py are the kinds; kinds.py finds that of a job or of a half. Sessions, checkpoints,
hints and who looks on are handed in: by jobs, over TLS and from the store, and by a simulation, in
memory.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Never, Self, TypeVar

import numpy as np

from vfl.arrays import Floats, Integers, Mask
from vfl.blocks.scratch import Scratch
from vfl.crypto.randomness import OF_SYSTEM, Randomness
from vfl.learn.binning import Features, Monotone
from vfl.learn.inference import JointTest
from vfl.learn.losses import Link, Loss
from vfl.learn.params import BoostParams, GlmParams
from vfl.models.dependence import Dependence
from vfl.models.findings import Finding, NothingTrained, known_scores, range_of
from vfl.models.halves import AnyGuestHalf, AnyHostHalf
from vfl.models.parts import PartsAnswers, PartsPacker, PartsScorer
from vfl.models.relativities import Line
from vfl.net.peer import Peer
from vfl.party.config_values import ModelName
from vfl.party.documents import Body
from vfl.party.linear_rules import GlmSection
from vfl.party.policy_section import PolicySection
from vfl.protocols.common.batches import ScoredPart, ScoringCourse, UnknownLevels
from vfl.protocols.common.checkpoints import Checkpoints
from vfl.protocols.common.course import NO_HINTS, UNCOUNTED, SumsCount
from vfl.protocols.common.draw_memory import NO_MEMORY, DrawMemory
from vfl.protocols.common.label_count import LabelCount
from vfl.protocols.common.lattice_hints import HostHints, KeptHints, NoKeptHints
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.fit import IterationDone
from vfl.protocols.linear.hidden import BlindIteration
from vfl.protocols.linear.plain import DesignTables
from vfl.protocols.linear.scoring import GuestGlm, HostGlm
from vfl.protocols.lookup.layout import PartLayout
from vfl.protocols.pooled.adding import Adder
from vfl.protocols.pooled.bins import Schema
from vfl.protocols.trees.grower import BinnedTables, TreeDone
from vfl.protocols.trees.model import GuestModel, HostModel

AnyGuestModel = GuestModel | GuestGlm
AnyHostModel = HostModel | HostGlm
TrainingStep = TreeDone | IterationDone | BlindIteration
G = TypeVar("G", bound=AnyGuestModel)
H = TypeVar("H", bound=AnyHostModel)

_VANISHED = 1e-6  # no two predictions differ by more: relative, or of the label's deviation
_FLAT = 0.01

# --- What is handed in ------------------------------------------------------------------------------


@dataclass(frozen=True)
class ColumnRules:
    """A party's own rules for its columns in models."""

    monotone: Mapping[str, Monotone] = field(default_factory=dict)  # of trees
    min_bin_rows: int = 1  # by its policy
    glm: GlmSection = field(default_factory=GlmSection)

    @property
    def named(self) -> frozenset[str]:
        """The columns that a rule names."""
        return frozenset((*self.monotone, *(name for key in self.glm.named.values() for name in key)))


@dataclass(frozen=True)
class PartyColumns:
    """A party's columns of the aligned rows, of which there may be none."""

    party: str
    table: str  # as errors name it
    features: Features
    rules: ColumnRules = field(default_factory=ColumnRules)
    scratch: Scratch = Scratch()  # where what is made of them goes, where it is large
    about: tuple[Integers, ...] = ()  # as of `Training`


NOTHING: Mapping[str, Never] = MappingProxyType({})


def _ignore(step: TrainingStep) -> None:
    return


def _quiet(done: int, of: int) -> None:
    return


@dataclass(frozen=True)
class GuestRun:
    """What the guest's role works with, and who follows it. `progress` is told of each step."""

    resources: Resources = Resources()
    progress: Callable[[TrainingStep], None] = _ignore
    checkpoints: Checkpoints[Any] = Checkpoints()  # of the kind's `guest_state`
    hints: KeptHints = NoKeptHints()
    hint_progress: Callable[[int, int], None] = _quiet
    coordinator: Peer | None = None  # the session with the kind's, if it has one
    fit_progress: Callable[[int, int], None] = _quiet
    inference_progress: Callable[[int, int], None] = _quiet
    labels: LabelCount | None = None  # that hosts could have read, over all attempts


@dataclass(frozen=True)
class HostRun(Generic[H]):
    """What a host's role works with, and who follows it."""

    participant: Participant
    rows: int  # aligned
    keep: Callable[[H], None]
    """Stores the half before the guest is told that it is safe."""
    job: str = "a model"
    progress: Callable[[str, int, int | None], None] = lambda what, done, of: None
    checkpoints: Checkpoints[Any] = Checkpoints()  # of the kind's `host_state`
    hints: HostHints = NO_HINTS
    draws: DrawMemory = NO_MEMORY
    sums: SumsCount = UNCOUNTED
    hint_progress: Callable[[int, int], None] = _quiet
    coordinator: Peer | None = None
    shown: Callable[[str], str] = str
    """The name under which the guest may see a column."""
    admit: Callable[[Mask], None] = lambda training: None
    """Refuses a model of which too few rows train, by which of the aligned ones do."""


@dataclass(frozen=True)
class CoordinatorRun:
    """What a coordinator's role works with, and who follows it."""

    resources: Resources = Resources()
    progress: Callable[[str, int, int | None], None] = lambda what, done, of: None
    done: int = 0  # the steps that all have kept


@dataclass(frozen=True)
class ClientRun:
    """What a client's role works with, and who follows it. `progress` is told of each step."""

    progress: Callable[[TrainingStep], None] = _ignore
    checkpoints: Checkpoints[Any] = Checkpoints()  # of the kind's `client_state`


@dataclass(frozen=True)
class OwnScores:
    """What a party's columns add to the score of each row of a table, as far as it knows beforehand."""

    rows: Floats  # shape (rows,); none of trees
    missing: float = 0.0  # to that of a row of which the party knows nothing
    unseen: Mapping[str, int] = field(default_factory=dict)
    """Rows with a level that was not in training, by column."""

    def after(self, first: int) -> "OwnScores":
        """Without the first rows."""
        return OwnScores(self.rows[first:], self.missing, self.unseen)


@dataclass(frozen=True)
class GuestBatch:
    """A batch as the guest has it. `places`: of each host, where the alignment has each row, or -1."""

    features: Features
    rows: int
    own: OwnScores
    places: Sequence[Integers]
    progress: Callable[[int, int], None] = _quiet
    explain: bool = False
    unknown_levels: UnknownLevels = lambda host, rows: None
    randomness: Randomness = OF_SYSTEM


@dataclass(frozen=True)
class HostBatch:
    """The rows of a batch that a host knows, in the common order."""

    features: Features
    rows: int
    own: OwnScores
    course: ScoringCourse = ScoringCourse()
    shows_columns: bool = False  # whether the guest may see what each column adds
    unknown_levels: int = 0  # rows with levels that were not in training, if more than chance makes


# --- What comes of it -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fitted(Generic[G, H]):
    """A model as the parties keep it, and the score of every aligned row, shape (rows,)."""

    model: G
    halves: dict[str, H]  # of hosts, by name
    score: Floats  # of several classes (rows, classes)


@dataclass(frozen=True)
class StepReport:
    """A step of a training, for who looks on and for the record."""

    what: str
    step: int
    of: int | None  # how many there will be, where that is known
    losses: Mapping[str, float | None]
    seconds: dict[str, float] | None = None  # by phase


@dataclass(frozen=True)
class HostOutcome:
    """What a host keeps of a training, in words."""

    kept: str
    remark: str | None = None  # of a half that says nothing


@dataclass(frozen=True)
class Explanation:
    """What a half says of its model, for a report."""

    lines: Sequence[Line] = ()
    splits: Mapping[str, int] = field(default_factory=dict)
    importance: Sequence[tuple[str, str, int, float]] = ()
    dependence: Mapping[str, Dependence] = field(default_factory=dict)
    no_dependence: str = ""
    tests: Mapping[str, JointTest] = field(default_factory=dict)  # of a linear model, by column
    inferred: Sequence[str] = ()  # of it, in sentences


# --- Roles ------------------------------------------------------------------------------------------


class GuestRole(ABC, Generic[G]):
    """The guest of a training. Making one prepares its columns, before any host is asked."""

    @abstractmethod
    async def train(self, hosts: Sequence[Peer], run: GuestRun) -> tuple[G, Floats]:
        """The guest's half and every aligned row's score, shape (rows,), NaN where nobody knows it.

        May be called again, when an attempt has failed.
        """

    @abstractmethod
    async def train_alone(self) -> Floats:
        """Train with the guest's own columns alone, in the same way; every aligned row's score."""

    @abstractmethod
    def report(self, step: TrainingStep, curve: Sequence[Mapping[str, float | None]]) -> StepReport:
        """A step in words; `curve` has the losses of those before."""

    def check_rows(self) -> None:
        """Raises NothingTrained where so few rows can teach nothing."""

    def check_step(self, step: TrainingStep) -> None:
        """Raises NothingTrained where a step shows that all later ones come to nothing."""

    def check_model(self, model: G) -> None:
        """Raises NothingTrained for a model without any content."""

    def ending(self, model: G) -> str | None:
        """How the training ended, if there is anything to say of it."""
        return None


class ClientRole(GuestRole[G]):
    """A party of a training over rows: it has the label and all columns of rows of its own."""

    @abstractmethod
    async def add_up(self, adder: Adder, run: ClientRun) -> tuple[G, Floats]:
        """The whole model, the same at all clients, and the score of this client's rows."""


class HostRole(ABC, Generic[H]):
    """A host of a training. Making one prepares what it can before the guest is answered."""

    @abstractmethod
    async def train(self, guest: Peer, run: HostRun[H]) -> HostOutcome:
        """Train to the end; the half goes to the run's `keep`."""


class CoordinatorRole(ABC):
    """The party without data that a training may need beside guest and hosts."""

    @abstractmethod
    async def train(self, parties: Sequence[Peer], run: CoordinatorRun) -> str:
        """Its part of the training with these, the guest first; what came of it, in words."""


# --- Kinds ------------------------------------------------------------------------------------------


class ModelKind(ABC, Generic[G, H]):
    """A kind of model with the settings of a job."""

    name: ClassVar[ModelName]
    title: ClassVar[str]
    """What people call it."""
    plural: ClassVar[str]
    """What its models are made of, or are."""
    step: ClassVar[str]
    """What training takes one after another."""
    curve_measure: ClassVar[str | None] = None
    """What a step's loss is, where it is not what the job's loss is called."""
    guest_half: ClassVar[type[AnyGuestHalf]]
    host_half: ClassVar[type[AnyHostHalf]]
    losses: ClassVar[Mapping[str, type[Loss]]]
    """By what the label may be."""
    first_settings: ClassVar[tuple[str, ...]]
    """Lines of a job file to begin with."""
    has_relativities: ClassVar[bool] = False
    guest_state: type[Any]
    """What the guest's checkpoints hold."""
    host_state: type[Any]
    client_state: type[Any]
    """The same of a party of a training over rows."""

    # Settings.

    @property
    def coordinator(self) -> str | None:
        """The party beside guest and hosts that the training needs."""
        return None

    @property
    @abstractmethod
    def seed(self) -> int:
        """Draws the rows that train."""

    @property
    def validation_share(self) -> float:
        """The share of rows that are kept to decide when to stop."""
        return 0.0

    @property
    def has_folds(self) -> bool:
        """Whether training deals rows into folds, rows of one group together."""
        return False

    @property
    def stops_early(self) -> bool:
        """Whether these rows decide."""
        return False

    @property
    def tweedie_power(self) -> float:
        """The power of the loss, where that has one."""
        return 1.5

    @classmethod
    @abstractmethod
    def stored_params(cls, settings: Mapping[str, object]) -> BoostParams | GlmParams:
        """The settings of a kept job. Raises ValueError for what this version does not know."""

    @abstractmethod
    def least_rows(self, policy: PolicySection) -> int:
        """The least number of rows of which a host of this policy says anything."""

    @abstractmethod
    def steps(self, done: int) -> str:
        """So many steps of checkpoints, in words."""

    @property
    def init_model(self) -> str | None:
        """The full name of the model that a training begins with, if there is one."""
        return None

    def begun_with(self, guest: G | None, hosts: Mapping[str, H], training: bytes) -> Self:
        """The same, which begins with the model of these halves: those that a party has of it.
        `training`: digest of what the parties of its training signed."""
        raise NotImplementedError

    def with_classes(self, classes: int) -> Self:
        """The same, of a label of so many classes: 1 of a label that is none of several. Raises
        ConfigError for settings that have no meaning there."""
        return self

    @property
    def tells_sums(self) -> BoostParams | None:
        """The settings of a training whose hosts tell sums; None for a kind of which they tell none."""
        return None

    # A party's columns.

    @classmethod
    def check_rules(cls, rules: ColumnRules, columns: Collection[str], table: str) -> None:
        """Raises ConfigError for a rule about a column that the table does not have."""

    @classmethod
    def check_levels(cls, rules: ColumnRules, features: Features, table: str) -> None:
        """Raises ConfigError for a rule about a level that no row of the table has."""

    def recorded_rules(self, rules: ColumnRules) -> Mapping[str, Monotone]:
        """What a record of the run keeps of them."""
        return {}

    # Training.

    @abstractmethod
    def guest(self, own: PartyColumns, rows: Training) -> GuestRole[G]:
        """The guest's role. Raises DataError for columns that cannot be used."""

    @abstractmethod
    def host(self, own: PartyColumns) -> HostRole[H]:
        """A host's role."""

    @abstractmethod
    def client(self, own: PartyColumns, rows: Training, schema: Schema) -> ClientRole[G]:
        """The role of a party that has rows of its own. Raises ConfigError for settings that have no
        meaning there, and for columns that are not of the schema."""

    @abstractmethod
    def coordinator_role(self) -> CoordinatorRole:
        """The role of the party that `coordinator` names."""

    @abstractmethod
    async def train_pooled(
        self, parties: Sequence[PartyColumns], rows: Training, progress: Callable[[TrainingStep], None]
    ) -> Fitted[G, H]:
        """Train the same model with the columns of all parties in one place, the guest's first."""

    @abstractmethod
    def tables(self, parties: Sequence[PartyColumns], rows: Training) -> BinnedTables | DesignTables:
        """The columns of all parties as they train, the guest's first.

        Raises ConfigError and DataError as the roles do.
        """

    @classmethod
    @abstractmethod
    def news(cls, step: TrainingStep) -> tuple[str, int, int | None]:
        """A step in a few words, its number, and of how many it is, where that is known."""

    # What there is to say of a model.

    def check_learnt(self, model: G, score: Floats, rows: Training) -> list[Finding]:
        """What holds the model back. Raises NothingTrained where it says the same of all rows."""
        differs = range_of(score, rows)
        if differs is not None and differs <= _VANISHED:
            raise self.constant(model)
        findings = []
        if differs is not None and differs <= _FLAT:
            text = f"the predictions of any two rows differ by less than 1 %: lower {self.flatteners}"
            findings.append(Finding("flat", text))
        return findings + self.findings(model, known_scores(score, rows), rows)

    @property
    @abstractmethod
    def flatteners(self) -> str:
        """The settings that make predictions alike, with their values."""

    @property
    @abstractmethod
    def advice(self) -> str:
        """What may make a better model."""

    @abstractmethod
    def constant(self, model: G) -> NothingTrained:
        """The error of a model that says the same of all rows."""

    @abstractmethod
    def findings(self, model: G, known: Floats, rows: Training) -> list[Finding]:
        """What settings do to the model; `known` are the scores without offset where they are known."""

    @abstractmethod
    async def idle(self, parties: Sequence[PartyColumns], rows: Training, model: G) -> str:
        """Why a model of a simulation gives all rows the same score: the parameter at fault, and what to
        do."""

    def doubts(
        self, model: G, known: Floats, rows: Training, halves: Mapping[str, H] = NOTHING
    ) -> str | None:
        """What to say of a simulation's model by the scores, without offset, that rows get."""
        return None

    # Halves, as what a person reads.

    @classmethod
    @abstractmethod
    def size(cls, model: G) -> str:
        """How large the model is, or how it came to its end."""

    @classmethod
    def by_levels(cls, model: G, features: Features) -> Features:
        """The guest's columns with the levels of the model in place of what they are made of."""
        return features

    @classmethod
    def shorten_document(cls, model: Body) -> None:
        """Leave out of a half's model what earlier versions did not write and nothing is said by."""

    @classmethod
    @abstractmethod
    def document(cls, model: G) -> dict[str, object]:
        """What the JSON of a command says of the model."""

    @classmethod
    def relativities(
        cls, half: G | H, link: Link, steps: Mapping[str, float] | None = None
    ) -> list[Line]:
        """The coefficients of a half for their owner to read, with the owner's steps; none of a kind
        without any."""
        return []

    @classmethod
    def inferred(cls, half: G | H) -> tuple[Mapping[str, JointTest], Sequence[str]]:
        """Tests of a half's columns, and what is inferred besides, in sentences for its owner."""
        return {}, []

    @classmethod
    def importance(cls, model: G) -> list[tuple[str, str, int, float]]:
        """Party, column as its owner shows it, number of splits and sum of gains, most gain first."""
        return []

    @classmethod
    @abstractmethod
    def parameters(cls, half: H) -> int:
        """How many splits or coefficients a host's half has."""

    @classmethod
    def ending(cls, model: G) -> Mapping[str, float | None]:
        """How the training ended, for a record."""
        return {}

    @classmethod
    def remark(cls, half: H, guest: str) -> str | None:
        """What a host's people are told of the half that is kept."""
        return None

    @classmethod
    @abstractmethod
    def explain_guest(
        cls, model: G, columns: Collection[str], values: Features, rules: ColumnRules, link: Link
    ) -> Explanation:
        """What the guest's half says; `values` are its columns of the rows held out."""

    @classmethod
    @abstractmethod
    def explain_host(cls, half: H, rules: ColumnRules, link: Link) -> Explanation:
        """What a host's half says."""

    # Scoring.

    @classmethod
    @abstractmethod
    def uses(cls, half: G | H) -> Sequence[tuple[str, bool]]:
        """The columns that a half uses, each time it does, and whether it takes them for categorical."""

    @classmethod
    def needed(cls, half: G | H) -> frozenset[str]:
        """The columns without which no row can be scored, of those that it was trained with."""
        return frozenset(column for column, _ in cls.uses(half))

    @classmethod
    def check_half(cls, model: G, hosts: Sequence[H] | None = None) -> None:
        """Raises ValueError for a half that no training could have made, with these of the hosts if they
        are known."""

    @classmethod
    def check_explains(cls, model: G) -> None:
        """Raises ModelError where the model cannot say what adds up to a score."""

    @classmethod
    def own_scores(cls, half: G | H, table: str, features: Features, rows: int) -> OwnScores:
        """What a half's columns add to each row's score.

        Raises DataError naming the table and the column for one that is not as it was in training.
        """
        return OwnScores(np.empty(0))

    @classmethod
    @abstractmethod
    def guest_parts(
        cls, hosts: Sequence[Peer], model: G, batch: GuestBatch
    ) -> AsyncGenerator[ScoredPart, None]:
        """The scores of the batch, part by part."""

    @classmethod
    @abstractmethod
    async def host_parts(cls, guest: Peer, half: H, batch: HostBatch) -> int:
        """A host's part in these; how many rows it was asked for."""

    # Scoring by parts, which sealed directories hold.

    @classmethod
    @abstractmethod
    def packer(cls, half: H, features: Features, own: OwnScores, shows_columns: bool) -> PartsPacker:
        """Packs a host's part for each row of its table, `own` as `own_scores` has it of these rows."""

    @classmethod
    @abstractmethod
    def scorer(cls, model: G, layouts: Mapping[str, PartLayout], explain: bool) -> PartsScorer:
        """Scores rows by hosts' parts, of these layouts by host.

        Raises ModelError where the model cannot be explained, PeerError naming a host whose layout is
        not that of a half of this model.
        """

    @classmethod
    @abstractmethod
    def answers(cls, host: str, layout: PartLayout) -> PartsAnswers:
        """What this host would say of rows in `guest_parts`. Raises PeerError for a layout that is
        none."""


AnyKind = ModelKind[Any, Any]
