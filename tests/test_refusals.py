"""Lines about refused connections."""

import asyncio

from ends import until

from vfl.net.refusals import AT_ONCE, Refusals


def test_few_refusals_have_a_line_each_many_one_a_period() -> None:
    said: list[str] = []

    async def run() -> None:
        refusals = Refusals(said.append, 3600)
        for number in range(1000):
            refusals.add("192.0.2.1", "it said nothing")
            refusals.add(f"198.51.100.{number % 200}", "its certificate is not pinned here")
        assert said[:2] == [
            "refused a connection from 192.0.2.1: it said nothing",
            "refused a connection from 198.51.100.0: its certificate is not pinned here",
        ]
        assert len(said) == AT_ONCE
        refusals.close()
        assert len(said) == AT_ONCE + 1
        refusals.close()

    asyncio.run(run())
    assert len(said) == AT_ONCE + 1
    assert said[-1].startswith(
        "refused 1,995 more connections within 3600 s: 999 from 192.0.2.1, 5 from "
    )
    assert "976 from other addresses" in said[-1]
    assert said[-1].endswith("(it said nothing: 999; its certificate is not pinned here: 996)")


def test_a_new_period_begins_with_lines_again() -> None:
    said: list[str] = []

    async def run() -> None:
        refusals = Refusals(said.append, 0.05)
        for _ in range(2):
            refusals.add("192.0.2.1", "it said nothing")
            refusals.add("192.0.2.1", "it said nothing")
            count = len(said)
            await until(lambda n=count: len(said) > n)

    asyncio.run(run())
    each = "refused a connection from 192.0.2.1: it said nothing"
    rest = "refused 1 more connection within 0 s: 1 from 192.0.2.1 (it said nothing: 1)"
    assert said == [each, rest, each, rest]


def test_what_is_counted_is_bounded_and_a_broken_log_stops_nobody() -> None:
    def broken(line: str) -> None:
        raise BrokenPipeError

    async def run() -> None:
        refusals = Refusals(broken, 3600)
        for number in range(5000):
            refusals.add(f"host{number}", f"reason {number}")
        assert len(refusals._addresses) <= 1000 and len(refusals._reasons) <= 1000
        refusals.close()

    asyncio.run(run())
