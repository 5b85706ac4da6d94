"""Failed handshakes in words, for the party that dialled and for the one that listens."""

from dataclasses import dataclass
from datetime import UTC, datetime

from vfl.errors import IdentityError, PeerUnreachable, VflError
from vfl.net.addresses import SCHEME, is_relay
from vfl.net.certificates import in_words, invalidity, read_claims, short_fingerprint
from vfl.net.tls import Credentials, Failure, Outcome, own_der

_EXPIRED, _NOT_YET_VALID = 10, 9  # X509_V_ERR_CERT_HAS_EXPIRED, ..._NOT_YET_VALID

_RESTART = "it must take the new key into use (identity in [party]) and restart"


# --- The end that dials ------------------------------------------------------------------------


def handshake_error(credentials: Credentials, name: str, address: str, outcome: Outcome) -> VflError:
    """What a failed TLS handshake means to the party that dialled."""
    failure = outcome.failure or Failure("no reason given")
    if failure.verify_code in (_EXPIRED, _NOT_YET_VALID):
        why = _invalidity(failure, outcome.shown or credentials.pins[name], name)
        return IdentityError(f"the certificate of {name} {why}")
    if failure.verify_code:
        return unpinned_error(credentials, name, address, outcome.shown)
    if failure.refused_there:
        own, why = own_der(credentials), _why_refused_there(credentials, name, failure)
        return IdentityError(
            f"{name} refused this party's certificate (fingerprint {short_fingerprint(own)}): {why}"
        )
    return PeerUnreachable(
        f"cannot reach {name} at {address}: what listens there does not speak TLS 1.3"
        f" ({failure.words}); if it is a relay, write {SCHEME}{address}"
    )


def unpinned_error(credentials: Credentials, name: str, address: str, shown: bytes) -> IdentityError:
    """The error where an address shows another certificate (DER) than the pinned one."""
    pin = credentials.pins[name]
    if shown and credentials.former_owner(shown) == name:
        return IdentityError(
            f"{name} at {address} still shows the certificate that it had before its key was rotated"
            f" (fingerprint {short_fingerprint(shown)}), where {short_fingerprint(pin)} is pinned:"
            f" {_RESTART}"
        )
    shows = f" (fingerprint {short_fingerprint(shown)})" if shown else ""
    if is_relay(address):  # where no two meet that pin other certificates
        return IdentityError(
            f"{address} joined this party with one that shows another certificate{shows} than the one"
            f" pinned for {name} (fingerprint {short_fingerprint(pin)}): ask whoever runs it"
        )
    advice = f"; {_how_to_accept(name)}" if credentials.namesake(shown) == name else ""
    return IdentityError(
        f"{address} shows another certificate{shows} than the one pinned for {name}"
        f" (fingerprint {short_fingerprint(pin)}): check the address, and the certificate file of"
        f" [peers.{name}]{advice}"
    )


def _why_refused_there(credentials: Credentials, name: str, failure: Failure) -> str:
    path = credentials.certificate
    why = own_invalidity(credentials) or _objection(credentials, failure)
    return f"{path} {why}" if why else f"send {path} to {name}, where it must be pinned"


# --- The end that listens ----------------------------------------------------------------------


@dataclass(frozen=True)
class Refusal:
    """Why a connection was refused, for the party that listens."""

    why: str
    peer: str | None = None  # the peer that it seems to have been, by what it showed
    advice: str = ""  # to the party that waits for that peer
    of_party: bool = False  # whether only a party would be refused so, of those that come by


def refusal(credentials: Credentials, outcome: Outcome) -> Refusal:
    """What a failed handshake means to the party that listens."""
    failure, shown = outcome.failure, outcome.shown
    if failure is None:
        return Refusal("it closed the connection during the handshake")
    if failure.verify_code in (_EXPIRED, _NOT_YET_VALID):
        name = credentials.owner(shown)
        whose = "its certificate" if name is None else f"the certificate of {name}"
        return Refusal(f"{whose} {_invalidity(failure, shown, name or 'its owner')}", name)
    if failure.verify_code:
        return refusal_of_unpinned(credentials, shown)
    if failure.refused_there:
        if why := own_invalidity(credentials) or _objection(credentials, failure):
            return Refusal(f"it refused this party's certificate: {credentials.certificate} {why}")
        return Refusal("it does not pin this party's certificate", of_party=True)
    if "DID_NOT_RETURN_A_CERTIFICATE" in failure.reason:
        return Refusal("it showed no certificate")
    return Refusal(f"it does not speak TLS 1.3 ({failure.words})")


def refusal_of_unpinned(credentials: Credentials, shown: bytes) -> Refusal:
    """Why a certificate (DER) is refused that is none of those accepted."""
    if (name := credentials.owner(shown)) is not None:
        return Refusal(credentials.why_refused(shown) or "its certificate is not accepted", name)
    mark = f"fingerprint {short_fingerprint(shown)}"
    if (name := credentials.former_owner(shown)) is not None:
        return Refusal(
            f"{name} still shows the certificate that it had before its key was rotated ({mark}):"
            f" {_RESTART}",
            name,
        )
    if (name := credentials.namesake(shown)) is not None:
        return Refusal("its certificate is not pinned here", name, f" ({mark}); {_how_to_accept(name)}")
    return Refusal("its certificate is not pinned here")


def refusal_by_former_pin(name: str) -> Refusal:
    """Why a peer whose mark is for this party's earlier certificate refused the present one."""
    return Refusal(
        f"{name} still pins the certificate that this party had before its key was rotated: it must run"
        " `vfl keys accept` with the new one, and restart",
        name,
    )


def _how_to_accept(name: str) -> str:
    return (
        f"it is in the name of {name}: compare fingerprints by phone; pin it with `vfl keys accept` if"
        f" {name} has rotated its key, else put the right one into the file of [peers.{name}] and start"
        " again"
    )


# --- Validity ----------------------------------------------------------------------------------


def own_invalidity(credentials: Credentials) -> str | None:
    """Why this party's certificate is not valid now and what to do, as what is said of it."""
    found, now = read_claims(own_der(credentials)), datetime.now(UTC)
    if found is None or (why := invalidity(found.starts, found.ends, now)) is None:
        return None
    if now < found.starts:
        return f"{why}: check this machine's clock"
    return f"{why}: make a new one with `vfl keys rotate` and send it to the peers"


def _invalidity(failure: Failure, der: bytes, name: str) -> str:
    """The same of a peer's certificate, which was refused for it a moment ago."""
    found, now = read_claims(der), datetime.now(UTC)
    why = None if found is None else invalidity(found.starts, found.ends, now)
    if failure.verify_code == _EXPIRED:
        why = f"{why or 'is no longer valid'} (it is {in_words(now)} here)"
        return f"{why}: {name} has to make a new one with `vfl keys rotate`"
    return f"{why or 'is not valid yet'}: check the clocks of both machines"


def _objection(credentials: Credentials, failure: Failure) -> str | None:
    """What the other end holds against this party's certificate, which is valid by the clock here."""
    found, now = read_claims(own_der(credentials)), in_words(datetime.now(UTC))
    if found is not None and "CERTIFICATE_EXPIRED" in failure.reason:
        bound = f"has expired by the clock there: it is valid until {in_words(found.ends)}"
    elif found is not None and "BAD_CERT" in failure.reason:
        bound = f"is not valid yet by the clock there: it begins on {in_words(found.starts)}"
    else:
        return None
    return f"{bound}, and it is {now} here; compare the clocks"
