"""Tables as files, for the tests of what reads them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vfl.errors import DataError
from vfl.party.sections import DataSection
from vfl.party.sources.source import TableError
from vfl.party.table import Table, read_table

Written = str | bytes | Callable[[Path], object]


def write(path: Path, content: Written) -> Path:
    """Write text, bytes, or by a function that is given the path."""
    if isinstance(content, str | bytes):
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    else:
        content(path)
    return path


def read(path: Path, content: Written, **keys: Any) -> Table:
    """What a party reads of a file whose id is `id`; keys: further ones of [data]."""
    section = DataSection.model_validate({"path": write(path, content), "id": "id", **keys})
    return read_table(section, role="guest", need_label=False)


def features(table: Table) -> dict[str, list[Any]]:
    return {name: values.tolist() for name, values in table.features.items()}


@contextmanager
def refused(said: str, *absent: str, settings: dict[str, Any] | None = None) -> Iterator[None]:
    """Expect one printable line that says `said`, holds none of `absent` and proposes `settings`."""
    with pytest.raises(DataError) as raised:
        yield
    text = str(raised.value)
    assert said in text, text
    assert text.isprintable()
    for value in absent:
        assert value not in text
    if settings is not None:
        assert isinstance(raised.value, TableError)
        assert raised.value.settings == settings
