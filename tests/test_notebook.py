"""The notebook of the car insurance scenario runs from top to bottom."""

import html
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from vfl.jobs.reveals import message_types, reveals

NOTEBOOK = Path(__file__).parent.parent / "scenarios" / "car_insurance" / "claim_probability.ipynb"


@pytest.mark.timeout(900)
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VFL_NOTEBOOK_WORK", str(tmp_path / "work"))
    monkeypatch.delenv("VFL_NOTEBOOK_DATA", raising=False)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (first, *_) = (cell for cell in notebook.cells if cell.cell_type == "code")
    assert "policies=None, trees=None" in first.source
    first.source = first.source.replace("policies=None, trees=None", "policies=1750, trees=2")
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": NOTEBOOK.parent}}).execute()
    shown = outputs(notebook)
    assert "policies are known to all three" in shown and "report.html" in shown
    assert (tmp_path / "work" / "insurer" / "report" / "report.html").is_file()


def test_the_kept_outputs_are_of_this_notebook() -> None:
    """Readable without running: every cell of code has run, in order, and none failed."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert "error" not in kinds
    pictures = sum("image/png" in o.get("data", {}) for cell in cells for o in cell.outputs)
    assert pictures == 2
    assert NOTEBOOK.stat().st_size < 1_000_000
    assert str(Path.home()) not in NOTEBOOK.read_text()


def test_the_kept_outputs_say_what_messages_reveal() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (table,) = [
        html.unescape(output.data["text/html"])
        for cell in notebook.cells
        if cell.cell_type == "code" and "message_types()" in cell.source
        for output in cell.outputs
    ]
    known = message_types()
    sent = [kind for kind in known if f"<td>{kind}</td>" in table]
    assert {"Offer", "TreeStart", "Gradients", "CandidateSums", "Direction"} <= set(sent)
    for kind in sent:
        assert f"<td>{reveals(known[kind])}</td>" in table


def outputs(notebook: nbformat.NotebookNode) -> str:
    """All text that the cells have printed."""
    found = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    return "".join(output.get("text", "") for output in found)
