"""The section [screen] of a job file: how columns of all parties are screened before a training."""

from typing import Literal

from pydantic import Field

from vfl.learn.params import MAX_LEVERAGE
from vfl.party.sections import Section


class ScreenSection(Section):
    """How columns are screened, and which are advised to be left out."""

    min_iv: float = Field(
        default=0.02,
        ge=0,
        description="columns of a lower information value are advised to be left out; 0 for none",
    )
    max_vif: float = Field(
        default=10.0,
        gt=1,
        description="columns are advised to be left out until no other of their owner's has a higher "
        "variance inflation factor",
    )
    vif: bool = Field(
        default=True,
        description="whether variance inflation over all parties' columns is found out, of which each "
        "party knows that of its own; hosts must allow inference",
    )
    max_leverage: float = Field(
        default=MAX_LEVERAGE,
        gt=0,
        le=1,
        description="how far a row may stand out by a party's columns, as its leverage: columns that "
        "make it so have no variance inflation. 1 is without a bound",
    )
    tell_hosts: bool = Field(
        default=False,
        description="whether hosts know the weights of evidence of their own levels, and so what "
        "happened in each: columns whose tables a host does not give away are screened in no other way",
    )
    correlations: bool = Field(
        default=False,
        description="whether correlations of single columns of two parties are found out, to two "
        "decimals; hosts must allow told_correlations",
    )
    encryption: Literal["lattice", "paillier"] | None = Field(
        default=None,
        description="how sums are encrypted; lattice where a host's policy has it, if absent",
    )
