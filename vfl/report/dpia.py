"""The draft of a data protection impact assessment, from what is configured and what ran.

Its sections are those that Article 35(7) of the GDPR asks for, (a) to (d). What no program knows is
marked, with who is to fill it in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vfl.leakage.disclosure import Disclosure, terms_of
from vfl.report import words
from vfl.report.blocks import (
    DataTable,
    Facts,
    Note,
    PageBlock,
    PageSection,
    TableCell,
    ToFill,
)
from vfl.report.residual import UsedSettings, risks_of
from vfl.report.sections import disclosure_table

COLUMNS_SHOWN = (
    "Of other parties these are the columns that the model uses, by the names that their owners show: a "
    "number stands for a name that is not shown. Their owners know which columns entered the job."
)
CONTROLLER, OFFICER, IT = "the controller", "the data protection officer", "IT security"


@dataclass(frozen=True)
class MessageKind:
    """A type of message: when it is sent, or to and from whom it was, and what its receiver learns."""

    name: str
    step: str
    reveals: str


@dataclass(frozen=True)
class Assessment:
    """What there is to assess, as one party knows it. `columns`: by owner, the names that this party may
    know, None where it knows none; `ended`: of a run, ISO 8601, UTC, else ""."""

    purpose: str
    party: str
    roles: Mapping[str, str]  # by party, this one among them
    kind: str  # of model
    used: UsedSettings
    made: str  # of the draft, ISO 8601, UTC
    uses: Sequence[tuple[str, str]]  # columns of this party that are no features, by use
    name: str = ""
    ended: str = ""
    rows: Sequence[tuple[str, str]] = ()
    columns: Mapping[str, Sequence[str] | None] = field(default_factory=dict)
    messages: Sequence[MessageKind] = ()
    gave_away: Sequence[Disclosure] = ()
    safeguards: Sequence[tuple[str, str]] = ()
    retention: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()


def dpia_sections(of: Assessment) -> list[PageSection]:
    """The sections of the draft."""
    return [_start(of), _description(of), _necessity(of), _risks(of), _measures(of), _end()]


def _start(of: Assessment) -> PageSection:
    what = f"the run that ended on {words.day(of.ended)}" if of.ended else "a job that has not run"
    lead = [
        f"A draft, made by a program from the files and records of {of.party} about {what}. It says "
        "what the software does and what it shows whom; whether that is lawful it cannot know. "
        "Passages in dashed frames are for a person to fill in, and the whole for a person to check.",
    ]
    blocks: list[PageBlock] = [Note(text) for text in of.notes]
    first = [
        "Controllers, joint controllers and processors, with addresses and contacts; for joint "
        "controllers the arrangement between them.",
        "Whether this assessment is needed, and since when it has been in work.",
    ]
    return PageSection("start", "About this draft", lead, [*blocks, ToFill(CONTROLLER, first)])


def _description(of: Assessment) -> PageSection:
    facts = [("purpose, as all parties were told it", of.purpose), ("kind of model", of.kind), *of.rows]
    roles: list[list[TableCell]] = [
        [f"{name} (this party)" if name == of.party else name, role] for name, role in of.roles.items()
    ]
    owners: list[list[TableCell]] = [
        [
            owner,
            "not known to this party"
            if names is None
            else ", ".join(names)
            if names
            else "none (no data)",
        ]
        for owner, names in of.columns.items()
    ]
    uses: list[list[TableCell]] = [[f"{of.party}: {use}", name] for use, name in of.uses]
    learnt: list[list[TableCell]] = [[one.name, one.step, one.reveals] for one in of.messages]
    lead = [
        "Which processing there is, for what, by whom and of which data. Tables stay where they are: "
        "what leaves a party are the messages below, and no other."
    ]
    when = "sent or received by this party" if of.ended else "when it is sent"
    blocks: list[PageBlock] = [
        Facts(facts),
        DataTable("Parties and roles", ["party", "role in the job"], roles, 2),
        DataTable("Categories of data, by owner", ["owner", "columns"], [*owners, *uses], 2),
        *([Note(COLUMNS_SHOWN)] if of.ended and not of.used.over_rows else []),
        ToFill(
            CONTROLLER,
            [
                "Who the people are whose data these are, about how many, and whether children or other "
                "people in need of protection are among them.",
                "Which columns are special categories of data, or about offences; where each column is "
                "from, and whether it may be used for this purpose.",
                "What is decided by the model's scores, about whom, and whether a person decides.",
                "Who receives scores; transfers to third countries.",
            ],
        ),
        DataTable(
            "What each type of message tells its receiver",
            ["message", when, "what it reveals"],
            learnt,
            3,
        ),
    ]
    title = "Description of the processing and its purposes"
    return PageSection("description", f"(a) {title}", lead, blocks)


def _necessity(of: Assessment) -> PageSection:
    less = (
        "each party adds up numbers of its own rows, and the others are told totals over all parties "
        "alone"
        if of.used.over_rows
        else "it joins only rows that all parties know (in an inner join), and sends no column"
    )
    lead = [
        f"What the software does to need less data: {less}. Whether the purpose needs the processing "
        "is for the controller to say."
    ]
    fill = [
        "The legal basis; of legitimate interests, which ones, and how they were weighed.",
        "Why the purpose needs these columns and these parties: vfl worth measures what each partner's "
        "data add.",
        "How people are informed, and how they use their rights; vfl person finds what this party kept "
        "about an id.",
        "How the data are kept right and up to date.",
    ]
    kept: list[list[TableCell]] = [[what, how] for what, how in of.retention]
    blocks: list[PageBlock] = [
        ToFill(CONTROLLER, fill),
        DataTable("How long things are kept here", ["what", "how long"], kept, 2),
        ToFill(CONTROLLER, ["Periods of retention by law or contract, and who removes what is due."]),
    ]
    return PageSection("necessity", "(b) Necessity and proportionality", lead, blocks)


def _risks(of: Assessment) -> PageSection:
    lead = [
        f"What each party {'was told by this run' if of.ended else 'would be told by this job'} and "
        "could work out about the others, beside what somebody gets who was told nothing and guesses. "
        "Then what is left, by what the job uses."
    ]
    blocks: list[PageBlock] = [Facts(terms)] if (terms := [*terms_of(of.gave_away).items()]) else []
    for kind, caption in words.DISCLOSURES.items():
        if found := [one for one in of.gave_away if one.kind == kind]:
            blocks.append(disclosure_table(caption, found))
    if not of.gave_away:
        blocks.append(Note("There are no figures: this party knows too little of the job for them."))
    blocks += [Note(text) for text in words.DISCLAIMERS[:1]]
    left: list[list[TableCell]] = [[r.title, r.text, r.heading] for r in risks_of(of.used)]
    blocks += [
        DataTable("What is left", ["risk", "what it is", "in docs/security.md under"], left, 3),
        ToFill(
            OFFICER,
            [
                "How likely and how severe each risk is for the people concerned, and why.",
                "Risks that are not the software's: wrong or unfair decisions, use for another purpose, "
                "people who are turned away. The report of the model has its measures by protected "
                "class, where they were asked for.",
                "Whether the other parties are trusted to follow the protocol, and on which contract.",
            ],
        ),
    ]
    return PageSection("risks", "(c) Risks to the people concerned", lead, blocks)


def _measures(of: Assessment) -> PageSection:
    rows: list[list[TableCell]] = [[name, how] for name, how in of.safeguards]
    blocks: list[PageBlock] = [
        DataTable("Safeguards, as they are set", ["safeguard", "here"], rows, 2),
        ToFill(
            IT,
            [
                "Who has access to the machine, the table and the store; backups, and encryption of "
                "disks.",
                "How fingerprints of certificates were compared, and who rotates keys.",
                "What happens after a breach, and who is told.",
            ],
        ),
        ToFill(CONTROLLER, ["Contracts with the other parties: use, audit, breach, end."]),
    ]
    lead = ["What is in place against the risks above, and what shows that it was."]
    return PageSection("measures", "(d) Measures against the risks", lead, blocks)


def _end() -> PageSection:
    return PageSection(
        "decision",
        "Advice and decision",
        [],
        [
            ToFill(OFFICER, ["The data protection officer's advice, with date."]),
            ToFill(
                CONTROLLER,
                [
                    "The views of the people concerned or of who represents them, where they were "
                    "asked.",
                    "Which risks are accepted; whether the supervisory authority must be consulted "
                    "before.",
                    "Decision, date, signature; when this is looked at again (a new partner, new "
                    "columns, a new purpose, other settings).",
                ],
            ),
        ],
    )


def roles_in_words(parties: Sequence[str], coordinator: str, over_rows: bool) -> dict[str, str]:
    """What each party is in a job."""
    if over_rows:
        roles = dict.fromkeys(parties, "client: rows of its own, with label and all columns")
        return roles | (
            {coordinator: "server: no data, adds up what it cannot read"} if coordinator else {}
        )
    guest, *hosts = parties
    roles = {guest: "guest: holds the label, starts the job, scores"}
    roles |= dict.fromkeys(hosts, "host: adds columns of its own")
    if coordinator:
        roles[coordinator] = "coordinator: no data, holds a key or masks"
    return roles
