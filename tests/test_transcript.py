"""Who sends what, in which order and how large, in one fixed run and an alignment by the other engine.

A difference is a change of wire format or of what a party tells. If it is meant, rewrite the text with
`python tests/test_transcript.py` and say so in the change log. Content is not compared, since keys are
fresh; sizes leave out what changes by itself (signatures differ by a byte or two, versions grow).
"""

import tempfile
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import msgspec
import pytest
from federation import Federation, make_keys
from recording import Sent, record, record_alignment

from vfl.jobs.alignment import Plan

GOLDEN = Path(__file__).with_name("transcript.txt")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> list[Sent]:
    return both(tmp_path_factory.mktemp("transcript"), keys)


def both(folder: Path, keys: Path) -> list[Sent]:
    """Align, train and score; and align over oblivious transfer.

    Without the Stop of a host that is at its last lines when a recording ends, and so its process.
    """
    by_transfers = record_alignment(Federation(folder / "ot", keys), Plan(engine="ot"))
    sent = [
        *record(Federation(folder / "run", keys)),
        *(replace(message, job="align over ot") for message in by_transfers),
    ]
    return [message for message in sent if message.kind != "Stop"]


def size(message: Sent) -> int:
    """Bytes of the frame without signatures and the version."""
    body = msgspec.msgpack.decode(message.payload)[1]
    free = [body.get("signature", b""), *body.get("signatures", []), body.get("version", "")]
    return len(message.frame) - sum(map(len, free))


def transcript(recorded: list[Sent]) -> str:
    """For each job and each direction the messages in order, equal ones counted."""
    lines = []
    for job in ("align", "align over ot", "train", "score"):
        directions = sorted({(m.sender, m.receiver) for m in recorded if m.job == job})
        for sender, receiver in directions:
            own = [m for m in recorded if (m.job, m.sender, m.receiver) == (job, sender, receiver)]
            lines.append(f"{job}: {sender} -> {receiver}")
            for (kind, length), several in groupby(own, key=lambda m: (m.kind, size(m))):
                times = len(list(several))
                lines.append(f"    {kind} {length}" + (f" x {times}" if times > 1 else ""))
    return "\n".join(lines) + "\n"


def test_the_transcript_of_a_fixed_run(recorded: list[Sent]) -> None:
    assert transcript(recorded) == GOLDEN.read_text()


def test_frames_are_numbered_and_bound_to_their_session(recorded: list[Sent]) -> None:
    sessions: dict[tuple[str, str, str], list[bytes]] = {}
    for message in recorded:
        key = (message.job, message.sender, message.receiver)
        sessions.setdefault(key, []).append(message.frame)
    for frames in sessions.values():
        assert [int.from_bytes(f[16:24], "big") for f in frames] == list(range(len(frames)))
        assert len({f[:16] for f in frames}) == 3  # before the greeting, before the job, in it
    tags = [tag for frames in sessions.values() for tag in {f[:16] for f in frames[1:]}]
    shared = {tag for tag in tags if tags.count(tag) > 1}
    assert all(tags.count(tag) == 2 for tag in shared)  # the two directions of one session


def test_hosts_tell_whole_seconds(recorded: list[Sent]) -> None:
    bodies = [msgspec.msgpack.decode(message.payload)[1] for message in recorded]
    told = [body["seconds"] for body in bodies if "seconds" in body]
    assert told and all(type(seconds) is float and seconds % 1 == 0 for seconds in told)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        keys = make_keys(Path(folder) / "keys")
        GOLDEN.write_text(transcript(both(Path(folder), keys)))
