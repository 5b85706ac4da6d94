"""A time-stamping authority on this machine: OpenSSL's `ts` behind a server of HTTP."""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Signer = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]

_CONFIGURATION = """
[tsa]
default_tsa = own
[own]
serial = {folder}/serial
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = {digests}
ess_cert_id_alg = sha256
"""


def certificate(name: str, above: Signer | None = None, *, stamps: bool = True) -> Signer:
    """A certificate for stamps, or for those of others, signed by itself or by the one above."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(own)
        .issuer_name(above[0].subject if above else own)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365))
        .add_extension(x509.BasicConstraints(not stamps, None), critical=True)
    )
    if stamps:
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(above[1] if above else key, hashes.SHA256()), key


def pem(*certificates: Signer) -> bytes:
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one, _ in certificates)


class Authority:
    """Answers as long as `serving`; `answers` has what it says in place of a stamp, if anything."""

    def __init__(self, folder: Path, signer: Signer, digests: str = "sha256, sha512") -> None:
        self.folder, self.answers = folder, b""
        folder.mkdir()
        (folder / "tsa.pem").write_bytes(pem(signer))
        (folder / "tsa.key").write_bytes(
            signer[1].private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        (folder / "serial").write_text("01")
        (folder / "tsa.cnf").write_text(_CONFIGURATION.format(folder=folder, digests=digests))

    def reply(self, query: bytes) -> bytes:
        """What it says to a query."""
        if self.answers:
            return self.answers
        (self.folder / "query").write_bytes(query)
        files = ("-queryfile", "query", "-config", "tsa.cnf", "-out", "reply")
        subprocess.run(
            ["openssl", "ts", "-reply", *files], cwd=self.folder, check=True, capture_output=True
        )
        return (self.folder / "reply").read_bytes()

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Its address."""
        authority = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.headers["Content-Type"] == "application/timestamp-query"
                body = authority.reply(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/tsa"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
