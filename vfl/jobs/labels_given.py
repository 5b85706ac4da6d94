"""How many labels hosts could have read of a guest's jobs, kept over attempts, commands and `--fresh`.

A host of a linear model that breaks an attempt off keeps what it has read, and has something else opened
in the next: so no attempt begins to count anew. They are counted before they are opened, by alignment,
job and host, in a file of the store.
"""

from collections import Counter
from collections.abc import Mapping

import msgspec

from vfl.party.config import Job
from vfl.party.counts import ANEW, Counts
from vfl.party.store import Store

_Given = dict[str, dict[str, dict[str, int]]]
"""By alignment, digest of the job and host."""
_DECODER = msgspec.json.Decoder(_Given)


class LabelsGiven:
    """The count of a job on an alignment, which processes that share the store keep together."""

    @classmethod
    def of(cls, store: Store, alignment: str, job: Job) -> "LabelsGiven":
        """That of a job whatever its limit: who raises `max_labels` does not begin anew."""
        unlimited = job.glm.model_copy(update={"max_labels": None})
        return cls(store, alignment, job.model_copy(update={"glm": unlimited}).digest)

    def __init__(self, store: Store, alignment: str, job: str) -> None:
        """`job`: a digest of its canonical form."""
        self._counts = Counts(store, "labels", _DECODER, ANEW, "the labels that could be read")
        self._alignment, self._job = alignment, job

    def so_far(self) -> Counter[str]:
        """What was counted, by host. Raises ModelError when the file is damaged."""
        return Counter(self._read().get(self._alignment, {}).get(self._job, {}))

    def add(self, labels: Mapping[str, int], most: float) -> bool:
        """Count an opening before it is made, unless a host's count would be above `most`; whether it
        was counted.

        Raises ModelError when the file is damaged, DataError when it cannot be written.
        """
        with self._counts.in_turn():
            given = self._read()
            of_job = given.setdefault(self._alignment, {}).setdefault(self._job, {})
            total = Counter(of_job) + Counter(labels)
            if max(total.values(), default=0) > most:
                return False
            of_job.update(total)
            self._counts.write(given)
        return True

    def _read(self) -> _Given:
        return self._counts.read() or {}
