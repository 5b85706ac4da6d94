"""Drafts for compliance: what they say of kept runs and of jobs, and what they must not say."""

import csv
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from commands import Done, command
from kept_parties import copy_parties
from reports import NASTY, made_up

from vfl.jobs.reveals import message_types
from vfl.report.blocks import DataTable, Heat, HeatCell, Note, PageSection, ToFill
from vfl.report.card import PROFILES, CardParts, card_sections
from vfl.report.markdown import write_markdown
from vfl.report.page import PageHead, write_page
from vfl.report.residual import RISKS, UsedSettings, risks_of

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
JOB = """
[job]
name = "next"
purpose = "renewal prices"
model = "{model}"
{label}
[{model}]
{settings}
"""
TREES = {"model": "secureboost", "label": 'objective = "binary"'}
LINEAR = {"model": "glm", "label": 'family = "logistic"'}


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parties")
    copy_parties("v1", folder)
    return folder


def run(homes: Path, name: str, *arguments: str) -> Done:
    return command(*arguments, folder=homes / name)


def dpia(homes: Path, name: str, subject: str, *options: str) -> str:
    """The draft as Markdown."""
    out = run(homes, name, "dpia", subject, f"{name}.toml", "--json", *options).ok().json
    page = Path(out["page"])
    assert out["files"] == ["dpia.html", "dpia.md"]
    check_page(homes, page.read_text())
    return check_page(homes, page.with_suffix(".md").read_text())


def check_page(homes: Path, text: str) -> str:
    """Nothing of any row is on it, and nothing is loaded from elsewhere."""
    for path in homes.glob("*/table.csv"):
        with path.open() as file:
            for row in csv.reader(file):
                assert row[0] not in text or row[0] in ("plate", "registration")
    assert not re.search(r"(src|href)=\"https?:|@import|url\(", text)
    return text


def job_file(homes: Path, name: str, text: str) -> str:
    (homes / name / "next.toml").write_text(text)
    return "next.toml"


def section(text: str, title: str) -> str:
    """A section of a page in Markdown."""
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


# --- The impact assessment. -----------------------------------------------------------------------


def test_a_run_is_assessed_by_what_it_sent_and_used(homes: Path) -> None:
    text = dpia(homes, "insurer", "claims")
    titles = re.findall("^## (.*)$", text, re.M)
    assert titles == [
        "About this draft",
        r"(a) Description of the processing and its purposes",
        "(b) Necessity and proportionality",
        "(c) Risks to the people concerned",
        "(d) Measures against the risks",
        "Advice and decision",
    ]
    said = section(text, titles[1])
    assert "purpose, as all parties were told it: a test" in said
    assert "| insurer (this party) | guest: holds the label" in said
    assert "| insurer: id | plate |" in said and "| insurer: label | claim |" in said
    assert re.search(r"\| Gradients \| \d+ to registry \| nothing to who lacks the key", said)
    assert "A host's table from open sums" in text and "Exact zeros" not in text
    assert "made on 2026-11-28, kept until removed" in text


def test_each_party_has_a_draft_of_what_it_knows(homes: Path) -> None:
    host = dpia(homes, "registry", "claims")
    assert "| registry (this party) | host: adds columns of its own |" in host
    assert "| insurer | not known to this party |" in host and "| registry | power, brand |" in host
    assert r"\[policy\] max\_sums\_a\_row" in host and "rules that are wider than by default" in host
    umpire = dpia(homes, "umpire", "hidden")
    assert "| umpire (this party) | coordinator: no data, holds a key or masks |" in umpire
    assert "| The coordinator |" in umpire and "| Rows with large gradients |" not in umpire


@pytest.mark.parametrize(
    ("kind", "settings", "there", "not_there"),
    [
        (TREES, "goss_top = 0.1\ngoss_other = 0.1", "Rows with large gradients", "Residuals"),
        (TREES, 'encryption = "lattice"', "The lattice engine", "CandidateSums"),
        (TREES, "trees = 3", "CandidateSums", "HintHeader"),
        (TREES, "trees = 3", "BlindedIds", "| Join |"),
        (LINEAR, "l1_ratio = 0.5\nalpha = 1.0", "Exact zeros", "TreeStart"),
        (LINEAR, "alpha = 1.0", "part of each row's score", "Exact zeros"),
    ],
)
def test_a_job_is_assessed_before_it_runs(
    homes: Path, kind: dict[str, str], settings: str, there: str, not_there: str
) -> None:
    subject = job_file(homes, "insurer", JOB.format(**kind, settings=settings))
    text = dpia(homes, "insurer", subject, "--rows", "20000")
    assert there in text and not_there not in text
    assert "a job that has not run" in text and "rows that all parties know: 20,000" in text
    assert "| insurer | density, area |" in text and "| registry | not known to this party |" in text


