"""Papers for compliance: a page as HTML and as Markdown, in a folder of their own."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vfl.jobs.page_folder import check_folder, is_page, write_folder
from vfl.party.config import Party
from vfl.party.output import OutputPlace
from vfl.report.blocks import PageSection
from vfl.report.markdown import write_markdown
from vfl.report.page import SHEETS, PageHead, csv_of, write_page
from vfl.report.sections import SheetRow


@dataclass(frozen=True)
class Paper:
    """A paper that was written."""

    page: Path
    text: Path  # the same in Markdown
    replaced: bool  # whether an earlier one was there


class PaperPlace:
    """The folder of a paper, checked before anything is computed.

    Raises DataError when it holds something else or cannot be written, and for an earlier paper that was
    changed since, but with `force`.
    """

    def __init__(self, party: Party, command: str, folder: Path, *, force: bool) -> None:
        self._names = f"{command}.html", f"{command}.md"
        place = folder.absolute()
        check_folder(place, {*self._names, *(f"{sheet}.csv" for sheet in SHEETS)}, f"a {command}")
        self._target = OutputPlace.of(
            place,
            command,
            party=party,
            is_former=lambda former: is_page(former / self._names[0]),
            force=force,
        )

    def write(
        self,
        head: PageHead,
        sections: Sequence[PageSection],
        sheets: Mapping[str, Iterable[SheetRow]] | None = None,
    ) -> Paper:
        """Write both forms, and tables beside them."""
        files = {
            self._names[0]: write_page(head, sections).encode(),
            self._names[1]: write_markdown(head, sections).encode(),
            **{f"{name}.csv": csv_of(rows) for name, rows in (sheets or {}).items()},
        }
        replaced = self._target.check()
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        self._target.note(digests)
        folder = self._target.place
        write_folder(folder, files)
        return Paper(folder / self._names[0], folder / self._names[1], replaced)
