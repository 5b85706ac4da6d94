"""A table read on with what its own file proposes, so that all its faults are known after one run."""

from collections.abc import Mapping
from typing import Any, Protocol

from vfl.errors import DataError
from vfl.party.reading import DateColumn, merge, settings_line
from vfl.party.sections import DataSection
from vfl.party.sources.source import TableError
from vfl.party.table import Table, Wanted, examine_table

SHOWN = 5  # rows that a fault names
_ROUNDS = 6  # readings, each with what those before it proposed


class Fail(Protocol):
    """Hears of a fault, and the lines of [data] that would mend it, if there are any."""

    def __call__(self, text: str, advice: str = "") -> None: ...


def read_with_proposals(
    data: DataSection, wanted: Wanted, fail: Fail
) -> tuple[Table | None, DataSection]:
    """The table, if it can be read at last, and [data] with the proposals that it took."""
    told: list[str] = []
    for _ in range(_ROUNDS):
        table, faults = examine_table(data, wanted, SHOWN)
        new = [fault for fault in faults if not any(_holds(text, str(fault)) for text in told)]
        settings = merge(_settings(fault) for fault in new)
        for fault in new:
            fail(str(fault), "\n".join(lines_of(data, changed(data, _settings(fault)))))
        told += [str(fault) for fault in new]
        if not settings:
            return table, data
        data = changed(data, settings)
    return None, data


def _settings(fault: DataError) -> Mapping[str, object]:
    return fault.settings if isinstance(fault, TableError) else {}


def _holds(told: str, text: str) -> bool:
    """Whether all that a fault says of a column was said of it before."""
    subject, _, said = text.partition(" has ")
    return told == text or (
        bool(said)
        and told.startswith(f"{subject} has ")
        and all(s in told for s in said.split("; and "))
    )


def changed(data: DataSection, settings: Mapping[str, Any]) -> DataSection:
    """[data] with some keys more."""
    update: dict[str, object] = {}
    for key, value in settings.items():
        if key == "ignore" and data.columns is not None:
            update["columns"] = tuple(name for name in data.columns if name not in value)
        elif key == "dates":
            rules = {name: DateColumn.model_validate(rule) for name, rule in value.items()}
            update["dates"] = {**data.dates, **rules}
        elif isinstance(value, list):
            update[key] = tuple(dict.fromkeys([*(getattr(data, key) or ()), *value]))
        else:
            update[key] = value
    return data.model_copy(update=update) if update else data


def lines_of(before: DataSection, after: DataSection) -> list[str]:
    """The keys of [data] that differ, as lines of TOML."""
    lines = []
    for key in DataSection.model_fields:
        value = getattr(after, key)
        if value == getattr(before, key):
            continue
        if key == "dates":
            value = {
                name: rule.model_dump(by_alias=True, exclude_none=True, exclude_defaults=True)
                for name, rule in value.items()
            }
        lines.append(settings_line(key, value))
    return lines
