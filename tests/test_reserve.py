"""Obfuscators made in spare time, by the key's owner and by others."""

import asyncio
from collections.abc import Callable, Iterator, Sequence

import gmpy2
import numpy as np
import pytest
from paillier_key import KEY

from vfl.crypto import reserve as reserves
from vfl.crypto.packing import SumPacking
from vfl.crypto.paillier import Ciphertexts, PrivateKey, PublicKey
from vfl.crypto.powers import RandomBits
from vfl.crypto.randomness import Randomness, Stream
from vfl.crypto.reserve import K, OwnReserve, Reserve
from vfl.crypto.sums import encrypt
from vfl.crypto.workers import Machine, Workers

PUBLIC = KEY.public
SECRET = bytes(32)
POOL = 6  # in place of 384 n-th powers, each of which takes 10 ms


TWO = Machine(2)


class Threads(Workers[K]):
    """Workers of a machine with two processes, whose work threads of this one do."""

    def __init__(self, key: K, machine: Machine = TWO) -> None:
        super().__init__(key, machine)

    def _start(self) -> None:
        pass


@pytest.fixture
def small_pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(PublicKey, "pool_size", POOL)
    yield
    PUBLIC._products = None


def fail(key: PrivateKey, secret: bytes | None, first: int, count: int) -> Ciphertexts:
    raise ValueError("no obfuscators today")


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_spare_time_begins_and_ends() -> None:
    async def run() -> Ciphertexts:
        reserve = OwnReserve(Threads(KEY), 10**9, SECRET)
        reserve.end()  # nothing was begun
        reserve.begin()
        await until(lambda: len(reserve))
        reserve.begin()  # goes on
        reserve.end()
        made = len(reserve)
        assert made > 0
        await asyncio.sleep(0.2)
        assert len(reserve) == made

        # Time enough.
        reserve = OwnReserve(Threads(KEY), 100, SECRET)
        reserve.begin()
        await until(reserve._filling.done)
        reserve.begin()
        await until(reserve._filling.done)
        reserve.end()
        assert len(reserve) == 128  # whole rounds of blocks
        return reserve.take(100).ready

    obfuscators = asyncio.run(run())
    assert len({one.tobytes() for one in obfuscators}) == 100
    assert not any(KEY.decrypt(obfuscators))


def test_what_spare_time_failed_with_is_raised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reserves, "_own_obfuscators", fail)

    async def run() -> None:
        reserve = OwnReserve(Threads(KEY), 100, SECRET)
        for again in (reserve.end, reserve.begin):
            reserve.begin()
            await until(reserve._filling.done)
            with pytest.raises(ValueError, match="no obfuscators today"):
                again()
        reserve.end()
        assert len(reserve) == 0

    asyncio.run(run())


def test_without_processes_nothing_is_made_ahead() -> None:
    async def run() -> None:
        async with Workers(KEY, Machine()) as workers:
            reserve = OwnReserve(workers, 1000, SECRET)
            reserve.begin()
            await until(reserve._filling.done)
            reserve.end()
            assert len(reserve) == 0
            taken = reserve.take(1)
            assert not len(taken.ready) and taken.missing == 1

    asyncio.run(run())


def test_spare_time_ends_with_the_workers() -> None:
    async def run() -> None:
        async with Threads(PUBLIC) as workers:
            reserve = Reserve(workers, 10**9, SECRET)
            reserve.begin()
            filling = reserve._filling
            await until(lambda: len(reserve))
        await until(filling.done)
        assert filling.cancelled()

    asyncio.run(run())


def test_obfuscators_made_in_spare_time_are_used_once() -> None:
    layout = SumPacking.for_rows(200, 2048)
    g, h = np.arange(200), np.arange(200)
    workers = Threads(KEY)

    async def run() -> Ciphertexts:
        reserve = OwnReserve(workers, 100, SECRET)
        await reserve.fill()
        assert len(reserve) == 128  # whole rounds of blocks
        chunks = [(g[i : i + 50], h[i : i + 50]) for i in range(0, 200, 50)]
        parts = [part async for part in encrypt(workers, layout.pair, chunks, reserve)]
        assert len(reserve) == 0
        ready, fresh = "encrypt, obfuscator ready", "encrypt"
        assert workers.operations == {ready: 128, fresh: 72}
        return np.concatenate(parts)

    ciphertexts = asyncio.run(run())
    assert KEY.decrypt(ciphertexts) == layout.pair(g, h)
    n = PUBLIC.n
    obfuscators = {
        int(c * (1 - m * n) % PUBLIC.n_squared)
        for c, m in zip(PUBLIC.integers(ciphertexts), layout.pair(g, h), strict=True)
    }
    assert len(obfuscators) == 200


def test_no_more_obfuscators_than_the_memory_holds(small_pool: None) -> None:
    machine = Machine(2, memory=64 * 512)

    async def run() -> tuple[int, int]:
        own = OwnReserve(Threads(KEY, machine), 10_000, SECRET)
        others = Reserve(Threads(PUBLIC, machine), 10_000, SECRET)
        await own.fill()
        await others.fill()
        return len(own), len(others)

    assert asyncio.run(run()) == (64, 64)


def is_nth_power(c: gmpy2.mpz) -> bool:
    return bool(gmpy2.powmod(c, gmpy2.lcm(KEY._p - 1, KEY._q - 1), PUBLIC.n_squared) == 1)


