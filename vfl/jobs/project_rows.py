"""What a project's models learn of the guest's rows: claims, and the segments of the large-loss load.

It is read once for all models, from the policies' table or from a second one with a row a claim.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers
from vfl.blocks.scratch import Scratch
from vfl.errors import ConfigError, DataError
from vfl.jobs.connect import Site
from vfl.jobs.own_table import ids_of
from vfl.jobs.show import Show
from vfl.learn.claims import LargeLossLoad, Part, PolicyClaims
from vfl.learn.losses import BadLabel
from vfl.party.keys import TableIds, all_keys
from vfl.party.project_file import Project
from vfl.party.rows import rows_in_words
from vfl.party.sections import DataSection
from vfl.party.sources.places import Place
from vfl.party.table import Table, Wanted, read_wanted
from vfl.text import counted

Segments = NDArray[np.object_]


@dataclass(frozen=True)
class ProjectRows:
    """The rows of the guest's table; arrays of shape (rows,). ids: the digest of the table's ids.

    segment: by which the load differs, as text, None where it is missing; None without any.
    """

    table: str
    ids: str
    claims: PolicyClaims
    weight: Floats | None
    exposure: Floats | None
    segment: Segments | None

    @property
    def size(self) -> Floats:
        """How much each row counts."""
        return np.ones(len(self.claims.count)) if self.weight is None else self.weight

    def load(self, rows: Integers) -> LargeLossLoad:
        """The large-loss load by some rows."""
        segment = None if self.segment is None else self.segment[rows]
        return LargeLossLoad.of(self.claims.take(rows), self.size[rows], segment)


@dataclass(frozen=True)
class Outcome:
    """What one model of a project is to learn."""

    part: Part
    rows: ProjectRows
    project: Project

    @property
    def asked(self) -> dict[str, Any]:
        """The project and which of its models it is, for the commitment of its training."""
        settings = self.project.model_dump(mode="json", exclude_unset=True)
        return {"project": settings, "part": self.part}

    def of(self, table: Table, ids: str) -> Table:
        """The table with the model's label and weights. Raises DataError for another table than that of
        `rows`."""
        if ids != self.rows.ids or table.rows != len(self.rows.claims.count):
            raise DataError(f"{table.path.name} was changed while it was read: run the command again")
        claims, exposure = self.rows.claims, self.rows.exposure
        label = claims.label(self.part, exposure)
        return replace(table, label=label, weight=claims.weight(self.part, self.rows.weight, exposure))


def read_project_rows(site: Site, project: Project, data: DataSection, show: Show) -> ProjectRows:
    """Read what happened to each row. `data`: as the project's models read it.

    Raises DataError for claims that cannot be used, ConfigError for settings that do not go together.
    """
    scratch = Scratch(site.store.scratch(make=False))
    own = project.project
    key = "label" if own.counts is None else "counts in [project]"
    wanted = Wanted("guest", True, expect=(), unlabelled=True, scratch=scratch, label_key=key)
    table = read_wanted(data.model_copy(update={"offset": None}), wanted)
    ids = ids_of(table, data, scratch)
    if project.claims is not None:
        claims = _of_claims(project, data, table, ids, show)
    else:
        if table.label is None or own.amounts is None:
            raise ConfigError("a project names counts and amounts, or a table of claims")
        paid = _column(data, own.amounts, scratch)
        try:
            claims = PolicyClaims.of_policies(table.label, paid, own.cap)
        except BadLabel as error:
            raise _unusable(table, f"amounts '{own.amounts}'", error) from None
    if not (claims.count > 0).any():
        raise DataError(f"{table.path.name}: no row has a claim", for_peer="no row has a claim")
    segment = None if own.load_by is None else read_segments(data, own.load_by, None, scratch)
    name = table.path.name
    return ProjectRows(name, ids.digest, claims, table.weight, table.exposure, segment)


def read_segments(data: DataSection, name: str, place: Place | None, scratch: Scratch) -> Segments:
    """The column of segments as text, of the guest's table or of a batch. Raises DataError."""
    categorical = tuple(dict.fromkeys([*data.categorical, name]))
    dates = {column: how for column, how in data.dates.items() if column != name}
    text = data.model_copy(update={"categorical": categorical, "dates": dates})
    wanted = Wanted(
        "guest",
        False,
        path=place,
        expect=(name,),
        order=data.id_columns,
        scratch=scratch,
        expect_why=" (named by load_by in [project])",
    )
    bare = text.model_copy(update=dict.fromkeys(("label", "weight", "exposure", "offset")))
    return np.asarray(read_wanted(bare, wanted).features[name], dtype=object)


