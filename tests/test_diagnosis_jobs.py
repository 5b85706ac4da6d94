"""Why few ids match, in whole jobs: when a host answers, what is counted, what both sides read."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from federation import WAIT, Federation, Party, make_tables, write_table
from room import HOSTS, Room

from vfl.errors import DataError, PeerStopped
from vfl.party.policy_section import PolicySection

TABLES = make_tables()
RULE = (("plate", "nozeros"),)


@pytest.fixture
def room(tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    made = Room(Federation(tmp_path / "room", keys, guest_listens=True, tables=TABLES))
    made.patch(monkeypatch)
    yield made


def allow(room: Room, **policy: object) -> None:
    for name in HOSTS:
        room.federation.parties[name].settings["policy"].update({"diagnose": True, **policy})


def spoil(room: Room, share: int) -> None:
    """Zeros before the guest's plates, but for one in `share`; before all if 0."""
    table = TABLES["insurer"]
    plates = [
        cell if share and k % share == 0 else f"000{cell}" for k, cell in enumerate(table["plate"])
    ]
    write_table(room.federation.guest.table, {**table, "plate": plates})


def test_a_host_does_not_answer_by_default(room: Room) -> None:
    """The guest reads which line would allow it, and what to do without."""
    assert PolicySection().diagnose is False
    done = room.align(diagnose=True)
    assert done.diagnoses == {}
    for name in HOSTS:
        (note,) = [line for line in room.said["insurer"].lines if line.startswith(f"note: {name}")]
        assert "its party file does not allow it" in note
        assert "adds the line `diagnose = true` under [policy]" in note
        assert "compare by phone" in note and "`vfl align --dry-run`" in note
        assert room.said[name].has("the line `diagnose = true` there); nothing was compared")


@pytest.mark.parametrize(
    ("share", "policy"), [(0, {}), (3, {"min_intersection": 200}), (1, {"max_intersection": 50})]
)
def test_a_host_does_not_answer_for_an_alignment_that_it_does_not_allow(
    room: Room, share: int, policy: dict[str, int]
) -> None:
    spoil(room, share)
    allow(room, **policy)
    with pytest.raises(PeerStopped if share else DataError) as ended:
        room.align(diagnose=True)
    assert (f"breaks rule {next(iter(policy))}" if share else "no id is common") in str(ended.value)
    for name in HOSTS:
        (note,) = [line for line in room.said["insurer"].lines if line.startswith(f"note: {name}")]
        assert "only for an alignment that its [policy] allows" in note
        assert "fewer than its min_intersection or more than its max_intersection" in note
        assert "compare by phone how each party writes its ids: `vfl align --dry-run`" in note
        assert room.said[name].has(
            "the alignment does not meet [policy] min_intersection or max_intersection; nothing was"
        )
    for said in room.said.values():
        assert not said.has("matched ids of a sample")


@pytest.mark.parametrize("join", ["inner", "left"])
def test_a_job_that_matches_little_says_why_to_all(room: Room, join: str) -> None:
    spoil(room, 3)
    allow(room)
    done = room.align(join=join)
    assert set(done.diagnoses) == set(HOSTS)
    for name in HOSTS:
        (diagnosis,) = done.diagnoses[name]
        assert diagnosis.advice.normalise == RULE
        for said, peer in ((room.said[name], "insurer"), (room.said["insurer"], name)):
            assert said.has(f"100 % of the smaller sample's ids match those of {peer}")
            assert said.has('set normalise = ["plate", "nozeros"] in [data] of all party files')
            assert said.has(f"matched ids of a sample with {peer}, by rule:")
        guests, hosts = diagnosis.asked
        assert room.said[name].has(
            f"insurer asked about {guests:,} ids in samples, which [policy] max_ids_a_day counts"
        )
        assert room.said["insurer"].has(f"{name} asked about {hosts:,} ids in samples")


def test_ids_of_samples_are_counted(room: Room) -> None:
    """And a host that has been asked about too many in a day still takes part in the alignment."""
    allow(room)
    ids = len(TABLES["insurer"]["plate"])
    (diagnosis,) = room.align(diagnose=True).diagnoses["registry"]
    usage = json.loads((room.federation.parties["registry"].store / "usage.json").read_text())
    counted = usage["guests"]["insurer"]["ids"]
    assert counted == ids + diagnosis.asked[0]  # of so few ids the whole table is the sample
    room.federation.parties["registry"].settings["policy"]["max_ids_a_day"] = counted + ids
    done = room.align(diagnose=True)
    assert set(done.diagnoses) == {"bureau"}
    (note,) = [line for line in room.said["insurer"].lines if line.startswith("note: registry")]
    assert "more ids today than its [policy] max_ids_a_day allows" in note
    assert room.said["registry"].has("more ids today than [policy] max_ids_a_day allows; nothing was")


def test_a_diagnosis_that_is_asked_for(room: Room) -> None:
    """Of a left join with each host; where most ids match none is made unless it is."""
    allow(room)
    assert room.align().diagnoses == {}
    assert not room.said["insurer"].has("advice")
    done = room.align(join="left", diagnose=True)
    for name in HOSTS:
        (diagnosis,) = done.diagnoses[name]
        document = diagnosis.as_json()
        assert document["normalise"] is None and document["peer"] == name
        assert diagnosis.rates[0].share is not None and diagnosis.rates[0].share > 0.9
        assert room.said[name].has("advice: the present rule fits")


def test_the_command_goes_on_where_hosts_do_not_answer(insurer: Party) -> None:
    done = insurer.run("align", *WAIT, "--json", "--diagnose").ok()
    assert done.json["match_rates"] == {}
    assert done.err.count("adds the line `diagnose = true` under [policy]") == len(HOSTS)
