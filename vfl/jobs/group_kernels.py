"""Has the group's kernels loaded beforehand where a party is asked again and again."""

import asyncio
from functools import cache

from vfl.crypto import group
from vfl.protocols.lookup import directory


def prepare_group(rows: int) -> None:
    """Have them loaded beside all else, once, if so many rows at a time gain by them."""
    if group.would_gain(rows):
        _prepare()


async def group_ready() -> None:
    """Wait until they are loaded: before anybody is told that lookups are answered, or asked for."""
    await asyncio.to_thread(group.prepare)
    await asyncio.to_thread(directory.prepare)


@cache
def _prepare() -> None:
    asyncio.get_running_loop().run_in_executor(None, group.prepare)
