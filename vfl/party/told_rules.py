"""A host's rules about figures beside a model: what screening tells of its columns, and how many figures
a guest is told by which columns that it has made up name rows."""

from datetime import date

from vfl.errors import BrokenRule
from vfl.party.policy import (
    OVER_COLUMNS,
    broken_by_any,
    broken_by_purpose,
    broken_setting,
    exceeds,
    limit_breach,
    refuse,
    remedy,
    rule_words,
)
from vfl.party.policy_section import PolicySection
from vfl.text import counted


def check_screen(
    policy: PolicySection,
    purpose: str,
    guest: str,
    on: date,
    *,
    tells: bool,
    inflation: float | None,
    correlations: bool = False,
) -> None:
    """Raises Refused naming the rules that screening this party's columns breaks before it starts.
    tells: whether the guest tells sums by the party's levels. inflation: where that is asked for, the
    most leverage of a row by a party's columns."""
    broken = broken_by_any(policy, guest, on) + broken_by_purpose(policy, purpose, OVER_COLUMNS)
    if policy.oneway is False and policy.screen is False:
        broken.append(limit_breach("screening columns", policy, "screen"))
    elif policy.oneway is False and not tells:
        text = (
            f"screening columns without tell_hosts = true in [screen] breaks "
            f"{rule_words(policy, 'oneway')}: set it in the job, or {remedy('oneway', OVER_COLUMNS)}"
        )
        broken.append(BrokenRule(text, "oneway"))
    if correlations and not policy.told_correlations:
        broken.append(limit_breach("correlations = true in [screen]", policy, "told_correlations"))
    elif correlations and "lattice" not in policy.encryptions:
        broken.append(limit_breach("correlations = true in [screen]", policy, "encryptions"))
    if inflation is not None and not (policy.inference and "lattice" in policy.encryptions):
        rule = "encryptions" if policy.inference else "inference"
        text = (
            f"vif = true in [screen] breaks {rule_words(policy, rule)}: set it to false in the job, or "
            "the host sets inference to true, with lattice among its encryptions"
        )
        broken.append(BrokenRule(text, rule))
    if inflation is not None and exceeds(inflation, policy.max_leverage):
        broken.append(broken_setting("max_leverage", inflation, policy, "max_leverage"))
    refuse(broken)


def check_correlations(policy: PolicySection, rows: int, before: int, more: int) -> None:
    """Raises Refused for correlations of too few rows, or for more than a guest may be told after
    `before` of earlier jobs."""
    if rows < policy.min_correlated_rows:
        refuse([limit_breach(f"correlations of {counted(rows, 'row')}", policy, "min_correlated_rows")])
    if before + more > policy.told_correlations:
        earlier = f", after {before:,} of earlier jobs," if before else ""
        what = f"{counted(more, 'correlation')} of columns{earlier}"
        refuse([limit_breach(what, policy, "told_correlations")])


def check_told_columns(policy: PolicySection, before: int, more: int) -> None:
    """Raises Refused for more columns of a guest's to be told of beside this party's than it may be told
    of after `before` of earlier jobs."""
    if before + more > policy.told_columns:
        earlier = f", after {before:,} of earlier jobs," if before else ""
        what = f"telling of {counted(more, 'column')} of the guest's{earlier}"
        refuse([limit_breach(what, policy, "told_columns")])
