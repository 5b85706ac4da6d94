"""The passphrase of a private key: where it comes from, and the file that it seals.

A sealed key is PKCS #8 under PBES2 (RFC 8018, section 6.2) with scrypt (RFC 7914, section 7) and
AES-256-CBC, which OpenSSL reads as well. It is written here because what `cryptography` writes itself
derives the key with 2,048 rounds of PBKDF2, some thousand times less work for somebody who guesses.
"""

import base64
import getpass
import os
import secrets
import stat
import sys
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7

from vfl.errors import IdentityError

VARIABLE = "VFL_PASSPHRASE"
FILE_VARIABLE = "VFL_PASSPHRASE_FILE"

LEAST = 12  # characters
_MOST = 1024  # bytes that OpenSSL takes
# 16 MiB and a fifth of a second; OpenSSL takes no more than 32 MiB.
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 2**14, 8, 5

# DER of the object identifiers.
_PBES2 = bytes.fromhex("06092a864886f70d01050d")
_SCRYPT = bytes.fromhex("06092b06010401da47040b")
_AES_256_CBC = bytes.fromhex("060960864801650304012a")


def ask(key: Path) -> bytes:
    """The passphrase of a key: VFL_PASSPHRASE, the file that VFL_PASSPHRASE_FILE names, or a prompt.

    Raises IdentityError when there is none, or when others can read the file.
    """
    if (known := _known()) is not None:
        return known
    if not _at_terminal():
        raise IdentityError(
            f"{key} has a passphrase: give it in {VARIABLE}, or name a file that holds it in "
            f"{FILE_VARIABLE}"
        )
    return _encode(getpass.getpass(f"passphrase of {key}: "))


def source() -> str:
    """Where `ask` has a passphrase from, in words."""
    return VARIABLE if VARIABLE in os.environ else os.environ.get(FILE_VARIABLE, "")


def choose(key: Path) -> bytes:
    """The passphrase of a key to be made, from the same places; at a terminal it is typed twice.

    Raises IdentityError as `ask`, and for one that is too short.
    """
    if (chosen := _known()) is None:
        if not _at_terminal():
            raise IdentityError(
                f"no terminal to type a passphrase at: give it in {VARIABLE}, or name a file that holds "
                f"it in {FILE_VARIABLE}"
            )
        chosen = _encode(getpass.getpass(f"passphrase for {key}: "))
        if chosen != _encode(getpass.getpass("the same again: ")):
            raise IdentityError("the two passphrases differ: nothing was made")
    if len(chosen.decode()) < LEAST:
        raise IdentityError(f"a passphrase has at least {LEAST} characters: choose a longer one")
    return chosen


def seal(key: bytes, passphrase: bytes) -> bytes:
    """A private key (PKCS #8, DER) under a passphrase, as PEM."""
    salt, iv = secrets.token_bytes(16), secrets.token_bytes(16)
    derived = Scrypt(salt, 32, _SCRYPT_N, _SCRYPT_R, _SCRYPT_P).derive(passphrase)
    padder = PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES256(derived), modes.CBC(iv)).encryptor()
    content = encryptor.update(padder.update(key) + padder.finalize()) + encryptor.finalize()
    costs = b"".join(_integer(cost) for cost in (_SCRYPT_N, _SCRYPT_R, _SCRYPT_P))
    derivation = _sequence(_SCRYPT, _sequence(_octets(salt), costs))
    encryption = _sequence(_AES_256_CBC, _octets(iv))
    der = _sequence(_sequence(_PBES2, _sequence(derivation, encryption)), _octets(content))
    text = base64.b64encode(der)
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return b"\n".join(
        [b"-----BEGIN ENCRYPTED PRIVATE KEY-----", *lines, b"-----END ENCRYPTED PRIVATE KEY-----", b""]
    )


def is_sealed(pem: bytes) -> bool:
    """Whether a private key's file needs a passphrase."""
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in pem


def refuse_if_others_can_read(path: Path, what: str) -> None:
    """Raises IdentityError for a file with a secret whose mode lets others at it."""
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise IdentityError(f"others can read the {what} {path}: run chmod 600 {path}")


def _known() -> bytes | None:
    """The passphrase of the environment."""
    if (text := os.environ.get(VARIABLE)) is not None:
        return _encode(text, f"{VARIABLE}: ")
    if (name := os.environ.get(FILE_VARIABLE)) is None:
        return None
    path = Path(name)
    if path.is_dir():
        raise IdentityError(f"cannot read {path} ({FILE_VARIABLE}): it is a folder")
    try:
        refuse_if_others_can_read(path, "passphrase file")
        first = path.read_text().partition("\n")[0].removesuffix("\r")
        return _encode(first, f"{path} ({FILE_VARIABLE}): ")
    except OSError as error:
        raise IdentityError(f"cannot read {path} ({FILE_VARIABLE}): {error.strerror}") from None
    except UnicodeDecodeError:
        raise IdentityError(f"{path} ({FILE_VARIABLE}) is not UTF-8") from None


def _encode(text: str, where: str = "") -> bytes:
    try:
        passphrase = text.encode()
    except UnicodeEncodeError:  # bytes of an environment that is not UTF-8
        raise IdentityError(f"{where}a passphrase must be UTF-8") from None
    if not 0 < len(passphrase) <= _MOST:
        raise IdentityError(f"{where}a passphrase has 1 to {_MOST:,} bytes, not {len(passphrase):,}")
    return passphrase


def _at_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _sequence(*parts: bytes) -> bytes:
    return _der(0x30, b"".join(parts))


def _octets(content: bytes) -> bytes:
    return _der(0x04, content)


def _integer(number: int) -> bytes:
    return _der(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _der(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + content
