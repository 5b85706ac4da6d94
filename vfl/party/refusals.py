"""How often each rule of a party's policy has refused a job, for its own people."""

from datetime import UTC, datetime

import msgspec

from vfl.party.counts import ANEW, Counts
from vfl.party.store import Store


class Refusals(msgspec.Struct):
    """Of a rule."""

    times: int = 0
    last: str = ""  # ISO 8601, UTC
    peer: str = ""  # whose job it was


_DECODER = msgspec.json.Decoder(dict[str, Refusals])


class RefusalCounts:
    """The counts of a store, by rule, which its processes share."""

    def __init__(self, store: Store) -> None:
        self._counts = Counts(store, "refusals", _DECODER, ANEW, "refusals")

    def count(self, rules: tuple[str, ...], peer: str) -> None:
        """Count a job that these rules refused. Raises ModelError when the file is damaged, DataError
        when it cannot be written."""
        with self._counts.in_turn():
            known = self._counts.read() or {}
            for rule in dict.fromkeys(rules):
                of_rule = known.setdefault(rule, Refusals())
                of_rule.times += 1
                of_rule.last = datetime.now(UTC).isoformat(timespec="seconds")
                of_rule.peer = peer
            self._counts.write(known)

    def read(self) -> dict[str, Refusals]:
        """By rule. Raises ModelError when the file is damaged."""
        return self._counts.read() or {}
