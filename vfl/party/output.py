"""Files that a party's commands write where a person names a place for them.

Nothing of the party's own is ever written over, and nothing else that was there before, unless the same
command has written it. The store keeps digests of what commands have written, so that a file that
somebody has changed since is known as changed.
"""

import contextlib
import hashlib
import io
import stat
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vfl.errors import DataError, ModelError
from vfl.party import rotation
from vfl.party.config import Party
from vfl.party.files import remove_unfinished, replacing, replacing_folder
from vfl.party.identity import paths
from vfl.party.sections import DataSection
from vfl.party.sources.arrow import is_text
from vfl.party.sources.parts import files_of
from vfl.party.spreadsheet import escaped_column, named
from vfl.party.store import Store
from vfl.text import shown

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

ScoreCells = Sequence[str | None] | NDArray[np.float64]
ScoreColumns = Mapping[str, ScoreCells]

_HEAD = 1024 * 1024  # bytes of a file that are looked at to know what it is
PART_ROWS = 1_000_000  # of a Parquet file of scores, where there are several
_KNOWN = 2  # outputs of one place that are known: the one before is still there after a kill


# --- Where a command may write. ---------------------------------------------------------------------


@dataclass(frozen=True)
class OutputPlace:
    """A place that a person has named for the output of a command: a file, or a folder of files."""

    given: Path
    place: Path
    """Where it is: a symbolic link is followed and stays."""
    command: str
    own: Mapping[Path, str]
    """Files of the party, and folders of which it alone writes the files, each with what it is."""
    store: Store | None
    """Where the digests are kept; None for a command that knows no party file."""
    is_former: Callable[[Path], bool]
    """Whether a file is by its form an output of the same command, of a store that is not this one."""
    force: bool = False

    @classmethod
    def of(
        cls,
        given: Path,
        command: str,
        *,
        party: Party | None = None,
        reads: Mapping[Path, str] | None = None,
        is_former: Callable[[Path], bool],
        force: bool = False,
    ) -> "OutputPlace":
        """`reads` are files of the command besides the party's. Raises DataError as `check`."""
        try:
            place = given.resolve()
            circle = place.is_symlink()
        except (OSError, RuntimeError):  # the latter of older Pythons
            circle = True
        if circle:
            raise _unwritable(given, "its symbolic link leads in a circle")
        own = {**(belongings(party) if party is not None else {}), **(reads or {})}
        store = None if party is None else Store(party.party.store)
        target = cls(
            given=given,
            place=place,
            command=command,
            own=own,
            store=store,
            is_former=is_former,
            force=force,
        )
        target.check()
        target.probe()
        return target

    def check(self) -> bool:
        """Whether there is something that may be replaced.

        Raises DataError for what belongs to the party, for something else that must stay, and where
        nothing can be written.
        """
        try:
            self._check_own()
            if not self.place.parent.is_dir():
                folder = self.place.parent if self.given.is_symlink() else self.given.parent
                raise _unwritable(self.given, f"there is no folder {folder}")
            if not self.place.exists():
                return False
            return self._check_replaced()
        except OSError as error:
            raise _unwritable(self.given, error.strerror or "it cannot be looked at") from None

    def probe(self) -> None:
        """Raise DataError now if nothing could be written later."""
        probe = self.place.with_name(f".{self.place.name[:100]}.probe")
        try:
            with replacing(probe) as file:
                file.write(b"\0")
        except DataError as error:
            raise DataError(str(error).replace(str(probe), str(self.given))) from None
        probe.unlink(missing_ok=True)

    @contextlib.contextmanager
    def writing(self) -> Iterator[BinaryIO]:
        """The file to write to; it takes its place whole or not at all. Raises DataError."""
        self.check()
        with replacing(self.place) as file:
            digested = _Digested(file)
            yield digested  # type: ignore[misc]
            self.note({"": digested.hexdigest})

    @contextlib.contextmanager
    def writing_folder(self) -> Iterator[Path]:
        """A folder to write files into; it takes its place whole or not at all. Raises DataError."""
        self.check()
        with replacing_folder(self.place) as folder:
            yield folder
            self.note({path.name: _digest(path) for path in folder.iterdir()})

    def note(self, digests: Mapping[str, str]) -> None:
        """Keep the digests of what is about to be there: of a file under "", of a folder's by name."""
        if self.store is None:
            return
        known = [*self._known(), dict(digests)][-_KNOWN:]
        body = {"command": self.command, "place": shown(str(self.place)), "written": known}
        with contextlib.suppress(DataError):  # a report is made of a store that is only read, too
            self.store.write("output", self._name, body)

    def clean(self) -> None:
        """Remove what killed processes have left of this output; for who knows that no other one
        writes it now."""
        remove_unfinished(self.place)

    @property
    def _name(self) -> str:
        matter = self.command.encode() + b"\0" + str(self.place).encode("utf-8", "surrogateescape")
        return hashlib.sha256(matter).hexdigest()[:40]

    def _known(self) -> list[dict[str, str]]:
        """The digests of what this command has written there, the oldest first."""
        if self.store is None or self._name not in self.store.names("output"):
            return []
        try:
            return list(self.store.read("output", self._name)["written"])
        except (ModelError, KeyError, TypeError):
            return []

    def _check_own(self) -> None:
        for path, what in self.own.items():
            inside = path.resolve() in self.place.parents and (path.is_dir() or not path.exists())
            if inside or self.place == path.resolve() or _same(self.place, path):
                place = f"it lies in {what}" if inside else f"it is {what}"
                raise _unwritable(self.given, f"{place}: name another one")
            if self.place.is_dir() and self.place in path.resolve().parents:
                raise _unwritable(self.given, f"{what} lies in it: name another one")

    def _check_replaced(self) -> bool:
        mode = self.place.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise _unwritable(self.given, "it is no regular file")
        files = _files(self.place)
        if not files:
            return False
        known = self._known()
        for name, path in files.items():
            if (what := _kind(path)) and _digest(path) not in [one.get(name) for one in known]:
                raise _unwritable(self.given, f"it is {what}: name another one")
        if self.force:
            return True
        if known:
            digests = {name: _digest(path) for name, path in files.items()}
            if any(digests.items() <= one.items() for one in known):
                return True
            raise _unwritable(
                self.given,
                f"it has been changed since vfl {self.command} wrote it: name another one, or give "
                "--force to replace it",
            )
        if self.is_former(self.place):
            return True
        raise _unwritable(
            self.given,
            f"it is there already and was not written by vfl {self.command}: name another one, or give "
            "--force to replace it",
        )


