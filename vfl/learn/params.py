"""The settings of a SecureBoost model, each with its one default."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class BoostParams(BaseModel):
    """Settings of gradient-boosted trees, named as in XGBoost and scikit-learn.

    Source of gain, leaf weight and regularisation: Chen and Guestrin, KDD 2016, section 2.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    trees: int = Field(50, ge=1, le=5000, description="trees at most")
    depth: int = Field(4, ge=1, le=10, description="levels of splits in a tree")
    learning_rate: float = Field(0.2, gt=0, le=1, description="shrinkage of each tree")
    max_bins: int = Field(32, ge=2, le=255, description="bins of a column, missing not counted")
    min_bin_rows: int = Field(3, ge=1, description="least number of rows of a bin")
    reg_lambda: float = Field(1.0, ge=0, description="L2 penalty on leaf weights")
    gamma: float = Field(0.0, ge=0, description="least gain of a split")
    min_child_weight: float = Field(1.0, ge=0, description="least hessian sum of a child")
    min_child_rows: int = Field(20, ge=1, description="least number of rows of a child")
    subsample: float = Field(1.0, gt=0, le=1, description="share of rows drawn for each tree")
    colsample: float = Field(1.0, gt=0, le=1, description="share of each party's columns a tree")
    validation_share: float = Field(0.0, ge=0, lt=1, description="rows kept to decide when to stop")
    early_stopping_rounds: int = Field(
        0, ge=0, description="stop after so many trees without a better validation loss; 0 is never"
    )
    first_tree: Literal["joint", "guest"] = Field(
        "joint", description="guest: the first tree uses the guest's columns alone"
    )
    encryption: Literal["paillier", "ou"] = Field(
        "paillier",
        description="of gradients; ou (Okamoto-Uchiyama) is several times faster, but only for hosts "
        "trusted to follow the protocol: one that sends made-up sums can learn the key bit by bit",
    )
    key_bits: Literal[2048, 3072, 4096] = Field(2048, description="modulus of the guest's key")
    obfuscators: Literal["short", "full"] = Field(
        "short",
        description="exponents of the guest's encryption; full needs no assumption, twice the work",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="of the row and column draws, not of any key")

    @model_validator(mode="after")
    def _has_rows_to_stop_by(self) -> "BoostParams":
        if self.early_stopping_rounds and not self.validation_share:
            raise ValueError("early_stopping_rounds needs a validation_share above 0")
        return self
