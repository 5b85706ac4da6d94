"""The documentation: every link leads somewhere, and the pages of the site are made of what there is."""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel, Field

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs" / "site"))

import made_tables  # noqa: E402
import stage  # noqa: E402


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and the site make it."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading.strip())
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    text = re.sub(r"^(```|~~~).*?^\1\s*?$", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    found: dict[str, int] = {}
    made = set()
    for heading in re.findall(r"^#{1,6} (.*)$", text, re.MULTILINE):
        own = slug(heading)
        again = found.get(own, 0)
        found[own] = again + 1
        made.add(f"{own}-{again}" if again else own)
    return made | set(re.findall(r'(?:id|name)="([^"]+)"', text))


@pytest.mark.parametrize(
    "page", sorted(stage.pages()), ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_every_link_leads_somewhere(page: Path) -> None:
    lost = []
    for found in stage.links(page.read_text("utf-8")):
        target = stage.target_of(found)
        if stage.is_outside(target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if path.parent == ROOT / "docs" / "reference":
            assert path.name in stage.REFERENCES, target
        elif not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            lost.append(target)
    assert lost == []


def test_the_site_has_all_pages_and_no_others() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    named = set(re.findall(r"([\w/]+\.md)$", text.split("\nnav:\n")[1], re.MULTILINE))
    there = {str(place) for place in stage.pages().values()}
    assert named == there | {f"reference/{name}" for name in stage.REFERENCES}


def test_pages_are_staged_with_links_that_fit(tmp_path: Path) -> None:
    assert stage.stage(tmp_path) == []
    start = (tmp_path / "roles" / "actuary.md").read_text()
    assert "](../files/scenarios/car_insurance/motor_tariff.ipynb)" in start
    assert (tmp_path / "files" / "scenarios" / "car_insurance" / "motor_tariff.ipynb").is_file()
    assert "](../benchmarks.md)" in (tmp_path / "roles" / "data_scientist.md").read_text()
    settings = (tmp_path / "configuration.md").read_text()
    assert '<div class="made settings" markdown>\n\n| key | value |' in settings
    assert (tmp_path / stage.STYLES).is_file()
    overview = (tmp_path / "overview.md").read_text()
    assert 'src="images/report.png"' in overview and "](guide.md#the-report)" in overview
    assert (
        "<code>vfl dpia JOB.toml&#124;MODEL PARTY.toml</code>"
        in (tmp_path / "compliance.md").read_text()
    )


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "repository" / "docs" / "one.md"
    page.parent.mkdir(parents=True)
    page.write_text("[gone](two.md), `[code](none.md)`\n\n```\n[code](none.md)\n```\n")
    monkeypatch.setattr(stage, "ROOT", tmp_path / "repository")
    monkeypatch.setattr(stage, "PAGES", {})
    monkeypatch.setattr(stage, "references", dict)
    assert stage.stage(tmp_path / "pages") == ["docs/one.md: two.md leads nowhere"]


def test_references_are_made_from_the_code() -> None:
    import vfl
    from vfl.jobs.reveals import message_types

    made = stage.references()
    for name in ("vfl ledger stamp", "vfl dpia", "vfl train", "vfl models remove"):
        assert re.search(rf"^#+ {name}$", made["commands.md"], re.MULTILINE), name
    assert "vfl models rename" not in made["commands.md"]  # hidden
    for name in message_types():
        assert f"| `{name}` |" in made["messages.md"]
    assert "| `Gradients` | guest -> host |" in made["messages.md"]
    for name in vfl.__all__:
        if name[0].isupper():
            assert f"## vfl.{name}\n" in made["python.md"]
    assert "| `learning_rate` | float, default=" in made["python.md"]
    assert "-----" not in made["python.md"]


# --- Tables that are made from code. --------------------------------------------------------------


def test_tables_are_those_of_the_code() -> None:
    old = [path.relative_to(ROOT) for path in made_tables.old_pages()]
    assert old == [], f"run {made_tables.COMMAND}"


def _models(kind: object) -> Iterator[type[BaseModel]]:
    """The models in a type, and in the fields of these."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
        for field in kind.model_fields.values():
            yield from _models(field.annotation)
    for part in get_args(kind):
        yield from _models(part)


def test_every_setting_has_a_row() -> None:
    from vfl.party.config import Job, Party
    from vfl.party.project_file import Project
    from vfl.party.relay_file import RelayFile
    from vfl.party.shape_file import ShapeFile
    from vfl.party.tariff_file import TariffFile
    from vfl.party.tune_section import Range, Values

    page = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    shown = {
        (model, key)
        for name in re.findall("<!-- settings: ([\\w.]+) -->", page)
        for model in made_tables.model_of(name).__mro__
        if issubclass(model, BaseModel)
        for key in model.model_fields
    }
    files = (Party, Job, Project, RelayFile, TariffFile, ShapeFile)
    sections = {model for file in files for model in _models(file)} - {*files}
    sections -= {Range, Values}  # what [tune.space] has for a setting, which the notes say
    lost = {
        f"{model.__name__}.{key}"
        for model in sections
        for key in model.model_fields
        if not any((parent, key) in shown for parent in model.__mro__)
    }
    assert lost == set() and len(sections) > 20


def test_lists_that_are_written_by_hand_are_whole() -> None:
    from vfl.news import Event
    from vfl.party.tokens import SCOPES

    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    (events,) = re.findall(r"^\| `event` \| (.*) \|$", page, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", events)) == {*get_args(Event)}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    shown = "".join(re.findall(r"^\| `pip install .*", page, re.MULTILINE))
    assert set(re.findall(r"'\.\[(\w+)\]'", shown)) == {*extras["optional-dependencies"]} - {"dev"}
    online = (ROOT / "docs" / "online.md").read_text("utf-8")
    (scopes,) = re.findall(r"^\| scope \|.*\n\|.*\n((?:\|.*\n)+)", online, re.MULTILINE)
    assert re.findall(r"^\| `(\w+)` \|", scopes, re.MULTILINE) == [*SCOPES]


class Shop(BaseModel):
    """A model of this test."""

    open_days: int = Field(7, ge=1, le=7, description="days a week; [till] has the hours")
    loaves: int = Field(20_000, description="at hand")
    kinds: tuple[str, ...] = Field((), description='"new" | "old", with open_days = 7 alone')


class Bakery(Shop):
    """One with keys of another."""

    limit: int = Field(ge=20_000, lt=2**63, description="most loaves (docs/bread.md)")


def test_a_table_is_made_where_a_comment_says_of_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_tables, "model_of", {"x.Shop": Shop, "x.Bakery": Bakery}.__getitem__)
    marks = [f"<!-- settings: {what} -->" for what in ("x.Shop", "x.Bakery", "x.Bakery: kinds")]
    page = f"### [till]\n\n{marks[0]}\n\n| old |\n\n{marks[1]}\n\ntext\n\n{marks[2]}\n\n"
    head = "| key | value | default | meaning |\n| --- | --- | --- | --- |"
    days = (
        "| `open_days` | a whole number from 1 to 7 | `7` | days a week; [[till]](#till) has the hours |"
    )
    kinds = (
        '| `kinds` | a list of text in quotes | `[]` | `"new"` \\| `"old"`, with `open_days = 7` alone |'
    )
    limit = (
        "| `limit` | a whole number of at least 20,000 and below 2^63 | **required** | most loaves "
        "([more](bread.md)) |"
    )
    loaves = "| `loaves` | a whole number | `20_000` | at hand |"
    assert made_tables.made(page) == (
        f"### [till]\n\n{marks[0]}\n\n{head}\n{days}\n{loaves}\n{kinds}\n\n"
        f"{marks[1]}\n\n{head}\n{limit}\n\ntext\n\n{marks[2]}\n\n{head}\n{kinds}\n\n"
    )
    assert made_tables.made(made_tables.made(page)) == made_tables.made(page)


def test_docstrings_say_of_settings_what_these_say_of_themselves() -> None:
    said = "    own : int, default=1\n        mine\n"
    said += "    open_days : int, default=7\n        some\n        days\n"
    made = made_tables.documented(f"{said}    limit : int\n        most\n", Shop)
    assert made == said.replace("some\n        days", "days a week; [till] has the hours") + (
        "    limit : int\n        most\n"
    )


def test_rows_of_messages_are_made_but_for_when_they_are_sent() -> None:
    head = "| message | direction | sent | reveals |\n| --- | --- | --- | --- |\n"
    page = f"{head}| `Gradients` | to and fro | step 2, `once` | all |\n\n| `Gradients` | other |\n"
    made = made_tables.made(page)
    assert "| `Gradients` | guest -> host | step 2, `once` | nothing to who lacks the key; " in made
    assert made.endswith("\n\n| `Gradients` | other |\n")
    with pytest.raises(ValueError, match="Nothing is no message"):
        made_tables.made(f"{head}| `Nothing` | a | b | c |\n")
    with pytest.raises(ValueError, match="has no description"):
        made_tables.made("<!-- settings: vfl.party.tokens.Token -->\n\n")
    with pytest.raises(ValueError, match="is no table of figures"):
        made_tables.made("<!-- figures: vfl.online.metrics.TYPE -->\n\n")
    with pytest.raises(ValueError, match=r"has \[0, 3\], not \[0, 1, "):
        made_tables.made("| code | meaning | do |\n| ---: | --- | --- |\n| 0 | a | |\n| 3 | b | c |\n")
    with pytest.raises(ValueError, match="is no comment that a table is made by"):
        made_tables.made("<!-- setting: vfl.party.tokens.Token -->\n\n")
    with pytest.raises(ValueError, match="is no model of settings"):
        made_tables.made("<!-- settings: vfl.party.tokens.Tokens -->\n\n")
