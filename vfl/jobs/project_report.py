"""The report of a project, from what the guest keeps: no peer is asked."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from vfl.errors import ModelError
from vfl.jobs.connect import store_of
from vfl.jobs.page_folder import check_folder, is_page, write_folder
from vfl.jobs.projects import KeptProject, ProjectEvaluation, whole_project
from vfl.jobs.report import Written, gather
from vfl.learn.claims import Part
from vfl.learn.losses import TweedieLoss
from vfl.learn.metrics import regression_metrics
from vfl.party.config import LABEL_KEYS, Party
from vfl.party.output import OutputPlace
from vfl.report.evidence import Evidence, HeldOut
from vfl.report.page import PAGE, Told
from vfl.report.project_page import PROJECT_FILES, ProjectEvidence, render_project

_LOSS = TweedieLoss()
"""By which the deviance of losses is measured."""


def write_project_report(
    party: Party, project: str, out: Path | None = None, *, force: bool = False
) -> Written:
    """Write the page of a project into a folder of its own, as `write_report` does that of a model.

    Raises as it does.
    """
    evidence = gather_project(party, project)
    folder = (out or Path(f"report-{evidence.project}")).absolute()
    check_folder(folder, PROJECT_FILES, "a report")
    target = OutputPlace.of(
        folder, "report", party=party, is_former=lambda path: is_page(path / PAGE), force=force
    )
    tables: Told = {}
    files = render_project(evidence, tables)
    replaced = target.check()
    target.note({name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
    write_folder(target.place, files)
    return Written(folder / PAGE, replaced, tables)


def gather_project(party: Party, name: str) -> ProjectEvidence:
    """What the guest knows of a project, by its full name. Raises ModelError."""
    kept, found = whole_project(store_of(party), name)
    project = kept.project
    party = party.model_copy(update={"section": project.data(party.data)})
    parts: dict[Part, Evidence] = {part: gather(party, model) for part, model in kept.models.items()}
    return ProjectEvidence(
        project=kept.name,
        name=project.name,
        purpose=project.project.purpose,
        models=kept.models,
        parts=parts,
        combined=None if found is None else _combined(kept, found, parts["frequency"]),
        cap=project.project.cap,
        loads=[("all", kept.load), *kept.segments.items()],
    )


def _combined(kept: KeptProject, found: ProjectEvaluation, frequency: Evidence) -> Evidence:
    """What the models come to, as a run whose label is what was paid for a unit of exposure."""
    size = found.weight * found.exposure
    label = found.claims.paid / found.exposure
    predictions = {name: found.expected_loss(name) / found.exposure for name in found.models}
    held = frequency.held_out
    if held is None or len(held.label) != len(label):
        raise ModelError(f"project {kept.name} and its model of frequency have other rows held out")
    metrics: Mapping[str, dict[str, float]] = {
        name: {
            measure: value
            for measure, value in regression_metrics(_LOSS, label, np.log(of), size, None, None).items()
            if math.isfinite(value)
        }
        for name, of in predictions.items()
    }
    about, kind = frequency.job["job"], frequency.kind.name
    job = {
        "job": {**about, "name": kept.project.name, LABEL_KEYS[about["model"]]: "tweedie"},
        kind: {**frequency.job[kind], "tweedie_power": _LOSS.power},
    }
    return replace(
        frequency,
        model=kept.name,
        job=job,
        held_out=HeldOut(label, size, None, predictions),
        metrics=dict(metrics),
        measure=_LOSS.measure,
        importance=[],
        lines=[],
        tests={},
        inferred=[],
        tables=[],
    )
