"""A sealed directory made again by its host: whether its entries are what the program makes of the
host's half of the model and its table.

A guest of lookups sees of each answer that it is under the key of the directory, which the host has
signed (protocols/lookup). What it cannot see is whether the entries follow from the half that was
trained and from the host's columns. The directory is what the host has committed to: its signed header
has a digest of all entries. Made again with the same key and salts, it has to come to the same header.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vfl.errors import ModelError
from vfl.jobs.commitments import digest_of_model
from vfl.jobs.connect import Site
from vfl.jobs.evidence import HALF, Taken, find_evidence, run_of
from vfl.jobs.publishing import made_again
from vfl.jobs.record import now
from vfl.jobs.rerun import EvidenceDiffers
from vfl.jobs.show import Show
from vfl.jobs.signed_form import SignedForm
from vfl.models.halves import HostHalf
from vfl.models.kinds import load_half
from vfl.party.directories import OwnDirectory, kept_directories, load_directory
from vfl.party.documents import read_document
from vfl.party.identity import Certificate, Identity
from vfl.protocols.lookup.directory import Header


class DirectoryCertificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """That a host's directory was made again, for the guest of its model."""

    model: str
    host: str
    guest: str
    directory: str  # its version
    header: str  # SHA-256 of the header that the host has signed, in hex
    made: str  # ISO 8601, UTC
    took: list[Taken]  # the half of the model, where the run that has left it had a tape
    auditor: str  # PEM of whose key signs


_FORM = SignedForm("vfl/directory-certificate", 1, DirectoryCertificate, "directory")


@dataclass(frozen=True)
class CheckedDirectory:
    """What a guest found of a certificate that holds."""

    certificate: DirectoryCertificate
    signed_by: str  # in words


def replay_directory(site: Site, model: str, show: Show) -> DirectoryCertificate:
    """Make a host's directory of a model again, and compare. `auditor` is left empty.

    Raises EvidenceDiffers where it is not what the program makes, ModelError where there is none, and
    what reading the table raises.
    """
    kept = load_directory(site.store, model)
    if not isinstance(kept, OwnDirectory) or not kept.keys:
        raise ModelError(f"no directory of model {model} is served here: `vfl publish` makes one")
    header, again = kept.directory.header, made_again(site, kept, show)
    if (differs := _differing(header, again)) is not None:
        raise EvidenceDiffers(
            f"directory {header.version} of {model} is not what the program makes of the half and the "
            f"table as they are now: {differs}; after a change of the table `vfl publish` comes first"
        )
    took, run = [], run_of(site.store, "train", model)
    opening = next((one.opening for one in find_evidence(site.store) if run and one.run == run), None)
    if opening is not None:
        digest = digest_of_model(load_half(site.store, model, HostHalf).model)
        took = [Taken(HALF, run, opening.handed_on(HALF, digest))]
    signed = hashlib.sha256(kept.directory.signed).hexdigest()
    return DirectoryCertificate(
        model, header.host, header.guest, header.version, signed, now(), took, auditor=""
    )


def _differing(header: Header, again: Header) -> str | None:
    """In words, what of a directory is not as it is made again."""
    if header.layout != again.layout:
        return "how the parts of rows are packed, which follows from the half and the policy"
    if header.table != again.table:
        return "its ids or its parts of rows"
    if header.catalogue != again.catalogue:
        return "its entries"
    return None if header == again else "what its header says of it"


def sign_directory(made: DirectoryCertificate, by: Identity) -> bytes:
    """The content of a certificate's file, signed by an identity."""
    return _FORM.write(msgspec.structs.replace(made, auditor=by.certificate.pem.decode()), by)


def is_of_directory(path: Path) -> bool:
    """Whether a file says that it is such a certificate."""
    try:
        read = read_document(path)
    except (ModelError, FileNotFoundError):
        return False
    return _FORM.is_named_by(read)


def check_directory(site: Site, path: Path, auditor: Certificate | None = None) -> CheckedDirectory:
    """Hold a host's certificate against the directory that this guest has of it. `auditor`: whose
    signature it must have; without, the host's.

    Raises ModelError for what is no certificate or about no directory that is here, EvidenceDiffers
    where it does not hold.
    """
    made, signer = _read(path)
    if made.host not in site.pinned:
        raise ModelError(f"{made.host}, whose directory {path} is about, is no peer of this party")
    if auditor is None and not site.same_party(made.host, signer.fingerprint):
        raise EvidenceDiffers(
            f"{path} is not signed by {made.host} but by {signer.name}: name the auditor's own "
            "certificate by --auditor"
        )
    if auditor is not None and signer.fingerprint != auditor.fingerprint:
        raise EvidenceDiffers(f"{path} is signed by another {signer.name} than was named")
    here = [
        one.directory
        for one in kept_directories(site.store).values()
        if isinstance(one, OwnDirectory)
        and (one.directory.header.model, one.directory.header.host) == (made.model, made.host)
    ]
    if not here:
        raise ModelError(f"no directory of {made.host} for model {made.model} is kept here")
    if hashlib.sha256(here[0].signed).hexdigest() != made.header:
        version = here[0].header.version
        raise EvidenceDiffers(
            f"{path} is about directory {made.directory} of {made.model}, and the one that {made.host} "
            f"has signed for this party is {version}: have that one made again"
        )
    return CheckedDirectory(
        made, f"{made.host} itself" if auditor is None else f"the auditor {signer.name}"
    )


def _read(path: Path) -> tuple[DirectoryCertificate, Certificate]:
    """A certificate, and whose signature it has. Raises ModelError, EvidenceDiffers."""
    try:
        read = read_document(path)
    except FileNotFoundError:
        raise ModelError(f"no file {path}") from None
    return _FORM.parse(read, path)