def test_others_draw_powers_and_then_products_of_them(small_pool: None) -> None:
    """Each once, whether made in spare time or when asked for."""
    asked: list[tuple[int, bool]] = []
    before = PublicKey.obfuscators_from

    def noted(key: PublicKey, sources: Sequence[RandomBits], pool: Ciphertexts | None) -> Ciphertexts:
        asked.append((len(sources), pool is not None))
        return before(key, sources, pool)

    async def run() -> Ciphertexts:
        reserve = Reserve(Threads(PUBLIC), 5, SECRET)
        assert (await reserve.draw(0)).shape == (0, 512) and not asked
        drawn = [await reserve.draw(1), await reserve.draw(2)]
        assert len(reserve) == 0 and sum(count for count, _ in asked) == 3
        await reserve.fill()
        assert len(reserve) >= 5
        ready = len(reserve)
        drawn.append(await reserve.draw(2))
        assert len(reserve) == ready - 2
        assert sum(count for count, products in asked if not products) == POOL
        drawn.append(await reserve.draw(40))
        assert {products for _, products in asked[-3:]} == {True}
        assert len(reserve._powers) == POOL
        drawn.append(await reserve.draw(1))
        return np.concatenate(drawn)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PublicKey, "obfuscators_from", noted)
        drawn = asyncio.run(run())
    assert len(drawn) == len({one.tobytes() for one in drawn}) == 46
    assert all(map(is_nth_power, PUBLIC.integers(drawn)))
    assert sum(count for count, products in asked if not products) == POOL


@pytest.mark.parametrize("ahead", [0, 3, 200])
@pytest.mark.parametrize("workers", [1, 3])
def test_who_makes_obfuscators_and_when_does_not_matter(
    small_pool: None, workers: int, ahead: int
) -> None:
    """Spare time that is long, short, ended in the middle, or goes on while others are asked for."""
    owners = KEY.obfuscators(150, Stream(SECRET)).tobytes()

    async def run() -> tuple[bytes, bytes]:
        own = OwnReserve(Threads(KEY, Machine(workers)), ahead, SECRET)
        others = Reserve(Threads(PUBLIC, Machine(workers)), ahead, SECRET)
        taken, drawn = [], []
        for count in (1, 4, 0, 45, 100):
            for reserve in (own, others):
                reserve.begin()
            if count == 45:
                await until(own._filling.done)
            taken.append(own.take(count).all(KEY))
            if count == 4:
                others.end()
            if count < 100:
                drawn.append(await others.draw(count))
        for reserve in (own, others):
            reserve.end()
        return b"".join(one.tobytes() for one in taken), b"".join(one.tobytes() for one in drawn)

    taken, drawn = asyncio.run(run())
    assert taken == owners
    numbers = Randomness(SECRET)
    powers = [PUBLIC.obfuscators(1, None, numbers.at("obfuscator", i).bits) for i in range(POOL)]
    pool = np.concatenate(powers)
    products = [PUBLIC.obfuscators(1, pool, numbers.at("obfuscator", i).bits) for i in range(POOL, 50)]
    assert drawn == b"".join(one.tobytes() for one in (*powers, *products))


@pytest.mark.parametrize("ahead", [0, 9, 200])
def test_those_that_are_passed_over_change_no_other(small_pool: None, ahead: int) -> None:
    """Before all powers are made, and after; in spare time as well."""
    made = list[int]()
    before = PublicKey.obfuscators_from

    def noted(key: PublicKey, sources: Sequence[RandomBits], pool: Ciphertexts | None) -> Ciphertexts:
        made.append(len(sources))
        return before(key, sources, pool)

    async def run(passed: Sequence[int]) -> list[bytes]:
        reserve, drawn = Reserve(Threads(PUBLIC), ahead, SECRET), list[bytes]()
        for place, count in enumerate((2, 3, 300, 0, 5, 7)):
            reserve.begin()
            if place in passed:
                await reserve.pass_over(count)
            else:
                drawn.append((await reserve.draw(count)).tobytes())
        reserve.end()
        return drawn

    every = asyncio.run(run([]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PublicKey, "obfuscators_from", noted)
        for passed in ([2], [0, 1], [1, 2, 3, 4]):
            made.clear()
            found = asyncio.run(run(passed))
            assert found == [one for place, one in enumerate(every) if place not in passed]
            if 2 in passed and not ahead:
                assert POOL <= sum(made) < 100


def test_a_pool_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="a pool of 3 n-th powers, 384 are needed"):
        PUBLIC.obfuscators(1, PUBLIC.obfuscators(3))


def test_processes_draw_as_well(small_pool: None) -> None:
    """What they make is what is made here; a pool of another size than theirs is refused there."""

    async def run() -> None:
        async with Workers(PUBLIC, Machine(2)) as workers:
            reserve = Reserve(workers, 3, SECRET)
            drawn = await reserve.draw(POOL)
            numbers = Randomness(SECRET)
            here = [PUBLIC.obfuscators(1, None, numbers.at("obfuscator", i).bits) for i in range(POOL)]
            assert np.array_equal(drawn, np.concatenate(here))
            with pytest.raises(ValueError, match="a pool of 6 n-th powers, 384 are needed"):
                await reserve.draw(1)

    asyncio.run(run())
