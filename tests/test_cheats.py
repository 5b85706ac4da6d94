"""Parties that send something else than the program does, in every protocol that can be replayed: their
replay by the program names the first message that differs.

A cheat is another program for the run alone: code that is replaced in it, or messages that are changed
where they leave. The table of docs/audit.md has what is found here by the names of the tests.
"""

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import pytest
import roles
from paillier_key import KEY
from replayed_roles import Lie, Make, Run, again, as_far_as_it_went, live, quick
from roles import GUEST, HOSTS, LEAD

from vfl.crypto.lattice.hint import HintKey
from vfl.learn.binning import bin_columns
from vfl.learn.splits import Candidates
from vfl.net.replay import MessageDiffers
from vfl.protocols.linear import correlations, host_fitting, inflation
from vfl.protocols.oneway import tables
from vfl.protocols.trees import lattice, paillier
from vfl.protocols.trees.candidate_sums import HostSums
from vfl.protocols.trees.lattice import _Offered
from vfl.protocols.trees.paillier import _PaillierGrower
from vfl.protocols.trees.questions import Answers

Change = Callable[[Any], Any]
HOST = HOSTS[0]


TRAINED = cache(roles.scoring)
BEGUN = cache(roles.beginning)

MAKES: Mapping[str, Make] = {
    "alignment by exponents": lambda lent: roles.alignment(HOSTS, "ecdh", lent),
    "alignment by transfers": lambda lent: roles.alignment(HOSTS[:1], "ot", lent),
    "alignment by vector OLE": lambda lent: roles.alignment(HOSTS[:1], "vole", lent),
    "why few ids match": roles.match_rates,
    "trees": lambda lent: roles.boosting(lent=lent, trees=1),
    "trees by sets": lambda lent: roles.boosting(5, lent, trees=1, max_bins=8, ordered_categories="all"),
    "lattice trees": lambda lent: roles.lattice_boosting(lent, trees=1),
    "hidden trees": lambda lent: roles.hidden_boosting("paillier", lent),
    "hidden lattice trees": lambda lent: roles.hidden_boosting("lattice", lent),
    "a linear model": lambda lent: roles.fitting("paillier", lent=lent),
    "a lattice linear model": lambda lent: roles.fitting("lattice", lent=lent, max_iterations=1),
    "a hidden linear model": lambda lent: roles.hidden_fitting("logistic", lent),
    "a hidden model of counts": lambda lent: roles.hidden_fitting("poisson", lent),
    "pairs of levels": lambda lent: roles.fitting_across("paillier", lent),
    "inference": lambda lent: roles.fitting("paillier", infers=True, lent=lent),
    "a table": lambda lent: roles.table("paillier", lent),
    "a lattice table": lambda lent: roles.table("lattice", lent),
    "a table of two hosts": roles.pair,
    "a screening": roles.screening,
    "inflation": roles.inflating,
    "correlations": roles.correlating,
    "rows": roles.adding,
    "scoring": lambda lent: TRAINED(),
    "linear scoring": lambda lent: roles.linear_scoring(),
    "a model gone on from": lambda lent: BEGUN(),
    "worth": lambda lent: roles.worth(),
}
TYPES = {  # of messages with content, of all parties together, at least
    "alignment by exponents": 11,
    "alignment by transfers": 9,
    "alignment by vector OLE": 15,
    "why few ids match": 10,
    "trees": 9,
    "trees by sets": 11,
    "lattice trees": 26,
    "hidden trees": 25,
    "hidden lattice trees": 39,
    "a linear model": 23,
    "a lattice linear model": 39,
    "a hidden linear model": 28,
    "a hidden model of counts": 29,
    "pairs of levels": 37,
    "inference": 82,
    "a table": 9,
    "a lattice table": 19,
    "a table of two hosts": 14,
    "a screening": 9,
    "inflation": 38,
    "correlations": 35,
    "rows": 11,
    "scoring": 6,
    "linear scoring": 6,
    "a model gone on from": 7,
    "worth": 1,
}


def check_found(run: Run, lie: Lie) -> None:
    """Play the liar once more: the first message that differs is the lie."""
    with pytest.raises(MessageDiffers) as found:
        as_far_as_it_went(run, lie.who)
    assert found.value.was is not None and found.value.was.kind == lie.kind, found.value
    assert (found.value.peer, found.value.place) in lie.told


# --- Every message. ---------------------------------------------------------------------------------


