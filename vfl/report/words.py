"""What a report says: numbers, names and sentences as a person reads them."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from vfl.arrays import Floats
from vfl.leakage.disclosure import AUC, Basis, Disclosure, Kind
from vfl.learn.bootstrap import LEAST, SEED, Estimate, Resamples
from vfl.learn.design import MISSING
from vfl.learn.metrics import OTHER
from vfl.report.evidence import Evidence
from vfl.text import OrderKey, counted, level_order

DASH = "–"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

METRICS: Mapping[str, tuple[str, str]] = {  # of the models' documents: name, what it says
    "auc": ("AUC", "1 parts the classes without error, 0.5 is chance"),
    "gini": ("Gini", "1 orders as well as can be, 0 is chance"),
    "ks": ("KS", "greatest distance between both classes' distributions"),
    "auc_ovr": ("AUC, each class", "mean over classes, each against the rest; 0.5 is chance"),
    "accuracy": ("accuracy", "share of rows whose class is the likeliest"),
    "log_loss": ("log loss", "lower is better"),
    "brier": ("Brier score", "mean squared error of probabilities; lower is better"),
    "deviance": ("deviance", "mean unit deviance; lower is better"),
    "pinball_loss": ("pinball loss", "mean; lower is better"),
    "d2": ("D²", "share of the deviance explained"),
    "coverage": ("coverage", "share of labels not above the prediction"),
    "mae": ("mean absolute error", "lower is better"),
    "actual_expected": ("actual / expected", "1 where the total is right"),
    "calibration_slope": ("calibration slope", "below 1 where predictions are too extreme"),
    "calibration_intercept": ("calibration intercept", "0 where the total is right"),
}
OPERATIONS: Mapping[str, str] = {  # on ciphertexts, as the workers count them
    "encrypt": "encrypted",
    "encrypt, obfuscator ready": "encrypted, randomness made ahead",
    "decrypt": "decrypted",
    "add": "added",
    "multiply": "multiplied by a number",
    "pack": "packed",
    "rerandomise": "randomised anew",
    "conceal": "masked",
}


DISCLOSURES: Mapping[Kind, str] = {
    "told": "What parties were told outright",
    "worked_out": "What a party that kept to the protocol could work out",
    "cheating": "What it would take a party that cheats, or two that work together, to learn",
}
BASES: Mapping[Basis, str] = {
    "told": "The protocol says so",
    "bound": "This is the most that the protocol allows",
    "curve": "The figure is of attacks on other tables",
    "measured": "The figure is of attacks on such tables",
    "unknown": "There is no figure",
}
DISCLAIMERS = (
    "Figures by attacks are of the best ones that are known to us, on tables of five columns where the "
    "truth is at hand: a better attack may be found, and other tables differ. They say what could be "
    "worked out, not that anybody did.",
    "What makes it less does so in the next run: vfl leakage says the same before a job.",
)


@dataclass(frozen=True)
class RateWords:
    """What a model predicts, in words."""

    modelled: str  # The probability of "claim"
    name: str  # rate of claim
    percent: bool  # whether rates are shares
    total: str  # what sums of the label are
    size: str  # what groups of rows are measured in: policies, exposure
    predicted: str = ""  # what a prediction is, where it is no such rate

    @classmethod
    def of(cls, evidence: Evidence) -> "RateWords":
        label, size = evidence.label or "the label", _size(evidence)
        if evidence.objective in ("binary", "logistic"):
            return cls(f"The probability of {label}", f"rate of {label}", True, label, size)
        if evidence.objective in ("poisson", "negative_binomial"):
            return cls(f"The frequency of {label}", f"frequency of {label}", False, label, size)
        if evidence.objective == "multiclass":
            return cls(f"The class of {label}", f"share of {label}", True, label, size)
        if (quantile := evidence.loss.quantile) is not None:
            which = f"The {quantile:g} quantile of {label}"
            return cls(which, f"mean {label}", False, label, size, which[4:])
        return cls(f"The mean of {label}", f"mean {label}", False, label, size)


def how_held_out(evidence: Evidence) -> list[str]:
    """By which columns of the guest rows were held out, in sentences; none where they were drawn."""
    said = []
    if (time := evidence.split.get("time")) is not None:
        ways = {"held out": "are held out", "validation": "decide when to stop", "train": "train"}
        spans = [f"{_span(time.words[part])} {way}" for part, way in ways.items() if part in time.words]
        said.append(f"By time: rows whose {time.column} is {'; '.join(spans)}.")
    if (group := evidence.split.get("group")) is not None:
        number, trained = group.values.get("held out", 0), group.values.get("train", 0)
        names = group.words.get("held out")
        which = f" ({listed(names)})" if names else ""
        said.append(
            f"By group: the held-out rows are those of {number:,} of the values of {group.column}"
            f"{which}, and none of these is among the {trained:,} that train."
        )
    if left_out := evidence.rows.get("left out"):
        said.append(
            f"{counted(left_out, 'row')} of held-out groups at times that train, or the other way "
            "round, are left out."
        )
    return said


def _span(ends: Sequence[str]) -> str:
    return " to ".join(dict.fromkeys(ends))


def _size(evidence: Evidence) -> str:
    held = evidence.held_out
    if held is not None and held.years is not None:
        return "exposure"
    if held is not None and (held.weight != 1).any():
        return "weight"
    # A row of gamma is a claim, one of squared or gaussian anything.
    one_each = ("binary", "logistic", "poisson", "negative_binomial", "tweedie")
    return "policies" if evidence.objective in one_each else "rows"


def most_learnt(one: Disclosure) -> str:
    """The most that a party could work out, in a sentence."""
    much = share(one.success, 0)
    names = one.who.split(", ")
    who = f"{listed(names)} could each" if len(names) > 1 else f"{names[0]} could"
    if one.measure.startswith(AUC):
        rows = "a row with a claim, or with a label above the middle, from one without"
        if "of a class" in one.what:
            rows = "a row of the class that is told best from one of another"
        return f"{who} tell {rows} in {much} of cases (guessing: {share(one.guessing, 0)})."
    return f"{who} know of {listed(one.about.split(', '))} {one.what}: {much} {one.measure}."


def model_words(evidence: Evidence) -> str:
    """The kind of model."""
    return f"{evidence.kind.title}, {evidence.objective}"


def listed(names: Sequence[str]) -> str:
    """'a, b and c'."""
    *first, last = names or ("nobody",)
    return f"{', '.join(first)} and {last}" if first else last


def number(value: float | None, digits: int = 3) -> str:
    """A number in `digits` significant digits, thousands parted; a dash for none."""
    if value is None or not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size >= digits or size < -4:
        text = f"{value:,.0f}" if 0 < size < 15 else _power(value, digits)
    else:
        text = f"{value:,.{digits - 1 - size}f}"
    return text.replace("-", "−")


def _power(value: float, digits: int) -> str:
    """2.07 × 10⁻⁵."""
    factor, _, power = f"{value:.{digits - 1}e}".partition("e")
    return f"{factor}\u00a0×\u00a010{str(int(power)).translate(_SUPERSCRIPT)}"


def relativity(value: float) -> str:
    """In four decimals; in six near 1, as of numbers in small units."""
    return fixed(value, 4 if value == 1 or abs(value - 1) >= 0.001 else 6)


def fixed(value: float | None, decimals: int = 3) -> str:
    """A number in so many decimals; a dash for none."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:,.{decimals}f}".replace("-", "−")


