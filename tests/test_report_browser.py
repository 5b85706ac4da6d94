"""The report in a browser: themes, the choice of a column, a phone's width, print; nothing is loaded.

Needs Chromium and its driver (Debian: chromium, chromium-driver); left out without them.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsers import headless, needs_browser
from reports import made_up, with_all
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from vfl.models.relativities import Line
from vfl.report.page import render
from vfl.report.screen_page import CorrelatedTable, ScreenPage, screen_files

pytestmark = needs_browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, few_draws: None) -> str:
    """The address of a guest's page."""
    folder = tmp_path_factory.mktemp("page")
    for name, content in render(with_all(made_up())).items():
        (folder / name).write_bytes(content)
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from headless("browser", "performance")


@pytest.fixture(autouse=True)
def nothing_loaded_and_no_error(browser: Any, page: str) -> Iterator[None]:
    for log in ("browser", "performance"):
        browser.get_log(log)
    yield
    assert browser.get_log("browser") == []  # what the page's policy forbids would be here, too
    asked = [e["message"] for e in browser.get_log("performance") if "requestWillBeSent" in e["message"]]
    assert asked and all(page in message for message in asked)
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def show(browser: Any, page: str, width: int, **media: str) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": media.get("scheme", "light")}]
    kind = {"media": media.get("medium", "screen"), "features": features}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", kind)
    browser.get(page)


def colour(browser: Any, element: str, what: str) -> str:
    script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    return str(browser.execute_script(script, element, what))


def shown(browser: Any, within: str = "") -> list[bool]:
    found = browser.find_elements(By.CSS_SELECTOR, f"{within} .item")
    return [one.is_displayed() for one in found]


def show_all(browser: Any) -> None:
    """Every column of every picker."""
    for one in browser.find_elements(By.CSS_SELECTOR, ".pick select"):
        Select(one).select_by_visible_text("(all)")


def test_both_themes(browser: Any, page: str) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        show(browser, page, 1280, scheme=scheme)
        button = browser.find_element(By.ID, "theme")
        other = "dark" if scheme == "light" else "light"
        for now, then in ((scheme, other), (other, scheme)):
            # Page, text and the lines of figures change together.
            look = (
                colour(browser, "body", "backgroundColor"),
                colour(browser, "h1", "color"),
                colour(browser, ".chart path[stroke='var(--ours)']", "stroke"),
            )
            assert seen.setdefault(now, look) == look
            assert button.text == f"{then.capitalize()} theme"
            button.click()
    assert all(a != b for a, b in zip(seen["light"], seen["dark"], strict=True))


def test_a_column_is_picked(browser: Any, page: str) -> None:
    show(browser, page, 1280)
    for section in ("#benchmark", "#factors"):
        select = Select(browser.find_element(By.CSS_SELECTOR, f"{section} .pick select"))
        columns = len(select.options) - 1
        assert columns == 7 == len(shown(browser, section))
        for place in (0, 4):
            select.select_by_index(place)
            assert shown(browser, section) == [i == place for i in range(columns)]
            item = browser.find_elements(By.CSS_SELECTOR, f"{section} .item")[place]
            assert item.find_element(By.TAG_NAME, "h3").text == select.options[place].text
        select.select_by_visible_text("(all)")
        assert all(shown(browser, section))


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_no_width_scrolls_sideways_or_makes_figures_small(browser: Any, page: str, width: int) -> None:
    show(browser, page, width)
    show_all(browser)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    # Text of figures is not tiny, on a usual phone 9 pixels high; and none is cut off by its card.
    sizes, outside = browser.execute_script(
        """
        const sizes = [], outside = [];
        for (const svg of document.querySelectorAll("svg")) {
          const card = svg.closest("figure").getBoundingClientRect();
          for (const text of svg.querySelectorAll("text")) {
            const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
            sizes.push(scale * text.getAttribute("font-size"));
            const box = text.getBoundingClientRect();
            if (box.left < card.left || box.right > card.right || box.top < card.top
                || box.bottom > card.bottom) outside.push(text.textContent);
          }
        }
        return [sizes, outside];
        """
    )
    assert len(sizes) > 100 and min(sizes) >= (9 if width >= 390 else 7.5)
    assert outside == []
    # No number lies on another one.
    over = browser.execute_script(
        """
        const over = [];
        for (const svg of document.querySelectorAll("svg")) {
          const texts = [...svg.querySelectorAll("text")].map(one => [one.textContent,
            one.getBoundingClientRect()]).filter(([text]) => /^[\\d.,%\\s−]+$/.test(text));
          for (const [i, [text, a]] of texts.entries()) for (const [other, b] of texts.slice(i + 1)) {
            const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
            const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
            if (wide > 0.5 && high > 0.15 * Math.min(a.height, b.height)) over.push([text, other]);
          }
        }
        return over;
        """
    )
    assert over == []