def otherwise(value: Any) -> Any:
    """Another value of the same type; the same where there is none."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, bytes):
        return value[:-1] + bytes([value[-1] ^ 1]) if value else value
    if isinstance(value, list | tuple) and value:
        return [otherwise(value[0]), *value[1:]]
    if isinstance(value, dict) and value:
        key = next(iter(value))
        return {**value, key: otherwise(value[key])}
    if isinstance(value, msgspec.Struct):
        return changed(value)
    return value


def changed(message: Any) -> Any:
    """A message with a field that is another; bytes first, which are most of it."""
    fields = {name: getattr(message, name) for name in message.__struct_fields__}
    for name in sorted(fields, key=lambda name: not isinstance(fields[name], bytes)):
        if (other := otherwise(fields[name])) != fields[name]:
            return msgspec.structs.replace(message, **{name: other})
    return message


def kinds_of(run: Run, party: str) -> list[str]:
    """The types of messages that a party has sent, each with content."""
    return sorted({sent.kind for tape in run.tapes[party].values() for sent in tape.sent})


def check_every_message(name: str) -> int:
    """The first message of every type that any party sends is changed, each in a run of its own; of how
    many types."""
    types = 0
    with quick():
        honest = live(MAKES[name])
        for party in honest.tapes:
            for kind in kinds_of(honest, party):
                lie = Lie(party, kind, changed, once=True)
                run = live(MAKES[name], lie=lie)
                if lie.told:  # or it has no content
                    check_found(run, lie)
                    types += 1
    return types


QUICK = {"a table of two hosts", "rows", "scoring", "linear scoring", "worth"}


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[] if one in QUICK else pytest.mark.slow) for one in MAKES]
)
def test_any_message_that_was_changed_is_found(name: str) -> None:
    """Of every type that a party sends, in any protocol that can be replayed; also where the lie ended
    the run for another party."""
    assert check_every_message(name) >= TYPES[name]


# --- Cheats that are worth something. ---------------------------------------------------------------


@dataclass(frozen=True)
class Cheat:
    """What a party does, and the message that gives it away: by other code, or another message."""

    make: str
    who: str
    kind: str
    code: Callable[[], contextlib.AbstractContextManager[Any]] | None = None
    change: Change | None = None


def patched(where: Any, name: str, make: Callable[[Any], Any]) -> Callable[[], Any]:
    """Code in place of other code, which it is made of."""
    return lambda: mock.patch.object(where, name, make(getattr(where, name)))


def of(**fields: Any) -> Change:
    return lambda message: msgspec.structs.replace(message, **fields)


def of_zeros(message: Any) -> Any:
    """As many encrypted zeros."""
    width = KEY.public.width
    zeros = KEY.public.unsafe_encrypt([0] * (len(message.ciphertexts) // width))
    return msgspec.structs.replace(message, ciphertexts=zeros.tobytes())


def by_node(field: str, change: Change) -> Change:
    return lambda m: msgspec.structs.replace(
        m, **{field: {k: change(v) for k, v in getattr(m, field).items()}}
    )


def flipped(name: str) -> Change:
    """All bits of a field the other way."""
    return lambda m: msgspec.structs.replace(m, **{name: bytes(255 - b for b in getattr(m, name))})


def first_word(name: str, by: int = 1) -> Change:
    """Of numbers of eight bytes the first is another."""

    def change(message: Any) -> Any:
        data = getattr(message, name)
        word = (int.from_bytes(data[:8], "little") + by) % 2**64
        return msgspec.structs.replace(message, **{name: word.to_bytes(8, "little") + data[8:]})

    return change


def pairs_of(numbers: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Gradients that are other numbers."""
    return lambda honest: lambda *given: ((numbers(g), h) for g, h in honest(*given))


