"""Alignments of a party: shown with what needs them, and removed."""

from dataclasses import dataclass, field
from pathlib import Path

from vfl.errors import ModelError, Refused
from vfl.jobs.alignments import list_alignments, load_alignment, origins
from vfl.jobs.hints import files_of_hint, hints_of, lock_hints
from vfl.jobs.kept_evidence import OF_ALIGNMENT, files_about, remove_about
from vfl.jobs.kept_models import list_models
from vfl.jobs.names import resolve_model
from vfl.jobs.removal import Removal, check_in_full, check_unused, size_of, while_unused
from vfl.jobs.resume import kept_runs
from vfl.party.config import Party
from vfl.party.config_values import UNLIMITED
from vfl.party.policy_section import PolicySection
from vfl.party.store import Store
from vfl.text import in_words


@dataclass(frozen=True)
class ShownAlignment:
    """An alignment in detail."""

    alignment: dict[str, object]  # as it is listed
    models: list[str] = field(default_factory=list)  # that were trained on it
    runs: list[str] = field(default_factory=list)  # unfinished ones
    extended_by: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    bytes: int = 0


def alignments_of(store: Store, party: Party) -> list[dict[str, object]]:
    """All alignments of a party, the oldest first."""
    # A guest's own policy is not used.
    own = party.policy if party.role == "host" else PolicySection(alignment_days=UNLIMITED)
    return list_alignments(store, own)


def show_alignment(store: Store, party: Party, given: str) -> ShownAlignment:
    """An alignment in detail. Raises ModelError when it is missing or damaged."""
    name = _name_of(store, given)
    load_alignment(store, name)
    every = alignments_of(store, party)
    (listed,) = [one for one in every if one["name"] == name]
    files = [*store.files("alignment", name), *_hint_files(store, name)]
    return ShownAlignment(
        listed,
        [one.name for one in list_models(store) if one.alignment == name],
        _unfinished(store, name),
        [str(one["name"]) for one in every if one.get("extends") == name],
        [str(path) for path in files],
        size_of(files),
    )


def plan_removal(store: Store, party: Party, given: str) -> Removal:
    """What the removal of an alignment would take, and what follows from it.

    Raises ModelError for a name that is no alignment's in full; Refused while another command may use
    it, and for one by which the counts of later ones are found.
    """
    name = _name_of(store, given)
    check_in_full(given, name, "alignment")
    check_unused(store, "alignment", name)
    _check_counts(store, party, name)
    notes = ["nothing can be trained on it any more, and it cannot be extended, at any of its parties"]
    if runs := _unfinished(store, name):
        notes.append(f"unfinished on it, and of no use without it: {in_words(runs)}")
    models = [one.name for one in list_models(store) if one.alignment == name]
    if models:
        notes.append(f"trained on it, and they score as before: {in_words(models)}")
    parts = [
        ("its rows", store.files("alignment", name)),
        ("hints of it", _hint_files(store, name)),
        ("the secrets and tapes of its run", files_about(store, OF_ALIGNMENT, name)),
    ]
    return Removal(name, "alignment", [part for part in parts if part[1]], notes)


def remove_alignment(store: Store, party: Party, name: str) -> None:
    """Remove an alignment; what was counted about its rows and labels stays counted.

    Raises Refused as `plan_removal`, DataError where files cannot be removed.
    """
    with (
        while_unused(store, "alignment", name),
        store.locked("alignment", name, f"alignment {name}"),
        lock_hints(store, name),
    ):
        _check_counts(store, party, name)
        for path in _hint_files(store, name):
            path.unlink(missing_ok=True)
        remove_about(store, OF_ALIGNMENT, name)
        store.remove("alignment", name)


def _name_of(store: Store, given: str) -> str:
    if "/" in given:
        raise ModelError(f"{given} is a path: name an alignment of the store")
    name = resolve_model(store, given, "alignment")
    if name not in store.names("alignment"):
        store.read("alignment", given)  # says which ones there are
    return name


def _check_counts(store: Store, party: Party, name: str) -> None:
    """Raises Refused where the rows of another alignment are counted as those of the first one before
    it, which this one alone still names: its count would begin anew."""
    if party.role != "host":
        return
    for other in store.names("alignment"):
        try:
            first, found = origins(store, other)[-1], origins(store, other, but=name)[-1]
        except ModelError:
            continue
        if other != name and first != found:
            raise Refused(
                f"alignment {other} extends {name}, and sums about its rows are counted by what that "
                f"one extends: remove {other} first"
            )


def _unfinished(store: Store, alignment: str) -> list[str]:
    runs = kept_runs(store)
    return [run.name for run in runs if run.subject is not None and run.subject.alignment == alignment]


def _hint_files(store: Store, name: str) -> list[Path]:
    try:
        alignment = load_alignment(store, name)
    except ModelError:
        return []
    prints = {alignment.guest, *alignment.parties.values()}
    return [path for hint in hints_of(store, name, prints) for path in files_of_hint(store, hint)]
