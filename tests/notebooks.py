"""Notebooks of the scenarios, run and looked at."""

import html
from collections.abc import Mapping
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from vfl.jobs.reveals import message_types, reveals


def run_notebook(path: Path, smaller: Mapping[str, str]) -> nbformat.NotebookNode:
    """Run a notebook in its folder, with texts of its first cell of code replaced by others."""
    notebook = nbformat.read(path, as_version=4)
    (first, *_) = (cell for cell in notebook.cells if cell.cell_type == "code")
    for text, other in smaller.items():
        assert text in first.source
        first.source = first.source.replace(text, other)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": path.parent}}).execute()
    return notebook


def printed(notebook: nbformat.NotebookNode) -> str:
    """All text that the cells have printed."""
    found = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    return "".join(output.get("text", "") for output in found)


def check_kept_outputs(path: Path, pictures: int) -> None:
    """Readable without running: every cell of code has run, in order, and none failed."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert "error" not in kinds
    drawn = sum("image/png" in o.get("data", {}) for cell in cells for o in cell.outputs)
    assert drawn == pictures
    assert path.stat().st_size < 1_000_000
    assert str(Path.home()) not in path.read_text()


def kept_tables(path: Path) -> list[str]:
    """The tables among a notebook's kept outputs, as HTML."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found = [output.get("data", {}).get("text/html") for cell in cells for output in cell.outputs]
    return [html.unescape(table) for table in found if table]


def told_of(path: Path) -> set[str]:
    """The messages in the kept tables of what each reveals, in the words of this version."""
    known, found = message_types(), set()
    for table in kept_tables(path):
        if "<th>reveals</th>" in table:
            kinds = [kind for kind in known if f"<td>{kind}</td>" in table]
            for kind in kinds:
                assert f"<td>{reveals(known[kind])}</td>" in table, kind
            found.update(kinds)
    return found
