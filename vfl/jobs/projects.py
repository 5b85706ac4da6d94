"""A project's document: which models it has, its large-loss load, and what they say of rows held out."""

from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from vfl.arrays import Floats, Integers
from vfl.errors import ModelError
from vfl.jobs.names import resolve_model
from vfl.learn.claims import LargeLossLoad, Part, PolicyClaims
from vfl.party.documents import Body
from vfl.party.project_file import Project
from vfl.party.store import Store
from vfl.report.evidence import TOGETHER
from vfl.text import in_words

Predictions = dict[Part, dict[str, Floats]]
"""By part and model, of each row: claims in its time at risk, the mean capped claim, or (tweedie) capped
losses for a unit of exposure."""


@dataclass(frozen=True)
class ProjectEvaluation:
    """The rows held out; every array has shape (rows held out,)."""

    rows: Integers  # of the guest's table
    claims: PolicyClaims
    weight: Floats
    exposure: Floats  # 1 where the project has none
    load: Floats  # of each row
    predictions: Predictions

    @property
    def models(self) -> list[str]:
        """The names of the parties' models and of the guest's own."""
        return sorted(self.predictions["frequency"], key=lambda name: name != TOGETHER)

    def expected_loss(self, model: str) -> Floats:
        """What each row is expected to cost: claims x mean capped claim x load."""
        parts = self.predictions
        return np.asarray(parts["frequency"][model] * parts["severity"][model] * self.load)

    def tweedie_loss(self, model: str) -> Floats | None:
        """The same by the model of losses themselves; None without one."""
        if "tweedie" not in self.predictions:
            return None
        return np.asarray(self.predictions["tweedie"][model] * self.exposure * self.load)


@dataclass(frozen=True)
class KeptProject:
    """A project as the guest keeps it."""

    name: str
    settings: dict[str, Any]  # the project file
    alignment: str
    ids: str  # digest of the ids of the guest's table
    key: str  # of all that its models are made of
    ended: str = ""  # ISO 8601, UTC; empty while models are missing
    exposure: str | None = None  # its column, which scoring looks for
    models: dict[Part, str] = field(default_factory=dict)  # full names
    load: float = 1.0
    segments: dict[str, float] = field(default_factory=dict)  # loads

    @property
    def large_losses(self) -> LargeLossLoad:
        """The large-loss load."""
        return LargeLossLoad(self.load, self.segments)

    @property
    def project(self) -> Project:
        """The project file."""
        return Project.model_validate(self.settings)


_ARRAYS = ("rows", "count", "paid", "capped", "weight", "exposure", "load")


def save_project(store: Store, kept: KeptProject, found: ProjectEvaluation | None) -> None:
    """Keep a project, whole or in part. Raises DataError when the store cannot be written."""
    body = msgspec.to_builtins(kept)
    if found is not None:
        arrays: dict[str, Integers | Floats] = {
            "rows": found.rows,
            "count": found.claims.count,
            "paid": found.claims.paid,
            "capped": found.claims.capped,
            "weight": found.weight,
            "exposure": found.exposure,
            "load": found.load,
        }
        body["held_out"] = {
            "predictions": {
                part: {
                    name: dict(store.write_array("project", kept.name, values))
                    for name, values in of.items()
                }
                for part, of in found.predictions.items()
            },
            **{
                name: dict(store.write_array("project", kept.name, np.ascontiguousarray(values)))
                for name, values in arrays.items()
            },
        }
    store.write("project", kept.name, body)


def load_project_document(store: Store, name: str) -> tuple[KeptProject, ProjectEvaluation | None]:
    """A project by its full name; what its models say of rows held out, if any were.

    Raises ModelError when it is missing, damaged or of a newer version.
    """
    body = store.read("project", name)
    held_out: Body | None = body.pop("held_out", None)
    try:
        kept = msgspec.convert(body, KeptProject)
    except msgspec.ValidationError as error:
        raise ModelError(f"project {name} is not what this version of vfl keeps ({error})") from None
    if held_out is None:
        return kept, None
    read = {key: store.read_array("project", held_out[key]) for key in _ARRAYS}
    predictions: Predictions = {
        part: {who: store.read_array("project", ref) for who, ref in of.items()}
        for part, of in held_out["predictions"].items()
    }
    lengths = {len(values) for values in read.values()}
    lengths |= {len(values) for of in predictions.values() for values in of.values()}
    if len(lengths) != 1:
        raise ModelError(f"project {name} is damaged: its arrays differ in length")
    claims = PolicyClaims(read["count"], read["paid"], read["capped"])
    return kept, ProjectEvaluation(
        read["rows"], claims, read["weight"], read["exposure"], read["load"], predictions
    )


def resolve_project(store: Store, name: str) -> str | None:
    """The full name of the project that a person means; None where it is no project's."""
    if "/" in name:
        return None
    found = resolve_model(store, name, "project")
    return found if found in store.names("project") else None


def whole_project(store: Store, name: str) -> tuple[KeptProject, ProjectEvaluation | None]:
    """A project all of whose models are trained. Raises ModelError as `load_project_document`."""
    kept, found = load_project_document(store, name)
    if not kept.ended:
        raise ModelError(
            f"of project {name} only {in_words(list(kept.models))} is trained: `vfl train` with its "
            "file goes on"
        )
    return kept, found
