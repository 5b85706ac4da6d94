"""Variance inflation across parties: each learns of its own columns, and of no other's.

The inverse of X'X over all parties' columns, an intercept among them, is the covariance that a Gaussian
model with a dispersion of 1 has of its coefficients: so guest and hosts play inference.py with a weight
of 1 for every row, and each gets the block of its own columns. What these are inflated by follows from
it and the party's own sums (vfl/learn/inflation.py). What parties learn is what inference.py tells of.
"""

from collections.abc import Callable, Sequence

import numpy as np

from vfl.arrays import Mask
from vfl.learn.inference import Inference
from vfl.learn.matrix import Matrix, Whole
from vfl.learn.params import GlmParams
from vfl.net.peer import Peer
from vfl.protocols.common.fellows import relay_keys
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.common.transcript import Transcript
from vfl.protocols.linear.inference import Curved, guest_covariance
from vfl.protocols.linear.inference_host import host_inference
from vfl.protocols.linear.start import begin_host_fit, start_hosts

PLAIN = GlmParams.model_validate({"inference": True})
"""Of columns without a model: no penalty, an intercept."""

Progress = Callable[[int, int], None]


async def guest_inflation(
    hosts: Sequence[Peer],
    train: Mask,
    matrix: Matrix,
    resources: Resources,
    progress: Progress = lambda done, of: None,
) -> Inference | None:
    """The guest's side. train: the aligned rows that count, of which `matrix` has the guest's columns.

    Returns the block of the guest's columns, the intercept first; None where there are too many columns
    or hosts. Raises PeerError when a host breaks the protocol, DataError for a host of too many columns.
    """
    columns = await start_hosts(hosts, train, int(train.sum()), 1.0)
    await relay_keys(hosts)
    rows = Curved(np.ones(matrix.rows), float(matrix.rows))
    return await guest_covariance(hosts, columns, matrix, rows, PLAIN, resources, None, progress)


async def host_inflation(
    guest: Peer,
    rows: int,
    prepare: Callable[[Mask], Whole],
    participant: Participant,
    progress: Progress = lambda done, of: None,
) -> Inference | None:
    """A host's side, of so many aligned rows; `prepare` as of `begin_host_fit`, which says what may be
    raised.

    Returns the block of the host's own columns; None where the guest infers nothing.
    """
    begun = await begin_host_fit(guest, rows, prepare, PLAIN, participant, Transcript())
    return await host_inference(guest, begun, PLAIN, participant, True, progress)
