"""Rating tables as a workbook: a sheet a factor, the base rate, and a log of changes.

No cell is one that a spreadsheet computes: text is stored as text and, as in files of CSV, with an
apostrophe where it could be taken for a formula.
"""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vfl.models.halves import Change
from vfl.models.tariff import TariffLine
from vfl.party.spreadsheet import named
from vfl.text import shown

if TYPE_CHECKING:
    from openpyxl import Workbook
    from openpyxl.worksheet.worksheet import Worksheet

GENERATOR = "vfl tariff"
_TITLE = 31  # characters of a sheet's name
_LONGEST = 2000  # of a cell
_WIDE, _MOST = 12, 60  # characters of a column


@dataclass(frozen=True)
class RatingTables:
    """What a workbook holds. facts: of the first sheet. factors: by column, the party's own. of_others:
    by party, the lines that their owners have given (column, level, relativity, rows). by_service: the
    parties whose factors are not here."""

    facts: Sequence[tuple[str, object]]
    factors: Mapping[str, Sequence[TariffLine]]
    of_others: Mapping[str, Sequence[tuple[str, str, float | None, int | None]]]
    by_service: Sequence[str]
    changes: Sequence[Change]
    points: bool
    relative: str = "relativity"  # or odds ratio

    def workbook(self) -> bytes:
        """The workbook."""
        from openpyxl import Workbook

        book = Workbook()
        book.properties.creator = book.properties.title = GENERATOR
        first = book.active
        first.title = "Tariff"
        _fill(first, [("", ""), *self.facts])
        for column, lines in self.factors.items():
            _fill(_sheet(book, column), self._table(lines))
        for party, theirs in self.of_others.items():
            head = ("column", "level", self.relative, "rows")
            _fill(_sheet(book, f"{party} factors"), [head, *theirs])
        if self.by_service:
            rows = [("party", "factors")]
            rows += [(party, "rated by the service") for party in self.by_service]
            _fill(_sheet(book, "Rated by the service"), rows)
        log = [("number", "column", "level", "before", "after", "by", "reason")]
        _fill(
            _sheet(book, "Changes"),
            [
                *log,
                *(
                    (n, c.column, c.level, c.before, c.after, c.rule, c.reason)
                    for n, c in enumerate(self.changes, start=1)
                ),
            ],
        )
        file = io.BytesIO()
        book.save(file)
        return file.getvalue()

    def _table(self, lines: Sequence[TariffLine]) -> list[Sequence[object]]:
        slope = any(line.unit is not None for line in lines)
        head: list[object] = ["level", f"{self.relative}, fitted", self.relative, "rows in training"]
        head += ["per so many units"] if slope else []
        head += ["points"] if self.points else []
        table: list[Sequence[object]] = [head]
        for line in lines:
            cells: list[object] = [line.level, line.fitted, line.charged, line.rows]
            cells += [line.unit] if slope else []
            cells += [line.points] if self.points else []
            table.append(cells)
        return table


def _fill(sheet: "Worksheet", rows: Iterable[Sequence[object]]) -> None:
    from openpyxl.styles import Font

    widths: dict[int, int] = {}
    for number, row in enumerate(rows, start=1):
        for place, value in enumerate(row, start=1):
            cell = sheet.cell(number, place)
            if isinstance(value, str):
                text = named(shown(value, _LONGEST))
                cell.value = text
                cell.data_type = "s"  # whatever it looks like
                widths[place] = max(widths.get(place, 0), len(text))
            elif value is not None:
                cell.value = value
            if number == 1:
                cell.font = Font(bold=True)
    for place, width in widths.items():
        letter = sheet.cell(1, place).column_letter
        sheet.column_dimensions[letter].width = min(max(width + 2, _WIDE), _MOST)
    sheet.freeze_panes = "A2"


def _sheet(book: "Workbook", name: str) -> "Worksheet":
    """A sheet of a name that Excel takes, and that no other sheet has."""
    plain = re.sub(r"[\[\]:*?/\\'=+@\x00-\x1f-]", " ", shown(name)).strip() or "factor"
    taken = {title.casefold() for title in book.sheetnames} | {"history"}
    title, number = plain[:_TITLE], 2
    while title.casefold() in taken:
        end = f" {number}"
        title, number = plain[: _TITLE - len(end)] + end, number + 1
    return book.create_sheet(title)
