"""The page of `hft ui` in a real browser: a run is composed, started, watched, tried and compared, also by keyboard.

Chromium is the system's. `axe-core` is looked for below `HFT_AXE` (a folder with node_modules); screenshots stay in the
folder `HFT_SCREENSHOTS`, if that is set.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import hft_core

pytest.importorskip("fastapi", reason="the extra serve")
pytest.importorskip("uvicorn", reason="the extra serve")
playwright = pytest.importorskip("playwright.sync_api", reason="drives a browser")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]
ROOT = Path(__file__).parents[2]
NASTY = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def address(models: Any, toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the page is, with its token; there are two finished runs, one of them with a hostile name in its log."""
    space = tmp_path_factory.mktemp("space")
    shutil.copytree(models["bert"], space / "model")
    (space / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in toys.rows(60)))
    for name in ("one", "two"):
        recipe = {
            "backbone": {"model": str(models["bert"])},
            "tasks": {"topic": {"head": "classification"}},
            "stages": [{"strategy": "full", "max_steps": 4}],
            "precision": "fp32",
            "output": {"logging_steps": 1},
        }
        hft_core.run(recipe, data={"topic": {"train": toys.rows(40), "dev": toys.rows(8, seed=1)}}, output=space / name)
    with open(space / "two" / "log.jsonl", "a") as log:
        log.write(json.dumps({"event": "step", "stage": NASTY, "step": 5, "steps": 5, "losses": {NASTY: 0.1}}) + "\n")
    said = space.parent / "said.txt"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")])}
    with open(said, "w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "hft_core", "ui", str(space), "--port", "0"], stderr=file, env=environment
        )
    try:
        deadline = time.monotonic() + 60
        while not (found := re.search(r"open (http\S+)", said.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.2)
        yield found[1]
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def opened(browser: Any, address: str, **settings: Any) -> Any:
    """A page that has logged in, and collects what goes wrong in it."""
    page = browser.new_context(**settings).new_page()
    page.set_default_timeout(60_000)
    page.wrong = []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("console", lambda message: page.wrong.append(message.text) if message.type == "error" else None)
    page.on("dialog", lambda dialog: (page.wrong.append("a dialog"), dialog.dismiss()))
    page.goto(address)
    page.wait_for_selector("table")
    assert "token" not in page.url
    return page


def look(page: Any, name: str) -> None:
    """Keep a screenshot, and let axe-core look for what a screen reader or keyboard cannot use."""
    if folder := os.environ.get("HFT_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (
        "the page is wider than its window"
    )
    axe = Path(os.environ.get("HFT_AXE", "")) / "node_modules" / "axe-core" / "axe.min.js"
    if axe.is_file():
        page.evaluate(axe.read_text())
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']}).then((r) => r.violations)")
        assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []


def test_a_run_is_composed_started_watched_and_tried(browser: Any, address: str) -> None:
    page = opened(browser, address, bypass_csp=bool(os.environ.get("HFT_AXE")))
    base = page.url
    look(page, "runs")
    page.get_by_role("link", name="New run").click()
    page.get_by_label("Name of the run").fill("three")
    page.get_by_label("Model", exact=True).fill("mode")
    page.wait_for_function("document.getElementById('yaml').value.includes('mode')")
    page.get_by_label("Model", exact=True).fill("model")
    page.get_by_label("Data", exact=True).fill("rows.jsonl")
    page.get_by_label("max_steps").fill("40")
    page.get_by_label("Strategy").select_option("full")
    page.wait_for_function("document.getElementById('yaml').value.includes('strategy: full')")
    page.wait_for_selector("#check.good")
    assert page.locator("#command").inner_text() == "hft run three.yaml --out three"
    area = page.locator("#yaml")
    good = area.input_value()
    area.fill(good.replace("classification", "clasification"))
    page.wait_for_selector("#check.bad")
    assert "Did you mean 'classification'?" in page.locator("#check").inner_text()
    assert page.get_by_role("button", name="Start the run").is_disabled()
    area.fill(good)
    page.wait_for_selector("#check.good")
    look(page, "new")
    page.get_by_role("button", name="Start the run").click()
    page.wait_for_selector(".state.running")
    page.reload()  # a refresh loses nothing
    page.wait_for_selector(".state.finished", timeout=120_000)
    page.wait_for_selector("figure svg path")
    page.get_by_role("button", name="Open the model").click()
    page.locator("form textarea").fill(f"the cat saw the dog {NASTY}")
    page.get_by_role("button", name="Which words mattered?").click()
    page.wait_for_selector(".words")
    assert page.locator(".word").first.inner_text() == "the"
    look(page, "run")
    page.goto(f"{base}#/runs")
    page.get_by_label("Compare one").check()
    page.get_by_label("Compare two").check()
    page.get_by_role("button", name="Compare 2 runs").click()
    page.wait_for_selector("figure svg path")
    assert NASTY in page.locator("main").inner_text()
    look(page, "comparison")
    assert page.wrong == []


def test_a_phone_in_the_dark_and_a_keyboard_can_use_it(browser: Any, address: str) -> None:
    page = opened(
        browser,
        address,
        bypass_csp=bool(os.environ.get("HFT_AXE")),
        viewport={"width": 390, "height": 800},
        color_scheme="dark",
    )
    base = page.url
    for where, shown in (
        ("#/runs", "table"),
        ("#/run/one", "figure svg path"),
        ("#/compare/one,two", "svg path"),
        ("#/new", "#yaml"),
    ):
        page.goto(f"{base}{where}")
        page.wait_for_selector(shown)
        look(page, f"phone-{where[2:].replace('/', '-')}")
    page.goto(f"{base}#/runs")
    page.wait_for_selector("table a")
    page.keyboard.press("Tab")
    seen = []
    for _ in range(12):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate("document.activeElement.textContent || document.activeElement.getAttribute('aria-label')")
        )
        if seen[-1] == "one":
            page.keyboard.press("Enter")
            break
    page.wait_for_url("**/#/run/one")
    assert page.wrong == [], seen
