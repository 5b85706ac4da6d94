"""vfl keys: this party's identity, and whose it trusts."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfl.cli.group import main
from vfl.cli.options import JSON, PARTY
from vfl.errors import ConfigError
from vfl.terminal.streams import put_json, stdout

if TYPE_CHECKING:
    from vfl.party.identity import Identity


_FOLDER = click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("keys"),
    show_default=True,
    metavar="FOLDER",
    help="Where the two files go.",
)
_UNDER_PASSPHRASE = click.option(
    "--passphrase", is_flag=True, help="Put the private key under a passphrase."
)


@main.group()
def keys() -> None:
    """This party's identity."""


@keys.command("new")
@click.argument("name")
@_FOLDER
@_UNDER_PASSPHRASE
@JSON
def keys_new(name: str, folder: Path, passphrase: bool, as_json: bool) -> None:
    """Make a key and a certificate for the party NAME.

    The passphrase is typed twice, or taken from VFL_PASSPHRASE or the file that VFL_PASSPHRASE_FILE
    names; every later command takes it from there, too.
    """
    from vfl.party import identity
    from vfl.party.passphrase import choose

    identity.check_new(folder / name, name)  # before a passphrase is asked for
    words = choose(folder / f"{name}.key") if passphrase else None
    made = identity.create(folder / name, name, words)
    if as_json:
        put_json(_key_document(made))
        return
    stdout.put(
        f"{folder / name}.key   the private key: never leaves this machine",
        f"{folder / name}.pem   the certificate: give it to the other parties",
        f"fingerprint  {made.certificate.fingerprint_groups}",
        "Compare the fingerprint by phone before the others pin the certificate.",
    )


@keys.command("request", short_help="Make a key, and a request for an authority's certificate.")
@click.argument("name")
@_FOLDER
@_UNDER_PASSPHRASE
@JSON
def keys_request(name: str, folder: Path, passphrase: bool, as_json: bool) -> None:
    """Make a key for the party NAME, and a request (PKCS #10) from which the company's own authority
    issues the certificate; in place of `vfl keys new` where self-signed ones are not allowed."""
    from vfl.party import identity
    from vfl.party.passphrase import choose

    identity.check_new(folder / name, name)  # before a passphrase is asked for
    words = choose(folder / f"{name}.key") if passphrase else None
    path = identity.request(folder / name, name, words)
    if as_json:
        put_json({"name": name, "key": str(folder / f"{name}.key"), "request": str(path)})
        return
    stdout.put(
        f"{folder / name}.key   the private key: never leaves this machine",
        f"{path}   the request: give it to your certificate authority",
        f"Put the certificate that it issues, without its chain, into {folder / name}.pem: with common "
        f"name {name},",
        f"DNS name {name}, for clientAuth and serverAuth.",
    )


@keys.command("show")
@click.argument("certificate", type=click.Path(path_type=Path), metavar="CERTIFICATE.pem")
@JSON
def keys_show(certificate: Path, as_json: bool) -> None:
    """Show whose a certificate is, and its fingerprint."""
    from vfl.party import identity

    found = identity.load_certificate(certificate)
    if as_json:
        put_json({"name": found.name, "fingerprint": found.fingerprint})
        return
    stdout.put(found.name, f"fingerprint  {found.fingerprint_groups}")


@keys.command("rotate")
@PARTY
@click.option(
    "--passphrase/--no-passphrase",
    default=None,
    help="Whether the new key is under one; as the old key by default.",
)
@JSON
def keys_rotate(party: Path, passphrase: bool | None, as_json: bool) -> None:
    """Make a new key for this party, for which the old one vouches."""
    from vfl.party import identity, rotation
    from vfl.party.at_rest import StoreKey
    from vfl.party.config import load_party
    from vfl.party.passphrase import choose
    from vfl.party.reading import settings_line

    settings = load_party(party).party
    prefix = settings.identity
    old = identity.load(prefix, expired=True)
    store_key = StoreKey(settings.store, lambda: old)
    store_key.check()
    following, folder = rotation.next_prefix(prefix), party.parent.resolve()
    name = following.name
    where = following.relative_to(folder) if following.is_relative_to(folder) else following
    sealed = old.tls_key.password is not None if passphrase is None else passphrase
    words = choose(prefix.with_name(f"{name}.key")) if sealed else None
    new, path = rotation.rotate(old, words)
    store_key.hand_over(new)
    if as_json:
        put_json({**_key_document(new), "rotation": str(path)})
        return
    stdout.put(
        f"{new.key_path}   the new private key: never leaves this machine",
        f"{new.certificate_path}   the new certificate and",
        f"{path}   what vouches for it: give both to the other parties",
        f"fingerprint  {new.certificate.fingerprint_groups}",
        f"The others run `vfl keys accept THEIRS.toml {name}.pem --rotation {name}.rotation`.",
        f"At a time agreed with them set {settings_line('identity', where.as_posix())} in [party] and "
        "restart what runs; keep the old files.",
    )


