"""Of how many columns of a guest's own each guest was told by inference and variance inflation beside a
host's columns, over all its jobs.

Each such column tells the guest of the host's rows what a sum over them does. A guest that has made its
columns up and does not keep to max_leverage has a row a column.
"""

import msgspec

from vfl.party.counts import ANEW, Counts
from vfl.party.policy_section import PolicySection
from vfl.party.store import Store
from vfl.party.told_rules import check_told_columns

_DECODER = msgspec.json.Decoder(dict[str, int])


class ColumnsGiven:
    """The counts of all guests, in a file of the host's store that its processes share."""

    def __init__(self, store: Store) -> None:
        self._counts = Counts(store, "inferred", _DECODER, ANEW, "the columns that it infers with")

    def check_room(self, policy: PolicySection, guest: str) -> None:
        """Raises Refused where the guest may be told of no further column, ModelError when the file is
        damaged."""
        check_told_columns(policy, self.of(guest), 1)

    def of(self, guest: str) -> int:
        """Those of a guest so far. Raises ModelError when the file is damaged."""
        return (self._counts.read() or {}).get(guest, 0)

    def count(self, policy: PolicySection, guest: str, many: int) -> None:
        """Count, before anything is told of them. Raises Refused for more than the policy allows, and
        then counts nothing; ModelError when the file is damaged, DataError when it cannot be written.
        """
        with self._counts.in_turn():
            given = self._counts.read() or {}
            before = given.get(guest, 0)
            check_told_columns(policy, before, many)
            self._counts.write(given | {guest: before + many})
