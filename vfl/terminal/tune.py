"""A search for settings, as the command line shows it."""

from typing import TYPE_CHECKING

from vfl.jobs.tuned_folder import folds_of
from vfl.terminal.results import account_document, cost
from vfl.terminal.sheets import Sheet, put_sheet
from vfl.terminal.streams import stdout
from vfl.text import counted

if TYPE_CHECKING:
    from vfl.jobs.study import TrialDone
    from vfl.jobs.training import Trained
    from vfl.jobs.tuning import Tuned

_MOST_SHOWN = 10


def put_tuned(done: "Tuned", party: str | None) -> None:
    """The best trials, and how `party` trains with the settings of the best one, where it has not."""
    study, space = done.study, list(done.study.search.space)
    gini = study.search.tune.metric == "gini"
    ended = [one for one in study.trials if one.ended == "done"]
    ended.sort(key=lambda one: (one.value or 0.0) * (-1 if gini else 1))
    heads = ["trial", *(["Gini"] if gini else []), "loss", "trees", *space]
    rows = [_line(one, space, gini) for one in ended[:_MOST_SHOWN]]
    counts = {word: sum(one.ended == word for one in study.trials) for word in ("stopped", "failed")}
    said = [f"{counted(len(study.trials), 'trial')}"]
    said += [f"{counts['stopped']:,} ended early"] if counts["stopped"] else []
    said += [f"{counts['failed']:,} came to nothing"] if counts["failed"] else []
    judged = f"judged on {counted(done.rows['judge'], 'row')}"
    if len(ended) > len(rows):
        said.append(f"the best {len(rows)} are")
    put_sheet(Sheet(heads, rows, f"{', '.join(said)}; {judged}", frozenset(heads)))
    stdout.put(f"all trials in {done.folder.table}; the best settings in {done.folder.job}")
    if party is not None:
        stdout.put(f"train with `vfl train {party} {done.folder.job}`")
    stdout.put(cost(done.account))


def _line(one: "TrialDone", space: list[str], gini: bool) -> list[str | None]:
    value = [] if not gini else [None if one.value is None else f"{one.value:.4f}"]
    loss = None if one.loss is None else f"{one.loss:.6g}"
    trees = None if one.trees is None else f"{one.trees:,}"
    return [str(one.number), *value, loss, trees, *(f"{one.settings[name]:g}" for name in space)]


def tuned_document(done: "Tuned", trained: "Trained | None") -> dict[str, object]:
    """The same for the JSON, with the model that was trained, if one was."""
    best = done.study.best
    return {
        "job": done.study.search.job.name,
        "alignment": done.alignment,
        "rows": dict(done.rows),
        "trials": [
            {
                "trial": one.number,
                "ended": one.ended,
                "value": one.value,
                "loss": one.loss,
                "folds": folds_of(one, done.study.search.judges),
                "trees": one.trees,
                "seconds": one.seconds,
                "settings": dict(one.settings),
            }
            for one in done.study.trials
        ],
        "best": None if best is None else best.number,
        "job_file": str(done.folder.job),
        "table": str(done.folder.table),
        **({} if trained is None else {"model": trained.half.name, "metrics": trained.half.metrics}),
        **account_document(done.account),
    }
