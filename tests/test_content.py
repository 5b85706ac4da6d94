"""What a file is, whatever its name: read if it is a table, else named with what to do."""

import bz2
import gzip
import io
import lzma
import os
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tables import features, read, refused, write

CSV = b"id,x\nA,1\nB,2\n"
X = {"x": [1.0, 2.0]}


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(data)
    return sink.getvalue().to_pybytes()


def parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"id": ["A", "B"], "x": [1, 2]}), sink)
    return sink.getvalue().to_pybytes()


def zipped(**members: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "/"), text)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("t.csv")
        member.size = len(CSV)
        archive.addfile(member, io.BytesIO(CSV))
    return file.getvalue()


PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd,
}


@pytest.mark.parametrize("packing", PACK)
def test_a_compressed_csv_is_read(tmp_path: Path, packing: str) -> None:
    packed = PACK[packing](CSV)
    for name in (f"t.csv.{packing}", "t.csv", f"t.{packing}"):
        assert features(read(tmp_path / name, packed)) == X
    # Many rows, so that what is missing or wrong shows only while the columns are read.
    packed = PACK[packing](
        b"id,x\n" + b"".join(b"A%d,%d\n" % (i, i * 7919 % 1000) for i in range(60_000))
    )
    assert read(tmp_path / f"t.csv.{packing}", packed).rows == 60_000
    changed = packed[:200] + bytes(100) + packed[300:]  # which zstd has no checksum for
    for broken in (packed[: len(packed) // 2], *([changed] if packing != "zst" else [])):
        with refused(" is damaged or cut short: copy it anew"):
            read(tmp_path / f"t.csv.{packing}", broken)


def test_a_zstd_file_of_several_frames_is_read_whole(tmp_path: Path) -> None:
    """Some of which are to be skipped, as those that pzstd writes."""
    skipped = b"\x50\x2a\x4d\x18\x02\0\0\0ab"
    packed = skipped + zstd(CSV[:7]) + skipped + zstd(CSV[7:])
    assert features(read(tmp_path / "t.csv.zst", packed)) == X


def test_a_gzip_file_of_several_parts_is_read_whole(tmp_path: Path) -> None:
    assert features(read(tmp_path / "t.csv.gz", gzip.compress(CSV[:7]) + gzip.compress(CSV[7:]))) == X


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.txt", "t.tsv", "t.dat", "t"])
def test_a_csv_by_other_names(tmp_path: Path, name: str) -> None:
    assert features(read(tmp_path / name, CSV)) == X


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.pq", "t.dat"])
def test_a_parquet_file_by_other_names(tmp_path: Path, name: str) -> None:
    assert features(read(tmp_path / name, parquet())) == X


def test_headings_that_begin_as_other_files_do(tmp_path: Path) -> None:
    for name in ("ORCID", "PAR1", "RDA", "GIF8", "BZh", "<DATE>", "MSCF", "[x]"):
        assert features(read(tmp_path / "t.csv", f"{name},id\n1,A\n2,B\n")) == {name: [1.0, 2.0]}


@pytest.mark.parametrize("name", ["t.parquet", "t.feather", "t.xlsx", "t.xls", "t.json", "t.csvv"])
def test_text_by_the_name_of_another_kind(tmp_path: Path, name: str) -> None:
    with refused(
        f"{name} holds text: a table must be a .csv, .parquet, .feather or .xlsx file, so name"
    ):
        read(tmp_path / name, CSV)


OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
ODS = "application/vnd.oasis.opendocument.spreadsheet"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\0\1\2\3\xff\xfe\xfd" * 40, "is binary, of a kind that is not known"),
        (zipped(a="id,x\n"), "is a zip archive: unpack it"),
        (
            gzip.compress(zipped(a="id,x\n")),
            "is a zip archive or Excel workbook compressed again: unpack it",
        ),
        (zipped(a="x")[:-20], "is a damaged zip archive or Excel workbook: copy it anew"),
        (zipped(mimetype=ODS), "is an OpenDocument spreadsheet (.ods): save it as .xlsx or CSV UTF-8"),
        (zipped(**{"xl__workbook.bin": ""}), "is a binary Excel workbook (.xlsb): save it as .xlsx"),
        (zipped(**{"[Content_Types].xml": ""}), "is an office document: export the table"),
        (zipped(**{"Index__Document.iwa": ""}), "is a Numbers spreadsheet: save it as"),
        (OLE + "Workbook".encode("utf-16-le"), "is an old Excel workbook (.xls): save it as .xlsx"),
        (
            OLE + "EncryptedPackage".encode("utf-16-le"),
            "is an office file with a password: take the pass",
        ),
        (OLE + "WordDocument".encode("utf-16-le"), "is an office document: export the table"),
        (tarred(), "is a tar archive: unpack it"),
        (gzip.compress(tarred()), "is a tar archive: unpack it"),
        (gzip.compress(gzip.compress(CSV)), "is compressed twice: unpack it"),
        (gzip.compress(parquet()), "is a Parquet file compressed as a whole: unpack it"),
        (parquet()[:60], "is damaged or is no Parquet file"),
        (b"PARE\1\2\3\0", "is an encrypted Parquet file: write it without encryption"),
        (b"FEA1\0\0\0\0", "is a Feather file of the first version: write it anew"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "is a 7z archive: unpack it"),
        (b"Rar!\x1a\x07\1\0", "is a rar archive: unpack it"),
        (b"\x04\x22\x4d\x18\0", "is compressed with lz4: unpack it"),
        (b"%PDF-1.7\n", "is a PDF document: export the table"),
        (b"\x89PNG\r\n\x1a\n\0", "is an image"),
        (b"\xff\xd8\xff\xe0\0", "is an image"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "is an image"),
        (b"\x80\x04\x95\1", "is a Python pickle"),
        (gzip.compress(b"RDX3\nX\n\0\0"), "is an R data file"),
        (b"<stata_dta><header>", "is a Stata file"),
        (bytes(12) + b"\xc2\xea\x81\x60\xb3", "is a SAS table"),
        (b"$FL2@(#)\0\0\0", "is an SPSS file"),
        (b"\x89HDF\r\n\x1a\n\0", "is an HDF5 file"),
        (b"Obj\x01\4", "is an Avro file"),
        (b"ORC\n\3\0", "is an ORC file"),
        (b"Salted__\1\2", "is an encrypted file: decrypt it first"),
        ("<!DOCTYPE html>\n<html>", "is a web page (HTML): "),
        ("\ufeff <!-- x -->\n<HTML lang='de'>", "is a web page (HTML): "),
        ("<table><tr><td>id</td></tr></table>", "is a web page (HTML): "),
        ("<?xml version='1.0'?><a/>", "is XML: export the table"),
        (
            "<?xml version='1.0'?>\n<Workbook xmlns='urn:schemas-microsoft-com:office:spreadsheet'>",
            "is an Excel workbook as XML: save it as .xlsx",
        ),
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "is a pointer of Git LFS, not the t",
        ),
        ('{"id": 1}', "is JSON: export the table"),
        ('{"id":1}\n{"id":2}\n', "is JSON"),
        ('[\n  {"id": 1}\n]', "is JSON"),
        ("[[1,2],[3,4]]", "is JSON"),
        ("-----BEGIN PGP MESSAGE-----\n", "is a PGP message"),
        ("+----+---+\n| id | x |\n", "is a table drawn for a terminal: export it as CSV"),
        ("┌────┬───┐\n│ id │ x │\n", "is a table drawn for a terminal"),
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_file_that_is_no_table(tmp_path: Path, name: str, content: bytes | str, said: str) -> None:
    with refused(f"{name}: the file {said}"):
        read(tmp_path / name, content)


def test_a_database(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "t.csv") as database:
        database.execute("create table t(id)")
    with refused("t.csv: the file is a SQLite database: export the table as CSV or Parquet"):
        read(tmp_path / "t.csv", lambda path: None)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with refused("pipe.csv is no file, but a pipe or a device: give a file"):
        read(tmp_path / "pipe.csv", lambda path: None)
    parts = tmp_path / "t.parquet"
    parts.mkdir()
    with refused("t.parquet is a folder without files"):
        read(parts, lambda path: None)
    write(parts / "part-0000.parquet", parquet())
    (parts / "2026").mkdir()
    with refused("t.parquet has folders in it (2026): name the files by a pattern, such as"):
        read(parts, lambda path: None)


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    stream = pa.BufferOutputStream()
    with pa.ipc.new_file(stream, pa.schema({"id": pa.string(), "x": pa.float64()})) as file:
        file.write_table(pa.table({"id": ["A", "B"], "x": [1.0, 2.0]}))
    arrow = stream.getvalue().to_pybytes()
    for suffix, data in (("csv", CSV), ("parquet", parquet()), ("arrow", arrow), ("csv.zst", zstd(CSV))):
        path = Path(os.fsdecode(folder + b"/t\xe9." + suffix.encode()))
        assert features(read(path, data)) == X
    with refused("t\\udce9.csv: column 'x' has text that is no number in row 2"):
        read(Path(os.fsdecode(folder + b"/t\xe9.csv")), "id,x\nA,b\n")
