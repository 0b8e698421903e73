"""Figures of benchmarks: the newest counts, and only figures of one protocol are put together."""

from llmprune.artifacts.records.estimates import Estimate
from llmprune.report.figures import newest_rows
from llmprune.report.summary import headlines
from llmprune.report.wording import interval, label_of, spelled
from tests.report.made import contents, measurements, removed, zeroed
from tests.report.made_bench import DENSE, PROTOCOL, bench, model_result


def short(ppl=23.45, speed=125.0):
    return model_result("sea-6of8", ppl=ppl, speed=speed, blocks=6, parameters=6_500_000)


def test_a_row_holds_both_models_and_what_the_benchmark_says_of_their_ratio():
    rows = {row.figure.label(): row for row in newest_rows([bench(short())])}
    ppl = rows["perplexity, sea.txt"]
    assert [one.value for one in ppl.figure.readings] == [12.34, 23.45]
    ratio = 23.45 / 12.34
    assert ppl.figure.against == Estimate(value=ratio, interval=(ratio * 0.99, ratio * 1.01))
    assert "2 windows of 512 tokens, no BOS, float32" in ppl.protocol
    speed = rows["generated tokens/s, batch 8"]
    assert speed.figure.model.interval == (125 * 0.95, 125 * 1.05)
    assert "Abacus 9000" in speed.protocol
    accuracy = rows["sea, acc"]
    assert accuracy.figure.model.interval == (0.5 - 1.96 * 0.1, 0.5 + 1.96 * 0.1)
    assert accuracy.figure.against.value == -0.125
    assert not any("J/token" in label for label in rows)


def test_of_one_protocol_the_newest_counts():
    rows = newest_rows([bench(short(ppl=30.0)), bench(short(ppl=20.0))])
    assert [row.figure.model.value for row in rows if row.figure.quantity.key == "ppl"] == [20.0]


def test_figures_of_two_protocols_stay_apart():
    others = [
        bench(short(), dtype="bfloat16"),
        bench(short(), perplexity=(PROTOCOL.model_copy(update={"seq_len": 1024}),)),
        bench(short(), perplexity=(PROTOCOL.model_copy(update={"bos": True}),)),
        bench(short(), perplexity=(PROTOCOL.model_copy(update={"windows": 9}),)),
    ]
    rows = [row for row in newest_rows([bench(short()), *others]) if row.figure.quantity.key == "ppl"]
    assert len({row.protocol for row in rows}) == len(rows) == 5


def test_two_texts_of_one_name_stay_apart():
    other = PROTOCOL.model_copy(update={"corpus": PROTOCOL.corpus.model_copy(update={"fingerprint": "12" * 32})})
    rows = newest_rows([bench(short()), bench(short(), perplexity=(other,))])
    assert len([row for row in rows if row.figure.quantity.key == "ppl"]) == 2


def test_without_a_baseline_there_is_nothing_to_compare_with():
    rows = newest_rows([bench(DENSE, baseline=None)])
    assert all(row.figure.baseline is None and row.figure.against is None and row.baseline is None for row in rows)
    assert headlines(contents(measurements=(), sweep=None)) == []


def test_headlines_are_of_the_newest_model_first():
    found = headlines(contents())
    assert [one.label for one in found] == ["50% zeros, sparsellm", "6 of 8 blocks"]
    assert [one.role for one in found] == ["weights", "blocks"]
    shown = {tile.label: (tile.value, tile.remark) for tile in found[1].tiles}
    arrow, times = "\N{RIGHTWARDS ARROW}", "\N{MULTIPLICATION SIGN}"
    assert shown["parameters"] == (f"8.0M {arrow} 6.5M", f"{times} 0.812")
    assert shown["perplexity, sea.txt"] == (f"12.34 {arrow} 23.45", f"{times} 1.900 (1.881 to 1.919)")
    assert shown["generated tokens/s, batch 8"][0] == f"100 {arrow} 125"
    assert shown["sea, acc"][1] == "-0.125"
    sparse = {tile.label: tile.remark for tile in found[0].tiles}
    assert "parameters" not in sparse
    assert "stored all the same" in sparse["weights that are not zero"]


def test_benchmarks_of_a_sweeps_points_are_the_sweeps():
    made = contents()
    swept = made.sweep.points[0].model_copy(update={"bench": "bench/1.json"})
    sweep = made.sweep.model_copy(update={"points": (swept, *made.sweep.points[1:])})
    assert [one.model.name for one in contents(sweep=sweep).results] == ["sea-50"]
    alone = contents(sweep=sweep, measurements=measurements()[:1])
    assert [one.model.name for one in alone.results] == ["sea-6of8"]


def test_labels_tell_what_was_done():
    both = zeroed().record.model_copy(update={"source_record": removed().record})
    made = contents(
        checkpoints=(removed(), zeroed(), type(removed())("again", removed().record), type(removed())("both", both))
    )
    assert label_of(made, "sea-6of8") == "6 of 8 blocks #1"
    assert label_of(made, "again") == "6 of 8 blocks #2"
    assert label_of(made, "both") == "6 of 8 blocks + 50% zeros"
    assert made.role_of("both") == "both"
    assert label_of(made, "made/sea-8b") == "dense"
    assert label_of(made, "x" * 40) == "x" * 27 + "…"


def test_figures_have_the_digits_that_are_known():
    assert [spelled("perplexity", value) for value in (26.2449, 12345.6, 1e12)] == ["26.24", "12,346", "1.00e+12"]
    assert [spelled("repeated", value) for value in (2686.7, 23.456, 0.01234)] == ["2,687", "23.5", "0.0123"]
    assert interval(Estimate(value=1.5, interval=(1.25, 2.0)), "{:.2f}".format) == "1.50 (1.25 to 2.00)"
