"""A real headless Chromium, where there is one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from llmprune.report.charts.canvas import NARROW, WIDE, to_svg
from llmprune.report.page import Drawn, render_page, report_sections
from tests.report.made import contents

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "test-artifacts"  # git ignores it
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def render(made) -> str:
    """The page of a run, its charts really drawn."""
    sections = report_sections(made)
    drawn = {
        chart.name: Drawn(
            to_svg(chart.draw, name=f"{chart.name}-wide", width=WIDE, title=chart.title),
            to_svg(chart.draw, name=f"{chart.name}-narrow", width=NARROW, title=chart.title),
        )
        for section in sections
        for chart in section.charts
    }
    return render_page(made, sections, drawn, made="2026-01-02 03:04 UTC", version="9.9")


@pytest.fixture(scope="session")
def page_file(tmp_path_factory) -> Path:
    """The page of a run that holds everything."""
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(render(contents()), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, page_file) -> Iterator[Callable[..., Page]]:
    """Open a page; at the end see that it complained of nothing and asked for nothing."""
    opened, complaints, requests = [], [], []

    def open_page(path: Path = page_file, *, width: int = 1200, height: int = 900, scheme: str = "light") -> Page:
        context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        opened.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in opened:
        context.close()
    assert complaints == []
    assert all(url.startswith(("file:", "data:")) for url in requests)


def keep_screenshot(page: Page, name: str) -> None:
    """Keep a picture of the whole page for people to look at."""
    SCREENSHOTS.mkdir(exist_ok=True)
    path = SCREENSHOTS / f"{name}.png"
    page.screenshot(path=path, full_page=True)
    assert path.stat().st_size > 10_000
