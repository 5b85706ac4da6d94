"""The certificate by which clients know a party's own service: none of the federation's."""

import ssl
from datetime import datetime
from pathlib import Path

from cryptography.x509 import load_pem_x509_certificate

from vfl.errors import ConfigError


class ServiceCertificate:
    """The certificate of the service, taken anew when its file changes."""

    def __init__(
        self,
        certificate: Path,
        key: Path,
        kind: type[ssl.SSLContext] = ssl.SSLContext,
        section: str = "[online]",
    ) -> None:
        """kind: of the `context`; section: which names the files.

        Raises ConfigError for files that cannot be read or do not belong together.
        """
        self._paths, self._section = (certificate, key), section
        self.context = kind(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._loaded: tuple[int, ...] = ()
        self.renew()

    def renew(self) -> bool:
        """Whether there is another one, which new connections see. Raises ConfigError."""
        certificate, key = self._paths
        for path in self._paths:
            if not path.is_file():
                raise ConfigError(f"no file {path}, which {self._section} names: put it there")
        stamp = tuple(path.stat().st_mtime_ns for path in self._paths)
        if stamp == self._loaded:
            return False
        try:
            # First where it does no harm: a certificate without its key takes the one before away.
            for context in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self.context):
                context.load_cert_chain(certificate, key, password=_no_passphrase)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "no PEM"
            raise ConfigError(
                f"{certificate} and {key} cannot be used as certificate and key of {self._section}: "
                f"{reason}"
            ) from None
        first, self._loaded = not self._loaded, stamp
        return not first

    @property
    def ends(self) -> datetime:
        """When it is valid no more (UTC)."""
        return load_pem_x509_certificate(self._paths[0].read_bytes()).not_valid_after_utc


def _no_passphrase() -> str:
    raise ValueError("the key is under a passphrase")
