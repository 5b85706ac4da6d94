"""The documentation: every link leads somewhere, and the pages of the site are made of what there is."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


def _loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stage", ROOT / "docs" / "site" / "stage.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


stage = _loaded()


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
