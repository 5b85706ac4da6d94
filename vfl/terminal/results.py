"""What commands have found, as tables and lines on stdout."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from vfl.terminal.sheets import Sheet, SheetCell, put_sheet
from vfl.terminal.streams import stdout
from vfl.text import counted

if TYPE_CHECKING:
    from vfl.jobs.account import Account
    from vfl.jobs.leakage import Leakage
    from vfl.jobs.publishing import Listed
    from vfl.jobs.scoring import Scored
    from vfl.jobs.training import Trained
    from vfl.learn.inference import JointTest
    from vfl.models.relativities import CrossedTable, Line
    from vfl.party.audit.compare import Comparison
    from vfl.party.audit.stamps import Stamp
    from vfl.party.audit.tables import MessageRow, Total
    from vfl.party.audit.verify import LedgerVerdict
    from vfl.party.id_report import Counts, IdColumnReport, IdReport

_MOST_IMPORTANT = 15  # columns of a model of trees that are shown
_METRICS = {  # those of the models' documents that the terminal shows, in words
    "auc": "AUC",
    "auc_ovr": "AUC, each class",
    "accuracy": "accuracy",
    "log_loss": "log loss",
    "deviance": "deviance",
    "pinball_loss": "pinball loss",
    "d2": "D²",
    "coverage": "coverage",
    "mae": "mean absolute error",
}


# --- What a job could tell. -------------------------------------------------------------------------

BASES = {
    "told": "the protocol",
    "bound": "at most",
    "curve": "curve",
    "measured": "measured",
    "unknown": "no figure",
}


def put_leakage(found: "Leakage") -> None:
    """What each party could learn about each other, a line each, and what the words mean."""
    from vfl.leakage.disclosure import terms_of

    rows: list[list[SheetCell]] = [
        [
            one.who,
            one.about,
            one.what,
            one.number,
            one.chance,
            f"{BASES[one.basis]}: {one.how}",
            one.lower[0] if one.lower else "",
        ]
        for one in found.found
    ]
    heads = ("who", "about", "could learn", "how much", "guessing", "from", "less by")
    of = f" of alignment {found.alignment}" if found.alignment else ""
    over = f" over {counted(found.rows, 'row')}" if found.rows else ""
    title = f"{found.job}{over}{of}: what each party could learn"
    prose = frozenset(("who", "could learn", "how much", "from", "less by"))
    put_sheet(Sheet(heads, rows, title, prose=prose))
    for term, means in terms_of(found.found).items():
        stdout.put(f"{term}: {means}")
    for note in found.notes:
        stdout.put(f"note: {note}")
    if found.measured is not None:
        for note in found.measured.notes:
            stdout.put(f"note: attacked on simulated tables, {note}")


# --- Models. ----------------------------------------------------------------------------------------


def model_document(done: "Trained") -> dict[str, object]:
    """What the JSON says about a model, by its kind."""
    from vfl.models.kinds import kind_of_model

    document = kind_of_model(done.half.model).document(done.half.model)
    return document if done.relativities is None else document | {"relativities": str(done.relativities)}


def put_model(done: "Trained") -> None:
    """The model's name first: whatever becomes of the rest, it can be used."""
    from vfl.models.kinds import kind_of_model

    half = done.half
    size = kind_of_model(half.model).size(half.model)
    stdout.put(f"model {half.name}: {size}; {cost(done.account)}")
    _put_metrics(half.metrics, done.rows["held out"])
    if done.relativities is not None:
        stdout.put(f"relativities are in {done.relativities}")
    else:
        _put_importance(kind_of_model(half.model).importance(half.model))


def _put_metrics(metrics: dict[str, dict[str, float]], rows: int) -> None:
    if not metrics:
        return
    keys = [key for key in _METRICS if any(key in values for values in metrics.values())]
    heads = ["model", *(_METRICS[key] for key in keys)]
    lines = [
        [name, *(f"{values[key]:.4f}" if key in values else "" for key in keys)]
        for name, values in metrics.items()
    ]
    title = f"on {counted(rows, 'held-out row')}"
    put_sheet(Sheet(heads, lines, title, frozenset(heads[1:])))