def signed(value: float, decimals: int = 3) -> str:
    """A difference with its sign."""
    text = fixed(value, decimals)
    return text if text.startswith(("−", DASH)) else f"+{text}"


def share(value: float | None, decimals: int = 1) -> str:
    """0.123 as 12.3 %."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{100 * value:.{decimals}f}\u00a0%".replace("-", "−")


def shares(parts: Sequence[float], decimals: int = 0) -> list[str]:
    """Parts of their sum in per cent, rounded so that they add up to 100: by the largest remainder."""
    total, units = math.fsum(parts), 100 * 10**decimals
    if not total > 0:
        return [share(0, decimals)] * len(parts)
    exact = [part / total * units for part in parts]
    whole = [math.floor(one) for one in exact]
    by_rest = sorted(range(len(parts)), key=lambda place: (whole[place] - exact[place], place))
    for place in by_rest[: units - sum(whole)]:
        whole[place] += 1
    return [share(one / units, decimals) for one in whole]


def level_key(level: str) -> tuple[int, OrderKey]:
    """Levels in their own order, those of many names and missing ones last."""
    return (1, ()) if level == OTHER else (2, ()) if level == MISSING else (0, level_order(level))


def interval(one: Estimate, said: Callable[[float], str]) -> str:
    """'0.91 to 1.12'; a dash where it is not known."""
    return f"{said(one.low)} to {said(one.high)}" if one.known else DASH


def estimated(one: Estimate, said: Callable[[float], str]) -> str:
    """'1.01 (0.91 to 1.12)', or the figure alone."""
    return f"{said(one.value)} ({interval(one, said)})" if one.known else said(one.value)


def with_interval(one: Estimate, said: Callable[[float], str]) -> tuple[str, str]:
    """A figure and its interval, as a cell of a table."""
    return said(one.value), interval(one, said)


def how_sure(resamples: Resamples, known: bool) -> str:
    """What intervals are, in a sentence."""
    what = counted(resamples.policies, "policy", "policies") if known else "rows, one by one"
    return (
        f"Intervals are of 95 %: the middle of what {resamples.draws} draws of the {what}, with "
        f"replacement, come to (seed {SEED}). Rates of groups in which fewer than {LEAST} had anything "
        "happen have none."
    )


def alike(values: Sequence[float], digits: int = 3) -> list[str]:
    """Numbers of a table's column: in as many decimals as so many digits of the largest take."""
    most = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    decimals = min(max(digits - 1 - math.floor(math.log10(most)), 0), 9) if most > 0 else 0
    return [fixed(value, decimals) for value in values]


