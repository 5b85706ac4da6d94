"""What `vfl dpia` drafts: an assessment of a job before it, or of a run, from what this party keeps."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vfl.errors import ConfigError
from vfl.jobs.alignments import load_alignment, made_on
from vfl.jobs.connect import store_of
from vfl.jobs.leakage import foresee
from vfl.jobs.papers import Paper, PaperPlace
from vfl.jobs.record import now
from vfl.jobs.report import gather
from vfl.jobs.reveals import message_types, reveals
from vfl.models.kinds import kind_named, kind_of_job
from vfl.party.audit.stamps import stamps_of
from vfl.party.config import Job, Party, load_job
from vfl.party.ledger import FOLDER
from vfl.party.policy import widened
from vfl.party.policy_section import PolicySection
from vfl.party.store import Store
from vfl.party.table import Wanted, read_wanted
from vfl.report.dpia import Assessment, MessageKind, dpia_sections, roles_in_words
from vfl.report.evidence import Evidence
from vfl.report.page import PageHead
from vfl.report.residual import UsedSettings
from vfl.report.words import day
from vfl.text import counted, shown_value
from vfl.version import __version__

_STEPS: Sequence[tuple[str, str, str]] = (  # of messages: module, when they are sent, option they are of
    ("vfl.net.", "every session", ""),
    ("vfl.jobs.offer", "every job", ""),
    ("vfl.jobs.audit_draw", "training, audits by agreement", "audit"),
    ("vfl.protocols.align.match_rates", "alignment, why few ids match", "diagnose"),
    ("vfl.protocols.align.dh_oprf", "alignment (ecdh)", "columns"),
    ("vfl.protocols.align.ot_oprf", "alignment (ot)", "columns"),
    ("vfl.protocols.align.vole_oprf", "alignment (vole)", "columns"),
    ("vfl.protocols.align.buckets", "alignment (vole)", "columns"),
    ("vfl.protocols.align.", "alignment", "columns"),
    ("vfl.protocols.common.key", "training", "columns"),
    ("vfl.protocols.common.lattice_", "training, lattice engine", "lattice"),
    ("vfl.protocols.common.fellows", "training", "columns"),
    ("vfl.protocols.common.transfers", "alignment (ot), pairs of levels of two parties", "columns"),
    ("vfl.protocols.common.chosen_words", "training, pairs of levels of two parties", "across"),
    ("vfl.protocols.common.batches", "scoring", "columns"),
    ("vfl.protocols.trees.hidden", "training, hidden sums", "hidden trees"),
    ("vfl.protocols.trees.lattice", "training, lattice engine", "lattice trees"),
    ("vfl.protocols.trees.questions", "training, lattice engine", "lattice trees"),
    ("vfl.protocols.trees.category_sets", "training, ordered categories", "ordered"),
    ("vfl.protocols.trees.warm_start", "training on from a model", "init_model"),
    ("vfl.protocols.trees.scoring", "scoring", "trees"),
    ("vfl.protocols.trees.paillier_messages", "training", "paillier trees"),
    ("vfl.protocols.trees.", "training", "trees"),
    ("vfl.protocols.linear.hidden", "training, hidden scores", "hidden linear"),
    ("vfl.protocols.linear.inference", "standard errors", "inference"),
    ("vfl.protocols.linear.lattice", "training, lattice engine", "lattice linear"),
    ("vfl.protocols.linear.scoring", "scoring", "linear"),
    ("vfl.protocols.linear.across_scoring", "scoring, pairs of levels of two parties", "across"),
    ("vfl.protocols.linear.across", "training, pairs of levels of two parties", "across"),
    ("vfl.protocols.linear.inflation", "tables by factors, screening", "oneway"),
    ("vfl.protocols.linear.correlations", "tables by factors, screening", "oneway"),
    ("vfl.protocols.linear.", "training", "linear"),
    ("vfl.protocols.lookup.", "directories and lookups", "directories"),
    ("vfl.protocols.oneway.", "tables by factors, screening", "oneway"),
    ("vfl.protocols.worth", "what data is worth", "worth"),
    ("vfl.protocols.tuning", "a search for settings", "tune"),
    ("vfl.protocols.pooled.", "training over rows", "rows"),
)
_ORDER = {step: place for place, step in enumerate(dict.fromkeys(step for _, step, _ in _STEPS))}
_COORDINATORS = frozenset({"Join", "Gathered"})  # messages of jobs with a coordinator, or over rows


def write_dpia(
    party: Party,
    subject: str,
    out: Path | None = None,
    *,
    rows: int | None = None,
    guest: str | None = None,
    force: bool = False,
) -> Paper:
    """Write the draft about a job file (a path that ends in .toml) or a model's run.

    rows, guest: of a job that has not run, as `foresee` takes them. Raises what `foresee` and `gather`
    raise, and DataError when the folder cannot be written.
    """
    if subject.endswith(".toml"):
        job = load_job(Path(subject))
        place = PaperPlace(party, "dpia", out or Path(f"dpia-{job.name}"), force=force)
        found = _of_job(party, job, rows, guest)
    else:
        if rows is not None or guest is not None:
            raise ConfigError("--rows and --guest are of a job file: of a run both are known")
        evidence = gather(party, subject)
        place = PaperPlace(party, "dpia", out or Path(f"dpia-{evidence.model}"), force=force)
        found = _of_run(party, evidence)
    head = PageHead(
        title=f"Data protection impact assessment: {found.name}",
        over=f"A draft of {found.party}",
        purpose=found.purpose,
        ended=found.made,
        party=found.party,
        version=__version__,
        about="a draft for a person to complete and check",
        what="draft",
    )
    return place.write(head, dpia_sections(found))


def _of_run(party: Party, one: Evidence) -> Assessment:
    store, over_rows = store_of(party), one.over_rows
    settings = one.job[one.kind.name]
    rows = []
    if one.aligned_rows:
        whose = "rows of this party" if over_rows else "rows that all parties know"
        rows.append((whose, f"{one.aligned_rows:,}"))
    rows += [(f"rows, {name}", f"{count:,}") for name, count in one.rows.items() if count]
    rows.append(("ended", day(one.ended)))
    exchanged: dict[str, list[str]] = {}
    for e in one.exchanges:
        way = "to" if e.direction == "sent" else "from"
        exchanged.setdefault(e.kind, []).append(f"{e.messages:,} {way} {e.peer}")
    said = {e.kind: e.reveals for e in one.exchanges}
    notes = []
    if not over_rows:
        notes.append(
            "The table of messages is of the training alone: the alignment before it and each scoring "
            "are runs of their own, which the ledger has (vfl ledger show)."
        )
    return replace(
        _assessment(party, one.job, one.parties),
        name=one.job["job"]["name"],
        ended=one.ended,
        rows=rows,
        columns=_columns_of_run(party, one),
        messages=[MessageKind(kind, "; ".join(exchanged[kind]), said[kind]) for kind in exchanged],
        gave_away=one.gave_away,
        safeguards=[*_safeguards(party, settings, store), *_signed(one)],
        retention=_retention(party, store, one.alignment),
        notes=notes,
    )


def _of_job(party: Party, job: Job, rows: int | None, guest: str | None) -> Assessment:
    store = store_of(party)
    found = foresee(party, job, rows=rows, guest=guest)
    document = job.model_dump(mode="json", exclude_none=True)
    settings = document[job.job.model]
    if job.over_rows:
        parties = [*([party.name] if party.role == "guest" else []), *(party.clients or party.partners)]
    elif party.role == "guest":
        parties = [party.name, *party.partners]
    else:
        starts = guest or (party.policy.guests or party.partners)[0]
        parties = [starts, party.name, *(n for n in party.partners if n != starts)]
    columns: dict[str, Sequence[str] | None] = dict.fromkeys(parties)
    if job.columns:
        columns = {name: [*job.columns] for name in parties}
    elif party.role != "coordinator":
        columns[party.name] = _own_columns(party)
    facts = [] if job.over_rows else [("rows that all parties know", f"{found.rows:,}")]
    return replace(
        _assessment(party, document, parties),
        name=job.name,
        ended="",
        rows=facts,
        columns=columns,
        messages=sorted(_possible(party, job, settings), key=lambda one: _ORDER[one.step]),
        gave_away=found.found,
        safeguards=_safeguards(party, settings, store),
        retention=_retention(party, store, ""),
        notes=[
            "The job has not run: the messages below are all that such a job, its alignment and its "
            "scoring can send, of which a run sends a part; vfl dpia MODEL PARTY.toml says afterwards "
            "which.",
            *(f"{note[0].upper()}{note[1:]}." for note in found.notes),
        ],
    )


def _assessment(party: Party, job: Mapping[str, Any], parties: Sequence[str]) -> Assessment:
    """What is alike of a job and of a run: who, what for, with which columns of no feature."""
    kind = kind_named(job["job"]["model"], job["job"]["name"])
    settings = job[kind.name]
    over_rows = job["job"].get("partition") == "rows"
    coordinator = str(settings.get("coordinator") or "")
    if over_rows:
        coordinator = party.name if party.role == "coordinator" else next(iter(party.coordinators), "")
    data = [] if party.role == "coordinator" else [*party.data.guests.items(), *party.data.for_reports]
    uses = [(use, name) for use, name in data if name is not None]
    if party.role != "coordinator":
        uses = [("id", name) for name in party.data.id_columns] + uses
    return Assessment(
        purpose=job["job"]["purpose"],
        party=party.name,
        roles=roles_in_words(parties, coordinator, over_rows),
        kind=f"{kind.title}, {job['job'].get('objective') or job['job'].get('family')}",
        used=_used(party, job, parties),
        made=now(),
        uses=uses,
    )


def settings_of_run(party: Party, one: Evidence) -> UsedSettings:
    """What a run used of what there is."""
    return _used(party, one.job, one.parties)


def _used(party: Party, job: Mapping[str, Any], parties: Sequence[str]) -> UsedSettings:
    kind = kind_named(job["job"]["model"], job["job"]["name"])
    return UsedSettings(
        not kind.has_relativities,
        job["job"].get("partition") == "rows",
        job[kind.name],
        len(parties),
        party.policy,
        party.role == "host",
        bool(job.get("rows", {}).get("without")),
    )


def _columns_of_run(party: Party, one: Evidence) -> dict[str, Sequence[str] | None]:
    """The columns of each party, by the names that this one may know."""
    columns: dict[str, Sequence[str] | None] = dict.fromkeys(one.parties)
    if one.over_rows and (shared := one.job.get("columns")):
        return {name: [*shared] for name in one.parties}
    for owner, column, *_ in one.importance:
        if owner in columns:
            columns[owner] = [*(columns[owner] or ()), column]
    if one.own_columns:
        columns[party.name] = one.own_columns
    return columns


def _own_columns(party: Party) -> list[str]:
    """The features of this party's table, which is read for them."""
    table = read_wanted(party.data, Wanted("guest" if party.role == "guest" else "host", False))
    allowed = party.policy.columns
    return [name for name in table.features if allowed is None or name in allowed]


