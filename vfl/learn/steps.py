"""Bands that are fitted by their steps: the fused lasso.

The bands of a column have an order. In place of each band's coefficient b_k, against the base level's
0, its step is fitted, the difference from its neighbour on the side of the base. A penalty on the
magnitudes of steps, the sum of |b_k+1 - b_k|, makes some of them zero: neighbours whose coefficients are
then the very same number. It is the same whichever band is the base, and steps are not scaled. The
columns of the matrix stay those of levels: what is told of them is summed up by its owner.

A missing value has no neighbour: it is a level against the base, as without steps.

Source: Tibshirani et al., Sparsity and smoothness via the fused lasso, JRSS B 67, 2005.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vfl.arrays import Floats, Mask


@dataclass(frozen=True)
class Steps:
    """Which columns are fitted by their steps: chains of places, each from the base's neighbour on."""

    chains: tuple[tuple[int, ...], ...] = ()

    def coefficients(self, steps: Floats) -> Floats:
        """The coefficients, shape (columns,), of steps and of all other columns' coefficients; those of
        neighbours whose step is zero are the same, to the last bit."""
        found = steps.copy()
        for chain in self._places:
            found[chain] = np.cumsum(steps[chain])
        return found

    def gradient(self, gradient: Floats) -> Floats:
        """The gradient by steps, shape (columns, ...), of that by coefficients."""
        found = gradient.copy()
        for chain in self._places:
            found[chain] = np.cumsum(gradient[chain][::-1], axis=0)[::-1]
        return found

    def form(self, form: Floats) -> Floats:
        """A quadratic form of coefficients as one of steps, shape (columns, columns)."""
        if not self.chains:
            return form
        return self.gradient(self.gradient(form).T).T

    def of(self, columns: int) -> Mask:
        """Whether each column is fitted by its step."""
        found = np.zeros(columns, np.bool_)
        for chain in self._places:
            found[chain] = True
        return found

    def after(self, free: int) -> "Steps":
        """The same behind so many further columns."""
        return Steps(tuple(tuple(place + free for place in chain) for chain in self.chains))

    @property
    def _places(self) -> Sequence[list[int]]:
        return [list(chain) for chain in self.chains]


NO_STEPS = Steps()


def chains_of(base: int, bands: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The chains of a factor of so many bands, of which the one in place `base` has no column; `bands`:
    the places of the others' columns, in order."""
    both = tuple(reversed(bands[:base])), tuple(bands[base:])
    return tuple(chain for chain in both if chain)


def squares_of_steps(columns: int, chains: Sequence[Sequence[int]]) -> Floats:
    """The form of the sum of squared steps of these chains, shape (columns, columns)."""
    differences = np.zeros((columns, columns))
    for chain in chains:
        for place, before in zip(chain, (None, *chain), strict=False):
            differences[place, place] = 1.0
            if before is not None:
                differences[place, before] = -1.0
    return np.asarray(differences.T @ differences)
