"""The notebook of the car insurance scenario runs from top to bottom."""

from pathlib import Path

import pytest
from notebooks import check_kept_outputs, run_here, told_of
from samples import copy_samples

NOTEBOOK = Path(__file__).parent.parent / "scenarios" / "car_insurance" / "claim_probability.ipynb"


@pytest.mark.timeout(900)
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VFL_NOTEBOOK_WORK", str(tmp_path / "work"))
    monkeypatch.delenv("VFL_NOTEBOOK_DATA", raising=False)
    samples = tmp_path / "samples"
    copy_samples(samples, 1750)
    smaller = {
        "policies=None, trees=None": "policies=None, trees=2",
        "import fremtpl2": f"import fremtpl2; demo.SAMPLES = Path({str(samples)!r})",
        "alpha = 0.001": "alpha = 0.01\ntolerance = 0.01",
    }
    shown = run_here(NOTEBOOK, smaller)
    assert "policies are known to all three" in shown and "report.html" in shown
    assert (tmp_path / "work" / "insurer" / "report" / "report.html").is_file()


def test_the_kept_outputs_are_of_this_notebook() -> None:
    check_kept_outputs(NOTEBOOK, pictures=2)


def test_the_kept_outputs_say_what_messages_reveal() -> None:
    assert {"Offer", "TreeStart", "Gradients", "CandidateSums", "Direction"} <= told_of(NOTEBOOK)
