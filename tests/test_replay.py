"""A role played once more against what its peers sent: equal, and each way of being unequal."""

import asyncio
import contextlib
from collections.abc import Sequence

import pytest
from replays import Tape, replay

from vfl.net.peer import MemoryPeer, Peer, together
from vfl.net.replay import BrokenOff, MessageDiffers, ReplayedPeer, TapeEnds
from vfl.net.wire import Message


class Question(Message, frozen=True):
    number: int


class Answer(Message, frozen=True):
    number: int


class Remark(Message, frozen=True):
    number: int


async def ask(host: Peer, numbers: Sequence[int]) -> int:
    """Bind, ask, and sum up the answers."""
    host.bind(b"job")
    total = 0
    for number in numbers:
        await host.send(Question(number))
        total += (await host.recv(Answer)).number
    return total


async def _answer(guest: Peer, count: int) -> None:
    guest.bind(b"job")
    for _ in range(count):
        await guest.send(Answer(2 * (await guest.recv(Question)).number))


async def _taped(numbers: Sequence[int]) -> Tape:
    guest, host = MemoryPeer.pair("insurer", "bureau")
    tape = Tape(guest)
    await asyncio.gather(ask(guest, numbers), _answer(host, len(numbers)))
    return tape


def test_an_honest_role_is_played_to_its_end() -> None:
    async def play() -> int:
        tape = await _taped([3, 4])
        return await replay([tape], lambda peers: ask(peers[0], [3, 4]))

    assert asyncio.run(play()) == 14


@pytest.mark.parametrize(
    ("numbers", "where"),
    [
        (
            [3, 5],
            r"^message 2 to bureau differs: it was Question of \d+ bytes, and the program sends other",
        ),
        ([3, 2**60], r"it was Question of \d+ bytes, and the program sends Question of \d+ bytes$"),
        ([3, 4, 5], r"^message 3 to bureau differs: there was none, and the program sends Question of"),
        (
            [3],
            r"^message 2 to bureau differs: it was Question of \d+ bytes, and the program sends none$",
        ),
    ],
)
def test_the_first_message_that_differs_is_named(numbers: list[int], where: str) -> None:
    async def play() -> None:
        tape = await _taped([3, 4])
        await replay([tape], lambda peers: ask(peers[0], numbers))

    with pytest.raises(MessageDiffers, match=where):
        asyncio.run(play())


def test_another_type_in_its_place_differs() -> None:
    async def play() -> None:
        tape = await _taped([3])

        async def remark(peers: Sequence[Peer]) -> None:
            await peers[0].send(Remark(3))

        await replay([tape], remark)

    with pytest.raises(
        MessageDiffers, match=r"it was Question of \d+ bytes, and the program sends Remark"
    ):
        asyncio.run(play())


def test_a_tape_that_ends_says_so() -> None:
    async def play() -> None:
        await ReplayedPeer("bureau", [], []).recv(Answer)

    with pytest.raises(TapeEnds, match=r"^the tape of bureau ends here$"):
        asyncio.run(play())


@pytest.mark.parametrize("number", [4, 5])
def test_where_one_tape_ends_the_rest_of_the_run_is_compared(number: int) -> None:
    """A role that hears one peer and asks another at the same time."""

    async def play() -> tuple[int, MessageDiffers | None]:
        tape, cut = await _taped([4]), BrokenOff()
        ended = ReplayedPeer("registry", [], [], cut=cut)
        asked = ReplayedPeer("bureau", [], tape.sent, cut=cut)

        async def slowly() -> None:
            for _ in range(9):
                await asyncio.sleep(0)
            asked.bind(b"job")
            await asked.send(Question(number))

        with contextlib.suppress(TapeEnds, MessageDiffers):
            await together([ended.recv(Answer), slowly()])
        return asked.compared, asked.differs

    compared, differs = asyncio.run(play())
    assert compared == (number == 4) and (differs is None) == (number == 4)


@pytest.mark.parametrize("still", [0, 0.01])
def test_a_role_that_sends_no_more_is_not_waited_for(still: float) -> None:
    async def play() -> None:
        tape, cut = await _taped([3]), BrokenOff(still)
        ReplayedPeer("bureau", [], tape.sent, cut=cut)
        await ReplayedPeer("registry", [], [], cut=cut).recv(Answer)

    with pytest.raises(TapeEnds, match=r"^the tape of registry ends here$"):
        asyncio.run(play())
