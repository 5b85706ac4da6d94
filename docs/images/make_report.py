"""Take report.png, the top of the insurer's report, from what the demo leaves.

    make demo
    python docs/images/make_report.py build/demo

Needs Chromium.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from vfl.jobs.report import write_report
from vfl.party.config import load_party

OUT = Path(__file__).with_name("report.png")
WIDTH, HEIGHT = 1100, 2130  # down to the end of the first two figures


def main(work: Path) -> None:
    """Write the report of the demo's newest model and photograph it."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("Chromium is not installed")
    with tempfile.TemporaryDirectory() as folder:
        party = load_party(work / "insurer" / "insurer.toml")
        page = write_report(party, "claim-probability", Path(folder) / "report").page
        shot = Path(folder) / "shot.png"
        options = ("--headless", "--no-sandbox", "--hide-scrollbars", "--disable-gpu")
        size = f"--window-size={WIDTH},{HEIGHT}"
        command = [browser, *options, size, f"--screenshot={shot}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603
        with Image.open(shot) as image:
            few = image.convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE)
            few.save(OUT, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/demo"))
