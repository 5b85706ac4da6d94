"""A person decides on jobs: what waits, what is shown of it, what comes of each decision."""

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from commands import command
from federation import JOB, WAIT, Federation, Party, ended
from silent import Silent

from vfl.errors import ConfigError, ModelError, PeerError, Refused
from vfl.jobs import approval, approval_view
from vfl.jobs import approved as approved_by_host
from vfl.jobs.agreement import Agreement, accept_offer, check_offer, offer_to, verify_signatures
from vfl.jobs.approval import approve
from vfl.jobs.connect import Site
from vfl.jobs.offer import Accept, Matching, Offer
from vfl.jobs.resume import RunSubject
from vfl.net.peer import MemoryPeer
from vfl.party import approvals as files
from vfl.party.approvals import Approvals
from vfl.party.audit.lines import entries_of
from vfl.party.audit.tables import export_copy
from vfl.party.audit.verify import verify
from vfl.party.config import Job, load_party
from vfl.party.ledger import DecisionEntry

CLAIMS = Job.model_validate(JOB)
ALIGN = Offer("align", bytes(range(32)), ["registry"], ["trim"], alignment="a1")
TRAIN = msgspec.structs.replace(ALIGN, task="train", model="claims-1", job=CLAIMS.canonical)
Decide = Callable[[Approvals, str], object]


@pytest.fixture
def sites(tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Site]:
    monkeypatch.setattr(approval, "_LOOK", 0.01)
    made = Federation(tmp_path / "parties", keys, hosts=("registry",), guest_listens=True)
    made.parties["registry"].settings["policy"] |= {"approve": "person", "approve_within": 600}
    for party in made.parties.values():
        party.write()
    return {name: Site.open(load_party(party.file)) for name, party in made.parties.items()}


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def approvals_of(site: Site) -> Approvals:
    return Approvals(site.store)


def approved(known: Approvals, name: str) -> None:
    known.decide(name, "approved", "ada", "as agreed")


def refused(known: Approvals, name: str) -> None:
    known.decide(name, "refused", "ada", "not in November")


def run(
    sites: dict[str, Site],
    offer: Offer,
    decide: Decide | None,
    change: Callable[[Any], Any] = lambda same: same,
    said: Said | None = None,
) -> tuple[Agreement, Agreement]:
    """Offer and answer; `decide` is called once the job waits. What the host or the guest raises."""

    async def passing() -> tuple[Agreement, Agreement]:
        far, near = MemoryPeer.pair("insurer", "registry")
        site, send = sites["registry"], near.send

        async def changed(message: Any) -> None:
            await send(change(message))

        near.send = changed  # type: ignore[method-assign]

        async def host() -> Agreement:
            received = await near.recv(Offer)
            check_offer(site, near, received)
            given = await approve(site, near, received, Silent())
            return await accept_offer(site, near, received, 7, approved=given)

        async def person() -> None:
            while decide is not None:
                if waiting := approvals_of(site).waiting():
                    decide(approvals_of(site), waiting[0].request.id)
                    return
                await asyncio.sleep(0.01)

        guest = offer_to(sites["insurer"], [far], offer, said or Silent())
        tasks = [asyncio.create_task(one) for one in (guest, host(), person())]
        try:
            await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_EXCEPTION)
            for task in (tasks[1], tasks[0]):
                if task.done():
                    task.result()
            return tasks[0].result()[1], tasks[1].result()  # type: ignore[index, return-value]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(passing())


def decisions(site: Site) -> list[DecisionEntry]:
    entries = (line.entry for _, line in entries_of(site.journal.ledger.folder))
    return [entry for entry in entries if isinstance(entry, DecisionEntry)]


def test_without_the_rule_nobody_is_asked(sites: dict[str, Site]) -> None:
    party = sites["registry"].party
    by_rules = party.policy.model_copy(update={"approve": "rules"})
    sites["registry"] = replace(sites["registry"], party=party.model_copy(update={"policy": by_rules}))
    of_guest, of_host = run(sites, ALIGN, None)
    assert of_guest.approvals == of_host.approvals == {}
    assert not approvals_of(sites["registry"]).folder.exists()