def vectors_of(numbers: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda honest: lambda *given: numbers(honest(*given))


def one_row(values: Any) -> Any:
    """A 1 in a single row, and 0 in all others."""
    made = np.zeros_like(values)
    made[..., 3] = 1
    return made


def powers_of_two(values: Any) -> Any:
    """Numbers whose sum names the rows that are in it."""
    return np.broadcast_to(1 << (np.arange(values.shape[-1]) % 5), values.shape).astype(values.dtype)


def spoilt_hint(made: Any) -> Any:
    def encrypt(key: HintKey, hint: Any) -> Any:
        return made(key, hint + (np.arange(hint.size, dtype=np.uint64).reshape(hint.shape) << 50))

    return encrypt


def without_noise(draw: Any) -> Any:
    return lambda *given: np.zeros_like(draw(*given))


def one_more(withhold: Any) -> Any:
    def withheld(rows: Any, least: int) -> Any:
        found = withhold(rows, least)
        found[0, 0] = True
        return found

    return withheld


def in_the_clear(send: Any) -> Any:
    """Scores with masks of zeros."""
    masks = mock.Mock(draw=lambda count: np.zeros(count, np.uint64))
    return lambda guest, kind, scores, precision, _, *rest: send(
        guest, kind, scores, precision, masks, *rest
    )


def second_best(best: Any) -> Any:
    """Of hosts' candidates that which comes next on the wire."""

    def chosen(self: Any, growth: Any, parties: Any) -> Any:
        return {
            node: replace(one, candidates=(one.candidates[0] ^ 1,)) if one.party else one
            for node, one in best(self, growth, parties).items()
        }

    return chosen


TREES = {
    "a guest encrypts numbers that name rows": Cheat(
        "trees", GUEST, "Gradients", patched(paillier, "drawn_pairs", pairs_of(powers_of_two))
    ),
    "a guest draws other rows": Cheat("trees", GUEST, "TreeStart", change=flipped("active")),
    "a guest sends rows of a node elsewhere": Cheat("trees", GUEST, "Advance", change=flipped("left")),
    "a guest takes a split that has not the best gain": Cheat(
        "trees", GUEST, "Winners", patched(_PaillierGrower, "best", second_best)
    ),
    "a host makes sums up": Cheat(
        "trees",
        HOST,
        "CandidateSums",
        patched(HostSums, "_left_sums", lambda sums: lambda *given: sums(*given)[::-1].copy()),
    ),
    "a host says that other candidates have enough rows": Cheat(
        "trees", HOST, "CandidateSums", change=flipped("valid")
    ),
    "a host sends rows the wrong way": Cheat("trees", HOSTS[1], "Direction", change=flipped("left")),
    "a guest of lattices asks for a single row": Cheat(
        "lattice trees", GUEST, "Vectors", patched(lattice, "_node_pairs", vectors_of(one_row))
    ),
    "a guest of lattices asks for powers of two": Cheat(
        "lattice trees", GUEST, "Vectors", patched(lattice, "_node_pairs", vectors_of(powers_of_two))
    ),
    "a guest of lattices makes a product up": Cheat(
        "lattice trees", GUEST, "HintProducts", change=first_word("data", 1 << 36)
    ),
    "a guest of lattices says that other rows are drawn": Cheat(
        "lattice trees", GUEST, "Asked", change=flipped("drawn")
    ),
    "a host of lattices has a hint of no matrix": Cheat(
        "lattice trees", HOST, "HintPart", patched(HintKey, "encrypt", spoilt_hint)
    ),
    "a host of lattices has sums of other candidates": Cheat(
        "lattice trees",
        HOST,
        "HintHeader",
        patched(_Offered, "order", lambda order: lambda *given: order(*given)[::-1]),
    ),
    "a host of lattices shifts its sums": Cheat(
        "lattice trees", HOST, "VectorSums", change=first_word("data", 1 << 40)
    ),
    "a host of lattices says that no candidate has enough rows": Cheat(
        "lattice trees",
        HOST,
        "TooFew",
        patched(Answers, "_choose", lambda choose: lambda *given: dict.fromkeys(choose(*given))),
    ),
    "a host of lattices opens other masks of zeros": Cheat(
        "lattice trees", HOST, "ZerosOpened", change=changed
    ),
    "a coordinator names others best": Cheat(
        "hidden trees", LEAD, "BestCandidates", change=by_node("groups", lambda _: [[0]])
    ),
    "a coordinator says that others have won": Cheat(
        "hidden trees", LEAD, "NodesWon", change=lambda m: of(own=[*m.own, 0])(m)
    ),
    "a guest moves masked sums": Cheat(
        "hidden trees", GUEST, "MaskedSums", change=lambda m: of(data=m.data[::-1])(m)
    ),
    "a guest tells of a gain that it has not": Cheat(
        "hidden trees",
        GUEST,
        "SumsLevel",
        change=lambda m: of(nodes=[of(gain=1e9)(one) for one in m.nodes])(m),
    ),
    "a host masks by another seed than it tells": Cheat(
        "hidden trees", HOST, "MaskSeed", change=flipped("seed")
    ),
    "a host says to a coordinator that others have enough rows": Cheat(
        "hidden trees",
        HOST,
        "EnoughRows",
        change=by_node("valid", lambda v: bytes([v[0] ^ 1]) + v[1:]),
    ),
    "a host says that it took another candidate": Cheat(
        "hidden trees", HOSTS[1], "TookCandidates", change=by_node("candidates", lambda v: v + 1)
    ),
}
LINEAR = {
    "a guest has residuals of its choice": Cheat("a linear model", GUEST, "Residuals", change=of_zeros),
    "a guest opens products of its choice": Cheat(
        "a linear model", GUEST, "OpenedProducts", change=changed
    ),
    "a guest gives a host no weight": Cheat(
        "a linear model",
        GUEST,
        "Combine",
        change=lambda m: of(weights=[0.0] * len(m.weights))(m),
    ),
    "a guest takes another step": Cheat("a linear model", GUEST, "Step", change=changed),
    "a guest begins a fit of other rows": Cheat("a linear model", GUEST, "FitStart", change=changed),
    "a host tells scores without a mask": Cheat(
        "a linear model", HOST, "ScoreChange", patched(host_fitting, "send_scores", in_the_clear)
    ),
    "a host tells inner products that it has not": Cheat(
        "a linear model", HOST, "InnerProducts", change=changed
    ),
    "a host of a linear model has a false hint": Cheat(
        "a lattice linear model", HOST, "HintPart", patched(HintKey, "encrypt", spoilt_hint)
    ),
    "a guest opens other sums": Cheat("a lattice linear model", GUEST, "OpenedSums", change=changed),
    "a guest hides residuals of zeros": Cheat(
        "a hidden linear model", GUEST, "HiddenResiduals", change=of_zeros
    ),
    "a coordinator leads one party nowhere": Cheat(
        "a hidden linear model",
        LEAD,
        "NextDirection",
        change=lambda m: of(weights=[0.0] * len(m.weights))(m),
    ),
    "a coordinator opens another gradient": Cheat(
        "a hidden linear model", LEAD, "OpenedGradient", change=changed
    ),
    "a host has a gradient of its choice opened": Cheat(
        "a hidden linear model", HOST, "BlindGradient", change=of_zeros
    ),
    "a host sends a wrong word for a level": Cheat(
        "pairs of levels", HOST, "LevelWords", change=changed
    ),
    "a guest counts other rows by its levels": Cheat(
        "pairs of levels", GUEST, "AcrossLevels", change=changed
    ),
    "a guest has weights of its choice in inference": Cheat(
        "inference", GUEST, "WeightPart", change=changed
    ),
    "a host tells another covariance": Cheat("inference", HOST, "MaskedCovariance", change=changed),
}
OTHERS = {
    "a host makes ids up": Cheat("alignment by exponents", HOST, "AlignStore", change=changed),
    "a host answers under another key": Cheat(
        "alignment by exponents", HOST, "EvaluatedIds", change=changed
    ),
    "a guest says that other rows are common": Cheat(
        "alignment by exponents", GUEST, "CommonRows", change=changed
    ),
    "a guest puts other ids into its store": Cheat(
        "alignment by vector OLE", GUEST, "VoleSlots", change=changed
    ),
    "a host answers otherwise about a sample": Cheat(
        "why few ids match", HOST, "MatchAnswer", change=changed
    ),
    "a guest hides nothing of correlations": Cheat(
        "correlations", GUEST, "CorrelationShares", patched(correlations, "normal", without_noise)
    ),
    "a host adds no noise to inflation": Cheat(
        "inflation", HOST, "InflationShares", patched(inflation, "normal", without_noise)
    ),
    "a host keeps a cell of enough rows to itself": Cheat(
        "a table", HOST, "OpenedCells", patched(tables, "withhold", one_more)
    ),
    "a guest counts rows that are not there": Cheat("a table", GUEST, "MaskedRows", change=changed),
    "a host of two adds up other rows": Cheat(
        "a table of two hosts", HOSTS[1], "TableSums", change=of_zeros
    ),
    "a guest tells a host other sums": Cheat("a screening", GUEST, "ScreenSums", change=changed),
    "a guest tells a host figures that are none": Cheat(
        "a screening", GUEST, "ScreenTold", change=changed
    ),
    "a host tells figures that are none": Cheat("a screening", HOST, "ScreenFigures", change=changed),
    "a host scores with wrong directions": Cheat("scoring", HOST, "Directions", change=flipped("left")),
    "a host sends missing values the other way": Cheat(
        "scoring", HOST, "MissingDirections", change=flipped("left")
    ),
    "a guest scores other rows": Cheat("scoring", GUEST, "ScoreRows", change=changed),
    "a host makes its part of scores up": Cheat("linear scoring", HOST, "PartialScores", change=changed),
    "a guest goes on from another model": Cheat(
        "a model gone on from", GUEST, "InitialModel", change=changed
    ),
    "a client adds more than it has": Cheat("rows", GUEST, "MaskedPart", change=changed),
    "a server puts a key of its own in a client's place": Cheat(
        "rows", LEAD, "ClientKeys", change=changed
    ),
    "a server tells another total": Cheat("rows", LEAD, "MaskedTotal", change=changed),
    "a guest tells figures of worth that are made up": Cheat(
        "worth", GUEST, "WorthFigures", change=changed
    ),
}
CHEATS = TREES | LINEAR | OTHERS


SLOW = {name for name, cheat in CHEATS.items() if cheat.make == "inference"}


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[pytest.mark.slow] if one in SLOW else []) for one in CHEATS]
)
def test_a_party_that_cheats_is_found(name: str) -> None:
    """The first message that differs is where it cheats; nobody else's differ."""
    cheat = CHEATS[name]
    lie = Lie(cheat.who, cheat.kind, cheat.change or (lambda message: message))
    with quick():
        with contextlib.nullcontext() if cheat.code is None else cheat.code():
            run = live(MAKES[cheat.make], lie=lie)
        with pytest.raises(MessageDiffers) as found:
            as_far_as_it_went(run, cheat.who)
        assert found.value.was is not None and found.value.was.kind == cheat.kind
        if cheat.change is not None:
            assert (found.value.peer, found.value.place) in lie.told
            for party in run.tapes.keys() - {cheat.who}:
                as_far_as_it_went(run, party)


