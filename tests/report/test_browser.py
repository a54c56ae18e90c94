"""The report in a real browser: without errors and barriers, in the dark, without scripts, by keyboard."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_core_python.selenium import Axe
from selenium.webdriver import ActionChains, Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from lab.capture.packets import Trace
from lab.journal import Entry
from lab.net import topology_file
from lab.report.record import Record
from tests.report.conftest import ENDS, Wire
from tests.report.pages import write_report

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
)  # fmt: skip
PAGES = {
    "front": "index.html",
    "failed": "cells/ENC-02.natt-strongswan-one_nat-ikev2/index.html",
    "passed": "cells/ENC-01.natt-strongswan-one_nat-ikev2/index.html",
    "unavailable": "cells/ENC-04.natt-strongswan-one_nat-ikev2/index.html",
}
WIDTHS = (400, 1400)
SCHEMES = ("light", "dark")


def make(wire: Wire, entries: list[Entry], passed: bool = True) -> Record:
    packets = Trace(wire.frames, ("lan", "wan")).packets
    words = {"left": "natt", "nat": "masquerade lan to wan", "right": "strongswan"}
    topology = topology_file.load("one_nat")
    place = "scenarios/test_encapsulation.py:29"
    return Record.of("cell", passed, packets, entries, topology, words, ENDS, place)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tmp_path_factory.mktemp("reports"), make)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # Without its own path selenium would look for a driver elsewhere.
    driver = Chrome(options=options, service=Service("/usr/bin/chromedriver", env=dict(os.environ)))
    yield driver
    driver.quit()


def look(browser: Chrome, page: Path, width: int = 1400, scheme: str = "light") -> None:
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_errors_and_no_barriers(
    browser: Chrome, report: Path, name: str, width: int, scheme: str
) -> None:
    browser.get_log("browser")  # type: ignore[no-untyped-call]
    look(browser, report / PAGES[name], width, scheme)
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
    inner, needed = browser.execute_script("return [window.innerWidth, document.documentElement.scrollWidth]")
    assert needed <= inner, "the page scrolls sideways"
    found = Axe().run(browser)["violations"]
    told = [f"{each['id']}: {node['html']}" for each in found for node in each["nodes"][:3]]
    assert told == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_asks_for_nothing_but_its_own_files(browser: Chrome, report: Path, name: str) -> None:
    browser.get_log("performance")  # type: ignore[no-untyped-call]
    look(browser, report / PAGES[name])
    log = browser.get_log("performance")  # type: ignore[no-untyped-call]
    events = [json.loads(entry["message"])["message"] for entry in log]
    asked = {
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    assert {address for address in asked if not address.startswith("data:")} == {
        (report / PAGES[name]).as_uri(),
        (report / "report.css").as_uri(),
    }


def test_light_and_dark_are_what_the_reader_prefers(browser: Chrome, report: Path) -> None:
    def colours() -> tuple[int, int]:
        found = []
        for name in ("backgroundColor", "color"):
            text = browser.execute_script(f"return getComputedStyle(document.body).{name}")
            found.append(sum(map(int, re.findall(r"\d+", text)[:3])))
        return found[0], found[1]

    look(browser, report / PAGES["failed"], scheme="light")
    assert colours() == (765, pytest.approx(150, abs=60))
    look(browser, report / PAGES["failed"], scheme="dark")
    background, text = colours()
    assert background < 120
    assert text > 600


def shown(browser: Chrome, selector: str) -> list[str]:
    found = browser.find_elements(By.CSS_SELECTOR, selector)
    return [each.text for each in found if each.is_displayed()]


def test_filters_leave_what_matches(browser: Chrome, report: Path) -> None:
    look(browser, report / PAGES["front"])
    rows = "table.cells tr[data-peer]"
    assert len(shown(browser, rows)) == 8
    browser.find_element(By.NAME, "verdict").send_keys("failed")
    assert len(shown(browser, rows)) == 1
    assert shown(browser, "#shown") == ["1 of 8 cells"]
    assert len(shown(browser, ".peers li")) == 1
    browser.find_element(By.CSS_SELECTOR, "button[type=reset]").click()
    browser.find_element(By.NAME, "text").send_keys("enc-07")
    assert len(shown(browser, rows)) == 1
    assert "flaky" in shown(browser, rows)[0]
    browser.find_element(By.NAME, "text").send_keys("0")
    assert shown(browser, rows) == []


def test_a_timeline_leaves_out_what_is_not_wanted(browser: Chrome, report: Path) -> None:
    look(browser, report / PAGES["failed"])
    assert len(shown(browser, ".m-log")) == 1
    assert len(shown(browser, ".m-packet")) > 3
    browser.find_element(By.ID, "show-packet").click()
    assert len(shown(browser, ".m-log")) == 1
    assert shown(browser, ".m-packet") == []


def test_everything_is_there_without_scripts(browser: Chrome, report: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        look(browser, report / PAGES["front"])
        assert len(shown(browser, "table.cells tr[data-peer]")) == 8
        assert shown(browser, "#filters") == [], "a filter that does nothing is not offered"
        look(browser, report / PAGES["failed"])
        assert shown(browser, "svg.sequence .what")
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_keyboard_reaches_the_failed_cell_and_sees_where_it_is(browser: Chrome, report: Path) -> None:
    look(browser, report / PAGES["front"])
    for _ in range(30):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        focused = browser.switch_to.active_element
        if focused.text.startswith("ENC-02"):
            break
    else:
        pytest.fail("thirty times TAB did not lead to the failed cell")
    assert focused.value_of_css_property("outline-style") == "solid"
    focused.send_keys(Keys.ENTER)
    assert browser.title == "failed: ENC-02[natt-strongswan-one_nat-ikev2]"


def test_words_of_the_diagram_lie_within_it(browser: Chrome, report: Path) -> None:
    look(browser, report / PAGES["failed"])
    outside = browser.execute_script(
        """
        const found = [];
        for (const svg of document.querySelectorAll("svg.sequence, svg.network")) {
          const box = svg.getBoundingClientRect();
          for (const text of svg.querySelectorAll("text")) {
            const it = text.getBoundingClientRect();
            if (it.left < box.left - 1 || it.right > box.right + 1) found.push(text.textContent);
          }
        }
        return found;
        """
    )
    assert outside == []
