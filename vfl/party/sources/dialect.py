"""How a text file is written: its encoding, the sign between cells, where its names are."""

import codecs
import csv
import io
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

from vfl.party.reading import SEPARATOR, Reading, Settings, settings_line
from vfl.party.sources.content import HEAD, Content
from vfl.party.sources.source import TableError

SAVE = "save the file as CSV UTF-8"
_SAMPLE = 60  # records that are looked at
_TITLES = 10  # of which so many may be titles

_FOUND = ";\t|,"  # a comma is often a decimal sign: it comes last
_POSSIBLE = "^~:#!$*\x01\x1f "


@dataclass(frozen=True)
class Dialect:
    """The encoding as Python names it, the separator, and whether a line `sep=;` comes first."""

    encoding: str
    separator: str
    directive: bool
    doubt: str = ""  # what may be wrong if a column is not found, with what to do
    settings: Settings = field(default_factory=dict)
    unnamed: bool = False  # whether the first row seems to hold cells, not names

    @property
    def decoder(self) -> str:
        return "utf-8-sig" if self.encoding == "utf-8" else self.encoding


def dialect_of(content: Content, reading: Reading) -> Dialect:
    """How a file is written. Raises TableError, with what to do, for one that is not read as it is."""
    encoding = codecs.lookup(reading.encoding).name
    _check_marks(content, encoding)
    decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)()
    try:
        text = decoder.decode(content.head, final=False).removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise undecodable(content, encoding) from None
    if bare_zero(text.encode("utf-8", "surrogatepass"), 0) is not None:
        raise nul_bytes(content)
    lines = list(io.StringIO(text, newline=""))
    if len(content.head) == HEAD and len(lines) > 1:
        lines.pop()  # it may be cut
    lines = lines[: 4 * _SAMPLE]
    directive = re.fullmatch(r'"?sep=(\\t|.)"?\s*', lines[0], re.I) if lines else None
    stated = directive[1].replace("\\t", "\t") if directive else ""
    if stated:
        lines = lines[1:]
    separator = reading.separator or (stated if re.fullmatch(SEPARATOR, stated) else _separator(lines))
    records = _records(lines, separator)
    doubt: str = ""
    settings: Settings = {}
    if records and len(records[0]) == 1 and reading.separator is None:
        doubt, settings = _other_separator(lines)
        if settings and len(records) > 1 and len(records[1]) > 1:  # commas, but of decimals
            raise _error(content, f"the first row has one name: {doubt}", settings)
    _check_first_rows(content, separator, records)
    return Dialect(
        encoding=encoding,
        separator=separator,
        directive=directive is not None,
        doubt=doubt,
        settings=settings,
        unnamed=_has_cells(records),
    )


def _records(lines: list[str], separator: str) -> list[list[str]]:
    try:
        found = [
            r for r in csv.reader(io.StringIO("".join(lines), newline=""), delimiter=separator) if r
        ]
    except csv.Error:
        return []
    return found[:_SAMPLE]


def _separator(lines: list[str]) -> str:
    """Of comma, semicolon, tab and | the one that makes most columns, of as many cells in all rows."""

    def columns(separator: str) -> tuple[int, int, int]:
        records = _records(lines, separator)
        sizes = [len(record) for record in records]
        if not sizes:
            return 0, 0, 0
        usual = Counter(sizes[1:] or sizes).most_common(1)[0][0]
        titles = next((i for i, size in enumerate(sizes[:_TITLES]) if size == usual), 0)
        below = sizes[titles:]
        even = usual > 1 and len(below) > 1 and below.count(usual) >= 0.9 * len(below)
        clean = even and not any('"' in cell for record in records for cell in record)
        return (usual if clean else 0), (usual if even else 0), sizes[0]

    return max(_FOUND, key=columns)


