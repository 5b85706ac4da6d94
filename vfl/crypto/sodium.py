"""libsodium, as `rbcl` ships it, which writes the library into a temporary folder to load it."""

import tempfile

from vfl.errors import DataError

try:
    import rbcl
except OSError as error:
    raise DataError(
        f"libsodium cannot be loaded by way of {tempfile.gettempdir()}: {error.strerror or error}; make "
        "room there, or name another folder in TMPDIR"
    ) from None

__all__ = ["rbcl"]
