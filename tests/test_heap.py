"""Blocks of some MB that come and go are not mapped anew each time."""

import os
import subprocess
import sys

import pytest

TEXT = """
import resource, sys
from vfl.blocks.heap import keep_freed

if "kept" in sys.argv:
    keep_freed()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def blocks():
    return [bytearray(12 << 20) for _ in range(3)]
blocks()
before = faults()
for _ in range(20):
    blocks()
print(faults() - before)
"""


def faults(*arguments: str, **told: str) -> int:
    """Pages that 60 blocks of 12 MB have mapped."""
    environment = {name: value for name, value in os.environ.items() if "MALLOC" not in name} | told
    run = subprocess.run(
        [sys.executable, "-c", TEXT, *arguments], env=environment, capture_output=True, text=True
    )
    assert not run.stderr
    return int(run.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's settings")
def test_freed_blocks_are_taken_again() -> None:
    mapped = faults()
    assert faults("kept") < mapped / 10
    assert faults("kept", MALLOC_TRIM_THRESHOLD_="131072") > mapped / 2  # who has set it is left alone
