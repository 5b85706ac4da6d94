"""What an attack comes to, beside what guessing comes to."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Success:
    """How often an attack is right, and how often somebody who was shown nothing is.

    Both are shares of the same things, named by `unit`. Who guesses knows how frequent each answer
    is and gives the most frequent one; where the unit is a rank (AUC) guessing is a half.
    """

    attack: str
    who: str  # the party that thinks
    about: str  # the party whose values they are
    success: float
    guessing: float
    unit: str

    @property
    def advantage(self) -> float:
        """The part of what guessing misses that the attack gets: 0 is no better, 1 is all. Below 0 the
        attacker would have guessed better."""
        if self.guessing >= 1:
            return 0.0
        return (self.success - self.guessing) / (1 - self.guessing)
