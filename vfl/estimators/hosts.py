"""The hosts' tables as a parameter of an estimator.

scikit-learn copies parameters for every fold, compares them by their text and prints them. The tables
of hosts are too large for the first and too private for the second, so that they are held in a mapping
that is shared (shared.py) and tells no more than how large its tables are.
"""

from collections.abc import Callable, Iterator, Mapping

from vfl.errors import ConfigError
from vfl.estimators.shared import Shared
from vfl.party.ids import NormalisedIds
from vfl.simulate import GUEST
from vfl.text import counted


class Hosts(Shared, Mapping[str, object]):
    """Tables by the host's name: copies and clones are the same object.

    To normalise ids takes longer than many a fit. What is made of each host's is kept for the next fold,
    as long as its ids stay what they are.
    """

    def __init__(self, tables: Mapping[str, object]) -> None:
        self._tables = dict(tables)
        self._kept: dict[str, tuple[bytes, NormalisedIds]] = {}

    def ids(self, name: str, digest: bytes | None, make: Callable[[], NormalisedIds]) -> NormalisedIds:
        """A host's normalised ids; `digest` is of all that they are made of, None keeps nothing."""
        if digest is None:
            return make()
        known = self._kept.get(name)
        if known is None or known[0] != digest:
            known = self._kept[name] = digest, make()
        return known[1]

    def __getstate__(self) -> dict[str, object]:
        return {"_tables": self._tables, "_kept": {}}

    def __getitem__(self, name: str) -> object:
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


def hold_hosts(given: object) -> object:
    """A dict of tables as Hosts, anything else as it is."""
    return Hosts(given) if isinstance(given, Mapping) and not isinstance(given, Hosts) else given


def as_hosts(given: object) -> Hosts:
    """Tables by name. Raises ConfigError for what has no names, or the guest's."""
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"hosts= must be a dict of tables by the host's name, not {type(given).__name__}"
        )
    for name in given:
        if not isinstance(name, str) or not name or name == GUEST:
            raise ConfigError(f"a host needs a name, other than {GUEST!r}, which the insurer has")
    return given if isinstance(given, Hosts) else Hosts(given)


def _size(table: object) -> str:
    shape = getattr(table, "shape", None)
    if isinstance(shape, tuple) and len(shape) == 2 and all(isinstance(n, int) for n in shape):
        return f"{type(table).__name__}, {counted(shape[0], 'row')}, {counted(shape[1], 'column')}"
    return type(table).__name__
