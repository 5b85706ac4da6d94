"""Messages as bytes: MessagePack, typed, bounded.

A message is a frozen struct whose docstring says who sends it to whom and what it reveals
(`Reveals: ...`); a test holds those lines against the table in docs/messages.md. On the wire it is
the pair (name of its type, body). Nothing is ever unpickled.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec
from blake3 import blake3

KIB = 1024
MIB = 1024 * KIB
CIPHERTEXT = 0  # in `per_row`: as many bits as a ciphertext under the job's key
MAX_MESSAGE = 32 * MIB  # the largest message that any transport accepts; protocols send in chunks


Octets = bytes | memoryview
"""Bytes that nobody changes any more: those of long messages as a view, so that they are not copied."""

LONG = 64 * KIB

if TYPE_CHECKING:
    Bulk = Octets
else:
    Bulk = memoryview
"""The type of a field of megabytes: a view of the frame that it came in."""

# Fields whose bounds are those of the type: decoding refuses what is beyond them.
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Rows = Annotated[int, msgspec.Meta(ge=0, lt=2**40)]
RecordNumber = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]


class WireError(ValueError):
    """Bytes that are not the message they should be; the text names what is wrong, no content."""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all messages. `limit` bounds the encoded body in bytes. `per_row` names the field that
    speaks of rows, one after the other, and its bits for each; a field that is a number is theirs.
    """

    limit: ClassVar[int] = 64 * KIB
    per_row: ClassVar[tuple[str, int] | None] = None


class _Tagged(msgspec.Struct, frozen=True, array_like=True):
    kind: str
    body: msgspec.Raw


# MessagePack's marks of a map of a few fields, and of bytes whose length has four.
_MAP, _FEW, _BYTES = 0x80, 15, b"\xc6"

# What msgspec raises on hostile bytes: of text that is not UTF-8 and of deep nesting, Python's own.
_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, MemoryError)

_encoder = msgspec.msgpack.Encoder()
_tagged = msgspec.msgpack.Decoder(_Tagged)
_decoders: dict[type[Message], msgspec.msgpack.Decoder[Message]] = {}


def digest_of(payload: Octets) -> bytes:
    """The digest by which ledgers and certificates know a message: its BLAKE3, 32 bytes.

    As hard to forge as SHA-256, and made in a fifth of the time (O'Connor, Aumasson, Neves and
    Wilcox-O'Hearn, *BLAKE3: one function, fast everywhere*, 2020).
    """
    return blake3(payload).digest()


def encode(message: Message) -> bytes:
    """The bytes of a message. Raises ValueError when it is over its own limit (a local bug)."""
    encoded = _encoder.encode((type(message).__name__, message))  # at once: nothing is copied twice
    _check_size(message, len(encoded))
    return encoded


def encode_behind(head: bytes, message: Message) -> Octets:
    """The bytes of a message behind those of a head. Raises ValueError as `encode` does."""
    kind = type(message)
    values = [getattr(message, name) for name in kind.__struct_fields__]
    has_all = not kind.__struct_config__.omit_defaults and not any(
        one is msgspec.UNSET for one in values
    )
    if has_all and len(values) <= _FEW and any(map(_is_long, values)):
        frame = b"".join((head, *_parts_of(message)))
        _check_size(message, len(frame) - len(head))
    else:
        frame = head + encode(message)
    return frame if len(frame) < LONG else memoryview(frame)


def _parts_of(message: Message) -> Iterator[Octets]:
    """What `encode` makes of a message, in parts: its long fields are copied once, to where they go."""
    fields = message.__struct_fields__
    yield _encoder.encode((type(message).__name__, {}))[:-1] + bytes([_MAP | len(fields)])
    for name, field in zip(message.__struct_encode_fields__, fields, strict=True):
        value = getattr(message, field)
        yield _encoder.encode(name)
        if _is_long(value):
            yield _BYTES + memoryview(value).nbytes.to_bytes(4, "big")
            yield value
        else:
            yield _encoder.encode(value)


def _is_long(value: object) -> bool:
    return isinstance(value, bytes | memoryview) and memoryview(value).nbytes >= LONG


def _check_size(message: Message, encoded: int) -> None:
    kind = type(message)
    size = encoded - len(_encoder.encode((kind.__name__,)))
    if size > kind.limit:
        raise ValueError(f"{kind.__name__} of {size:,} bytes, over its {kind.limit:,}")


def decode(data: Octets, kinds: Sequence[type[Message]]) -> Message:
    """The message in `data`, which must be one of `kinds`; else WireError."""
    try:
        tagged = _tagged.decode(data)
    except _UNDECODABLE:
        raise WireError("bytes that are no message") from None
    for kind in kinds:
        if kind.__name__ == tagged.kind:
            break
    else:
        expected = " or ".join(k.__name__ for k in kinds)
        shown = tagged.kind if tagged.kind.isidentifier() and len(tagged.kind) < 40 else "garbage"
        raise WireError(f"{shown} where {expected} was due")
    if len(tagged.body) > kind.limit:
        raise WireError(f"{kind.__name__} of {len(tagged.body):,} bytes, over {kind.limit:,}")
    decoder = _decoders.setdefault(kind, msgspec.msgpack.Decoder(kind))
    try:
        return decoder.decode(tagged.body)
    except msgspec.MsgspecError as error:
        # msgspec names the field and the type expected, and quotes a field's name that is none.
        why = str(error)
        shown = f" ({why})" if why.isprintable() and len(why) < 200 else ""
        raise WireError(f"a malformed {kind.__name__}{shown}") from None
    except _UNDECODABLE:
        raise WireError(f"a malformed {kind.__name__}") from None
