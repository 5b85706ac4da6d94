"""Identities whose certificates begin and end when a test says."""

import datetime
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from vfl.party import identity
from vfl.party.identity import Identity

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


def create(folder: Path, name: str, begins: datetime.timedelta, ends: datetime.timedelta) -> Identity:
    """An identity that is valid between two moments, told from now."""
    made = NOW + begins + DAY  # a certificate begins a day before it is made
    clock = SimpleNamespace(
        datetime=SimpleNamespace(now=lambda zone: made), timedelta=datetime.timedelta, UTC=datetime.UTC
    )
    with (
        mock.patch.object(identity, "datetime", clock),
        mock.patch.object(identity, "VALID", NOW + ends - made),
        mock.patch.object(identity, "invalidity", lambda *_: None),
    ):
        return identity.create(folder / name, name)


def text(moment: datetime.datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
