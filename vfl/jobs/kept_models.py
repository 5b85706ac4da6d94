"""What a party keeps of its models: listed, shown, and removed with all that belongs to them."""

import contextlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from vfl.errors import ModelError
from vfl.jobs.kept_evidence import OF_MODEL, files_about, remove_about
from vfl.jobs.kept_tables import names_of_tables
from vfl.jobs.names import began, resolve_model
from vfl.jobs.record import Record, read_record
from vfl.jobs.removal import Removal, check_in_full, check_unused, size_of, while_unused
from vfl.jobs.resume import remove_model
from vfl.models.halves import GuestHalf, HostHalf, objective_of
from vfl.models.kinds import kind_in, kind_of_model, load_half
from vfl.party.config import Party
from vfl.party.directories import files_of_directory, name_of, remove_directory
from vfl.party.documents import Body
from vfl.party.store import Store
from vfl.text import counted, in_words

_KINDS: tuple[Literal["model", "run"], ...] = ("model", "run")
_PUBLISHED = "its sealed directory"


@dataclass(frozen=True)
class KeptDirectory:
    """A sealed directory of a model: this party's own, or a host's that a guest keeps."""

    document: str
    peer: str  # "" where it does not say
    made: str  # or withdrawn
    withdrawn: bool
    bytes: int


@dataclass(frozen=True)
class KeptModel:
    """What a party keeps of a model."""

    name: str
    job: str = ""
    kind: str = ""
    objective: str = ""
    made: str = ""  # ISO 8601, UTC
    alignment: str = ""  # "" of a job over rows, and where no record is kept
    parties: list[str] = field(default_factory=list)  # guest first, as far as they are known
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)  # on the rows held out
    edited_from: str = ""
    directories: list[KeptDirectory] = field(default_factory=list)
    half: bool = True  # whether there is one here, and not the record of the run alone
    bytes: int = 0  # of all files that belong to it
    error: str = ""  # why it cannot be read


@dataclass(frozen=True)
class ShownModel:
    """A model in detail."""

    model: KeptModel
    purpose: str = ""
    size: str = ""
    columns: list[str] = field(default_factory=list)  # of this party, in training
    rows: dict[str, int] = field(default_factory=dict)
    changes: int = 0  # of an edited half
    versions: list[str] = field(default_factory=list)  # that were edited from it
    warnings: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


def list_models(store: Store) -> list[KeptModel]:
    """All models of which a party keeps anything, the oldest first."""
    names = {*store.names("model"), *store.names("run")}
    return sorted((_describe(store, name) for name in names), key=lambda one: (one.made, one.name))


def show_model(store: Store, party: Party, model: str) -> ShownModel:
    """A model in detail. Raises ModelError when it is missing or damaged."""
    name = _name_of_model(store, model)
    kept = _describe(store, name)
    if kept.error:
        raise ModelError(kept.error)
    record = _record(store, name)
    changes, size, columns = 0, "", list[str]()
    if kept.half:
        if party.role == "host":
            theirs = load_half(store, name, HostHalf)
            parameters = kind_of_model(theirs.model).parameters(theirs.model)
            size, columns = f"{counted(parameters, 'parameter')} of own columns", list(theirs.columns)
        else:
            half = load_half(store, name, GuestHalf)
            size, columns = kind_of_model(half.model).size(half.model), list(half.columns)
            changes = len(half.changes)
    versions = [one.name for one in list_models(store) if one.edited_from == name]
    return ShownModel(
        kept,
        "" if record is None else str(record.job["job"].get("purpose") or ""),
        size,
        columns,
        {} if record is None else record.rows,
        changes,
        versions,
        [] if record is None else record.warnings,
        [str(path) for path in _files(store, kept)],
    )


def plan_removal(store: Store, party: Party, model: str) -> Removal:
    """What the removal of a model would take, and what follows from it.

    Raises ModelError for a name that is no model's in full, Refused while another command may use it.
    """
    name = _name_of_model(store, model)
    check_in_full(model, name, "model")
    check_unused(store, "model", name)
    kept = _describe(store, name)
    parts = [
        ("the half of the model", store.files("model", name)),
        ("the record of its run, with what all parties signed", store.files("run", name)),
        ("its tables by factors", _table_files(store, name)),
        ("the secrets and tapes of its runs", files_about(store, OF_MODEL, name)),
        ("what was agreed and shown of its audit", store.files("audit", name)),
    ]
    for one in _ending_directories(store, kept):
        fetched = one.document != name
        what = f"the sealed directory fetched from {one.peer or 'a host'}" if fetched else _PUBLISHED
        parts.append((what, files_of_directory(store, one.document)))
    return Removal(name, "model", [part for part in parts if part[1]], _notes(store, party, kept))


def remove_kept_model(store: Store, name: str) -> None:
    """Remove a model with all that belongs to it; what was counted of its job stays counted.

    Raises Refused while another command may use it, DataError where files cannot be removed.
    """
    with while_unused(store, "model", name):
        for one in _ending_directories(store, _describe(store, name)):
            remove_directory(store, one.document)
        for table in names_of_tables(store, name):
            store.remove("table", table)
        remove_about(store, OF_MODEL, name)
        store.remove("audit", name)
        remove_model(store, name)


