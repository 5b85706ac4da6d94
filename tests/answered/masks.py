"""What the package answers about secrets that hosts share."""

from reference.data import data

from answered.given import Answers, Given
from vfl.protocols.common import fellows
from vfl.protocols.common.participant import Participant
from vfl.protocols.common.transcript import Transcript

ANSWERS = Answers()


def heard(given: Given) -> Transcript:
    """What all have heard."""
    transcript = Transcript()
    for part in given["heard"]:
        transcript.add(data(part))
    return transcript


@ANSWERS.of("pairs of hosts")
def _(given: Given) -> object:
    context, hosts = data(given["context"]), list(given["keys"])
    private = {
        host: fellows.X25519PrivateKey.from_private_bytes(data(key))
        for host, key in given["keys"].items()
    }
    public = {host: key.public_key().public_bytes_raw() for host, key in private.items()}
    found = {}
    for host in hosts:
        own = Participant(host, hosts, context)
        keys = list(public.values())
        for other, secret in fellows.secrets_with_fellows(private[host], keys, [b""] * 3, own).items():
            name = " and ".join(sorted((host, other)))
            assert found.setdefault(name, secret.hex()) == secret.hex()
    return {
        "public keys": {host: key.hex() for host, key in public.items()},
        "signed": {
            host: fellows.key_statement(context, hosts, host, public[host]).hex() for host in hosts
        },
        "secrets": found,
    }


def secrets_of(given: Given, name: str) -> dict[str, bytes]:
    """A host's secret with each other one."""
    return {
        other: data(f"shake256 32 {min(name, other)} and {max(name, other)}")
        for other in given["hosts"]
        if other != name
    }


@ANSWERS.of("masks")
def _(given: Given) -> object:
    found = {}
    for name in given["hosts"]:
        masks = fellows.Masks(name, secrets_of(given, name), heard(given))
        found[name] = [[f"{word:016x}" for word in masks.draw(n).tolist()] for n in given["draws"]]
    return {"masks": found}


@ANSWERS.of("masks of numbers")
def _(given: Given) -> object:
    found = {}
    for name in given["hosts"]:
        masks = fellows.Masks(name, secrets_of(given, name), heard(given), given["purpose"].encode())
        found[name] = [f"{number:064x}" for number in masks.integers(given["count"], 32)]
    return {"masks": found}