def _column(data: DataSection, name: str, scratch: Scratch) -> Floats:
    """A column of numbers without gaps. Raises DataError."""
    update: dict[str, object] = dict.fromkeys(("weight", "exposure", "offset"))
    key = "amounts in [project]"
    wanted = Wanted("guest", True, expect=(), order=data.id_columns, scratch=scratch, label_key=key)
    found = read_wanted(data.model_copy(update=update | {"label": name}), wanted).label
    if found is None:
        raise ValueError("a table without the column that was asked for")
    return found


def _of_claims(
    project: Project, data: DataSection, policies: Table, ids: TableIds, show: Show
) -> PolicyClaims:
    """From the table of claims. Raises DataError and ConfigError."""
    section = project.claims
    if section is None:
        raise ValueError("a project without a table of claims")
    names = section.id or data.id
    if len(names) != len(data.id):
        raise ConfigError(
            f"[claims] id has {counted(len(names), 'column')}, and id of [data] {len(data.id)}: name as "
            "many"
        )
    key = ids.keys[0]
    if int((key.of_row >= 0).sum()) > len(key.ids):
        raise DataError(
            f"{policies.path.name}: several rows have one id, so that nobody can say whose the claims "
            "are: name counts and amounts in [project] in place of [claims]",
            for_peer="several rows of the guest's have one id",
        )
    bare = dict.fromkeys(
        (
            "weight",
            "exposure",
            "offset",
            "current_premium",
            "columns",
            "ignore",
            "query",
            "table",
            "source",
        )
    ) | dict.fromkeys(("protected", "report_by", "categorical", "as_text", "fallback"), ())
    of_claims = data.model_copy(
        update={**bare, "dates": {}, "monotone": {}, "tables": {}, "path": section.path, "id": names}
        | {"label": section.amount, "premium_per_exposure": False, "duplicates": "keep"}
    )
    as_text = tuple(theirs for theirs, ours in zip(names, data.id, strict=True) if ours in data.as_text)
    of_claims = of_claims.model_copy(update={"as_text": as_text})
    amount = "amount in [claims]"
    wanted = Wanted("guest", True, expect=(), scratch=ids.scratch, label_key=amount)
    table = read_wanted(of_claims, wanted)
    if table.label is None:
        raise ValueError("a table of claims without amounts")
    found = all_keys(
        table.by_key(of_claims),
        [data.normalise],
        "keep",
        data.empty,
        table.path.name,
        of_claims.id_readings,
        table.row_numbers,
        ids.scratch,
    ).keys[0]
    row_of = {key.ids[int(of)]: row for row, of in enumerate(key.of_row.tolist()) if of >= 0}
    place = np.array([row_of.get(found.ids[i], -1) for i in range(len(found.ids))], np.int64)
    row = np.where(found.of_row >= 0, np.append(place, -1)[found.of_row], -1)
    if stray := int((row < 0).sum()):
        show.say(
            f"note: {table.path.name}: {counted(stray, 'claim')} of {len(row):,} "
            f"{'is' if stray == 1 else 'are'} of no policy in {policies.path.name}, and not used"
        )
    try:
        return PolicyClaims.of_claims(row, table.label, policies.rows, project.project.cap)
    except BadLabel as error:
        raise _unusable(table, f"amount '{section.amount}'", error) from None


def _unusable(table: Table, what: str, error: BadLabel) -> DataError:
    rows = [] if error.rows is None else np.flatnonzero(error.rows).tolist()
    where = f" in {counted(len(rows), 'row')} ({rows_in_words(rows, table.row_numbers)})" if rows else ""
    return DataError(f"{table.path.name}: {what} {error.what}{where}: {error.advice}")
