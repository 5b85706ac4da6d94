"""States of a training as bytes."""

import tracemalloc
from pathlib import Path

import msgspec
import numpy as np
from traced import traced

from vfl.jobs.states import EncodedState
from vfl.party.store import Store


def test_bytes_of_a_state(tmp_path: Path) -> None:
    """They are those of the whole in one piece, and no large array in them is held twice."""
    rows, store = np.random.default_rng(0).normal(size=1 << 20), Store(tmp_path / "vfl-store")
    small, turned = np.arange(6).reshape(2, 3), rows[: 1 << 16].reshape(1 << 8, -1).T
    record = {"a": [rows, small, None], "b": rows.astype(np.float32), "c": turned, "d": "e", "f": rows}

    def whole(value: object) -> object:
        assert isinstance(value, np.ndarray)
        return {"type": value.dtype.str, "shape": value.shape, "data": value.tobytes()}

    expected = msgspec.msgpack.encode(record, enc_hook=whole)
    encoded = EncodedState(record)
    assert encoded.size == len(expected)
    assert b"".join(encoded.pieces()) == expected == b"".join(encoded.pieces())
    in_one = store.write_array("checkpoint", "a", np.frombuffer(expected, np.uint8))
    written = (store.folder("checkpoint") / in_one["file"]).read_bytes()
    with traced():
        encoded = EncodedState(record)
        ref = store.write_bytes("checkpoint", "a", encoded.size, encoded.pieces)
        assert tracemalloc.get_traced_memory()[1] < rows.nbytes
    assert ref == in_one
    assert (store.folder("checkpoint") / ref["file"]).read_bytes() == written
    assert store.read_array("checkpoint", ref).tobytes() == expected
