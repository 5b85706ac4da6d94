"""Whether ids that a rule makes equal are spellings of one id, or different ids.

A rule is there to make spellings equal: AB-123, ab 123 and AB123 are one plate. But what it takes out
may have told ids apart: 1-23 and 12-3 both become 123. Which of the two it is follows from what was
taken out.

- Most signs may be there or not. A spelling without them is of the same id as one that has them, and
  so are two that have them in the same places, whichever signs they are. Two that have them in
  *different* places are different ids. This holds for signs between two letters or two digits (1-23
  and 12-3, B-MA and BM-A; a sign between a letter and a digit parts what is apart anyhow), for the
  letters that `digits` takes out (K12 and M12, not 12), and for the case of ids that mix both (aBc and
  abC, not abc and ABC).
- Some signs are never left out by who writes the same id again: + before or in it, marks over and under
  letters, and raised digits. Ids that differ in these are different.

Whoever writes vin, phone or date says what the values are: there no sign tells two of them apart.
nozeros says that zeros at the beginning do not count. Numbers are read before any of this
(id_cells.py): 17.0 is 17 and -5 is not 5.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from vfl.party.id_cells import names_of

_KNOWN = frozenset({"vin", "phone", "date"})
_PARTED = frozenset({"alnum", "digits", "plate"})  # take out what is between letters and digits


class TakenOut(NamedTuple):
    """What a rule takes out of a value, as far as it may tell it from others."""

    never_left_out: str = ""
    between: tuple[int, ...] = ()
    letters: str = ""
    case: str = ""


def marks(value: str, steps: Collection[str]) -> TakenOut:
    """What these steps take out of a value."""
    names = names_of(steps)
    if names & _KNOWN:
        return TakenOut()
    digits, parted = "digits" in names, bool(names & _PARTED)
    plain = unicodedata.normalize("NFKC", value) if names & {"nfkc", "plate"} else value
    kept = [(c, c.isdecimal() if digits else c.isalnum()) for c in plain]
    between, last, gap, place = [], "", False, 0
    for c, stays in kept:
        if not stays:
            gap = bool(last)
            continue
        if gap and (digits or c.isalpha() == last.isalpha()):
            between.append(place)
        last, gap, place = c, False, place + 1
    return TakenOut(
        _never_left_out(value, plain, parted),
        tuple(between) if parted else (),
        "".join(c for c in plain if c.isalpha()).casefold() if digits else "",
        _case(plain) if "upper" in names and not digits and "plate" not in names else "",
    )


def are_spellings(values: Iterable[TakenOut]) -> bool:
    """Whether values that a rule has made equal are spellings of one id."""
    never_left_out, *others = (set(of) for of in zip(*values, strict=True))
    return len(never_left_out) < 2 and all(len(of - {"", ()}) < 2 for of in others)


def are_merged(spellings: Iterable[tuple[str, ...]], rules: Sequence[Collection[str]]) -> bool:
    """Whether whole ids, by column as they are read, are different ones that the rules make equal."""
    columns = zip(*spellings, strict=True)
    return any(
        not are_spellings([marks(value, steps) for value in set(column)])
        for column, steps in zip(columns, rules, strict=True)
    )


def _never_left_out(value: str, plain: str, parted: bool) -> str:
    """+, but for that of a number; marks on letters, if they are taken out; digits that are raised."""
    kinds = ("<super", "<sub", "<fraction")
    raised = [c for c in value if unicodedata.decomposition(c).startswith(kinds) and not c.isalpha()]
    if not parted:
        return "".join(raised)
    plus = (
        "" if re.fullmatch(r"\s*\+?[\d\W_]*", plain) and plain.count("+") < 2 else "+" * plain.count("+")
    )
    on_letters = [c for c in plain if unicodedata.category(c) in ("Mn", "Mc")]
    return plus + "".join([*on_letters, *raised])


def _case(value: str) -> str:
    """Which letters are large, but for habits of writing: all, none, the first of each word."""
    letters = [c for c in value if c.lower() != c.upper()]
    if not any(map(str.isupper, letters)) or not any(map(str.islower, letters)):
        return ""
    words = "".join(c if c.isalnum() else " " for c in value).split()
    if all(word[1:] == word[1:].lower() for word in words):
        return ""
    return "".join("A" if c.isupper() else "a" for c in letters)
