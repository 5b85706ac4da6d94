"""Time stamps of a ledger's seals, by an authority on this machine."""

import shutil
import subprocess
from pathlib import Path

import pytest
from authority import Authority, certificate, pem
from commands import Done, command

from vfl.party.audit import stamps
from vfl.party.identity import create
from vfl.party.ledger import Ledger, MessageEntry, months

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")

PARTY = """
[party]
name = "insurer"
role = "coordinator"
identity = "keys/insurer"
listen = "127.0.0.1:7000"
store = "store"
[peers.registry]
certificate = "peers/registry.pem"
[peers.bureau]
certificate = "peers/bureau.pem"
"""


class House:
    """A party with a ledger, an authority, and the file of its certificate."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.signer = folder, certificate("authority")
        (folder / "insurer.toml").write_text(PARTY)
        (folder / "tsa.pem").write_bytes(pem(self.signer))
        self.authority = Authority(folder / "authority", self.signer)
        self.identity = create(folder / "keys" / "insurer", "insurer")
        self.ledger = Ledger(folder / "store" / "ledger", self.identity, "coordinator")
        self.go_on()

    def go_on(self) -> None:
        """A session and its seal."""
        self.ledger.append(
            MessageEntry(
                peer="registry",
                direction="sent",
                task=None,
                job=None,
                type="Stop",
                rows=None,
                bytes=1,
                blake3="ab" * 32,
            ),
            "nothing",
        )
        self.ledger.seal()

    def stamp(self, pinned: str = "tsa.pem") -> Done:
        with self.authority.serving() as url:
            return self.run("stamp", "--tsa", url, "--tsa-certificate", pinned)

    def run(self, what: str, *options: str) -> Done:
        return command("ledger", what, "insurer.toml", *options, folder=self.folder)

    def verify(self, pinned: str = "tsa.pem") -> Done:
        return self.run("verify", "--tsa-certificate", pinned, "--json")


@pytest.fixture
def house(tmp_path: Path) -> House:
    (tmp_path / "keys").mkdir()
    (tmp_path / "peers").mkdir()
    (tmp_path / "store").mkdir()
    return House(tmp_path)


def test_a_seal_is_stamped_and_the_stamp_is_checked(house: House) -> None:
    made = house.stamp().ok().out
    assert "the seal in line 4 was there at 20" in made and "stamp-4.tsr" in made
    house.go_on()
    house.stamp().ok()
    house.stamp().ok()  # the same seal once more
    found = house.verify().ok().json
    assert [(one["file"], one["line"]) for one in found["stamps"]] == [
        ("stamp-4.tsr", 4),
        ("stamp-6-2.tsr", 6),
        ("stamp-6.tsr", 6),
    ]
    assert found["damage"] == [] and all(one["time"].endswith("Z") for one in found["stamps"])
    said = house.run("verify", "--tsa-certificate", "tsa.pem").ok().out
    assert said.count("was there at") == 3 and said.endswith("whole\n")
    without = house.run("verify").ok().out
    assert "note: 3 time stamps not checked: name the authority's certificate" in without


def test_other_tools_read_a_stamp(house: House) -> None:
    """The command of docs/compliance.md."""
    house.stamp().ok()
    (made,) = house.verify().ok().json["stamps"]
    page = (Path(__file__).parents[1] / "docs" / "compliance.md").read_text()
    script = page.split("<!-- check-stamp -->\n```sh\n")[1].split("```")[0]
    script = script.replace("HASH", made["hash"]).replace("stamp-12.tsr", made["file"])
    (house.ledger.folder / "tsa.pem").write_bytes(pem(house.signer))
    done = subprocess.run(
        ["bash", "-c", script], cwd=house.ledger.folder, capture_output=True, text=True, check=True
    )
    assert "Verification: OK" in done.stdout + done.stderr


def test_a_rewritten_ledger_lacks_the_seal_that_was_stamped(house: House) -> None:
    house.stamp().ok()
    (path,) = months(house.ledger.folder)
    path.unlink()
    (house.ledger.folder / "seal.json").unlink()
    for kept in (house.folder / "keys").glob("*.seal-*"):
        kept.unlink()
    house.ledger = Ledger(house.ledger.folder, house.identity, "coordinator")
    house.go_on()  # the owner of the key signs another history
    assert house.run("verify").ok()
    found = house.verify()
    assert found.code == 1
    (damage,) = found.json["damage"]
    assert damage.startswith("stamp-4.tsr: it is of a seal that the ledger does not have")


def test_stamps_of_another_authority_are_not_believed(house: House) -> None:
    house.stamp().ok()
    (house.folder / "other.pem").write_bytes(pem(certificate("authority")))
    found = house.verify("other.pem")
    assert found.code == 1 and found.json["stamps"] == []
    assert "stamp-4.tsr: " in found.json["damage"][0]
    house.stamp("other.pem").failed(10, "gave no time stamp that holds")
    assert len(stamps.stamps_of(house.ledger.folder)) == 1


def test_an_authority_below_another_is_known_by_both_or_by_the_one_above(house: House) -> None:
    above = certificate("root", stamps=False)
    house.signer = certificate("authority", above)
    house.authority = Authority(house.folder / "below", house.signer)
    (house.folder / "chain.pem").write_bytes(pem(house.signer, above))
    (house.folder / "root.pem").write_bytes(pem(above))
    (house.folder / "alone.pem").write_bytes(pem(house.signer))
    house.stamp("chain.pem").ok()
    assert house.verify("root.pem").ok().json["damage"] == []
    house.stamp("alone.pem").failed(10, "unable to get local issuer certificate")
    (house.folder / "wrong.pem").write_bytes(pem(certificate("authority", above), above))
    assert house.verify("wrong.pem").code == 1


def test_damaged_stamps_are_named(house: House) -> None:
    house.stamp().ok()
    path = house.ledger.folder / "stamp-4.tsr"
    whole = path.read_bytes()
    for at in range(len(whole) - 60, len(whole), 7):  # in the signature
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert house.verify().code == 1
    path.write_bytes(b"stamped")
    assert "no answer of a time-stamping authority" in house.verify().json["damage"][0]


def test_errors_are_one_line(house: House) -> None:
    options = ("--tsa-certificate", "tsa.pem")
    house.run("stamp", "--tsa", "http://127.0.0.1:1/", *options).failed(7, "cannot be reached")
    house.run("stamp", "--tsa", "ftp://127.0.0.1/", *options).failed(2, "http:// or https://")
    for wrong in ("http://user:secret@127.0.0.1/", "http://[", "http://h:x/", "http://\u00e9.example/"):
        assert "secret" not in house.run("stamp", "--tsa", wrong, *options).failed(2, "without a user")
    house.run("stamp", "--tsa", "http://127.0.0.1:1/").failed(2, "--tsa-certificate is missing")
    house.stamp("none.pem").failed(2, "none.pem cannot be read")
    (house.folder / "empty.pem").write_text("")
    house.stamp("empty.pem").failed(2, "holds no certificate")
    house.authority.answers = b"no stamp"
    house.stamp().failed(10, "no answer of a time-stamping authority")
    house.authority = Authority(house.folder / "strict", house.signer, digests="sha512")
    house.stamp().failed(10, "the authority refused it with status 2")
    assert stamps.stamps_of(house.ledger.folder) == []


def test_an_answer_to_another_question_is_refused(house: House) -> None:
    house.stamp().ok()
    house.authority.answers = (house.ledger.folder / "stamp-4.tsr").read_bytes()
    house.stamp().failed(10, "Nonce mismatch")


def test_nothing_is_stamped_before_the_first_seal(house: House) -> None:
    shutil.rmtree(house.ledger.folder)
    house.stamp().failed(3, "has no seal yet")