# --- What no replay shows. --------------------------------------------------------------------------

ROW = 3  # which trains


def label_of_one_row(objective: str) -> Any:
    rows = TRAINING(objective)
    return replace(rows, label=(np.arange(roles.ROWS) == ROW).astype(np.float64))


TRAINING = roles.training


def test_a_label_that_was_made_up_from_the_start_replays_and_tells_one_row() -> None:
    """A guest whose label is 1 in one row follows the program: its open sums have on which side of each
    candidate of a host's that row is, as encrypted unit vectors would."""
    told: list[tuple[int, bool]] = []
    opened = paillier._PaillierHostColumns._open

    async def look(self: Any, message: Any, node: int) -> Any:
        left, valid, sibling = await opened(self, message, node)
        if self.host.name == HOST and node == 0:
            sent = np.flatnonzero(valid)
            (of_row,) = {*numbers[0][:, ROW]}
            other, hessian = numbers[0][0, ROW + 1], numbers[1][0, ROW + 1]
            for g, h in zip(left.gradient[sent], left.hessian[sent], strict=True):
                rows = round(int(h) / int(hessian))
                told.append((rows, int(g) - rows * int(other) == int(of_row) - int(other)))
        return left, valid, sibling

    numbers: list[Any] = []
    drawn = paillier.drawn_pairs

    def noted(g: Any, h: Any, active: Any, count: int) -> Any:
        numbers[:] = [np.atleast_2d(np.asarray(g)), np.atleast_2d(np.asarray(h))]
        return drawn(g, h, active, count)

    make: Make = lambda lent: roles.boosting(lent=lent, trees=1)  # noqa: E731
    with (
        quick(),
        mock.patch.object(roles, "training", label_of_one_row),
        mock.patch.object(paillier._PaillierHostColumns, "_open", look),
        mock.patch.object(paillier, "drawn_pairs", noted),
    ):
        run = live(make)
        sides = sorted(told)
        for party in run.tapes:
            assert again(run, party) > 0
    binned = bin_columns(roles.FEATURES[HOST], 5, 2, {"number1": "increasing"})
    own, train = Candidates.of(binned.columns), TRAINING("binary").train
    true = []
    for candidate in range(len(own)):
        _, left = own.take(candidate, binned.codes, np.ones(roles.ROWS, np.bool_), train)
        rows = int(left[train].sum())
        if min(rows, int(train.sum()) - rows) >= 3:
            true.append((rows, bool(left[ROW])))
    assert train[ROW] and sides == sorted(true) and {side for _, side in sides} == {True, False}


# --- The tables of docs/audit.md. --------------------------------------------------------------------

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "audit.md"


def test_the_tables_of_the_document_name_tests_that_there_are() -> None:
    """And each cheat of this module is in them, and how many messages were changed."""
    text = PAGE.read_text()
    section = text[text.index("## What was found") : text.index("## Checks on the way")]
    assert MAKES.keys() == TYPES.keys()
    assert f"{sum(TYPES.values())} messages, each of which was named" in " ".join(section.split())
    named = re.findall(r"`tests/(test_\w+\.py)`((?:,? `test_\w+`)+)", section)
    assert len(named) > 50
    for file, tests in named:
        source = (TESTS / file).read_text()
        for test in re.findall(r"`(test_\w+)`", tests):
            assert re.search(rf"^(async )?def {test}\(", source, re.MULTILINE), (file, test)
    for name, cheat in CHEATS.items():
        assert f"| {name} | `{cheat.kind}` |" in section, name
