"""The threads in which a command's jobs compute."""

import asyncio
import gc
import threading
import weakref

import pytest

from vfl.cli.running import run
from vfl.terminal.usage import COMPUTING


def test_threads_are_used_again() -> None:
    async def calls() -> set[int]:
        return {await asyncio.to_thread(threading.get_ident) for _ in range(50)}

    assert len(run(calls())) <= 2  # one may not be back yet when the next call is made


def test_calls_at_once_have_a_thread_each_however_many() -> None:
    together = threading.Barrier(40, timeout=60)

    async def calls() -> None:
        await asyncio.gather(*(asyncio.to_thread(together.wait) for _ in range(40)))

    run(calls())


def test_what_a_call_raises_arrives_and_its_thread_goes_on() -> None:
    def fail() -> None:
        raise ValueError("no")

    async def calls() -> list[str]:
        names = []
        for _ in range(5):
            with pytest.raises(ValueError, match="no"):
                await asyncio.to_thread(fail)
            names.append(await asyncio.to_thread(lambda: threading.current_thread().name))
        return names

    assert set(run(calls())) == {COMPUTING}


def test_no_thread_keeps_what_a_call_was_given_or_made() -> None:
    class Large: ...

    async def call() -> tuple["weakref.ref[Large]", "weakref.ref[Large]"]:
        given = Large()
        made = await asyncio.to_thread(lambda one: (one, Large())[1], given)
        return weakref.ref(given), weakref.ref(made)

    async def calls() -> None:
        given, made = await call()
        while given() is not None or made() is not None:  # until the thread has put it down
            gc.collect()
            await asyncio.sleep(0.001)

    run(asyncio.wait_for(calls(), 60))


def test_threads_end_with_the_command() -> None:
    async def calls() -> list[threading.Thread]:
        return await asyncio.gather(*(asyncio.to_thread(threading.current_thread) for _ in range(10)))

    for thread in run(calls()):
        thread.join(60)
        assert not thread.is_alive()
