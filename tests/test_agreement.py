"""What all parties sign before a job starts: whoever changes anything of it is found out."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from federation import HIDDEN_JOB, Federation, make_tables
from recording import record
from silent import Silent

from vfl.errors import ModelError, PeerError, Refused
from vfl.jobs.agreement import Agreement, accept_offer, check_offer, offer_to, verify_signatures
from vfl.jobs.connect import Site
from vfl.jobs.coordinator import _check_join
from vfl.jobs.offer import Accept, Agreed, Join, Offer, Terms
from vfl.jobs.record import load_record, verify_agreement
from vfl.net.peer import MemoryPeer
from vfl.party import identity
from vfl.party.config import Job, load_party
from vfl.party.store import Store

JOB = Job.model_validate(HIDDEN_JOB)
OTHER = Job.model_validate({**HIDDEN_JOB, "job": {**HIDDEN_JOB["job"], "purpose": "b test"}})
OFFER = Offer(
    "train",
    bytes(range(32)),
    ["registry", "bureau"],
    ["trim"],
    alignment="a1",
    model="m1",
    job=JOB.canonical,
)
Change = Callable[[Any], Any]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> dict[str, Site]:
    made = Federation(tmp_path_factory.mktemp("agreement"), keys, guest_listens=True, coordinator=True)
    for party in made.parties.values():
        party.write()
    return {name: Site.open(load_party(party.file)) for name, party in made.parties.items()}


def run(
    sites: dict[str, Site],
    offer: Offer = OFFER,
    *,
    change: dict[type, Change] | None = None,
    queries: dict[str, bytes] | None = None,
    commitments: dict[str, bytes] | None = None,
) -> list[Agreement]:
    """Offer and answers, with messages from or to the registry changed on their way."""
    changes = change or {}

    async def passing() -> list[Agreement]:
        pairs = {name: MemoryPeer.pair("insurer", name) for name in offer.hosts}
        far, near = pairs["registry"]
        send = {end: end.send for end in (far, near)}
        for end in (far, near):

            async def changed(message: Any, end: MemoryPeer = end) -> None:
                await send[end](changes.get(type(message), lambda same: same)(message))

            end.send = changed  # type: ignore[method-assign]

        async def host(name: str) -> Agreement:
            guest = pairs[name][1]
            received = await guest.recv(Offer)
            check_offer(sites[name], guest, received)
            query, commitment = ((of or {}).get(name, b"") for of in (queries, commitments))
            return await accept_offer(sites[name], guest, received, 7, query, commitment=commitment)

        hosts = [asyncio.create_task(host(name)) for name in offer.hosts]
        guest = asyncio.create_task(
            offer_to(sites["insurer"], [pair[0] for pair in pairs.values()], offer, Silent())
        )
        try:
            done, _ = await asyncio.wait([guest, *hosts], return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
            answers, agreement = guest.result()
            assert {answer.rows for answer in answers} == {7}
            return [agreement, *(task.result() for task in hosts)]
        finally:
            for task in (guest, *hosts):
                task.cancel()

    return asyncio.run(passing())


@pytest.mark.parametrize(
    "offer",
    [
        OFFER,
        msgspec.structs.replace(OFFER, task="align", model=None, job=b""),
        msgspec.structs.replace(OFFER, task="score", alignment=None, job=b""),
        msgspec.structs.replace(OFFER, hosts=["registry"]),
    ],
)
def test_all_hold_the_same_terms_with_the_same_signatures(sites: dict[str, Site], offer: Offer) -> None:
    agreements = run(sites, offer)
    assert len(agreements) == 1 + len(offer.hosts)
    terms, signatures = agreements[0].terms, agreements[0].signatures
    assert all((one.terms, one.signatures) == (terms, signatures) for one in agreements)
    assert list(signatures) == ["insurer", *offer.hosts]
    for name, signature in signatures.items():
        assert sites[name].identity.certificate.verify(signature, terms.statement)
    named = {"insurer", *offer.hosts, *(["umpire"] if offer.task == "train" else [])}
    assert terms.fingerprints == {name: sites[name].identity.certificate.fingerprint for name in named}


def test_the_statement_is_what_an_auditor_can_build_from_the_terms(sites: dict[str, Site]) -> None:
    terms = run(sites)[0].terms
    text = json.dumps(
        {
            "task": "train",
            "run": bytes(range(32)).hex(),
            "guest": "insurer",
            "hosts": ["registry", "bureau"],
            "fingerprints": terms.fingerprints,
            "normalise": ["trim"],
            "alignment": "a1",
            "model": "m1",
            "job": JOB.digest,
            "done": 0,
        },
        sort_keys=True,
        separators=(",", ":"),
    )
    assert terms.statement == b"vfl agreement\0" + hashlib.sha256(text.encode()).digest()


FINGERPRINT = "0" * 64


def with_fingerprint(name: str) -> Change:
    def change(message: Any) -> Any:
        return msgspec.structs.replace(message, fingerprints={**message.fingerprints, name: FINGERPRINT})

    return change


def without_fingerprint(offer: Offer) -> Offer:
    rest = {name: found for name, found in offer.fingerprints.items() if name != "bureau"}
    return msgspec.structs.replace(offer, fingerprints=rest)


def setting(**fields: Any) -> Change:
    return lambda message: msgspec.structs.replace(message, **fields)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (setting(task="score"), "without the certificates of its parties"),  # a coordinator too many
        (setting(run=bytes(32)), "with a signature that does not hold"),
        (setting(hosts=["registry"]), "without the certificates of its parties"),
        (setting(hosts=["bureau", "registry"]), "with a signature that does not hold"),
        (setting(hosts=["bureau"]), "that does not name this party once"),
        (setting(hosts=["bureau", "registry", "registry"]), "that does not name this party once"),
        (setting(normalise=["upper"]), "with a signature that does not hold"),
        (setting(alignment="a2"), "with a signature that does not hold"),
        (setting(done=1), "with a signature that does not hold"),
        (setting(model=None), "with a signature that does not hold"),
        (setting(job=OTHER.canonical), "with a signature that does not hold"),
        (setting(signature=b""), "with a signature that does not hold"),
        (without_fingerprint, "without the certificates of its parties"),
        (with_fingerprint("insurer"), "with other certificates than those of this session"),
        (with_fingerprint("registry"), "with other certificates than those of this session"),
        (with_fingerprint("bureau"), "with a signature that does not hold"),
        (with_fingerprint("umpire"), "with a signature that does not hold"),
        (with_fingerprint("stranger"), "without the certificates of its parties"),
    ],
)
def test_an_offer_that_was_changed(sites: dict[str, Site], change: Change, said: str) -> None:
    with pytest.raises(PeerError, match=rf"^insurer broke the protocol: it sent an Offer {said}$"):
        run(sites, change={Offer: change})


def test_parties_that_pin_different_certificates_are_told(sites: dict[str, Site], keys: Path) -> None:
    other = identity.load_certificate(keys / "new" / "bureau.pem")
    for name in ("registry", "umpire"):
        pinned = {**sites[name].pinned, "bureau": other}
        mixed = {**sites, name: replace(sites[name], pinned=pinned)}
        said = rf"^insurer and {name} have pinned different certificates of bureau: compare"
        if name == "registry":
            with pytest.raises(Refused, match=said):
                run(mixed)
        else:
            agreement = run(sites)[0]
            join = Join(agreement.terms, list(agreement.signatures.values()), JOB.canonical)
            with pytest.raises(Refused, match=said):
                _check_join(mixed["umpire"], MemoryPeer.pair("umpire", "registry")[0], join)


def swapped(agreed: Agreed) -> Agreed:
    guest, registry, bureau = agreed.signatures
    return Agreed([guest, bureau, registry])


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        (
            Accept,
            setting(signature=b"\x30\x00"),
            "registry .* Accept with a signature that does not hold",
        ),
        (
            Agreed,
            lambda a: Agreed(a.signatures[:2]),
            "insurer .* Agreed with another number of signatures",
        ),
        (
            Agreed,
            lambda a: Agreed([b"", *a.signatures[1:]]),
            "insurer .* another signature than was given",
        ),
        (Agreed, swapped, "insurer .* Agreed with another signature than was given"),
        (
            Agreed,
            lambda a: Agreed([*a.signatures[:2], a.signatures[0]]),
            "insurer .* Agreed with a signature of bureau that does not hold",
        ),
    ],
)
def test_an_answer_that_was_changed(
    sites: dict[str, Site], kind: type, change: Change, said: str
) -> None:
    with pytest.raises(PeerError, match=said):
        run(sites, change={kind: change})


def test_a_fellow_that_is_not_pinned_is_the_guests_word(sites: dict[str, Site]) -> None:
    alone = {name: found for name, found in sites["registry"].pinned.items() if name != "bureau"}
    trusting = {**sites, "registry": replace(sites["registry"], pinned=alone)}
    guest, registry, bureau = run(trusting, change={Agreed: lambda a: Agreed([*a.signatures[:2], b"?"])})
    assert set(registry.certificates) == {"insurer", "registry", "umpire"}
    assert registry.signatures["bureau"] == b"?" != bureau.signatures["bureau"]
    party = trusting["registry"].party
    guest.signatures["umpire"] = registry.signatures["umpire"] = sites["umpire"].identity.sign(
        guest.terms.statement
    )
    words = verify_signatures(registry, JOB.settings, party, "run m1")
    assert words["bureau"] == "not checked: this party had no certificate of it"
    assert set(words.values()) == {"signed", words["bureau"]}


def in_terms(**fields: Any) -> Change:
    return lambda join: msgspec.structs.replace(
        join, terms=msgspec.structs.replace(join.terms, **fields)
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (in_terms(task="align"), "of another job than the parties have signed"),
        (setting(job=OTHER.canonical), "of another job than the parties have signed"),
        (in_terms(run=bytes(32)), "with a signature of insurer that does not hold"),
        (in_terms(model="m2"), "with a signature of insurer that does not hold"),
        (in_terms(hosts=["registry"]), "without the certificates of its parties"),
        (
            in_terms(fingerprints={"insurer": FINGERPRINT}),
            "without the certificates of its parties",
        ),
        (
            lambda join: msgspec.structs.replace(join, signatures=join.signatures[:2]),
            "with another number of signatures than parties",
        ),
        (
            lambda join: msgspec.structs.replace(join, signatures=[*join.signatures[:2], b""]),
            "with a signature of bureau that does not hold",
        ),
    ],
)
def test_a_coordinator_is_shown_what_was_signed(
    sites: dict[str, Site], change: Change, said: str
) -> None:
    agreement = run(sites)[0]
    signatures = [agreement.signatures[name] for name in agreement.terms.signers]
    join = Join(agreement.terms, signatures, JOB.canonical)
    peer, _ = MemoryPeer.pair("umpire", "registry")
    assert _check_join(sites["umpire"], peer, join) == JOB
    with pytest.raises(PeerError, match=rf"^registry broke the protocol: it sent a Join {said}$"):
        _check_join(sites["umpire"], peer, change(join))


def test_a_whole_job_leaves_the_same_agreement_with_everybody(tmp_path: Path, keys: Path) -> None:
    made = Federation(tmp_path, keys, coordinator=True, tables=make_tables(130))
    record(made, {**HIDDEN_JOB, "glm": {**HIDDEN_JOB["glm"], "max_iterations": 1}})
    parties = {name: load_party(party.file) for name, party in made.parties.items()}
    kept: dict[str, Agreement] = {}
    for name, party in parties.items():
        store = Store(party.party.store)
        run_name = store.latest("run")
        full, kept[name], words = verify_agreement(party, "hidden")
        assert full == run_name
        assert words == dict.fromkeys(("insurer", "registry", "bureau", "umpire"), "signed")
        assert kept[name].terms.job.hex() == JOB_OF_RUN.digest
    assert {len(one.signatures) for one in kept.values()} == {4}
    assert all(one.terms == kept["insurer"].terms for one in kept.values())
    assert all(one.signatures == kept["insurer"].signatures for one in kept.values())
    assert kept["insurer"].terms.model == Store(parties["bureau"].party.store).latest("model")

    # What somebody changes in the store afterwards, one character of the job included.
    store = Store(parties["bureau"].party.store)
    body = store.read("run", store.latest("run"))
    changed: list[tuple[str, Change]] = [
        ("is not the one that was signed", lambda b: b["job"]["job"].update(purpose="b test")),
        ("signature of bureau does not hold", lambda b: b["agreement"]["terms"].update(model="m2")),
        (
            "signature of registry does not hold",
            lambda b: b["agreement"]["certificates"].update(
                registry=b["agreement"]["certificates"]["bureau"]
            ),
        ),
        (
            "the certificate of umpire is none",
            lambda b: b["agreement"]["certificates"].update(umpire=""),
        ),
        ("signature of umpire does not hold", lambda b: b["agreement"]["signatures"].pop("umpire")),
    ]
    for said, change in changed:
        spoilt = json.loads(json.dumps(body))
        change(spoilt)
        store.write("run", body["model"], spoilt)
        with pytest.raises(ModelError, match=said):
            verify_agreement(parties["bureau"], "hidden")
    # A certificate that is no longer pinned is said to be none.
    store.write("run", body["model"], body)
    pin = parties["bureau"].peers["insurer"].certificate
    pin.write_bytes((keys / "new" / "insurer.pem").read_bytes())
    words = verify_agreement(parties["bureau"], "hidden")[2]
    assert words["insurer"] == "signed, with a certificate that is not pinned here now"
    old = {key: value for key, value in body.items() if key != "agreement"}
    store.write("run", body["model"], old)
    assert load_record(store, body["model"])[0].agreement is None
    with pytest.raises(ModelError, match="is of an earlier version of vfl: nothing was signed"):
        verify_agreement(parties["bureau"], "hidden")


JOB_OF_RUN = Job.model_validate({**HIDDEN_JOB, "glm": {**HIDDEN_JOB["glm"], "max_iterations": 1}})


def test_one_character_makes_another_job() -> None:
    assert JOB.digest != OTHER.digest
    digests = [hashlib.sha256(job.canonical).digest() for job in (JOB, OTHER)]
    terms = [
        Terms("train", bytes(32), "insurer", ["registry"], {}, [], None, None, one) for one in digests
    ]
    assert terms[0].statement != terms[1].statement


QUERY = bytes(range(32, 64))


def test_each_signs_the_digest_of_its_own_query(sites: dict[str, Site]) -> None:
    agreements = run(sites, msgspec.structs.replace(OFFER, query=QUERY), queries={"bureau": QUERY[::-1]})
    for one in agreements:
        assert one.queries == {"insurer": QUERY.hex(), "bureau": QUERY[::-1].hex()}
        for name, signature in one.signatures.items():
            certificate = sites[name].identity.certificate
            digest = bytes.fromhex(one.queries.get(name, ""))
            assert certificate.verify(signature, one.terms.statement_of(digest))
            assert certificate.verify(signature, one.terms.statement) == (name == "registry")
        forged = replace(one, queries={**one.queries, "bureau": QUERY.hex()})
        with pytest.raises(ModelError, match="the signature of bureau does not hold"):
            verify_signatures(forged, JOB.settings, sites["insurer"].party, "run")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({Offer: setting(query=QUERY[::-1])}, "an Offer with a signature that does not hold"),
        ({Offer: setting(query=msgspec.UNSET)}, "an Offer with a signature that does not hold"),
        ({Accept: setting(query=QUERY)}, "Accept with a signature that does not hold"),
        ({Agreed: setting(queries=msgspec.UNSET)}, "Agreed with another signature than was given"),
        ({Agreed: setting(queries=[QUERY])}, "Agreed with digests of queries that are none"),
        ({Agreed: setting(queries=[QUERY, b"", b"x"])}, "Agreed with digests of queries that are none"),
        ({Agreed: setting(queries=[QUERY, QUERY, b""])}, "Agreed with another signature than was given"),
        ({Agreed: setting(queries=[b"", b"", b""])}, "Agreed with another signature than was given"),
        ({Agreed: setting(queries=[QUERY, b"", QUERY])}, "Agreed with a signature of bureau that does"),
    ],
)
def test_digests_that_were_changed(
    sites: dict[str, Site], change: dict[type, Change], said: str
) -> None:
    with pytest.raises(PeerError, match=said):
        run(sites, msgspec.structs.replace(OFFER, query=QUERY), change=change)


def test_a_coordinator_checks_the_digests(sites: dict[str, Site]) -> None:
    agreement = run(sites, msgspec.structs.replace(OFFER, query=QUERY))[0]
    signatures = [agreement.signatures[name] for name in agreement.terms.signers]
    join = Join(agreement.terms, signatures, JOB.canonical, agreement.told_queries)
    peer, _ = MemoryPeer.pair("umpire", "registry")
    assert _check_join(sites["umpire"], peer, join) == JOB
    for queries, said in (
        ([b"", QUERY, b""], "a signature of insurer that does not hold"),
        (msgspec.UNSET, "a signature of insurer that does not hold"),
        ([QUERY], "digests of queries that are none"),
        ([QUERY, b"", b"", b""], "digests of queries that are none"),
        ([QUERY, b"short", b""], "digests of queries that are none"),
    ):
        with pytest.raises(PeerError, match=f"it sent a Join with {said}"):
            _check_join(sites["umpire"], peer, msgspec.structs.replace(join, queries=queries))


MADE = bytes(range(64, 96))


def committed(sites: dict[str, Site], **more: Any) -> list[Agreement]:
    return run(sites, msgspec.structs.replace(OFFER, query=QUERY, commitment=MADE), **more)


def test_each_signs_its_own_commitment(sites: dict[str, Site]) -> None:
    agreements = committed(sites, commitments={"bureau": MADE[::-1]})
    for one in agreements:
        assert one.commitments == {"insurer": MADE.hex(), "bureau": MADE[::-1].hex()}
        for name, signature in one.signatures.items():
            certificate = sites[name].identity.certificate
            assert certificate.verify(signature, one.statement_of(name))
            assert certificate.verify(signature, one.terms.statement) == (name == "registry")
        forged = replace(one, commitments={**one.commitments, "bureau": MADE.hex()})
        with pytest.raises(ModelError, match="the signature of bureau does not hold"):
            verify_signatures(forged, JOB.settings, sites["insurer"].party, "run")
    join = Join(
        agreements[0].terms,
        list(agreements[0].signatures.values()),
        JOB.canonical,
        agreements[0].told_queries,
        agreements[0].told_commitments,
    )
    peer, _ = MemoryPeer.pair("umpire", "registry")
    assert _check_join(sites["umpire"], peer, join) == JOB
    for changed, said in (
        (msgspec.UNSET, "a signature of insurer that does not hold"),
        ([MADE], "commitments that are none"),
        ([MADE, b"", b"short"], "commitments that are none"),
    ):
        with pytest.raises(PeerError, match=f"it sent a Join with {said}"):
            _check_join(sites["umpire"], peer, msgspec.structs.replace(join, commitments=changed))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({Offer: setting(commitment=MADE[::-1])}, "an Offer with a signature that does not hold"),
        ({Offer: setting(commitment=msgspec.UNSET)}, "an Offer with a signature that does not hold"),
        ({Accept: setting(commitment=MADE)}, "Accept with a signature that does not hold"),
        ({Agreed: setting(commitments=msgspec.UNSET)}, "Agreed with another signature than was given"),
        ({Agreed: setting(commitments=[MADE])}, "Agreed with commitments that are none"),
        ({Agreed: setting(commitments=[MADE, b"", b"x"])}, "Agreed with commitments that are none"),
        ({Agreed: setting(commitments=[MADE, b"", MADE])}, "Agreed with a signature of bureau that"),
    ],
)
def test_commitments_that_were_changed(
    sites: dict[str, Site], change: dict[type, Change], said: str
) -> None:
    with pytest.raises(PeerError, match=said):
        committed(sites, change=change)
