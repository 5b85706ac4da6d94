"""Documents of JSON that show when they were changed: `{"format", "version", "digest", "body"}`.

The digest is the SHA-256 of the body in canonical form, in which equal values have equal bytes: keys
sorted, no white space, UTF-8, finite numbers only.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import numpy as np

from vfl.errors import ModelError
from vfl.party.files import reason

T = TypeVar("T")

Body = dict[str, Any]
"""What a document holds, as JSON: whoever reads it checks what it takes from it."""


def canonical_json(value: object) -> bytes:
    """A value of JSON in canonical form. Raises ValueError or TypeError for one that is none."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def document(form: str, version: int, body: bytes) -> bytes:
    """The content of a file with a body in canonical form."""
    digest = hashlib.sha256(body).hexdigest()
    head = f'{{"format":"{form}","version":{version},"digest":"{digest}","body":'
    return head.encode() + body + b"}\n"


def read_document(path: Path) -> object:
    """The JSON of a file. Raises ModelError when it cannot be read or is none, FileNotFoundError."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {reason(error)}") from None
    return parse_document(content, path)


def parse_document(content: bytes, path: Path) -> object:
    """The JSON in what a file holds. Raises ModelError when it is none."""
    try:
        return cast(object, json.loads(content))
    except (ValueError, RecursionError):
        raise ModelError(f"{path} is damaged: it is no valid JSON") from None


def body_of(read: dict[str, object], version: int, path: Path) -> Body:
    """The body of a document of the format that is due. Raises ModelError where it is of a version
    above `version`, or is not what was written."""
    written, body = read.get("version"), read.get("body")
    if isinstance(written, int) and written > version:
        raise ModelError(f"{path} was written by a newer vfl: update vfl to read it")
    try:
        digest = hashlib.sha256(canonical_json(body)).hexdigest()
    except (ValueError, RecursionError):
        digest = None
    if (
        written != version
        or digest is None
        or read.get("digest") != digest
        or not isinstance(body, dict)
    ):
        raise ModelError(f"{path} is damaged: its content does not match its digest")
    return body


def convert_document(body: Mapping[str, object], kind: type[T], what: str) -> T:
    """A document's body as a record of this kind. Raises ModelError saying `what` is not one."""
    try:
        return msgspec.convert(body, kind, str_keys=True, dec_hook=_as_is)
    except msgspec.ValidationError as error:
        hint = "it may be the other party's half, or of another version"
        raise ModelError(f"{what} is not what this command needs: {error} ({hint})") from None


def _as_is(kind: type[object], value: object) -> object:
    """Arrays lie beside the document and come as arrays already."""
    if not isinstance(value, np.ndarray):
        raise TypeError("no array")
    return value
