"""Packages that a part of the console alone needs."""

from collections.abc import Iterator
from contextlib import contextmanager

from vfl.errors import ConfigError


@contextmanager
def needs(extra: str, *packages: str) -> Iterator[None]:
    """Imports of packages that an extra brings. Raises ConfigError where one of them is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in packages:
            raise
        raise ConfigError(
            f"{missing} is not installed, which this needs: pip install 'vfl[{extra}]' (in a clone: pip "
            f"install '.[{extra}]')"
        ) from None
