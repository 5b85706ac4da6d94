"""The sections about `vfl online`: where it listens, who may ask, what stands in for a host."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from vfl.net.addresses import is_loopback
from vfl.party.config_values import JobName, Listen, LocalPath, OwnPort, PartyName, _as_tuple, _distinct
from vfl.party.sections import Section

ModelNames = Annotated[
    tuple[JobName, ...], Field(min_length=1), BeforeValidator(_as_tuple), AfterValidator(_distinct)
]


class OnlineHostSection(Section):
    """What stands in for a host that does not answer as it should."""

    deadline: int = Field(
        default=100, ge=1, le=60_000, description="milliseconds within which the host has to answer"
    )
    away: Literal["missing", "error"] = Field(
        default="missing",
        description="if the host does not answer in time: score as for rows it does not know, or answer "
        "with an error",
    )
    unknown: Literal["missing", "error"] = Field(
        default="missing",
        description="if the host does not know a row: score with its columns missing, or give no "
        "prediction for the row",
    )
    max_age: float = Field(
        default=31, gt=0, le=3650, description="days after which the host's directory is stale"
    )
    stale: Literal["error", "use"] = Field(
        default="error", description="if its directory is stale: answer with an error, or use it"
    )


class OnlineSection(Section):
    """The service that scores single rows while somebody waits."""

    listen: OwnPort = Field(default="127.0.0.1:8443", description="address to listen on")
    listen_for_hosts: Listen | None = Field(
        default=None,
        description="address to listen on, or relay to wait at, for hosts that dial; [party] listen if "
        "absent, where other commands cannot listen meanwhile",
    )
    certificate: LocalPath | None = Field(
        default=None, description="certificate chain (PEM) by which clients know the service"
    )
    key: LocalPath | None = Field(default=None, description="its private key (PEM)")
    plain_http: bool = Field(
        default=False, description="HTTP without TLS; on an address of this machine alone"
    )
    tokens: LocalPath = Field(
        default=Path("online-tokens.toml"),
        validate_default=True,
        description="file of the tokens that clients show, which `vfl online token` makes",
    )
    without_tokens: bool = Field(
        default=False, description="anybody may ask anything; on an address of this machine alone"
    )
    models: ModelNames | None = Field(
        default=None,
        description="models to serve, by name or by job (the newest one); the newest of each job if "
        "absent",
    )
    max_rows: int = Field(default=10_000, ge=1, le=100_000, description="most rows of a request")
    max_body: int = Field(default=8, ge=1, le=256, description="most MB of a request")
    connections: int = Field(
        default=1024, ge=1, le=65_536, description="most connections of clients at once"
    )
    timeout: float = Field(
        default=10, gt=0, le=3600, description="seconds within which a request has to be there"
    )
    window: float = Field(
        default=0,
        ge=0,
        le=1000,
        description="milliseconds for which rows of several requests are gathered into one lookup; "
        "those that have come at the same moment are in any case",
    )
    threads: int = Field(default=2, ge=1, le=64, description="threads that read and score batches")
    refresh: float = Field(
        default=5,
        gt=0,
        le=86_400,
        description="seconds between two looks for newer models, directories and tokens",
    )
    drain: float = Field(
        default=30, ge=0, le=3600, description="seconds that requests have to end when it is stopped"
    )
    hosts: dict[PartyName, OnlineHostSection] = Field(
        default_factory=dict, description="by host, what stands in for it"
    )

    def host(self, name: str) -> OnlineHostSection:
        """What stands in for a host."""
        return self.hosts.get(name) or OnlineHostSection()

    def check_second_address(self, first: str | None, dialled: bool) -> None:
        """Raises ValueError for a `listen_for_hosts` that is in use, as `first` of [party] is, or that
        nobody dials, where all hosts are `dialled`."""
        own = self.listen_for_hosts
        if own is None:
            return
        if dialled:
            raise ValueError(
                "[online] listen_for_hosts is for hosts that dial, but all of [peers] have an address: "
                "remove the line"
            )
        if own in (first, self.listen) and not own.endswith(":0"):
            raise ValueError(
                "[online] listen_for_hosts is an address of its own: two commands cannot listen at one"
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the service."""
        return is_loopback(self.listen.rpartition(":")[0])

    @model_validator(mode="after")
    def _safe(self) -> "OnlineSection":
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together: name both")
        if self.plain_http and self.certificate is not None:
            raise ValueError("plain_http = true and a certificate exclude each other: keep one of them")
        if not self.plain_http and self.certificate is None:
            raise ValueError(
                "certificate and key are missing: name both, or say plain_http = true for an "
                "address of this machine alone"
            )
        for key in ("plain_http", "without_tokens"):
            if getattr(self, key) and not self.is_local:
                raise ValueError(
                    f"{key} = true is for an address of this machine alone: listen on "
                    "127.0.0.1, or remove the line"
                )
        return self
