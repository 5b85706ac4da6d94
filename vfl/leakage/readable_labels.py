"""How many labels a host that cheats could read of a linear model; residuals.py says how."""

from vfl.learn.params import GlmParams
from vfl.protocols.linear import lattice_products, products


def labels_readable(rows: int, columns: int, iterations: int, params: GlmParams) -> int:
    """The most labels of so many rows that a host with so many columns reads in a job, if it cheats.

    As many as there are bits in what is opened for it, a gradient an iteration and one at the start, in
    each of the job's fits, which have about as many iterations as the last. A
    coordinator opens whole plaintexts, as many as a host begins with, so that it bounds nothing.
    """
    if params.coordinator is not None:
        return rows
    if params.encryption == "lattice":
        most = lattice_products.most_labels(columns, rows)
    else:
        most = products.most_labels(columns, rows)
    readable = min(rows, most * (iterations + 1) * params.fits)
    return readable if params.max_labels is None else min(readable, int(params.max_labels * rows))
