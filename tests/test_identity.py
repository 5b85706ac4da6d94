import datetime
import getpass
import os
import pickle
import re
import resource
import shutil
import ssl
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.backends.openssl import backend
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from vfl.errors import ConfigError, IdentityError
from vfl.net.tls import HOST, Credentials, context_of
from vfl.party import identity, passphrase

WORDS = b"correct horse battery"


def test_a_made_identity_is_loaded_again_signs_and_is_verified(tmp_path: Path) -> None:
    made = identity.create(tmp_path / "keys" / "insurer", "insurer")
    loaded = identity.load(tmp_path / "keys" / "insurer")
    assert loaded == made
    assert loaded.name == loaded.certificate.name == "insurer"
    signature = loaded.sign(b"receipt")
    assert made.certificate.verify(signature, b"receipt")
    assert not made.certificate.verify(signature, b"other")
    assert not made.certificate.verify(b"", b"receipt")
    assert loaded.sign(b"receipt") == signature != loaded.sign(b"other")


def test_who_cannot_sign_the_same_twice_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(backend), "ecdsa_deterministic_supported", lambda self: False)
    private = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(IdentityError, match=r"OpenSSL before 3\.2, .* install cryptography from PyPI$"):
        identity.signed(private, b"receipt")


def test_the_key_is_never_readable_by_others(tmp_path: Path, monkeypatch) -> None:
    modes = []
    true_open = os.open

    def watched(path, flags, mode=0o777, **rest):
        modes.append((str(path), flags & os.O_EXCL, mode))
        return true_open(path, flags, mode, **rest)

    monkeypatch.setattr(identity.os, "open", watched)
    old = os.umask(0)
    try:
        identity.create(tmp_path / "insurer", "insurer")
    finally:
        os.umask(old)
    key = tmp_path / "insurer.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert (str(key), os.O_EXCL, 0o600) in modes


def test_the_certificate_says_what_a_strict_peer_expects(tmp_path: Path) -> None:
    made = identity.create(tmp_path / "insurer", "insurer")
    found = x509.load_der_x509_certificate(made.certificate.der)
    constraints = found.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical and not constraints.value.ca
    years = (found.not_valid_after_utc - datetime.datetime.now(datetime.UTC)).days / 365
    assert 4.9 < years < 5.1

    context = ssl.create_default_context(cadata=made.certificate.der)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made.certificate_path, made.key_path)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = context.wrap_bio(to_client, to_server, server_hostname=HOST)
    there = server.wrap_bio(to_server, to_client, server_side=True)
    for end in (here, there, here, there):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert here.getpeercert(binary_form=True) == made.certificate.der


def test_fingerprints_are_sha256_in_groups(tmp_path: Path) -> None:
    certificate = identity.create(tmp_path / "insurer", "insurer").certificate
    assert len(certificate.fingerprint) == 64
    assert certificate.fingerprint_groups.replace(" ", "") == certificate.fingerprint
    assert {len(group) for group in certificate.fingerprint_groups.split()} == {4}


@pytest.mark.parametrize("words", [None, WORDS])
def test_nothing_shows_the_key(tmp_path: Path, words: bytes | None) -> None:
    made = identity.create(tmp_path / "insurer", "insurer", words)
    tls = made.tls_key
    credentials = Credentials("insurer", made.certificate_path, tls.path, {}, tls.password)
    secret = made._key.private_numbers().private_value
    hidden = [str(secret), f"{secret:x}", "EllipticCurve", "PRIVATE", "b'", *filter(None, [words])]
    hidden += [] if tls.password is None else [tls.password.decode()]
    with pytest.raises(TypeError) as pickled:  # a bug that would send it to another process
        pickle.dumps(made)
    for shown in (made, tls, credentials, pickled.value):
        for text in (repr(shown), str(shown), f"{shown}"):
            assert not [one for one in hidden if str(one) in text], text


def test_a_process_with_a_key_leaves_no_core_dump(tmp_path: Path) -> None:
    identity.create(tmp_path / "insurer", "insurer")
    assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)


def test_a_key_under_a_passphrase(tmp_path: Path) -> None:
    made = identity.create(tmp_path / "insurer", "insurer", WORDS)
    assert stat.S_IMODE(made.key_path.stat().st_mode) == 0o600
    loaded = identity.load(tmp_path / "insurer", lambda _: WORDS)
    assert loaded == made
    assert made.certificate.verify(loaded.sign(b"receipt"), b"receipt")
    for wrong in (b"", b"another horse battery", WORDS + b" "):
        with pytest.raises(
            IdentityError, match=r"^the passphrase does not open \S+insurer\.key$"
        ) as error:
            identity.load(tmp_path / "insurer", lambda _, wrong=wrong: wrong)
        assert error.value.__cause__ is None and "horse" not in str(error.value)
    # OpenSSL reads the file too: it is PKCS #8, and its key derivation is scrypt at these costs.
    pem = made.key_path.read_bytes()
    key = serialization.load_pem_private_key(pem, WORDS)
    assert key.private_numbers() == made._key.private_numbers()
    if openssl := shutil.which("openssl"):
        printed = subprocess.run(
            [openssl, "asn1parse"], input=pem, capture_output=True, check=True
        ).stdout.decode()
        assert re.search(r"PBES2.*:scrypt.*:4000.*:08.*:05.*:aes-256-cbc", printed, re.DOTALL)


