"""What the package answers about totals over clients."""

from typing import Any

import numpy as np
from clients import over_server
from drawn import Drawn
from reference.data import Stream, data

from answered.given import Answers, Given, fixed
from vfl.net.peer import MemoryPeer
from vfl.net.wire import decode
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.pooled.adding import (
    Adder,
    MaskedPart,
    MaskedTotal,
    MaskingAdder,
    SealedSecret,
)
from vfl.protocols.pooled.real_totals import Window, in_words

ANSWERS = Answers()
_KINDS = {kind.__name__: kind for kind in (MaskedPart, MaskedTotal, SealedSecret)}


@ANSWERS.of("steps of clients")
def _(given: Given) -> object:
    names, said = list(given["keys"]), {}

    def opened(to_client: MemoryPeer, _: MemoryPeer) -> None:
        def note(direction: str, kind: str, payload: bytes) -> None:
            if kind in _KINDS:
                said.setdefault((to_client.name, kind), []).append(decode(payload, [_KINDS[kind]]))

        to_client.observers.append(note)

    def made(name: str, server: Any) -> MaskingAdder:
        drawn = [data(given["keys"][name]), *([data(given["group"])] if name == names[0] else [])]
        resources = Resources(randomness=Drawn(fixed(*drawn)))
        own = Participant(name, names, data(given["context"]), resources=resources)
        return MaskingAdder(server, own)

    def role(name: str) -> Any:
        async def add(adder: Adder) -> list[list[int]]:
            steps = [(np.array(s["values"][name], np.int64), s["what"]) for s in given["steps"]]
            return [(await adder.total(values, what)).tolist() for values, what in steps]

        return add

    totals = over_server({name: role(name) for name in names}, opened=opened, made=made)
    steps = []
    for number in range(len(given["steps"])):
        parts = {name: said[name, "MaskedPart"][number] for name in names}
        steps.append(
            {
                "about": parts[names[0]].about.hex(),
                "parts": {name: words(part.words) for name, part in parts.items()},
                "sum": words(said[names[0], "MaskedTotal"][number].words),
                "total": totals[names[-1]][number],
            }
        )
    sealed = {name: said[name, "SealedSecret"][0].sealed.hex() for name in names[1:]}
    return {"sealed": sealed, "steps": steps}


def words(encoded: bytes) -> list[str]:
    return [f"{word:016x}" for word in np.frombuffer(encoded, "<u8").tolist()]


@ANSWERS.of("real numbers")
def _(given: Given) -> object:
    numbers = np.array([float(number) for number in given["numbers"]])
    window = Window(given["lowest"], given["digits"])
    return {"words": in_words(numbers, window, Stream(given["entropy"])).tolist()}
