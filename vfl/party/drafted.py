"""Job files that `vfl init` drafted, and what a person has to say in them before hosts read it."""

from pathlib import Path

from vfl.errors import ConfigError
from vfl.party.config import Job, load_job

DRAFTED_PURPOSE = "say why: every host reads it, and its rules may ask for it"
"""The purpose of a draft, in which nobody has said one."""


def missing_purpose(purpose: str, path: Path, section: str = "job") -> str | None:
    """What is wrong with a purpose that is still the draft's; None for one that somebody wrote."""
    if purpose.strip() != DRAFTED_PURPOSE:
        return None
    return (
        f"{path.name}: purpose in [{section}] is still the draft's: say there what the model is for, as "
        "every host reads it"
    )


def check_purpose(purpose: str, path: Path, section: str = "job") -> None:
    """Raises ConfigError for a purpose that is still the draft's."""
    if (why := missing_purpose(purpose, path, section)) is not None:
        raise ConfigError(why)


def load_job_to_send(path: Path) -> Job:
    """The job file at `path`, which hosts are to read. Raises ConfigError."""
    job = load_job(path)
    check_purpose(job.job.purpose, path)
    return job
