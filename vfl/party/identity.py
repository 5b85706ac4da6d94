"""A party's identity: a P-256 key and a self-signed certificate that its peers pin.

`<prefix>.key` stays with the party. `<prefix>.pem` goes to the peers, who compare its fingerprint
by phone and name the file in their party file. There is no authority that could issue a second
certificate for the same name. The key may be under a passphrase (passphrase.py).
"""

import contextlib
import datetime
import hashlib
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vfl.errors import ConfigError, IdentityError
from vfl.net.certificates import invalidity
from vfl.net.tls import HOST
from vfl.party import passphrase

VALID = datetime.timedelta(days=5 * 365)

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_ALGORITHM = ec.ECDSA(hashes.SHA256())
_PURPOSES = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]


@dataclass(frozen=True)
class Certificate:
    """The public half of an identity."""

    name: str
    pem: bytes = field(repr=False)
    der: bytes = field(repr=False)
    starts: datetime.datetime
    expires: datetime.datetime
    _public: ec.EllipticCurvePublicKey = field(repr=False, compare=False)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the DER, in hex."""
        return hashlib.sha256(self.der).hexdigest()

    @property
    def fingerprint_groups(self) -> str:
        """The fingerprint in groups of four, to be compared by phone."""
        return " ".join(re.findall("....", self.fingerprint))

    def invalidity(self) -> str | None:
        """Why it is not valid now, as what is said of it; None when it is."""
        return invalidity(self.starts, self.expires, datetime.datetime.now(datetime.UTC))

    @property
    def remedy(self) -> str:
        """What its owner has to do when it is not valid, or soon will not be."""
        if datetime.datetime.now(datetime.UTC) < self.starts:
            return "check this machine's clock"
        if self.is_issued:
            return "have its authority issue a new one from `vfl keys request`, and give it to the peers"
        return "make a new one with `vfl keys rotate` and send it to the peers"

    @property
    def is_issued(self) -> bool:
        """Whether an authority issued it, and not the party itself."""
        found = x509.load_der_x509_certificate(self.der)
        return found.issuer != found.subject

    def verify(self, signature: bytes, data: bytes) -> bool:
        """Whether the identity's key made `signature` over `data`."""
        try:
            self._public.verify(signature, data, _ALGORITHM)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class TlsKey:
    """A file with the private key for OpenSSL, which takes keys from files alone."""

    path: Path
    password: bytes | None = field(default=None, repr=False)
    _held: object = field(default=None, repr=False, compare=False)  # while it is needed


@dataclass(frozen=True)
class Identity:
    """A party's own key and certificate, with the files that hold them."""

    certificate: Certificate
    key_path: Path
    certificate_path: Path
    tls_key: TlsKey = field(compare=False)  # a copy may lie elsewhere each time
    _key: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.certificate.name

    def sign(self, data: bytes) -> bytes:
        """An ECDSA signature (SHA-256, DER) over `data`, the same for the same data (RFC 6979): so that
        a replay of a run signs as the run did."""
        return signed(self._key, data)

    @property
    def under_passphrase(self) -> bool:
        """Whether the file of the private key is of no use to who lacks a passphrase."""
        return self.tls_key.password is not None

    def derive(self, purpose: bytes, salt: bytes) -> bytes:
        """A key of 32 bytes that only who has the private key can derive (HKDF, RFC 5869)."""
        secret = self._key.private_numbers().private_value.to_bytes(32, "big")
        return HKDF(hashes.SHA256(), 32, salt, purpose).derive(secret)


def signed(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """As `Identity.sign`. Raises IdentityError where OpenSSL cannot."""
    try:
        algorithm = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    except UnsupportedAlgorithm:
        raise IdentityError(
            "the installed cryptography uses an OpenSSL before 3.2, which cannot sign by RFC 6979: "
            "install cryptography from PyPI"
        ) from None
    return key.sign(data, algorithm)


def create(prefix: Path, name: str, words: bytes | None = None) -> Identity:
    """Make an identity in `<prefix>.key`, under the passphrase `words` if there is one, and
    `<prefix>.pem`.

    Raises ConfigError for a name that is none, IdentityError when a file exists or cannot be
    written.
    """
    check_new(prefix, name)
    no_core_dumps()
    key = ec.generate_private_key(ec.SECP256R1())
    pem = _certify(key, name).public_bytes(serialization.Encoding.PEM)
    _write_pair(key, words, prefix, paths(prefix)[1], pem)
    return load(prefix, lambda _: words or b"")


def request(prefix: Path, name: str, words: bytes | None = None) -> Path:
    """Make a key in `<prefix>.key` and a request (PKCS #10) for an authority's certificate in
    `<prefix>.csr`, whose path is returned. The certificate belongs into `<prefix>.pem`.

    Raises as `create`.
    """
    path = prefix.with_name(prefix.name + ".csr")
    check_new(prefix, name)
    no_core_dumps()
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.DNSName(name), x509.DNSName(HOST)]
    asked = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage(_PURPOSES), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_pair(key, words, prefix, path, asked.public_bytes(serialization.Encoding.PEM))
    return path


def _write_pair(
    key: ec.EllipticCurvePrivateKey, words: bytes | None, prefix: Path, path: Path, public: bytes
) -> None:
    """Write a new private key, under a passphrase if there is one, and the file that goes with it; both
    or neither. Raises IdentityError."""
    key_path = paths(prefix)[0]
    if words is None:
        secret = _private_bytes(key, serialization.Encoding.PEM, serialization.NoEncryption())
    else:
        plain = _private_bytes(key, serialization.Encoding.DER, serialization.NoEncryption())
        secret = passphrase.seal(plain, words)
    try:
        # Where everybody may read the certificate, and the owner alone put another one in its place.
        prefix.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _write_new(key_path, secret, 0o600)
        try:
            _write_new(path, public, 0o644)
        except OSError:
            key_path.unlink()
            raise
    except OSError as error:
        raise IdentityError(f"cannot write {error.filename or prefix}: {error.strerror}") from None


