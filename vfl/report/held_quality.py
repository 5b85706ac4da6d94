"""What every section on the quality of a model begins with: the rows that were held out."""

from functools import cached_property

from vfl.learn.bootstrap import Resamples
from vfl.report.evidence import HeldOut
from vfl.report.sections import Page


class HeldOutQuality:
    """How good the model is, and that of the guest alone; `names` are both, in this order."""

    def __init__(self, page: Page, names: tuple[str, str]) -> None:
        self.page, self.names, self.evidence = page, names, page.evidence

    @property
    def held(self) -> HeldOut:
        """Raises ValueError where no row was held out."""
        if self.evidence.held_out is None:
            raise ValueError("no row was held out")
        return self.evidence.held_out

    @cached_property
    def resamples(self) -> Resamples:
        """Draws of the policies that these rows are of."""
        return Resamples(len(self.held.label), self.evidence.beside.policy)
