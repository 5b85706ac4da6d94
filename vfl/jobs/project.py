"""A project's models, trained one after the other on one alignment.

Each is a job as any other, which names all of the project: hosts agree to each, and count each. What is
trained is kept at once, so that the same command goes on after a failure with the model that is next.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from vfl.errors import DataError, ModelError
from vfl.jobs.alignments import guest_alignment
from vfl.jobs.connect import Site
from vfl.jobs.offer import new_run, stamp
from vfl.jobs.project_rows import Outcome, ProjectRows, read_project_rows
from vfl.jobs.projects import KeptProject, ProjectEvaluation, load_project_document, save_project
from vfl.jobs.record import now
from vfl.jobs.show import Show
from vfl.jobs.training import ProjectPart, Trained, train
from vfl.learn.claims import Part
from vfl.party.documents import canonical_json
from vfl.party.project_file import Project


@dataclass(frozen=True)
class TrainedProject:
    """What training came to. trained: the models that this command has made."""

    kept: KeptProject
    held_out: ProjectEvaluation | None
    trained: dict[Part, Trained]


async def train_project(
    site: Site,
    project: Project,
    *,
    alignment: str | None = None,
    fresh: bool = False,
    wait: float,
    show: Show,
) -> TrainedProject:
    """Train the models of a project that are not yet there. Raises as `vfl.jobs.training.train`."""
    jobs = {part: project.job(part) for part in project.parts}
    site = site_of(site, project)
    named = guest_alignment(site, site.store, alignment)
    rows = read_project_rows(site, project, site.party.data, show)
    kept, found = _begun(site, project, named.name, rows, fresh)
    trained: dict[Part, Trained] = {}
    for number, part in enumerate(project.parts, 1):
        if part in kept.models:
            show.say(f"{part}: {kept.models[part]} is there; --fresh starts anew")
            continue
        show.say(f"model {number} of {len(project.parts)}: {part}")
        done = await train(
            site,
            jobs[part],
            alignment=named.name,
            fresh=fresh,
            outcome=Outcome(part, rows, project),
            wait=wait,
            show=show,
        )
        if done.of_project is None:
            raise ValueError("a project's model without its rows")
        kept, found = _with_part(kept, found, (part, done.half.name), done.of_project, rows)
        if len(kept.models) == len(project.parts):
            kept = replace(kept, ended=now())
        with site.store.in_use():
            save_project(site.store, kept, found)
        trained[part] = done
    return TrainedProject(kept, found, trained)


def site_of(site: Site, project: Project) -> Site:
    """The guest as the project's models read its table."""
    party = site.party
    section = project.data(party.data)
    return replace(site, party=party.model_copy(update={"section": section}))


def _begun(
    site: Site, project: Project, alignment: str, rows: ProjectRows, fresh: bool
) -> tuple[KeptProject, ProjectEvaluation | None]:
    """The project of the same file, alignment and rows that some models are missing of, or a new one."""
    store, settings = site.store, project.model_dump(mode="json", exclude_unset=True)
    digest = hashlib.sha256(canonical_json([settings, alignment, rows.ids]))
    for values in (rows.claims.count, rows.claims.paid, rows.size, rows.exposure):
        digest.update(b"" if values is None else np.ascontiguousarray(values, "<f8").tobytes())
    key = digest.hexdigest()
    for name in () if fresh else reversed(store.names("project")):
        try:
            kept, found = load_project_document(store, name)
            if kept.key == key and not kept.ended and _there(site, kept):
                return kept, found
        except ModelError:  # damaged, or of another version: it is begun anew
            continue
    name = f"{project.name}-{stamp(new_run())}"
    return KeptProject(name, settings, alignment, rows.ids, key, exposure=site.party.data.exposure), None


def _there(site: Site, kept: KeptProject) -> bool:
    """Whether none of its models was removed."""
    return {*kept.models.values()} <= {*site.store.names("model")}


def _with_part(
    kept: KeptProject,
    found: ProjectEvaluation | None,
    model: tuple[Part, str],
    done: ProjectPart,
    rows: ProjectRows,
) -> tuple[KeptProject, ProjectEvaluation | None]:
    """The project with one model more, by its part and full name."""
    part, name = model
    load = rows.load(np.sort(done.train))  # sums of one order, whatever that of the alignment
    kept = replace(
        kept,
        models={**kept.models, part: name},
        load=load.overall,
        segments=dict(load.segments),
    )
    if done.held_out is None:
        return kept, None
    held = done.held_out.rows
    if found is not None and not np.array_equal(found.rows, held):
        raise DataError(f"{rows.table}: the models of {kept.name} have other rows held out: train anew")
    predictions = {} if found is None else found.predictions
    segment = None if rows.segment is None else rows.segment[held]
    exposure = np.ones(len(held)) if rows.exposure is None else rows.exposure[held]
    return kept, ProjectEvaluation(
        held,
        rows.claims.take(held),
        rows.size[held],
        exposure,
        load.at(len(held), segment),
        {**predictions, part: done.held_out.predictions},
    )
