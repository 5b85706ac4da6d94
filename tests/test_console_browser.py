"""The story in a browser: a guest asks, a person approves, watches, and compares two runs.

Needs Chromium and its driver (Debian: chromium, chromium-driver); left out without them.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsers import headless, needs_browser
from consoles import Running, serving
from federation import JOB, PATIENCE, WAIT, Federation, ended
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytestmark = needs_browser


@pytest.fixture
def browser() -> Iterator[Any]:
    yield from headless("browser")


def until(found: Callable[[], Any]) -> Any:
    """What is found, once it is."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if (what := found()) not in (None, False, []):
                return what
        except Exception as error:  # an element that the page has just replaced
            last: object = error
        else:
            last = "nothing"
        assert time.monotonic() < deadline, last
        time.sleep(0.05)


def element(browser: Any, selector: str) -> Any:
    return until(lambda: browser.find_elements(By.CSS_SELECTOR, selector))[0]


def text(browser: Any) -> str:
    return str(until(lambda: browser.find_element(By.TAG_NAME, "body").text))


def shown_at(browser: Any, width: int, scheme: str) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def sign_in(browser: Any, console: Running, role: str) -> None:
    browser.get(f"{console.base}/")
    element(browser, "#name").send_keys("Ada")
    element(browser, "#token").send_keys(console.token(role) + Keys.ENTER)
    until(lambda: browser.current_url == f"{console.base}/")


def approve(browser: Any, what: str) -> None:
    """Approve the job that appears in the inbox without being loaded again, by keys alone."""
    until(lambda: what in browser.find_element(By.ID, "part").text)
    until(lambda: browser.find_element(By.CSS_SELECTOR, ".cards a").send_keys(Keys.ENTER) is None)
    element(browser, "#reason").send_keys("as agreed", Keys.TAB, Keys.ENTER)
    until(lambda: "approved by Ada (console, token)" in text(browser))


def fits(browser: Any) -> bool:
    """Whether nothing of the page is wider than the window."""
    script = "return document.documentElement.scrollWidth <= window.innerWidth"
    return bool(browser.execute_script(script))


def focus_is_seen(browser: Any) -> bool:
    """Whether each of the first stops of the tab key is drawn as the one that has the focus."""
    style = "const is = getComputedStyle(document.activeElement);"
    drawn = "is.outlineStyle !== 'none' && parseFloat(is.outlineWidth) >= 2"
    ended = "document.activeElement === document.body"  # after the last one
    for _ in range(12):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        if not browser.execute_script(f"{style} return {ended} || {drawn}"):
            return False
    return True


def test_a_host_approves_watches_and_compares(
    browser: Any, tmp_path: Path, keys: Path, quick_key: None
) -> None:
    with ended(Federation(tmp_path, keys, hosts=("registry",))) as made:
        registry, insurer = made.parties["registry"], made.guest
        registry.settings["policy"]["approve"] = "person"
        made.serve()
        with serving(registry) as console:
            sign_in(browser, console, "approve")
            assert "No job waits for a decision." in text(browser)
            aligning = insurer.start("align", *WAIT, "--json")
            approve(browser, "align")
            aligning.wait().ok()

            models = []
            for trees in (2, 3):
                job = {**JOB, "secureboost": {**JOB["secureboost"], "trees": trees}}
                browser.get(f"{console.base}/")
                training = insurer.start_train(job)
                until(lambda: "train claims" in browser.find_element(By.ID, "part").text)
                browser.get(f"{console.base}/live")
                assert until(lambda: "waiting for a person's approval" in text(browser))
                assert "insurer" in text(browser)
                browser.get(f"{console.base}/")
                approve(browser, "train claims")
                models.append(training.wait().ok().json["model"])

            browser.get(f"{console.base}/runs")
            for name in models:
                element(browser, f"input[value='{name}']").send_keys(Keys.SPACE)
            element(browser, "form[action='/runs/compare'] button").send_keys(Keys.ENTER)
            until(lambda: "2 runs side by side" in browser.title)
            assert "secureboost.trees" in text(browser)
            for path in ("", "live", "runs", "kept", "ledger", "ledger/verify", "policy"):
                browser.get(f"{console.base}/{path}")
                for width in (390, 768, 1920):
                    for scheme in ("light", "dark"):
                        shown_at(browser, width, scheme)
                        assert fits(browser), (path, width)
                assert focus_is_seen(browser), path
            assert "whole" in (browser.get(f"{console.base}/ledger/verify") or text(browser))
            browser.get(f"{console.base}/ledger?decisions=on")
            assert text(browser).count("as agreed") == 3
        errors = [entry["message"] for entry in browser.get_log("browser")]
        assert errors == []  # what the policy forbids would be here, too
