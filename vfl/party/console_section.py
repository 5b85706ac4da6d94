"""The sections about `vfl console`: where it listens, and who may look and approve."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from vfl.net.addresses import is_loopback
from vfl.party.config_values import LocalPath, OwnPort, _as_tuple, _distinct
from vfl.party.sections import Section

Texts = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=200)], ...],
    BeforeValidator(_as_tuple),
    AfterValidator(_distinct),
]


class OidcSection(Section):
    """Sign-in by the company's own provider (OpenID Connect), beside tokens."""

    issuer: str = Field(
        min_length=8, description="its address, as https://login.example.org/realms/staff"
    )
    client_id: str = Field(min_length=1, description="the console's id there")
    client_secret: LocalPath | None = Field(
        default=None,
        description="file of its secret, if the provider gives one; PKCE is used in any case",
    )
    claim: Literal["email", "sub", "preferred_username"] = Field(
        default="email",
        description="what names a person; email counts where the provider has verified it",
    )
    look: Texts = Field(default=(), description="who may look")
    approve: Texts = Field(default=(), description="who may also approve, refuse and cancel")

    @model_validator(mode="after")
    def _safe(self) -> "OidcSection":
        place = "".join(self.issuer.split("/")[2:3])
        host = place.rpartition(":")[0] or place
        if not self.issuer.startswith("https://") and not is_loopback(host):
            raise ValueError("issuer must begin with https://")
        if not (self.look or self.approve):
            raise ValueError("look and approve are empty: name those who may sign in")
        return self


class ConsoleSection(Section):
    """The party's own web page."""

    listen: OwnPort = Field(default="127.0.0.1:8790", description="address to listen on")
    certificate: LocalPath | None = Field(
        default=None, description="certificate chain (PEM) by which browsers know the console"
    )
    key: LocalPath | None = Field(default=None, description="its private key (PEM)")
    names: Texts = Field(
        default=(), description="names by which browsers reach it, beside the address and localhost"
    )
    look_token: LocalPath | None = Field(
        default=None, description="file of the token to look; a new one at each start if absent"
    )
    approve_token: LocalPath | None = Field(
        default=None, description="file of the token to approve; a new one at each start if absent"
    )
    session: int = Field(default=480, ge=1, le=10_080, description="minutes for which a sign-in holds")
    oidc: OidcSection | None = Field(
        default=None, description="sign-in by the company's own provider, beside tokens"
    )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the console."""
        return is_loopback(self.listen.rpartition(":")[0])

    @model_validator(mode="after")
    def _safe(self) -> "ConsoleSection":
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together: name both")
        if self.certificate is None and not self.is_local:
            raise ValueError(
                f"listen = {self.listen} can be reached from other machines: name certificate and key, "
                "or listen on 127.0.0.1"
            )
        return self
