"""The measurements of cost and of faults under benchmarks/ can be run, and find what is known."""

import ast
import json
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from llmprune.cli.app import app
from tests.tiny import save_tiny_llama

ROOT = Path(__file__).parents[2]
TEXT = " \n = The sea = \n \n" + " A small boat goes out at dawn . \n" * 60


def test_elimination_is_replayed_on_losses_that_were_measured(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import elimination_cost as script

    model, text = save_tiny_llama(tmp_path / "model"), tmp_path / "sea.txt"
    text.write_text(TEXT, encoding="utf-8")
    losses = script.measure_losses(model, str(text), windows=5, seq_len=16)
    assert losses.shape == (4, 5)
    row = script.compare(losses, (16,), rounds=3)[0].split(" | ")
    assert [row[0], row[2], row[5]] == ["| 16", "3", "5 |"]
    clear = torch.arange(4.0)[:, None] + torch.randn(1, 16)  # every other is out at the first look
    forwards, left, right = script.replay(clear, script.EliminationRule())
    assert (left, right) == ([1, 1], True)
    assert forwards == 8 * (4 + 3 + 4 + 3) + 8 * (1 + 4)


def test_a_model_beyond_the_budget_is_measured_command_by_command(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import scaling

    ran, text = [], tmp_path / "sea.txt"
    text.write_text(TEXT, encoding="utf-8")

    def in_this_process(words):  # processes of their own are watched in the next test
        ran.append(words[-1])
        if words[1] == "-m":
            result = CliRunner().invoke(app, [*map(str, words[3:])])
            assert result.exit_code == 0, result.output
            return scaling.Measured(2.0, 10**9, 3 * 10**9, 0, 0, result.stdout)
        capsys.readouterr()
        scaling.main([*map(str, words[2:])])
        return scaling.Measured(2.0, 10**9, 3 * 10**9, 0, 0, capsys.readouterr().out)

    monkeypatch.setattr(scaling, "run_measured", in_this_process)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "vocab_size": 300}
    words = ["--folder", tmp_path / "work", "--out", tmp_path / "out.json", "--source", text, "--seq-len", 32]
    words += ["--samples", 6, "--depths", "2,3", "--budget", "8GB", "--small-shape", json.dumps(shape)]
    words += ["--shape", json.dumps({**shape, "num_hidden_layers": 6, "max_position_embeddings": 64})]
    scaling.main([*map(str, words)])
    found = json.loads((tmp_path / "out.json").read_text())
    assert list(found) == ["7b", "depth", "streamed"]
    assert list(found["7b"]) == ["calibrate", "search", "remove-blocks", "global-prune", "bench"]
    assert list(found["depth"]) == ["2", "3"]
    assert found["streamed"].keys() == {"computing", "reading", "streamed", "ratio"}
    assert (tmp_path / "work" / "model" / "model.safetensors.index.json").exists()
    times = len(ran)
    scaling.main([*map(str, words)])
    assert len(ran) == times, "what is in the file is not measured again"
    capsys.readouterr()
    scaling.main(["--page", str(tmp_path / "out.json")])
    table = capsys.readouterr().out.splitlines()
    assert table[2].startswith("| `calibrate` | 6 x 32 | 1.00 | ")
    assert len(table) == 2 + 5 + 1 + 2 + 2 + 1 + 3


def test_a_process_is_watched_until_it_ends(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import watched

    (tmp_path / "file").write_bytes(bytes(50_000_000))
    code = f"import time; held = open({str(tmp_path / 'file')!r}, 'rb').read(); print('done'); time.sleep(0.3)"
    found = watched.run_measured([sys.executable, "-c", code])
    assert 50_000_000 < found.bytes_read < 60_000_000
    assert 50_000_000 < found.peak_bytes < 120_000_000
    assert (found.output, found.seconds > 0.3) == ("done\n", True)
    with pytest.raises(SystemExit, match="ended with 3"):
        watched.run_measured([sys.executable, "-c", "raise SystemExit(3)"])


def test_the_script_for_gpus_runs_at_a_toy_size_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import on_gpu

    out = tmp_path / "on_gpu.json"
    on_gpu.main(["--toy", "--out", str(out)])
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert [name.partition(":")[0] for name in rows] == ["right"] * 3 + ["sizes"] * 7 + ["speeds"] * 2
    search, *others = [row for name, row in rows.items() if name.startswith("right")]
    assert search["same order"] and search["losses apart"] <= search["allowed"]
    for row in others:
        assert (row["masks differ"], row["same counts"], row["same bytes"]) == (0, True, True)
        assert row["perplexities apart"] <= row["allowed"]
    assert others[0]["2:4 holds"] and others[1]["2:4 holds"] is None
    assert rows["sizes: a round, eliminating"]["forwards"] < rows["sizes: a round, eliminating"]["naive"]
    assert rows["speeds: 20% of the blocks removed"]["generation"] > 0
    capsys.readouterr()
    monkeypatch.setattr(on_gpu.Work, "run", None)
    on_gpu.main(["--toy", "--parts", "right", "--out", str(out)])  # nothing is run again
    on_gpu.main(["--page", str(out)])
    first, second = capsys.readouterr().out.split("| right: search |")[1:]
    assert "same order True" in first and "(toy size)" in first + second


def test_a_mutant_differs_in_one_place_and_a_file_as_it_is_survives(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import mutations

    path = tmp_path / "one.py"
    path.write_text("def f(x: int | None) -> int:\n    return max(x, 2) if x is not None else -1\n")
    names = sorted(name.rpartition(" (")[0] for name, _ in mutations.mutants(path))
    assert names == ["2: -1 -> +1", "2: 1 -> 2", "2: 2 -> 3", "2: max -> min", "2: x is not None -> x is None"]
    file = mutations.PACKAGE / "pareto.py"
    tests = [str(mutations.TESTS / "test_pareto.py")]
    mutant = next(tree for name, tree in mutations.mutants(file) if "last is None -> last is not None" in name)
    assert mutations.passes(file, ast.parse(file.read_text()), tests) == "survived"
    assert mutations.passes(file, mutant, tests) == "killed"


def test_what_healing_costs_is_counted_in_dense_passes(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import healing_cost

    text = tmp_path / "sea.txt"
    text.write_text(TEXT, encoding="utf-8")
    model = save_tiny_llama(tmp_path / "model", num_blocks=4)
    monkeypatch.setattr(healing_cost.BlockRunner, "forward_block", healing_cost.BlockRunner.forward_block)
    words = [str(model), "--source", str(text), "--samples", "4", "--seq-len", "16", "--blocks", "2"]
    monkeypatch.setattr("sys.argv", ["healing_cost", *words])
    healing_cost.main()
    dense, *_, cut, healed = capsys.readouterr().out.splitlines()
    assert 4 * 4 <= float(dense.split()[3]) < 4 * 4 * 1.5
    assert 1 < float(cut.split("|")[2]) <= float(healed.split("|")[2]) < 10


def test_a_job_whose_ranks_are_killed_is_held_against_an_undisturbed_one(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import ranks_killed

    text = tmp_path / "sea.txt"
    text.write_text(TEXT, encoding="utf-8")
    model = save_tiny_llama(tmp_path / "model", num_blocks=6)

    def in_this_process(size, words, run, kill_after):
        if kill_after is not None:
            return [(1, "Error: Rank 1 (process 5) of 2 died.\n"), (-9, "")]
        typed = [word.replace("RUN/", f"{run}/").replace("0-3", "0-1") for word in words]
        result = CliRunner().invoke(app, [*typed, "--run", str(run)])
        assert result.exit_code == 0, result.output
        return [(0, "")] * size

    monkeypatch.setattr(ranks_killed, "_run", in_this_process)
    words = [str(model), "--source", str(text), "--ppl", str(text), "--samples", "4", "--seq-len", "16"]
    out = tmp_path / "out.json"
    monkeypatch.setattr("sys.argv", ["x", *words, "--folder", str(tmp_path / "work"), "--out", str(out)])
    ranks_killed.main()
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == 5
    assert {row["apart"] for row in rows.values()} == {0.0}
    assert capsys.readouterr().out.splitlines()[-1].endswith("| nothing |")
