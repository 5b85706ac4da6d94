"""The sections of a page, and the tables beside it: every party's, a host's, the coordinator's."""

from collections.abc import Iterable, Sequence

import numpy as np
from markupsafe import Markup

from vfl.leakage.disclosure import Disclosure, terms_of
from vfl.models.relativities import Line, table_of
from vfl.report import figures, words
from vfl.report.blocks import (
    Code,
    DataTable,
    Facts,
    FigureBlock,
    Gallery,
    Messages,
    Note,
    PageBlock,
    PageSection,
    TableCell,
    Tile,
    Tiles,
    Warned,
)
from vfl.report.evidence import Evidence
from vfl.report.words import fixed, listed, number

_MOST_ROWS = 200  # of a table
SheetRow = Sequence[object]


class Page:
    """Sections of a page, and the tables that they leave beside it."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.sheets: dict[str, list[SheetRow]] = {}
        """By name, the header first."""

    def sections(self) -> list[PageSection]:
        raise NotImplementedError

    def sheet(self, name: str, head: SheetRow, rows: Iterable[SheetRow]) -> str:
        """Leave a table beside the page; the name of its file."""
        self.sheets[name] = [head, *rows]
        return f"{name}.csv"

    @property
    def cost(self) -> str:
        """Time and traffic, in words."""
        one = self.evidence
        sent, received = sum(one.sent.values()), sum(one.received.values())
        return (
            f"It took {words.duration(one.seconds)}; {words.volume(sent)} left this party and "
            f"{words.volume(received)} came."
        )

    def framed(self, lead: str, *own: PageSection) -> list[PageSection]:
        """The page of a party that was asked: what for, its own sections, what passed, what it cost."""
        asked = PageSection("asked", "What was asked", [lead], [*self.warnings(), self.request()])
        return [
            asked,
            *own,
            self.gave_away(),
            self.exchange(),
            PageSection("cost", "Cost", [], self.cost_blocks()),
        ]

    def request(self) -> Facts:
        """Who wanted what, and when."""
        one, said = self.evidence, self.evidence.job["job"]
        if one.over_rows:
            pairs = [("parties with rows", listed(one.parties))]
        else:
            pairs = [("guest", one.parties[0]), ("hosts", listed(one.parties[1:]))]
        coordinator = one.job[one.kind.name].get("coordinator")
        if coordinator:
            pairs.append(("coordinator", coordinator))
        pairs += [("purpose", said["purpose"]), ("kind of model", words.model_words(one))]
        if one.aligned_rows:
            whose = "rows of this party" if one.over_rows else "rows that all parties know"
            pairs.append((whose, f"{one.aligned_rows:,}"))
        what = "run here" if one.role == "coordinator" else "model"
        pairs += [("ended", words.day(one.ended)), (f"name of the {what}", one.model)]
        if one.edited_from:
            pairs.append(("edited from", one.edited_from))
        return Facts(pairs)

    def warnings(self) -> list[PageBlock]:
        """What training warned this party of, if it did."""
        texts = [text[:1].upper() + text[1:] for text in self.evidence.warnings]
        return [Warned("What training warned of", texts)] if texts else []

    def cost_blocks(self) -> list[PageBlock]:
        """Time, memory, operations on ciphertexts."""
        one = self.evidence
        tiles = [
            Tile("Time", words.duration(one.seconds), "in all"),
            Tile("Memory", words.volume(one.peak_memory), "at most, in the main process"),
        ]
        for kind, count in sorted(one.operations.items(), key=lambda item: -item[1]):
            tiles.append(Tile("Ciphertexts", f"{count:,}", words.OPERATIONS.get(kind, kind)))
        return [Tiles(tiles)]

    def exchange(self) -> PageSection:
        """What left and what came, by peer and type of message."""
        one = self.evidence
        sheet = self.sheet(
            "messages",
            ("peer", "direction", "message", "messages", "bytes", "reveals"),
            [(e.peer, e.direction, e.kind, e.messages, e.bytes, e.reveals) for e in one.exchanges],
        )
        blocks: list[PageBlock] = []
        for direction, way in (("sent", "left"), ("received", "came")):
            found = [e for e in one.exchanges if e.direction == direction]
            types = [
                (
                    kind,
                    reveals,
                    [
                        (e.peer, f"{e.messages:,}", words.volume(e.bytes))
                        for e in found
                        if e.kind == kind
                    ],
                )
                for kind, reveals in dict.fromkeys((e.kind, e.reveals) for e in found)
            ]
            caption = f"What {way}: {words.volume(sum(e.bytes for e in found))}"
            blocks.append(Messages(caption, types, sheet))
        text = words.job_file(one.job)
        blocks.append(Code("The job file as all parties got it, defaults written out", text))
        lead = (
            "Every message of this run by type, as the code that sends it describes it. Sizes are those "
            "before TLS."
        )
        if not one.over_rows:
            lead += " The alignment of ids that came before is a run of its own and not counted here."
        return PageSection("exchange", "What left and what came", [lead], blocks)

    def gave_away(self) -> PageSection:
        """What each party could learn about each other, in words."""
        one, title = self.evidence, "What this run gave away"
        if not one.gave_away:
            text = "It is not known, since this version of vfl does not know all settings of the run."
            return PageSection("gave-away", title, [text], [])
        names = ("name", "kind", "who", "about", "what", "how", "basis", "success", "guessing")
        lines = [
            (*(getattr(d, name) for name in names), d.measure, "; ".join(d.lower)) for d in one.gave_away
        ]
        sheet = self.sheet("gave_away", (*names, "measure", "lower"), lines)
        lead = [
            "What each party was told by this run, and what it could work out about the others from it. "
            "Each figure stands beside that of somebody who was told nothing and guesses, knowing how "
            "frequent each answer is. Ids, values of columns, labels and thresholds are in no message.",
        ]
        greatest = [words.most_learnt(d) for d in _greatest(one)]
        lead += greatest
        blocks: list[PageBlock] = [Facts(terms)] if (terms := [*terms_of(one.gave_away).items()]) else []
        for kind, caption in words.DISCLOSURES.items():
            found = [d for d in one.gave_away if d.kind == kind]
            if found:
                link, sheet = sheet, ""
                blocks.append(disclosure_table(caption, found, link))
        blocks += [Note(text) for text in words.DISCLAIMERS]
        return PageSection("gave-away", title, lead, blocks)

    def relativity_blocks(self) -> list[PageBlock]:
        """The coefficients of this party's own columns."""
        one = self.evidence
        if not one.lines:
            return [Note("The model has no column of this party.")]
        relative = any(line.relativity is not None for line in one.lines)
        errors = any(line.standard_error is not None for line in one.lines)
        inferred = any(line.p_value is not None for line in one.lines)
        name = "relativity" if relative else "coefficient"
        sheet = self.sheet("relativities", *table_of(one.lines))
        drawn = []
        for column in dict.fromkeys(line.column for line in one.lines):
            levels = [line for line in one.lines if line.column == column and line.level]
            largest = sorted(levels, key=lambda line: -(line.rows or 0))[:MOST_LEVELS]
            levels = [line for line in levels if line in largest]
            values = [line.relativity if relative else line.coefficient for line in levels]
            known = [value for value in values if value is not None]
            if len(levels) < 2 or len(known) < len(levels):
                continue
            least, most = int(np.argmin(known)), int(np.argmax(known))
            message = (
                f"The {name} of {column} goes from {number(known[least])} at {levels[least].level} to "
                f"{number(known[most])} at {levels[most].level}."
            )
            svg = _chart([(line.level, line.rows) for line in levels], known, name, message)
            drawn.append(figure_of(column, message, svg, sheet))
        rows: list[list[TableCell]] = [
            [
                line.column,
                line.place,
                fixed(line.coefficient, 4),
                *([_error(line.standard_error)] if errors else []),
                relativity_or_blank(line.factor) if relative else fixed(line.effect, 4),
                *(_interval(line, relative) if inferred else []),
                "" if line.rows is None else f"{line.rows:,}",
            ]
            for line in one.lines
        ]
        head = ["column", "level or step", "coefficient", *(["standard error"] if errors else [])]
        ends = ["from", "to (95 %)", "p"] if inferred else []
        head += [name if relative else "effect", *ends, "rows"]
        table = cells("Coefficients and relativities", head, rows, text=2, sheet=sheet)
        return [*([Gallery(drawn[:MOST_FACTORS])] if drawn else []), table, *self.test_blocks()]

    def test_blocks(self) -> list[PageBlock]:
        """The type III tests of this party's columns, and what the guest knows of the fit."""
        one = self.evidence
        found: list[PageBlock] = []
        if one.tests:
            named = "F" if any(test.of is not None for test in one.tests.values()) else "chi squared"
            rows: list[list[TableCell]] = [
                [column, f"{test.freedom}", fixed(test.statistic, 2), f"{test.p_value:.3g}"]
                for column, test in one.tests.items()
            ]
            head = ["column", "coefficients", named, "p"]
            found.append(cells("Type III tests of whole columns (Wald)", head, rows, text=1))
        return [*found, *(Note(f"{line[0].upper()}{line[1:]}.") for line in one.inferred)]


