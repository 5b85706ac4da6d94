"""Tokens of the clients of `vfl online`: a file that holds their digests, and what each may ask.

A token is 256 random bits, so that a plain digest of it tells nothing. It is printed once, and only its
client has it afterwards. The file is TOML, a section for each token:

    [quotes]
    digest = "sha256:..."
    scopes = ["score"]
    rate = 50
    expires = 2027-12-31
"""

import hashlib
import json
import re
import secrets
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError

from vfl.errors import ConfigError, Refused
from vfl.party.config_values import PartyName, _as_tuple, _distinct
from vfl.party.config_words import PARTY_NAME, plain_key
from vfl.party.files import replacing, rewriting, unwritable
from vfl.party.locks import Held, locked
from vfl.party.sections import Section

Scope = Literal["score", "explain", "models", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "vfl_"
"""How each token begins, so that people and scanners know one when they see it."""

_MOST = 1 << 20  # bytes of a file
_LONGEST = 200  # characters of what a client shows


class Token(Section):
    """What a token allows."""

    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    scopes: Annotated[
        tuple[Scope, ...], Field(min_length=1), BeforeValidator(_as_tuple), AfterValidator(_distinct)
    ]
    rate: float | None = Field(default=None, gt=0, le=1e6)  # requests a second
    expires: date | None = None  # last day (UTC)

    def has_expired(self, today: date) -> bool:
        """Whether its last day is over."""
        return self.expires is not None and today > self.expires


_FILE = TypeAdapter(dict[PartyName, Token])


class Tokens:
    """The tokens of a file, found by what a client shows."""

    def __init__(self, tokens: Mapping[str, Token]) -> None:
        self.by_name = dict(tokens)
        self._name_of = {token.digest: name for name, token in tokens.items()}

    def find(self, shown: str) -> tuple[str, Token] | None:
        """The name and rights of a token, None for one that is not in the file or has expired.

        Tokens are looked up by digest: how long that takes tells nothing about those there are.
        """
        if len(shown) > _LONGEST or not shown.isascii():
            return None
        name = self._name_of.get(_digest(shown))
        if name is None or self.by_name[name].has_expired(datetime.now(UTC).date()):
            return None
        return name, self.by_name[name]


def load_tokens(path: Path) -> Tokens:
    """The tokens in a file. Raises ConfigError, which quotes nothing of the file."""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"no file of tokens {path}: `vfl online token NAME` makes one, in the folder of the party "
            "file"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > _MOST:
        raise ConfigError(f"{path} is over 1 MiB: this is no file of tokens")
    try:
        text = content.decode()
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        where = _in_line(_line_of_error(content, error))
        raise ConfigError(f"{path}{where} is not valid TOML: take out what was added by hand") from None
    try:
        tokens = _FILE.validate_python(raw, strict=True)
    except ValidationError as error:
        place = [
            key
            for key in error.errors(include_input=False, include_url=False)[0]["loc"]
            if key != "[key]"
        ]
        what = ".".join(plain_key(key) for key in place)
        where = _in_line(_line_of(text, [str(key) for key in place]))
        raise ConfigError(
            f"{path}{where}: {what} is not as it should be: remove the section, and make the token anew"
        ) from None
    first: dict[str, str] = {}
    for name, token in tokens.items():
        if (before := first.setdefault(token.digest, name)) != name:
            where = _in_line(_line_of(text, [name, "digest"]))
            raise ConfigError(
                f"{path}{where}: {name} has the digest of {before}: remove one of the two sections"
            )
    return Tokens(tokens)


def _in_line(line: int | None) -> str:
    return "" if line is None else f", line {line}"


def _line_of_error(content: bytes, error: Exception) -> int | None:
    """The line in which a text is no TOML, if that is known."""
    if isinstance(error, UnicodeDecodeError):
        return content[: error.start].count(b"\n") + 1
    if found := re.search(r"\(at line (\d+), column \d+\)\Z", str(error)):
        return int(found[1])
    return content.count(b"\n") + 1 if str(error).endswith("(at end of document)") else None


def _line_of(text: str, place: Sequence[str]) -> int | None:
    """The line of a section, or of a key in it, if it is written as this program writes it."""
    section, key = place[0], place[1] if len(place) > 1 else None
    found: int | None = None
    inside = False
    for number, line in enumerate(text.split("\n"), 1):
        if head := re.fullmatch(r"\s*\[\s*[\"']?([^\"'\]]*?)[\"']?\s*\].*", line):
            inside = head[1] == section
            found = number if inside else found
            continue
        named = re.fullmatch(r"\s*[\"']?([^\"'=]*?)[\"']?\s*=.*", line)
        if named and ((inside and named[1] == key) or (found is None and named[1] == section)):
            return number
    return found


def add_token(
    path: Path,
    name: str,
    scopes: Sequence[Scope] = ("score",),
    rate: float | None = None,
    expires: date | None = None,
) -> str:
    """Make a token and write its digest into the file, which is made if need be. Returns the token.

    Raises ConfigError for a name that is none or a file that cannot be read, Refused for a name that is
    in the file already, DataError when it cannot be written.
    """
    if not re.fullmatch(PARTY_NAME.removesuffix("$") + r"\Z", name):
        raise ConfigError(
            "the name of a token must be up to 32 lower-case letters, digits and hyphens, starting with "
            "a letter"
        )
    try:
        with locked(path.with_name(f".{path.name}.lock"), wait=True):
            return _add(path, name, Token.model_construct(scopes=scopes, rate=rate, expires=expires))
    except Held as held:
        raise held.overdue(str(path)) from None
    except OSError as error:
        raise unwritable(f"{path} cannot be written", error) from None


def _add(path: Path, name: str, rights: Token) -> str:
    before = b""
    if path.exists():
        if name in load_tokens(path).by_name:
            raise Refused(
                f"{path.name} has a token {name} already: remove its section, or take a new name"
            )
        before = path.read_bytes().rstrip() + b"\n\n"
    token = PREFIX + secrets.token_urlsafe(32)
    lines = [f"[{name}]", f'digest = "{_digest(token)}"', f"scopes = {json.dumps(list(rights.scopes))}"]
    if rights.rate is not None:
        lines.append(f"rate = {rights.rate:.12g}")
    if rights.expires is not None:
        lines.append(f"expires = {rights.expires}")
    with rewriting(path) if before else replacing(path) as file:
        file.write(before + "\n".join(lines).encode() + b"\n")
    return token


def _digest(token: str) -> str:
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"