def _possible(party: Party, job: Job, settings: Mapping[str, object]) -> Iterator[MessageKind]:
    """What a job, its alignment and its scoring can send."""
    trees, policy = not kind_of_job(job).has_relativities, party.policy
    over = "rows" if job.over_rows else "columns"
    lattice = settings.get("encryption") == "lattice"
    of_kind = "trees" if trees else "linear"
    hidden = "hidden" in (settings.get("sums"), settings.get("scores"))
    there, with_one = {"", over}, job.over_rows or bool(settings.get("coordinator"))
    if not job.over_rows:
        there |= {of_kind, f"{'lattice' if lattice else 'paillier'} {of_kind}"}
        there |= {"lattice"} if lattice else set()
        there |= {f"hidden {of_kind}"} if hidden else set()
        there |= {name for name in ("across", "inference") if settings.get(name)}
        there |= {"ordered"} if settings.get("ordered_categories") == "all" else set()
        there |= {"init_model"} if settings.get("init_model") else set()
        of_policy = ("diagnose", "directories", "worth", "oneway")
        there |= {name for name in of_policy if party.role == "host" and getattr(policy, name)}
        there |= {"audit"} if party.role != "host" or policy.audit else set()
        there |= {"tune"} if job.tune is not None else set()
    for name, kind in message_types().items():
        for module, step, option in _STEPS:
            if f"{kind.__module__}.".startswith(module):
                if option in there and (with_one or name not in _COORDINATORS):
                    yield MessageKind(name, step, reveals(kind))
                break


