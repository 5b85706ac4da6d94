"""The hosts' tables as a parameter of an estimator.

scikit-learn copies parameters for every fold, compares them by their text and prints them. The tables
of hosts are too large for the first and too private for the second, so that they are held in a mapping
that is shared instead of copied and tells no more than how large its tables are.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Self

from vfl.errors import ConfigError
from vfl.simulate.method import GUEST


class Hosts(Mapping[str, Any]):
    """Tables by the host's name, which nobody changes: copies and clones are the same object."""

    def __init__(self, tables: Mapping[str, Any]) -> None:
        self._tables = dict(tables)

    def __getitem__(self, name: str) -> Any:
        return self._tables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name!r}: <{_size(table)}>" for name, table in self._tables.items())
        return "{" + sizes + "}"

    def __eq__(self, other: object) -> bool:
        return self is other  # tables answer == cell by cell

    def __hash__(self) -> int:
        return id(self)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __sklearn_clone__(self) -> Self:
        return self


class HostsParameter:
    """The attribute of an estimator in which a dict of tables becomes Hosts, whoever sets it."""

    def __get__(self, estimator: Any, owner: type | None = None) -> Any:
        if estimator is None:
            return self
        try:
            return vars(estimator)["hosts"]
        except KeyError:
            raise AttributeError("hosts") from None

    def __set__(self, estimator: Any, given: Any) -> None:
        known = isinstance(given, Mapping) and not isinstance(given, Hosts)
        vars(estimator)["hosts"] = Hosts(given) if known else given


def checked_hosts(given: object) -> dict[str, Any]:
    """Tables by name. Raises ConfigError for what has no names, or the guest's."""
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"hosts= must be a dict of tables by the host's name, not {type(given).__name__}"
        )
    for name in given:
        if not isinstance(name, str) or not name or name == GUEST:
            raise ConfigError(f"a host needs a name, other than {GUEST!r}, which the insurer has")
    return dict(given)


def _size(table: object) -> str:
    shape = getattr(table, "shape", None)
    if isinstance(shape, tuple) and len(shape) == 2 and all(isinstance(n, int) for n in shape):
        return f"{type(table).__name__}, {shape[0]:,} rows, {shape[1]:,} columns"
    return type(table).__name__