def test_an_approved_job_begins_and_all_is_signed(sites: dict[str, Site]) -> None:
    said = Said()
    of_guest, of_host = run(sites, TRAIN, approved, said=said)
    assert said.lines[0].startswith("waiting for approval by host registry, 600 s at most")
    assert of_guest.approvals == of_host.approvals
    (one,) = approvals_of(sites["registry"]).every()
    assert one.state == "approved" and one.decision is not None
    assert of_guest.approvals["registry"].decided == one.decision.when
    for name in sites:
        words = verify_signatures(of_guest, CLAIMS.settings, sites[name].party, "run claims-1")
        assert words["registry"] == f"signed; a person there approved it on {one.decision.when}"
    forged = {
        "registry": msgspec.structs.replace(
            of_guest.approvals["registry"], decided="2030-01-01T00:00:00"
        )
    }
    with pytest.raises(ModelError, match="the approval of registry does not hold"):
        verify_signatures(
            replace(of_guest, approvals=forged), CLAIMS.settings, sites["insurer"].party, "run claims-1"
        )
    (entry,) = decisions(sites["registry"])
    assert (entry.outcome, entry.who, entry.reason) == ("approved", "ada", "as agreed")
    assert (entry.peer, entry.task, entry.job, entry.model) == ("insurer", "train", "claims", "claims-1")
    ledger = sites["registry"].journal.ledger.folder
    verdict = verify(ledger, sites["registry"].identity.certificate)
    assert verdict.damage == [] and verdict.sealed >= entry.n
    with (ledger / "copy").open("wb") as out:
        export_copy(ledger, "insurer", out)
    assert b'"ada"' not in (ledger / "copy").read_bytes()  # who it was is this party's own matter


def test_a_refusal_reaches_the_guest_with_its_reason(sites: dict[str, Site]) -> None:
    with pytest.raises(Refused) as error:
        run(sites, ALIGN, refused)
    assert str(error.value) == "a person at registry refused the job: not in November"
    assert error.value.for_peer == str(error.value) and "ada" not in str(error.value)
    assert [entry.outcome for entry in decisions(sites["registry"])] == ["refused"]


def test_nobody_waits_for_ever(sites: dict[str, Site]) -> None:
    party = sites["registry"].party
    soon = party.policy.model_copy(update={"approve_within": 1})
    sites["registry"] = replace(sites["registry"], party=party.model_copy(update={"policy": soon}))
    with pytest.raises(Refused, match="nobody at registry decided on the job within 1 s"):
        run(sites, ALIGN, None)
    (one,) = approvals_of(sites["registry"]).every()
    assert one.state == "lapsed"
    with pytest.raises(Refused, match="does not wait any more: nobody at registry"):
        approved(approvals_of(sites["registry"]), one.request.id)
    assert [entry.outcome for entry in decisions(sites["registry"])] == ["lapsed"]


