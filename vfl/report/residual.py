"""What is left of risk by what a job used: the limits that docs/security.md states, in short."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from vfl.party.policy_section import PolicySection


@dataclass(frozen=True)
class UsedSettings:
    """What a job uses of what there is. `settings`: of its kind of model; `policy`: this party's own."""

    trees: bool
    over_rows: bool
    settings: Mapping[str, object]
    parties: int  # with data
    policy: PolicySection = field(default_factory=PolicySection)
    is_host: bool = False
    without: bool = False

    def has(self, name: str, value: object) -> bool:
        """Whether a setting of the job has a value."""
        return self.settings.get(name) == value

    def above(self, name: str, least: float = 0.0) -> bool:
        """Whether a setting of the job is a number above the least."""
        value = self.settings.get(name)
        return isinstance(value, int | float) and value > least


class Risk(NamedTuple):
    """What is left: a title, a text, the heading of docs/security.md that says more, and when it is."""

    title: str
    text: str
    heading: str
    applies: Callable[[UsedSettings], bool]


def _over_columns(of: UsedSettings) -> bool:
    return not of.over_rows


def _shared_trees(of: UsedSettings) -> bool:
    return of.trees and not of.over_rows


def _shared_linear(of: UsedSettings) -> bool:
    return not of.trees and not of.over_rows


def _ruled(rule: str) -> Callable[[UsedSettings], bool]:
    """Whether a host's own policy allows something."""
    return lambda of: of.is_host and bool(getattr(of.policy, rule))


RISKS: Sequence[Risk] = (
    Risk(
        "What is exchanged is personal data",
        "Ids, values, labels and thresholds are in no message. That a row is common to all parties, on "
        "which side of a split it lies and how much its score changes is personal data all the same; "
        "nothing here is anonymous.",
        "In short",
        lambda of: True,
    ),
    Risk(
        "Membership in the intersection",
        "Every party learns of its own customers which are customers of all the others, too. Nothing "
        "takes that away: models need common rows.",
        "By parties that follow the protocol",
        _over_columns,
    ),
    Risk(
        "A host's table from the model alone",
        "The guest puts together which rows went left at all splits that a host won. Of a table of few "
        "columns that is half to nine tenths of all bins, also where sums are hidden.",
        "By parties that follow the protocol",
        _shared_trees,
    ),
    Risk(
        "A host's table from open sums",
        "The guest is shown sums of gradients by unnamed candidates and can solve them for single rows. "
        "The host's budget (max_sums_a_row) bounds how much these tell beyond the model.",
        "By parties that follow the protocol",
        lambda of: _shared_trees(of) and not of.has("sums", "hidden"),
    ),
    Risk(
        "Labels by the nodes that rows share",
        "A host that knows which way its columns go tells rows with claims from others nearly as well "
        "as the model does.",
        "By parties that follow the protocol",
        _shared_trees,
    ),
    Risk(
        "Rows with large gradients",
        "With goss_top above 0 a host sees which rows have large gradients: with rare claims, those "
        "that claimed.",
        "By parties that follow the protocol",
        lambda of: _shared_trees(of) and of.above("goss_top"),
    ),
    Risk(
        "A guest that cheats",
        "A host cannot look into ciphertexts: a guest that encrypts numbers of its choice in place of "
        "gradients reads on which side of a host's splits rows lie. Contract and ledger answer for it.",
        "By a guest that cheats",
        _over_columns,
    ),
    Risk(
        "Few rows",
        "Least rows of nodes and bins make single rows harder to find; they are no proof, since sums "
        "can be subtracted from each other.",
        "Few rows: what is prevented, and what is not",
        _shared_trees,
    ),
    Risk(
        "The guest learns the hosts' part of each row's score",
        "At each iteration the guest learns how the hosts' columns together change each row's score; "
        "with one host, that host's alone.",
        "What each party learns, step by step",
        lambda of: _shared_linear(of) and not of.has("scores", "hidden"),
    ),
    Risk(
        "A host that cheats",
        "In linear models a host that has made-up ciphertexts decrypted can learn single labels; each "
        "iteration tells an honest one as many equations about them as it has columns.",
        "By a host that cheats",
        _shared_linear,
    ),
    Risk(
        "Exact zeros",
        "An l1_ratio above 0 can show a guest the values of single columns of a host.",
        "By a guest that cheats",
        lambda of: _shared_linear(of) and of.above("l1_ratio"),
    ),
    Risk(
        "Standard errors",
        "With inference each party learns how sure its own coefficients are beside the others' columns, "
        "of which a host can tell about how many claims its levels have; two hosts that work together "
        "learn each row's prediction. A guest that makes columns up reads of a host's rows by them, "
        "as far as max_leverage and told_columns let it.",
        "By a guest that cheats",
        lambda of: _shared_linear(of) and of.has("inference", True),
    ),
    Risk(
        "The lattice engine",
        "A guest that cheats can ask for sums of single rows, and a host cannot notice. The engine is "
        "new and unaudited.",
        "What a job's options change",
        lambda of: not of.over_rows and of.has("encryption", "lattice"),
    ),
    Risk(
        "The coordinator",
        "Whoever holds the key or the masks must work with nobody: together with the guest it would "
        "have what is hidden from it.",
        "By a coordinator that cheats",
        lambda of: not of.over_rows and bool(of.settings.get("coordinator")),
    ),
    Risk(
        "Feature inference from scores",
        "From many scored rows the guest works back to thresholds, or to a column itself: it is what "
        "scoring is. The host's limits on batches and days bound it.",
        "By parties that follow the protocol",
        _over_columns,
    ),
    Risk(
        "Each can take its own part off a total",
        "Of n parties with rows, n - 1 that tell each other theirs have the last one's totals; of two, "
        "each has the other's.",
        "In jobs over rows",
        lambda of: of.over_rows,
    ),
    Risk(
        "Going on without a party",
        "With without = true those that go on learn what the rows of the party that is gone come to.",
        "In jobs over rows",
        lambda of: of.over_rows and of.without,
    ),
    Risk(
        "Names of columns",
        "This party's policy shows the guest the names of its columns: it reads what the numbers mean.",
        "What a job's options change",
        _ruled("show_names"),
    ),
    Risk(
        "Parts of scores by column",
        "This party's policy lets the guest see what each column adds to a linear model's scores.",
        "What a job's options change",
        _ruled("explain"),
    ),
    Risk(
        "Tables by factors",
        "This party's policy lets the guest have its own numbers added up by the levels of a column, "
        "not below min_cell_rows.",
        "What each party learns, step by step",
        lambda of: _ruled("oneway")(of) or _ruled("screen")(of),
    ),
    Risk(
        "Lookups of guessed ids",
        "With sealed directories the guest may look up ids that it has only guessed, as many as "
        "max_scored_rows_a_day allows; this party learns how many, not which.",
        "By a guest that cheats",
        _ruled("directories"),
    ),
    Risk(
        "The finished model",
        "Whoever has scores learns something about training rows. There is no differential privacy.",
        "Out of scope",
        lambda of: True,
    ),
    Risk(
        "Sizes and times",
        "Numbers of ids, candidates and columns, bytes and times are not hidden; recorded traffic could "
        "be read by a quantum computer some day.",
        "Out of scope",
        lambda of: True,
    ),
)


def risks_of(of: UsedSettings) -> list[Risk]:
    """Those that a job leaves, by what it uses."""
    return [risk for risk in RISKS if risk.applies(of)]
