"""The notebook of the car insurance scenario runs from top to bottom."""

import html
from pathlib import Path

import nbformat
import pytest
from notebooks import check_kept_outputs, printed, run_notebook

from vfl.jobs.reveals import message_types, reveals

NOTEBOOK = Path(__file__).parent.parent / "scenarios" / "car_insurance" / "claim_probability.ipynb"


@pytest.mark.timeout(900)
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VFL_NOTEBOOK_WORK", str(tmp_path / "work"))
    monkeypatch.delenv("VFL_NOTEBOOK_DATA", raising=False)
    smaller = {"policies=None, trees=None": "policies=2500, trees=4"}
    shown = printed(run_notebook(NOTEBOOK, smaller))
    assert "policies are known to all three" in shown and "report.html" in shown
    assert (tmp_path / "work" / "insurer" / "report" / "report.html").is_file()


def test_the_kept_outputs_are_of_this_notebook() -> None:
    check_kept_outputs(NOTEBOOK, pictures=2)


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
