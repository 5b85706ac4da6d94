"""A company's certificate authority, for tests: what it issues and revokes."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)
BOTH = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


@dataclass
class TestAuthority:
    """An authority with a key of its own."""

    __test__ = False

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def made(cls, name: str = "Bank Root", days: float = 3650) -> "TestAuthority":
        key = ec.generate_private_key(ec.SECP256R1())
        usage = dict.fromkeys(
            (
                *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
                *("key_agreement", "encipher_only", "decipher_only"),
            ),
            False,
        )
        public = key.public_key()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named(name))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now() - DAY)
            .not_valid_after(now() + days * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        request: bytes,
        *,
        days: float = 365,
        names: Sequence[str] | None = None,
        uses: Sequence[x509.ObjectIdentifier] = BOTH,
    ) -> bytes:
        """The certificate (PEM) for a request, with the DNS names that it asks for, or others."""
        asked = x509.load_pem_x509_csr(request)
        assert asked.is_signature_valid
        wanted = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = wanted.get_values_for_type(x509.DNSName) if names is None else names
        alternative = x509.SubjectAlternativeName([x509.DNSName(name) for name in found])
        made = (
            x509.CertificateBuilder()
            .subject_name(asked.subject)
            .issuer_name(self.certificate.subject)
            .public_key(asked.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now() - 2 * DAY)
            .not_valid_after(now() + days * DAY)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(alternative, critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )
        return made.public_bytes(serialization.Encoding.PEM)

    def revoke(self, path: Path, *pems: bytes, days: float = 7, partial: bool = False) -> None:
        """Write the list (DER) of these certificates."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now() - 2 * DAY)
            .next_update(now() + days * DAY)
        )
        for pem in pems:
            serial = x509.load_pem_x509_certificate(pem).serial_number
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now() - DAY)
            builder = builder.add_revoked_certificate(revoked.build())
        if partial:
            point = x509.IssuingDistributionPoint(None, None, False, True, None, False, False)
            builder = builder.add_extension(point, critical=True)
        crl = builder.sign(self.key, hashes.SHA256())
        path.write_bytes(crl.public_bytes(serialization.Encoding.DER))