def _put_importance(importance: list[tuple[str, str, int, float]]) -> None:
    rows: list[list[SheetCell]] = [
        [party, column, splits, f"{gain:.1f}"]
        for party, column, splits, gain in importance[:_MOST_IMPORTANT]
    ]
    left = len(importance) - len(rows)
    title = "importance" + (f", the first {len(rows)} of {len(importance)} columns" if left else "")
    numbers = frozenset(("splits", "gain"))
    put_sheet(Sheet(("party", "column", "splits", "gain"), rows, title, numbers))


def put_relativities(name: str, lines: "Sequence[Line]") -> None:
    """The coefficients of a linear model; a numeric column's effect is that of its step."""
    factors = any(line.relativity is not None for line in lines)
    effect = "relativity" if factors else "effect"
    known = any(line.standard_error is not None for line in lines)
    inferred = any(line.p_value is not None for line in lines)
    rows: list[list[SheetCell]] = [
        [
            line.column,
            line.place,
            f"{line.coefficient:.4f}",
            *([_four(line.standard_error)] if known else []),
            _four(line.factor if factors else line.effect),
            *(_interval(line, factors) if inferred else []),
            line.rows,
        ]
        for line in lines
    ]
    error = ("standard error",) if known else ()
    ends = ("from", "to (95 %)", "p") if inferred else ()
    heads = ("column", "level or step", "coefficient", *error, effect, *ends, "rows")
    put_sheet(Sheet(heads, rows, f"model {name}", frozenset(heads[2:])))


def put_crossed(name: str, table: "CrossedTable") -> None:
    """A factor's relativities by another column's levels; a star is a pair without a coefficient."""
    rows: list[list[SheetCell]] = [
        [level, *(f"{value:.4f}{'*' if n is None else ''}" for value, n in zip(values, of, strict=True))]
        for level, values, of in zip(table.levels, table.values, table.rows, strict=True)
    ]
    heads = (table.column, *table.by_levels)
    title = f"model {name}, {table.column} by {table.by} (*: as the level is by itself)"
    put_sheet(Sheet(heads, rows, title, frozenset(heads[1:])))


def _interval(line: "Line", factors: bool) -> list[SheetCell]:
    low, high = (line.relativity_low, line.relativity_high) if factors else (line.low, line.high)
    return [_four(low), _four(high), "" if line.p_value is None else f"{line.p_value:.3g}"]


def put_inference(tests: "Mapping[str, JointTest]", said: Sequence[str]) -> None:
    """The tests of whole columns, and what is known of the fit."""
    if tests:
        rows: list[list[SheetCell]] = [
            [column, one.freedom, f"{one.statistic:.2f}", f"{one.p_value:.3g}"]
            for column, one in tests.items()
        ]
        named = "F" if any(one.of is not None for one in tests.values()) else "chi squared"
        heads = ("column", "coefficients", named, "p")
        put_sheet(Sheet(heads, rows, "type III tests (Wald)", frozenset(heads[1:])))
    for line in said:
        stdout.put(line)


