"""Folders of three companies and a relay for deploy/compose.yaml: python deploy/prepare.py build/compose

Those of the example, with new keys, where all parties meet at the relay. Run by root, the folders become
the container's account's.
"""

import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from vfl import local

ROOT = Path(__file__).resolve().parents[1]
PARTIES = ("insurer", "registry", "bureau")
RELAY = "relay:7443"
ACCOUNT = 10001  # of deploy/container/Containerfile


def prepare(work: Path) -> None:
    """Make the folders anew."""
    local.lay_out(ROOT / "scenarios" / "car_insurance", work, PARTIES)
    for party in PARTIES:
        shutil.copytree(ROOT / "data_samples" / party, work / party, dirs_exist_ok=True)
        file = work / party / f"{party}.toml"
        file.write_text(re.sub(r'"127\.0\.0\.1:[0-9]+"', f'"relay://{RELAY}"', file.read_text()))
    (work / "relay").mkdir()
    (work / "relay" / "relay.toml").write_text('[relay]\nlisten = "0.0.0.0:7443"\n')
    for path in [work, *work.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755 if path == work else 0o700)
        if os.geteuid() == 0:
            os.chown(path, ACCOUNT, ACCOUNT)


def main(arguments: Sequence[str]) -> int:
    """Prepare the folder that is named."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    work = Path(arguments[0]).resolve()
    if work.exists() and not (work / "relay" / "relay.toml").exists():
        print(f"error: {work} is there, and not of this program: name another", file=sys.stderr)
        return 2
    prepare(work)
    if os.geteuid() != 0:
        print(f"the container's account is {ACCOUNT}: podman unshare chown -R {ACCOUNT} {work}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
