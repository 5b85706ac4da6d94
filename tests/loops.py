"""`asyncio.run` without the text of its result, which may take longer than what came to it.

Where it gives the handler of Ctrl-C back, `signal` looks for the old one among its names and makes an
error of it, with the text of all that the loop's task has returned: arrays, models, every message.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_run = asyncio.run


def tell_no_result() -> None:
    """From now on in this process."""
    asyncio.run = _run_untold  # type: ignore[assignment]


def _run_untold(main: Coroutine[Any, Any, T], **options: Any) -> T:
    results: list[T] = []

    async def kept() -> None:
        results.append(await main)

    _run(kept(), **options)
    return results[0]
