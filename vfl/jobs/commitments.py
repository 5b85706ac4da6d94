"""What a party that keeps a tape commits to in the agreement of a run (agreement.py).

    C = SHA-256("vfl commitment\\0" || S || T || U)
    S, T, U = SHA-256("vfl commitment to WHAT\\0" || salt || content)

for its `secret`, from which all that is random in its part of the run is drawn, its `table` (digests of
the columns, ids, label, weight, offset and split of rows as the run has them) and its `settings` (those
of its party file that the run follows), each with a salt of 32 random bytes. Nobody can guess at what is
committed to; who has committed cannot show anything else later, as long as SHA-256 has no collisions.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from vfl.jobs.digests import add_array
from vfl.learn.binning import Features
from vfl.net.hello import PROTOCOL
from vfl.party.config import Party
from vfl.party.documents import canonical_json, convert_document
from vfl.party.identity import Identity
from vfl.party.linear_rules import GlmSection
from vfl.party.policy_section import PolicySection
from vfl.party.rows_from import RowsFrom
from vfl.party.sections import AlignSection, DataSection
from vfl.party.store import Store
from vfl.version import __version__

SALT = 32  # bytes
COMMITTED = ("secret", "table", "settings")
_Hex = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
_OF_DATA = sorted(DataSection.model_fields.keys() - RowsFrom.model_fields.keys())
"""The keys of [data] that say what is made of the rows; from where they come shows in the table."""

TableDigests = Mapping[str, str]
"""SHA-256 in hex by part of a table, such as "column x" or "label"."""


class Commitments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The three of a party, in hex."""

    secret: _Hex
    table: _Hex
    settings: _Hex

    @property
    def digest(self) -> bytes:
        """What the party signs: 32 bytes."""
        parts = (bytes.fromhex(one) for one in (self.secret, self.table, self.settings))
        return hashlib.sha256(b"vfl commitment\0" + b"".join(parts)).digest()


class Opening(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a party has committed to, but for its table, of which it keeps digests. Secret."""

    secret: bytes
    salts: dict[str, bytes]
    table: dict[str, str]
    settings: dict[str, Any]

    @classmethod
    def new(cls, table: TableDigests, settings: Mapping[str, Any]) -> "Opening":
        """Of a new secret, with new salts."""
        salts = {what: secrets.token_bytes(SALT) for what in COMMITTED}
        return cls(secrets.token_bytes(32), salts, dict(table), dict(settings))

    @property
    def commitments(self) -> Commitments:
        """What the party may show of it."""
        return Commitments(
            self._commit("secret", self.secret),
            self._commit("table", canonical_json(self.table)),
            self._commit("settings", canonical_json(self.settings)),
        )

    def noted(self, answers: bytes) -> str:
        """What the party's ledger has of what its store has answered so far, from the SHA-256 of that,
        in hex: nobody can guess at answers by it."""
        salt = hashlib.sha256(b"vfl salt of answers\0" + self.salts["secret"]).digest()
        return hashlib.sha256(b"vfl answers\0" + salt + answers).hexdigest()

    def handed_on(self, what: str, digest: bytes) -> str:
        """What certificates say of something that the run has left to later ones, from its SHA-256, in
        hex: the same in those of both runs, and nobody can guess at it by that."""
        salt = hashlib.sha256(b"vfl salt of what a run leaves\0" + self.salts["secret"]).digest()
        return hashlib.sha256(b"vfl left by a run\0" + salt + what.encode() + b"\0" + digest).hexdigest()

    def _commit(self, what: str, content: bytes) -> str:
        head = f"vfl commitment to {what}\0".encode()
        return hashlib.sha256(head + self.salts[what] + content).hexdigest()


def digest_table(features: Features, **others: NDArray[np.generic] | str | None) -> dict[str, str]:
    """The digests of columns, and of what else a run has of a table: arrays, or digests already."""
    arrays: dict[str, NDArray[np.generic] | str | None] = {
        **{f"column '{name}'": values for name, values in features.items()},
        **others,
    }
    found = {}
    for name, values in arrays.items():
        if isinstance(values, str):
            found[name] = values
        elif values is not None:
            digest = hashlib.sha256()
            add_array(digest, name, values)
            found[name] = digest.hexdigest()
    return found


def shown_digests(identity: Identity, table: TableDigests) -> dict[str, str]:
    """Digests of a table as a replay shows them, each under a key that only the party's own key gives
    (HMAC): equal ones are of equal content in all runs of the party, and of a column with few values
    nobody else can try which it has."""
    key = identity.derive(b"vfl digests of a table that are shown", b"")
    return {part: hmac.digest(key, one.encode(), "sha256").hex() for part, one in table.items()}


def digest_of_half(store: Store, model: str) -> str:
    """Of a party's half of a model, as it is kept. Raises ModelError."""
    return hashlib.sha256(canonical_json(store.read("model", model))).hexdigest()


def digest_of_model(model: object) -> bytes:
    """Of the model in a party's half, as a training leaves it and as it is read again."""
    written: object = json.loads(canonical_json(msgspec.to_builtins(model)))
    if not isinstance(written, dict):
        raise AssertionError("a model that is no record")
    read = msgspec.to_builtins(convert_document(written, type(model), "a model"))
    # A half may be kept without what its kind of model always has empty.
    return hashlib.sha256(canonical_json({key: one for key, one in read.items() if one})).digest()


def settings_of(party: Party) -> dict[str, Any]:
    """The settings that a run follows, as JSON."""
    data = None if party.section is None else party.section.model_dump(mode="json", include={*_OF_DATA})
    return {
        "version": __version__,
        "protocol": PROTOCOL,
        "data": data,
        "align": party.align.model_dump(mode="json"),
        "glm": party.glm.model_dump(mode="json"),
        "policy": party.policy.model_dump(mode="json"),
        **({} if isinstance(party.party.tape, str) else {"tape": party.party.tape}),
    }


def with_settings(party: Party, settings: Mapping[str, Any]) -> Party:
    """The party as it was when it committed to these settings; its table lies where it does now.

    Raises pydantic.ValidationError for settings that this version does not know.
    """
    update: dict[str, object] = {
        "align": AlignSection.model_validate(settings["align"]),
        "glm": GlmSection.model_validate(settings["glm"]),
        "policy": PolicySection.model_validate(settings["policy"]),
    }
    if party.section is not None and settings["data"] is not None:
        read = DataSection.model_validate({**settings["data"], "path": "of no meaning here"})
        update["section"] = party.section.model_copy(update={k: getattr(read, k) for k in _OF_DATA})
    return party.model_copy(update=update)