def check_new(prefix: Path, name: str) -> None:
    """Raises ConfigError for a name that is none, IdentityError when a file of `create` exists."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be a party's name: write 1 to 32 of a-z, 0-9 and -, a letter first"
        )
    there = [path for path in paths(prefix) if path.exists()]
    if there:
        half = "" if len(there) == 2 else " (half of an identity, as a command leaves it that is killed)"
        raise IdentityError(
            f"{there[0]} exists already and is not overwritten: choose another name{half}"
        )


def load(
    prefix: Path, ask: Callable[[Path], bytes] = passphrase.ask, *, expired: bool = False
) -> Identity:
    """The identity in `<prefix>.key` and `<prefix>.pem`; `ask` is for the passphrase of its key.

    From here on the process leaves no core dump. Raises IdentityError when a file is missing, damaged
    or readable by others, the passphrase is missing or wrong, the two do not belong together, or the
    certificate is not valid today (unless it may be `expired`).
    """
    key_path, certificate_path = paths(prefix)
    certificate = load_certificate(certificate_path)
    secret = _read(key_path)
    passphrase.refuse_if_others_can_read(key_path, "private key")
    no_core_dumps()
    words = ask(key_path) if passphrase.is_sealed(secret) else None
    try:
        key = serialization.load_pem_private_key(secret, words)
    except (ValueError, TypeError):
        if words is not None:
            of = f" of {source}" if (source := passphrase.source()) else ""
            raise IdentityError(f"the passphrase{of} does not open {key_path}") from None
        raise IdentityError(f"{key_path} holds no private key made by `vfl keys new`") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate._public:
        raise IdentityError(f"{key_path} and {certificate_path} do not belong together")
    if (why := certificate.invalidity()) is not None and not expired:
        raise IdentityError(f"{certificate_path} {why}: {certificate.remedy}")
    tls_key = TlsKey(key_path) if words is None else _tls_key(key, key_path, words)
    return Identity(certificate, key_path, certificate_path, tls_key, key)


def no_core_dumps() -> None:
    """No memory of this process goes to disk when it crashes, nor of those that it starts."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows has no such limit
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def load_certificate(path: Path) -> Certificate:
    """The certificate of a party, own or peer. It may have expired: signatures outlive it.

    Raises IdentityError when the file is missing or is not one certificate of a party.
    """
    pem = _read(path)
    if b"PRIVATE KEY" in pem:
        raise IdentityError(
            f"{path} holds a private key, which must never leave its party: use the .pem file"
        )
    return parse_certificate(pem, path)


def parse_certificate(pem: bytes, path: Path) -> Certificate:
    """The certificate in PEM that came from `path`. Raises IdentityError when it is none of a party."""
    try:
        (found,) = x509.load_pem_x509_certificates(pem)
        public = found.public_key()
        (common_name,) = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except (ValueError, UnsupportedAlgorithm):
        raise IdentityError(f"{path} is not a certificate made by `vfl keys new`") from None
    name = str(common_name.value)
    curve = public.curve if isinstance(public, ec.EllipticCurvePublicKey) else None
    if not isinstance(curve, ec.SECP256R1) or not _NAME.fullmatch(name):
        raise IdentityError(f"{path} is not a certificate made by `vfl keys new`")
    return Certificate(
        name=name,
        pem=found.public_bytes(serialization.Encoding.PEM),
        der=found.public_bytes(serialization.Encoding.DER),
        starts=found.not_valid_before_utc,
        expires=found.not_valid_after_utc,
        _public=public,  # type: ignore[arg-type]  # its curve was checked
    )


def paths(prefix: Path) -> tuple[Path, Path]:
    """Where an identity's key and certificate lie."""
    # Not with_suffix: it would cut "keys/insurer.2027" short.
    return prefix.with_name(prefix.name + ".key"), prefix.with_name(prefix.name + ".pem")


def _private_bytes(
    key: ec.EllipticCurvePrivateKey,
    encoding: serialization.Encoding,
    encryption: serialization.KeySerializationEncryption,
) -> bytes:
    return key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, encryption)


def _tls_key(key: ec.EllipticCurvePrivateKey, path: Path, words: bytes) -> TlsKey:
    """The key for OpenSSL, which opens it anew for every connection: deriving a key from the passphrase
    would take a fifth of a second each time, also for connections of strangers. So it gets a copy in
    memory under a random password, where the system has files without a name.
    """
    if not hasattr(os, "memfd_create") or not Path("/proc/self/fd").exists():
        return TlsKey(path, words)
    password = secrets.token_hex(32).encode()  # random: it needs no costly derivation
    sealed = serialization.BestAvailableEncryption(password)
    held = os.fdopen(os.memfd_create("vfl key"), "wb", buffering=0)
    held.write(_private_bytes(key, serialization.Encoding.PEM, sealed))
    return TlsKey(Path(f"/proc/self/fd/{held.fileno()}"), password, held)


def _certify(key: ec.EllipticCurvePrivateKey, name: str) -> x509.Certificate:
    public = key.public_key()
    party = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(party)
        .issuer_name(party)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        # Peers' clocks may be behind.
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + VALID)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage(_PURPOSES), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Create `path` with `mode` from its first moment on, on disk; fails when it exists, and on any
    failure leaves nothing behind."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            path.unlink()
            raise


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise IdentityError(
            f"{path} does not exist: `vfl keys new` makes an identity, a peer sends its .pem"
        ) from None
    except OSError as error:
        raise IdentityError(f"cannot read {path}: {error.strerror}") from None
