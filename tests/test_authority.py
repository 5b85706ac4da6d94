"""Certificates that a company's own authority issued, beside the pin."""

import asyncio
import re
import ssl
from pathlib import Path

import pytest
from authorities import BOTH, TestAuthority
from commands import command

from vfl.errors import IdentityError
from vfl.jobs.connect import Site
from vfl.net.tls import Credentials
from vfl.net.websocket import dial, listen
from vfl.party import identity
from vfl.party.authority import Authority
from vfl.party.config import load_party

AT = "127.0.0.1:1"  # where nobody listens


@pytest.fixture(scope="module")
def bank() -> TestAuthority:
    return TestAuthority.made()


def ask(folder: Path, name: str) -> bytes:
    """A key in a folder, and the request that goes with it."""
    return identity.request(folder / "keys" / name, name).read_bytes()


def of(
    folder: Path, authority: TestAuthority, crl: Path | None = None, name: str = "registry"
) -> Authority:
    (folder / "ca.pem").write_bytes(authority.pem)
    return Authority.load(folder / "ca.pem", crl, name)


def der(pem: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem.decode())


# --- What an authority stands for ---


def test_it_stands_for_what_it_issued_for_that_name_alone(tmp_path: Path, bank: TestAuthority) -> None:
    asked = ask(tmp_path, "registry")
    good = of(tmp_path, bank)
    issued = bank.issue(asked)
    assert good.why_refused(der(issued)) is None
    assert good.in_words(der(issued)) == "issued by Bank Root, no list of revoked ones"
    other = TestAuthority.made("Bank Root")  # of the same name
    own = identity.create(tmp_path / "keys" / "self", "registry").certificate.pem
    not_issued = "was not issued for that name by the authority in"
    for pem, why in (
        (other.issue(asked), not_issued),
        (own, not_issued),
        (bank.issue(asked, names=["bureau", "vfl-party"]), not_issued),
        (bank.issue(asked, names=["registry.bank.example"]), not_issued),
        (bank.issue(asked, days=-1), "is no longer valid"),
        (bank.issue(asked, uses=BOTH[1:]), "is not for both ends of TLS"),
    ):
        assert why in (good.why_refused(der(pem)) or ""), why
    named = of(tmp_path, bank, name="registry.bank.example")
    assert named.why_refused(der(bank.issue(asked, names=["registry.bank.example"]))) is None


def test_its_list_is_read_again_when_it_changes(tmp_path: Path, bank: TestAuthority) -> None:
    asked, crl = ask(tmp_path, "registry"), tmp_path / "bank.crl"
    issued, later = bank.issue(asked), bank.issue(asked)
    bank.revoke(crl)
    good = of(tmp_path, bank, crl)
    assert good.why_refused(der(issued)) is None
    assert re.search(r"not among 0 revoked, by a list good until 2\d{3}-", good.in_words(der(issued)))
    bank.revoke(crl, issued)
    assert f"is on its authority's list {crl}" in (good.why_refused(der(issued)) or "")
    assert good.why_refused(der(later)) is None


def test_a_list_that_says_nothing_of_today_lets_nobody_in(tmp_path: Path, bank: TestAuthority) -> None:
    crl = tmp_path / "bank.crl"
    issued = der(bank.issue(ask(tmp_path, "registry")))
    good = of(tmp_path, bank, crl)
    assert f"cannot read {crl}" in (good.why_refused(issued) or "")
    for spoil, why in (
        (lambda: bank.revoke(crl, days=-1), "is out of date since"),
        (lambda: TestAuthority.made().revoke(crl), "is not signed by an authority"),
        (lambda: bank.revoke(crl, partial=True), "is not the whole list"),
        (lambda: crl.write_bytes(b"\x30\x82\x01"), "is no list of revoked certificates"),
        (lambda: crl.write_bytes(bank.pem), "is no list of revoked certificates"),
    ):
        spoil()
        assert why in (good.why_refused(issued) or ""), why


