"""The notebook of the car insurance scenario runs from top to bottom."""

from pathlib import Path

import pytest
from notebooks import check_kept_outputs, printed, run_notebook, told_of

NOTEBOOK = Path(__file__).parent.parent / "scenarios" / "car_insurance" / "claim_probability.ipynb"


@pytest.mark.timeout(900)
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VFL_NOTEBOOK_WORK", str(tmp_path / "work"))
    monkeypatch.delenv("VFL_NOTEBOOK_DATA", raising=False)
    smaller = {"policies=None, trees=None": "policies=1750, trees=2"}
    shown = printed(run_notebook(NOTEBOOK, smaller))
    assert "policies are known to all three" in shown and "report.html" in shown
    assert (tmp_path / "work" / "insurer" / "report" / "report.html").is_file()


def test_the_kept_outputs_are_of_this_notebook() -> None:
    check_kept_outputs(NOTEBOOK, pictures=2)


def test_the_kept_outputs_say_what_messages_reveal() -> None:
    assert {"Offer", "TreeStart", "Gradients", "CandidateSums", "Direction"} <= told_of(NOTEBOOK)
