"""What the cells of a numeric column are that are no numbers, and which keys of [data] would read them.

No word quotes a cell."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vfl.arrays import Mask
from vfl.party.reading import Reading, Settings, settings_line
from vfl.party.sources.arrow import ArrowColumn
from vfl.party.sources.dates import looks_like_date, order_of
from vfl.party.sources.numerals import grammar

Remedy = tuple[str, str, Mapping[str, object]]

MAX_CATEGORIES = 10_000

# Spellings of a missing value, of programs and of people: of all cells these alone are ever shown.
_PLACEHOLDERS = frozenset(
    r""".;..;-;--;---;?;??;*;**;_;\n;(null);<null>;<na>;<nan>;[null];none;nil;na;n/a;nan;null;n.a.;n.a;n.v.;
k.a.;k.a;k/a;o.a.;nv;nd;n.d.;n/d;#n/a;#nv;#null!;#value!;#wert!;#div/0!;#ref!;#bezug!;#name?;#num!;#zahl!;
#valeur!;unknown;unbekannt;inconnu;desconocido;sconosciuto;onbekend;missing;leer;empty;fehlt;xx;xxx;
not available;not known;keine angabe;ohne angabe;non disponible;non renseigné""".replace("\n", "").split(
        ";"
    )
)
_YES_NO = re.compile(
    "yes|no|y|n|ja|nein|j|oui|non|o|si|sí|s|nee|t|f|wahr|falsch|vrai|faux|vero|falso|on|off", re.I
)
_DIGITS = r"[0-9]+(?:[.,'’ \u00a0\u202f\u2009\u2007][0-9]+)*(?:[eE][+-]?[0-9]+)?"
_SIGNED = rf"[+-]?\s?(?:{_DIGITS}|[.,][0-9]+)"
_MONEY = (
    r"(?:US\$|\$|€|£|¥|₹|₽|₺|EUR|Euro|USD|GBP|CHF|Fr\.|SFr\.|PLN|zł|CZK|Kč|DKK|SEK|NOK|kr\.?|HUF|Ft|RON|JPY|"
    r"CNY|AUD|CAD|INR|Rs\.?)"
)
_UNIT = (
    r"(?:kW|PS|HP|bhp|CV|ccm|cm[³3]?|km(?:/h)?|mi|miles|m[²2]?|mm|kg|g|t|l|h|min|s|d|Tage|days|jours|Wochen|weeks|"
    r"Monate|months|mois|Jahre|years|yrs?|ans|J\.|Stück|Stk\.?|pcs\.?)"
)
_ONLY_DIGITS = re.compile(r"[\s.,'’+-]*[0-9][0-9\s.,'’+-]*")
_NO_DAY = re.compile(r"0{2,4}[-/.]?0{2}[-/.]?0{2,4}([T ]0{2}:0{2}(:0{2})?)?")
_SAMPLE = 2_000


@dataclass
class Misfit:
    """Cells of one kind that are no numbers: what they are, what to do, in which rows."""

    hint: str
    advice: str
    rows: Mask
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class _Misread:
    """The column that the cells are of.

    signed: distinct cells that are numbers with a sign in them. others: cells that are no text.
    """

    name: str
    reading: Reading
    advice: str
    feature: bool
    text: ArrowColumn
    signed: Sequence[str]
    others: int


def misfits(
    text: ArrowColumn,
    bad: Mask,
    name: str,
    reading: Reading,
    advice: str,
    *,
    feature: bool,
    others: int = 0,
) -> list[Misfit]:
    """The cells of a column that `numerals.parse` found bad, by kind, the kind with most rows first.

    text: all cells that are text, null where missing. advice: what to do about text of no known kind.
    feature: whether the column may be one of names or of dates instead. others: how many cells are
    numbers and no text.
    """
    if isinstance(text, pa.ChunkedArray):
        text = text.combine_chunks()
    good = pc.filter(text, pa.array(~bad))
    signed = pc.fill_null(pc.match_substring_regex(good, "[.,]"), False)
    signed_cells = pc.unique(pc.filter(good, signed))[:_SAMPLE].to_pylist()
    column = _Misread(
        name=name,
        reading=reading,
        advice=advice,
        feature=feature,
        text=text,
        signed=signed_cells,
        others=others,
    )
    coded = pc.filter(text, pa.array(bad)).dictionary_encode()
    cells = [cell.strip() for cell in coded.dictionary.to_pylist()]
    kinds = np.array([_kind(cell, name) for cell in cells])
    if (kinds == "text").any():  # a letter that may stand for yes is one of the names then
        kinds[kinds == "yes or no"] = "text"
    codes = coded.indices.to_numpy(zero_copy_only=False)
    places = np.flatnonzero(bad)
    found = []
    for kind in dict.fromkeys(kinds.tolist()):
        rows = np.zeros(len(bad), np.bool_)
        rows[places[(kinds == kind)[codes]]] = True
        mine = [cell for cell, own in zip(cells, kinds, strict=True) if own == kind]
        hint, todo, settings = _EXPLAIN[kind](mine, column)
        found.append(Misfit(hint, todo, rows, settings))
    return sorted(found, key=lambda misfit: -np.count_nonzero(misfit.rows))


def about_dates(text: ArrowColumn, bad: Mask, name: str, reading: Reading) -> tuple[str, Settings]:
    """What to do about cells of a column of dates that its rule does not read, and the keys for it."""
    if isinstance(text, pa.ChunkedArray):
        text = text.combine_chunks()
    cells = pc.unique(pc.filter(text, pa.array(bad)))[:_SAMPLE].to_pylist()
    cells = [cell.strip() for cell in cells]
    missing = [cell for cell in cells if cell.lower() in _PLACEHOLDERS or _NO_DAY.fullmatch(cell)]
    if len(missing) == len(cells):
        settings: Settings = {"missing": sorted({*reading.missing, *missing})}
        return f"if it stands for a missing value, {set_it(**settings)}", settings
    rule = reading.dates[name]
    if found := order_of([cell for cell in cells if cell not in missing]):
        order, _, short = found
        own = {"as": rule.becomes, "order": order, "at": rule.at, "years_from": rule.years_from}
        if short and rule.years_from is None:
            own["years_from"] = 1930
            hint = "years of two digits need the first of the hundred years that they are of, "
        else:
            hint = "the parts seem to be in another order, " if order != rule.order else ""
        settings = {"dates": {name: {key: value for key, value in own.items() if value is not None}}}
        if hint:
            return f"{hint}{set_it(**settings)}", settings
    return "correct it or write dates as 2024-12-31", {}


def set_it(**settings: object) -> str:
    """What to do in words: set decimal = "," in [data]."""
    return f"set {' and '.join(settings_line(*item) for item in settings.items())} in [data]"


def _kind(cell: str, heading: str) -> str:
    if cell == heading:
        return "heading"
    if cell.lower() in _PLACEHOLDERS or re.fullmatch(r"\.[A-Z_]", cell):  # the latter are SAS's
        return "placeholder"
    if any(form.match(cell) for form in _GRAMMARS.values()):
        return "signs"
    for kind, form in _FORMS:
        if form.fullmatch(cell):
            return kind
    if _YES_NO.fullmatch(cell):
        return "yes or no"
    if looks_like_date(cell):
        return "date"
    return "digits" if _ONLY_DIGITS.fullmatch(cell) else "text"


_GRAMMARS = {
    (decimal, thousands): re.compile(grammar(decimal, thousands))
    for thousands in (None, ".", ",", "'", " ")
    for decimal in (".", ",")
    if decimal != thousands
}
_FORMS = [
    (kind, re.compile(form))
    for kind, form in (
        ("percent", rf"{_SIGNED}\s*[%‰]|[%‰]\s*{_SIGNED}"),
        ("minus", rf"{_DIGITS}\s?-|\(\s?{_DIGITS}\s?\)|[−–﹣－]\s?{_DIGITS}"),
        ("odd", rf"[+-]{{2,}}{_DIGITS}|0[xX][0-9a-fA-F]+|[0-9]+(?:_[0-9]+)+(?:\.[0-9]+)?"),
        ("odd", r"[+-]?[0-9.]+[dD][+-]?[0-9]+|(?![0-9.,]*$)[\d.,]+"),  # Fortran's, and other scripts'
        ("money", rf"[+-]?{_MONEY}\s?{_SIGNED}|{_SIGNED}\s?(?:{_MONEY}|,-)"),
        ("time", r"\d{1,3}:\d{2}(:\d{2}([.,]\d+)?)?"),
        ("range", rf"(?:[<>≤≥]=?|ab|bis|über|unter|over|under)\s*{_DIGITS}|{_DIGITS}\s*\+"),
        ("range", rf"{_DIGITS}\s*(?:-|–|bis|to|à)\s*{_DIGITS}"),
        ("unit", rf"{_SIGNED}\s*{_UNIT}"),
    )
]


def _heading(cells: Sequence[str], column: _Misread) -> Remedy:
    return "", "the headings come again, remove such rows", {}


def _placeholder(cells: Sequence[str], column: _Misread) -> Remedy:
    settings = {"missing": sorted({*column.reading.missing, *cells})}
    return (
        "",
        f"if it stands for a missing value, {set_it(**settings)} or leave such cells empty",
        settings,
    )


def _signs(cells: Sequence[str], column: _Misread) -> Remedy:
    """Which decimal sign and which one between thousands would read the cells."""
    own = column.reading
    fits = [signs for signs in _GRAMMARS if _all_fit(cells, signs)]
    if own.decimal == ",":  # what is set stays
        fits = [signs for signs in fits if signs[0] == ","]
    if own.thousands is not None:
        fits = [signs for signs in fits if signs[1] == own.thousands]
    if not fits:
        return "", "write all numbers of the table with the same signs", {}
    wanted = [signs for signs in fits if _all_fit(column.signed, signs)]
    if not wanted:
        return "", "other numbers have another decimal sign, write all of the table with the same", {}
    if own.decimal == "." and (",", None) in wanted and (".", ",") in wanted:
        either = f"{set_it(decimal=',')} or {settings_line('thousands', ',')}, whichever is meant"
        return "a comma is the decimal sign or stands between thousands", either, {}
    decimal, thousands = next((fit for fit in wanted if fit[0] == own.decimal), wanted[0])
    settings: Settings = {} if thousands == own.thousands else {"thousands": thousands}
    if decimal == own.decimal:
        return "", set_it(**settings), settings
    settings = {"decimal": decimal, **settings}
    hint = "numbers are written with a point, as in 1.5, unless [data] says otherwise"
    return hint, set_it(**settings), settings


def _all_fit(cells: Sequence[str], signs: tuple[str, str | None]) -> bool:
    return all(_GRAMMARS[signs].match(cell.strip()) for cell in cells)


def _date(cells: Sequence[str], column: _Misread) -> Remedy:
    if not column.feature:
        return "", column.advice, {}
    found = order_of(cells[:_SAMPLE])
    if found is None:
        return "", "write dates alike, as 2024-12-31, or ignore the column in [data]", {}
    order, either, short = found
    rule: Settings = {"as": "days", **({} if order == "ymd" else {"order": order})}
    if short:
        rule["years_from"] = 1930
    settings = {"dates": {column.name: rule}}
    doubt = ' (order = "mdy" if the month comes first)' if either else ""
    return "", f"it seems to hold dates, {set_it(**settings)}{doubt} or ignore the column", settings


def _text(cells: Sequence[str], column: _Misread) -> Remedy:
    distinct = pc.count_distinct(column.text).as_py()
    if not column.feature or len(cells) < 0.2 * (distinct + column.others):
        return "", column.advice, {}
    if _may_be_names(column):
        settings = {"categorical": [column.name]}
        return "", f"if it holds names ({distinct:,} different), {set_it(**settings)}", settings
    settings = {"ignore": [column.name]}
    return "", f"it has {distinct:,} different texts, {set_it(**settings)} or correct it", settings


def _may_be_names(column: _Misread) -> bool:
    """Whether texts come often enough to be names: numbers with a unit listed as names ruin a model."""
    known = len(column.text) - column.text.null_count + column.others
    distinct = pc.count_distinct(column.text).as_py()
    return bool(distinct <= MAX_CATEGORIES and (distinct <= 20 or distinct <= known / 2))


def _yes_or_no(cells: Sequence[str], column: _Misread) -> Remedy:
    if not column.feature:
        return "", "write 1 and 0 for yes and no", {}
    settings = {"categorical": [column.name]}
    return "", f"write 1 and 0 for yes and no, or {set_it(**settings)}", settings


def _always(advice: str) -> Callable[[Sequence[str], _Misread], Remedy]:
    return lambda cells, column: ("", advice, {})


def _or_names(advice: str) -> Callable[[Sequence[str], _Misread], Remedy]:
    """Of cells that may be names as well, where most of the column is such cells."""

    def found(cells: Sequence[str], column: _Misread) -> Remedy:
        distinct = pc.count_distinct(column.text).as_py() + column.others
        names = column.feature and len(cells) >= distinct / 2 and _may_be_names(column)
        return "", advice + (", or list the column under categorical" if names else ""), {}

    return found


_EXPLAIN: dict[str, Callable[[Sequence[str], _Misread], Remedy]] = {
    "heading": _heading,
    "placeholder": _placeholder,
    "signs": _signs,
    "date": _date,
    "text": _text,
    "yes or no": _yes_or_no,
    "percent": _always("take off the percent sign"),
    "minus": _always("write a minus as in -1.5, not behind the number, in brackets or longer"),
    "digits": _or_names("write one number, as -1234.5"),
    "odd": _always("write numbers with the digits 0 to 9, as -1.5 or 2e6"),
    "money": _always("take off the currency"),
    "time": _always("turn times and durations into a number such as minutes"),
    "range": _or_names("write one number in place of a range or bound"),
    "unit": _or_names("take off the unit"),
}
