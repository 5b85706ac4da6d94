"""What a job over rows gives away: each party has the label and all columns for rows of its own."""

from collections.abc import Sequence

from vfl.leakage.disclosure import Disclosure
from vfl.learn.params import BoostParams, GlmParams
from vfl.text import counted, in_words


def of_rows(
    parties: Sequence[str], server: str, params: BoostParams | GlmParams, steps: int | None = None
) -> list[Disclosure]:
    """What each could learn about the others; `steps`: trees or steps, where they are known."""
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
        Disclosure(
            "server_and_party",
            "cheating",
            f"{server} with a party",
            "each other party",
            "nothing of one party's rows alone, as long as two others do not work with them",
            "masks are between each two parties, under keys that both have signed",
            "bound",
        ),
    ]
    if len(parties) == 2:
        found.pop()
    return found