def _other_separator(lines: list[str]) -> tuple[str, Settings]:
    """Which sign seems to separate cells where none of the usual ones does."""
    for sign in _POSSIBLE:
        records = _records(lines, sign)
        sizes = {len(record) for record in records[1:]}
        named = len(records[0]) if records and all(records[0]) else 0
        if len(sizes) == 1 and named > 1 and sizes <= {named, named + 1}:
            line = settings_line("separator", sign)
            return f"if its cells are separated by this sign, set {line} in [data]", {"separator": sign}
    filled = [line.strip() for line in lines if line.strip()]
    for blanks in (r"\s{2,}", r"\s+"):
        widths = {len(re.split(blanks, line)) for line in filled}
        if len(filled) > 1 and len(widths) == 1 and widths != {1}:
            return (
                "its columns seem to be set apart by blanks (fixed width): export it with a separator",
                {},
            )
    return "", {}


def _check_first_rows(content: Content, separator: str, records: list[list[str]]) -> None:
    """Raises TableError where the first row is none of names, or the second none of cells."""
    sizes = [len(record) for record in records]
    if len(sizes) < 2:
        return
    usual, times = Counter(sizes[1:]).most_common(1)[0]
    titles = next((i for i, size in enumerate(sizes[:_TITLES]) if size == usual), 0)
    if usual > sizes[0] and times > 1 and times >= 0.9 * len(sizes[titles:]):
        if usual == sizes[0] + 1 > 2:
            raise _error(
                content,
                f"its rows have {usual} cells, the header {sizes[0]}: write it without row names (in R "
                "row.names = FALSE), without a separator at the end of lines, and with quotes around "
                f"cells that have {named(separator)} in them",
            )
        rows = "row 1 has" if titles == 1 else f"rows 1 to {titles} have"
        raise _error(
            content,
            f"{rows} fewer cells than the rows below: remove titles and comments, so that the names of "
            "the columns come first",
        )
    drawn = all(re.fullmatch(r"[\s:+|-]*", cell) for cell in records[1])
    if drawn and "--" in "".join(records[1]):
        raise _error(
            content,
            "row 2 is a line of dashes, as printed for people: export the table as CSV (SQL*Plus: set "
            "markup csv on; psql: --csv)",
        )


_CELL = re.compile(r"[+-]?[0-9]+[.,][0-9]+|[0-9]{1,4}[-./][0-9]{1,2}[-./][0-9]{1,4}.*|-[0-9]+|[0-9]{5,}")
_WHOLE = re.compile(r"[0-9]{1,4}")


def named(separator: str) -> str:
    return {"\t": "a tab", " ": "a blank"}.get(separator, separator)


def _has_cells(records: list[list[str]]) -> bool:
    """Whether the first row seems to hold cells: numbers, dates, or what comes again below it."""
    if not records:
        return False
    first = [cell.strip() for cell in records[0]]
    if sum(_WHOLE.fullmatch(cell) is not None for cell in first) > len(first) / 3:
        return True
    return any(_CELL.fullmatch(cell) for cell in first) or any(
        cell and cell in {r[place].strip() for r in records[1:] if len(r) > place}
        for place, cell in enumerate(first)
    )


# Encodings.


def _check_marks(content: Content, encoding: str) -> None:
    """Raises TableError where the beginning of a file contradicts the encoding that is set."""
    head = content.head
    found = marked = None
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if head.startswith(mark):
            found = marked = name
            break
    if found is None:
        found = _without_mark(head)
    wide = encoding.startswith(("utf-16", "utf-32"))
    if wide and marked == "utf-16" and head.startswith(_OTHER_ORDER.get(encoding, b"\xff\xff")):
        wide = False
    if found == "utf-8" and encoding != "utf-8":
        raise _error(
            content,
            f"the file is UTF-8 by its mark, not {_shown(encoding)}: take encoding out of [data]",
            {"encoding": "utf-8"},
        )
    if found not in (None, "utf-8") and not wide:
        name = str(found).upper()
        without = "" if marked else " without a mark"
        raise _error(
            content,
            f"the file is {name}{without}, not {_shown(encoding)}: save it as CSV UTF-8 or set "
            f"{settings_line('encoding', found)} in [data]",
            {"encoding": found},
        )
    if wide and found is None:
        raise _error(
            content,
            f"the file is not {_shown(encoding)}: take encoding out of [data] or set another one",
            {"encoding": "utf-8"},
        )


