"""A party's own table and its ids, as a job reads them."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from vfl.blocks.scratch import Scratch
from vfl.errors import Refused
from vfl.jobs.connect import Site
from vfl.jobs.memory import release_memory
from vfl.jobs.offer import Offer
from vfl.jobs.show import Show
from vfl.learn.losses import Loss
from vfl.party.ids import disagreement
from vfl.party.keys import Stands, TableIds, all_keys
from vfl.party.policy import (
    allowed_columns,
)
from vfl.party.sections import USES, DataSection
from vfl.party.table import Table, Wanted, read_wanted


def read_guest(
    data: DataSection,
    *,
    show: Show,
    loss: Loss | None = None,
    unused: Collection[str] = (),
    split: Mapping[str, str] | None = None,
    agreed: bool = False,
    unlabelled: bool = False,
    scratch: Scratch = Scratch(),
) -> tuple[Table, TableIds]:
    """The guest's table, with its label if there is a `loss` to check it, and its ids.

    unused: uses of columns that the job does without. split: the columns by which it splits rows.
    agreed: whether the job says which columns there are, and of what kind. unlabelled: the label may be
    elsewhere. scratch: where columns and
    ids go that are too large for memory.
    """
    by = split or {}
    wanted = Wanted(
        "guest",
        loss is not None,
        loss=loss,
        unused=unused,
        split=by,
        agreed=agreed,
        unlabelled=unlabelled,
        scratch=scratch,
    )
    table = read_wanted(data, wanted)
    for warning in table.warnings:
        show.say(f"note: {warning}")
    release_memory(table.rows)
    ids = ids_of(table, data, scratch)
    release_memory(table.rows)
    return table, ids


def read_host(
    site: Site,
    expect: Sequence[str] | None = None,
    needed: Collection[str] | None = None,
    data: DataSection | None = None,
) -> tuple[Table, TableIds]:
    """A host's table, of which one row stands for all with the same id, and its ids.

    expect, needed: of `Wanted`, the columns of a model alone and those that must be fine. data: in place
    of [data] of the party file.
    """
    data = data or site.party.data
    scratch = Scratch(site.store.scratch(make=False))
    wanted = Wanted("host", False, expect=expect, needed=needed, scratch=scratch)
    table = read_wanted(data, wanted)
    if expect is None:
        features = allowed_columns(site.party.policy, table.features, table.path.name, table.faults)
        table = replace(table, features=features)
    release_memory(table.rows)
    ids = ids_of(table, data, scratch)
    if data.duplicates != "refuse" and data.duplicates != "keep":
        table = table.aggregate(ids.group, data.duplicates, data.aggregate)
    release_memory(table.rows)
    return table, ids


def ids_of(table: Table, data: DataSection, scratch: Scratch = Scratch()) -> TableIds:
    """The ids of a table by all keys of its party file; in files of `scratch` if they are many."""
    rule = data.duplicates
    stands: Stands = "first"
    if rule == "refuse" or rule == "keep" or rule == "last":
        stands = rule
    rules = [key.normalise for key in data.keys]
    return all_keys(
        table.by_key(data),
        rules,
        stands,
        data.empty,
        table.path.name,
        data.id_readings,
        table.row_numbers,
        scratch,
    )


def names_shown(site: Site, table: Table) -> Callable[[str], str]:
    """The name under which the guest may see a column: its own, or the party's and a number."""
    if site.party.policy.show_names:
        return str
    numbers = {name: i for i, name in enumerate(table.features, 1)}
    return lambda column: f"{site.party.name}:{numbers[column]}"


async def table_of(
    site: Site,
    offer: Offer,
    expect: Sequence[str] | None = None,
    needed: Collection[str] | None = None,
    data: DataSection | None = None,
) -> tuple[Table, TableIds]:
    """The host's table as it is now, with ids by the rules both sides name; else as `read_host`."""
    keys = site.party.data.keys
    why = disagreement(
        site.party.name,
        [key.normalise for key in keys],
        [offer.normalise, *offer.matching.fallback],
        ([len(key.id) for key in keys], offer.matching.columns),
    )
    if why is not None:
        raise Refused(why)
    # In a thread: the guest would hold a host for dead that says nothing while it reads.
    return await asyncio.to_thread(read_host, site, expect, needed, data)


def say_uses(show: Show, data: DataSection, uses: Mapping[str, str]) -> None:
    """Say which of the columns of exposure, offset and weight a job uses, and which it leaves alone."""
    named = {key: name for key in USES if (name := getattr(data, key)) is not None}
    used = " and ".join(f"{key} '{name}'" for key, name in named.items() if key in uses)
    alone = " and ".join(f"{key} '{name}'" for key, name in named.items() if key not in uses)
    said = [f"uses {used}"] if used else []
    said += [f"does without {alone} (no feature either)"] if alone else []
    if said:
        show.say(f"this job {', '.join(said)}")
