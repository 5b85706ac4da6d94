"""What each partner's data is worth, in words, of the figures that all parties have of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from vfl.learn.bootstrap import Estimate
from vfl.learn.worth import Measure, Sense, WorthLine
from vfl.protocols.worth import WorthFigure, WorthFigures, in_order
from vfl.report import words
from vfl.report.words import fixed, listed, share, signed
from vfl.text import counted

WORTH_PAGE, WORTH_SHEET = "worth.html", "worth.csv"
NAMES: dict[Measure, tuple[str, str]] = {
    "d2": ("D²", "share of the deviance explained"),
    "gini": words.METRICS["gini"],
    "loss_ratio": (
        "loss ratio at half the volume",
        "of the half of the present premium that is best by the model, by that of all; lower is better",
    ),
}
_RISES: dict[Measure, bool] = {"d2": True, "gini": True, "loss_ratio": False}


@dataclass(frozen=True)
class WorthOf:
    """Whose page it is, and what it is of. `ended`: ISO 8601, UTC."""

    party: str
    guest: str
    hosts: Sequence[str]
    job: str
    purpose: str
    kind: str  # of model, in words
    ended: str
    version: str  # of vfl
    told: WorthFigures
    sheet: str = WORTH_SHEET  # the file with the figures beside the page

    def name(self, one: WorthFigure) -> str:
        """Whose columns a model has, or what is added."""
        hosts = tuple(self.hosts[place] for place in one.hosts)
        return WorthLine(one.sense, hosts).name(self.guest)

    @property
    def lines(self) -> list[tuple[str, str, str, float, float | None, float | None]]:
        """All figures under WORTH_HEADS."""
        return [
            (one.sense, self.name(one), one.measure, one.value, one.low, one.high)
            for one in in_order(self.told.figures)
        ]

    @property
    def measures(self) -> list[Measure]:
        """Those that any model has."""
        there = {one.measure for one in self.told.figures}
        return [name for name in NAMES if name in there]

    @property
    def verdicts(self) -> list[str]:
        """What each host adds, and what of it may be chance, in sentences."""
        beside: list[tuple[Sense, str]] = [("added", f"{self.guest} alone")]
        if len(self.hosts) > 1:
            beside.append(("left_out", "all the others"))
        said = []
        for place, host in enumerate(self.hosts):
            parts = []
            for sense, whom in beside:
                found = [
                    _said(one)
                    for one in in_order(self.told.figures)
                    if (one.sense, one.hosts) == (sense, [place])
                ]
                if found:
                    parts.append(f"to {whom}, {listed(found)}")
            said.append(f"{host} adds {'; '.join(parts)}." if parts else f"{host}: there is no figure.")
        return said


def figure_words(one: WorthFigure) -> tuple[str, str]:
    """A figure and its interval, differences with their sign."""
    return words.with_interval(_estimate(one), fixed if one.sense == "model" else signed)


def match_words(told: WorthFigures) -> str:
    """How many rows match."""
    return f"{told.aligned:,} of {counted(told.table, 'row')} ({share(match_rate(told))})"


def match_rate(told: WorthFigures) -> float:
    """The share of the guest's rows that all hosts know."""
    return told.aligned / max(1, told.table)


def _estimate(one: WorthFigure) -> Estimate:
    if one.low is None or one.high is None:
        return Estimate(one.value)
    return Estimate(one.value, one.low, one.high)


def _said(one: WorthFigure) -> str:
    """A difference, and what there is to doubt of it."""
    value = _estimate(one)
    note = "too little happened to tell how sure that is"
    if value.known:
        note = words.interval(value, signed)
        if value.has(0):
            note += ": may be chance"
        elif (value.value > 0) != _RISES[one.measure]:
            note += ": worse"
    return f"{NAMES[one.measure][0]} {signed(value.value)} ({note})"
