"""The bytes of a table's file, unpacked where it is compressed, and what they are by their beginning."""

import bz2
import codecs
import gzip
import io
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

import pyarrow as pa

from vfl.errors import DataError
from vfl.party.sources.folders import file_name

HEAD = 1 << 16  # bytes of a file that are looked at

Format = Literal["text", "parquet", "feather", "stream", "excel"]
Packing = Literal["gzip", "bzip2", "xz", "zstd"]

_PACKINGS: dict[bytes, Packing] = {
    b"\x1f\x8b": "gzip",
    **{b"BZh%d1AY&SY" % level: "bzip2" for level in range(1, 10)},
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    **{bytes((0x50 + kind,)) + b"\x2a\x4d\x18": "zstd" for kind in range(16)},  # of pzstd: skipped
}


@dataclass(frozen=True)
class Content:
    """A file's bytes, unpacked; `head` has the first of them, `mark` changes when the file does."""

    path: Path
    packing: Packing | None
    head: bytes
    mark: tuple[int, ...] = ()

    @classmethod
    def of(cls, path: Path) -> "Content":
        """Of a file. Raises OSError, and DataError for a compressed one that cannot be unpacked."""
        with path.open("rb") as file:
            head = file.read(HEAD)
            mark = _mark(os.fstat(file.fileno()))
        packing = next((p for magic, p in _PACKINGS.items() if head.startswith(magic)), None)
        if packing is None:
            return cls(path, None, head, mark)
        with cls(path, packing, b"").open() as file:
            return cls(path, packing, file.read(HEAD), mark)

    @property
    def is_unchanged(self) -> bool:
        """Whether the file is still the one that was opened, unchanged as far as can be seen."""
        try:
            return _mark(self.path.stat()) == self.mark
        except OSError:
            return False

    @property
    def called(self) -> str:
        """What messages call the file."""
        return file_name(self.path)

    @property
    def size(self) -> int:
        """How many bytes there are unpacked, more or less. Raises OSError."""
        packed = self.path.stat().st_size
        return packed if self.packing is None else 5 * packed

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """A file of the unpacked bytes. Raises OSError, and DataError where it cannot be unpacked."""
        if self.packing is None:
            with self.path.open("rb") as plain:
                yield plain
            return
        try:
            with self._unpacking() as file:
                yield file
        except (OSError, EOFError, zlib.error, lzma.LZMAError):
            raise DataError(
                f"{self.called}: the file, compressed with {self.packing}, is damaged or cut short: "
                "copy it anew"
            ) from None

    def _unpacking(self) -> BinaryIO:
        if self.packing == "gzip":
            return cast(BinaryIO, gzip.open(self.path, "rb"))
        if self.packing == "bzip2":
            return cast(BinaryIO, bz2.open(self.path, "rb"))
        if self.packing == "xz":
            return cast(BinaryIO, lzma.open(self.path, "rb"))
        return cast(BinaryIO, io.BufferedReader(_Zstd(self.path)))


def _mark(status: os.stat_result) -> tuple[int, ...]:
    """Size and time: of a file on a network its number may be another one each time."""
    return status.st_size, status.st_mtime_ns


