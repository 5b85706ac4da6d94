"""All of it in one process: hosts seal directories, the service answers over HTTP as `vfl score`."""

import asyncio
import contextlib
import csv
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from quotes import client
from room import Room
from test_host_lookups import InRoom, Trained, room

from vfl.errors import VflError
from vfl.jobs import storage
from vfl.jobs.doctor import examine
from vfl.online import directories
from vfl.online.catalogue import Sources
from vfl.online.directories import SiteDirectories
from vfl.online.service import Online
from vfl.party.online_section import OnlineSection

__all__ = ["room"]

RULES = {name: {"deadline": 20_000} for name in ("registry", "bureau")}


class _Meeting(InRoom):
    """Where the service meets the hosts of the room."""

    last: "_Meeting"

    def __init__(self, site: Any, show: Any, ended: VflError) -> None:
        super().__init__(self.of)
        _Meeting.last = self

    of: Room

    @contextlib.asynccontextmanager
    async def open(self, names: Sequence[str]) -> AsyncIterator["_Meeting"]:
        yield self


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Rows as a client may send them: numbers as text, as they stand in the file."""
    with path.open(newline="") as file:
        return [{name: cell or None for name, cell in row.items()} for row in csv.DictReader(file)]


def test_quotes_are_those_of_a_batch_and_outlive_a_host(
    room: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, model = room
    monkeypatch.setattr(_Meeting, "of", there, raising=False)
    monkeypatch.setattr(directories, "Meeting", _Meeting)
    there.score(model, "aligned.csv", explain=True)
    expected = rows_of(there.folder / "aligned.csv")
    rows = rows_of(there.folder / "new.csv")
    given = {"plain_http": True, "without_tokens": True, "listen": "127.0.0.1:0", "hosts": RULES}
    section = OnlineSection.model_validate(given, strict=True)
    said: list[str] = []

    async def run() -> None:
        site = there.site("insurer")
        async with SiteDirectories(site, there.said["insurer"], 5) as source:
            service = Online(Sources(site.store, site.party.data, source), section, said.append)
            await service.begin()
            async with client(service) as asking:

                async def ask(some: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
                    answer = await asking.post("/v1/score", json={"rows": some, **more})
                    assert answer.status_code == 200, answer.text
                    return dict(answer.json())

                whole = await ask(rows, explain=True)
                for found, line in zip(whole["results"], expected, strict=True):
                    assert found["prediction"] == float(line["probability"] or 0)
                    assert " ".join(found["unknown_to"]) == (line["unknown_to"] or "")
                    assert found["reasons"] == (line["reasons"] or "")
                one, *_ = (await ask(rows[:1]))["results"]
                assert one["prediction"] == whole["results"][0]["prediction"]
                # A host is killed, and comes back.
                meeting = _Meeting.last
                meeting.away.add("registry")
                await meeting.peers["registry"].close()
                without = await ask(rows[:3])
                assert without["away"] == ["registry"]
                assert all("registry" in row["unknown_to"] for row in without["results"])
                assert (await asking.get("/readyz")).json()["away"] == ["registry"]
                meeting.away.clear()
                while (after := await ask(rows[:3]))["away"]:
                    await asyncio.sleep(0.01)
                assert [row["prediction"] for row in after["results"]] == [
                    row["prediction"] for row in whole["results"][:3]
                ]
            await service.catalogue.close()

    asyncio.run(run())
    assert any(line.startswith(f"serving {model} with the directories of registry") for line in said)


def test_the_doctor_leaves_the_place_alone_where_the_service_awaits_hosts(room: Trained) -> None:
    there, _ = room
    site = there.site("insurer")
    at = site.party.party.listen
    section = OnlineSection.model_validate({"plain_http": True, "without_tokens": True}, strict=True)
    party = site.party.model_copy(update={"online": section})

    def examined() -> list[str]:
        lines: list[str] = []
        asyncio.run(examine(party, 0.05, lambda found: lines.append(found.line)))
        return lines

    with storage.online(site):
        assert any(
            line.startswith("note") and f"awaits bureau and registry at {at}: not tried" in line
            for line in examined()
        )
    assert storage.who_is_online(site.store.root) is None
    assert any("FAIL" in line and "did not dial in" in line for line in examined())