_OTHER_ORDER = {"utf-16-le": codecs.BOM_UTF16_BE, "utf-16-be": codecs.BOM_UTF16_LE}


def _without_mark(head: bytes) -> str | None:
    """UTF-16 without a mark: every other byte of a text that is mostly Latin is 0."""
    for start, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        zeros, others = head[start::2], head[1 - start :: 2]
        if len(zeros) > 4 and zeros.count(0) > 0.4 * len(zeros) and others.count(0) < 0.05 * len(others):
            return name
    return None


def undecodable(content: Content, encoding: str) -> TableError:
    """Which line is not of an encoding, and which encoding the file seems to have."""
    decoder = codecs.getincrementaldecoder(encoding)()
    ends = [0, 0]
    with content.open() as file:
        while chunk := file.read(1 << 20):
            whole = bytes(decoder.getstate()[0]) + chunk
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                whole = whole[: error.start]
                chunk = b""
            ends = [ends[0] + whole.count(b"\n"), ends[1] + whole.count(b"\r")]
            if not chunk:
                break
    found, number, name = likely_encoding(content), max(ends) + 1, _shown(encoding)
    if found is not None and codecs.lookup(found).name == encoding:
        advice = "there is a byte that stands for nothing in it: export the file anew, as CSV UTF-8"
        return _error(content, f"line {number} is not {name}, though the rest looks like it: {advice}")
    if content.head.startswith(codecs.BOM_UTF8):  # by which no other encoding may be set
        seems = f" (it seems to be {_shown(found)})" if found else ""
        advice = f"export the file anew, as CSV UTF-8, or without the mark{seems}"
        return _error(content, f"line {number} is not {name}, as the file is by its mark: {advice}")
    advice = (
        f"set {settings_line('encoding', found)} in [data]" if found else "set its encoding in [data]"
    )
    if encoding == "utf-8":
        advice = f"{SAVE}, or {advice}"
    return _error(content, f"line {number} is not {name}: {advice}", _encoding(found))


def foreign_signs(content: Content, encoding: str) -> TableError:
    """The error for a text with signs that its encoding has no use for, and which one it may have."""
    found = likely_encoding(content)
    if found is None or codecs.lookup(found).name == encoding:
        advice, found = "set another one in [data]", None
    else:
        advice = f"set {settings_line('encoding', found)} in [data]"
    text = f"the file has signs that {_shown(encoding)} has not: {advice}"
    return _error(content, text, _encoding(found))


def nul_bytes(content: Content) -> TableError:
    """Which line has a byte that no text has."""
    ends = quotes = 0
    with content.open() as file:
        while chunk := file.read(1 << 20):
            place = bare_zero(chunk, quotes)
            before = chunk if place is None else chunk[:place]
            ends += max(before.count(b"\n"), before.count(b"\r"))
            quotes += before.count(b'"')
            if place is not None:
                break
    return _error(
        content,
        f"line {ends + 1} has a NUL byte, which no text has: the file is damaged or no CSV, export it "
        "anew",
    )


def bare_zero(data: bytes, quotes: int) -> int | None:
    """Where the first NUL byte outside of quoted cells is, `quotes` being the quotes before `data`."""
    place = data.find(b"\0")
    start = 0
    while place >= 0:
        quotes += data.count(b'"', start, place)
        if quotes % 2 == 0:
            return place
        start, place = place, data.find(b"\0", place + 1)
    return None