def _interval(line: Line, relative: bool) -> list[TableCell]:
    """Both ends, and the p-value."""
    low, high = (line.relativity_low, line.relativity_high) if relative else (line.low, line.high)
    p_value = "" if line.p_value is None else f"{line.p_value:.3g}"
    if relative:
        return [relativity_or_blank(low), relativity_or_blank(high), p_value]
    return [*("" if end is None else fixed(end, 4) for end in (low, high)), p_value]


def _chart(
    levels: Sequence[tuple[str, int | None]], values: Sequence[float], name: str, message: str
) -> str:
    """The relativities of a column: of levels with their rows, or of a curve, whose points have none."""
    points = [place for place, (_, rows) in enumerate(levels) if rows is None]
    if not points:
        return figures.relativities(
            [level for level, _ in levels], values, [rows or 0 for _, rows in levels], name, message
        )
    missing = [value for (_, rows), value in zip(levels, values, strict=True) if rows is not None]
    grid = [float(levels[place][0]) for place in points]
    return figures.bend(
        grid, [values[place] for place in points], missing[0] if missing else None, name, message
    )


def _error(standard_error: float | None) -> str:
    return "" if standard_error is None else fixed(standard_error, 4)


class CoordinatorPage(Page):
    def sections(self) -> list[PageSection]:
        one = self.evidence
        what = f"{one.job['job']['name']}, for {one.job['job']['purpose']}. {self.cost}"
        if one.over_rows:
            lead = (
                f"This party, {one.party}, added up numbers that it could not read, while "
                f"{listed(one.parties)}, each with rows of its own, trained {what}"
            )
        else:
            lead = (
                f"This party, {one.party}, was asked by {one.parties[0]} to hold the key while "
                f"{listed(one.parties)} fit {what}"
            )
        return self.framed(lead)