def test_files_that_are_no_authoritys(tmp_path: Path, bank: TestAuthority) -> None:
    path = tmp_path / "ca.pem"
    for data, why in (
        (b"nothing", "holds no certificates"),
        (bank.issue(ask(tmp_path, "registry")), "which is no authority's"),
        ((tmp_path / "keys" / "registry.key").read_bytes(), "holds a private key"),
        (b"x" * 2_000_000, "is over 1 MiB"),
    ):
        path.write_bytes(data)
        with pytest.raises(IdentityError, match=why):
            Authority.load(path, None, "registry")


# --- Two parties whose certificates are issued ---


def company(folder: Path, bank: TestAuthority, name: str, names: list[str] | None = None) -> Path:
    """A folder with an issued certificate."""
    root = folder / name
    (root / "peers").mkdir(parents=True, mode=0o700)
    issued = bank.issue(ask(root, name), names=names)
    (root / "keys" / f"{name}.pem").write_bytes(issued)
    (root / "ca.pem").write_bytes(bank.pem)
    (root / "t.csv").write_text("id,x,claim\n" + "".join(f"{n},{n % 7},{n % 2}\n" for n in range(50)))
    return root


@pytest.mark.parametrize("names", [None, ["insurer"]], ids=["as asked for", "without our own name"])
def test_sessions_of_parties_whose_certificates_are_issued(
    tmp_path: Path, bank: TestAuthority, names: list[str] | None
) -> None:
    made = {name: company(tmp_path, bank, name, names and [name]) for name in ("insurer", "registry")}
    own = {name: identity.load(root / "keys" / name) for name, root in made.items()}
    crl = tmp_path / "bank.crl"
    bank.revoke(crl)
    authority = of(tmp_path, bank, crl, "insurer")

    def credentials(name: str, peer: str) -> Credentials:
        mine = own[name]
        why = authority.why_refused if peer == "insurer" else lambda der: None
        pins = {peer: own[peer].certificate.der}
        return Credentials(name, mine.certificate_path, mine.key_path, pins, why_refused=why)

    async def run() -> None:
        lines: list[str] = []
        ends = credentials("registry", "insurer"), credentials("insurer", "registry")
        async with listen(ends[0], "127.0.0.1:0", "host", lines.append) as listener:
            at = f"127.0.0.1:{listener.port}"
            peer = await dial(ends[1], "registry", at, "guest", 20)
            assert (await listener.accept()).name == "insurer"
            await peer.close()
            bank.revoke(crl, own["insurer"].certificate.pem)
            with pytest.raises(IdentityError, match="refused"):
                await dial(ends[1], "registry", at, "guest", 20)
        assert any("on its authority's list" in line or "refused" in line for line in lines), lines

    asyncio.run(run())


def party_file(root: Path, more: str = 'ca = "ca.pem"\n') -> Path:
    path = root / "insurer.toml"
    path.write_text(
        '[party]\nname = "insurer"\nrole = "guest"\nidentity = "keys/insurer"\n'
        '[data]\npath = "t.csv"\nid = "id"\nlabel = "claim"\n'
        f'[peers.registry]\naddress = "{AT}"\ncertificate = "peers/registry.pem"\n{more}'
    )
    return path


@pytest.fixture
def insurer(tmp_path: Path, bank: TestAuthority) -> Path:
    """The insurer's folder, with an issued certificate of the registry."""
    root = company(tmp_path, bank, "insurer")
    (root / "peers" / "registry.pem").write_bytes(bank.issue(ask(tmp_path / "other", "registry")))
    return root