def _encoding(found: str | None) -> Settings:
    return {} if found is None else {"encoding": found}


def _shown(encoding: str) -> str:
    return {"utf-8": "UTF-8", "iso8859-1": "Latin-1", "cp1252": "Windows-1252"}.get(
        encoding, encoding.upper()
    )


_WESTERN = "äöüÄÖÜßéèêëàâçîïôûùœæåøñáíóúãõÉÈÊÀÂÇÎÔÅØÆÑÁÍÓÚ€–’„“”«»°²³§´ºª¿¡·ìòùÌÒÙ"
_EASTERN = "ąćęłńóśźżĄĆĘŁŃÓŚŹŻěščřžýáíéůúťďňĚŠČŘŽÝÁÍÉŮÚŤĎŇőűŐŰöüÖÜäăâîșțşţĂÂÎȘȚŞŢđĐ"
_CYRILLIC = "".join(map(chr, range(0x410, 0x450))) + "ёЁіІїЇєЄ№"
_GREEK = "".join(map(chr, range(0x386, 0x3CF)))
_ALPHABETS = (
    ("windows-1252", _WESTERN),
    ("cp850", _WESTERN),
    ("mac-roman", _WESTERN),
    ("windows-1250", _EASTERN),
    ("iso-8859-2", _EASTERN),
    ("windows-1254", _WESTERN + "ğışĞİŞ"),
    ("windows-1251", _CYRILLIC),
    ("koi8-r", _CYRILLIC),
    ("windows-1253", _GREEK),
)


def likely_encoding(content: Content) -> str | None:
    """The encoding whose letters most bytes are that are not ASCII; None if that is not clear."""
    seen: Counter[int] = Counter()
    words: list[bytes] = []
    utf8: codecs.IncrementalDecoder | None = codecs.getincrementaldecoder("utf-8")()
    with content.open() as file:
        while chunk := file.read(1 << 20):
            beyond = chunk.translate(None, bytes(range(128)))
            seen.update(beyond)
            if len(words) < 20_000:
                words += re.findall(rb"[A-Za-z\x80-\xff]*[\x80-\xff][A-Za-z\x80-\xff]*", chunk)
            try:
                if utf8 is not None:
                    utf8.decode(chunk)
            except UnicodeDecodeError:
                utf8 = None
    if utf8 is not None or not seen:
        return "utf-8"
    total = seen.total()
    best, most = None, 0.0
    for name, alphabet in _ALPHABETS:
        letters = {byte for byte in seen if bytes([byte]).decode(name, "replace") in alphabet}
        share = sum(seen[byte] for byte in letters) / total
        likely = share * _plausible(words, name, alphabet not in (_CYRILLIC, _GREEK))
        if likely > most + 0.05:
            best, most = name, likely
    if most < 0.6 or best is None:
        return None
    c1 = any(0x80 <= byte < 0xA0 for byte in seen)
    return "latin-1" if best == "windows-1252" and not c1 else best


def _plausible(words: list[bytes], encoding: str, latin: bool) -> float:
    """The share of words that look like words: letters throughout, none a capital after a small one,
    mostly ASCII letters or none."""
    odd = 0
    sample = words[:2_000]
    for word in sample:
        text = word.decode(encoding, "replace")
        kinds = [unicodedata.category(c) for c in text]
        capital = any(a == "Ll" and b == "Lu" for a, b in pairwise(kinds))
        broken = any(
            kind[0] != "L" and c != "’" for kind, c in zip(kinds[1:-1], text[1:-1], strict=True)
        )
        beyond = sum(not c.isascii() for c in text)
        foreign = len(text) > 2 and 2 * beyond > len(text) if latin else beyond < len(text)
        odd += capital or broken or foreign
    return 1 - odd / max(1, len(sample))


def _error(content: Content, text: str, settings: Settings | None = None) -> TableError:
    return TableError(f"{content.called}: {text}", settings)
