"""What a party's own process takes for ids that workers of a cluster work on, beside doing it itself.

    python benchmarks/cluster_ids.py --workers 2 --turns 2

A host's part of an alignment, step by step: ids evaluated by `ecdh`, ids hashed and a bucket looked up,
hashed and stored by `vole`. Figures are processor microseconds of this process for an id, of the last
turn; workers are processes of this machine, over TLS.
"""

import argparse
import asyncio
import contextlib
import json
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import numpy as np
from parties import show

from vfl.blocks.cluster import Cluster
from vfl.blocks.engine import ENGINE, Embedded, Engine
from vfl.blocks.local_cluster import local_cluster
from vfl.blocks.scheduler import Connection
from vfl.blocks.texts import Packed
from vfl.crypto import group, okvs
from vfl.crypto.digests import digests
from vfl.protocols.align import buckets, dh_oprf
from vfl.protocols.align.oprf import each_chunk, parts

IDS = 200_000
OF_A_BUCKET = 62_500
KEY = bytes(32)
SEED = b"seed"

Work = Callable[..., object]
Chunks = Sequence[tuple[object, ...]]


def main() -> None:
    """Do each step by both and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    of_steps = dict[str, dict[str, float]]()
    with (
        tempfile.TemporaryDirectory() as folder,
        local_cluster(options.workers, 1 << 30, Path(folder)) as access,
        contextlib.closing(Connection(access)) as connection,
    ):
        engines: dict[str, Engine] = {"itself": Embedded(), "workers": Cluster(connection)}
        for title, (work, chunks, count) in steps().items():
            for _ in range(options.turns):
                figures = {name: own_time(one, work, chunks, count) for name, one in engines.items()}
            of_steps[title] = figures
    if options.json:
        print(json.dumps(of_steps))
        return
    for title, figures in of_steps.items():
        show(title, figures)


def steps() -> dict[str, tuple[Work, Chunks, int]]:
    """Each step: what is done, of which chunks, of how many ids in all."""
    ids = Packed.of([[b"WVWZZZ1K%09d" % number for number in range(IDS)]])
    scalar = group.random_scalar()
    evaluated = [(Packed.of([ids[a:b]]), scalar, KEY) for a, b in parts(IDS, dh_oprf.CHUNK)]
    hashed = [(Packed.of([ids[a:b]]),) for a, b in parts(IDS, buckets.SLICE)]
    room = buckets.room(1_000_000, 16)
    slots = okvs.slots(room, buckets.PER_MILLE)
    table, rows, drawn = (random_rows(*shape) for shape in ((slots, 16), (OF_A_BUCKET, 32), (slots, 16)))
    of_buckets = [(table, rows, drawn.tobytes(), room)] * 4
    return {
        "ecdh: ids evaluated": (dh_oprf.evaluate_ids, evaluated, IDS),
        "vole: ids hashed": (hash_ids, hashed, IDS),
        "vole: a bucket": (serve_bucket, of_buckets, 4 * OF_A_BUCKET),
    }


def random_rows(count: int, width: int) -> np.ndarray:
    """Random bytes (count, width)."""
    return np.frombuffer(bytearray(secrets.token_bytes(count * width)), np.uint8).reshape(count, width)


def hash_ids(ids: Sequence[bytes]) -> np.ndarray:
    """As buckets.py hashes ids."""
    return digests(ids, domain=b"vfl bucket id", key=KEY)


def serve_bucket(table: np.ndarray, ids: np.ndarray, drawn: bytes, room: int) -> tuple:
    """Tags and a store of a host's ids of a bucket, as buckets.py makes them, with random bytes."""
    values = okvs.decode(table, ids[:, :16], room, SEED, buckets.PER_MILLE)
    outputs = buckets._function(ids, values, KEY)
    keys, targets = outputs[:, :16], outputs[:, 16:]
    store = okvs.encode(keys, targets, SEED, lambda size: drawn, room, buckets.PER_MILLE)
    return outputs[:, : buckets.TAG].copy(), store[:, : buckets.SHARE].copy()


def own_time(engine: Engine, work: Work, chunks: Chunks, count: int) -> float:
    """Processor microseconds of this process for an id."""

    async def given() -> AsyncIterator[tuple[int, tuple[object, ...]]]:
        for number, chunk in enumerate(chunks):
            yield number, chunk

    async def take(number: int, result: object) -> None:
        """Nothing is done with it."""

    with ENGINE.instead(engine):
        begun = time.process_time()
        asyncio.run(each_chunk(work, given(), take))
        return round((time.process_time() - begun) / count * 1e6, 2)


if __name__ == "__main__":
    main()
