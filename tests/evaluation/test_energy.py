"""Energy counters: the processor's in a folder like Linux's /sys/class/powercap, a GPU's by a stand-in of NVML."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from llmprune.evaluation.energy import find_energy_meter

CPU, GPU = torch.device("cpu"), torch.device("cuda:1")


def zone(root, number, name, microjoules, largest=1_000_000):
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{largest}\n")
    return folder / "energy_uj"


def test_packages_are_added_up_and_go_round(tmp_path):
    first, second = zone(tmp_path, 0, "package-0", 100), zone(tmp_path, 1, "package-1", 999_000)
    zone(tmp_path, "0:0", "core", 7)
    zone(tmp_path, 2, "psys", 7)
    meter = find_energy_meter(CPU, tmp_path)
    before = meter.read()
    assert before == (100, 999_000)
    first.write_text("500100\n")
    second.write_text("99\n")  # from 999,000 over 1,000,000 to 99: 1,100 microjoules
    assert meter.joules_since(before) == pytest.approx(0.5011)
    assert "package-0, package-1" in meter.description


def test_a_machine_without_counters_says_so(tmp_path):
    for root in (tmp_path / "nowhere", tmp_path):
        meter = find_energy_meter(CPU, root)
        assert meter.joules_since(meter.read()) is None
        assert "reports no energy" in meter.description


def test_counters_that_cannot_be_read_are_said(tmp_path, monkeypatch):
    counter = zone(tmp_path, 0, "package-0", 100)
    counter.write_text("much\n")
    assert "cannot be read" in find_energy_meter(CPU, tmp_path).description

    def closed(self, **_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", closed)
    meter = find_energy_meter(CPU, tmp_path)
    assert (meter.counters, "for root to read" in meter.description) == ((), True)


class Nvml(ModuleType):
    """NVML with two GPUs, in another order than torch numbers them."""

    class NVMLError(Exception):
        """As NVML's own."""

    def __init__(self):
        super().__init__("pynvml")
        self.millijoules = {"GPU-aaaa": 5_000_000, "GPU-bbbb": 2_000}
        self.started = False

    def nvmlInit(self):  # noqa: N802 - NVML's names
        self.started = True

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        assert self.started
        if uuid not in self.millijoules:
            raise self.NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):  # noqa: N802
        if self.millijoules[handle] is None:
            raise self.NVMLError("Not Supported")
        return self.millijoules[handle]


@pytest.fixture
def nvml(monkeypatch):
    stand_in = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", stand_in)
    named = {GPU: SimpleNamespace(name="Abacus GPU", uuid="bbbb")}
    monkeypatch.setattr(torch.cuda, "get_device_properties", named.__getitem__)
    return stand_in


def test_a_gpus_energy_is_its_own(nvml, tmp_path):
    zone(tmp_path, 0, "package-0", 100)
    meter = find_energy_meter(GPU, tmp_path)
    before = meter.read()
    nvml.millijoules = {"GPU-aaaa": 9_000_000, "GPU-bbbb": 4_500}
    assert meter.joules_since(before) == pytest.approx(2.5)
    assert meter.description.startswith("NVML, the GPU only")
    assert meter.least_seconds > 0


def test_a_gpu_whose_energy_is_not_counted_is_not_given_the_processors(nvml, tmp_path, monkeypatch):
    zone(tmp_path, 0, "package-0", 100)
    nvml.millijoules["GPU-bbbb"] = None
    assert find_energy_meter(GPU, tmp_path).description.endswith("does not count this GPU's energy (Not Supported)")
    del nvml.millijoules["GPU-bbbb"]  # a part of a GPU
    assert find_energy_meter(GPU, tmp_path).description.endswith("(Not Found)")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meter = find_energy_meter(GPU, tmp_path)
    assert (meter.counters, meter.joules_since(meter.read())) == ((), None)
    assert meter.description.endswith("type pip install nvidia-ml-py")
