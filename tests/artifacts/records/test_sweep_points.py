import pytest
from pydantic import ValidationError

from llmprune.artifacts.records.estimates import Estimate
from llmprune.artifacts.records.sweep import DENSE, SweepPoint


def point(name="blocks 20%", **metrics):
    known = {"params": 100.0, "effective_params": 75.0, "ppl": 9.0, "ppl_ratio": 1.5, **metrics}
    return SweepPoint(
        name=name,
        metrics={key: Estimate(value=value) if isinstance(value, float) else value for key, value in known.items()},
        bench="bench.json",
        checkpoint=None,
        bench_seconds=1.0,
    )


def speed(value, *interval):
    return Estimate(value=value, interval=interval or None)


def test_figures_along_each_axis():
    one = point(generation_ratio=speed(2.0, 1.6, 2.5))
    assert (one.params, one.effective_params, one.ppl_ratio.value) == (100.0, 75.0, 1.5)
    assert (one.along("params"), one.along("effective_params"), one.along("latency")) == (100.0, 75.0, 0.5)
    assert one.latency_ratio.interval == (1 / 2.5, 1 / 1.6)


@pytest.mark.parametrize("ratio", [speed(2.0), speed(2.0, 0.9, 2.5), speed(2.0, 1.5, 4.5)])
def test_a_speed_that_is_not_known_within_a_factor_of_two_is_no_latency(ratio):
    assert point(generation_ratio=ratio).along("latency") is None
    assert point().along("latency") is None
    assert point(generation_ratio=speed(2.0, 1.0, 4.0)).along("latency") == 0.5


def test_the_dense_model_is_what_others_are_measured_by():
    dense = point(DENSE, ppl_ratio=7.0)
    assert dense.ppl_ratio.value == 1.0 and dense.latency_ratio is None
    assert point(DENSE, generation=30.0).along("latency") == 1.0


def test_a_point_has_what_it_is_compared_by():
    def without(name, metric):
        known = point(name).model_dump()
        return {**known, "metrics": {key: value for key, value in known["metrics"].items() if key != metric}}

    for metric in ("params", "effective_params", "ppl"):
        with pytest.raises(ValidationError, match=f"the metrics lack {metric}"):
            SweepPoint.model_validate(without(DENSE, metric))
    with pytest.raises(ValidationError, match="the metrics lack ppl_ratio"):
        SweepPoint.model_validate(without("blocks 20%", "ppl_ratio"))
    SweepPoint.model_validate(without(DENSE, "ppl_ratio"))


@pytest.mark.parametrize("ratio", [speed(0.0), speed(-1.0), speed(1.0, 0.0, 2.0)])
def test_what_is_divided_by_is_positive(ratio):
    with pytest.raises(ValidationError, match="generation_ratio is not positive"):
        point(generation_ratio=ratio)
