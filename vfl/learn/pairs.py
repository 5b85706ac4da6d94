"""The pairs of columns of two parties that a job names: a guest's column, and `host:column`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PairsOfJob:
    """Pairs as a job names them."""

    pairs: tuple[tuple[str, str], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The guest's columns."""
        return tuple(dict.fromkeys(own for own, _ in self.pairs))

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts that have a pair."""
        return tuple(dict.fromkeys(other.partition(":")[0] for _, other in self.pairs))

    def with_host(self, host: str) -> list[tuple[int, str]]:
        """A host's pairs: the place of the guest's column among `columns`, and the host's column."""
        own = self.columns
        parted = ((column, other.partition(":")) for column, other in self.pairs)
        return [(own.index(column), name) for column, (party, _, name) in parted if party == host]

    @property
    def overlapping(self) -> tuple[str, str] | None:
        """A column that is in two pairs with the same party, and that party's name, the guest's as
        "the guest"; None without one."""
        met: set[tuple[str, str]] = set()
        for own, other in self.pairs:
            for one in ((own, other.partition(":")[0]), (other, "the guest")):
                if one in met:
                    return one
                met.add(one)
        return None
