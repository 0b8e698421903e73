"""The figures of a result: each is there once, with both values, their comparison and its protocol."""

import pytest

from llmprune.artifacts.records.estimates import Estimate, Repeats
from llmprune.artifacts.records.figures import figures, readings
from llmprune.artifacts.records.quantities import QUANTITIES
from tests.report.made_bench import AGREEMENT, DENSE, PROTOCOL, SPEED, bench, model_result

PRUNED = model_result("sea-6of8", ppl=23.45, speed=125.0, blocks=6, parameters=6_500_000, zeros=500, agreement=0.625)


def by_key(result):
    found = {one.quantity.key: one for one in figures(result)}
    assert len(found) == len(figures(result))
    return found


def test_every_figure_has_both_values_and_its_protocol():
    found = by_key(bench(PRUNED))
    assert list(found) == [key for key in QUANTITIES if key != "joules"]
    values = {key: [one.shown for one in figure.readings] for key, figure in found.items()}
    assert values["blocks"] == [8, 6]
    assert values["params"] == [8_000_000, 6_500_000]
    assert values["effective_params"] == [8_000_000, 6_500_000 - 24 * 500]
    assert values["bytes"] == [32.0, 26.0]
    assert values["ppl"] == [12.34, 23.45]
    assert values["generation"] == [100.0, 125.0]
    assert values["first_token"] == [100.0, 80.0]
    assert (values["agreement"], values["agreed_tokens"]) == ([0.625], [7.5])
    assert (values["draft_acceptance"], values["draft_speedup"]) == ([0.625], [1.25])
    assert found["agreement"].protocol == AGREEMENT
    assert found["agreement"].baseline is None
    assert found["ppl"].protocol == PROTOCOL
    assert found["acc"].protocol.lm_eval == "0.4.13"
    assert {key for key, one in found.items() if one.protocol == SPEED} == {
        "peak_bytes",
        "prompt",
        "generation",
        "first_token",
    }


def test_comparisons_are_what_the_result_holds():
    result = bench(PRUNED)
    found = by_key(result)
    assert found["ppl"].against == result.metrics["ppl_ratio.sea.txt"]
    assert found["generation"].metric == "generation_ratio.8"
    assert (found["acc"].against.value, found["acc"].metric) == (-0.125, "acc_diff.sea")
    assert found["blocks"].against is None  # the made-up result has no ratio of these


def test_a_model_alone_has_its_own_values():
    for figure in figures(bench(DENSE, baseline=None)):
        assert figure.baseline is None
        assert figure.readings == (figure.model,)


def test_what_only_one_model_has_is_no_figure():
    bare = DENSE.model_copy(update={"prompt": None, "load_seconds": None})
    assert {"prompt", "load_seconds"}.isdisjoint(by_key(bench(PRUNED, baseline=bare)))


def test_labels_name_the_text_the_task_and_the_batch_size():
    found = by_key(bench(PRUNED))
    assert (found["ppl"].label(), found["ppl"].label(alone=True)) == ("perplexity, sea.txt", "perplexity")
    assert found["acc"].label(alone=True) == "sea, acc"
    assert found["generation"].label() == "generated tokens/s, batch 8"
    assert found["prompt"].label() == "prompt tokens/s"


def test_intervals_of_each_kind():
    found = {one.quantity.key: one for one in readings(PRUNED)}
    assert found["acc"].interval == (0.5 - 1.96 * 0.1, 0.5 + 1.96 * 0.1)
    assert found["generation"].interval == (125 * 0.95, 125 * 1.05)
    assert found["ppl"].interval == (23.45 * 0.9, 23.45 * 1.1)
    assert found["params"].interval is None


def test_one_run_is_known_to_be_one():
    once = PRUNED.model_copy(update={"prompt": Repeats(values=(7.0,))})
    found = {one.quantity.key: one for one in readings(once)}
    assert (found["prompt"].is_one_run, found["prompt"].interval) == (True, None)
    assert found["load_seconds"].is_one_run
    assert not found["generation"].is_one_run
    assert not found["blocks"].is_one_run


@pytest.mark.parametrize(
    ("interval", "clear"),
    [((0.9, 1.1), True), ((0.6, 1.9), True), ((0.4, 1.1), False), ((0.9, 2.1), False), (None, False)],
)
def test_a_ratio_of_repeats_is_clear_within_a_factor_of_two(interval, clear):
    metrics = {"generation_ratio.8": Estimate(value=1.0, interval=interval)}
    assert by_key(bench(PRUNED, metrics=metrics))["generation"].is_clear == clear


def test_counts_and_perplexities_are_clear_whatever_their_interval():
    metrics = {"blocks_ratio": Estimate(value=0.75), "ppl_ratio.sea.txt": Estimate(value=2.0, interval=(0.1, 9.0))}
    found = by_key(bench(PRUNED, metrics=metrics))
    assert found["blocks"].is_clear and found["ppl"].is_clear
    assert not found["acc"].is_clear  # nothing is compared
