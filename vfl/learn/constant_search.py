"""The constant of least loss, which scores start with: where the loss has no slope."""


class ConstantSearch:
    """The search for the constant at which a convex loss has no slope, in an interval that holds it."""

    def __init__(self, at: float, low: float, high: float) -> None:
        self._low, self._high = low, high
        self.at = min(max(at, low), high)
        """Where slope and curvature are wanted next; at the end the constant."""
        self.ended = not low < high

    def step(self, slope: float, curvature: float) -> None:
        """Newton's step, halving the interval where it would leave it."""
        at, low, high = self.at, self._low, self._high
        low, high = (low, at) if slope > 0 else (at, high)
        step = at - slope / curvature if curvature > 0 else low
        self.at = step if low < step < high else low + (high - low) / 2
        self._low, self._high = low, high
        self.ended = abs(self.at - at) <= 1e-12 * max(1.0, abs(self.at)) or not low < high
