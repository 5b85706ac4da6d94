"""A tree's gradients on their way to hosts (step 2 of paillier.py)."""

from collections.abc import Callable, Iterator, Sequence

from vfl.arrays import Integers
from vfl.crypto.reserve import OwnReserve
from vfl.crypto.sums import encrypt
from vfl.net.peer import Peer, together
from vfl.protocols.common.clock import Clock
from vfl.protocols.common.histograms import CHUNK
from vfl.protocols.trees.paillier_messages import LEFT_OUT, Gradients

Pairs = Iterator[tuple[Integers, Integers]]
"""Gradients and hessians of drawn rows, some at a time."""


async def send_gradients(
    hosts: Sequence[Peer],
    pairs: Pairs,
    plaintexts: Callable[..., Sequence[int]],
    reserve: OwnReserve,
    clock: Clock,
) -> None:
    """Encrypt them, each pair as one of `plaintexts`, and send them."""
    encrypted = encrypt(reserve.workers, plaintexts, pairs, reserve)
    while True:
        with clock.timed("encrypt"):
            ciphertexts = await anext(encrypted, None)
        if ciphertexts is None:
            return
        with clock.timed("transfer"):
            message = Gradients(ciphertexts.tobytes())
            await together([host.send(message) for host in hosts])


async def leave_out(hosts: Sequence[Peer], pairs: Pairs, reserve: OwnReserve) -> None:
    """In a replay that does not look at the tree: its obfuscators are passed over, and an empty message
    stands for each."""
    for gradients, _ in pairs:
        reserve.take(len(gradients))
        await together([host.send(LEFT_OUT) for host in hosts])


async def pass_over(guest: Peer, rows: int) -> None:
    """The same at a host that has not kept the gradients of so many rows: receive what stands for
    them."""
    for _ in range(0, rows, CHUNK):
        await guest.recv(Gradients)
