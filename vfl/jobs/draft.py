"""Party files and job files drafted from a table: what it needs to be read, and why, line by line.

Nothing is written or changed here, and no peer is needed. A draft takes what the table itself proposes
(`vfl doctor` proposes the same) and leaves out what nobody means as a feature, each with its reason.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from vfl.arrays import Floats
from vfl.errors import ConfigError, DataError
from vfl.jobs.proposals import lines_of, read_with_proposals
from vfl.jobs.table_check import try_ids
from vfl.leakage.estimate import estimate
from vfl.learn.losses import (
    GammaLoss,
    LogisticLoss,
    Loss,
    MulticlassLoss,
    PoissonLoss,
    SquaredLoss,
    TweedieLoss,
)
from vfl.learn.params import BoostParams
from vfl.learn.suspects import LabelOrder, suspicions
from vfl.models.kinds import KINDS, expected_share, kind_of_job
from vfl.party.config import LABEL_KEYS, Job, Party
from vfl.party.config_errors import explain_errors
from vfl.party.config_values import ModelName, Role
from vfl.party.drafted import DRAFTED_PURPOSE
from vfl.party.id_report import profile_ids
from vfl.party.policy_section import PolicySection
from vfl.party.reading import Reading, settings_line
from vfl.party.sections import DataSection
from vfl.party.sources.opening import open_source
from vfl.party.sources.source import Source, TableError
from vfl.party.sources.text import TextColumns
from vfl.party.table import Table, Wanted
from vfl.text import counted, nearest_name

_ROUNDS = 4  # of opening a file, each with what the one before proposed
_SAMPLE = 100_000  # rows that are looked at for ids
_FEW = 20  # values of a column of whole numbers that may be names
_LARGEST_COUNT = 1000  # of claims of a row
_MEASURED = re.compile(r"[-+]?[0-9]*[.,][0-9]+(?:[eE][-+]?[0-9]+)?")
_CODE = re.compile(r"\s*0[0-9]+\s*")
TRAININGS = 3
"""That a draft leaves room for, of what hosts allow by default."""
_FLAT = (3, 2)  # levels of a draft's trees, where there is little room
_FEW_TREES = 5  # for which they are flatter still
_TRAINS = 0.8  # of the rows of a draft
_SURELY = 0.95  # of the rows that are expected to train: how many do is drawn
_CONSTANT = "has the same value in every row"
_HEAD = (
    "# {what} {name}, drafted from {table}. Every line is yours to change:\n"
    "# docs/configuration.md has all keys, with their defaults."
)


@dataclass(frozen=True)
class Draft:
    """A file as it could be.

    faults: what has to be corrected in the table before it can be read. notes: what a person should look
    at.
    """

    text: str
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Peers:
    """The other parties: by name their address, None for those that are not dialled."""

    guest: Mapping[str, str | None] = field(default_factory=dict)
    hosts: Mapping[str, str | None] = field(default_factory=dict)
    coordinators: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return [*self.guest, *self.hosts, *self.coordinators]


@dataclass(frozen=True)
class Own:
    """Who a party is, and its table as its person names it."""

    name: str
    role: Role
    path: Path  # as it stands in the file: relative to it
    id: Sequence[str]
    label: str | None = None
    listen: str | None = None


def open_table(path: Path) -> Source:
    """A table with what it proposes to be read with, its names known. Raises DataError."""
    reading = Reading()
    for _ in range(_ROUNDS):
        try:
            return open_source(path, reading)
        except TableError as error:
            named = {key: value for key, value in error.settings.items() if key in Reading.model_fields}
            if not named:
                raise
            reading = reading.model_copy(update=named)
    return open_source(path, reading)


def likely_ids(source: Source) -> list[str]:
    """The columns whose values name a row: hardly any is missing or twice, and none is a measurement.

    Raises DataError.
    """
    source.read(list(source.names))
    found = []
    for name in source.names:
        ids = source.ids(name)
        cells = [ids[row] for row in range(min(source.rows, _SAMPLE))]
        known = {cell.strip() for cell in cells if cell is not None and cell.strip()}
        measured = sum(_MEASURED.fullmatch(cell) is not None for cell in known)
        if cells and len(known) >= 0.95 * len(cells) and 2 * measured < len(known):
            found.append(name)
    return found


def draft_party(own: Own, peers: Peers, path: Path) -> Draft:
    """The party file of a party, for the table at `path`. Raises DataError for no table at all, or a
    column that it has not, ConfigError for columns that cannot be what they are named as."""
    source = open_table(path)
    for what, names in (("id", own.id), ("label", [own.label] if own.label is not None else [])):
        for name in names:
            if name not in source.names:
                near = nearest_name(name, source.names)
                meant = f"did you mean '{near}'? " if near is not None else ""
                listed = ", ".join(source.names[:20])
                raise DataError(
                    f"{source.called} has no column '{name}' ({what}): {meant}it has {listed}"
                )
    try:
        given = DataSection.model_validate({"path": path, "id": list(own.id), "label": own.label})
    except ValidationError as error:
        raise ConfigError(f"--id and --label: {explain_errors(error, DataSection)}") from None
    faults: list[str] = []

    def fail(text: str, advice: str = "") -> None:
        if not advice:
            faults.append(text)

    table, data = read_with_proposals(given, Wanted(own.role, own.label is not None), fail)
    if table is None:
        return Draft(_party_text(own, peers, given, lines_of(given, data), {}), faults)
    reasons = dict(_unmeant(table))
    known = data.ignore or ()
    left = [name for name in reasons if name not in known]
    used = {
        "categorical": tuple(one for one in data.categorical if one not in reasons),
        "dates": {one: rule for one, rule in data.dates.items() if one not in reasons},
    }
    data = data.model_copy(update={**used, "ignore": (*known, *left) or None})
    notes = [*_id_notes(data, table, faults), *_hints(own, table, data, _codes(source, table))]
    room = _room(table.rows) if own.role == "host" else ""
    if room:
        notes.append(f"[policy]: by default {room} (max_sums_a_row)")
    text = _party_text(own, peers, given, lines_of(given, data), reasons, room)
    return Draft(text, faults, notes)


def draft_job(
    party: Party,
    table: Table,
    name: str,
    model: ModelName,
    rows: int | None = None,
    purpose: str | None = None,
) -> Draft:
    """A job file of a guest, by what its label is, that tells a part of what hosts allow by default.

    rows: how many are aligned; those of the table, which are at least as many, where that is not known.
    purpose: what it is for; without it the job is not sent before a person has said it.
    """
    kind = KINDS[model]
    label = table.label
    loss, why = (PoissonLoss, "") if label is None else _loss_of(label, table.exposure is not None)
    settings = [*kind.first_settings]
    if table.classes and MulticlassLoss in kind.losses.values():
        loss, why = MulticlassLoss, "the label has classes of text"
        settings.insert(0, settings_line("classes", len(table.classes)))
    elif table.classes:
        loss, why = PoissonLoss, ""
    said = next(name for name, of in kind.losses.items() if of is loss)
    uses = [use for use in ("exposure", "offset", "weight") if getattr(party.data, use) is not None]
    lines = [
        _HEAD.format(what="Job", name=name, table=party.data.named.name),
        "",
        "[job]",
        settings_line("name", name),
        settings_line("purpose", purpose or DRAFTED_PURPOSE),
        settings_line("model", model),
        f"{settings_line(LABEL_KEYS[model], said)}{_remark(why)}",
        "holdout = 0.2  # of the common rows, kept out to say what the model is worth",
        *(f"# {use} = false  # leaves the party file's {use} alone" for use in uses),
        "",
        f"[{model}]",
        *settings,
    ]
    common = table.rows if rows is None else rows
    allowed, notes = _allowed(lines, common)
    if common < (least := PolicySection().min_intersection):
        there = "the table has" if rows is None else "there are"
        notes.append(
            f"hosts refuse by default an alignment of fewer than {counted(least, 'row')} in common "
            f"(min_intersection), and {there} {common:,}: they would have to allow it"
        )
    return Draft("\n".join(allowed) + "\n", notes=notes)


def _allowed(lines: Sequence[str], rows: int) -> tuple[list[str], list[str]]:
    """The lines of a job over so many aligned rows, with as many trees as hosts allow by default in
    each of TRAININGS, and what is said of that."""
    job = Job.model_validate(tomllib.loads("\n".join(lines)))
    most = PolicySection().max_sums_a_row
    if (told := kind_of_job(job).tells_sums) is None or isinstance(most, str):
        return [*lines], []
    trained = max(1, int(_SURELY * expected_share(job) * rows))
    if trees_within(most / TRAININGS, trained, told) >= told.trees:
        return [*lines], []
    for depth in _FLAT:
        flat = told.model_copy(update={"depth": min(told.depth, depth)})
        if (fit := trees_within(most, trained, flat)) >= TRAININGS * _FEW_TREES:
            break
    if not fit:
        return [*lines], []
    trees = min(told.trees, max(1, fit // TRAININGS))
    allowed = (
        f"hosts allow by default {fit} in all over some {counted(trained, 'row')} that train "
        f"(max_sums_a_row), {counted(fit // trees, 'such training')}"
    )
    changed = {
        f"trees = {told.trees}": f"trees = {trees}  # {allowed}",
        f"depth = {told.depth}": f"depth = {flat.depth}  # of flatter trees they allow more",
    }
    note = f"{counted(trees, 'tree')} of depth {flat.depth}: {allowed}"
    return [changed.get(line, line) for line in lines], [note]


def trees_within(most: float, trained: int, params: BoostParams) -> int:
    """How many trees, or rounds of them, a rule of so many sums a row has room for over rows that
    train."""
    return estimate(trained, params).joint_within(most) // params.round


def _loss_of(label: Floats, exposed: bool) -> tuple[type[Loss], str]:
    """The loss of a label by what numbers it has, and how that is seen."""
    if np.isin(label, (0.0, 1.0)).all() and not exposed:
        return LogisticLoss, f"the label is 0 or 1, {label.mean():.1%} of the rows 1"
    if (label < 0).any():
        return SquaredLoss, "the label has numbers below 0"
    if (label == np.rint(label)).all() and label.max(initial=0.0) <= _LARGEST_COUNT:
        return PoissonLoss, "the label counts"
    if (label > 0).all():
        return GammaLoss, "the label has amounts above 0"
    return TweedieLoss, f"the label has amounts, {(label == 0).mean():.1%} of them 0"


def _remark(why: str) -> str:
    return f"  # {why}" if why else ""


def _unmeant(table: Table) -> Iterator[tuple[str, str]]:
    """The columns that nobody means as features, with the reason."""
    order = None if table.label is None else LabelOrder.of(table.label)
    for name, values in table.features.items():
        reasons = [why for why in suspicions(values, order) if why == _CONSTANT or "ignore it" in why]
        if reasons:
            yield name, reasons[0].partition(": ")[0].partition("; ")[0]


def _id_notes(data: DataSection, table: Table, faults: list[str]) -> list[str]:
    """What a person should know of the ids; what has to be corrected in them joins `faults`."""
    if try_ids(table, data, lambda text, _advice="": faults.append(text)) is None:
        return []
    report = profile_ids(data)
    count = counted(report.ids.distinct, "id")
    notes = [f"ids: {count} by the rule {report.rule}, which all parties need"]
    return notes + [
        f"ids: column '{column.name}' looks like {column.shapes[0][0]} in most rows"
        for column in report.columns
        if column.shapes
    ]


def _codes(source: Source, table: Table) -> set[str]:
    """The columns of numbers of which some are written with a zero in front, as postcodes are."""
    if not isinstance(source, TextColumns):
        return set()  # a typed number has none
    names = [name for name, values in table.features.items() if values.dtype != object]
    source.read(names)
    rows = range(min(source.rows, _SAMPLE))
    return {name for name in names if any(_CODE.fullmatch(source.ids(name)[row] or "") for row in rows)}


def _hints(own: Own, table: Table, data: DataSection, codes: Set[str]) -> Iterator[str]:
    """Numbers that may be names, and columns with a use of their own."""
    for name, values in table.features.items():
        if values.dtype == object or name in (data.ignore or ()):
            continue
        if name in codes:
            yield (
                f"column '{name}' has numbers with a zero in front: if they are names (a code), put it "
                "under categorical or ignore"
            )
            continue
        numbers = values.astype(np.float64)
        known = numbers[~np.isnan(numbers)]
        kinds = np.unique(known[:_SAMPLE])
        if 2 < len(kinds) <= _FEW and (kinds == np.rint(kinds)).all() and np.ptp(kinds) >= len(kinds):
            yield (
                f"column '{name}' has {len(kinds)} whole numbers: if they are names (a code), put it "
                "under categorical"
            )
        if own.role == "guest" and "expo" in name.lower() and len(known) and (known > 0).all():
            yield (
                f"column '{name}' may be time at risk: {settings_line('exposure', name)} in [data] "
                "makes it the exposure of counts, and no feature"
            )


def _room(rows: int) -> str:
    """What a host's default rule for open sums comes to, in words; "" for one without a limit."""
    most, flat = PolicySection().max_sums_a_row, BoostParams.model_validate({"depth": _FLAT[0]})
    if isinstance(most, str):
        return ""
    trained = max(1, int(_SURELY * _TRAINS * rows))
    trees, all_rows = counted(trees_within(most, trained, flat), "tree"), counted(rows, "row")
    return f"{trees} of depth {_FLAT[0]} in all of a guest's trainings, were all {all_rows} in common"