def test_a_guest_does_not_wait_longer_than_the_host_said(
    sites: dict[str, Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approved_by_host, "_GRACE", -599.9)
    with pytest.raises(PeerError, match="registry said that it decides within 600 s, and has not"):
        run(sites, ALIGN, None)
    (one,) = approvals_of(sites["registry"]).every()
    assert one.state == "withdrawn"  # as the host's part was cancelled
    assert [entry.outcome for entry in decisions(sites["registry"])] == ["withdrawn"]


def test_an_approval_that_the_host_has_not_signed_is_a_breach(sites: dict[str, Site]) -> None:
    def other(message: Any) -> Any:
        if not isinstance(message, Accept):
            return message
        given = msgspec.structs.replace(message.approved, decided="2030-01-01T00:00:00+00:00")
        return msgspec.structs.replace(message, approved=given)

    with pytest.raises(PeerError, match="Accept with a signature of an approval that does not hold"):
        run(sites, ALIGN, approved, other)


def test_a_training_that_goes_on_is_not_asked_about_again(sites: dict[str, Site]) -> None:
    run(sites, TRAIN, approved)
    keep_steps(sites["registry"], TRAIN, 3)
    on = msgspec.structs.replace(TRAIN, run=b"\7" * 32, done=3)
    run(sites, on, None)
    assert len(approvals_of(sites["registry"]).every()) == 1
    for changed in ({"training": 9}, {"normalise": ["upper"]}, {"matching": Matching(join="left")}):
        with pytest.raises(Refused):
            run(sites, msgspec.structs.replace(on, **changed), refused)
    other = msgspec.structs.replace(TRAIN, model="claims-2")
    with pytest.raises(Refused):
        run(sites, other, refused)
    run(sites, ALIGN, approved)
    with pytest.raises(Refused):  # an alignment is asked about each time
        run(sites, ALIGN, refused)


def keep_steps(site: Site, offer: Offer, done: int) -> None:
    """A checkpoint of the offered training in the host's store."""
    subject = RunSubject(CLAIMS.digest, "claims", "a1", "f" * 64, offer.hosts, "0" * 64)
    states = [{"done": done, "state": {}}]
    body = {"matter": msgspec.to_builtins(subject), "states": states}
    site.store.write("checkpoint", str(offer.model), body)


@pytest.mark.parametrize("task", ["train", "tune"])
def test_what_a_guest_says_to_have_done_saves_no_question(sites: dict[str, Site], task: Any) -> None:
    offer = msgspec.structs.replace(TRAIN, task=task)
    run(sites, offer, approved)
    for done in (0, 1):  # of which this host has kept nothing
        with pytest.raises(Refused):
            run(sites, msgspec.structs.replace(offer, done=done), refused)
    if task == "train":
        run(sites, offer, approved)
        keep_steps(sites["registry"], offer, 1)
        with pytest.raises(Refused):  # from its beginning, whatever is kept
            run(sites, offer, refused)


def test_nobody_decides_in_a_store_that_others_can_write_to(host: Party) -> None:
    host.settings["party"]["others_may_write"] = True
    host.write()
    load_party(host.file)
    host.settings["policy"]["approve"] = "person"
    host.write()
    with pytest.raises(ConfigError, match="who can write to the store could decide") as error:
        load_party(host.file)
    assert "\n" not in str(error.value)


def test_a_request_never_takes_the_id_of_another(host: Party) -> None:
    known = Approvals(Site.open(load_party(host.file)).store)
    with known.open(REQUEST) as first:
        known.decide(first.id, "approved", "ada")
        with known.open(REQUEST) as second:  # while the other is locked
            assert second.id != first.id == REQUEST.id
    with known.open(REQUEST) as third:
        assert third.id not in (first.id, second.id)
        assert known.decision(third.id) is None
        assert known.find(third.id).state == "waiting"
    (known.folder / f"{first.id}.json").unlink()
    with known.open(REQUEST) as fourth:  # a decision that is left alone counts too
        assert fourth.id != first.id


def test_a_training_goes_on_ten_times_under_an_approval(
    sites: dict[str, Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time it may do the steps after the last state again; then a person is asked, who begins a
    count of its own."""
    monkeypatch.setattr(approval, "_RESUMED", 2)
    run(sites, TRAIN, approved)
    keep_steps(sites["registry"], TRAIN, 3)
    on = msgspec.structs.replace(TRAIN, done=3)
    for _ in range(2):
        run(sites, on, None)
    monkeypatch.setattr(files, "now", lambda: "2099-01-01T00:00:00+00:00")
    run(sites, on, approved)
    for _ in range(2):
        run(sites, on, None)
    with pytest.raises(Refused):
        run(sites, on, refused)
    assert len(approvals_of(sites["registry"]).every()) == 3


@pytest.mark.parametrize(
    "changed",
    [
        {"query": "select * from data"},
        {"path": Path("/other.csv")},
        {"tables": {"more": Path("/m.csv")}},
    ],
)
def test_an_approval_is_about_the_table_that_the_host_names(
    sites: dict[str, Site], changed: dict[str, Any]
) -> None:
    """What a query says is in no file and no message but as a digest."""
    registry = sites["registry"]
    lookup = msgspec.structs.replace(ALIGN, task="lookup", model="claims-1", alignment=None)
    for offer in (TRAIN, lookup):
        run(sites, offer, approved)
    keep_steps(registry, TRAIN, 3)
    on = msgspec.structs.replace(TRAIN, done=3)
    for offer in (on, lookup):
        run(sites, offer, None)
    data = registry.party.data.model_copy(update=changed)
    sites["registry"] = replace(registry, party=registry.party.model_copy(update={"section": data}))
    for offer in (on, lookup):
        with pytest.raises(Refused):
            run(sites, offer, refused)
    sites["registry"] = registry
    run(sites, on, None)
    shown = {one.request.table for one in approvals_of(registry).every()}
    digest = sha256(b"select * from data").hexdigest()
    by_query = f"by the query with SHA-256 {digest[:12]}..."
    assert shown == {
        registry.party.data.named.name,
        by_query if data.query is not None else data.named.name,
    }
    for file in approvals_of(registry).folder.iterdir():
        assert b"select" not in file.read_bytes()


def test_an_approval_of_lookups_holds_for_some_days(sites: dict[str, Site]) -> None:
    lookup = msgspec.structs.replace(ALIGN, task="lookup", model="claims-1", alignment=None)
    run(sites, lookup, approved)
    (one,) = approvals_of(sites["registry"]).every()
    assert one.decision is not None
    path = approvals_of(sites["registry"]).folder / f"{one.request.id}.decision.json"

    def of(days: float) -> None:
        when = (datetime.now(UTC) - timedelta(days)).isoformat(timespec="seconds")
        path.write_bytes(msgspec.json.encode(msgspec.structs.replace(one.decision, when=when)))

    of(29.9)
    run(sites, lookup, None)
    of(30.1)
    with pytest.raises(Refused):
        run(sites, lookup, refused)


def test_lookups_are_approved_once_and_refused_for_a_day(sites: dict[str, Site]) -> None:
    lookup = msgspec.structs.replace(ALIGN, task="lookup", model="claims-1", alignment=None)
    with pytest.raises(Refused):
        run(sites, lookup, refused)
    with pytest.raises(Refused, match="not in November"):
        run(sites, lookup, None)
    other = msgspec.structs.replace(lookup, model="claims-2")
    run(sites, other, approved)
    holds = "by max_approved_lookups = 1,000,000 and approved_lookup_days = 30"
    for one in approvals_of(sites["registry"]).every():
        assert one.request.budget[-1] == f"an approval holds for later sessions, too, {holds}"
    run(sites, other, None)
    assert len(approvals_of(sites["registry"]).every()) == 2


def test_nothing_of_a_job_begins_without_the_decision(sites: dict[str, Site]) -> None:
    """A task that forgets to ask fails, where the rule asks for a person."""
    _, near = MemoryPeer.pair("insurer", "registry")
    with pytest.raises(AssertionError, match="on which nobody was asked"):
        asyncio.run(accept_offer(sites["registry"], near, ALIGN))


def test_what_differs_from_the_last_job_of_the_name() -> None:
    before = {"job": {"name": "a", "holdout": 0.25}, "secureboost": {"trees": 2, "old": True}}
    after = {"job": {"name": "a", "holdout": 0.25}, "secureboost": {"trees": 30, "depth": 4}}
    found = [(c.setting, c.before, c.now) for c in approval_view.differences(before, after)]
    assert found == [
        ("secureboost.trees", "2", "30"),
        ("secureboost.old", "true", ""),
        ("secureboost.depth", "", "4"),
    ]


# --- The command line --------------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path, keys: Path) -> Party:
    made = Federation(tmp_path / "parties", keys, hosts=("registry",))
    party = made.parties["registry"]
    party.write()
    return party


REQUEST = files.Request(
    id="0a1b2c3d",
    asked="2026-11-30T08:00:00+00:00",
    until="2026-11-30T09:00:00+00:00",
    subject="s",
    guest="insurer",
    task="train",
    run="aa",
    hosts=["registry"],
    job="claims",
    purpose="pricing",
    kind="secureboost, binary",
    columns=["power", "brand"],
    learns=[files.Learnt("insurer", "registry", "bins of rows", "76 %", "20 %", "sums", "fewer trees")],
    budget=["open sums about a row: 0.01 told before"],
    policy=["an alignment: min_intersection = 1000"],
    last="claims-20261101-080000-abcdef",
    changes=[files.Change("secureboost.trees", "2", "30")],
)


def vfl(*arguments: object) -> Any:
    return command(*map(str, arguments))


def test_requests_are_listed_shown_and_decided(host: Party) -> None:
    known = Approvals(Site.open(load_party(host.file)).store)
    assert vfl("approvals", host.file).ok().out == "no job waits for a decision\n"
    with known.open(REQUEST):
        for path in known.folder.iterdir():
            assert path.stat().st_mode & 0o777 == 0o600
        assert known.folder.stat().st_mode & 0o777 == 0o700
        assert "0a1b2c3d\twaiting\t2026-11-30 08:00" in vfl("approvals", host.file).ok().out
        shown = vfl("approvals", "show", host.file, "0a1b2c3d").ok().out
        for text in ("pricing", "2 columns: power, brand", "bins of rows", "76 %", "0.01 told before"):
            assert text in shown
        assert "secureboost.trees\t2\t30" in shown and "min_intersection = 1000" in shown
        said = "a reason has at most 200 characters, not 201"
        vfl("approvals", "refuse", host.file, "0a1b2c3d", "--reason", "x" * 201).failed(2, said)
        assert known.decision("0a1b2c3d") is None
        done = vfl("approvals", "refuse", host.file, "0a1b2c3d", "--reason", "too soon", "--json").ok()
        assert done.json["state"] == "refused" and done.json["decision"]["reason"] == "too soon"
        again = vfl("approvals", "approve", host.file, "0a1b2c3d")
        again.failed(6, "request 0a1b2c3d does not wait any more: refused by")
        found = known.decision("0a1b2c3d")
        assert found is not None and found.outcome == "refused"
    listed = json.loads(vfl("approvals", "list", host.file, "--all", "--json").ok().out)["requests"]
    assert [one["state"] for one in listed] == ["refused"]
    assert vfl("approvals", host.file).ok().out == "no job waits for a decision\n"


@pytest.mark.parametrize("name", ["../../keys/registry", "0a1b2c3e", "..", "a/b", "0A1B2C3D", ""])
def test_an_id_is_no_path(host: Party, name: str) -> None:
    vfl("approvals", "show", host.file, name).failed(5, "there is no request")
    vfl("approvals", "approve", host.file, name).failed(5, "there is no request")


def test_a_request_of_a_service_that_was_killed_does_not_wait(host: Party) -> None:
    known = Approvals(Site.open(load_party(host.file)).store)
    with known.open(REQUEST):
        pass
    (one,) = known.every()
    assert one.state == "withdrawn" and files.describe(one) == "who waited for it was stopped"
    vfl("approvals", "approve", host.file, "0a1b2c3d").failed(6, "who waited for it was stopped")


def test_who_is_first_has_decided(host: Party) -> None:
    known = Approvals(Site.open(load_party(host.file)).store)
    with known.open(REQUEST):
        known.decide("0a1b2c3d", "approved", "ada")
        late = known.end("0a1b2c3d", "lapsed", "nobody decided")
        assert (late.outcome, late.who) == ("approved", "ada")
        with pytest.raises(Refused, match="approved by ada"):
            known.decide("0a1b2c3d", "refused", "bob")
    assert [path.name for path in known.folder.iterdir() if path.suffix == ".tmp"] == []


@pytest.mark.parametrize("reason", ["a\nb", "a\x1b[31m", "x" * 201])
def test_a_reason_is_one_plain_line(reason: str) -> None:
    with pytest.raises(ConfigError):
        files.check_reason(reason)


def test_old_requests_are_forgotten(host: Party, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_KEPT", 2)
    known = Approvals(Site.open(load_party(host.file)).store)
    for second in range(5):
        asked = f"2026-11-30T08:00:0{second}+00:00"
        with known.open(msgspec.structs.replace(REQUEST, id=f"0000000{second}", asked=asked)):
            known.decide(f"0000000{second}", "approved", "ada")
    assert [one.request.id for one in known.every()] == ["00000004", "00000003", "00000002"]


def test_a_damaged_file_hides_no_other(host: Party) -> None:
    known = Approvals(Site.open(load_party(host.file)).store)
    with known.open(REQUEST):
        (known.folder / "00000000.json").write_bytes(b"\xff{")
        (known.folder / "00000001.json").write_text("[]")
        assert [one.request.id for one in known.every()] == ["0a1b2c3d"]


# --- Over the network --------------------------------------------------------------------------------


def decide_when_it_waits(party: Party, outcome: str, *reason: str) -> dict[str, Any]:
    """Decide on the request of a serving host, as its log names it."""
    found = json.loads(vfl("approvals", "list", party.file, "--json").ok().out)["requests"]
    (one,) = found
    vfl("approvals", outcome, party.file, one["id"], *reason).ok()
    return dict(one)


def test_a_host_decides_on_a_guests_jobs(tmp_path: Path, keys: Path, quick_key: None) -> None:
    with ended(Federation(tmp_path, keys, hosts=("registry",))) as made:
        registry, insurer = made.parties["registry"], made.guest
        registry.settings["policy"]["approve"] = "person"
        made.serve()
        log = made.serving["registry"]

        aligning = insurer.start("align", *WAIT, "--json")
        log.until("the job waits for a person's approval, 3,600 s at most: `vfl approvals show")
        assert decide_when_it_waits(registry, "approve")["task"] == "align"
        aligning.wait().ok()
        assert "waiting for approval by host registry, 3,600 s at most" in aligning.err

        since = log.mark()
        training = insurer.start_train()
        log.until("the job waits for a person's approval", since)
        asked = decide_when_it_waits(registry, "approve", "--reason", "as agreed")
        assert asked["columns"] == ["power", "brand"] and asked["job"] == "claims"
        assert asked["kind"] == "secureboost, binary" and asked["rows"] > 100
        assert any(line["who"] == "insurer" for line in asked["learns"])
        assert any(
            line.startswith("open sums about a row: 0 of earlier jobs, ") for line in asked["budget"]
        )
        model = training.wait().ok().json["model"]
        record = json.loads((registry.store / "runs" / f"{model}.json").read_text())["body"]
        assert "registry" in record["agreement"]["approvals"]

        since = log.mark()
        again = insurer.start_train({**JOB, "secureboost": {**JOB["secureboost"], "trees": 3}})
        log.until("the job waits for a person's approval", since)
        asked = decide_when_it_waits(registry, "refuse", "--reason", "one model is enough")
        assert asked["last"] == model
        assert asked["changes"] == [{"setting": "secureboost.trees", "before": "2", "now": "3"}]
        # Every line that names what earlier jobs have told has the same figure.
        lines = [*asked["budget"], *asked["policy"], *(one["how"] for one in asked["learns"])]
        figures = re.findall(r"([\d.e-]+) of earlier jobs", " ".join(lines))
        assert len(figures) == 3 and len(set(figures)) == 1 and float(figures[0]) > 0
        said = "registry stopped the job: a person at registry refused the job: one model is enough"
        again.wait().failed(9, said)

        since = log.mark()
        left = insurer.start("align", *WAIT, "--json")
        log.until("the job waits for a person's approval", since)
        left.stop()
        log.until("job ended: insurer stopped the job", since)
        assert vfl("approvals", registry.file).ok().out == "no job waits for a decision\n"
        refused = json.loads((registry.store / "refusals.json").read_text())
        assert {rule: count["times"] for rule, count in refused.items()} == {"approve": 1}
        assert refused["approve"]["peer"] == "insurer"
