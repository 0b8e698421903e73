"""Where and in what to compute."""

import random

import pytest
import torch

from llmprune.errors import TargetError
from llmprune.models.compute import Compute, choose_compute


class Machine:
    """A clock that passes as products say, each in the seconds of its dtype; and the stalls that it has, by number."""

    def __init__(self, monkeypatch, seconds, stalls=None):
        self.seconds, self.stalls, self.clock, self.made = seconds, stalls or {}, 0.0, 0
        monkeypatch.setattr("llmprune.models.timing.now", lambda device: self.clock)
        monkeypatch.setattr(Compute, "_product", lambda compute, dtype: lambda: self.multiply(dtype))

    def multiply(self, dtype):
        self.clock += self.seconds[dtype] + self.stalls.get(self.made, 0.0)
        self.made += 1


QUICK = {torch.float32: 0.0030, torch.bfloat16: 0.0015}
EVEN = {torch.float32: 0.0030, torch.bfloat16: 0.0030}


def test_the_gain_is_float32s_time_over_the_other_dtypes(monkeypatch):
    Machine(monkeypatch, QUICK)
    gain = choose_compute("cpu").gain(torch.bfloat16)
    assert (gain.low, gain.high, str(gain)) == (pytest.approx(2), pytest.approx(2), "2")


def test_a_real_product_is_timed():
    gain = choose_compute("cpu").gain(torch.float64)
    assert gain is None or gain.low <= gain.high


@pytest.mark.parametrize("cold", [0, 1])
def test_what_a_device_does_once_is_not_timed(monkeypatch, cold):
    Machine(monkeypatch, EVEN, stalls={cold: 5.0})  # cuBLAS starts
    assert choose_compute("cpu").gain(torch.bfloat16) is None


@pytest.mark.parametrize("stalled", range(2, 20))
def test_a_stall_in_one_product_makes_no_claim_of_its_size(monkeypatch, stalled):
    Machine(monkeypatch, EVEN, stalls={stalled: 0.26})
    assert choose_compute("cpu").gain(torch.bfloat16) is None
    Machine(monkeypatch, QUICK, stalls={stalled: 0.26})
    gain = choose_compute("cpu").gain(torch.bfloat16)
    assert gain is None or str(gain) == "2"


@pytest.mark.parametrize("seed", range(40))
def test_a_noisy_machine_makes_no_claim_that_is_not_true(monkeypatch, seed):
    draw = random.Random(seed)
    stalls = {made: draw.choice([0.0, 0.0, 0.001, 0.01, 0.3]) for made in range(20)}
    Machine(monkeypatch, EVEN, stalls)
    assert choose_compute("cpu").gain(torch.bfloat16) is None
    Machine(monkeypatch, QUICK, stalls)
    gain = choose_compute("cpu").gain(torch.bfloat16)
    assert gain is None or gain.high < 3


def test_the_remark_on_a_slow_dtype_has_no_figure(monkeypatch):
    Machine(monkeypatch, {torch.float32: 0.003, torch.bfloat16: 0.3})
    remark = choose_compute("cpu").slower_dtype(torch.bfloat16)
    assert "multiplies bfloat16 more slowly than float32" in remark
    assert not any(character.isdigit() for character in remark.replace("float32", "").replace("bfloat16", ""))
    assert choose_compute("cpu").slower_dtype(torch.float32) is None
    Machine(monkeypatch, QUICK)
    assert choose_compute("cpu").slower_dtype(torch.bfloat16) is None


def test_a_dtype_that_takes_hundreds_of_times_as_long_is_made_a_few_times_only(monkeypatch):
    # bfloat16 on a processor without instructions for it: with every try, commands would start seconds later
    machine = Machine(monkeypatch, {torch.float32: 0.003, torch.bfloat16: 0.3})
    gain = choose_compute("cpu").gain(torch.bfloat16)
    assert str(gain) == "0.01"
    assert machine.clock < 2


@pytest.mark.parametrize(
    ("written", "name"), [("cuda", "cuda:0"), ("cuda:0", "cuda:0"), ("cuda:3", "cuda:3"), ("cpu:0", "cpu")]
)
def test_a_device_has_one_name(written, name):
    assert str(Compute(torch.device(written)).device) == name
    assert Compute(torch.device(written)) == Compute(torch.device(name))


def test_cuda_is_the_gpu_that_torch_means_by_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    for asked in ("auto", "cuda", "cuda:1"):
        assert str(choose_compute(asked).device) == "cuda:1"


@pytest.mark.parametrize(("device", "dtype"), [("tpu:0", "auto"), ("cpu:1", "auto"), ("meta", "auto"), ("cpu", "int8")])
def test_what_cannot_be_computed_on_or_in_is_refused(device, dtype):
    with pytest.raises(TargetError, match="type"):
        choose_compute(device, dtype)
