"""Documents of the store as the records that they are of."""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import numpy as np

from vfl.errors import ModelError

T = TypeVar("T")


def converted(body: Mapping[str, Any], kind: type[T], what: str) -> T:
    """A document's body as a record of this kind. Raises ModelError saying `what` is not one."""
    try:
        return msgspec.convert(body, kind, str_keys=True, dec_hook=_as_is)
    except msgspec.ValidationError as error:
        hint = "it may be the other party's half, or of another version"
        raise ModelError(f"{what} is not what this command needs: {error} ({hint})") from None


def _as_is(kind: type[Any], value: object) -> object:
    """Arrays lie beside the document and come as arrays already."""
    if not isinstance(value, np.ndarray):
        raise TypeError("no array")
    return value
