"""Names of what a party keeps, found from what a person types."""

from typing import Literal

from vfl.errors import ModelError
from vfl.party.kinds import DocumentKind
from vfl.party.store import Store

JOB_LENGTH = 40
"""How much of a job's name the names of its models take over."""


def resolve_model(
    store: Store, model: str, kind: Literal["model", "run", "alignment", "project"] = "model"
) -> str:
    """A model's full name from that, from a path, or from its job's name (the newest one).

    Among the runs for who has no halves: the coordinator. An alignment's, or a project's, from the name
    it was given.
    """
    names = store.names(kind)
    if model in names or "/" in model:
        return model
    of_job = [n for n in names if job_of(n) == model[:JOB_LENGTH]]
    if len(model) >= JOB_LENGTH and (kind == "model" or kind == "run"):
        # Names of models have the beginning of a long name, which other jobs may share.
        exact = [name for name in of_job if _job_name(store, kind, name) == model]
        of_job = exact if exact or len(model) > JOB_LENGTH else of_job
    return max(of_job, default=model, key=lambda name: _age(store, kind, name))


def job_of(name: str) -> str:
    """The name of the job, as far as the name of its model has it."""
    return name.rsplit("-", 3)[0]


def began(name: str) -> list[str]:
    """When a job began, by the full name of its model: sorts by time."""
    return name.rsplit("-", 3)[1:]


def _age(store: Store, kind: DocumentKind, name: str) -> tuple[list[str], int]:
    """When a job began, and of those that began in one second which was the last to end."""
    try:
        written = store.path(kind, name).stat().st_mtime_ns
    except OSError:  # just removed
        written = 0
    return began(name)[:2], written


def _job_name(store: Store, kind: Literal["model", "run"], name: str) -> object:
    """The name of the job in a document, as far as it can be read."""
    try:
        return store.read(kind, name)["job"]["job"]["name"]
    except (ModelError, KeyError, TypeError):
        return None
