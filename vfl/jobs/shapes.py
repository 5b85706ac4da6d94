"""Shapes of a model of trees of depth 1 or 2, for the party whose columns they are of: offline.

The guest writes those of its own columns, edits them, which makes a version of the model that scores
like any other, and gives a host what the host's own splits add, if it wants to. A host writes the shapes
of its columns from that file.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from vfl.arrays import Floats
from vfl.errors import ConfigError, DataError
from vfl.jobs.connect import store_of
from vfl.jobs.names import resolve_model
from vfl.jobs.page_folder import check_folder
from vfl.jobs.record import Evaluation, load_record, now, save_record
from vfl.jobs.report_columns import read_held_out
from vfl.jobs.shape_files import EDITS, PAGE, PAIRS, SHAPES, files_of
from vfl.jobs.tariff import measured, version_name
from vfl.learn.metrics import quantile_metrics, regression_metrics
from vfl.models.halves import AnyGuestHalf, Change, GuestHalf, HostHalf
from vfl.models.kinds import load_half, save_half
from vfl.models.shapes import (
    GivenSteps,
    OwnShapes,
    ShapeEdit,
    added,
    additive,
    edited,
    guest_trees,
    host_splits,
    shapes_of,
)
from vfl.models.tariff import moved
from vfl.party.config import Party
from vfl.party.output import OutputPlace
from vfl.party.shape_file import ShapeEditSection, load_shape_edits
from vfl.party.store import Store
from vfl.report.evidence import TOGETHER
from vfl.text import nearest_name
from vfl.version import __version__

_MOST_GIVEN = 64 << 20  # bytes of a guest's file
_MOST_EDITED = math.log(1e6) + 1e-9
"""Of an edit, on the scale of the score, where predictions are multiplied."""


@dataclass(frozen=True)
class Shapes:
    """What was written."""

    model: str  # whose shapes they are: the new version, if there is one
    edited_from: str  # "" where nothing was changed
    folder: Path
    own: OwnShapes
    centre: float | None  # the score of the mean row; None at a host, which does not know it
    elsewhere: int  # steps that others' columns have a part in, at the guest
    changes: Sequence[Change] = ()


def write_shapes(
    party: Party, model: str, out: Path, *, edits: Path | None, values: Path | None, force: bool
) -> Shapes:
    """Write the shapes of a party's own columns into a folder, of the edited model if there are edits.

    values: at a host, what the guest has given it. Raises ConfigError for edits that do not fit,
    ModelError for a model that is no sum of shapes, DataError where a file cannot be read or written.
    """
    if party.role == "host" and edits is not None:
        raise ConfigError("--edits are for the guest, who holds what splits add: leave them out")
    if (party.role == "host") != (values is not None):
        raise ConfigError(
            "a host needs --values, the file that the guest makes by `vfl shapes --give HOST`"
            if party.role == "host"
            else "--values is for a host: the guest knows what splits add"
        )
    check_folder(out, (PAGE, SHAPES, PAIRS, EDITS), "shapes")
    reads = {path: "a file that is read" for path in (edits, values) if path is not None}
    target = OutputPlace.of(out, "shapes", party=party, reads=reads, is_former=_is_former, force=force)
    store = store_of(party)
    name = resolve_model(store, model)
    if values is not None:
        host = load_half(store, name, HostHalf)
        given = _read_given(values)
        given.check(host, party.name)
        own = shapes_of(given.steps, host_splits(host))
        done = Shapes(host.name, "", target.place, own, None, 0)
    else:
        half, changes = load_half(store, name, GuestHalf), list[Change]()
        if edits is not None:
            half, changes = _edit(party, store, half, load_shape_edits(edits), edits.name)
        trees = guest_trees(half)
        found = additive(trees)
        others = sum(len(steps) for owners, steps in found.parts.items() if owners != (0, 0))
        own = shapes_of(found.own(0), trees.splits)  # those of edits among them
        done = Shapes(
            half.name,
            half.edited_from if changes else "",
            target.place,
            own,
            found.centre,
            others,
            changes,
        )
    files = files_of(done.own, done.changes) | {PAGE: _page(party, store, done)}
    with target.writing_folder() as folder:
        for file, content in files.items():
            (folder / file).write_bytes(content)
    return done


def _page(party: Party, store: Store, done: Shapes) -> bytes:
    from vfl.report.shapes_page import ShapesOf, shapes_page  # its figures take a second to import

    half = load_half(store, done.model, HostHalf if party.role == "host" else GuestHalf)
    said = half.job["job"]
    of = ShapesOf(
        party.name,
        done.model,
        said["name"],
        said["purpose"],
        now(),
        __version__,
        done.own,
        SHAPES,
        PAIRS,
        done.centre,
        done.elsewhere,
        half.changes if isinstance(half, GuestHalf) else (),
    )
    return shapes_page(of)


def give_shapes(party: Party, model: str, host: str, out: Path, *, force: bool) -> int:
    """Write what a host's own splits add, for that host; how many steps there are.

    Steps of splits of two parties are not in it. Raises ConfigError for who is no host of the model.
    """
    if party.role != "guest":
        raise ConfigError("--give is for the guest, who holds what splits add")
    target = OutputPlace.of(
        out.absolute(), "shapes", party=party, is_former=lambda path: _is_given(path), force=force
    )
    store = store_of(party)
    half = load_half(store, resolve_model(store, model), GuestHalf)
    trees = guest_trees(half)
    if host not in trees.parties[1:]:
        near = nearest_name(host, trees.parties[1:])
        hint = f"did you mean {near}?" if near else f"its hosts are {', '.join(trees.parties[1:])}"
        raise ConfigError(f"model {half.name} has no host {host}: {hint}")
    steps = list(additive(trees).own(trees.parties.index(host)))
    given = GivenSteps("shapes", half.trained_name, party.name, host, steps)
    with target.writing() as written:
        written.write(msgspec.json.encode(given))
    return len(steps)


def _edit(
    party: Party,
    store: Store,
    half: AnyGuestHalf,
    sections: Sequence[ShapeEditSection],
    file: str,
) -> tuple[AnyGuestHalf, list[Change]]:
    """The version with the edits, kept beside the model. Raises ConfigError where they do not fit."""
    trees = guest_trees(half)
    additive(trees)
    edits = [_fitting(one, half, file) for one in sections]
    record, evaluation = None, None
    if half.name in store.names("run"):
        record, evaluation = load_record(store, half.name)
    columns = None if record is None else read_held_out(party, store, half, record, evaluation)
    factors = None if columns is None or columns.no_factors else columns.factors
    model = edited(trees, edits, factors)
    changes = [
        Change(one.column, one.place, 1.0, math.exp(one.added), "edit", one.reason)
        if half.loss.link != "identity"
        else Change(one.column, one.place, 0.0, one.added, "edit", one.reason)
        for one in sections
    ]
    made = replace(
        half,
        name=version_name(half.name),
        model=model,
        edited_from=half.trained_name,
        changes=half.changes + tuple(changes),
        score_profile=None,
        metrics={},
    )
    if record is not None:
        if factors is None or evaluation is None:
            evaluation = None
        else:
            shift = added(trees, model, factors)
            made, evaluation = _judged(replace(made, metrics=half.metrics), evaluation, shift)
        record = replace(record, model=made.name, metrics=made.metrics, ended=now())
        save_record(store, record, evaluation)
    save_half(store, made)
    return made, changes


def _judged(
    half: AnyGuestHalf, evaluation: Evaluation, shift: Floats
) -> tuple[AnyGuestHalf, Evaluation]:
    """The half and the evaluation of its training, by the scores of rows held out that edits move."""
    link, old = half.loss.link, evaluation.predictions[TOGETHER]
    new = old + shift if link == "identity" else moved(link, old, shift)
    evaluation = replace(evaluation, predictions={**evaluation.predictions, TOGETHER: new})
    if link != "identity":
        return measured(half, evaluation), evaluation
    label, weight, exposure = evaluation.label, evaluation.weight, evaluation.exposure
    if half.loss.quantile is None:
        found = regression_metrics(half.loss, label, new, weight, None, exposure)
    else:
        found = quantile_metrics(half.loss, label, new, weight, None)
    finite = {name: value for name, value in found.items() if math.isfinite(value)}
    return replace(half, metrics={**half.metrics, TOGETHER: finite}), evaluation


def _fitting(one: ShapeEditSection, half: AnyGuestHalf, file: str) -> ShapeEdit:
    """An edit of a column that it fits. Raises ConfigError."""
    trees = guest_trees(half)
    kinds = {split.column: split.categorical for split in trees.splits}
    if one.column not in kinds:
        near = nearest_name(one.column, [*kinds])
        hint = f"did you mean '{near}'?" if near else "each party edits its own"
        raise ConfigError(
            f"{file}: edit of '{one.column}': no split of the model is of such a column of this "
            f"party: {hint}"
        )
    if kinds[one.column] != (one.level is not None) and not one.missing:
        what = "a category: name a level"
        if not kinds[one.column]:
            what = "a number: give above, up_to or both"
        raise ConfigError(f"{file}: edit of '{one.column}': the column is {what}")
    if one.times is not None and half.loss.link == "identity":
        raise ConfigError(
            f"{file}: edit of '{one.column}': the model adds and does not multiply: give add in place "
            "of times"
        )
    if half.loss.link != "identity" and abs(one.added) > _MOST_EDITED:
        raise ConfigError(
            f"{file}: edit of '{one.column}': add is more than {_MOST_EDITED:.1f} either way, a "
            "factor of a million, which is the most that times may be: give less"
        )
    known = half.levels.get(one.column)
    if one.level is not None and known is not None and one.level not in known.names:
        near = nearest_name(one.level, known.names)
        hint = f": did you mean '{near}'?" if near else ""
        raise ConfigError(
            f"{file}: edit of '{one.column}': no row that trained has such a level of it{hint}"
        )
    return ShapeEdit(one.column, one.added, one.above, one.up_to, one.level, one.missing)


def _is_former(folder: Path) -> bool:
    return (folder / SHAPES).is_file()


def _is_given(path: Path) -> bool:
    try:
        return path.read_bytes()[:20].startswith(b'{"vfl":"shapes"')
    except OSError:
        return False


def _read_given(path: Path) -> GivenSteps:
    """What a guest has given. Raises DataError for a file that is none."""
    try:
        if path.stat().st_size > _MOST_GIVEN:
            raise DataError(f"{path.name} is over 64 MiB: this is no file of `vfl shapes --give`")
        return msgspec.json.decode(path.read_bytes(), type=GivenSteps)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except msgspec.DecodeError:
        raise DataError(f"{path.name} is no file of `vfl shapes --give`") from None