class _Zstd(io.RawIOBase):
    def __init__(self, path: Path) -> None:
        self._file = pa.CompressedInputStream(path.open("rb"), "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, into: memoryview) -> int:  # type: ignore[override]
        some = self._file.read(len(into))
        into[: len(some)] = some
        return len(some)

    def close(self) -> None:
        self._file.close()
        super().close()


def kind_of(content: Content) -> Format:
    """What a file holds, by its first bytes, whatever its name.

    Raises DataError for what is no table that can be read here, with what it is and what to do.
    """
    head = content.head
    if content.packing is not None and head[257:262] == b"ustar":
        raise _unlike(content, "a tar archive", _UNPACK)
    if head.startswith(b"PK\x03\x04"):
        return _of_zip(content)
    if head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        raise _unlike(content, *_of_compound(content))
    for kind, magic in _TABLES:
        if head.startswith(magic) and _BINARY.search(head):
            if content.packing is not None:
                raise _unlike(content, f"{_NAMES[kind]} compressed as a whole", _UNPACK)
            return kind
    for magic, what, advice in _OTHERS:
        # A heading may begin with such letters: a file of that kind has more than text.
        if head.startswith(magic) and (len(magic) > 4 or _BINARY.search(head)):
            raise _unlike(content, what, advice)
    if head[257:262] == b"ustar":
        raise _unlike(content, "a tar archive", _UNPACK)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        raise _unlike(content, "an image", _EXPORT)
    plain = head.replace(b"\0", b"")
    if len(_CONTROL.findall(plain)) > 0.02 * len(plain) and not _is_utf8(head):
        raise _unlike(content, "binary, of a kind that is not known", _EXPORT)
    _check_text(content)
    return "text"


_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_CONTROL = re.compile(rb"[\x02-\x08\x0e-\x19\x1c-\x1e\x7f]")  # others separate cells, or end files
_UNPACK = "unpack it and give the table in it"
_EXPORT = "export the table as CSV or Parquet"
_SAVE_AS = "save it as .xlsx or CSV UTF-8"
_NAMES = {"parquet": "a Parquet file", "feather": "a Feather file", "stream": "an Arrow stream"}

_TABLES: tuple[tuple[Format, bytes], ...] = (
    ("parquet", b"PAR1"),
    ("feather", b"ARROW1"),
    ("stream", b"\xff\xff\xff\xff"),
)
_OTHERS = (
    (b"PARE", "an encrypted Parquet file", "write it without encryption"),
    (b"FEA1", "a Feather file of the first version", "write it anew as version 2 or as Parquet"),
    (b"PK\x05\x06", "an empty zip archive", "look at how it was made"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a rar archive", _UNPACK),
    (b"MSCF", "a cab archive", _UNPACK),
    (b"\x1f\x9d", "compressed with compress", _UNPACK),
    (b"\x04\x22\x4d\x18", "compressed with lz4", _UNPACK),
    (b"\x1f\x8b", "compressed twice", _UNPACK),
    (b"%PDF-", "a PDF document", _EXPORT),
    (b"{\\rtf", "a text document (RTF)", _EXPORT),
    (b"\x89PNG", "an image", _EXPORT),
    (b"\xff\xd8\xff", "an image", _EXPORT),
    (b"GIF8", "an image", _EXPORT),
    (b"II*\x00", "an image", _EXPORT),
    (b"MM\x00*", "an image", _EXPORT),
    (b"SQLite format 3\x00", "a SQLite database", _EXPORT),
    (b"\x00\x01\x00\x00Standard", "an Access database", _EXPORT),
    (b"\x89HDF\r\n", "an HDF5 file", _EXPORT),
    (b"Obj\x01", "an Avro file", _EXPORT),
    (b"ORC", "an ORC file", _EXPORT),
    (b"\x93NUMPY", "a NumPy array", _EXPORT),
    (b"\x80\x02", "a Python pickle", _EXPORT),
    (b"\x80\x03", "a Python pickle", _EXPORT),
    (b"\x80\x04", "a Python pickle", _EXPORT),
    (b"\x80\x05", "a Python pickle", _EXPORT),
    (b"RDX", "an R data file", _EXPORT),
    (b"RDA", "an R data file", _EXPORT),
    (b"X\n\x00\x00\x00", "an R data file", _EXPORT),
    (b"$FL2", "an SPSS file", _EXPORT),
    (b"$FL3", "an SPSS file", _EXPORT),
    (b"<stata_dta>", "a Stata file", _EXPORT),
    (b"\x00" * 12 + b"\xc2\xea\x81\x60", "a SAS table", _EXPORT),
    (b"HEADER RECORD*******LIB", "a SAS transport file", _EXPORT),
    (b"Salted__", "an encrypted file", "decrypt it first"),
    (b"age-encryption.org/", "an encrypted file", "decrypt it first"),
    (b"\x7fELF", "a program", "look at how it was made"),
    (b"MZ\x90", "a program", "look at how it was made"),
)


def _of_zip(content: Content) -> Format:
    """What a zip file is by the names of its members: an Excel workbook is one, too."""
    if content.packing is not None:
        raise _unlike(content, "a zip archive or Excel workbook compressed again", _UNPACK)
    try:
        with zipfile.ZipFile(content.path) as archive:
            names = set(archive.namelist())
            made = archive.read("mimetype")[:60] if "mimetype" in names else b""
    except (zipfile.BadZipFile, OSError, KeyError, RuntimeError, NotImplementedError, EOFError):
        raise _unlike(content, "a damaged zip archive or Excel workbook", "copy it anew") from None
    if "xl/workbook.xml" in names:
        return "excel"
    if "xl/workbook.bin" in names:
        raise _unlike(content, "a binary Excel workbook (.xlsb)", _SAVE_AS)
    if b"opendocument.spreadsheet" in made:
        raise _unlike(content, "an OpenDocument spreadsheet (.ods)", _SAVE_AS)
    if "Index/Document.iwa" in names or "Index.zip" in names:
        raise _unlike(content, "a Numbers spreadsheet", _SAVE_AS)
    if "[Content_Types].xml" in names or made:
        raise _unlike(content, "an office document", _EXPORT)
    raise _unlike(content, "a zip archive", _UNPACK)


def _of_compound(content: Content) -> tuple[str, str]:
    """What a file of the older office formats is, by the names of its streams."""
    with content.open() as file:
        found = file.read(1 << 26)

    def has(name: str) -> bool:
        return name.encode("utf-16-le") in found

    if has("EncryptedPackage"):
        return "an office file with a password", f"take the password off or {_SAVE_AS} without one"
    if not has("WordDocument") and (has("Workbook") or has("Book")):
        return "an old Excel workbook (.xls)", _SAVE_AS
    return "an office document", _EXPORT


def _is_utf8(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=False)
    except UnicodeDecodeError:
        return False
    return True


_HTML = re.compile(
    rb"\A\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body|table|tr|meta|script|style)\b", re.I | re.S
)
_CORNERS = tuple(corner.encode() for corner in "┌╭╔┏")  # of tables drawn for a terminal
_JSON = re.compile(rb'\A(\{\s*(\}|"[^"]*"\s*:)|\[\s*("|\{\s*"|\[\s*["0-9{\[-]|\]\s*\Z))')
_LFS = b"version https://git-lfs.github.com/spec/"


def _check_text(content: Content) -> None:
    """Raises DataError for text that is no table."""
    head = content.head.removeprefix(b"\xef\xbb\xbf")
    start = head.lstrip()
    if _HTML.search(head):
        raise _unlike(
            content,
            "a web page (HTML)",
            "a download that ended at a login or error page looks so, and so do some exports named "
            f".xls: fetch the file itself, or open it and {_SAVE_AS}",
        )
    if start.startswith(b"<?xml") or (
        re.search(rb"\A<[A-Za-z][\w:.-]*(\s[^<>]*)?>", start) and b"</" in head
    ):
        if b"urn:schemas-microsoft-com:office:spreadsheet" in head:
            raise _unlike(content, "an Excel workbook as XML", _SAVE_AS)
        raise _unlike(content, "XML", _EXPORT)
    if head.startswith(_LFS):
        raise _unlike(
            content, "a pointer of Git LFS, not the table", "run `git lfs pull` where it was cloned"
        )
    if _JSON.search(start):
        raise _unlike(content, "JSON", _EXPORT)
    if start.startswith(b"-----BEGIN "):
        what = "a PGP message" if start.startswith(b"-----BEGIN PGP") else "a key or certificate"
        raise _unlike(content, what, "give the table itself")
    if re.search(rb"\A\+-[-+]*\+\s", start) or start.startswith(_CORNERS):
        raise _unlike(
            content,
            "a table drawn for a terminal",
            "export it as CSV (mysql: --batch; psql: --csv)",
        )


def _unlike(content: Content, what: str, advice: str) -> DataError:
    return DataError(f"{content.called}: the file is {what}: {advice}")
