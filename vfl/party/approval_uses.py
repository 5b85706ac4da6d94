"""How much use was made of approvals that hold for more than one session: in a file of a host's store.

An approval is known by what was asked (`Request.subject`) and when it was given: a later one of the same
begins anew. Counts outlive restarts, and processes that share the store count together.
"""

import msgspec

from vfl.errors import DayIsFull, Refused, VflError
from vfl.party.config_values import Limit
from vfl.party.counts import ANEW, Counts
from vfl.party.policy import exceeds
from vfl.party.store import Store

_KEPT = 2000  # counts; more than there are requests that a store keeps


class ApprovalOver(VflError):
    """Lookups for which an approval holds no more. Unlike Refused it ends the session in which they are
    asked for, so that a person is asked about the next one; `refusal` says the rule."""

    def __init__(self, refusal: Refused) -> None:
        super().__init__(str(refusal), for_peer=refusal.for_peer)
        self.refusal = refusal


class _Use(msgspec.Struct):
    decided: str  # ISO 8601, UTC
    resumed: int = 0  # times that a run went on under it
    lookups: int = 0
    over: bool = False  # whether it holds for no more


_DECODER = msgspec.json.Decoder(dict[str, _Use])


class ApprovalUses:
    """The counts of a host. All raise ModelError when the file is damaged, DataError where it cannot be
    written."""

    def __init__(self, store: Store) -> None:
        self._counts = Counts(store, "approved", _DECODER, ANEW, "what an approval was used for")

    def resume(self, subject: str, decided: str, most: int) -> bool:
        """Count that a run goes on under an approval; False where it did so `most` times already."""
        with self._counts.in_turn():
            uses = self._counts.read() or {}
            use = _of(uses, subject, decided)
            if use.resumed >= most:
                return False
            use.resumed += 1
            self._write(uses, subject, use)
        return True

    def holds(self, subject: str, decided: str) -> bool:
        """Whether an approval of lookups holds for more of them."""
        return not _of(self._counts.read() or {}, subject, decided).over

    def count(self, subject: str, decided: str, many: int, most: Limit) -> None:
        """Count lookups before they are answered; fewer than none are given back. Raises DayIsFull where
        they would be more than the approval holds for, and then counts nothing."""
        with self._counts.in_turn():
            uses = self._counts.read() or {}
            use = _of(uses, subject, decided)
            if many > 0 and (use.over or exceeds(use.lookups + many, most)):
                raise DayIsFull("more lookups than the approval holds for")
            use.lookups = max(0, use.lookups + many)
            self._write(uses, subject, use)

    def end(self, subject: str, decided: str) -> None:
        """Have an approval hold for nothing more."""
        with self._counts.in_turn():
            uses = self._counts.read() or {}
            use = _of(uses, subject, decided)
            use.over = True
            self._write(uses, subject, use)

    def _write(self, uses: dict[str, _Use], subject: str, use: _Use) -> None:
        uses[subject] = use
        newest = sorted(uses.items(), key=lambda one: one[1].decided)[-_KEPT:]
        self._counts.write(dict(newest))


def _of(uses: dict[str, _Use], subject: str, decided: str) -> _Use:
    use = uses.get(subject)
    return use if use is not None and use.decided == decided else _Use(decided)
