"""Parties whose stores are kept with the tests, as versions of vfl have left them."""

import shutil
import tomllib
from pathlib import Path

from federation import WIDE, Party

STORES = Path(__file__).parent / "stores"


def copy_parties(version: str, target: Path) -> dict[str, Party]:
    """The parties of a version, in folders that a test may change."""
    parties = {}
    for home in (STORES / version).iterdir():
        folder = target / home.name
        shutil.copytree(home, folder)
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o700 if path.is_dir() else 0o600)
        settings = tomllib.loads((folder / f"{home.name}.toml").read_text())
        if "policy" in settings:  # by now hosts allow less by default
            settings["policy"] = {**WIDE, **settings["policy"]}
            settings["policy"]["encryptions"] = ["paillier"]  # of what version 1 listed
        parties[home.name] = Party(home.name, folder, settings)
        parties[home.name].write()
    return parties