def _name_of_model(store: Store, model: str) -> str:
    """The whole name of a model of the store. Raises ModelError when there is none."""
    if "/" in model:
        raise ModelError(f"{model} is a path: name a model of the store, as `vfl models` lists them")
    for kind in _KINDS:
        if (name := resolve_model(store, model, kind)) in store.names(kind):
            return name
    store.read("model", model)  # says which ones there are
    raise ModelError(f"no model {model}")


def _describe(store: Store, name: str) -> KeptModel:
    """What is known of a model without reading all of it."""
    half = name in store.names("model")
    files = [*store.files("model", name), *store.files("run", name), *_table_files(store, name)]
    try:
        body = store.read("model", name) if half else {}
        record = _record(store, name)
        found = _of_documents(name, body, record)
    except ModelError as error:
        made = datetime.fromtimestamp(max((path.stat().st_mtime for path in files), default=0.0), UTC)
        found = KeptModel(
            name,
            made=made.isoformat(timespec="seconds"),
            parties=_parties(store, name),
            error=str(error),
        )
    directories = _directories(store, found)
    files += [path for one in directories for path in files_of_directory(store, one.document)]
    return replace(found, directories=directories, half=half, bytes=size_of(files))


def _of_documents(name: str, body: Body, record: Record | None) -> KeptModel:
    job = body.get("job") or ({} if record is None else record.job)
    edited_from = body.get("edited_from") or ""
    try:
        said = {"kind": job["job"]["model"]} if record is not None and not body else body
        objective = body.get("objective") or objective_of(job)
        prints = body.get("fingerprints") or {}
        return KeptModel(
            name,
            str(job["job"]["name"]),
            kind_in(said, name).name,
            str(objective),
            _made(name) if record is None else record.ended,
            "" if record is None else record.alignment,
            list(prints) if record is None else record.parties,
            body.get("metrics") or ({} if record is None else record.metrics),
            str(edited_from),
        )
    except (AttributeError, KeyError, TypeError):
        raise ModelError(f"model {name} is damaged: it does not say of which job it is") from None


def _made(name: str) -> str:
    """When the job of a model began, by its name; "" where that does not say."""
    with contextlib.suppress(ValueError):
        day, time, _ = began(name)
        return datetime.strptime(f"{day}{time}", "%Y%m%d%H%M%S").replace(tzinfo=UTC).isoformat()
    return ""


def _record(store: Store, name: str) -> Record | None:
    """The record of a model's run, if one is kept. Raises ModelError for a damaged one."""
    return read_record(store, name) if name in store.names("run") else None


def _parties(store: Store, name: str) -> list[str]:
    """The parties of a model by the record of its run, as far as that can be read."""
    with contextlib.suppress(ModelError):
        record = _record(store, name)
        return [] if record is None else record.parties
    return []


def _directories(store: Store, model: KeptModel) -> list[KeptDirectory]:
    """The sealed directories of a model: a host's own has its name, a guest's one for each host."""
    trained = model.edited_from or model.name
    documents = dict.fromkeys([model.name, *(name_of(trained, peer) for peer in model.parties)])
    there, found = store.names("directory"), []
    for document in documents:
        if document not in there:
            continue
        size = size_of(files_of_directory(store, document))
        try:
            body = store.read("directory", document)
        except ModelError:
            found.append(KeptDirectory(document, "", "", False, size))
            continue
        peer, made = str(body.get("peer") or ""), str(body.get("made") or "")
        found.append(KeptDirectory(document, peer, made, "withdrawn" in body, size))
    return found


def _ending_directories(store: Store, model: KeptModel) -> list[KeptDirectory]:
    """Those that no other version of the model needs."""
    trained = model.edited_from or model.name
    versions = [
        one.name
        for one in list_models(store)
        if one.half and one.name != model.name and trained in (one.name, one.edited_from)
    ]
    return [one for one in model.directories if one.document == model.name or not versions]


def _table_files(store: Store, model: str) -> list[Path]:
    return [path for table in names_of_tables(store, model) for path in store.files("table", table)]


def _files(store: Store, model: KeptModel) -> list[Path]:
    files = [*store.files("model", model.name), *store.files("run", model.name)]
    files += _table_files(store, model.name)
    return files + [
        path for one in model.directories for path in files_of_directory(store, one.document)
    ]


def _notes(store: Store, party: Party, model: KeptModel) -> list[str]:
    """What follows from a removal, for who is asked."""
    if not model.half:
        return []
    notes = []
    others = [name for name in model.parties if name != party.name]
    over_columns = bool(model.alignment)
    if party.role == "host":
        guest = model.parties[0] if model.parties else "the guest"
        notes.append(
            f"the half of {guest} no longer scores with {party.name}, whatever it keeps: tell {guest} "
            "first"
        )
    elif others and over_columns and not model.edited_from:
        notes.append(f"halves at {in_words(others)} are of no use without this one: tell them")
    if any(one.document == model.name and not one.withdrawn for one in model.directories):
        notes.append("no lookup in its sealed directory is answered any more, and its keys are lost")
    versions = [one.name for one in list_models(store) if one.edited_from == model.name]
    if versions:
        notes.append(f"versions that were edited from it stay: {in_words(versions)}")
    return notes