def test_a_job_over_rows_is_assessed_at_its_server(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "scenarios" / "disease_risk" / "rows" / "server", tmp_path / "server")
    text = dpia(tmp_path, "server", "readmission.toml")
    assert "| server (this party) | server: no data, adds up what it cannot read |" in text
    assert "| MaskedPart | training over rows |" in text and "| AlignStart |" not in text
    assert "| Each can take its own part off a total |" in text and "joins only rows" not in text
    assert "not known to this party" not in text  # the job names the columns of all


def test_all_messages_have_a_step(homes: Path) -> None:
    """A new protocol must not be missing from what a job can send."""
    from vfl.jobs.assessment import _STEPS

    lost = [
        f"{kind.__module__}.{name}"
        for name, kind in message_types().items()
        if not any(f"{kind.__module__}.".startswith(module) for module, _, _ in _STEPS)
    ]
    assert lost == []


def test_risks_are_those_of_the_document() -> None:
    page = (DOCS / "security.md").read_text()
    headings = re.findall("^#+ (.*)$", page, re.M)
    assert [risk.title for risk in RISKS if risk.heading not in headings] == []
    used = UsedSettings(False, True, {"coordinator": "server"}, 3, without=True)
    titles = [risk.title for risk in risks_of(used)]
    assert "Going on without a party" in titles and "The coordinator" not in titles
    assert "Few rows" not in titles


def test_errors_of_drafts(homes: Path, tmp_path: Path) -> None:
    run(homes, "insurer", "dpia", "none.toml", "insurer.toml").failed(2, "none.toml")
    run(homes, "insurer", "dpia", "nobody", "insurer.toml").failed(5, "no model nobody")
    rows = ("--rows", "5")
    run(homes, "insurer", "dpia", "claims", "insurer.toml", *rows).failed(2, "are of a job file")
    (homes / "insurer" / "full").mkdir()
    (homes / "insurer" / "full" / "other.txt").write_text("x")
    for what in (("dpia", "claims", "insurer.toml"), ("modelcard", "insurer.toml", "--model", "claims")):
        run(homes, "insurer", *what, "--out", "full").failed(3, "holds other files than a")
    run(homes, "insurer", "modelcard", "insurer.toml", "--model", "claims", "--profile", "x").failed(2)


def test_a_draft_that_a_person_went_on_with_is_not_overwritten(homes: Path) -> None:
    again = ("dpia", "linear", "insurer.toml", "--out", "draft")
    run(homes, "insurer", *again).ok()
    assert "in place of an earlier one" in run(homes, "insurer", *again).ok().out
    text = homes / "insurer" / "draft" / "dpia.md"
    text.write_text(text.read_text() + "Filled in.\n")
    run(homes, "insurer", *again).failed(3, "it has been changed since vfl dpia wrote it", "--force")
    assert text.read_text().endswith("Filled in.\n")
    run(homes, "insurer", *again, "--force").ok()
    assert "Filled in." not in text.read_text()


# --- The card. ------------------------------------------------------------------------------------

ANNEX_IV = (
    "1. A general description of the AI system",
    "2. A detailed description of the elements of the AI system and of the process for its development",
    "3. Detailed information about the monitoring, functioning and control of the AI system",
    "4. A description of the appropriateness of the performance metrics for the specific AI system",
    "5. A detailed description of the risk management system in accordance with Article 9",
    "6. A description of relevant changes made by the provider to the system through its lifecycle",
    "7. A list of the harmonised standards applied",
    "8. A copy of the EU declaration of conformity referred to in Article 47",
    "9. The system in place to evaluate performance in the post-market phase",
)
EIOPA = (
    "Risk-based approach and proportionality",
    "Fairness and ethics",
    "Data governance",
    "Documentation and record-keeping",
    "Transparency and explainability",
    "Human oversight",
    "Accuracy, robustness and cybersecurity",
)


