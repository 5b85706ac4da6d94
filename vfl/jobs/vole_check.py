"""What an alignment by `engine = "vole"` needs of a machine and of both sides' policies, before any."""

import os
import shutil
from pathlib import Path

import numpy as np

from vfl.jobs.check_result import CheckLevel, CheckResult, Reporter
from vfl.party.config import Party

OF_ANY = 600_000_000  # bytes of memory, of the process and its chunks of buckets
OF_A_ROW = 160  # bytes of memory; measured: benchmarks/README.md
ON_DISK = 150  # bytes of the scratch folder, a row


def check_vole(party: Party, rows: int, report: Reporter) -> bool:
    """A line each on memory, disk, kernels and policies for a table of so many rows, where the party may
    align by vector OLE; whether it could."""
    if party.align.engine != "vole" if party.role == "guest" else "vole" not in party.policy.engines:
        return True

    def say(level: CheckLevel, text: str) -> None:
        report(CheckResult(level, "vole", f"vole: {text}"))

    needed, free = OF_ANY + OF_A_ROW * rows, _free_memory()
    text = f"an alignment of {rows:,} rows takes some {needed / 1e9:.1f} GB of memory"
    if free is not None and free < needed:
        say(
            "note",
            f"{text}, and {free / 1e9:.1f} GB are free: end other programs, or take a larger machine",
        )
    else:
        say("ok", text)
    on_disk, folder = ON_DISK * rows, Path(party.party.store)
    room = shutil.disk_usage(
        next(one for one in (folder, *folder.absolute().parents) if one.exists())
    ).free
    enough = on_disk <= room
    text = f"it takes some {on_disk / 1e6:,.0f} MB of the disk of {folder} while it runs"
    left = (
        "" if enough else f", which has {room / 1e6:,.0f} MB left: free some, or move store in [party]"
    )
    say("ok" if enough else "FAIL", text + left)
    fault = _fault_of_kernels()
    say("ok" if fault is None else "FAIL", "kernels are compiled and loaded" if fault is None else fault)
    if party.role == "guest":
        say("note", "it needs every host to name vole under engines in its [policy]: ask them")
    else:
        say("ok", "engines in [policy] allows it to guests that ask for it")
    return enough and fault is None


def _free_memory() -> int | None:
    """Bytes that programs can still have, None where the system does not say."""
    told = Path("/proc/meminfo")
    if told.exists():
        for line in told.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _fault_of_kernels() -> str | None:
    """What is wrong with compiled kernels; None where they work, and give what they should."""
    try:
        from vfl.crypto import okvs
        from vfl.crypto.vole import code

        vectors = [np.ones((64, 16), np.uint8) for _ in range(3)]
        one, two, three = code.compress(vectors, bytes(16), np.empty(2 * 32 * 16, np.uint8))
        keys = np.arange(160, dtype=np.uint8).reshape(10, 16)
        table = okvs.encode(keys, keys, b"doctor")
        works = np.array_equal(okvs.decode(table, keys, 10, b"doctor"), keys)
    except (ImportError, OSError, RuntimeError) as error:
        return f"kernels cannot be compiled ({type(error).__name__}: {error}): install numba anew"
    if not works or not np.array_equal(one, two) or not np.array_equal(one, three):
        return (
            "kernels compute wrong values on this machine: install numba anew, and take another engine"
        )
    return None
