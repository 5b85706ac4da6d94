"""What the package answers about oblivious transfers."""

import numpy as np
from reference import transfers as slow_transfers
from reference.data import Stream, data, sha256

from answered.engines import both_roles
from answered.given import Answers, Given, hexes, rows
from vfl.crypto import (
    base_ot,
    linear_code,
)
from vfl.crypto.ot_extension import Chooser, Keeper
from vfl.protocols.align import ot_oprf

ANSWERS = Answers()


@ANSWERS.of("base transfers")
def _(given: Given) -> object:
    context, chosen = data(given["context"]), given["chosen"]
    sender = base_ot.Sender(len(chosen), context, Stream(given["sender"]))
    receiver = base_ot.Receiver(chosen, context, Stream(given["receiver"]))
    keys = sender.keys(receiver.points)
    return {
        "sent": hexes(sender.points),
        "choices": [hexes(pair) for pair in receiver.points],
        "keys": [hexes(keys[:, label]) for label in (0, 1)],
        "chosen keys": hexes(receiver.keys(sender.points)),
    }


@ANSWERS.of("code")
def _(given: Given) -> object:
    return {
        "generator": f"{linear_code.generator_polynomial():x}",
        "words": hexes(linear_code.encode(rows(map(data, given["messages"])))),
    }


@ANSWERS.of("extension")
def _(given: Given) -> object:
    keys = np.array(
        [[list(key) for key in pair] for pair in slow_transfers.given_keys(given["keys"])], np.uint8
    )
    chosen = np.array(slow_transfers.bits_of(data(given["secret"])), np.uint8)
    messages, transcript = rows(map(data, given["messages"])), data(given["transcript"])
    chooser = Chooser(keys, transcript, Stream(given["entropy"]))
    keeper = Keeper(chosen, keys[np.arange(len(keys)), chosen], transcript)
    own, sent, sums = chooser.extend(messages)
    kept = keeper.extend(len(messages), sent, sums)
    assert np.array_equal(kept, own ^ keeper.mask(messages))
    again, sent_again, sums_again = chooser.extend(messages[:1])
    assert np.array_equal(keeper.extend(1, sent_again, sums_again), again ^ keeper.mask(messages[:1]))
    size = len(sent) // linear_code.LENGTH
    return {
        "rows of the chooser": hexes(own),
        "rows of the keeper": hexes(kept),
        "columns": {"first": sent[:size].hex(), "sha256": sha256(sent)},
        "sums": {"first": sums[:32].hex(), "last": sums[-32:].hex(), "sha256": sha256(sums)},
        "next part": {
            "rows of the chooser": hexes(again),
            "columns": {"sha256": sha256(sent_again)},
            "sums": {"sha256": sha256(sums_again)},
        },
    }


@ANSWERS.of("function")
def _(given: Given) -> object:
    values = [value.encode() for value in given["ids"]]
    sent, of_guest, of_host = both_roles(ot_oprf, given, values, values, given["host"])
    assert of_guest == of_host
    keys, choices = sent["TransferKeys"], sent["TransferChoices"]
    return {
        "TransferKeys": {"first": keys[:32].hex(), "sha256": sha256(keys)},
        "TransferChoices": {
            "first": [choices[:32].hex(), choices[32:64].hex()],
            "sha256": sha256(choices),
        },
        "outputs": of_guest,
    }
