"""A PostgreSQL server of the tests' own, with an account of its own where the tests run as root."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from federation import free_port

PASSWORD = "sun & rain: 100%/@#'"  # noqa: S105


def binaries() -> Path | None:
    """The folder of initdb and pg_ctl, the newest there is."""
    if (found := shutil.which("pg_ctl")) and shutil.which("initdb"):
        return Path(found).parent
    there = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    return there[-1].parent if there else None


@dataclass
class Server:
    """A server that listens on a port of this machine, with TLS, and on a socket in its folder."""

    folder: Path
    programs: Path
    port: int
    user: dict[str, Any]  # who runs it, for subprocess

    @property
    def socket(self) -> str:
        """The address by which the tests are its superuser, without a password."""
        return f"postgresql://postgres@/postgres?host={self.folder}&port={self.port}"

    def url(self, user: str = "reader", name: str = "postgres", options: str = "") -> str:
        """The address of a user who needs a password."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{name}{options}"

    @property
    def certificate(self) -> Path:
        """That of the server, which has signed itself."""
        return self.folder / "server.crt"

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements as the superuser; the rows of the last."""
        from adbc_driver_postgresql import dbapi

        rows: list[tuple[Any, ...]] = []
        with dbapi.connect(self.socket, autocommit=True) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
                rows = cursor.fetchall() if cursor.description else []
        return rows

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-F -k {self.folder} -p {self.port} -c listen_addresses=127.0.0.1"
        self._control("-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self, how: str = "fast") -> None:
        """Stop it; `immediate` is as a crash."""
        self._control("-w", "-m", how, "stop")

    def _control(self, *arguments: str) -> None:
        command = [str(self.programs / "pg_ctl"), "-D", str(self.folder / "data"), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **self.user)

    def make(self) -> None:
        """Make its files."""
        data = self.folder / "data"
        command = [str(self.programs / "initdb"), "-D", str(data), "-U", "postgres", "-E", "UTF8"]
        command += ["--locale=C.UTF-8", "--no-sync", "-A", "scram-sha-256", "--auth-local=trust"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **self.user)
        self._make_certificate()
        with (data / "postgresql.conf").open("a") as file:
            file.write("ssl = on\nfsync = off\n")
            file.write(
                f"ssl_cert_file = '{self.certificate}'\nssl_key_file = '{self.folder}/server.key'\n"
            )

    def _make_certificate(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
            .sign(key, hashes.SHA256())
        )
        self.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        path = self.folder / "server.key"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        path.chmod(0o600)
        if self.user:
            shutil.chown(path, self.user["user"])


@contextmanager
def serving() -> Iterator[Server]:
    """A server for as long as it lasts. Raises FileNotFoundError where PostgreSQL is not installed."""
    programs = binaries()
    if programs is None:
        raise FileNotFoundError("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    user: dict[str, Any] = {}
    if os.geteuid() == 0:  # which PostgreSQL refuses to run as
        account = next((a for a in ("postgres", "nobody") if _is_account(a)), "nobody")
        user = {"user": account, "group": pwd.getpwnam(account).pw_gid, "extra_groups": []}
    folder = Path(tempfile.mkdtemp(prefix="vfl-pg-"))  # a short path: it holds a socket
    try:
        folder.chmod(0o755)
        if user:
            shutil.chown(folder, user["user"])
        server = Server(folder, programs, free_port(), user)
        server.make()
        server.start()
        try:
            yield server
        finally:
            with suppress(subprocess.CalledProcessError):  # stopped already
                server.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_account(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
