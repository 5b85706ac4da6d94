"""A label of several classes: text or whole numbers, a class for each row."""

import re

import numpy as np
import pyarrow as pa

from vfl.arrays import Floats
from vfl.learn.levels import tidy
from vfl.learn.params import MOST_CLASSES
from vfl.party.rows import rows_in_words
from vfl.party.sources.arrow import coded
from vfl.party.sources.numerals import parse
from vfl.party.sources.source import Source
from vfl.text import counted

_WHOLE = re.compile("-?[0-9]{1,18}")


def read_classes(source: Source, name: str, due: int) -> tuple[Floats, tuple[str, ...]]:
    """The number of each row's class, from 0, and the names of the classes: in the order of their
    values where all are whole numbers, else of their text.

    Raises DataError for a row without one, and for another number of classes than is due.
    """
    label, names = _classes_in(source, name)
    gaps = np.flatnonzero(np.isnan(label)).tolist()
    if gaps:
        rows = rows_in_words(gaps, source.row_numbers)
        raise source.error(f"label '{name}' is missing in {counted(len(gaps), 'row')} ({rows})")
    if len(names) != due:
        many = counted(len(names), "class", "classes")
        raise source.error(
            f"label '{name}' has {many}, where classes = {due} in [secureboost]: set classes to how "
            f"many the label has (3 to {MOST_CLASSES}), or give its small classes a common name"
        )
    return label, names


def text_classes(source: Source, name: str) -> tuple[Floats, tuple[str, ...]] | None:
    """The same of a label of which no job says what it is, where it can be of nothing but several
    classes: each row has text, and no text is a number."""
    label, names = _classes_in(source, name)
    if np.isnan(label).any() or not 3 <= len(names) <= MOST_CLASSES:
        return None
    _, strange = parse(pa.array(names, pa.string()), source.reading)
    return (label, names) if strange.all() else None


def _classes_in(source: Source, name: str) -> tuple[Floats, tuple[str, ...]]:
    """The number of each row's class, NaN where it has none, and their names."""
    found, codes = coded(source.text(name, f"label '{name}'"))
    texts = [tidy(text) for text in found]
    names = sorted({*texts} - {""})
    if all(map(_WHOLE.fullmatch, names)):
        names.sort(key=int)
    number = {text: place for place, text in enumerate(names)}
    # The last entry: a missing code of -1 finds it.
    numbers = np.array([*(number.get(text, np.nan) for text in texts), np.nan])
    return numbers[codes], tuple(names)