def test_tables_fit_a_phone(browser: Any, page: str, tmp_path: Path) -> None:
    lines = [
        Line("(intercept)", "", -1.5, None, 0.22, None),
        *(Line("occupation", f"level {i}", -0.1, None, 0.9048, 12_345) for i in range(3)),
        *(
            Line("a_long_name_of_a_column", "=HYPERLINK(x)", -0.1, None, 0.9048, 12_345)
            for _ in range(2)
        ),
        Line("sum_insured", "", -0.1, -1e-6, 1.0, 12_345, 50_000.0, -0.05, 0.9512),
        Line("kw", "", 0.1, 0.1, 1.1, 12_345, 0.2815, -0.05, 0.9512, is_deviation=True),
        Line("region", "Northern", -0.1, None, 0.9048, 12_345),
    ]
    job = {"job": {**made_up().job["job"], "model": "glm", "family": "poisson"}, "glm": {}}
    linear = made_up(role="host", party="registry", job=job, lines=lines)
    counts = {
        "job": {**made_up().job["job"], "objective": "poisson"},
        "secureboost": {"tweedie_power": 1.5},
    }
    held_out = made_up().held_out
    years = np.linspace(0.1, 1, len(held_out.label))
    exposed = made_up(job=counts, held_out=replace(held_out, years=years, weight=years))
    for content in (render(made_up()), render(linear), render(exposed)):
        (tmp_path / "report.html").write_bytes(content["report.html"])
        show(browser, (tmp_path / "report.html").as_uri(), 390)
        cut = browser.execute_script(
            """
            const wide = one => [one.textContent.slice(0, 200), one.scrollWidth, one.clientWidth];
            const tables = [...document.querySelectorAll(".table")].map(wide);
            return tables.filter(([text, needed, there]) => needed > there);
            """
        )
        assert cut == []
        broken = browser.execute_script(
            """
            const lines = one => {
              const range = document.createRange();
              range.selectNodeContents(one);
              return new Set([...range.getClientRects()].map(box => box.top)).size;
            };
            const cells = [...document.querySelectorAll("td.text")];
            const words = cells.filter(one => /^\\S{1,8}$/.test(one.textContent.trim()));
            return words.filter(one => lines(one) > 1).map(one => one.textContent);
            """
        )
        assert broken == []
    browser.get_log("performance")
    browser.get(page)


def test_wide_tables_split_no_word_on_a_phone(browser: Any, page: str, tmp_path: Path) -> None:
    """Neither does the page as a whole scroll, heat map and all, in either theme."""
    names = [f"registry_column_{number}" for number in range(9)]
    figures = [[100 - 25 * i + j for j in range(9)] for i in range(8)]
    tables = [CorrelatedTable("insurer", "registry", names[:8], names, figures, figures)]
    head = ("party", "column", "levels", "IV", "deviance", "VIF", "advice")
    lines = [("insurer", name, "12", "0.1234", "1.25%", "no bound", "inflated") for name in names]
    about = ("insurer", ["registry"], "claims", "a test", "2027-01-01T00:00:00+00:00", "1", 4857)
    made = screen_files(ScreenPage(*about, head, lines, ["a note"], tables, [head, *lines], [head]))
    (tmp_path / "report.html").write_bytes(made["screen.html"])
    for scheme in ("light", "dark"):
        show(browser, (tmp_path / "report.html").as_uri(), 390, scheme=scheme)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
        split = browser.execute_script(
            """
            const split = [];
            for (const cell of document.querySelectorAll(".wide th, .wide td, .heat th, .heat td")) {
              const walk = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
              while (walk.nextNode()) for (const word of walk.currentNode.data.matchAll(/\\S+/g)) {
                const range = document.createRange();
                range.setStart(walk.currentNode, word.index);
                range.setEnd(walk.currentNode, word.index + word[0].length);
                const boxes = [...range.getClientRects()].map(box => Math.round(box.top) + box.left);
                if (new Set(boxes).size > 1) split.push(word[0]);
              }
            }
            return split;
            """
        )
        assert split == []
        labels = browser.execute_script(
            "return [...document.querySelectorAll('.wide td')].slice(0, 6).map("
            "one => getComputedStyle(one, '::before').content)"
        )
        assert labels == [f'"{name}"' for name in head[1:]]
    # Strong figures are seen: other colours for below and above zero, none for nothing.
    assert (
        len(
            {
                colour(browser, one, "backgroundColor")
                for one in (".more10", ".less7", ".heat td:not([class])")
            }
        )
        == 3
    )
    show(browser, (tmp_path / "report.html").as_uri(), 1280)
    assert browser.find_element(By.CSS_SELECTOR, ".wide thead th").is_displayed()
    browser.get_log("performance")
    browser.get(page)


def test_print_shows_all_columns_in_light_colours(browser: Any, page: str) -> None:
    show(browser, page, 1280)
    on_paper = colour(browser, "h1", "color")
    show(browser, page, 800, scheme="dark", medium="print")
    assert all(shown(browser)) and len(shown(browser)) == 21
    assert colour(browser, "h1", "color") == on_paper
    assert not browser.find_element(By.ID, "theme").is_displayed()
    assert not browser.find_element(By.CSS_SELECTOR, ".pick").is_displayed()


def test_without_script_all_is_there(browser: Any, page: str) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, page, 1280)
        assert all(shown(browser)) and len(shown(browser)) == 21
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
        browser.get(page)


def test_tables_beside_the_page_are_linked(browser: Any, page: str) -> None:
    show(browser, page, 1280)
    links = browser.find_elements(By.CSS_SELECTOR, "a.sheet")
    here = page.rpartition("/")[0]
    files = {link.get_attribute("href").removeprefix(f"{here}/") for link in links}
    folder = Path(here.removeprefix("file://"))
    assert files == {path.name for path in folder.iterdir()} - {"report.html"}
