"""The card of a model: what it is for, what it was made of, how good it is and where its limits are.

The sections are those of Mitchell et al. (2019, "Model Cards for Model Reporting"), or the headings of a
profile: what a rule asks for, in its own order. What no run knows is marked, with who is to fill it in.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from vfl.report import words
from vfl.report.blocks import Code, DataTable, Facts, Note, PageBlock, PageSection, TableCell, ToFill
from vfl.report.dpia import COLUMNS_SHOWN
from vfl.report.evidence import Evidence
from vfl.report.fairness import fairness_sections
from vfl.report.guest_page import GuestPage
from vfl.report.residual import UsedSettings, risks_of
from vfl.report.sections import Page
from vfl.report.words import listed

Profile = Literal["plain", "ai-act", "eiopa"]
PROFILES: Mapping[Profile, str] = {
    "plain": "",
    "ai-act": "by the headings of Annex IV of Regulation (EU) 2024/1689 (AI Act)",
    "eiopa": "by the topics of EIOPA's opinion on AI governance and risk management of 6 August 2025 "
    "(EIOPA-BoS-25-360)",
}
ACTUARY, PROVIDER, COMPLIANCE, IT = "the actuary", "the provider", "compliance", "IT"


class Chapter(NamedTuple):
    """A section of a card: its title, the parts that are known, and who fills in what."""

    anchor: str
    title: str
    parts: Sequence[str]
    fill: Sequence[tuple[str, Sequence[str]]]


_PLAIN = (
    Chapter(
        "intended",
        "Intended use",
        ("intended",),
        [
            (
                ACTUARY,
                [
                    "What is decided by the model's scores, by whom, and for which products and "
                    "markets.",
                    "Uses that it is not meant for.",
                ],
            )
        ],
    ),
    Chapter("parties", "Parties", ("parties",), []),
    Chapter(
        "data",
        "Data",
        ("data", "columns"),
        [
            (
                ACTUARY,
                [
                    "The period and the book that the rows are of, and how they were chosen.",
                    "How the label was made: development, truncation, caps.",
                ],
            )
        ],
    ),
    Chapter("measures", "Measures and calibration", ("measures",), []),
    Chapter(
        "fairness",
        "Fairness",
        ("fairness",),
        [
            (
                COMPLIANCE,
                ["Which measures of fairness count for this use, and why; what follows from them."],
            )
        ],
    ),
    Chapter("drivers", "What drives it", ("drivers",), []),
    Chapter(
        "limits",
        "Limits and risks",
        ("limits", "risks"),
        [(ACTUARY, ["Further limits that are known: books, years, products it was not made for."])],
    ),
    Chapter(
        "versions",
        "Versions",
        ("versions", "settings"),
        [(ACTUARY, ["Who owns the model, who approved it and when, and when it is looked at again."])],
    ),
)

_ANNEX_IV = (
    Chapter(
        "general",
        "1. A general description of the AI system",
        ("intended", "parties", "versions"),
        [
            (
                PROVIDER,
                [
                    "Whether the system is high-risk (Annex III of the AI Act), by whom and when that "
                    "was decided. Annex IV is due for systems that are.",
                    "Name of the provider; forms in which the system is put into service; hardware it "
                    "is meant to run on; its user interface and instructions for use.",
                    "How it interacts with other hardware and software.",
                ],
            )
        ],
    ),
    Chapter(
        "development",
        "2. A detailed description of the elements of the AI system and of the process for its "
        "development",
        ("data", "columns", "drivers", "settings", "security"),
        [
            (
                ACTUARY,
                [
                    "Design choices with their reasons and assumptions; what the system is to optimise; "
                    "trade-offs.",
                    "Provenance of the data, how they were obtained, selected and cleaned; how the "
                    "label was made.",
                    "Human oversight that is needed, and what helps people to interpret outputs.",
                    "Changes that are planned for.",
                    "Test logs and reports, dated and signed.",
                ],
            )
        ],
    ),
    Chapter(
        "monitoring",
        "3. Detailed information about the monitoring, functioning and control of the AI system",
        ("measures", "fairness", "limits", "risks"),
        [
            (
                COMPLIANCE,
                [
                    "Foreseeable unintended outcomes, and risks to health and safety, fundamental "
                    "rights and discrimination.",
                    "Who oversees the system, and how they can stop it.",
                ],
            )
        ],
    ),
    Chapter(
        "metrics",
        "4. A description of the appropriateness of the performance metrics for the specific AI system",
        ("metric_words",),
        [(ACTUARY, ["Why these measures fit this use, and which values are good enough."])],
    ),
    Chapter(
        "risk-management",
        "5. A detailed description of the risk management system in accordance with Article 9",
        (),
        [(COMPLIANCE, ["The risk management system."])],
    ),
    Chapter(
        "changes",
        "6. A description of relevant changes made by the provider to the system through its lifecycle",
        ("changes",),
        [(PROVIDER, ["Earlier versions in use, and what changed between them."])],
    ),
    Chapter(
        "standards",
        "7. A list of the harmonised standards applied",
        (),
        [(PROVIDER, ["Harmonised standards, or the solutions adopted where none were applied."])],
    ),
    Chapter(
        "declaration",
        "8. A copy of the EU declaration of conformity referred to in Article 47",
        (),
        [(PROVIDER, ["The declaration."])],
    ),
    Chapter(
        "post-market",
        "9. The system in place to evaluate performance in the post-market phase",
        ("drift",),
        [(PROVIDER, ["The post-market monitoring plan referred to in Article 72(3)."])],
    ),
)

_EIOPA = (
    Chapter(
        "proportionality",
        "Risk-based approach and proportionality",
        ("intended", "parties"),
        [
            (
                COMPLIANCE,
                [
                    "Whether the system is in the opinion's scope: neither prohibited nor high-risk "
                    "under the AI Act, and an AI system at all, which a linear model may not be.",
                    "The impact assessment: how many customers, which data, how automated, what harm.",
                ],
            )
        ],
    ),
    Chapter(
        "fairness",
        "Fairness and ethics",
        ("fairness",),
        [
            (
                COMPLIANCE,
                [
                    "Which measures of fairness count for this use, and why.",
                    "For each column: why it is used, whether it stands for a protected characteristic, "
                    "and how that was looked at. Complaints and redress.",
                ],
            )
        ],
    ),
    Chapter(
        "data",
        "Data governance",
        ("data", "columns", "limits", "risks"),
        [
            (
                ACTUARY,
                [
                    "Whether the data are complete, accurate and appropriate; where they are from, and "
                    "what was removed or corrected; how the label was made.",
                    "The same of partners' data, by their word or by contract.",
                ],
            )
        ],
    ),
    Chapter(
        "records",
        "Documentation and record-keeping",
        ("versions", "settings", "changes"),
        [
            (
                ACTUARY,
                [
                    "Why an AI system is used, and how it is part of the company's IT.",
                    "Who designed and runs it; who owns it.",
                    "How columns were prepared, and what each was made for; why this method.",
                ],
            )
        ],
    ),
    Chapter(
        "transparency",
        "Transparency and explainability",
        ("drivers",),
        [
            (
                ACTUARY,
                [
                    "How customers are told, in plain words, what drives a decision; how "
                    "intermediaries are."
                ],
            )
        ],
    ),
    Chapter(
        "oversight",
        "Human oversight",
        (),
        [
            (
                COMPLIANCE,
                [
                    "Roles of the board, of compliance, risk management and audit, and of the actuarial "
                    "function; training of staff.",
                    "Who can set a score aside, and when.",
                ],
            )
        ],
    ),
    Chapter(
        "robustness",
        "Accuracy, robustness and cybersecurity",
        ("measures", "metric_words", "drift", "security"),
        [
            (
                IT,
                [
                    "Levels of the measures that are good enough, and what happens below them; how "
                    "often it is trained anew.",
                    "Fall-back plans; tests of resilience.",
                ],
            )
        ],
    ),
)
_CHAPTERS: Mapping[Profile, Sequence[Chapter]] = {"plain": _PLAIN, "ai-act": _ANNEX_IV, "eiopa": _EIOPA}


class CardParts:
    """What a run says for a card, part by part; `packages` are versions by name."""

    def __init__(
        self, evidence: Evidence, used: UsedSettings, packages: Mapping[str, str], changes: Sequence[str]
    ) -> None:
        self._one, self._used, self._packages, self._changes = evidence, used, packages, changes
        self._page = GuestPage(evidence) if evidence.role == "guest" else Page(evidence)

    @property
    def sheets(self) -> Mapping[str, Sequence[Sequence[object]]]:
        """The tables beside the card."""
        return self._page.sheets

    def part(self, name: str) -> list[PageBlock]:
        """The blocks of a part."""
        parts: Mapping[str, Callable[[], list[PageBlock]]] = {
            "intended": self._intended,
            "parties": self._parties,
            "data": self._data,
            "columns": self._columns,
            "measures": self._measures,
            "metric_words": self._metric_words,
            "fairness": self._fairness,
            "drivers": self._drivers,
            "limits": self._limits,
            "risks": self._risks,
            "versions": self._versions,
            "settings": self._settings,
            "changes": self._changed,
            "drift": self._drift,
            "security": self._security,
        }
        return parts[name]()

    def _intended(self) -> list[PageBlock]:
        one = self._one
        found = [
            (
                "purpose, as all parties signed it" if one.signers else "purpose",
                one.job["job"]["purpose"],
            ),
            ("kind of model", words.model_words(one)),
        ]
        if isinstance(self._page, GuestPage):
            found.insert(1, ("predicts", self._page.rate.modelled))
        return [Facts(found)]

    def _parties(self) -> list[PageBlock]:
        said = ("purpose", "kind of model")  # under the intended use
        return [Facts([pair for pair in self._page.request().pairs if pair[0] not in said])]

    def _data(self) -> list[PageBlock]:
        one = self._one
        facts = [(f"rows, {name}", f"{count:,}") for name, count in one.rows.items() if count]
        whose = "of this party" if one.over_rows else "that all parties know"
        if one.aligned_rows:
            facts.insert(0, (f"rows {whose}", f"{one.aligned_rows:,}"))
        if not facts:
            return [Note("How many rows there were is not known to this party.")]
        said = words.how_held_out(one)
        if not said and one.held_out is not None:
            said.append("Rows were held out at random.")
        if "time" not in one.split:
            said.append("Of which period the rows are, this party's record of the run does not say.")
        return [Facts(facts), *(Note(text) for text in said)]

    def _columns(self) -> list[PageBlock]:
        one = self._one
        if one.over_rows:
            text = ", ".join(one.job.get("columns", {})) or "not in the record"
            return [DataTable("Columns", ["owner", "columns"], [["every party with rows", text]], 2)]
        by_owner: dict[str, list[str]] = {name: [] for name in one.parties}
        for owner, column, *_ in one.importance:
            by_owner.setdefault(owner, []).append(column)
        if one.own_columns:
            by_owner[one.party] = [*one.own_columns]
        rows: list[list[TableCell]] = [
            [owner, ", ".join(names) or "not known to this party"] for owner, names in by_owner.items()
        ]
        table = DataTable("Columns, by owner", ["owner", "columns"], rows, 2)
        return [table, *([Note(COLUMNS_SHOWN)] if one.role == "guest" else [])]

    def _measures(self) -> list[PageBlock]:
        one = self._one
        if not isinstance(self._page, GuestPage):
            whose = "each party with rows" if one.over_rows else one.parties[0]
            return [Note(f"How good the model is, {whose} alone knows: this party has no label.")]
        section = (self._page.of_classes or self._page.quality).section()
        return [*(Note(text) for text in section.lead), *section.blocks]

    def _metric_words(self) -> list[PageBlock]:
        names = {key for measures in self._one.metrics.values() for key in measures}
        found = [words.METRICS[name] for name in words.METRICS if name in names]
        if not found:
            return [Note("This party knows of no measures.")]
        return [Facts(found)]

    def _fairness(self) -> list[PageBlock]:
        page, one = self._page, self._one
        none = Note(
            "Not measured. Name columns under protected in [data] of the guest's party file: they are "
            "no features then, and reports and cards look at predictions by their classes."
        )
        measured = one.loss.quantile is None and one.loss.classes <= 1
        if not isinstance(page, GuestPage) or not measured:
            return [none]
        sections = fairness_sections(page, page.quality)
        found = [block for section in sections for block in section.blocks]
        return [*(Note(text) for section in sections for text in section.lead), *found] or [none]

    def _drivers(self) -> list[PageBlock]:
        one = self._one
        if one.kind.has_relativities and one.lines:
            return self._page.relativity_blocks()
        if one.importance:
            total = sum(gain for *_, gain in one.importance)
            parts = words.shares([gain for *_, gain in one.importance], 1)
            rows: list[list[TableCell]] = [
                [column, owner, f"{splits:,}", part]
                for (owner, column, splits, _), part in zip(one.importance, parts, strict=True)
            ]
            text = "By how much the splits on a column lower the training loss, of all such gain."
            head = ["column", "party", "splits", "of all gain"]
            return [Note(text), DataTable("Importance", head, rows, 2)] if total else [Note(text)]
        if one.splits:
            ordered = sorted(one.splits.items(), key=lambda item: (-item[1], item[0]))
            rows = [[column, f"{splits:,}"] for column, splits in ordered]
            return [DataTable("Splits of this party's columns", ["column", "splits"], rows, 1)]
        return [Note(f"The model uses no column that {one.party} knows of.")]

    def _limits(self) -> list[PageBlock]:
        one = self._one
        texts = []
        if not one.over_rows:
            texts.append(
                "The model was made on the rows of one alignment: those that all parties know, or in "
                "a left join all of the guest's. People whom some party does not know are left out, "
                "or lack a part, and may differ."
            )
            texts.append(
                "It scores a row fully only where all hosts know it; scores of other rows miss a part."
            )
        texts.append("Measures are of rows like those that trained; later rows may differ (drift).")
        texts.append("What drives the model are associations: no cause is shown.")
        blocks: list[PageBlock] = [Note(text) for text in texts]
        return [*self._page.warnings(), *blocks]

    def _risks(self) -> list[PageBlock]:
        left: list[list[TableCell]] = [[r.title, r.text] for r in risks_of(self._used)]
        return [DataTable("What is left of risk to privacy", ["risk", "what it is"], left, 2)]

    def _versions(self) -> list[PageBlock]:
        one = self._one
        found = [("model", one.model), ("trained until", words.day(one.ended))]
        if one.edited_from:
            found.append(("edited from", one.edited_from))
        if one.signers:
            found.append(("terms signed by", listed(one.signers)))
        found.append(("vfl, as this card was made", one.version))
        found += [
            (f"{name}, as this card was made", version) for name, version in self._packages.items()
        ]
        return [Facts(found)]

    def _settings(self) -> list[PageBlock]:
        seed = self._one.job[self._one.kind.name].get("seed")
        facts = [Facts([("seed", str(seed))])] if seed is not None else []
        text = words.job_file(self._one.job)
        return [*facts, Code("The job file as all parties got it, defaults written out", text)]

    def _changed(self) -> list[PageBlock]:
        if not self._changes:
            return [Note("The model is as it was trained: this party has edited nothing in it.")]
        rows: list[list[TableCell]] = [[text] for text in self._changes]
        return [DataTable("Edits since training", ["edit"], rows, 1)]

    def _drift(self) -> list[PageBlock]:
        return [
            Note(
                "Each party keeps with its half how the values of its own columns were distributed "
                "over the rows of the alignment. At each batch vfl score holds the guest's columns "
                "and the scores against that and notes what has shifted; hosts do so for theirs, and "
                "write it to their logs."
            )
        ]

    def _security(self) -> list[PageBlock]:
        return [
            Note(
                "Parties talk over TLS 1.3 with pinned certificates; the terms of the job were signed "
                "by all before it began; every message is in each party's ledger, sealed by its key. "
                "What each message reveals, and what could be worked out from all: vfl dpia and vfl "
                "report."
            )
        ]


def card_sections(parts: CardParts, profile: Profile) -> list[PageSection]:
    """The sections of a card."""
    sections = []
    for chapter in _CHAPTERS[profile]:
        blocks = [block for name in chapter.parts for block in parts.part(name)]
        blocks += [ToFill(who, [*texts]) for who, texts in chapter.fill]
        sections.append(PageSection(chapter.anchor, chapter.title, [], blocks))
    return sections