@pytest.mark.parametrize(("profile", "titles"), [("ai-act", ANNEX_IV), ("eiopa", EIOPA)])
def test_a_card_has_the_headings_of_its_profile(
    homes: Path, profile: str, titles: tuple[str, ...]
) -> None:
    options = ("--model", "claims", "--profile", profile, "--out", f"card-{profile}")
    said = run(homes, "insurer", "modelcard", "insurer.toml", *options).ok().out
    assert (
        said == f"draft in {homes / 'insurer' / f'card-{profile}' / 'modelcard.html'} and modelcard.md\n"
    )
    text = check_page(homes, (homes / "insurer" / f"card-{profile}" / "modelcard.md").read_text())
    assert tuple(re.findall("^## (.*)$", text, re.M)) == titles
    for title in titles:
        assert "To be filled in by" in section(text, title)
    assert "| AUC<br>" in text and re.search(r"\d\.\d{4}<br>\d\.\d{4} to \d\.\d{4}", text)
    assert "Not measured." in text and "- Calibration: In all," in text


def test_a_hosts_card_says_what_it_does_not_know(homes: Path) -> None:
    for name, model in (("registry", "linear"), ("umpire", "hidden")):
        run(homes, name, "modelcard", f"{name}.toml", "--model", model, "--out", "card").ok()
        text = check_page(homes, (homes / name / "card" / "modelcard.md").read_text())
        assert "insurer alone knows: this party has no label" in text
        assert "| insurer | not known to this party |" in text


@pytest.mark.slow
def test_a_card_of_classes_has_fairness_where_it_was_measured() -> None:
    import numpy as np

    evidence = made_up()
    rows = len(evidence.held_out.label if evidence.held_out else [])
    classes = np.where(np.arange(rows) % 2 == 0, "one", "two").astype(object)
    beside = replace(evidence.beside, protected={"sex": classes})
    used = UsedSettings(True, False, evidence.job["secureboost"], 2)
    told = {}
    for name, one in (("without", evidence), ("with", replace(evidence, beside=beside))):
        parts = CardParts(one, used, {"numpy": "2"}, ["power: 1 to 2 (edit: asked for)"])
        blocks = {s.title: s.blocks for s in card_sections(parts, "plain")}
        told[name] = blocks["Fairness"]
        html = write_page(head(), card_sections(parts, "plain"))
        assert NASTY not in html and "&lt;script&gt;" in html
    assert isinstance(told["without"][0], Note) and told["without"][0].text.startswith("Not measured")
    assert not any("Not measured" in str(block) for block in told["with"])
    changes = CardParts(evidence, used, {}, ["power: 1 to 2 (edit: asked for)"]).part("changes")
    assert isinstance(changes[0], DataTable) and changes[0].rows == [["power: 1 to 2 (edit: asked for)"]]


def test_profiles_name_their_source() -> None:
    assert "2024/1689" in PROFILES["ai-act"] and "EIOPA-BoS-25-360" in PROFILES["eiopa"]


# --- Markdown. ------------------------------------------------------------------------------------


def head() -> PageHead:
    return PageHead("A *title*", "over", "for | all", "2026-11-30T08:00:00+00:00", "insurer", "1", "x")


def test_markdown_takes_no_name_for_a_sign() -> None:
    table = DataTable("a|b", ["one", "two"], [["<b>", ("c_d", "e`f")], ["line\nline", "\x1b[0m"]], 2)
    fill = ToFill("the *one*", ["[x](y)"])
    heat = Heat("h", ["a|b"], [("*r*", [HeatCell("0.10", "more1", True)])], "h.csv")
    text = write_markdown(head(), [PageSection("a", "# b", ["*c*"], [table, fill, Note("~d~"), heat])])
    assert r"| \*r\* | 0.10 |" in text
    assert text.splitlines()[0] == r"# A \*title\*" and r"for \| all" in text
    assert r"## \# b" in text and r"\*c\*" in text and r"\~d\~" in text
    assert r"| \<b\> | c\_d<br>e\`f |" in text and r"| line line | \\x1b\[0m |" in text
    assert "> **To be filled in by the \\*one\\***" in text and r"> - \[x\](y)" in text