def belongings(party: Party) -> dict[Path, str]:
    """The files that a party's commands must not write over, and its store, each with what it is."""
    key, certificate = paths(party.party.identity)
    found = {
        party.party.store: f"the store of {party.name}",
        key: f"the private key of {party.name}",
        certificate: f"the certificate of {party.name}",
        rotation.beside(certificate): "what vouches for its certificate",
    }
    if party.section is not None:
        for path in party.section.files:
            found |= table_files(path, f"the table of {party.name}")
        if party.section.password_file is not None:
            found[party.section.password_file] = "the file of a password"
    for name, peer in party.peers.items():
        found[peer.certificate] = f"the certificate of {name}"
    return found


def table_files(path: Path, what: str) -> dict[Path, str]:
    """The files of a table and their folder, each with what it is."""
    try:
        files = files_of(path)
    except (DataError, OSError, ValueError):  # whoever reads the table says so
        files = []
    return {path: what, **dict.fromkeys(files, f"a file of {what}" if files != [path] else what)}


def _same(one: Path, other: Path) -> bool:
    """Whether both names are of one file, as by a hard link."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _files(place: Path) -> dict[str, Path]:
    """A file under "", or those of a folder by name."""
    return {path.name: path for path in place.iterdir()} if place.is_dir() else {"": place}


def _digest(path: Path) -> str:
    if path.is_dir():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _kind(path: Path) -> str | None:
    """What a file is that no command may write over, by its content; None for others."""
    if path.is_dir():
        return None
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.lstrip().startswith(b"-----BEGIN "):
        return "a key or a certificate"
    try:
        sections = tomllib.loads(head.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError):
        return None
    for name in ("party", "job"):
        if isinstance(sections.get(name), dict):
            return f"a {name} file"
    return None


class _Digested(io.BufferedIOBase):
    """A file that is written, with the digest of what has been."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest = file, hashlib.sha256()

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: "ReadableBuffer") -> int:
        """Write bytes."""
        self._digest.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        """How many bytes were written."""
        return self._file.tell()

    @property
    def hexdigest(self) -> str:
        """The SHA-256 of all that was written."""
        return self._digest.hexdigest()


