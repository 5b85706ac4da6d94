"""Lines about refused connections."""

import asyncio
from collections.abc import Awaitable, Callable

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


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time passes when a test says so."""

    now = 0.0

    def time(self) -> float:
        return self.now

    async def pass_(self, seconds: float) -> None:
        self.now += seconds
        for _ in range(3):
            await asyncio.sleep(0)


def told(work: Callable[[Refusals, Clock], Awaitable[None]], seconds: float = 60) -> list[str]:
    """What is said of refusals."""
    said: list[str] = []
    with asyncio.Runner(loop_factory=Clock) as runner:
        clock = runner.get_loop()
        assert isinstance(clock, Clock)

        async def run() -> None:
            await work(Refusals(said.append, seconds), clock)

        runner.run(run())
    return said


def test_a_new_period_begins_with_lines_again() -> None:
    async def work(refusals: Refusals, clock: Clock) -> None:
        for _ in range(2):
            refusals.add("192.0.2.1", "it said nothing")
            refusals.add("192.0.2.1", "it said nothing")
            await clock.pass_(60)
            await clock.pass_(61)

    each = "refused a connection from 192.0.2.1: it said nothing"
    rest = "refused 1 more connection within 60 s: 1 from 192.0.2.1 (it said nothing: 1)"
    assert told(work) == [each, rest, each, rest]


def test_a_health_check_is_said_less_and_less() -> None:
    """A day of one every five seconds; what else happens is said all the same."""

    async def work(refusals: Refusals, clock: Clock) -> None:
        for number in range(86_400 // 5):
            refusals.add("192.0.2.1", "it closed the connection during the handshake")
            if number in (9_000, 17_000):
                refusals.add("198.51.100.7", "its certificate is not pinned here")
            await clock.pass_(5)

    lines = told(work)
    checks = [line for line in lines if "closed the connection" in line]
    assert (
        checks[0] == "refused a connection from 192.0.2.1: it closed the connection during the handshake"
    )
    assert [line.split(" s: ")[0].split()[-1] for line in checks[1:8]] == [
        *("60", "120", "240", "480", "960", "1920", "3600")
    ]
    assert len(checks) < 35
    assert [line for line in lines if line not in checks] == [
        "refused a connection from 198.51.100.7: its certificate is not pinned here"
    ] * 2


def test_what_peers_are_refused_for_is_said_in_each_period() -> None:
    """However many strangers come; but not more often."""

    async def work(refusals: Refusals, clock: Clock) -> None:
        for _ in range(40):
            for number in range(20):
                refusals.add(f"198.51.100.{number}", "it said nothing")
                refusals.add("192.0.2.1", "its certificate is not pinned here", of_peer=True)
            await clock.pass_(5)

    lines = [
        line for line in told(work) if line.endswith("192.0.2.1: its certificate is not pinned here")
    ]
    assert len(lines) == 4  # at 0, 60, 120 and 180 s


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


def test_a_flood_is_summed_up_each_minute() -> None:
    """Also where it begins after hours of a load balancer that looks whether the port is open."""

    async def work(refusals: Refusals, clock: Clock) -> None:
        for _ in range(3 * 720):
            refusals.add("192.0.2.1", "it closed the connection during the handshake")
            await clock.pass_(5)
        refusals.add("203.0.113.9", "here it begins")
        for second in range(600):
            for number in range(10):
                refusals.add(f"198.51.100.{number}", f"it said {second % 7}")
            await clock.pass_(1)

    lines = told(work)
    first = next(i for i, line in enumerate(lines) if "203.0.113.9" in line)
    sums = [line for line in lines[first:] if " more connections within " in line]
    assert 9 <= len(sums) <= 11
    assert all("within 60 s" in line for line in sums[1:])
    many = sum(int(line.split()[1].replace(",", "")) for line in sums[1:])
    assert many > 4_500  # of 6,000, without the first minute and the last
