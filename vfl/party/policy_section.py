"""[policy] of a party file: what a host allows."""

from datetime import date
from typing import Literal

from pydantic import Field

from vfl.learn.params import MAX_LEVERAGE
from vfl.party.config_values import (
    UNLIMITED,
    ColumnNames,
    Encryptions,
    Engines,
    FractionLimit,
    Joins,
    Limit,
    LocalPath,
    Models,
    Names,
    Objectives,
    Patterns,
    YesNoOrColumns,
)
from vfl.party.sections import Section


class PolicySection(Section):
    """What a host allows, whatever a guest's job asks for; vfl/party/policy.py holds jobs against it.

    The defaults are for a guest that the host does not know: docs/security.md says why.
    """

    guests: Names | None = Field(default=None, description="the only peers that may start jobs")
    purposes: Patterns | None = Field(
        default=None, description="the only purposes of jobs; * stands for any text"
    )
    models: Models | None = Field(default=None, description="the only kinds of model")
    objectives: Objectives | None = Field(
        default=None, description="the only objectives (trees) and families (linear models)"
    )
    columns: ColumnNames | None = Field(
        default=None, description="the only own columns that enter a model, of those that [data] has"
    )
    min_intersection: int = Field(default=1000, ge=1, description="least rows of an alignment")
    max_intersection: Limit = Field(default=UNLIMITED, description="most rows of an alignment")
    max_rows_an_id: Limit = Field(
        default=1, description="most rows that the guest may join to one of this party's"
    )
    engines: Engines = Field(
        default=("ecdh", "ot"), description="the engines of alignment it takes part in"
    )
    joins: Joins = Field(default=("inner",), description="the kinds of join it takes part in")
    alignment_days: Limit = Field(default=365, description="days for which an alignment is of use")
    max_alignments_a_day: Limit = Field(
        default=5, description="most alignments of a guest in a day (UTC), extended ones included"
    )
    max_ids_a_day: Limit = Field(
        default=1_000_000, description="most ids that a guest may ask about in a day (UTC), for any job"
    )
    kept_key_days: int = Field(
        default=0,
        ge=0,
        description="days for which it answers one guest under the same key, by the engine ecdh and "
        "without other hosts, so that its ids need not be evaluated again; 0 for a key a job",
    )
    max_ids_a_key: Limit = Field(
        default=1_000_000, description="most ids that the guest may ask about under such a key"
    )
    min_child_rows: int = Field(
        default=20, ge=1, description="least rows on either side of a split that it offers"
    )
    min_bin_rows: int | None = Field(
        default=None, ge=1, description="least rows of a bin; min_child_rows if absent"
    )
    encryptions: Encryptions = Field(
        default=("paillier",),
        description="the encryptions it takes part in; lattice is for guests that it trusts to follow "
        "the protocol: one that does not can ask for sums of single rows",
    )
    key_bits: Literal[2048, 3072, 4096] = Field(
        default=2048, description="least modulus of the guest's key, which lattice does not have"
    )
    min_parties: int = Field(default=3, ge=2, le=64, description="least parties of a job over rows")
    min_pooled_rows: int = Field(
        default=1000, ge=1, description="least rows that all parties of a job over rows have together"
    )
    without: bool = Field(
        default=False,
        description="jobs over rows may go on without a party that is gone (without = true in [rows]): "
        "what its rows alone come to is then told to those that go on",
    )
    max_trees: Limit = Field(default=50, description="most trees of a job")
    max_sums_a_row: FractionLimit = Field(
        default=0.03,
        description="most sums about a row that open sums of trees tell a guest, over all its "
        "alignments and jobs",
    )
    min_summed_rows: int = Field(
        default=300,
        ge=1,
        description="least rows of a node whose sums are told openly; of smaller ones this party offers "
        "no split (under paillier)",
    )
    max_iterations: Limit = Field(
        default=2000, description="most iterations of a linear model, in all its fits"
    )
    exact_zeros: bool = Field(
        default=False,
        description="linear models over columns may have an l1_ratio, by which a guest may see "
        "the values of single columns",
    )
    inference: bool = Field(
        default=False,
        description="linear models may have standard errors (inference = true in [glm]), for which "
        "lattice is among its encryptions: a guest learns of its own coefficients how sure they are "
        "beside this party's columns; max_leverage and told_columns bound what one that makes columns "
        "up reads of rows",
    )
    max_leverage: FractionLimit = Field(
        default=MAX_LEVERAGE,
        description="most max_leverage of a job with standard errors or variance inflation: how far a "
        "row may stand out by a party's columns, which each party's own program sees to",
    )
    told_columns: int = Field(
        default=400,
        ge=0,
        description="most columns of its own of which a guest is told standard errors and variance "
        "inflation beside this party's, over all its jobs, each time anew",
    )
    interactions_across: bool = Field(
        default=False,
        description="linear models may have pairs of levels of a guest's column and one of this "
        "party's (across in [glm]), each of min_cell_rows rows at least: the guest learns as if this "
        "party had a column for each pair",
    )
    category_groups: bool = Field(
        default=False,
        description='trees may have ordered_categories = "all": the guest is told which sums belong to '
        "one categorical column of this party, not to which",
    )
    hidden_sums: bool = Field(default=False, description='trees with sums = "hidden" alone')
    hidden_scores: bool = Field(default=False, description='linear models with scores = "hidden" alone')
    max_jobs_a_day: Limit = Field(
        default=20, description="most jobs of a guest in a day (UTC), of any kind"
    )
    scoring: bool = Field(default=True, description="the guest may score rows with its models")
    min_scored_rows: int = Field(
        default=100, ge=1, description="least rows of a batch that this party knows"
    )
    max_scored_rows_a_day: Limit = Field(
        default=50_000, description="most rows scored for a guest in a day (UTC)"
    )
    directories: bool = Field(
        default=False,
        description="the guest may fetch sealed directories and look single rows up in them, of which "
        "this party learns how many and not which",
    )
    directory_days: Limit = Field(
        default=30,
        description="days for which a directory is of use, and after which the next one has another key",
    )
    min_changed_rows: int = Field(
        default=512,
        ge=8,
        le=512,
        description="least rows of a directory's parts, on average: a guest sees in which parts "
        "anything has changed, not in which rows, and fetches these parts anew",
    )
    max_fetches_a_day: Limit = Field(
        default=10,
        description="how often a guest may fetch a directory in a day (UTC), all of it or as many bytes "
        "of it; 64 MB are always allowed",
    )
    max_lookups_a_minute: Limit = Field(
        default=10_000, description="most ids that a guest may look up in a minute"
    )
    show_names: bool = Field(default=False, description="the guest may see column names in importances")
    explain: bool = Field(
        default=False, description="the guest may see what each column adds to a linear model's scores"
    )
    diagnose: bool = Field(
        default=False,
        description="the guest may count, on a sample, how many ids match by other rules when few "
        "match; for guests that it trusts to follow the protocol: one that does not can find out which "
        "ids of its choice are in the samples",
    )
    oneway: YesNoOrColumns = Field(
        default=False,
        description="the guest may have its own numbers added up by the levels of any column, or of the "
        "columns that are named here",
    )
    oneway_pairs: bool = Field(
        default=False,
        description="also by another host's factor: it and the guest together see all levels",
    )
    min_cell_rows: int = Field(
        default=50,
        ge=1,
        description="least rows of a level in such a table, or of a cell by two factors",
    )
    screen: YesNoOrColumns = Field(
        default=False, description="how strong columns are may be told, for sums by this party's levels"
    )
    told_correlations: int = Field(
        default=0,
        ge=0,
        description="most correlations of this party's columns with others' that are told for a guest, "
        "over all its jobs; 0 for none",
    )
    min_correlated_rows: int = Field(default=1000, ge=1, description="least rows of such a correlation")
    correlations_between_hosts: bool = Field(
        default=False,
        description="the guest and another host that allows it, too, may have those with that host's "
        "columns",
    )
    worth: bool = Field(
        default=False,
        description="the guest may find out what this party's columns add to a job's models, alone and "
        "beside those of other hosts; nothing is kept, and each training counts as a job",
    )
    tune_trials: int = Field(
        default=0,
        ge=0,
        description="most trials of a search for settings (`vfl tune`); each training of it counts as a "
        "job, and its sums as those of any other",
    )
    audit: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="the share of a training's trees that is audited (a linear model counts as one), "
        "drawn with the guest once the model is done: the guest then replays them (`vfl audit replay "
        "--drawn`) before the model is of use here; 1 for all, 0 for none",
    )
    unaudited: Literal["refused", "noted"] = Field(
        default="refused",
        description="whether the use of a model whose audit is missing is refused, or noted in the log",
    )
    auditor: LocalPath | None = Field(
        default=None,
        description="certificate of the auditor who alone may sign such a replay; the guest itself if "
        "absent",
    )
    audit_days: Limit = Field(
        default=30,
        description="days after which a guest that owes an audit may train no further model",
    )
    approve: Literal["rules", "person"] = Field(
        default="rules",
        description="who decides on a job: the rules alone, or on what they allow a person as well",
    )
    approve_within: int = Field(
        default=3600,
        ge=1,
        le=604_800,
        description="seconds for which a job waits for that person, before it is refused",
    )
    max_approved_lookups: Limit = Field(
        default=1_000_000,
        description="most ids that a guest may look up under one approval of a person",
    )
    approved_lookup_days: Limit = Field(
        default=30, description="days for which such an approval holds; then it is asked for again"
    )
    expires: date | None = Field(default=None, description="last day (UTC) on which jobs are accepted")

    @property
    def least_bin_rows(self) -> int:
        """Least rows of a bin."""
        return self.min_bin_rows or self.min_child_rows

    @property
    def days_of_use(self) -> int | None:
        """Days for which an alignment is of use; None: for ever."""
        return None if isinstance(self.alignment_days, str) else self.alignment_days