def _unwritable(path: Path, why: str) -> DataError:
    return DataError(
        f"{path} cannot be written: {why}",
        for_peer="it could not write a file of its own (its log has the details)",
    )


# --- Scores. ----------------------------------------------------------------------------------------


def check_scores(path: Path) -> None:
    """Raise DataError for a name that is none of a file of scores."""
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise _unwritable(path, "its name must end in .csv or .parquet, or in / as that of a folder")
    try:
        if path.is_dir():
            raise _unwritable(path, "it is a folder")
    except OSError as error:
        raise _unwritable(path, error.strerror or "it cannot be looked at") from None


class TextForm(NamedTuple):
    """How CSV is written."""

    separator: str = ","
    decimal: str = "."

    @classmethod
    def of(cls, data: DataSection) -> "TextForm":
        """As the party's own table is by its file: who reads 1,5 there reads it in scores."""
        usual = cls(";", ",") if data.decimal == "," else cls()
        given = data.separator
        return usual if given is None or not given.isascii() else cls(given, data.decimal)


PLAIN = TextForm()


def write_scores(
    file: BinaryIO, kind: str, parts: Iterable[ScoreColumns], form: TextForm = PLAIN
) -> dict[str, int]:
    """Write the rows of all parts as CSV or Parquet (`kind` is ".csv" or ".parquet").

    A part holds columns of text or floats, all of its length; each part has the same ones, and there is
    one at least. None and NaN become empty cells, floats are written so that they read back bit for bit.
    In CSV an apostrophe stands before text that a spreadsheet would compute (spreadsheet.py). Returns in
    how many rows that is so, by column.
    """
    parquet = kind.lower() == ".parquet"
    changed: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        writer: pq.ParquetWriter | pa.csv.CSVWriter | None = None
        for columns in parts:
            part = scores_table(columns)
            if not parquet:
                arrays = {}
                for name, column in zip(part.column_names, part.columns, strict=True):
                    if is_text(column.type):
                        column, count = escaped_column(column.combine_chunks())
                        changed[name] = changed.get(name, 0) + count
                        name = named(name)
                    elif form.decimal != ".":
                        column = pc.replace_substring(pc.cast(column, pa.string()), ".", form.decimal)
                    arrays[name] = column
                part = pa.table(arrays)
            if writer is None:
                options = pa.csv.WriteOptions(delimiter=form.separator)
                writer = stack.enter_context(
                    pq.ParquetWriter(file, part.schema)
                    if parquet
                    else pa.csv.CSVWriter(file, part.schema, write_options=options)
                )
            writer.write_table(part)
    return {name: count for name, count in changed.items() if count}


def scores_table(columns: ScoreColumns) -> pa.Table:
    """Columns of scores as a table of Arrow: text, and floats of which NaN is null."""
    return pa.table(
        {
            name: pa.array(values, pa.float64(), from_pandas=True)
            if isinstance(values, np.ndarray)
            else pa.array(values, pa.string())
            for name, values in columns.items()
        }
    )


def write_score_parts(folder: Path, parts: Iterable[ScoreColumns], most: int = PART_ROWS) -> None:
    """Write the rows of all parts as Parquet files part-00000.parquet, ... of some `most` rows each.

    They are those of `write_scores`, and follow each other in the order of the files' names.
    """
    rest = iter(parts)
    pending = next(rest, None)

    def some() -> Iterator[ScoreColumns]:
        nonlocal pending
        rows = 0
        while pending is not None and rows < most:
            yield pending
            rows += len(next(iter(pending.values())))
            pending = next(rest, None)

    number = 0
    while pending is not None:
        with (folder / f"part-{number:05}.parquet").open("wb") as file:
            write_scores(file, ".parquet", some())
        number += 1


def columns_of(path: Path, kind: str, separator: str = ",") -> list[str]:
    """The names of the columns of a file of scores; none of a file that is none."""
    try:
        if kind.lower() == ".parquet":
            return list(pq.read_schema(path).names)
        with path.open("rb") as file:
            head = file.readline(_HEAD)
        options = pa.csv.ParseOptions(delimiter=separator)
        return list(pa.csv.read_csv(io.BytesIO(head), parse_options=options).column_names)
    except (OSError, pa.ArrowException, UnicodeDecodeError):
        return []