def _key_document(identity: "Identity") -> dict[str, object]:
    """What the JSON says of a key that was made: never the key."""
    return {
        "name": identity.certificate.name,
        "key": str(identity.key_path),
        "certificate": str(identity.certificate_path),
        "fingerprint": identity.certificate.fingerprint,
    }


@keys.command("accept", short_help="Pin a peer's new certificate.")
@PARTY
@click.argument("certificate", type=click.Path(path_type=Path), metavar="NEW.pem")
@click.option(
    "--rotation",
    "vouching",
    type=click.Path(path_type=Path),
    metavar="NEW.rotation",
    help="The file made with the certificate, in which the old key vouches for it; not needed where "
    "[peers.NAME] "
    "has the authority (ca) that issued it.",
)
@JSON
def keys_accept(party: Path, certificate: Path, vouching: Path | None, as_json: bool) -> None:
    """Pin a peer's new certificate, for which its pinned one vouches, or its authority."""
    from vfl.jobs.connect import authority_of
    from vfl.party import identity, rotation
    from vfl.party.config import load_party
    from vfl.party.revocation import refuse_revoked, revoked_by

    settings = load_party(party)
    name = identity.load_certificate(certificate).name
    if name not in settings.peers:
        raise ConfigError(f"{party.name}: {certificate} is {name}'s, which [peers] has not")
    pinned = settings.peers[name].certificate
    listed = revoked_by(settings.party.identity)
    authority = authority_of(settings, name)
    if vouching is not None:
        old, new, kept = rotation.accept(pinned, certificate, vouching, listed)
    elif authority is not None:
        refuse_revoked(listed, [identity.load_certificate(certificate)], certificate)
        old, new, kept = rotation.renew(pinned, certificate, authority)
    else:
        raise ConfigError(
            "--rotation is missing: the file that `vfl keys rotate` made with the certificate (without "
            "one it is for "
            f"peers whose authority is in ca of [peers.{name}])"
        )
    if as_json:
        prints = {"old_fingerprint": old.fingerprint, "fingerprint": new.fingerprint}
        put_json({"name": name, **prints, "certificate": str(pinned), "kept": str(kept)})
        return
    stdout.put(
        name,
        f"old fingerprint  {old.fingerprint_groups}",
        f"new fingerprint  {new.fingerprint_groups}",
        f"{pinned} is the new certificate; the old one is kept as {kept.name}",
        "Restart `vfl serve` when the other side uses its new key. If the old one may be in other",
        "hands its word is worth nothing: compare the new fingerprint by phone.",
    )


@keys.command("revoke", short_help="Stop trusting a peer's certificate for good.")
@PARTY
@click.argument("peer")
@click.option(
    "--reason",
    metavar="TEXT",
    default="no reason given",
    show_default=True,
    help="Why, for the list of revoked certificates.",
)
@JSON
def keys_revoke(party: Path, peer: str, reason: str, as_json: bool) -> None:
    """Stop trusting the certificate of PEER for good, also if it is pinned again."""
    from vfl.party import identity, revocation
    from vfl.party.config import load_party
    from vfl.party.policy import today

    settings = load_party(party)
    if peer not in settings.peers:
        raise ConfigError(f"{party.name}: there is no [peers.{peer}]")
    pinned = settings.peers[peer].certificate
    certificate = identity.load_certificate(pinned)
    day = today().isoformat()
    away = revocation.revoke(settings.party.identity, pinned, certificate, reason, day)
    if as_json:
        put_json({"name": peer, "fingerprint": certificate.fingerprint, "moved_to": str(away)})
        return
    stdout.put(
        f"revoked the certificate of {peer}",
        f"fingerprint  {certificate.fingerprint_groups}",
        f"It lies in {away.name} now. A `vfl serve` that runs refuses it from now on, at the next "
        "connection and the next job; a job under way ends only with it.",
        f"Tell {peer} and the other parties by phone, so that they revoke it too.",
        f"Then take [peers.{peer}] out of {party.name}, or put a certificate there that is made anew "
        "and compared by phone. Restart `vfl serve` after that.",
    )
