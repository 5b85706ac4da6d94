"""Ways to write ids: dirty tables end with the right advice at both parties, and never a value."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import over_memory

from vfl.crypto.randomness import OF_SYSTEM
from vfl.jobs.diagnosis import are_few, guest_diagnosis, host_diagnosis
from vfl.net import wire
from vfl.party.id_cells import IdReading
from vfl.party.id_trials import Attempt, CleaningWay, OwnKey, advise, attempts, combine, trials
from vfl.party.ids import compose, normalise
from vfl.protocols.align import match_rates
from vfl.protocols.align.match_rates import (
    MatchAnswer,
    MatchCounts,
    MatchIds,
    MatchRate,
    MatchSample,
    MatchShare,
    MatchSizes,
    MatchStart,
)

EVERY = [MatchStart, MatchShare, MatchIds, MatchSizes, MatchSample, MatchAnswer, MatchCounts]

RULE = ("nfkc", "trim", "upper", "alnum")
LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
ROWS = 900


@pytest.fixture(autouse=True)
def small_samples(monkeypatch):
    monkeypatch.setattr(match_rates, "SAMPLE", 300)


class Lines:
    """Keeps what a person would see."""

    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)

    def progress(self, what, done, of):
        pass


def diagnose(guest, host, rule=RULE, *, refused=None, wired=None, admit=lambda ids: True):
    """(diagnosis, lines) of the guest and of the host. Columns are lists of cells."""
    shown = Lines(), Lines()

    def opened(to_host, _):
        if wired is not None:
            to_host.observers.append(lambda direction, kind, payload: wired.append(payload))

    def ask(peers):
        own = OwnKey(guest, ["plate", "born"][: len(guest)], rule)
        return guest_diagnosis(peers, own, context=b"run", randomness=OF_SYSTEM, show=shown[0])

    async def serve(name, peer):
        return await host_diagnosis(
            peer,
            await peer.recv(MatchStart),
            OwnKey(host, ["kennzeichen", "erstzulassung"][: len(host)], rule),
            name=name,
            context=b"run",
            randomness=OF_SYSTEM,
            refused=refused,
            admit=admit,
            show=shown[1],
        )

    found, theirs = over_memory(["registry"], ask, serve, guest="insurer", opened=opened)
    return (found["registry"], shown[0].lines), (theirs, shown[1].lines)


RNG = random.Random(8)
PLATES = [
    "".join(RNG.choice(LETTERS) for _ in range(2)) + f"{RNG.randrange(10**5):05}" for _ in range(ROWS)
]
VINS = ["WVWZZZ1JZ" + "".join(RNG.choice("01ABC234567") for _ in range(8)) for _ in range(ROWS)]
NUMBERS = [str(RNG.randrange(1, 10**9)) for _ in range(ROWS)]
DAYS = [(RNG.randrange(1950, 2005), RNG.randrange(1, 13), RNG.randrange(1, 29)) for _ in range(ROWS)]
PHONES = [f"{RNG.randrange(10**9):09}" for _ in range(ROWS)]
ISO = [f"{y}-{m:02}-{d:02}" for y, m, d in DAYS]
DMY = [f"{d:02}/{m:02}/{y}" for y, m, d in DAYS]
MDY = [f"{m:02}/{d:02}/{y}" for y, m, d in DAYS]
OTHERS = [
    "".join(RNG.choice(LETTERS) for _ in range(2)) + f"{RNG.randrange(10**5):05}" for _ in range(ROWS)
]
OUTSIDE = slice(ROWS // 12, None)  # the rows that the host knows


@pytest.mark.parametrize(
    ("guest", "host", "rule", "advised"),
    [
        ([f"{p[:2]}-{p[2:]}" for p in PLATES], PLATES, ("trim", "upper"), [["plate"]]),
        ([p.lower() for p in PLATES], PLATES, ("trim",), [["nfkc", "trim", "upper"]]),
        ([f" {p}" for p in PLATES], PLATES, (), [["trim"]]),
        ([v.replace("0", "O").replace("1", "I") for v in VINS], VINS, RULE, [["vin"]]),
        ([n.zfill(10) for n in NUMBERS], NUMBERS, RULE, [["plate", "nozeros"]]),
        ([f"No. {n.zfill(10)}" for n in NUMBERS], NUMBERS, RULE, [["digits", "nozeros"]]),
        ([f"policy {n.zfill(9)}" for n in NUMBERS], [n.zfill(9) for n in NUMBERS], RULE, [["digits"]]),
        ([f"+49 {p}" for p in PHONES], [f"0049-{p}" for p in PHONES], RULE, [["phone"]]),
    ],
)
def test_how_one_column_is_to_be_cleaned(guest, host, rule, advised):
    (found, lines), (theirs, at_host) = diagnose([guest], [host[OUTSIDE]], rule)
    assert found.rates == theirs.rates
    assert [list(steps) for steps in found.advice.normalise] == advised
    assert theirs.advice.normalise == found.advice.normalise
    steps = ", ".join(f'"{step}"' for step in advised[0])
    for said in (lines, at_host):
        assert f"set normalise = [{steps}] in [data] of all party files" in said[-1]
        assert "100 % of the smaller sample's ids match" in said[-1]
    assert normalise([guest], advised[0], "first").ids != normalise([guest], rule, "first").ids


@pytest.mark.parametrize(
    ("guest", "host", "step"),
    [
        (ISO, DMY, "date:dmy"),
        (MDY, ISO, "date:mdy"),
        (ISO, [f"{d}.{m}.{y}" for y, m, d in DAYS], "date"),
    ],
)
def test_how_the_date_of_two_columns_is_to_be_read(guest, host, step):
    (found, lines), (theirs, at_host) = diagnose([PLATES, guest], [PLATES[OUTSIDE], host[OUTSIDE]])
    assert found.rates == theirs.rates
    assert found.rates[0].common == 0
    assert found.advice.normalise == (RULE, (step,))
    assert "; at fault: column 'born': set normalise" in lines[-1]
    assert "; at fault: column 'erstzulassung': set normalise" in at_host[-1]
    assert f'"born" = ["{step}"] }}' in lines[-1]
    assert f'"erstzulassung" = ["{step}"] }}' in at_host[-1]  # each side reads its own columns' names
    assert [a.ways for a in found.tried] == [
        a.ways for a in attempts(RULE, 2)
    ]  # nothing to put together


def test_both_columns_at_fault():
    """In rows of their own: one in three plates has a hyphen, one date in two is another format."""
    dashed = [f"{p[:2]}-{p[2:]}" if k % 3 == 0 else p for k, p in enumerate(PLATES)]
    dates = [day if k % 2 else other for k, (day, other) in enumerate(zip(ISO, DMY, strict=True))]
    (found, lines), (theirs, _) = diagnose([dashed, dates], [PLATES[OUTSIDE], ISO[OUTSIDE]], ("trim",))
    assert found.rates == theirs.rates
    assert found.rates[0].share == pytest.approx(1 / 3, abs=0.08)
    # Of ways that do as well on the sample, which is another each time, the gentlest.
    plates = found.tried[-1].name.removeprefix("all columns: ").removesuffix(" | date:dmy")
    assert plates in ("plate", "alnum", "digits", "digits, nozeros")
    assert found.advice.normalise == ((plates,), ("date:dmy",))
    assert "; at fault: columns 'plate' and 'born': set" in lines[-1]


def test_both_columns_at_fault_in_the_same_rows_are_not_told():
    """Whole ids alone are compared, and to clean one column makes none of them match."""
    dashed = [f"{p[:2]}-{p[2:]}" for p in PLATES]
    (found, lines), _ = diagnose([dashed, DMY], [PLATES[OUTSIDE], ISO[OUTSIDE]], ("trim",))
    assert found.advice.normalise is None
    assert all(not rate.common for rate in found.rates)
    assert "two that are written differently in the same rows do not show" in lines[-1]


def test_dates_whose_day_and_month_change_places():
    (found, lines), (_, at_host) = diagnose([PLATES, DMY], [PLATES[OUTSIDE], MDY[OUTSIDE]])
    assert found.advice.normalise is None
    assert "Write the dates as 2024-12-31 in one of the two files (here column 'born')" in lines[-1]
    assert "(here column 'erstzulassung')" in at_host[-1]


def test_a_column_that_matches_by_no_rule():
    ages = [str(RNG.randrange(10**8)) for _ in PLATES]
    (found, lines), (_, at_host) = diagnose([PLATES, DMY], [PLATES[OUTSIDE], ages[OUTSIDE]])
    assert found.advice.normalise is None
    assert "advice: no rule helps with registry" in lines[-1]
    assert "advice: no rule helps with insurer" in at_host[-1]
    for said in (lines, at_host):  # that the plates alone would match is not to be seen
        assert "100" not in "".join(said[2:])


@pytest.mark.parametrize("rule", [RULE, ("trim",)])
@pytest.mark.parametrize("make", [lambda p: p, lambda p: f"{p[:2]}{int(p[2:]) % 500}"])
def test_other_ids_match_by_no_rule(rule, make):
    """Digits of plates are few: any two tables match by them."""
    (found, lines), _ = diagnose([list(map(make, PLATES))], [list(map(make, OTHERS))], rule)
    assert found.advice.normalise is None
    assert lines[-1].startswith("advice: no rule helps with registry: these may be different ids")
    if make(PLATES[0]) != PLATES[0]:
        assert max(rate.share or 0 for rate in found.rates) > 0.5


def test_a_rule_that_fits():
    (found, lines), _ = diagnose([PLATES], [PLATES[OUTSIDE]])
    assert "advice: the present rule fits: 100 % of" in lines[-1]
    assert found.advice.normalise is None


def test_too_few_ids_to_compare():
    (found, lines), _ = diagnose([PLATES[:90]], [PLATES])
    assert lines == [
        "advice: no way to write the ids could be compared with registry: there are too few ids for a "
        "sample, or one table is far larger than the other"
    ]
    assert found.as_json()["rates"] == []


@pytest.mark.parametrize(
    ("reason", "at_guest", "said"),
    [
        ("policy", "adds the line `diagnose = true` under [policy]", "the line `diagnose = true` there"),
        ("intersection", "fewer than its min_intersection", "does not meet [policy] min_intersection"),
    ],
)
def test_a_host_may_refuse(reason, at_guest, said):
    (found, lines), (theirs, at_host) = diagnose([PLATES], [PLATES], refused=reason)
    assert (found, theirs) == (None, None)
    assert len(lines) == len(at_host) == 1
    assert lines[0].startswith("note: registry does not compare samples of ids: ")
    assert at_guest in lines[0] and "compare by phone how each party writes its ids" in lines[0]
    assert "`vfl align --dry-run`" in lines[0]
    assert at_host[0].startswith("note: insurer asked to compare samples of ids: ")
    assert said in at_host[0] and at_host[0].endswith("; nothing was compared")


def test_ids_asked_about_are_counted_before_any_is_answered_and_both_are_told():
    """As many as the samples may have; a host that has been asked too often ends it there."""
    counted, wired = [], []
    (found, lines), (theirs, at_host) = diagnose(
        [PLATES, DMY],
        [PLATES, DMY],
        admit=lambda ids: bool(counted.append(ids)) or True,
        wired=wired,
    )
    asked = found.asked[0]
    assert theirs.asked == found.asked
    assert asked <= sum(counted) <= 1.5 * asked
    assert f"registry asked about {found.asked[1]:,} ids in samples" in lines
    assert (
        f"insurer asked about {asked:,} ids in samples, which [policy] max_ids_a_day counts" in at_host
    )
    # Each element of a sample is one of them.
    kinds = [wire.decode(one, EVERY) for one in wired]
    points = sum(len(one.points) // 32 for one in kinds if isinstance(one, MatchSample))
    assert points == asked
    wired.clear()
    (found, lines), (theirs, at_host) = diagnose(
        [PLATES], [PLATES], admit=lambda ids: False, wired=wired
    )
    assert (found, theirs) == (None, None)
    assert "max_ids_a_day allows; compare by phone" in lines[0] and "max_ids_a_day allows" in at_host[0]
    assert [type(wire.decode(one, EVERY)) for one in wired] == [
        MatchStart,
        MatchShare,
        MatchIds,
        MatchSizes,
    ]
    assert wire.decode(wired[-1], EVERY) == MatchSizes([], [], [], "day")


def test_a_limit_that_is_reached_leaves_what_was_found_before():
    dashed = [f"{p[:2]}-{p[2:]}" if k % 3 == 0 else p for k, p in enumerate(PLATES)]
    dates = [day if k % 2 else other for k, (day, other) in enumerate(zip(ISO, DMY, strict=True))]
    left = [True, False]
    (found, _), (theirs, _) = diagnose(
        [dashed, dates], [PLATES, ISO], ("trim",), admit=lambda ids: left.pop(0)
    )
    assert not left and found.rates == theirs.rates
    assert found.tried[-1].column == 1 and found.advice.normalise == (("trim",), ("date:dmy",))


def test_no_value_is_shown_or_sent():
    wired = []
    dashed = [f"{p[:2]}-{p[2:]}" for p in PLATES]
    sides = diagnose([dashed, DMY], [PLATES[OUTSIDE], ISO[OUTSIDE]], ("trim",), wired=wired)
    shown = "\n".join(line for _, lines in sides for line in lines)
    shown += json.dumps([found.as_json() for found, _ in sides])
    data = b"".join(wired)
    for one in [*dashed, *PLATES, *DMY, *ISO]:
        assert one not in shown
        assert one.encode() not in data
    assert b"plate" not in data and b"born" not in data and b"kennzeichen" not in data


def test_the_table_puts_ways_that_came_to_the_same_on_one_line():
    (found, lines), _ = diagnose([[f"{p[:2]}-{p[2:]}" for p in PLATES]], [PLATES], ("trim",))
    assert lines[0].startswith("registry asked about ") and lines[0].endswith(" ids in samples")
    assert lines[1] == "matched ids of a sample with registry, by rule:"
    assert lines[3].startswith("   0.0 %    0.0 to   ")
    assert lines[3].endswith("  trim (the present rule); nfkc, trim, upper")
    assert any(line.endswith("  plate; vin; plate, nozeros") for line in lines)
    assert len(lines) < len(found.tried)
    first = found.as_json()["rates"][0]
    assert first["rule"] == "trim (the present rule)" and first["rate"] == 0


CELLS = st.lists(st.one_of(st.none(), st.text("aB0-1 .é", max_size=4)), max_size=20)


@given(CELLS, st.sampled_from([("trim",), RULE, ("date", "|", "vin")]), st.booleans())
@settings(max_examples=60)
def test_the_first_trial_is_the_alignments_own(cells, rule, two):
    columns = [cells, cells[::-1]] if two or "|" in rule else [cells]
    tried = attempts(rule, len(columns))
    for role in ("guest", "host"):
        made = trials(OwnKey(columns, [], rule), tried[:1], role)[0].values()
        reading = IdReading(merging="allow")
        expected = normalise(columns, rule, "first", empties="drop", reading=reading).ids
        if len(columns) == 1:
            expected = [one[4:] for one in expected]  # without its length
        assert list(dict.fromkeys(value for value in made if value)) == expected


@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("rule", [(), ("trim",), RULE, ("vin",), ("date:dmy",), ("phone:33",)])
def test_all_parties_try_the_same(rule, columns):
    tried = attempts(compose([rule]), columns)
    names = [attempt.name for attempt in tried]
    assert len(set(names)) == len(names) <= match_rates.MAX_TRIALS
    assert tried[0].present and tried[0].column is None
    assert all(len(attempt.ways) == columns for attempt in tried)  # whole ids
    cells = [["x"]] * columns
    assert [t.name for t in trials(OwnKey(cells, [], rule), tried, "guest")] == names
    assert [t.name for t in trials(OwnKey(cells, [], rule), tried, "host")] == names
    assert sum(attempt.present for attempt in tried) == 1
    for attempt in tried[1:]:
        changed = [old != new for old, new in zip(tried[0].ways, attempt.ways, strict=True)]
        assert sum(changed) == 1 and attempt.column in (None, changed.index(True))


def test_what_is_combined_follows_from_the_rates_alone():
    tried = attempts(("trim",), 2)

    def rates(helping):
        return [
            MatchRate(a.name, (500, 500), (100, 100), (300, 300), 290 if a.name in helping else 3)
            for a in tried
        ]

    assert combine(tried, rates([])) is None
    assert combine(tried, rates(["column 2: date:dmy"])) is None  # that has been tried
    best = combine(tried, rates(["column 2: date:dmy", "column 2: date:mdy", "column 1: vin"]))
    assert best.name == "all columns: vin | date:dmy"
    assert combine(attempts(RULE, 1), rates([])[:1]) is None


def test_what_joins_ids_is_not_advised():
    """A rate that ids would have by chance, once the rule has made them fewer."""
    tried = attempts(("trim",), 1)
    digits = Attempt(None, (CleaningWay(("digits",), ("digits",)),))

    def advice(ids, common):
        rates = [MatchRate("", (5_000, 5_000), (100, 100), (2_000, 2_000), 0)]
        rates.append(MatchRate("", (ids, ids), (100, 100), (2_000, 2_000), common))
        return advise([tried[0], digits], rates, ["id"], "registry").normalise

    assert advice(4_400, 1_900) is None  # a tenth is gone
    assert advice(4_875, 100) is None  # 5 digits: 5 % by chance
    assert advice(4_875, 900) == (("digits",),)
    assert advice(5_000, 100) == (("digits",),)
    assert advice(5_000, 0) is None


def test_when_few_match():
    assert are_few(0, 10, 1_000) and are_few(4, 10, 1_000)
    assert not are_few(5, 10, 1_000)
