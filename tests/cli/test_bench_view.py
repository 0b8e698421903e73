"""The table of a benchmark: speeds that one run gave, or whose repeats disagree, claim nothing."""

import pytest

from llmprune.artifacts.records.estimates import Estimate, Repeats
from llmprune.cli.views.bench import show_bench
from tests.report.made_bench import DENSE, bench, model_result


class Pages:
    """A console that keeps what it is given."""

    def __init__(self):
        self.rows, self.lines = {}, []

    def table(self, title, columns, rows):
        self.rows = {row[0]: row[1:] for row in rows}

    def line(self, text):
        self.lines.append(text)


@pytest.fixture
def shown():
    def show(result):
        pages = Pages()
        show_bench(pages, result)
        return pages

    return show


PRUNED = model_result("sea-6of8", ppl=23.45, speed=125.0, blocks=6, parameters=6_500_000)


def test_rows_are_of_all_figures(shown):
    rows = shown(bench(PRUNED, metrics={**bench(PRUNED).metrics, "blocks_ratio": Estimate(value=0.75)})).rows
    assert rows["blocks"] == ["8", "6", "0.750"]
    assert rows["parameters"] == ["8,000,000", "6,500,000"]
    assert "not zero" not in rows
    assert rows["MB on disk"] == ["32.0", "26.0"]
    assert rows["s to load"] == ["0.50 (one run)", "0.50 (one run)"]
    assert rows["perplexity"] == ["12.34 ±10.0%", "23.45 ±10.0%", "1.900 ±1.0%"]
    assert rows["sea, acc"] == ["0.500 (SE 0.100)", "0.500 (SE 0.100)", "-0.125"]
    assert rows["generated tokens/s"] == ["100 (95-105)", "125 (119-131)", "1.250 ±1.0%"]
    assert rows["first token, ms"] == ["100 (100-100)", "80 (80-80)"]


def test_zeros_have_a_row_where_there_are_more_than_a_few(shown):
    sparse = model_result("sea-50", ppl=17.89, speed=100.0, blocks=8, parameters=8_000_000, zeros=5000)
    assert shown(bench(sparse)).rows["not zero"] == ["8,000,000", "7,880,000"]


def test_a_ratio_that_the_repeats_leave_open_is_not_told(shown):
    open_ratio = Estimate(value=1.8, interval=(0.2, 9.0))
    pages = shown(bench(PRUNED, metrics={"generation_ratio.8": open_ratio}))
    assert pages.rows["generated tokens/s"][-1] == "unclear"
    assert any("Not known within 5% yet: generation_ratio.8" in line for line in pages.lines)


def test_one_run_is_said_to_be_one_and_has_no_ratio(shown):
    once = {"prompt": Repeats(values=(123.4,)), "generation": ()}
    models = {"model": PRUNED.model_copy(update=once), "baseline": DENSE.model_copy(update=once)}
    pages = shown(bench(PRUNED).model_copy(update={**models, "metrics": {}}))
    assert pages.rows["prompt tokens/s"] == ["123 (one run)", "123 (one run)"]
    assert any("one run each, so no ratios" in line for line in pages.lines)


def test_a_model_alone_has_one_column(shown):
    rows = shown(bench(DENSE, baseline=None)).rows
    assert rows["perplexity"] == ["12.34 ±10.0%"]
