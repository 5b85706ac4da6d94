"""Documents that say what an auditor has seen, under the auditor's signature.

signature over "vfl WHAT certificate\\0" || SHA-256(canonical JSON of the certificate)
"""

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from vfl.errors import IdentityError, ModelError
from vfl.jobs.rerun import EvidenceDiffers
from vfl.party.documents import body_of, canonical_json, document
from vfl.party.identity import Certificate, Identity, parse_certificate


class Signed(Protocol):
    """What is certified."""

    @property
    def auditor(self) -> str:
        """PEM of whose key signs."""


S = TypeVar("S", bound=Signed)


@dataclass(frozen=True)
class SignedForm(Generic[S]):
    """A form of certificates: its name in documents, its version, what they are of."""

    name: str
    version: int
    kind: type[S]
    what: str

    def write(self, made: S, by: Identity) -> bytes:
        """A certificate as a document that is signed."""
        content = msgspec.to_builtins(made)
        signature = base64.b64encode(by.sign(self._signed(content))).decode()
        body = canonical_json({"certificate": content, "signature": signature})
        return document(self.name, self.version, body)

    def is_named_by(self, read: object) -> bool:
        """Whether what was read of a file says that it is of this form."""
        return isinstance(read, dict) and read.get("format") == self.name

    def parse(self, read: object, path: Path) -> tuple[S, Certificate]:
        """The certificate in what was read of a file, and whose signature it has. Raises ModelError for
        what is none, EvidenceDiffers for a signature that does not hold."""
        if not isinstance(read, dict) or not self.is_named_by(read):
            raise ModelError(f"{path} is no certificate of a {self.what}")
        body = body_of(read, self.version, path)
        said: Any = body.get("certificate")
        try:
            made = msgspec.convert(said, self.kind)
            auditor = parse_certificate(made.auditor.encode(), path)
            signature = base64.b64decode(str(body.get("signature")), validate=True)
        except (msgspec.ValidationError, IdentityError, ValueError):
            raise ModelError(f"{path} is damaged: it is no certificate of a {self.what}") from None
        if not auditor.verify(signature, self._signed(said)):
            raise EvidenceDiffers(f"the signature of {path} does not hold")
        return made, auditor

    def _signed(self, content: object) -> bytes:
        tag = b"vfl " + self.what.encode() + b" certificate\0"
        return tag + hashlib.sha256(canonical_json(content)).digest()
