"""The best point under limits, and the Pareto sets, on sweeps made up for it."""

import pytest

from llmprune.artifacts.records.estimates import Estimate
from llmprune.artifacts.records.protocols import Protocols
from llmprune.artifacts.records.provenance import CorpusIdentity, ModelIdentity
from llmprune.artifacts.records.sweep import SweepPoint, SweepPruning, SweepResult
from llmprune.errors import GateError, TargetError
from llmprune.stages.common.params import parse_params
from llmprune.stages.sweeping.choice import Limits, choose_best, pareto_sets


def point(name, *, params, effective=None, ppl=1.0, speed=None):
    figures = {"params": params, "effective_params": effective or params, "ppl": 20.0, "ppl_ratio": ppl}
    figures |= {"generation": 5.0, "generation_ratio": speed} if speed else {}
    metrics = {figure: Estimate(value=value, interval=(value, value)) for figure, value in figures.items()}
    return SweepPoint(name=name, metrics=metrics, bench="bench/x.json", checkpoint=None, bench_seconds=1.0)


DENSE = point("dense", params=100, speed=1.0)
BLOCKS = point("blocks", params=80, ppl=1.4, speed=1.25)
ZEROS = point("zeros", params=100, effective=60, ppl=1.2, speed=1.0)
BOTH = point("both", params=80, effective=60, ppl=1.3, speed=1.25)
BAD = point("bad", params=80, effective=60, ppl=3.0, speed=1.2)


def sweep(*points, dense=DENSE):
    return SweepResult(
        model=ModelIdentity(name="m", fingerprint="f", model_type="llama", num_blocks=4, num_parameters=100),
        pruning=SweepPruning(
            method="wanda",
            metric="sleb",
            corpus=CorpusIdentity(name="c", origin="o", fingerprint="f"),
            windows_fingerprint="f",
            windows=1,
            seq_len=2,
        ),
        measuring=Protocols(perplexity=(), speed=None, dtype="float32", device="cpu"),
        dense=dense,
        points=points,
    )


ALL = sweep(BLOCKS, ZEROS, BOTH, BAD)


def best(result=ALL, **limits):
    chosen, refusal = choose_best(result, Limits(**limits))
    assert (refusal is None) == bool(chosen)
    return [one.point.name for one in chosen]


def test_the_pareto_sets_hold_perplexity_against_each_figure():
    sets = pareto_sets(ALL.measured)
    assert sets.params == ("both", "dense")
    assert sets.effective_params == ("zeros", "dense")
    assert sets.latency == ("both", "dense")  # the dense model is no slower than the zeros, and better


def test_without_speed_there_is_no_front_of_it():
    assert pareto_sets([point("dense", params=5), point("a", params=4)]).latency == ()


def test_equal_points_are_both_on_the_front():
    assert pareto_sets([point("a", params=4), point("b", params=4)]).params == ("a", "b")


def test_without_a_limit_on_perplexity_the_lowest_wins():
    assert best() == ["zeros"]
    assert best(params=parse_params("80", "--max-params")) == ["both"]
    assert best(params=parse_params("80%", "--max-params")) == ["both"]
    assert best(effective_params=parse_params("60", "--x")) == ["zeros"]
    assert best(latency_ratio=0.8) == ["both"]


def test_with_one_the_smallest_and_the_fastest_win():
    assert best(ppl_ratio=1.25) == ["zeros", "zeros", "zeros"]
    assert best(ppl_ratio=1.4) == ["both", "zeros", "both"]
    assert best(ppl_ratio=1.4, latency_ratio=0.8) == ["both", "both", "both"]
    untimed = sweep(point("a", params=80, ppl=1.1), dense=point("dense", params=100))
    assert best(untimed, ppl_ratio=1.4) == ["a", "a"]


def test_the_dense_model_is_never_the_best_pruned_one():
    assert best(sweep(BAD)) == ["bad"]


@pytest.mark.parametrize("limits", [{"ppl_ratio": 1.1}, {"latency_ratio": 0.5}, {"params": parse_params("79", "--x")}])
def test_where_nothing_is_within_the_limits_there_is_an_error_to_raise(limits):
    chosen, refusal = choose_best(ALL, Limits(**limits))
    assert chosen == []
    assert isinstance(refusal, GateError)
    assert f"within {Limits(**limits)};" in str(refusal)


def test_limits_are_spelled_as_typed():
    limits = Limits(parse_params("1.5B", "--x"), parse_params("80%", "--x"), 0.8, 1.5)
    spelled = "--max-params 1.5B --max-effective-params 80% --max-latency-ratio 0.8 --max-ppl-ratio 1.5"
    assert str(limits) == spelled
    assert str(Limits()) == ""


@pytest.mark.parametrize(
    ("text", "number"), [("100M", 1e8), ("1.5b", 1.5e9), ("134515008", 134515008), ("2k", 2e3), ("80 %", 0.8)]
)
def test_numbers_of_weights_are_read(text, number):
    limit = parse_params(text, "--max-params")
    assert limit.number == number
    assert limit.of(1000) == (800 if "%" in text else number)


@pytest.mark.parametrize("text", ["", "0", "many", "-5M", "5GB", "1e9", "0%", "nan"])
def test_what_is_no_number_of_weights_is_refused(text):
    with pytest.raises(TargetError, match=r"--max-params .* is no number of weights"):
        parse_params(text, "--max-params")


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["latency_ratio", "ppl_ratio"])
def test_a_ratio_that_nothing_keeps_is_refused(name, value):
    with pytest.raises(TargetError, match="out of range"):
        Limits(**{name: value})


def test_the_time_of_a_token_is_the_inverse_of_speed_with_its_interval_turned():
    metrics = {**BLOCKS.metrics, "generation_ratio": Estimate(value=1.25, interval=(1.0, 2.0))}
    latency = BLOCKS.model_copy(update={"metrics": metrics}).latency_ratio
    assert (latency.value, latency.interval) == (0.8, (0.5, 1.0))
    assert DENSE.latency_ratio.value == DENSE.ppl_ratio.value == 1.0


@pytest.mark.parametrize("interval", [None, (0.1, 9.0)])
def test_a_time_that_the_repeats_leave_open_is_as_good_as_not_measured(interval):
    metrics = {**BLOCKS.metrics, "generation_ratio": Estimate(value=1.25, interval=interval)}
    noisy = BLOCKS.model_copy(update={"metrics": metrics})
    assert noisy.latency_ratio is None
    assert pareto_sets([DENSE, noisy]).latency == ("dense",)
    assert best(sweep(noisy), latency_ratio=2.0) == []