def _safeguards(party: Party, settings: Mapping[str, object], store: Store) -> list[tuple[str, str]]:
    """What protects people, as it is set here."""
    pinned = counted(len(party.peers), "peer")
    found = [
        (
            "connections",
            f"TLS 1.3 in both directions; the certificate of each of {pinned} is pinned by a file, and "
            "no other is let in",
        )
    ]
    if settings.get("encryption") == "lattice":
        found.append(("encryption of what is computed", "lattice engine (ring learning with errors)"))
    elif "key_bits" in settings:
        found.append(("encryption of what is computed", f"Paillier, {settings['key_bits']} bits"))
    for name in ("sums", "scores"):
        if name in settings:
            found.append((f"{name} of the job", str(settings[name])))
    for name in ("min_child_rows", "min_bin_rows", "min_level_rows", "guest_trees"):
        if name in settings:
            found.append((f"{name} of the job", str(settings[name])))
    if party.role == "host":
        found += _rules(party.policy)
    elif party.role == "guest":
        found.append(("rules of hosts", "each host has its own, which it alone sets and knows"))
    sealed = "under the passphrase of the key" if store.encrypts("run") else "not encrypted by vfl"
    found.append(("files of models and runs here", f"readable by one account alone, {sealed}"))
    stamps = len(stamps_of(party.party.store / FOLDER))
    stamped = f", {counted(stamps, 'seal')} stamped by an authority" if stamps else ""
    found.append(
        ("ledger", f"each message in a chain of hashes, sealed by this party's key{stamped}; no values")
    )
    return found


