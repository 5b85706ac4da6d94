"""What a linear model says about a party's own columns, for that party to read."""

import io
from collections.abc import Mapping
from pathlib import Path

from vfl.errors import ModelError
from vfl.jobs.names import resolve_model
from vfl.learn.losses import loss_of
from vfl.models.halves import AnyGuestHalf, AnyHostHalf, GuestHalf, HostHalf, objective_of
from vfl.models.kinds import kind_of_model, load_half
from vfl.models.relativities import CrossedTable, Line, crossed_tables, table_of
from vfl.party.config_values import Role
from vfl.party.spreadsheet import write_rows
from vfl.party.store import Store


def lines_of(half: AnyGuestHalf | AnyHostHalf, steps: Mapping[str, float] | None = None) -> list[Line]:
    """The lines of a half, with the owner's steps. Raises ModelError for a kind of model that has none,
    as trees."""
    kind = kind_of_model(half.model)
    shown = steps_of(half, steps or {})
    if not kind.has_relativities:
        raise ModelError(f"model {half.name} is of {kind.plural}: only linear models have relativities")
    return kind.relativities(half.model, loss_of(objective_of(half.job)).link, shown)


def steps_of(half: AnyGuestHalf | AnyHostHalf, own: Mapping[str, float]) -> dict[str, float]:
    """How many units relativities are of, by column: as the owner's party file says, else as the job of
    a model over rows does."""
    settings = half.job.get("glm")
    of_job = settings.get("step") if isinstance(settings, dict) else None
    return {**(of_job or {}), **own}


def save_relativities(
    store: Store, half: AnyGuestHalf | AnyHostHalf, steps: Mapping[str, float] | None = None
) -> Path:
    """Write the lines as CSV beside the half. Raises DataError when the store cannot be written."""
    file = io.BytesIO()
    columns, rows = table_of(lines_of(half, steps))
    write_rows(file, [columns, *rows])
    return store.write_beside("model", half.name, "csv", file.getvalue())


def load_crossed(store: Store, model: str, role: Role, by: str) -> tuple[str, list[CrossedTable]]:
    """The model's name, and its tables by the levels of a column. Raises ModelError as `load_lines`, and
    for a column with which no factor has pairs of levels."""
    half, lines = load_lines(store, model, role)
    link = loss_of(objective_of(half.job)).link
    tables = crossed_tables(half.model, by, link)
    if not tables:
        pairs = dict.fromkeys(line.column for line in lines if " × " in line.column)
        known = f": it has {', '.join(pairs)}" if pairs else ""
        raise ModelError(f"model {half.name} has no pairs of levels with '{by}' here{known}")
    return half.name, tables


def load_lines(
    store: Store, model: str, role: Role, steps: Mapping[str, float] | None = None
) -> tuple[AnyGuestHalf | AnyHostHalf, list[Line]]:
    """A half in the store of a party of that role, and its lines.

    Raises ModelError as `load_half`, and for a model of trees.
    """
    name = resolve_model(store, model)
    half: AnyGuestHalf | AnyHostHalf
    half = load_half(store, name, GuestHalf) if role == "guest" else load_half(store, name, HostHalf)
    return half, lines_of(half, steps)