def _four(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def put_scored(done: "Scored", out: str) -> None:
    """Where the scores are, and which rows are scored without somebody's columns."""
    for name, rows in done.unknown.items():
        if rows:
            none = rows == done.rows > 1
            stdout.put(
                f"{name} does not know {rows:,} of {counted(done.rows, 'row')}: scored without its "
                f"columns{'; are the ids of the batch those of the training table?' if none else ''}"
            )
    for name, rows in done.escaped.items():
        stdout.put(
            f"column '{name}' has {counted(rows, 'cell')} that a spreadsheet would compute, with an "
            "apostrophe in front (.parquet has all text as it is)"
        )
    speed, place = done.rows_per_second, ", in place of earlier ones" if done.replaced else ""
    fast = "" if speed is None else f"; {speed:,.0f} rows a second"
    stdout.put(f"{counted(done.rows, 'score')} in {out}{place}{fast}; {cost(done.account)}")


def cost(account: "Account") -> str:
    """Time and traffic in words."""
    parties = ", ".join(
        f"{name} {account.sent[name] / 1e6:.1f} MB out, {account.received[name] / 1e6:.1f} MB in"
        for name in account.sent
    )
    return f"{account.seconds:.1f} s; {parties}" if parties else f"{account.seconds:.1f} s"


def account_document(account: "Account") -> dict[str, object]:
    """Time, traffic and memory for the JSON."""
    return {
        "seconds": account.seconds,
        "bytes_sent": account.sent,
        "bytes_received": account.received,
        "peak_memory": account.peak_memory,
    }


# --- Alignments and ids. ----------------------------------------------------------------------------


def put_directories(found: "list[Listed]") -> None:
    """The sealed directories that a party has made, or keeps of its hosts."""
    heads = ("model", "with", "version", "made (UTC)", "rows", "MB", "expires")
    rows: list[list[SheetCell]] = [
        [
            one["model"],
            one["peer"],
            one["version"] or "withdrawn",
            one["made"][:16].replace("T", " "),
            one["rows"],
            f"{one['bytes'] / 1e6:,.1f}",
            "" if one["withdrawn"] else one["of_use_until"] or "",
        ]
        for one in found
    ]
    put_sheet(Sheet(heads, rows, "sealed directories"))


def put_alignments(found: list[dict[str, Any]]) -> None:
    """The alignments that a party keeps."""
    heads = (
        "alignment",
        "made (UTC)",
        "rows",
        "known",
        "parties",
        "join",
        "engine",
        "keys",
        "extends",
        "expires",
    )
    broken = [one for one in found if "error" in one]
    rows: list[list[SheetCell]] = []
    for one in found:
        if "error" in one:
            continue
        expires = one["expires"] or "never"
        rows.append(
            [
                one["name"],
                one["made"][:16].replace("T", " "),
                one["rows"],
                one["known"] if one["known"] < one["rows"] else None,
                ", ".join(one["parties"]),
                one["join"] + (", many to one" if one["many"] else ""),
                one["engine"],
                "; ".join(", ".join(rule) for rule in one["keys"]),
                one["extends"] or "",
                expires + (" (expired)" if one["expired"] else ""),
            ]
        )
    if rows:
        put_sheet(Sheet(heads, rows, numbers=frozenset(("rows", "known"))))
    for one in broken:
        stdout.put(f"{one['name']} cannot be read: {one['error']}")


def put_ids(report: "IdReport") -> None:
    """What a table's ids look like."""
    stdout.put(f"{report.file}: {counted(report.rows, 'row')}")
    _put_key(report)
    for line in report.plan:
        stdout.put(line)
    for number, further in enumerate(report.further, 2):
        stdout.put("")
        stdout.put(f"key {number}")
        _put_key(further)


def _put_key(report: "IdReport") -> None:
    stdout.put(f"normalise: {report.rule}")
    stdout.put(f"digest of the rule, the same at all parties: {report.digest[:16]}")
    stdout.put(f"whole ids, normalised: {_counts(report.ids)}")
    for column in report.columns:
        _put_id_column(column, report.rows)


def _put_id_column(column: "IdColumnReport", rows: int) -> None:
    stdout.put("")
    stdout.put(f"id column '{column.name}' ({column.rule})")
    stdout.put(f"  as written: {_counts(column.written)}")
    more = column.normalised.repeated - column.written.repeated
    stdout.put(f"  normalised: {_counts(column.normalised)} ({more:+,})")
    filled = max(1, rows - column.written.empty)
    if column.lengths:
        shares = ", ".join(f"{length} in {_share(count / filled)}" for length, count in column.lengths)
        stdout.put(f"  characters: {shares}; from {column.shortest} to {column.longest}")
        shapes = [f"{shape} {_share(count / filled)}" for shape, count in column.shapes]
        shapes += [f"others {_share(column.other_shapes / filled)}"] if column.other_shapes else []
        stdout.put(f"  shapes (A upper case, a lower case, 9 digit, _ blank): {', '.join(shapes)}")
    numbers = sum(count for shape, count in column.shapes if not shape.strip("9"))
    if 2 * numbers > filled and "nozeros" not in column.rule:
        stdout.put(
            "  numbers: where another party writes more or fewer zeros before them, none matches until"
        )
        stdout.put("  all parties add nozeros to normalise")
    if not column.findings:
        stdout.put("  nothing found")
        return
    lines: list[list[SheetCell]] = [
        [
            finding.rows,
            _share(finding.share),
            finding.what,
            ", ".join(map(str, finding.first)),
            "nothing: normalise mends it" if finding.mended else finding.advice,
        ]
        for finding in column.findings
    ]
    heads = ("rows", "share", "finding", "first rows", "what to do")
    prose = frozenset(("finding", "first rows", "what to do"))
    put_sheet(Sheet(heads, lines, "", frozenset(("rows", "share")), prose))


def _counts(counts: "Counts") -> str:
    shared = "row that shares its id" if counts.repeated == 1 else "rows that share theirs"
    return (
        f"{counts.distinct:,} distinct, {counts.empty:,} empty, "
        f"{counts.repeated:,} {shared} with another row"
    )


def _share(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "< 0.1%"


# --- Ledgers. ---------------------------------------------------------------------------------------


def put_messages(rows: "Iterable[MessageRow]", as_json: bool) -> None:
    """Messages of a ledger, one a line, as long as somebody reads them; as JSON one object, too."""
    import msgspec

    count = 0
    for row in rows:
        if stdout.left or stdout.failure is not None:
            return
        if as_json:
            begin = '{"messages": [\n' if not count else ",\n"
            stdout.write(begin + json.dumps(msgspec.to_builtins(row)))
        else:
            stdout.put(_message_line(row))
        count += 1
    if as_json:
        stdout.write("\n]}\n" if count else '{"messages": []}\n')


def _message_line(row: "MessageRow") -> str:
    rows = "" if row.rows is None else f", {counted(row.rows, 'row')}"
    job = " ".join(word for word in (row.task, row.job) if word) or "-"
    arrow = "->" if row.direction == "sent" else "<-"
    size = counted(row.bytes, "byte")
    return f"{row.n:>8} {row.time} {job}: {arrow} {row.peer} {row.type}, {size}{rows}"


def put_totals(totals: "Sequence[Total]") -> None:
    """Messages by job and type: a table a job on a terminal, else one table of all."""
    if not stdout.isatty():
        named = ("task", "job", "purpose", "type", "direction", "peer", "messages", "rows", "bytes")
        columns = (*named, "reveals")
        put_sheet(Sheet(columns, [[getattr(total, name) for name in columns] for total in totals]))
        return
    for (task, job, purpose), group in groupby(totals, lambda t: (t.task, t.job, t.purpose)):
        words = (task, job, f"({purpose})" if purpose else "")
        title = " ".join(word for word in words if word) or "before any job"
        rows: list[list[SheetCell]] = []
        said = None
        for total in group:
            first, said = said != (total.type, total.direction), (total.type, total.direction)
            rows.append(
                [
                    total.type if first else "",
                    f"{'to' if total.direction == 'sent' else 'from'} {total.peer}",
                    total.messages,
                    total.rows or None,
                    total.bytes,
                    total.reveals if first else "",
                ]
            )
        heads = ("type", "way", "messages", "rows", "bytes", "reveals")
        numbers = frozenset(("messages", "rows", "bytes"))
        put_sheet(Sheet(heads, rows, title, numbers, frozenset(("reveals",))))


def put_stamps(stamps: "Sequence[Stamp]") -> None:
    """The time stamps of a ledger's seals."""
    for one in stamps:
        stdout.put(f"the seal in line {one.line:,} was there at {one.time} ({one.file})")


def put_verdict(found: "LedgerVerdict") -> None:
    """What `verify` found."""
    for note in found.notes:
        stdout.put(f"note: {note}")
    for damage in found.damage:
        stdout.put(f"DAMAGE {damage}")
    sealed = f"the last at line {found.sealed:,} of {found.sealed_at}" if found.sealed else "no more"
    lines, seals = counted(found.lines, "line"), counted(found.seals, "seal")
    stdout.put(f"{lines} of {found.party}, {seals}, {sealed}")
    stdout.put(f"the last line is {found.last:,}, its hash {found.head}")
    if not found.damage:
        stdout.put("whole")


def put_comparison(found: "Comparison") -> None:
    """What `compare` found."""
    for difference in found.differences:
        stdout.put(f"DIFFERS {difference}")
    for line in found.in_flight:
        stdout.put(f"note: in flight when its session ended: {line}")
    for line in found.lost:
        stdout.put(f"note: a minute of counts is lost: {line}")
    who, messages = " and ".join(found.parties), counted(found.messages, "message")
    stdout.put(f"{who}: {counted(found.sessions, 'session')}, {messages} in both")