_BUDGETS = (
    *("purposes", "columns", "min_intersection", "min_child_rows", "min_bin_rows", "min_summed_rows"),
    *("max_sums_a_row", "max_trees", "max_iterations", "max_jobs_a_day", "max_alignments_a_day"),
    *("max_ids_a_day", "scoring", "min_scored_rows", "max_scored_rows_a_day", "show_names", "explain"),
    *("oneway", "min_cell_rows", "encryptions", "hidden_sums", "hidden_scores", "expires"),
)


def _rules(policy: PolicySection) -> list[tuple[str, str]]:
    """The rules, budgets and least cells of a host, and which of them are wider than by default."""
    found = []
    for rule in _BUDGETS:
        value = getattr(policy, rule)
        said = shown_value(value)
        found.append((f"[policy] {rule}", f"{PolicySection.model_fields[rule].description}: {said}"))
    wider = widened(policy)
    found.append(("rules that are wider than by default", "; ".join(wider) if wider else "none"))
    return found


def _signed(one: Evidence) -> list[tuple[str, str]]:
    if not one.signers:
        return []
    return [("terms that were signed before the run", f"by {', '.join(one.signers)}")]


def _retention(party: Party, store: Store, alignment: str) -> list[tuple[str, str]]:
    """How long what is kept here is kept."""
    found = []
    if party.role == "host":
        days = party.policy.days_of_use
        found.append(
            (
                "use of an alignment",
                "for ever" if days is None else f"{counted(days, 'day')} (alignment_days)",
            )
        )
    if alignment and alignment in store.names("alignment"):
        made = made_on(store, load_alignment(store, alignment))
        found.append(("the alignment of this run", f"made on {made.isoformat()}, kept until removed"))
    return [
        *found,
        ("models and records of runs", "until vfl models remove; nothing goes by itself"),
        ("alignments", "until vfl alignments remove; nothing goes by itself"),
        ("the ledger", "for good: nothing is ever deleted from it; it holds no ids and no values"),
        ("the table, scores", "outside of vfl: wherever this company keeps them"),
    ]
