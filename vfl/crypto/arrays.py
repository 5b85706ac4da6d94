"""The types of arrays that cryptography is made of, and of what fills them at random."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]
Integers = NDArray[np.int64]
Entropy = Callable[[int], bytes]
"""So many random bytes."""
