"""New keys, keys that are no longer trusted, passphrases: on the command line and in their files."""

import contextlib
import io
import json
import os
import pty
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from federation import HIDDEN_JOB, JOB, Federation, ended, make_tables, toml

from vfl.cli import main
from vfl.errors import DataError, IdentityError
from vfl.jobs.connect import Site
from vfl.models.halves import HostHalf
from vfl.models.kinds import load_half
from vfl.party import identity, rotation
from vfl.party.config import load_party
from vfl.party.identity import Identity, load_certificate
from vfl.party.policy_section import PolicySection
from vfl.party.revocation import Revoked, revoke, revoked_by
from vfl.party.store import Store

WORDS = "correct horse battery"
QUICK = {**JOB, "secureboost": {**JOB["secureboost"], "trees": 1}}


def vfl(
    *arguments: object,
    code: int = 0,
    folder: Path | None = None,
    failing: bool = True,
    **environment: str,
) -> str:
    """What a command prints; nothing of a passphrase or a private key is in it.

    One that is `failing` prints one line about it and nothing else on stderr.
    """
    out, err = io.StringIO(), io.StringIO()
    clean = {k: v for k, v in os.environ.items() if not k.startswith("VFL_")}
    with (
        mock.patch.dict(os.environ, {**clean, **environment}, clear=True),
        mock.patch.object(sys, "stdin", io.StringIO()),  # no terminal
        contextlib.chdir(folder or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended_with,
    ):
        main.main([str(argument) for argument in arguments], prog_name="vfl")
    assert (ended_with.value.code or 0) == code, err.getvalue()
    for text in (out.getvalue(), err.getvalue()):
        assert "Traceback" not in text and "PRIVATE" not in text and "horse" not in text
    if code and failing:
        assert re.fullmatch(r"error: .*\n", err.getvalue())
    return out.getvalue() + err.getvalue()


def test_a_rotated_key_under_a_passphrase_and_a_policy(
    tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs before and after; alignment and model stay of use; the day's rows to score end."""
    monkeypatch.setenv("VFL_PASSPHRASE", WORDS)
    made = Federation(tmp_path, keys, hosts=("registry",), tables=make_tables(200))
    registry, guest = made.parties["registry"], made.guest
    registry.settings["policy"]["columns"] = ["power"]
    with ended(made.serve()) as federation:
        guest.align().ok()
        guest.train(QUICK).ok()
        guest.score().ok()
        federation.serving["registry"].stop()
        store = Store(registry.store)
        assert load_half(store, store.latest("model"), HostHalf).columns == ("power",)

        said = vfl("keys", "rotate", registry.file, "--passphrase", VFL_PASSPHRASE=WORDS)
        assert 'set identity = "keys/registry.2" in [party] and restart' in said
        (fingerprint,) = re.findall(r"fingerprint  (.*)", said)
        new = registry.folder / "keys" / "registry.2"
        assert stat.S_IMODE(new.with_name("registry.2.key").stat().st_mode) == 0o600
        assert b"BEGIN ENCRYPTED PRIVATE KEY" in new.with_name("registry.2.key").read_bytes()
        said = vfl(
            "keys", "accept", guest.file, f"{new}.pem", "--rotation", f"{new}.rotation", folder=tmp_path
        )
        assert f"new fingerprint  {fingerprint}" in said
        pinned = guest.folder / "peers" / "registry.pem"
        assert load_certificate(pinned).fingerprint_groups == fingerprint
        old = load_certificate(registry.folder / "keys" / "registry.pem")
        (kept,) = pinned.parent.glob("registry.pem.replaced-*")
        assert load_certificate(kept).der == old.der
        assert {stat.S_IMODE(path.stat().st_mode) for path in (pinned, kept)} == {0o644}

        registry.settings["party"]["identity"] = "keys/registry.2"
        registry.settings["policy"] |= {"max_scored_rows_a_day": 120, "columns": ["power", "brand"]}
        serving = federation.serve("registry").serving["registry"]
        assert guest.score(out="again.csv").ok()
        assert (guest.folder / "again.csv").read_bytes() == (guest.folder / "scores.csv").read_bytes()
        assert guest.train(QUICK).ok()
        mark = serving.mark()
        rule = "more rows to score on .* breaks rule max_scored_rows_a_day = 120 of"
        line = guest.score(model="claims", out="more.csv").failed(9, "registry stopped the job: ")
        assert re.search(rule, line)
        assert re.search(rule, serving.until("job ended", mark)[-1])

        serving.stop()
        registry.settings["policy"]["columns"] = ["brand"]
        federation.serve("registry")
        guest.score().failed(9, "has columns that rule columns of [policy] leaves out")
    said = vfl("policy", "agreement", guest.file, "--model", "claims")
    assert f"registry: signed; fingerprint {fingerprint.replace(' ', '')}" in said
    shown = json.loads(vfl("policy", "agreement", registry.file, "--model", "claims", "--json"))
    assert shown["signatures"] == {"insurer": "signed", "registry": "signed"}
    assert shown["job_digest"] in said


def test_a_policy_is_checked_before_any_job(tmp_path: Path, keys: Path) -> None:
    made = Federation(tmp_path / "f", keys, guest_listens=True)
    party = made.parties["bureau"].settings
    party["policy"] = {
        "guests": ["registry"],
        "purposes": ["pricing*"],
        "max_trees": 1,
        "models": ["secureboost"],
    }
    file, job = tmp_path / "bureau.toml", tmp_path / "job.toml"
    file.write_text(toml(party))
    job.write_text(toml(JOB))
    listed = vfl("policy", "check", job, file, "--guest", "insurer", code=6)
    assert listed.splitlines() == [
        'the guest insurer breaks rule guests = ["registry"] of [policy]: the host adds it there if it '
        "may start jobs",
        'purpose = "a test" breaks rule purposes = ["pricing*"] of [policy]: use one of these, or the '
        "host adds it there",
        "min_child_rows = 10 breaks rule min_child_rows = 20 of [policy] (the default): raise it in the "
        "job, or the host lowers the rule",
        "trees = 2 breaks rule max_trees = 1 of [policy]: lower it in the job, or the host raises the "
        "rule",
        "error: claims breaks 4 rules of bureau",
    ]
    hidden = tmp_path / "hidden.toml"
    hidden.write_text(toml(HIDDEN_JOB))
    said = vfl("policy", "check", hidden, file, code=6)
    assert "the job's coordinator is umpire: bureau's party file needs [peers.umpire] with" in said
    said = vfl("policy", "check", job, file, "--guest", "insurerr", code=2)
    assert said == 'error: [peers] has no "insurerr" that could be a guest: did you mean insurer?\n'
    party["policy"] = {"purposes": ["a *"], "min_child_rows": 10}
    file.write_text(toml(party))
    first, *notes = vfl("policy", "check", job, file).splitlines()
    assert re.fullmatch(r"bureau allows claims, whose digest is [0-9a-f]{64}", first)
    assert notes[0] == (
        "no alignment is here yet: open sums of 2 trees need 267 rows, by max_sums_a_row = 0.03"
    )
    # Every rule that this job could not be held against is listed with what it allows.
    held = {"guests", "purposes", "models", "objectives", "min_child_rows", "encryptions", "key_bits"}
    held |= {"max_trees", "max_iterations", "hidden_sums", "hidden_scores", "expires"}
    held |= {"exact_zeros", "category_groups", "interactions_across"}
    unset = {"columns", "min_bin_rows", "auditor"}
    text = "\n".join(notes)
    for rule in PolicySection.model_fields.keys() - held - unset:
        assert re.search(rf"\b{rule} = \S", text), rule
    made.guest.write()
    assert "is the party file of a guest, the command takes a host's" in vfl(
        "policy", "check", job, made.guest.file, code=2
    )


def test_a_passphrase_is_typed_at_a_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    clean = {k: v for k, v in os.environ.items() if not k.startswith("VFL_")}
    made = subprocess.Popen(
        [sys.executable, "-m", "vfl.cli", "keys", "new", "insurer", "--passphrase"],
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**clean, "TERM": "dumb"},
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""
    for prompt in (b"passphrase for keys/insurer.key: ", b"the same again: "):
        while prompt not in seen:
            seen += os.read(ours, 1024)
        os.write(ours, WORDS.encode() + b"\n")
    assert made.wait() == 0
    with pytest.raises(OSError):
        while True:
            seen += os.read(ours, 1024)
    assert b"horse" not in seen
    assert identity.load(tmp_path / "keys" / "insurer", lambda _: WORDS.encode()).name == "insurer"


def test_keys_that_cannot_be_opened_or_rotated(tmp_path: Path) -> None:
    said = vfl("keys", "new", "In surer", "--passphrase", folder=tmp_path, code=2)
    assert "cannot be a party's name" in said  # before anything is typed
    said = vfl("keys", "new", "insurer", "--passphrase", folder=tmp_path, code=4)
    assert "no terminal to type a passphrase at" in said and not (tmp_path / "keys").exists()
    vfl("keys", "new", "insurer", "--passphrase", folder=tmp_path, VFL_PASSPHRASE=WORDS)
    (tmp_path / "insurer.toml").write_text(
        '[party]\nname = "insurer"\nrole = "guest"\nidentity = "keys/insurer"\n'
        '[data]\npath = "t.csv"\nid = "id"\n'
        '[peers.registry]\naddress = "127.0.0.1:1"\ncertificate = "peers/registry.pem"\n'
    )
    words = tmp_path / "words"
    words.write_text(WORDS + "\n")
    words.chmod(0o644)
    for environment, wrong in (
        ({}, "insurer.key has a passphrase: give it in VFL_PASSPHRASE,"),
        (
            {"VFL_PASSPHRASE": "a horse of another colour"},
            "the passphrase of VFL_PASSPHRASE does not open ",
        ),
        ({"VFL_PASSPHRASE_FILE": str(words)}, "others can read the passphrase file "),
    ):
        assert wrong in vfl("keys", "rotate", "insurer.toml", folder=tmp_path, code=4, **environment)
    words.chmod(0o600)
    vfl("keys", "rotate", "insurer.toml", folder=tmp_path, VFL_PASSPHRASE_FILE=str(words))
    # As the old one: under a passphrase, too.
    assert b"ENCRYPTED" in (tmp_path / "keys" / "insurer.2.key").read_bytes()
    said = vfl("keys", "revoke", "insurer.toml", "bureau", folder=tmp_path, code=2)
    assert "there is no [peers.bureau]" in said


def chain(folder: Path, rotations: int, name: str = "registry") -> list[tuple[Identity, Path]]:
    """An identity and its successors, each with the file that vouches for it."""
    made = [(identity.create(folder / name, name), folder / "none")]
    for _ in range(rotations):
        made.append(rotation.rotate(made[-1][0]))
    return made


def pin(folder: Path, found: Identity) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{found.name}.pem"
    path.write_bytes(found.certificate.pem)
    return path


def test_rotations_lead_from_any_earlier_certificate(tmp_path: Path) -> None:
    (first, _), (second, _), (third, vouching) = chain(tmp_path, 2)
    prints = [one.certificate.fingerprint for one in (first, second, third)]
    assert third.key_path.name == "registry.3.key"
    assert rotation.formerly(third.certificate, third.certificate_path) == set(prints[:2])
    assert rotation.formerly(second.certificate, second.certificate_path) == {prints[0]}
    for start in (first, second):
        pinned = pin(tmp_path / start.key_path.stem, start)
        old, new, kept = rotation.accept(pinned, third.certificate_path, vouching, {})
        assert (old, new) == (start.certificate, third.certificate)
        assert load_certificate(pinned) == new and load_certificate(kept) == old
        assert rotation.formerly(new, pinned) == set(prints[:2])
        with pytest.raises(IdentityError, match="is the certificate that is pinned already"):
            rotation.accept(pinned, third.certificate_path, vouching, {})
        # As if the process had been killed before the pin was written.
        pinned.write_bytes(start.certificate.pem)
        expected = set(prints[: prints.index(start.certificate.fingerprint)])
        assert rotation.formerly(start.certificate, pinned) == expected
    stranger = identity.create(tmp_path / "x" / "registry", "registry")
    assert rotation.formerly(stranger.certificate, pinned) == set()


def test_a_pin_that_is_read_only_stays_and_a_link_stays_one(tmp_path: Path) -> None:
    (first, _), (second, vouching) = chain(tmp_path, 1)
    pinned = pin(tmp_path / "peers", first)
    pinned.chmod(0o444)
    before = sorted(pinned.parent.iterdir())
    with pytest.raises(DataError, match=r"read-only \(mode 444\); run chmod u\+w"):
        rotation.accept(pinned, second.certificate_path, vouching, {})
    assert load_certificate(pinned) == first.certificate and sorted(pinned.parent.iterdir()) == before
    real = pinned.rename(tmp_path / "real.pem")
    real.chmod(0o640)
    pinned.symlink_to(real)
    rotation.accept(pinned, second.certificate_path, vouching, {})
    assert pinned.is_symlink() and load_certificate(real) == second.certificate
    assert real.stat().st_mode & 0o777 == 0o640


def spoilt(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    document = json.loads(path.read_bytes())
    change(document)
    other = path.with_name("spoilt.rotation")
    other.write_text(json.dumps(document))
    return other


def test_a_rotation_that_proves_nothing_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, _), (second, earlier), (third, vouching) = chain(tmp_path, 2)
    thief = identity.create(tmp_path / "thief" / "registry", "registry")
    _, forged = rotation.rotate(thief)
    other, other_file = rotation.rotate(identity.create(tmp_path / "bureau", "bureau"))
    pinned = pin(tmp_path / "peers", first)
    before = {path: path.read_bytes() for path in pinned.parent.iterdir()}
    day = "2027-06-30"

    def refused(said: str, new: Path, file: Path, listed: dict[str, Revoked] | None = None) -> None:
        with pytest.raises(IdentityError, match=said):
            rotation.accept(pinned, new, file, listed or {})
        assert {path: path.read_bytes() for path in pinned.parent.iterdir()} == before

    last = third.certificate_path
    refused("vouches for another certificate than", last, earlier)
    refused("vouches for another certificate than", thief.certificate_path, vouching)
    successor = forged.with_name("registry.2.pem")
    refused("does not start from the certificate of registry that is pinned", successor, forged)
    refused("does not start from", other.certificate_path, other_file)
    thiefs = thief.certificate.pem.decode()
    for change, said in (
        (lambda d: d["links"][1].update(new=thiefs), "a signature in it does not hold"),
        (lambda d: d["links"][1].update(on=day), "a signature in it does not hold"),
        (lambda d: d["links"][1].update(by_old=d["links"][1]["by_new"]), "a signature in it does not"),
        (lambda d: d["links"][1].update(by_new=d["links"][1]["by_old"]), "a signature in it does not"),
        (lambda d: d["links"].reverse(), "a signature in it does not hold"),
        (lambda d: d["links"].pop(), "vouches for another certificate"),
        (lambda d: d["links"].clear(), "is not a file made by `vfl keys rotate`"),
        (lambda d: d["links"][0].update(on="../x"), "is not a file made by"),
        (lambda d: d["links"][0].update(old="PEM"), "is not a certificate made by"),
        (lambda d: d.update(version=2), "is not a file made by"),
        (lambda d: d.update(more=1), "is not a file made by"),
    ):
        refused(said, last, spoilt(vouching, change))
    refused("cannot read .*none", last, tmp_path / "none")
    for path in (second, third):
        mark = Revoked(path.certificate.fingerprint, "registry", day, "lost")
        refused(
            r"a certificate of registry that was revoked on 2027-06-30 \(lost\)",
            last,
            vouching,
            {mark.fingerprint: mark},
        )
    monkeypatch.setattr(identity, "VALID", timedelta(hours=-1))
    with pytest.raises(IdentityError, match="expired on"):
        rotation.rotate(third)


def test_what_is_revoked_stays_so(tmp_path: Path, keys: Path) -> None:
    made = Federation(tmp_path / "f", keys, guest_listens=True)
    guest = made.guest
    guest.write()
    said = vfl("keys", "revoke", guest.file, "bureau", "--reason", "a laptop was lost")
    assert "A `vfl serve` that runs refuses it from now on" in said
    assert "Restart `vfl serve` after that" in said and "phone" in said
    assert "[peers.bureau] out of" in said
    pinned = guest.folder / "peers" / "bureau.pem"
    (away,) = pinned.parent.glob("bureau.pem.revoked-*")
    found = load_certificate(away)
    listed = revoked_by(guest.folder / "keys" / "insurer")
    assert listed[found.fingerprint].reason == "a laptop was lost"
    with pytest.raises(IdentityError, match=r"bureau.pem does not exist"):
        Site.open(load_party(guest.file))

    # Pinned again, under another name and in another folder: refused all the same.
    again = guest.folder / "elsewhere.pem"
    again.write_bytes(away.read_bytes())
    guest.settings["peers"]["bureau"]["certificate"] = "elsewhere.pem"
    guest.write()
    with pytest.raises(
        IdentityError, match=r"elsewhere.pem: a certificate of bureau that was revoked on 20.*laptop"
    ):
        Site.open(load_party(guest.file))
    guest.settings["peers"]["bureau"]["certificate"] = "peers/new-bureau.pem"
    guest.write()
    Site.open(load_party(guest.file))

    # A second one joins the list; a list that cannot be read is no empty list.
    own = guest.folder / "keys" / "insurer"
    pinned = guest.folder / "peers" / "registry.pem"
    revoke(own, pinned, load_certificate(pinned), "", "2027-06-30")
    assert len(revoked_by(own)) == 2
    (own.parent / "revoked.json").write_text("[{}]")
    with pytest.raises(IdentityError, match=r"revoked.json is damaged"):
        Site.open(load_party(guest.file))