def rates(values: Sequence[float], percent: bool) -> list[str]:
    """Rates of a table's column."""
    return [share(value, 2) for value in values] if percent else alike(values, 4)


def times(value: float) -> str:
    """'2.3 times'."""
    return f"{fixed(value, 1)} times"


def volume(size: int) -> str:
    """Bytes as GB, MB, kB or bytes."""
    if size >= 1e9:
        return f"{size / 1e9:,.2f}\u00a0GB"
    if size >= 1e5:
        return f"{size / 1e6:,.1f}\u00a0MB"
    if size >= 1e3:
        return f"{size / 1e3:,.1f}\u00a0kB"
    return f"{size}\u00a0B"


def duration(seconds: float) -> str:
    """'8.0 s', '2 min 10 s' or '1 h 5 min'."""
    if seconds < 99.5:
        return f"{seconds:,.1f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def day(iso: str) -> str:
    """'23 November 2026, 02:03 UTC'."""
    when = datetime.fromisoformat(iso)
    return f"{when.day} {when:%B %Y, %H:%M} UTC"


def job_file(job: Mapping[str, Mapping[str, object]]) -> str:
    """The job as TOML with every default written out."""
    return "\n\n".join(part for section, settings in job.items() for part in _tables(section, settings))


def _tables(name: str, settings: Mapping[str, object]) -> Iterator[str]:
    """A table and those within it."""
    within = {key: value for key, value in settings.items() if isinstance(value, Mapping)}
    own = {key: value for key, value in settings.items() if key not in within and value is not None}
    if own or not within:
        yield "\n".join([f"[{name}]", *(f"{_key(key)} = {_toml(value)}" for key, value in own.items())])
    for key, value in within.items():
        yield from _tables(f"{name}.{_key(key)}", value)


def _key(name: str) -> str:
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, Iterable):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return str(value)


def phase(name: str, hosts: Sequence[str]) -> str:
    """A phase of training in words."""
    if name in hosts:
        return f"{name} computes"
    for host in hosts:
        if name == f"{host} and transfer":
            return f"waiting for {host}"
    return name


def equal(size: str) -> str:
    """'equal exposure' or 'equally many policies'."""
    return f"equal {size}" if size in ("exposure", "weight") else f"equally many {size}"


def tenth(part: float) -> str:
    """The part of all that a top group holds: 'tenth', or in per cent where ties move it."""
    return "tenth" if 0.08 <= part <= 0.12 else share(part, 0)


def rises(name: str, ours: float, theirs: float, alone: str, difference: Estimate) -> str:
    """Both values of a measure of which more is better, and which is greater, if that is known."""
    if not (math.isfinite(ours) and math.isfinite(theirs)):
        return f"{name} cannot be told on these rows."
    both = f"from {fixed(theirs)} ({alone}) to {fixed(ours)} (federation)"
    if not difference.known:
        return f"{name} goes {both}; how sure that is, too little happened to tell."
    how = f"by {estimated(difference, signed)}"
    if difference.has(0):
        return f"{name} goes {both}, {how}: 0 is in the interval, so that it may be chance."
    return f"{name} {'rises' if difference.value > 0 else 'falls'} {both}, {how}."


def normal_quantiles(places: Floats) -> Floats:
    """The quantiles of the standard normal distribution."""
    from scipy.special import ndtri

    return np.asarray(ndtri(places))
