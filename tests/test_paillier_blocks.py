"""Sums under Paillier's encryption are the same wherever rows lie, and however they are cut."""

import asyncio

import numpy as np
import pytest
from apart import Apart
from paillier_key import KEY
from test_boost import make_job, resolved

from vfl.blocks.engine import ENGINE
from vfl.crypto.workers import Machine, Workers
from vfl.errors import PeerError
from vfl.learn.params import BoostParams
from vfl.net.peer import MemoryPeer
from vfl.net.wire import Message
from vfl.protocols.common.histograms import HeldSums

pytestmark = pytest.mark.usefixtures("quick_key")


@pytest.mark.parametrize(
    "settings", [{}, {"subsample": 0.6, "colsample": 0.5}, {"goss_top": 0.3, "goss_other": 0.3}]
)
def test_trees(settings: dict) -> None:
    params = BoostParams(trees=2, depth=3, max_bins=8, min_child_rows=5, **settings)
    job = make_job(150, 2, 3, params)
    pooled, expected = job.oracle()
    with ENGINE.instead(Apart(67)):
        model, scores, halves = job.federated()
    assert resolved(model, halves) == resolved(pooled, [])
    np.testing.assert_array_equal(scores, expected)


class Ciphers(Message, frozen=True):
    """host -> guest. Reveals: nothing."""

    data: bytes


def test_ciphertexts_are_checked_where_rows_lie() -> None:
    codes, drawn = np.zeros((1, 9), np.uint8), np.arange(9) % 3 > 0
    whole = KEY.encrypt(range(6)).tobytes()
    with ENGINE.instead(Apart(4)):
        workers = Workers(KEY.public, Machine())
        store = workers.rows(9, KEY.public.width)

        async def received(data: bytes) -> list[int]:
            sums = HeldSums(workers, store, ENGINE.hold(codes), [2])
            sums.draw(drawn)
            here, there = MemoryPeer.pair("guest", "host")
            await here.send(Ciphers(data))
            await sums.receive(there, Ciphers, lambda message: message.data, 6)
            (histogram,) = await sums.histograms()
            slot = np.where(drawn & (np.arange(9) > 4), np.arange(9) % 2, -1)
            nodes = await sums.of_nodes(slot, 2)
            return KEY.decrypt(np.concatenate([histogram, *nodes]))

        # Drawn are 1, 2, 4, 5, 7 and 8, which hold 0 to 5; of these 5 and 7 are odd.
        assert asyncio.run(received(whole)) == [15, 0, 5, 0, 3 + 4, 0]
        assert workers.operations["add"] > 0
        width = KEY.public.width
        for data, why in [
            (whole[:-1], "another number of rows"),
            (whole[width:], "another number of rows"),
            (bytes(width) + whole[width:], "out of range"),
            (int(KEY.public.n).to_bytes(width, "little") + whole[width:], "not invertible"),
        ]:
            with pytest.raises(PeerError, match=why):
                asyncio.run(received(data))
        store.close()
