"""The folder that a search leaves: its trials as a table, and a job file with the best settings."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev

from vfl.jobs.page_folder import check_folder, write_folder
from vfl.jobs.study import Study, TrialDone
from vfl.party.config import Job, Party
from vfl.party.output import OutputPlace
from vfl.party.search import Search, job_text
from vfl.party.spreadsheet import write_rows
from vfl.text import counted

TRIALS = "trials.csv"
SPREAD = ("least_fold", "greatest_fold", "deviation")
HEADS = ("trial", "ended", "value", "loss", "trees", "seconds", *SPREAD, "folds")
"""Of the table of trials; the settings come after them. SPREAD is of the values by fold; folds is how
many the value and the loss are means of."""


@dataclass(frozen=True)
class TunedFolder:
    """A folder of these two files."""

    target: OutputPlace
    job_file: str

    @classmethod
    def of(cls, party: Party, job: Job, out: Path | None, *, force: bool) -> "TunedFolder":
        """Raises DataError for a place that cannot be written, or that holds something else."""
        folder = (out or Path(f"tune-{job.name}")).absolute()
        name = f"{job.name}.toml"
        check_folder(folder, (TRIALS, name), "what `vfl tune` leaves")
        target = OutputPlace.of(folder, "tune", party=party, is_former=_is_former, force=force)
        return cls(target, name)

    @property
    def job(self) -> Path:
        """Where the job with the best settings is."""
        return self.target.place / self.job_file

    @property
    def table(self) -> Path:
        return self.target.place / TRIALS

    def write(self, search: Search, study: Study) -> None:
        """Write what was found so far, in place of what is there. Raises DataError."""
        text = io.BytesIO()
        write_rows(text, [(*HEADS, *search.space), *(_cells(one, search) for one in study.trials)])
        files = {TRIALS: text.getvalue()}
        if (best := study.best) is not None:
            told = (
                f"# The best of {counted(len(study.trials), 'trial')} of `vfl tune`, number "
                f"{best.number:,}: {trial_words(best, search.judges)}.\n"
            )
            job = search.best(best.settings, best.trees)
            files[self.job_file] = (told + job_text(job)).encode()
        self.target.check()
        self.target.note({name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
        write_folder(self.target.place, files)


def folds_of(done: TrialDone, folds: int) -> int:
    """How many of so many folds a trial's figures are means of: one that was ended early has one."""
    return {"done": folds, "stopped": 1, "failed": 0}[done.ended]


def trial_words(done: TrialDone, folds: int) -> str:
    """How a trial of so many folds ended."""
    if done.ended == "failed" or done.loss is None:
        return "came to nothing"
    parts = [f"loss {done.loss:.6g}"]
    if done.value is not None and done.value != done.loss:
        parts.insert(0, f"Gini {done.value:.4f}")
    if len(done.folds) > 1:
        low, high = min(done.folds), max(done.folds)
        parts.append(f"by fold {low:.4g} to {high:.4g} (deviation {stdev(done.folds):.2g})")
    if done.trees is not None:
        parts.append(counted(done.trees, "tree"))
    if done.ended == "stopped":
        if folds > 1:
            parts.append(f"of {folds_of(done, folds)} of {folds} folds")
        parts.append(f"ended after {len(done.curve):,}, worse than the median")
    return ", ".join(parts)


def _cells(done: TrialDone, search: Search) -> tuple[object, ...]:
    of = [done.settings[name] for name in search.space]
    spread: tuple[float | None, ...] = (None, None, None)
    if len(done.folds) > 1:
        spread = (min(done.folds), max(done.folds), stdev(done.folds))
    seconds = round(done.seconds, 2)
    figures = done.value, done.loss, done.trees, seconds, *spread, folds_of(done, search.judges)
    return done.number, done.ended, *figures, *of


def _is_former(folder: Path) -> bool:
    """Whether a folder has a table of trials, by its heads."""
    try:
        with (folder / TRIALS).open(encoding="utf-8") as file:
            return file.readline().startswith(",".join(HEADS[:6]))
    except (OSError, UnicodeDecodeError):
        return False