def test_what_doctor_says(insurer: Path, bank: TestAuthority) -> None:
    path = party_file(insurer, 'ca = "ca.pem"\ncrl = "bank.crl"\n')
    bank.revoke(insurer / "bank.crl", days=3)
    said = command("doctor", str(path), "--wait", "0", folder=insurer).out
    assert "certificate of registry: issued by Bank Root, not among 0 revoked" in said
    assert "the list" not in said  # more than a third of its five days is left
    bank.revoke(insurer / "bank.crl", days=0.9)
    said = command("doctor", str(path), "--wait", "0", folder=insurer).out
    assert re.search(r"note  the list .*bank\.crl ends on .*: fetch", said), said
    bank.revoke(insurer / "bank.crl", (insurer / "peers" / "registry.pem").read_bytes())
    said = command("doctor", str(path), "--wait", "0", folder=insurer).out
    assert "FAIL  the certificate of registry is on its authority's list" in said


def test_an_authority_that_ends_soon_is_said_beforehand(insurer: Path) -> None:
    ending = TestAuthority.made("Old Root", days=20.5)
    (insurer / "ca.pem").write_bytes(ending.pem)
    (insurer / "peers" / "registry.pem").write_bytes(ending.issue(ask(insurer / "new", "registry")))
    lines = Site.open(load_party(party_file(insurer))).ending_certificates()
    assert [line for line in lines if "authority Old Root" in line and "20 days from now" in line], lines


def test_a_pin_that_the_authority_does_not_stand_for(insurer: Path) -> None:
    own = identity.create(insurer / "self" / "registry", "registry").certificate
    (insurer / "peers" / "registry.pem").write_bytes(own.pem)
    site = Site.open(load_party(party_file(insurer)))
    assert "was not issued for that name" in (site.why_refused(own.der) or "")
    with pytest.raises(IdentityError, match="was not issued for that name"):
        site.check_not_revoked(["registry"])
    assert Site.open(load_party(party_file(insurer, ""))).why_refused(own.der) is None


def test_a_list_without_an_authority(insurer: Path) -> None:
    path = party_file(insurer, 'crl = "bank.crl"\n')
    command("doctor", str(path), folder=insurer).failed(2, "crl belongs to ca")


def test_a_renewed_certificate_needs_no_rotation(insurer: Path, bank: TestAuthority) -> None:
    path, new = party_file(insurer), insurer / "new.pem"
    asked = ask(insurer / "renewed", "registry")
    new.write_bytes(TestAuthority.made().issue(asked))
    command("keys", "accept", str(path), str(new), folder=insurer).failed(4, "was not issued")
    new.write_bytes(bank.issue(asked))
    done = command("keys", "accept", str(path), str(new), "--json", folder=insurer).ok()
    assert done.json["name"] == "registry"
    assert (insurer / "peers" / "registry.pem").read_bytes() == new.read_bytes()
    assert Path(done.json["kept"]).exists()
    party_file(insurer, "")
    command("keys", "accept", str(path), str(new), folder=insurer).failed(2, "--rotation is missing")


def test_a_request_and_what_is_issued_from_it(tmp_path: Path, bank: TestAuthority) -> None:
    done = command("keys", "request", "insurer", folder=tmp_path).ok()
    assert "keys/insurer.csr   the request" in done.out
    asked = tmp_path / "keys" / "insurer.csr"
    assert (tmp_path / "keys" / "insurer.key").stat().st_mode & 0o777 == 0o600
    command("keys", "request", "insurer", folder=tmp_path).failed(4, "exists already")
    (tmp_path / "keys" / "insurer.pem").write_bytes(bank.issue(asked.read_bytes()))
    own = identity.load(tmp_path / "keys" / "insurer")
    assert own.name == "insurer" and own.certificate.is_issued
    assert "its authority" in own.certificate.remedy
    (tmp_path / "keys" / "insurer.pem").write_bytes(bank.issue(asked.read_bytes(), uses=BOTH[:1]))
    (tmp_path / "peers").mkdir(mode=0o700)
    (tmp_path / "t.csv").write_text("id,claim\n1,0\n")
    with pytest.raises(IdentityError, match="is not for both ends of TLS"):
        Site.open(load_party(party_file(tmp_path, "")))
