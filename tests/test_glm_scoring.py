"""Scoring with a linear model over memory: parts, missing rows, chunks, hostile peers."""

import asyncio

import numpy as np
import pytest
from dealt_transfers import dealt_transfers
from memory import over_memory

from vfl.errors import DataError, PeerError, Refused
from vfl.learn.across import CrossedLevels
from vfl.learn.design import Design, Rules
from vfl.net.peer import MemoryPeer
from vfl.protocols.common.batches import ScoreEnd, ScoreRows, ScoreStart, ScoringCourse, all_scores
from vfl.protocols.linear import scoring as glm_scoring
from vfl.protocols.linear.scoring import (
    GuestGlm,
    HostGlm,
    LinearPart,
    MissingScore,
    PartialScores,
    guest_glm_score,
    host_glm_score,
)

ROWS = 50
RNG = np.random.default_rng(1)
SIZES = (ROWS, 30, 40)
HOSTS = ("host0", "host1")


def columns(party: int) -> dict[str, np.ndarray]:
    """A number with a level of missing values, one without, and a category, with missing values."""
    rng, rows = np.random.default_rng([party, 5]), SIZES[party]
    numbers = rng.normal(size=(2, rows))
    numbers[0, rng.random(rows) < 0.2] = np.nan
    return {
        "power": numbers[0],
        "age": numbers[1],
        "brand": rng.choice(np.array(["a", "b", "c", None], object), rows),
    }


FEATURES = [columns(p) for p in range(3)]


def part_of(features: dict[str, np.ndarray]) -> LinearPart:
    design = Design.fit(features, Rules(missing="level", min_level_rows=1))
    return LinearPart(design, tuple(RNG.normal(size=len(design.coefficients)).tolist()))


PARTS = [part_of(features) for features in FEATURES]
OWN, *THEIRS = (
    part.scores(features, rows) for part, features, rows in zip(PARTS, FEATURES, SIZES, strict=True)
)
MISSING = [part.missing_score(features) for part, features in zip(PARTS[1:], FEATURES[1:], strict=True)]
MODEL = GuestGlm(("guest", *HOSTS), 0.7, PARTS[0], 3, True, 0.1, 0.2, 1e-9)
PLACES = [np.where(RNG.random(ROWS) < 0.2, -1, RNG.integers(0, len(t), ROWS)) for t in THEIRS]


def score(rows: int = ROWS, places=PLACES, explain: bool = False, shown=(False, False)):
    """(parts of the batch, rows that each host served, bytes that each sent)."""

    async def guest(peers):
        parts = guest_glm_score(peers, MODEL, FEATURES[0], OWN[:rows], places, explain=explain)
        return [part async for part in parts], [peer.traffic for peer in peers]

    def host(name, peer):
        k = HOSTS.index(name)
        return host_glm_score(
            peer,
            HostGlm(PARTS[k + 1], True),
            FEATURES[k + 1],
            THEIRS[k],
            MISSING[k],
            show_columns=shown[k],
        )

    (parts, traffics), *served = over_memory(HOSTS, guest, host)
    return parts, served, [traffic.bytes_received for traffic in traffics]


def joined(parts) -> np.ndarray:
    return np.concatenate([np.empty(0), *(part.scores for part in parts)])


def expected(rows: int = ROWS, places=PLACES):
    total = MODEL.intercept + OWN[:rows]
    for place, theirs, missing in zip(places, THEIRS, MISSING, strict=True):
        total += np.where(place < 0, missing, theirs[place])
    return total


def test_scores_are_sums_of_parts() -> None:
    (part,), served, _ = score()
    assert np.array_equal(part.scores, expected())
    assert (part.rows, part.contributions) == (slice(0, ROWS), None)
    assert served == [int((place >= 0).sum()) for place in PLACES]