def _party_text(
    own: Own,
    peers: Peers,
    given: DataSection,
    proposed: Sequence[str],
    reasons: Mapping[str, str],
    room: str = "",
) -> str:
    id_line = settings_line("id", own.id[0] if len(own.id) == 1 else list(own.id))
    lines = [
        _HEAD.format(what="Party", name=own.name, table=own.path.name),
        "",
        "[party]",
        settings_line("name", own.name),
        settings_line("role", own.role),
        f"{settings_line('identity', f'keys/{own.name}')}  # `vfl keys new {own.name}` makes it",
    ]
    if own.listen is not None:
        lines.append(f"{settings_line('listen', own.listen)}  # where the others dial in")
    lines += ["", "[data]", settings_line("path", own.path.as_posix()), id_line]
    if own.label is not None:
        lines.append(f"{settings_line('label', own.label)}  # what is predicted")
    for line in proposed:
        if line.startswith("ignore = "):
            lines += [f"# '{name}' {why}" for name, why in reasons.items()]
        lines.append(line)
    if own.role == "host":
        lines += ["", "[policy]  # what guests may ask for; by default little"]
        if room:
            rule = settings_line("max_sums_a_row", PolicySection().max_sums_a_row)
            lines.append(f"# {rule}  # the default: {room}")
        if peers.guest:
            lines.append(settings_line("guests", [*peers.guest]))
    for name, address in {**peers.guest, **peers.hosts, **peers.coordinators}.items():
        lines += ["", f"[peers.{name}]"]
        if address is not None:
            lines.append(settings_line("address", address))
        pin = settings_line("certificate", f"peers/{name}.pem")
        lines.append(f"{pin}  # `vfl invite` or `vfl join` puts it there")
        if name in peers.coordinators:
            lines.append('role = "coordinator"')
    return "\n".join(lines) + "\n"
