"""What rules go by: counts in files of a party's store, one a kind, which its processes share."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import msgspec

from vfl.errors import ModelError
from vfl.party.files import make_folder
from vfl.party.kinds import CountKind
from vfl.party.locks import in_turn
from vfl.party.store import Store

T = TypeVar("T")


class Counts(Generic[T]):
    """The counts of a kind, whose content is of type T."""

    def __init__(
        self,
        store: Store,
        kind: CountKind,
        decoder: "msgspec.json.Decoder[T]",
        remedy: str,
        purpose: str,
    ) -> None:
        """`remedy`: what to do about a damaged file; `purpose`: what peers hear cannot be counted."""
        self._store, self._kind, self._decoder = store, kind, decoder
        self._remedy, self._purpose = remedy, purpose
        self.path = store.counts(kind)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Change them in turn with others. Raises DataError when they cannot be locked."""
        make_folder(self.path.parent)
        with in_turn(self.path.with_suffix(".lock")):
            yield

    def read(self) -> T | None:
        """What was written last, None before. Raises ModelError when the file is damaged."""
        try:
            return self._decoder.decode(self._store.read_counts(self._kind))
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            raise ModelError(
                f"{self.path} is damaged: {self._remedy}",
                for_peer=f"it cannot count {self._purpose} (its log has the details)",
            ) from None

    def write(self, content: T) -> None:
        """Write them, in turn. Raises DataError when the file cannot be written."""
        self._store.write_counts(self._kind, msgspec.json.encode(content))


ANEW = "bring it back from a copy, or remove it to count anew"
