"""The rows of a batch as a model reads them: ids as they are written, columns, levels it knows."""

from dataclasses import replace

from vfl.blocks.scratch import Scratch
from vfl.blocks.texts import Cells
from vfl.errors import DataError
from vfl.jobs.cluster import say_if_slower
from vfl.jobs.memory import release_memory
from vfl.jobs.scored_columns import BatchRows
from vfl.jobs.show import Show, say_unknown_levels
from vfl.learn.levels import match_levels
from vfl.models.halves import AnyGuestHalf
from vfl.models.kinds import kind_of_model
from vfl.party.keys import TableIds, all_keys
from vfl.party.sections import DataSection
from vfl.party.sources.places import Place
from vfl.party.table import Wanted, read_wanted
from vfl.party.unknown_levels import check_own_levels
from vfl.text import counted


def read_batch(
    section: DataSection, half: AnyGuestHalf, path: Place, scratch: Scratch, show: Show
) -> BatchRows:
    """Read the file twice, ids first: what normalising them takes is gone before the columns come."""
    named, ids, order = _read_ids(section, path, scratch)
    for note in ids.notes:
        show.say(f"note: {path.name}: {note}")
    columns = section.model_copy(update={"id": (), "fallback": ()})
    needed = kind_of_model(half.model).needed(half.model)
    wanted = Wanted(
        "guest",
        False,
        path=path,
        expect=half.columns,
        needed=needed,
        order=section.id_columns,
        scratch=scratch,
    )
    table = read_wanted(columns, wanted)
    if table.left_out:
        were = "was" if table.left_out == 1 else "were"
        show.say(
            f"note: {counted(table.left_out, 'row')} of {path.name} {were} left out by query of [data], "
            "and have no score"
        )
    for error in table.faults.values():
        show.say(f"note: {error} (model {half.name} does without it)")
    features, unknown = match_levels(table.features, half.levels)
    table = replace(table, features=features)
    if half.exposure and table.exposure is None:
        show.say(f"note: {table.path.name} has no column of exposure: scored per unit of exposure")
    if table.rows != len(ids.group) or table.order != order:
        raise DataError(f"{table.path.name} has changed while it was read: start again")
    release_memory(table.rows)
    say_if_slower(show, table.rows, len(table.features))
    return BatchRows(table, named, ids, unknown)


def check_batch_levels(rows: BatchRows, half: AnyGuestHalf, section: DataSection, show: Show) -> None:
    """Raises DataError for too many rows with levels that were not in training."""
    if half.job["job"].get("partition") == "rows":
        for column, which in rows.unknown.items():
            some = f"{int(which.sum()):,} of {counted(len(which), 'row')}"
            show.say(
                f"note: column '{column}' has a level that the job did not name in {some}: these count "
                "as one level, as in training"
            )
        return
    say_unknown_levels(show, rows.unknown, half.levels)
    check_own_levels(rows.table.path.name, rows.unknown, half.levels, section.unknown_levels)


def _read_ids(
    section: DataSection, path: Place, scratch: Scratch
) -> tuple[dict[str, Cells], TableIds, bytes]:
    """The ids as they are written, by column, what they come to, and the order of the rows."""
    ids_only = section.model_copy(update={"exposure": None, "offset": None})
    table = read_wanted(ids_only, Wanted("guest", False, path=path, expect=(), scratch=scratch))
    # A batch may ask about the same id twice.
    rules = [key.normalise for key in section.keys]
    ids = all_keys(
        table.by_key(section),
        rules,
        "keep",
        section.empty,
        table.path.name,
        section.id_readings,
        table.row_numbers,
        scratch,
    )
    named = zip(section.id_columns, table.ids, strict=True)
    return {name: Cells.of(cells) for name, cells in named}, ids, table.order
