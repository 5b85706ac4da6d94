"""What `vfl modelcard` draws up: the card of a model, from what this party keeps of its run."""

import platform
from importlib.metadata import version
from pathlib import Path

from vfl.jobs.assessment import settings_of_run
from vfl.jobs.connect import store_of
from vfl.jobs.papers import Paper, PaperPlace
from vfl.jobs.record import now
from vfl.jobs.report import gather
from vfl.models.halves import GuestHalf
from vfl.models.kinds import load_half
from vfl.party.config import Party
from vfl.report.card import PROFILES, CardParts, Profile, card_sections
from vfl.report.page import PageHead
from vfl.report.words import number
from vfl.version import __version__

_PACKAGES = ("numpy", "numba", "scikit-learn", "gmpy2", "cryptography")


def write_card(
    party: Party, model: str, out: Path | None = None, *, profile: Profile = "plain", force: bool = False
) -> Paper:
    """Write the card of a model into a folder of its own, ./modelcard-NAME by default.

    Raises ModelError when the model or the record of its run is missing or damaged, DataError when the
    folder cannot be written.
    """
    evidence = gather(party, model)
    place = PaperPlace(party, "modelcard", out or Path(f"modelcard-{evidence.model}"), force=force)
    packages = {"Python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}
    parts = CardParts(
        evidence, settings_of_run(party, evidence), packages, _changes(party, evidence.model)
    )
    sections = card_sections(parts, profile)
    how = f", {PROFILES[profile]}" if PROFILES[profile] else ""
    head = PageHead(
        title=f"Model card: {evidence.job['job']['name']}",
        over=f"Drafted by {party.name}{how}",
        purpose=evidence.job["job"]["purpose"],
        ended=now(),
        party=party.name,
        version=__version__,
        about=f"model {evidence.model}, a draft for a person to complete and check",
        what="card",
    )
    return place.write(head, sections, parts.sheets)


def _changes(party: Party, model: str) -> list[str]:
    """The edits of a guest's half since training, a sentence each."""
    store = store_of(party)
    if party.role != "guest" or model not in store.names("model"):
        return []
    return [
        f"{one.column}{f' {one.level}' if one.level else ''}: {number(one.before, 4)} to "
        f"{number(one.after, 4)} ({one.rule}{f': {one.reason}' if one.reason else ''})"
        for one in load_half(store, model, GuestHalf).changes
    ]
