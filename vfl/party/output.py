"""Files that a party's commands write for people and their programs."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vfl.errors import DataError
from vfl.party.store import replacing

Columns = Mapping[str, Sequence[str | None] | NDArray[np.float64]]


def write_scores(path: Path, parts: Iterable[Columns]) -> None:
    """Write the rows of all parts as CSV or Parquet, by the extension of `path`.

    A part holds columns of text or floats, all of its length; each part has the same ones, and there is
    one at least. None and NaN become empty cells, floats are written so that they read back bit for bit.
    The file appears whole or not at all, readable by its owner only. Raises DataError.
    """
    check_writable(path)
    with replacing(path) as file, contextlib.ExitStack() as stack:
        writer: Any = None
        for columns in parts:
            arrays = {
                name: pa.array(
                    values,
                    pa.float64() if isinstance(values, np.ndarray) else pa.string(),
                    from_pandas=True,
                )
                for name, values in columns.items()
            }
            part = pa.table(arrays)
            if writer is None:
                kind = pq.ParquetWriter if path.suffix.lower() == ".parquet" else pa.csv.CSVWriter
                writer = stack.enter_context(kind(file, part.schema))
            writer.write_table(part)


def check_writable(path: Path) -> None:
    """Raise DataError now if `write_scores` could not write to `path` later."""
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise DataError(f"{path} cannot be written: its name must end in .csv or .parquet")
    try:
        if path.is_dir():
            raise DataError(f"{path} cannot be written: it is a folder")
        if not path.parent.is_dir():
            raise DataError(f"{path} cannot be written: there is no folder {path.parent}")
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from None
    probe = path.with_name(f".{path.name[:100]}.probe")
    try:
        with replacing(probe) as file:
            file.write(b"\0")
    except DataError as error:
        raise DataError(str(error).replace(str(probe), str(path))) from None
    probe.unlink(missing_ok=True)
