"""How much of its sealed directories a host has sent out today, kept over sessions and restarts.

A guest that follows the rules fetches each version once for each of its stores; one that does not could
keep the host reading and sending for nothing.
"""

from datetime import date

import msgspec

from vfl.errors import DayIsFull
from vfl.party.counts import Counts
from vfl.party.policy import exceeds, limit_breach
from vfl.party.policy_section import PolicySection
from vfl.party.store import Store

ALWAYS = 64 << 20
"""Bytes a day that may be fetched of any directory, however small it is."""


class _Sent(msgspec.Struct):
    day: date
    models: dict[str, int]  # bytes


_DECODER = msgspec.json.Decoder(_Sent)


class Fetched:
    """The count of a host; sessions and processes that share its store count together."""

    def __init__(self, store: Store) -> None:
        remedy = "remove it to count this day anew"
        self._counts = Counts(store, "fetched", _DECODER, remedy, "what was fetched today")

    def count(self, policy: PolicySection, model: str, many: int, whole: int, on: date) -> None:
        """Count bytes of a model's directory, which has `whole`, before they are sent.

        Raises DayIsFull when they would be more than the policy allows, and then counts nothing;
        ModelError when the file is damaged, DataError when it cannot be written.
        """
        times = policy.max_fetches_a_day
        with self._counts.in_turn():
            sent = self._read(on)
            total = sent.models.get(model, 0) + many
            if many > 0 and not isinstance(times, str) and exceeds(total, max(ALWAYS, times * whole)):
                what = f"fetching more of the directory of {model} on {sent.day}"
                raise DayIsFull(limit_breach(what, policy, "max_fetches_a_day"))
            sent.models[model] = max(0, total)
            self._counts.write(sent)

    def of(self, model: str, on: date) -> int:
        """Bytes that were sent of a model's directory on a day. Raises ModelError."""
        return self._read(on).models.get(model, 0)

    def _read(self, on: date) -> _Sent:
        sent = self._counts.read()
        # What was counted on a day far ahead, when the clock was wrong, counts for today.
        if sent is None or sent.day < on:
            return _Sent(on, {})
        return _Sent(on, sent.models)
