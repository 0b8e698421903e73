"""Energy counters, in a folder laid out like Linux's /sys/class/powercap."""

from pathlib import Path

import pytest

from llmprune.evaluation.energy import find_energy_meter


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
    meter = find_energy_meter(tmp_path)
    before = meter.read()
    assert before == (100, 999_000)
    first.write_text("500100\n")
    second.write_text("99\n")  # from 999,000 over 1,000,000 to 99: 1,100 microjoules
    assert meter.joules_since(before) == pytest.approx(0.5011)
    assert "package-0, package-1" in meter.description


def test_a_machine_without_counters_says_so(tmp_path):
    for root in (tmp_path / "nowhere", tmp_path):
        meter = find_energy_meter(root)
        assert meter.joules_since(meter.read()) is None
        assert "reports no energy" in meter.description


def test_counters_that_cannot_be_read_are_said(tmp_path, monkeypatch):
    counter = zone(tmp_path, 0, "package-0", 100)
    counter.write_text("much\n")
    assert "cannot be read" in find_energy_meter(tmp_path).description

    def closed(self, **_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", closed)
    meter = find_energy_meter(tmp_path)
    assert (meter.counters, "for root to read" in meter.description) == ((), True)
