"""The page in a real headless Chromium: nothing broken, nothing cut off, nothing that cannot be read."""

from __future__ import annotations

import pytest

from tests.report.conftest import keep_screenshot, render
from tests.report.made import contents

SCREENS = {
    "desktop-light": {"width": 1200, "scheme": "light"},
    "desktop-dark": {"width": 1200, "scheme": "dark"},
    "phone-light": {"width": 375, "height": 720, "scheme": "light"},
    "phone-dark": {"width": 375, "height": 720, "scheme": "dark"},
}
FIGURES = {"quality", "speed", "losses", "depth", "sparsity-1", "errors-1", "pareto"}

# Every visible piece of text with the least contrast of WCAG AA (4.5) that it falls short of.
FAINT = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const part = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
  };
  const faint = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !node.checkVisibility() || node.closest("script, title")) continue;
    seen += 1;
    const style = getComputedStyle(node);
    const front = parse(node.closest("svg") ? style.fill : style.color);
    const [a, b] = [light(front), light(behind(node))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) faint.push([walk.currentNode.textContent.trim(), contrast]);
  }
  return [seen, faint];
}"""

# Texts of charts that leave their chart, and pairs of them that lie over each other.
CLASHES = """() => {
  const out = [], over = [];
  for (const svg of document.querySelectorAll("figure svg")) {
    if (!svg.checkVisibility()) continue;
    const frame = svg.getBoundingClientRect();
    const boxes = [...svg.querySelectorAll("text")].map((one) => [one.textContent.trim(), one.getBoundingClientRect()]);
    for (const [text, box] of boxes) {
      const outside = [frame.left - box.left, box.right - frame.right, frame.top - box.top, box.bottom - frame.bottom];
      if (Math.max(...outside) > 1) out.push([text, outside]);
    }
    boxes.forEach(([text, a], index) => boxes.slice(index + 1).forEach(([other, b]) => {
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 1 && high > 3) over.push([text, other]);
    }));
  }
  return [out, over];
}"""

# Everything that reaches beyond the screen and does not lie in a box that scrolls.
BEYOND = """() => [...document.querySelectorAll("body *")]
  .filter((one) => one.checkVisibility() && !one.closest(".scroll") && !one.closest("svg"))
  .filter((one) => one.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
  .map((one) => one.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize("screen", SCREENS)
def test_the_page_opens_and_every_figure_has_a_size(screen, visit):
    page = visit(**SCREENS[screen])
    keep_screenshot(page, f"report-{screen}")
    assert {one.get_attribute("id") for one in page.locator("figure").all()} == FIGURES
    for name in FIGURES:
        shown = [one for one in page.locator(f"#{name} svg").all() if one.is_visible()]
        assert len(shown) == 1
        box = shown[0].bounding_box()
        assert box["width"] > 250
        assert box["height"] > 60


@pytest.mark.parametrize("screen", SCREENS)
def test_all_text_can_be_read_on_its_ground(screen, visit):
    seen, faint = visit(**SCREENS[screen]).evaluate(FAINT)
    assert seen > 300
    assert faint == []


@pytest.mark.parametrize("width", [320, 375, 641, 800, 1200, 2000])
def test_nothing_is_cut_off(width, visit):
    page = visit(width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(BEYOND) == []
    assert page.evaluate(CLASHES) == [[], []]


def test_dark_is_dark_and_its_charts_are_other_than_the_light_ones(visit):
    colours = {}
    for scheme in ("light", "dark"):
        page = visit(scheme=scheme)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        label = page.locator("#losses .wide svg text").first.evaluate("one => getComputedStyle(one).fill")
        colours[scheme] = (ground, label)
    assert colours["light"][0] == "rgb(246, 247, 249)"
    assert colours["dark"][0] == "rgb(16, 19, 23)"
    assert colours["light"][1] != colours["dark"][1]


def column(page, table, index):
    return page.locator(f'table[aria-label="{table}"] tbody tr td:nth-child({index})').all_inner_texts()


def test_a_table_is_sorted_by_the_head_that_is_pressed(visit):
    page = visit()
    head = page.get_by_role("table", name="Rounds of the search").get_by_role("columnheader", name="block")
    assert column(page, "Rounds of the search", 2) == ["5", "3"]
    head.get_by_role("button").click()
    assert column(page, "Rounds of the search", 2) == ["3", "5"]
    assert head.get_attribute("aria-sort") == "ascending"
    head.get_by_role("button").click()
    assert column(page, "Rounds of the search", 2) == ["5", "3"]
    assert head.get_attribute("aria-sort") == "descending"


def test_numbers_are_sorted_as_numbers_and_rows_stay_whole(visit):
    page = visit()
    name = "Points of the sweep"
    before = {
        tuple(row.locator("td").all_inner_texts()) for row in page.locator(f'table[aria-label="{name}"] tbody tr').all()
    }
    head = page.get_by_role("table", name=name).get_by_role("button", name="perplexity")
    head.click()
    assert [cell.split()[0] for cell in column(page, name, 4)] == ["12.34", "15.00", "17.89", "23.45", "40.00"]
    after = {
        tuple(row.locator("td").all_inner_texts()) for row in page.locator(f'table[aria-label="{name}"] tbody tr').all()
    }
    assert after == before
    page.get_by_role("table", name=name).get_by_role("button", name="model").click()
    assert column(page, name, 1) == sorted(column(page, name, 1))
    assert page.locator(f'table[aria-label="{name}"] th[aria-sort]').count() == 1


def test_the_keyboard_sorts_and_scrolls(visit):
    page = visit(width=375, height=720)
    button = page.get_by_role("table", name="Rounds of the search").get_by_role("button", name="block")
    button.focus()
    page.keyboard.press("Enter")
    assert column(page, "Rounds of the search", 2) == ["3", "5"]
    box = page.get_by_role("region", name="Points of the sweep")
    box.focus()
    assert box.evaluate("one => one.scrollWidth > one.clientWidth && document.activeElement === one")


def test_long_tables_unfold(visit):
    page = visit()
    table = page.locator('table[aria-label="Every candidate\'s loss"]')
    assert not table.is_visible()
    page.get_by_text("Every candidate's loss (11 rows)").click()
    assert table.is_visible()


def test_hostile_names_run_nothing(visit, tmp_path):
    evil = "<img src=x onerror=console.log(1)><script>console.log(2)</script>"
    path = tmp_path / "evil.html"
    path.write_text(render(contents(model=evil, run=evil, remarks=(evil,))), encoding="utf-8")
    page = visit(path)
    assert page.locator("h1").inner_text() == evil
    assert page.locator("img").count() == 0


def test_a_run_that_holds_little_has_a_page_too(visit, tmp_path):
    path = tmp_path / "little.html"
    little = contents(importance=None, checkpoints=(), measurements=(), sweep=None, generations=None)
    path.write_text(render(little), encoding="utf-8")
    page = visit(path, width=375, height=720)
    keep_screenshot(page, "report-little")
    assert page.locator(".missing").count() == 5
    assert page.evaluate(BEYOND) == []
