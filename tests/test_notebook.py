"""The notebook of the car insurance scenario runs from top to bottom."""

from pathlib import Path

import pytest
from notebooks import check_kept_outputs, run_here, told_of

NOTEBOOK = Path(__file__).parent.parent / "scenarios" / "car_insurance" / "motor_tariff.ipynb"


@pytest.mark.timeout(900)
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VFL_NOTEBOOK_WORK", str(tmp_path / "work"))
    monkeypatch.delenv("VFL_NOTEBOOK_DATA", raising=False)
    shown = run_here(NOTEBOOK, {"ROWS, TREES = 40_000, 60": "ROWS, TREES = 4_000, 2"})
    assert "are known to all three" in shown and "the bureau moves it by" in shown
    assert "report.html" in shown and "signed by all for motor-glm-severity-" in shown
    assert (tmp_path / "work" / "insurer" / "report-motor-trees" / "report.html").is_file()


def test_the_kept_outputs_are_of_this_notebook() -> None:
    check_kept_outputs(NOTEBOOK, pictures=3)


def test_the_kept_outputs_say_what_messages_reveal() -> None:
    assert {"Offer", "FitStart", "Vectors", "VectorSums"} <= told_of(NOTEBOOK)
