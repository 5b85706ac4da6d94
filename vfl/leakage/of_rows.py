"""What a job over rows gives away: each party has the label and all columns for rows of its own."""

from collections.abc import Sequence

from vfl.leakage.disclosure import Disclosure
from vfl.learn.params import BoostParams, GlmParams
from vfl.text import counted, in_words


def of_rows(
    parties: Sequence[str],
    server: str,
    params: BoostParams | GlmParams,
    steps: int | None = None,
    *,
    without: bool = False,
    times: bool = False,
) -> list[Disclosure]:
    """What each could learn about the others; `steps`: trees or steps, where they are known. `without`:
    whether the others go on without a party that is gone. `times`: whether rows are held out by
    times."""
    everybody, others = in_words(parties), "all parties together"
    trees = isinstance(params, BoostParams)
    what = (
        "how many rows are in each bin of each node, and the sums of their gradients and hessians"
        if trees
        else "sums over all rows that train: of each column, of products of any two, of the gradient"
    )
    many = "" if steps is None else f", in {counted(steps, 'tree' if trees else 'step')}"
    found = [
        Disclosure(
            "pooled_totals",
            "told",
            everybody,
            others,
            what,
            f"totals over the rows of {counted(len(parties), 'party', 'parties')}{many}; a total of few "
            "rows tells of these: of a single one its values, and so its label",
            "told",
            lower=(
                "[policy] min_parties, min_pooled_rows",
                "[secureboost] min_child_rows, fewer bins"
                if trees
                else "levels of many rows alone ([columns]), fewer columns",
            ),
        ),
        Disclosure(
            "common_model",
            "told",
            everybody,
            others,
            "the whole model",
            "each party keeps it and scores alone",
            "told",
        ),
        Disclosure(
            "rest_of_a_total",
            "cheating" if len(parties) > 2 else "worked_out",
            everybody if len(parties) == 2 else f"any {len(parties) - 1} parties together",
            "the other",
            "the same of the other party's rows alone",
            "a total without their own part is the other's",
            "told",
            lower=("[policy] min_parties: more parties, who do not all work together",),
        ),
        Disclosure(
            "blind_server",
            "told",
            server,
            others,
            "which parties take part, how many numbers they add up and when: no number, no total",
            "all it passes on lies under masks between the parties, and a pad that it does not have",
            "bound",
        ),
    ]
    if times:
        found.append(_of_times(everybody, others))
    if len(parties) > 2:
        found += _of_parties_gone(server) if without else [_of_nobody_gone(server)]
    return found


def _of_times(everybody: str, others: str) -> Disclosure:
    """How the times are found from which on rows are held out."""
    return Disclosure(
        "common_times",
        "told",
        everybody,
        others,
        "from which times on rows are held out, and how many rows are in spans of time around these",
        "counts in ever smaller spans, none of 10 rows or fewer; a part of one may be of one row",
        "told",
        lower=("time in [job]: leave it out, or use group alone",),
    )


def _of_nobody_gone(server: str) -> Disclosure:
    """What the server has with a party, where a job ends when one is gone."""
    return Disclosure(
        "server_and_party",
        "cheating",
        f"{server} with a party",
        "each other party",
        "nothing of one party's rows alone, as long as two others do not work with them",
        "masks are between each two parties, under keys that both have signed",
        "bound",
    )


def _of_parties_gone(server: str) -> list[Disclosure]:
    """What is told of a party that is gone, or called so, where the others go on without it."""
    lower = ("without = true in [rows] of the job: leave it out",)
    return [
        Disclosure(
            "server_and_party",
            "cheating",
            f"{server} with a party",
            "each other party",
            "what that party's rows alone come to",
            "it calls a party gone once its part is there, and the others add up the same without it",
            "told",
            lower=lower,
        ),
        Disclosure(
            "gone_party",
            "worked_out",
            "those that go on",
            "a party that is gone",
            "what its rows alone come to: rows by bin, or gradients and second derivatives",
            "the difference of its last total and the next one without it",
            "told",
            lower=lower,
        ),
    ]
