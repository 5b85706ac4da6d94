"""The file of a relay: where it listens, and what it lets parties have that are strangers to it."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from vfl.party.config_values import UNLIMITED, Limit, OwnPort, _as_tuple, _distinct
from vfl.party.config_words import PLACE
from vfl.party.sections import Section

Places = Annotated[
    tuple[Annotated[str, Field(pattern=PLACE)], ...],
    Field(min_length=1),
    BeforeValidator(_as_tuple),
    AfterValidator(_distinct),
]


class RelaySection(Section):
    """A relay."""

    listen: OwnPort = Field(description="address to listen on")
    places: Places | None = Field(
        default=None,
        description="the only places where parties may meet, as `vfl doctor` shows them; any if absent",
    )
    invitations: bool = Field(
        default=False,
        description="where places are listed: whether parties may meet for invitations as well",
    )
    connections: int = Field(default=1024, ge=2, le=65536, description="most that are open at once")
    connections_an_address: int = Field(
        default=64, ge=1, le=65536, description="most of one address, of IPv6 one network of 64 bits"
    )
    connections_a_place: int = Field(default=64, ge=2, le=65536, description="most of one place")
    handshake: float = Field(
        default=5, gt=0, le=60, description="seconds until a connection has proven what it is for"
    )
    idle: float = Field(
        default=120, ge=10, le=86400, description="seconds without a byte after which two are parted"
    )
    bytes_a_second: Limit = Field(
        default=UNLIMITED,
        description="most bytes a second between two parties, to and fro",
    )
    bytes_a_day: Limit = Field(
        default=UNLIMITED, description="most bytes in a day (UTC), of all parties together"
    )
    report: float = Field(
        default=3600, ge=0, le=86400, description="seconds between two lines of counts; 0: none"
    )


class RelayFile(Section):
    """A relay's file."""

    relay: RelaySection
