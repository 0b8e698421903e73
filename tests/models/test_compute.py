"""Where and in what to compute."""

import itertools

import pytest
import torch

from llmprune.errors import TargetError
from llmprune.models.compute import bfloat16_products, choose_compute


def test_a_dtype_is_as_fast_as_itself():
    # Timed, so only roughly: what is held is that it is a ratio, of the right way round in order of magnitude.
    assert 0.1 < choose_compute("cpu").gain(torch.float32) < 10


def test_the_gain_is_float32s_time_over_the_other_dtypes(monkeypatch):
    compute = choose_compute("cpu")
    seconds = {torch.float32: 0.02, torch.bfloat16: 0.01}
    monkeypatch.setattr(type(compute), "_product_seconds", lambda self, dtype: seconds[dtype])
    assert compute.gain(torch.bfloat16) == 2


def test_a_product_that_takes_long_is_made_once(monkeypatch):
    # bfloat16 on a processor without instructions for it: with every try, commands would start seconds later
    compute, clock = choose_compute("cpu"), itertools.count()
    monkeypatch.setattr("llmprune.models.compute.time.perf_counter", lambda: float(next(clock)))
    assert compute._product_seconds(torch.bfloat16) == 1
    assert next(clock) == 2


@pytest.mark.parametrize(("device", "dtype"), [("tpu:0", "auto"), ("cpu:1", "auto"), ("meta", "auto"), ("cpu", "int8")])
def test_what_cannot_be_computed_on_or_in_is_refused(device, dtype):
    with pytest.raises(TargetError, match="type"):
        choose_compute(device, dtype)


def test_rounded_products_end_with_their_context():
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    with bfloat16_products():
        assert setting.fp32_precision == "bf16"
    assert setting.fp32_precision == before