_OF_THE_RUN = ("table_from_sums", "table_from_model", "labels_from_nodes", "labels_from_gradients")
"""What follows from a training alone."""


def _greatest(evidence: Evidence) -> list[Disclosure]:
    """Of each party that learns by the training alone, what it learns most of; on a host's page what it
    learns itself, and others about it."""
    most: dict[str, Disclosure] = {}
    for one in evidence.gave_away:
        known = most.get(one.who)
        if one.name not in _OF_THE_RUN or not one.advantage:
            continue
        if evidence.role == "host" and evidence.party not in f"{one.who}, {one.about}".split(", "):
            continue
        if known is None or one.advantage > (known.advantage or 0):
            most[one.who] = one
    return [*most.values()]


def disclosure_table(caption: str, found: Sequence[Disclosure], sheet: str = "") -> DataTable:
    """What parties could learn about each other, beside guessing."""
    rows: list[list[TableCell]] = [
        [
            (f"{d.who} about {d.about}: {d.what}", f"From {d.how}. {words.BASES[d.basis]}."),
            d.number,
            d.chance or words.DASH,
            d.lower[0] if d.lower else "",
        ]
        for d in found
    ]
    head = ["who could learn what", "how much of it", "by guessing", "less by"]
    return cells(caption, head, rows, text=4, sheet=sheet)


def figure_of(title: str, message: str, svg: str, sheet: str) -> FigureBlock:
    return FigureBlock(title, message, Markup(svg), sheet)  # noqa: S704 - made by matplotlib, which escapes


def cells(
    caption: str, head: list[str], rows: list[list[TableCell]], text: int = 1, sheet: str = ""
) -> DataTable:
    """A table of as many rows as a page holds; its caption says when these are not all."""
    if len(rows) > _MOST_ROWS:
        caption += f" (the first {_MOST_ROWS} of {len(rows):,})"
    return DataTable(caption, head, rows[:_MOST_ROWS], text, sheet)


# What a page shows at most; the tables beside it hold all.
MOST_BARS = 15  # of a figure of importance
MOST_FACTORS = 40  # figures of columns, in a section
MOST_LEVELS = 30  # of a figure of a factor


def relativity_or_blank(value: float | None) -> str:
    return "" if value is None else words.relativity(value)
