"""Text that comes from a table, a file or a peer, as people may read it: one line, no surprises.

A column may be called anything: control characters move a terminal's cursor, marks of direction turn the
line around, characters without width make two names look alike. Whatever is shown to a person passes
through `shown`; what programs read (JSON, CSV) holds the text as it is.
"""

import difflib
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

MOST = 200
"""Characters of a name that a terminal or a page shows; longer ones are cut."""

_ALIKE = 0.6  # how alike two names are, from 0 to 1, of which one may be meant by the other

_MARKS = 6  # combining marks on one character; more grow over the lines above and below

# Not seen, though Python calls them printable: fillers, the blank of Braille, selectors of variants.
_UNSEEN = frozenset(
    [*"\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"]
    + [chr(code) for code in range(0xFE00, 0xFE0E)]
    + [chr(code) for code in range(0xE0100, 0xE01F0)]
)
_SELECTORS = "\ufe0e\ufe0f"  # seen after a symbol: they choose its black or its coloured form


def shown(text: str, most: int | None = None) -> str:
    """The text as one line that a terminal or a page can take, with escapes such as \\x1b in place of
    what cannot be seen. No more than `most` characters, if that is given."""
    if not (text.isascii() and text.isprintable()):
        text = "".join(_seen(text))
    return text if most is None or len(text) <= most else f"{text[: most - 1]}…"


def shown_in(text: str, encoding: str) -> str:
    """The same text where an encoding has all of it, else with escapes in place of what it lacks."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    return text


def counted(count: int, one: str, many: str | None = None) -> str:
    """'1 row', '2,000 rows'; `many` is the plural where it does not end in s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


NOT_SET = "not set"
"""What stands where a setting has no value: of a rule on the only guests `none` would be misread."""


def shown_value(value: object) -> str:
    """A setting's value where people read it beside counts: 1,000,000; "unlimited"; not set."""
    if value is None:
        return NOT_SET
    whole = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if whole else json.dumps(value, ensure_ascii=False)


_WAITING = "waiting for "  # how steps begin of which the seconds are told that have passed


def waits(step: str) -> bool:
    """Whether a step of a job is to wait for somebody: how far it is are seconds."""
    return step.startswith(_WAITING)


def how_far(step: str, done: int, of: int | None) -> str:
    """How much of a step is done: '3 of 20', '12 so far', of one that waits '31 s of 3,600 s'."""
    unit = " s" if waits(step) else ""
    return f"{done:,}{unit} so far" if of is None else f"{done:,}{unit} of {of:,}{unit}"


def in_words(names: Sequence[str]) -> str:
    """Names in a sentence: 'a, b and c'."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def either(names: Sequence[str]) -> str:
    """Names of which one is meant: 'a, b or c'."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def _seen(text: str) -> list[str]:
    found: list[str] = []
    before, marks = "", 0  # the category of what is before, and how many marks are on it
    for character in text:
        category = unicodedata.category(character)
        plain = character.isprintable() and character not in _UNSEEN
        if character in _SELECTORS:
            plain = before == "So"
        elif category in ("Mn", "Me"):
            marks += 1
            plain = plain and before not in ("", "escape") and marks <= _MARKS
        else:
            marks = 0
        found.append(character if plain else escape(character))
        if category not in ("Mn", "Me"):
            before = category if plain else "escape"
    return found


def escape(character: str) -> str:
    """A character in the letters of a program: \\n, \\x1b, \\u202e."""
    named = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}.get(character)
    code = ord(character)
    if named is not None:
        return named
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


# --- The order of levels. ---------------------------------------------------------------------------

_NUMBER = r"[-+−]?(?:\d{1,3}(?:[,'\u2009\u00a0]\d{3})+(?:\.\d+)?|\d+(?:[.,]\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
_BELOW = r"<=?|≤|up to|under|below|less than|at most|to|bis|unter"
_ABOVE = r">=?|≥|over|above|from|more than|at least|ab|über"
_AND_UP = r"\+|and over|and above|and more|or more|und mehr"
_UNIT = r"(?:\s*[^\d\s+][^\d]*)?"
_BAND = re.compile(
    rf"\s*(?:(?P<below>{_BELOW})|(?P<above>{_ABOVE}))?\s*[\[(]?\s*[€$£]?\s*(?P<low>{_NUMBER})"
    rf"(?:{_UNIT}?\s*(?:to|bis|-|–|—|\.\.+|,|;)\s*(?:<\s*)?[€$£]?\s*(?P<high>{_NUMBER})\s*[\])]?|"
    rf"\s*(?P<up>{_AND_UP}))?{_UNIT}\s*",
    re.IGNORECASE,
)

_LONGEST_BAND = 60  # characters; the expression takes its time on long ones

OrderKey = tuple[Any, ...]


def level_order(level: str) -> OrderKey:
    """What to sort levels by: numbers and bands by their bounds, then others in natural order.

    '<= 31', '31 to 38', '> 38'; '18-25', '65+'; 'type 2' before 'type 10'; capitals and accents do not
    matter.
    """
    band = _BAND.fullmatch(level) if len(level) <= _LONGEST_BAND else None
    if band is not None:
        low = _number(band["low"])
        high = _number(band["high"]) if band["high"] else low
        if band["below"]:
            low = -math.inf
        elif band["above"] or band["up"]:
            high = math.inf
        return 0, low, high, level
    letters = "".join(c for c in unicodedata.normalize("NFKD", level) if not unicodedata.combining(c))
    parts = re.split(r"(\d+)", letters.casefold())
    return 1, [_digits(part) if place % 2 else part for place, part in enumerate(parts)], level


def _digits(text: str) -> tuple[int, str]:
    """Orders whole numbers of any length."""
    digits = text.lstrip("0")
    return len(digits), digits


def _number(text: str) -> float:
    plain = text.replace("−", "-")
    if re.fullmatch(r"[-+]?\d+,\d+", plain) and not re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+", plain):
        plain = plain.replace(",", ".")  # a decimal comma
    return float(re.sub(r"[,'\u2009\u00a0]", "", plain))


# --- Names that were misspelt. ----------------------------------------------------------------------


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was most likely meant to be, if any comes near."""
    names = {k.casefold(): k for k in known}
    near = difflib.get_close_matches(name.casefold(), names, cutoff=_ALIKE)
    # Of several, one of the same letters: two that changed places are a slip of the fingers.
    near.sort(key=lambda one: sorted(one) != sorted(name.casefold()))
    return names[near[0]] if near else None


def nearest_file(name: str, there: Iterable[str]) -> str | None:
    """The file that was most likely meant by `name`, if one comes near, whatever its ending."""

    def alike(one: str, other: str) -> float:
        return difflib.SequenceMatcher(None, one.casefold(), other.casefold()).ratio()

    def stem(file: str) -> str:
        return file.partition(".")[0]

    found = [(alike(stem(name), stem(one)), alike(name, one), one) for one in there]
    nearest = max(found, default=(0.0, 0.0, ""))
    return nearest[2] if nearest[0] >= _ALIKE else None