@pytest.mark.parametrize("size", [1, 7, 49, 50])
def test_chunks_of_any_size_change_nothing(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(glm_scoring, "ROWS", size)
    parts, *_ = score()
    assert np.array_equal(joined(parts), expected())
    assert [part.rows.start for part in parts] == list(range(0, ROWS, size))


def test_hosts_that_know_no_row_and_no_rows_at_all() -> None:
    nobody = [np.full(ROWS, -1)] * 2
    parts, served, _ = score(places=nobody)
    assert np.array_equal(joined(parts), expected(places=nobody)) and served == [0, 0]
    assert score(0, [place[:0] for place in PLACES])[:2] == ([], [0, 0])
    alone = all_scores(guest_glm_score([], MODEL, FEATURES[0], OWN, []))
    assert np.array_equal(asyncio.run(alone), MODEL.intercept + OWN)


def term(party: int, column: str) -> np.ndarray:
    """A column's part of each row of its party, and last of a row of missing values."""
    part, absent = PARTS[party], {"power": [np.nan], "age": [np.nan], "brand": [None]}
    both = {name: np.append(values, absent[name]) for name, values in FEATURES[party].items()}
    mine = np.array([name == column for name, _ in part.design.coefficients])
    return part.design.matrix(both).dense()[:, mine] @ np.array(part.coefficients)[mine]


@pytest.mark.parametrize("shown", [(False, False), (True, False), (True, True)])
def test_terms_are_the_columns_of_those_who_show_them(shown) -> None:
    (part,), *_ = score(explain=True, shown=shown)
    assert np.array_equal(part.scores, expected())
    found = {name: term(0, name)[:-1] for name in FEATURES[0]}
    for party, (host, place, show) in enumerate(zip(HOSTS, PLACES, shown, strict=True), start=1):
        terms = {name: term(party, name)[place] for name in FEATURES[party]}
        if show:
            found |= {f"{host}:{name}": values for name, values in terms.items()}
        else:
            found[host] = sum(terms.values())
    assert set(part.contributions) == set(found)
    for name, values in part.contributions.items():
        assert np.allclose(values, found[name], rtol=0, atol=1e-12), name
    total = part.base + sum(part.contributions.values())
    assert part.base == MODEL.intercept and np.abs(total - part.scores).max() < 1e-12


def test_columns_are_sent_only_where_asked_for_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, hidden = score(shown=(True, True))[2], score(explain=True)[2]
    shown = score(explain=True, shown=(True, True))[2]
    assert plain == hidden
    assert all(many > few + 100 for many, few in zip(shown, plain, strict=True))
    # Messages with columns hold fewer rows.
    monkeypatch.setattr(glm_scoring, "_BYTES", 8 * 4 * 10)
    parts, *_ = score(explain=True, shown=(False, True))
    assert [len(part.scores) for part in parts] == [10] * 5
    assert np.array_equal(joined(parts), expected())


def numbers(count: int, value: float = 1.0) -> bytes:
    return np.full(count, value).astype("<f8").tobytes()


def absent(*columns: float) -> MissingScore:
    return MissingScore(sum(columns), {f"column{k}": value for k, value in enumerate(columns)})


NO_NUMBER, COUNT = "with what is no number", "of another number of rows than asked for"


@pytest.mark.parametrize(
    ("explain", "answers", "named"),
    [
        (False, [MissingScore(float("nan"))], f"MissingScore {NO_NUMBER}"),
        (False, [MissingScore(float("inf"))], f"MissingScore {NO_NUMBER}"),
        (False, [PartialScores(b"")], "PartialScores where MissingScore or Stop was due"),
        (False, [MissingScore(0.0), PartialScores(numbers(2))], COUNT),
        (False, [MissingScore(0.0), PartialScores(numbers(3)[:-1])], COUNT),
        (False, [MissingScore(0.0), PartialScores(numbers(3, np.nan))], f"PartialScores {NO_NUMBER}"),
        (False, [MissingScore(0.0), PartialScores(numbers(3, -np.inf))], f"PartialScores {NO_NUMBER}"),
        (False, [MissingScore(0.0), MissingScore(0.0)], "MissingScore where PartialScores"),
        (False, [absent(0.5)], "MissingScore with columns that were not asked for"),
        (True, [absent(0.5, np.inf)], f"MissingScore {NO_NUMBER}"),
        (True, [MissingScore(0.5, {"a": 0.25, "b": 0.5})], "MissingScore whose columns do not add up"),
        (True, [absent(0.5), PartialScores(numbers(3))], COUNT),
        (True, [absent(0.5), PartialScores(numbers(3), numbers(2))], COUNT),
        (True, [absent(0.5), PartialScores(numbers(3), numbers(3, 1.1))], "whose columns do not add up"),
        (True, [MissingScore(0.0), PartialScores(numbers(3), numbers(3))], COUNT),
    ],
)
def test_a_hostile_host_is_named(explain: bool, answers, named: str) -> None:
    async def run() -> None:
        ours, theirs = MemoryPeer.pair("guest", "registry")
        for answer in answers:
            await theirs.send(answer)
        with pytest.raises(PeerError, match=f"registry broke the protocol.*{named}"):
            own, places = np.zeros(4), [np.array([0, -1, 2, 1])]
            features = {name: values[:4] for name, values in FEATURES[0].items()}
            await all_scores(guest_glm_score([ours], MODEL, features, own, places, explain=explain))

    asyncio.run(run())


def places(*of: int) -> ScoreRows:
    return ScoreRows(np.array(of).astype("<u4").tobytes())


@pytest.mark.parametrize(
    ("requests", "named"),
    [
        ([ScoreEnd()], "ScoreEnd where ScoreStart"),
        ([ScoreStart(), ScoreStart()], "ScoreStart where ScoreRows or ScoreEnd"),
        ([ScoreStart(), places(0, 30)], "rows that are not in the alignment"),
        ([ScoreStart(), ScoreRows(b"abc")], "ScoreRows cut short"),
        ([ScoreStart(), places(*[0] * 65_537)], "rows that are not in the alignment"),
        ([ScoreStart(explain=True), places(*[0] * 40_000)], "ScoreRows of too many rows at once"),
    ],
)
def test_a_hostile_guest_is_named(monkeypatch: pytest.MonkeyPatch, requests, named: str) -> None:
    monkeypatch.setattr(glm_scoring, "_BYTES", 8 * 30_000)

    async def run() -> None:
        ours, theirs = MemoryPeer.pair("guest", "registry")
        for request in requests:
            await ours.send(request)
        with pytest.raises(PeerError, match=f"guest broke the protocol.*{named}"):
            await host_glm_score(
                theirs, HostGlm(PARTS[1], True), FEATURES[1], THEIRS[0], MISSING[0], show_columns=True
            )

    asyncio.run(run())


def test_rows_are_counted_before_any_is_answered() -> None:
    counted: list[tuple[int, int]] = []  # rows asked for, answers sent before

    async def run() -> None:
        ours, theirs = MemoryPeer.pair("guest", "registry")

        def admit(rows: int) -> None:
            counted.append((rows, theirs.traffic.sent_messages["PartialScores"]))
            if len(counted) == 3:
                raise Refused("too many rows today")

        for request in (ScoreStart(), places(0, 1), places(2), places(3)):
            await ours.send(request)
        course = ScoringCourse(admit=admit)
        with pytest.raises(Refused, match="too many rows today"):
            await host_glm_score(
                theirs, HostGlm(PARTS[1], True), FEATURES[1], THEIRS[0], MISSING[0], course
            )

    asyncio.run(run())
    assert counted == [(2, 0), (1, 1), (1, 2)]


# --- Pairs of levels of two parties. ----------------------------------------------------------------


def crossed_scores(rows: np.ndarray, codes: np.ndarray, served: list[int]) -> np.ndarray:
    """What a guest reads of a host's parts when it asks for these rows at these levels of its own: a
    batch of one column, `zone`, of which the host's `brand` has cells at levels b and c."""
    levels = ("p", "q", "r")
    zone = Design.fit({"zone": np.array([*levels, "p"], object)}, Rules(min_level_rows=1))
    (factor,), own = zone.factors, PARTS[1].design
    brand = next(one for one in own.factors if one.name == "brand")
    told = tuple((a, b) for a in (1, 2) for b in brand.others[:2])
    kept = CrossedLevels(
        0, "guest:zone", "brand", (factor.base, *factor.others), told, (9,) * 4, (0.3, -0.5, 0.9, 0.1)
    )
    of = (factor.base, *factor.others)
    features = {"zone": np.array([of[code] for code in codes], object)}
    part = LinearPart(zone, (0.0,) * len(zone.coefficients))
    model = GuestGlm(("guest", "host0"), 0.0, part, 3, True, 0.1, 0.2, 1e-9, across=(PAIR,))

    async def guest(peers):
        return await all_scores(guest_glm_score(peers, model, features, np.zeros(len(rows)), [rows]))

    async def host(_, peer):
        half = HostGlm(PARTS[1], True, across=(kept,))
        course = ScoringCourse(progress=lambda done, of: served.append(done))
        return await host_glm_score(peer, half, FEATURES[1], THEIRS[0], MISSING[0], course)

    with dealt_transfers():
        scores, _ = over_memory(["host0"], guest, host)
    return scores


PAIR = ("zone", "host0:brand")


def test_a_row_asked_for_at_each_level_is_refused_within_a_batch(monkeypatch: pytest.MonkeyPatch):
    """Differences between levels would group rows by the host's level. Over several batches they do."""
    every, served = np.arange(SIZES[1]), []
    read = [crossed_scores(every, np.full(len(every), code), []) for code in range(3)]
    differences = np.round(np.stack([read[1] - read[0], read[2] - read[0]], axis=1), 6)
    brand = next(one for one in PARTS[1].design.factors if one.name == "brand")
    levels = brand.codes(FEATURES[1]["brand"])
    groups = {tuple(differences[levels == level][0]) for level in (1, 2)}
    assert len(groups) == 2
    for level in (1, 2):
        same = (differences == differences[levels == level][0]).all(axis=1)
        assert (same == (levels == level)).all()

    twice = np.concatenate([every[:5], every[:1]]), np.array([0, 1, 2, 0, 1, 2])
    with pytest.raises(DataError, match="asks for a row of this table twice in a batch") as error:
        crossed_scores(*twice, served)
    assert "score them in batches of their own" in str(error.value.for_peer) and served == []
    # Of a batch in several chunks, too.
    monkeypatch.setattr(glm_scoring, "ROWS", 3)
    with pytest.raises(DataError, match="asks for a row of this table twice in a batch"):
        crossed_scores(*twice, served)
    assert served == [3]
