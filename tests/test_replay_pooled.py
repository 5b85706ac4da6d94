"""Models over rows replay: each client sends the same from the same secret, and nothing of another's."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
import roles
from hostile import Peers, Scenario
from replayed_roles import Make, check_replays
from roles import LEAD, Lent
from row_jobs import make_job
from row_parts import fitting

from vfl.learn.params import BoostParams, GlmParams
from vfl.protocols.common.participant import Participant
from vfl.protocols.pooled.adding import Adder, MaskingAdder
from vfl.protocols.pooled.adding_server import serve_totals

RANDOM = {"ClientKey", "ClientKeys", "GroupSecret", "SealedSecret", "MaskedPart", "MaskedTotal"}


def over_a_server(of_clients: Mapping[str, Callable[[Adder], Awaitable[Any]]]) -> Make:
    names = tuple(of_clients)

    def make(lent: Lent) -> Scenario:
        async def client(name: str, peers: Peers) -> None:
            own = Participant(name, names, b"run", resources=lent(name))
            adder = MaskingAdder(peers[LEAD], own)
            await of_clients[name](adder)
            await adder.end()

        def parties(peers: Mapping[str, Peers]) -> Mapping[str, Awaitable[Any]]:
            server = serve_totals(list(peers[LEAD].values()))
            return {LEAD: server} | {name: client(name, peers[name]) for name in names}

        return Scenario("over rows", tuple((LEAD, name) for name in names), parties)

    return make


def trees() -> Make:
    job = make_job(1, 120, "poisson", BoostParams(trees=2, depth=2, min_child_rows=5))
    return over_a_server(dict.fromkeys(job.clients, job.role))


RUNS = {
    "totals": lambda: lambda lent: roles.adding(lent),
    "trees": trees,
    "a linear model": lambda: over_a_server(fitting("poisson", GlmParams(max_iterations=2))),
}


@pytest.mark.parametrize("name", RUNS)
def test_each_role_sends_the_same_again(name: str) -> None:
    check_replays(RUNS[name](), RANDOM)
