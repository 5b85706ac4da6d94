"""Kernels compiled before they are needed, by small jobs of made-up parties over memory.

What is compiled goes by the types of what a kernel is given, and which kernels there are by engine and
encryption: so jobs are played as they would be between companies, with as many rows as bring in the
kernels for many.
"""

import warnings
from typing import Literal

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning

from vfl.crypto.blake2b import digest_blocks
from vfl.crypto.digests import compile_kernels
from vfl.crypto.workers import ONE_PROCESS
from vfl.estimators.linear import FederatedLogisticRegression
from vfl.estimators.trees import SecureBoost
from vfl.kernels import is_kept
from vfl.net.peer import together
from vfl.protocols.align.psi import OprfEngine, PsiSettings, guest_align, host_align
from vfl.simulate import Sessions, run

_ROWS = 70_000  # more than are counted without a kernel
_FEW = 5_000  # more than are hashed, or raised to a power, without one
_COLUMNS = 20
_OF_A_MATRIX = 300, 100  # rows and columns of a host that encrypts its matrix
_ENGINES: tuple[OprfEngine, ...] = ("ot", "vole")  # beside that of the trainings
_HOST = "host"


def compile_beforehand(rows: int = _ROWS, few: int = _FEW) -> bool:
    """Compile what alignments, trees and linear models need, of either encryption. Whether there is a
    folder in which it is kept for other processes.

    rows: of the trainings by lattice; few: ten times those by Paillier, and of further alignments.
    """
    if not is_kept(digest_blocks):
        return False
    compile_kernels()
    rng = np.random.default_rng(0)
    ids = [f"policy {number}" for number in range(rows)]
    guest, host = (
        pd.DataFrame(rng.normal(size=(rows, _COLUMNS)), ids).rename(columns=str) for _ in range(2)
    )
    label = rng.integers(0, 2, rows)
    sizes: dict[Literal["paillier", "lattice"], int] = {"lattice": rows, "paillier": few // 10}
    for encryption, count in sizes.items():
        own, theirs, labels = guest[:count], host[:count], label[:count]
        hosts = {_HOST: theirs}
        trees = SecureBoost(hosts=hosts, engine="protocol", encryption=encryption, trees=1, depth=3)
        trees.fit(own, labels).predict_proba(own)
        linear = FederatedLogisticRegression(
            hosts=hosts, engine="protocol", encryption=encryption, max_iterations=1
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            linear.fit(own, labels)
    many, wide = _OF_A_MATRIX
    hosts = {_HOST: pd.DataFrame(rng.normal(size=(many, wide)), ids[:many]).rename(columns=str)}
    trees = SecureBoost(hosts=hosts, engine="protocol", encryption="lattice", trees=1, depth=3)
    trees.fit(guest[:many], label[:many])
    for engine in _ENGINES:
        run(_align(engine, [one.encode() for one in ids[:few]]))
    return True


async def _align(engine: OprfEngine, ids: list[bytes]) -> None:
    sessions, settings = Sessions.of([_HOST], ONE_PROCESS), PsiSettings(engine=engine)
    ((_, to_guest),) = sessions.pairs
    await together(
        [
            guest_align(sessions.peers, ids, context=sessions.context, settings=settings),
            host_align(to_guest, ids, sessions.own[0], settings=settings),
        ]
    )
