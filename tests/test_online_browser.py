"""The service's page in a browser: it describes all there is, tries it, and loads nothing elsewhere.

Needs Chromium and its driver (Debian: chromium, chromium-driver); left out without them.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from browsers import needs_browser
from federation import Party
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from test_online_server import guest, port_of
from test_report_browser import browser, colour

from vfl.party.tokens import add_token

__all__ = ["browser", "guest"]

pytestmark = needs_browser
PATIENCE = 60


@pytest.fixture
def page(guest: Party) -> Iterator[tuple[str, str]]:
    """The address of a service, and a token."""
    path = guest.folder / "online-tokens.toml"
    token = add_token(path, "quotes", ["score", "models", "explain"])
    running = guest.start("online")
    yield f"http://127.0.0.1:{port_of(running)}", token
    guest.close([token])


def press(browser: Any, block: str, text: str) -> None:
    buttons = browser.find_elements(By.CSS_SELECTOR, f"#{block} button")
    next(button for button in buttons if button.text == text).click()


def told(browser: Any, block: str, start: str) -> str:
    """What is shown of an answer, once its status is."""
    status = f"#{block} [role=status]"
    WebDriverWait(browser, PATIENCE).until(
        lambda driver: driver.find_element(By.CSS_SELECTOR, status).text.startswith(start)
    )
    return str(browser.find_element(By.CSS_SELECTOR, f"#{block} pre").text)


def test_the_page_describes_and_tries_what_there_is(browser: Any, page: tuple[str, str]) -> None:
    address, token = page
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(f"{address}/docs")
    blocks = WebDriverWait(browser, PATIENCE).until(
        lambda driver: (
            driver.find_elements(By.CSS_SELECTOR, "#schemas details")
            and driver.find_elements(By.CSS_SELECTOR, "#paths details")
        )
    )
    assert [block.get_attribute("id") for block in blocks] == [
        "post-v1-score",
        "get-v1-models",
        "get-healthz",
        "get-readyz",
        "get-metrics",
    ]
    assert "while somebody waits" in browser.find_element(By.ID, "about").text
    schemas = [one.text for one in browser.find_elements(By.CSS_SELECTOR, "#schemas summary code")]
    assert {"ScoreAnswer", "ScoredRow", "Failure", "HostState"} <= {*schemas}
    for block in blocks:
        block.find_element(By.TAG_NAME, "summary").click()
    said = browser.find_element(By.ID, "post-v1-score").text
    assert "rows that cannot be used: which row and column, never a value" in said

    press(browser, "get-healthz", "Send")
    assert json.loads(told(browser, "get-healthz", "200"))["status"] == "ok"
    press(browser, "post-v1-score", "Send")
    assert "show a token" in json.loads(told(browser, "post-v1-score", "401"))["error"]

    browser.find_element(By.ID, "token").send_keys(token)
    press(browser, "post-v1-score", "Fill in a model's columns")
    area = browser.find_element(By.CSS_SELECTOR, "#post-v1-score textarea")
    WebDriverWait(browser, PATIENCE).until(lambda driver: "born" in area.get_attribute("value"))
    body = json.loads(area.get_attribute("value"))
    assert body["rows"][0].keys() == {"age", "born", "area"}
    press(browser, "post-v1-score", "Send")
    answer = json.loads(told(browser, "post-v1-score", "200"))
    assert 0 < answer["results"][0]["prediction"] < 1

    # Nothing came from elsewhere, and the page's own policy forbade nothing of it.
    logged = [entry for entry in browser.get_log("browser") if entry["level"] != "DEBUG"]
    assert [entry for entry in logged if "401" not in entry["message"]] == []
    asked = [e["message"] for e in browser.get_log("performance") if "requestWillBeSent" in e["message"]]
    urls = [json.loads(one)["message"]["params"].get("request", {}).get("url", "") for one in asked]
    assert urls and all(url.startswith((address, "data:")) for url in urls if url), urls


@pytest.mark.slow
def test_both_themes_and_a_narrow_window(browser: Any, page: tuple[str, str]) -> None:
    address, _ = page
    looks = set()
    for scheme, width in (("light", 1280), ("dark", 360)):
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get(f"{address}/docs")
        WebDriverWait(browser, PATIENCE).until(
            lambda driver: driver.find_elements(By.CSS_SELECTOR, "#schemas details")
        )
        for block in browser.find_elements(By.CSS_SELECTOR, "summary"):
            block.click()
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        looks.add((colour(browser, "body", "backgroundColor"), colour(browser, "h1", "color")))
    assert len(looks) == 2
