"""A console in a thread of the tests' process, and what asks it as a browser would."""

import asyncio
import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec
from federation import Party

from vfl.console.service import Service
from vfl.party import approvals as files
from vfl.party.approvals import Approvals
from vfl.party.config import load_party
from vfl.party.store import Store

REQUEST = files.Request(
    id="0a1b2c3d",
    asked="2026-11-30T08:00:00+00:00",
    until="2026-11-30T09:00:00+00:00",
    subject="s",
    guest="insurer",
    task="train",
    run="b41d77e0c2aa",
    hosts=["registry", "bureau"],
    job="claims",
    purpose="pricing",
    model="claims-20261130-080000-b41d77",
    kind="secureboost, binary",
    rows=36412,
    columns=["power", "brand"],
    asks="a model",
    learns=[files.Learnt("insurer", "registry", "bins of rows", "76 %", "20 %", "sums", "fewer trees")],
    budget=["open sums about a row: 0.01 told before"],
    policy=["an alignment: min_intersection = 1000"],
    last="claims-20261101-080000-abcdef",
    changes=[files.Change("secureboost.trees", "2", "30")],
)


@dataclass
class Running:
    """A console that answers."""

    service: Service
    store: Store
    said: list[str]

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.service.port}"

    def token(self, role: str) -> str:
        return self.service.access.made[role]  # type: ignore[index]

    @contextlib.contextmanager
    def waiting(self, **changed: Any) -> Iterator[files.Request]:
        """A job that waits, as long as the block lasts."""
        request = msgspec.structs.replace(REQUEST, **changed)
        with Approvals(self.store).open(request) as opened:
            yield opened

    def browser(self, role: str | None = None, name: str = "ada") -> "Browser":
        made = Browser(httpx.Client(base_url=self.base, timeout=60))
        if role is not None:
            made.sign_in(self.token(role), name)
        return made


class Browser:
    """Keeps cookies, and sends forms as pages have them."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def sign_in(self, token: str, name: str = "ada") -> httpx.Response:
        return self.post("/signin", token=token, name=name, then="/")

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.client.get(path, headers=headers)

    def post(self, path: str, headers: dict[str, str] | None = None, **fields: str) -> httpx.Response:
        return self.client.post(path, data=fields, headers=headers)

    @property
    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.get("/").text)
        assert found is not None
        return found[1]


@contextlib.contextmanager
def serving(party: Party, **settings: Any) -> Iterator[Running]:
    """The console of a party, on a port of its own."""
    party.settings["console"] = {"listen": "127.0.0.1:0", **settings}
    party.write()
    said: list[str] = []
    service = Service(load_party(party.file), said.append)
    ready, loops = threading.Event(), []

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        await service.run(ready.set)

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield Running(service, service.console.store, said)
    finally:
        loops[0].call_soon_threadsafe(service.server.stop)
        thread.join(60)
        assert not thread.is_alive()
