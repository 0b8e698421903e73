"""Charts: every datum is drawn once, in the colour of its role, and nothing is left of the drawing's own colours."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from functools import partial
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from llmprune.report.charts.canvas import NARROW, WIDE, to_png, to_svg
from llmprune.report.charts.heat import even_scale, ranked_scale
from llmprune.report.charts.measured import Bar, Panel, draw_panels
from llmprune.report.charts.pareto import Plane, Point, draw_pareto
from llmprune.report.charts.search import CandidateMark, Profile, SearchRound, draw_profiles, draw_rounds
from llmprune.report.charts.sparsity import draw_sparsity
from llmprune.report.theme import DARK, HEAT_STEPS, LIGHT, SENTINELS

ROUNDS = [
    SearchRound(
        2,
        1.5,
        (
            CandidateMark(1, 1.75, True),
            CandidateMark(2, 1.5, True),
            CandidateMark(3, 2.5, False),
            CandidateMark(4, 1.25, False),
        ),
    ),
    SearchRound(3, 1.875, (CandidateMark(1, 2.0, False), CandidateMark(3, 1.875, True), CandidateMark(4, 1.9, True))),
]
BARS = (Bar("dense", "dense", 10.0, (9.0, 11.0), "10.00"), Bar("24 of 30", "blocks", 20.0, None, "20.00"))
POINTS = (
    Point("dense", "dense", 10.0, 12.0, (11.0, 13.0), True),
    Point("short", "blocks", 8.0, 20.0, None, True),
    Point("worse", "both", 9.0, 40.0, None, False),
)
CHARTS = {
    "rounds": partial(draw_rounds, ROUNDS, 6),
    "profiles": partial(draw_profiles, [Profile("loss", {1: 0.5, 2: 0.1}, frozenset({1}))], (2,), 6),
    "panels": partial(draw_panels, [Panel("perplexity", BARS)]),
    "sparsity": partial(draw_sparsity, {(0, "q"): 0.5, (1, "q"): 1.0, (1, "o"): 0.0}, ["q", "o"], 2),
    "pareto": partial(draw_pareto, [Plane("millions", POINTS)]),
}


def svg(draw, *, width=WIDE, name="chart", title="A chart"):
    return to_svg(draw, name=name, width=width, title=title)


def texts(drawing):
    return ["".join(node.itertext()).strip() for node in ET.fromstring(with_namespace(drawing)).iter() if is_text(node)]


def with_namespace(drawing):
    return drawing.replace(
        "<svg ", '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    )


def is_text(node):
    return node.tag.endswith("}text")


def filled(drawing, role):
    return len(re.findall(rf"fill: var\(--{role}\)", drawing))


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("name", CHARTS)
def test_an_svg_takes_colours_font_and_size_from_the_page(name, width):
    drawing = svg(CHARTS[name], width=width, name=f"{name}-x", title="Sea & <shore>")
    root = ET.fromstring(with_namespace(drawing))
    assert not any(colour in drawing for _, colour in SENTINELS.roles())
    assert re.findall(r"#[0-9a-f]{6}\b", drawing.replace("#ffffff", "")) == []
    assert "width" not in root.attrib
    assert root.attrib["role"] == "img"
    assert "Sea &amp; &lt;shore&gt;" in drawing
    assert "DejaVu" not in drawing
    ids = re.findall(r'\bid="([^"]*)"', drawing)
    assert all(one.startswith(f"{name}-x-") for one in ids)
    assert set(re.findall(r"(?:url\(#|href=\"#)([^)\"]*)", drawing)) <= set(ids)


@pytest.mark.parametrize("name", CHARTS)
def test_the_same_data_draw_the_same(name):
    assert svg(CHARTS[name]) == svg(CHARTS[name])


@pytest.mark.parametrize("name", CHARTS)
def test_a_png_is_a_picture_of_some_size_and_not_empty(name):
    picture = Image.open(BytesIO(to_png(CHARTS[name])))
    assert picture.format == "PNG"
    assert picture.width == round(WIDE * 200)
    assert len(picture.convert("RGB").getcolors(maxcolors=1 << 24)) > 10


def test_every_candidate_is_a_square_and_the_one_that_went_is_marked():
    drawing = svg(CHARTS["rounds"])
    candidates = sum(len(one.candidates) for one in ROUNDS)
    squares = sum(filled(drawing, f"heat-{step}") for step in range(HEAT_STEPS))
    legend = 2
    assert squares == candidates - len(ROUNDS) + HEAT_STEPS + legend
    assert filled(drawing, "weights") == len(ROUNDS) + 1
    assert {"1.500", "1.875", "removed", "dropped early"} <= set(texts(drawing))


def test_blocks_that_went_have_a_colour_of_their_own_and_partial_ones_are_hollow():
    drawing = svg(CHARTS["profiles"])
    assert filled(drawing, "blocks") == 1
    assert filled(drawing, "dense") == 0
    assert len(re.findall(r"fill: none; stroke: var\(--dense\)", drawing)) == 1


def test_bars_have_their_figures_beside_them():
    drawing = svg(CHARTS["panels"])
    assert {"dense", "24 of 30", "10.00", "20.00", "perplexity"} <= set(texts(drawing))
    assert (filled(drawing, "dense"), filled(drawing, "blocks")) == (1, 1)


def test_figures_far_apart_are_drawn_on_a_logarithmic_axis():
    far = Panel("perplexity", (BARS[0], Bar("2:4", "weights", 5000.0, None, "5,000")))
    assert {"10", "100", "1,000"} <= set(texts(svg(partial(draw_panels, [far]))))
    assert "100" not in texts(svg(CHARTS["panels"]))


def test_the_best_points_are_named_and_filled_and_the_others_hollow():
    drawing = svg(CHARTS["pareto"])
    assert {"dense", "short"} <= set(texts(drawing))
    assert "worse" not in texts(drawing)
    assert re.search(r"fill: var\(--card\); stroke: var\(--both\)", drawing)
    assert not re.search(r"fill: var\(--card\); stroke: var\(--blocks\)", drawing)


def test_figures_along_the_costs_do_not_run_into_each_other():
    costs = Plane("time", (Point("a", "blocks", 0.832, 91.0, None, True), Point("b", "dense", 1.0, 38.0, None, True)))
    figure = draw_pareto([costs] * 3, theme=LIGHT, width=WIDE)
    figure.draw_without_rendering()
    for axes in figure.axes[:3]:
        boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
        assert len(boxes) > 2
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_names_are_text_and_never_mathematics():
    odd = r"$x$ \frac{a} ünï 海 & <b>"
    panel = Panel(odd, (Bar(odd, "dense", 1.0, None, odd),))
    assert texts(svg(partial(draw_panels, [panel]))).count(odd) == 3
    to_png(partial(draw_panels, [panel]))


def test_one_round_of_one_candidate_and_no_others_can_be_drawn():
    svg(partial(draw_rounds, [SearchRound(1, 2.0, (CandidateMark(1, 2.0, True),))], 3))


@given(st.lists(st.floats(0, 1e6), max_size=60))
def test_steps_of_colour_rise_with_the_value(values):
    scale = ranked_scale(values)
    assert len(scale.bounds) == HEAT_STEPS - 1
    assert list(scale.bounds) == sorted(scale.bounds)
    steps = [LIGHT.heat.index(scale.colour(value, LIGHT)) for value in sorted(values)]
    assert steps == sorted(steps)


@given(st.floats(0, 1))
def test_even_steps_are_even(share):
    step = LIGHT.heat.index(even_scale(0, 1).colour(share, LIGHT))
    assert step == min(HEAT_STEPS - 1, int(share * HEAT_STEPS))


def test_ranked_steps_hold_about_as_many_values_each():
    values = [float(2**exponent) for exponent in range(HEAT_STEPS * 5)]
    scale = ranked_scale(values)
    steps = [DARK.heat.index(scale.colour(value, DARK)) for value in values]
    assert [steps.count(step) for step in range(HEAT_STEPS)] == [5] * HEAT_STEPS
