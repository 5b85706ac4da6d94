"""How many columns each host has, as far as its guest can know."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vfl.errors import ConfigError, ModelError
from vfl.leakage.disclosure import COLUMNS
from vfl.models.halves import GuestHalf
from vfl.models.kinds import kind_of_model, load_half
from vfl.party.store import Store

_LOOKED_AT = 20  # models, the newest ones
Basis = Literal["given", "model", "assumed"]


@dataclass(frozen=True)
class ColumnCount:
    """A host's number of columns, and where it is from: said by a person, at least as many by what a
    model shows, or taken for want of the true one."""

    count: int
    basis: Basis
    model: str = ""


def count_columns(
    store: Store, hosts: Sequence[str], given: Mapping[str, int]
) -> dict[str, ColumnCount]:
    """The count of each host. Raises ConfigError for one that is given of somebody else."""
    for name in given:
        if name not in hosts:
            known = " or ".join(hosts) or "nobody"
            raise ConfigError(f"--host-columns {name} is no host of this job: name {known}")
    found = {name: ColumnCount(COLUMNS, "assumed") for name in hosts}
    for model, seen in _seen_in_models(store):
        for host, count in seen.items():
            if host in found and count > found[host].count:
                found[host] = ColumnCount(count, "model", model)
    return found | {name: ColumnCount(count, "given") for name, count in given.items()}


def _seen_in_models(store: Store) -> list[tuple[str, dict[str, int]]]:
    """Of the newest models how many columns each host has at least."""
    found = []
    for name in [*reversed(store.names("model"))][:_LOOKED_AT]:
        try:
            half = load_half(store, name, GuestHalf)
        except ModelError:  # of another role or version: it says nothing
            continue
        columns: dict[str, set[str]] = {}
        for party, column, *_ in kind_of_model(half.model).importance(half.model):
            columns.setdefault(party, set()).add(column)
        found.append((name, {party: _at_least(party, shown) for party, shown in columns.items()}))
    return found


def _at_least(party: str, shown: set[str]) -> int:
    """How many columns there are, if these are some: hosts that show no names number theirs."""
    numbers = [re.fullmatch(rf"{re.escape(party)}:([0-9]{{1,6}})", one) for one in shown]
    return max([len(shown), *(int(number[1]) for number in numbers if number)])
