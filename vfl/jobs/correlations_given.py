"""How many correlations of a host's columns each guest has had told, over all its jobs."""

import msgspec

from vfl.party.counts import ANEW, Counts
from vfl.party.policy_section import PolicySection
from vfl.party.store import Store
from vfl.party.told_rules import check_correlations

_DECODER = msgspec.json.Decoder(dict[str, int])


class CorrelationsGiven:
    """The count of a guest, in a file of the host's store that its processes share."""

    def __init__(self, store: Store, guest: str) -> None:
        purpose = "the correlations that it tells"
        self._counts = Counts(store, "correlated", _DECODER, ANEW, purpose)
        self._guest = guest

    def count(self, policy: PolicySection, rows: int, many: int) -> None:
        """Count, before any is made. Raises Refused for more than the policy allows or too few rows, and
        then counts nothing; ModelError when the file is damaged, DataError when it cannot be written.
        """
        with self._counts.in_turn():
            given = self._counts.read() or {}
            before = given.get(self._guest, 0)
            check_correlations(policy, rows, before, many)
            self._counts.write(given | {self._guest: before + many})