def test_tls_takes_a_key_under_a_passphrase(tmp_path: Path) -> None:
    made = identity.create(tmp_path / "insurer", "insurer", WORDS)

    def use(path: Path, password: bytes | None) -> None:
        credentials = Credentials("insurer", made.certificate_path, path, {}, password)
        context_of(credentials, ssl.PROTOCOL_TLS_SERVER, [])

    for _ in range(2):
        use(made.tls_key.path, made.tls_key.password)
    use(made.key_path, WORDS)
    # Without one nobody is asked at a terminal, and no test waits for an answer.
    for path in (made.key_path, made.tls_key.path):
        with pytest.raises(IdentityError, match="cannot use"):
            use(path, None)


def test_where_a_passphrase_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, file = tmp_path / "insurer.key", tmp_path / "words"
    for name in (passphrase.VARIABLE, passphrase.FILE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(passphrase, "_at_terminal", lambda: False)
    with pytest.raises(IdentityError, match=r"insurer.key has a passphrase: give it in VFL_PASSPHRASE,"):
        passphrase.ask(key)
    with pytest.raises(IdentityError, match="no terminal to type a passphrase at"):
        passphrase.choose(key)

    monkeypatch.setenv(passphrase.FILE_VARIABLE, str(file))
    with pytest.raises(
        IdentityError, match=r"cannot read .*words \(VFL_PASSPHRASE_FILE\): No such file"
    ):
        passphrase.ask(key)
    file.write_bytes(WORDS + b"\r\nmade in 2027\n")
    file.chmod(0o640)
    with pytest.raises(IdentityError, match=r"others can read the passphrase file .*: run chmod 600"):
        passphrase.ask(key)
    file.chmod(0o600)
    assert passphrase.ask(key) == passphrase.choose(key) == WORDS
    file.write_bytes(b"\xff\xfe\n")
    with pytest.raises(IdentityError, match=r"words \(VFL_PASSPHRASE_FILE\) is not UTF-8"):
        passphrase.ask(key)

    monkeypatch.setenv(passphrase.VARIABLE, "schönes Pferd")  # goes before the file
    assert passphrase.ask(key) == "schönes Pferd".encode()
    for text, said in (("", "1 to 1,024 bytes"), ("x" * 1025, "1 to 1,024 bytes"), ("\udcff", "UTF-8")):
        monkeypatch.setenv(passphrase.VARIABLE, text)
        with pytest.raises(IdentityError, match=said):
            passphrase.ask(key)
    monkeypatch.setenv(passphrase.VARIABLE, "eleven char")
    with pytest.raises(IdentityError, match="at least 12 characters"):
        passphrase.choose(key)

    monkeypatch.delenv(passphrase.VARIABLE)
    monkeypatch.delenv(passphrase.FILE_VARIABLE)
    monkeypatch.setattr(passphrase, "_at_terminal", lambda: True)
    typed = ["open it please", "choose this one", "choose this one", "choose this one", "or that one"]
    monkeypatch.setattr(getpass, "getpass", lambda prompt: typed.pop(0))
    assert passphrase.ask(key) == b"open it please"
    assert passphrase.choose(key) == b"choose this one"
    with pytest.raises(IdentityError, match=r"^the two passphrases differ: nothing was made$"):
        passphrase.choose(key)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    made = identity.create(tmp_path / "insurer", "insurer")
    before = made.key_path.read_bytes()
    with pytest.raises(IdentityError, match="exists already"):
        identity.create(tmp_path / "insurer", "insurer")
    made.key_path.unlink()
    with pytest.raises(IdentityError, match=r"insurer\.pem exists already"):
        identity.create(tmp_path / "insurer", "insurer")
    assert not made.key_path.exists()
    assert before


def test_a_dot_in_the_file_name_is_kept(tmp_path: Path) -> None:
    made = identity.create(tmp_path / "insurer.2027", "insurer")
    assert made.key_path.name == "insurer.2027.key"


@pytest.mark.parametrize("name", ["", "Insurer", "1st", "a_b", "a" * 33, "a\n", "ä", "../a"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a party's name"):
        identity.create(tmp_path / "x", name)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IdentityError, match="cannot write"):
        identity.create(tmp_path / "file" / "insurer", "insurer")


def test_what_is_wrong_with_the_files_is_said(tmp_path: Path) -> None:
    made = identity.create(tmp_path / "insurer", "insurer")
    other = identity.create(tmp_path / "registry", "registry")
    with pytest.raises(IdentityError, match=r"nobody\.pem does not exist"):
        identity.load(tmp_path / "nobody")

    made.key_path.chmod(0o640)
    with pytest.raises(IdentityError, match="chmod 600"):
        identity.load(tmp_path / "insurer")
    made.key_path.chmod(0o600)

    key, pem = made.key_path.read_bytes(), made.certificate_path.read_bytes()
    made.key_path.write_bytes(other.key_path.read_bytes())
    with pytest.raises(IdentityError, match="do not belong together"):
        identity.load(tmp_path / "insurer")
    made.key_path.write_bytes(key[: len(key) // 2])
    with pytest.raises(IdentityError, match="holds no private key"):
        identity.load(tmp_path / "insurer")
    made.key_path.unlink()
    with pytest.raises(IdentityError, match=r"insurer\.key does not exist"):
        identity.load(tmp_path / "insurer")

    for content in (b"", b"garbage", pem[:200], pem + pem):
        made.certificate_path.write_bytes(content)
        with pytest.raises(IdentityError, match="is not a certificate"):
            identity.load_certificate(made.certificate_path)
    made.certificate_path.write_bytes(pem + key)
    with pytest.raises(IdentityError, match="holds a private key"):
        identity.load_certificate(made.certificate_path)


def test_an_expired_certificate_is_not_used_but_still_verifies(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(identity, "VALID", datetime.timedelta(hours=-1))
    with pytest.raises(IdentityError, match="expired on"):
        identity.create(tmp_path / "insurer", "insurer")
    assert identity.load_certificate(tmp_path / "insurer.pem").name == "insurer"
