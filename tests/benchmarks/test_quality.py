"""The measurements of quality under benchmarks/ can be run, and find what is known."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from llmprune.cli.app import app
from llmprune.models.loading import load_whole
from tests.tiny import save_tiny_llama

ROOT = Path(__file__).parents[2]
TEXT = " \n = The sea = \n \n" + " A small boat goes out at dawn . \n" * 60


def test_bench_agrees_with_ten_lines_of_plain_transformers(tmp_path):
    model, text = save_tiny_llama(tmp_path / "tiny"), tmp_path / "wiki.test.raw"
    text.write_text(TEXT, encoding="utf-8")
    script = [sys.executable, ROOT / "benchmarks" / "independent_perplexity.py", model, text, "--seq-len", "64"]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "llmprune bench" in done.stdout


def test_a_small_opt_is_trained_and_pruned_and_is_better_than_a_unigram_model(tmp_path):
    text, out = tmp_path / "sea.txt", tmp_path / "results.json"
    text.write_text(TEXT, encoding="utf-8")
    script = [sys.executable, ROOT / "benchmarks" / "trained_opt.py", tmp_path / "opt", "--text", text, "--ppl", text]
    script += ["--steps", "40", "--vocab", "280", "--hidden", "32", "--blocks", "2", "--seq-len", "16", "--out", out]
    script += ["--samples", "8", "--patterns", "70%", "--rows", "sparsellm --alpha 1"]
    done = subprocess.run(list(map(str, script)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(out.read_text())
    unigram = results["unigram"]
    dense, pruned = (results["rows"][name] for name in ("dense", "all 70% sparsellm --alpha 1"))
    assert 1 < dense["perplexity"]["sea.txt"] < 0.5 * unigram["perplexity"]["sea.txt"]
    assert pruned["zeros"] == pytest.approx(0.7, abs=1e-3)


def test_the_first_half_of_a_pruned_model_is_what_pruning_the_first_half_gives(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import weight_pruning
    from weight_pruning_table import tables

    def in_this_process(words):  # its time and memory are those of a process of its own in other tests
        result = CliRunner().invoke(app, [*map(str, words)])
        assert result.exit_code == 0, result.output
        return {"seconds": 2.0, "peak_mb": 321.0}

    monkeypatch.setattr(weight_pruning, "_run", in_this_process)
    model, text, out = save_tiny_llama(tmp_path / "tiny"), tmp_path / "sea.txt", tmp_path / "results.json"
    text.write_text(TEXT, encoding="utf-8")
    words = [model, "--source", text, "--samples", 8, "--seq-len", 16, "--dtype", "float32", "--ppl", text]
    words = [str(word) for word in (*words, "--ppl-seq-len", 32, "--rows", "sparsellm+refit", "--out", out)]
    weight_pruning.main([*words, "--first-half"])
    weight_pruning.main([*words, "--layers", "first-half"])
    rows = json.loads(out.read_text())["rows"]
    whole, half = (rows[f"{layers} 70% sparsellm+refit"] for layers in ("all", "first-half"))
    assert whole["first_half_perplexity"] == half["perplexity"] != whole["perplexity"]
    _, blocks, first_half, cost = tables({"rows": rows})
    assert f"| sparsellm+refit | {whole['perplexity']['sea.txt']:.1f} |" in blocks
    assert f"| sparsellm+refit | {half['perplexity']['sea.txt']:.1f} |" in first_half
    assert f"/ {whole['peak_mb']:,.0f} |" in cost
    with pytest.raises(SystemExit, match="another protocol"):
        weight_pruning.main([*words, "--samples", "4"])


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import trained_opt

    monkeypatch.setattr(trained_opt, "EVERY", 2)
    sizes = {"steps": 5, "vocab": 280, "hidden": 32, "blocks": 1, "seq_len": 16, "batch": 2, "seed": 0}
    whole, again = (argparse.Namespace(model=tmp_path / name, **sizes) for name in ("whole", "again"))
    trained_opt.train([TEXT], whole)
    step, taken = trained_opt._step, []

    def interrupted(*given):
        taken.append(1)
        if len(taken) == 4:
            raise KeyboardInterrupt
        return step(*given)

    monkeypatch.setattr(trained_opt, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained_opt.train([TEXT], again)
    trained_opt.train([TEXT], again)
    assert len(taken) == 4 + 3  # steps 3, 4, 5: the second was the last to be saved
    first, second = (
        load_whole(given.model, device=torch.device("cpu"), dtype=torch.float32) for given in (whole, again)
    )
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "again"}


@pytest.mark.slow
def test_a_small_mixture_is_trained_pruned_and_loses_experts(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import experts

    text, out = tmp_path / "sea.txt", tmp_path / "results.json"
    text.write_text(TEXT, encoding="utf-8")
    words = [
        tmp_path / "moe",
        "--text",
        text,
        "--ppl",
        text,
        "--steps",
        6,
        "--vocab",
        280,
        "--hidden",
        64,
        "--blocks",
        1,
    ]
    words += ["--seq-len", 16, "--experts", 4, "--samples", 8, "--windows", 4, "--patterns", "50%", "--out", out]
    monkeypatch.setattr("sys.argv", ["experts.py", *map(str, words), "--rows", "sparsellm+refit"])
    experts.main()
    known = json.loads(out.read_text())
    assert known["rows"]["all 50% sparsellm+refit"]["zeros"] == pytest.approx(0.5, abs=1e-3)
    assert set(known["removed"]) == {
        f"25% {name}" for name in ("reap", "frequency", "magnitude", *(f"random {n}" for n in (0, 1, 2)))
    }
    assert "| random, mean of 3 | removed |" in capsys.readouterr().out


def test_healing_is_measured_row_by_row_beside_an_upper_bound(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import healing

    def in_this_process(*words, run, ridge=None):
        with monkeypatch.context() as patch:
            if ridge is not None:
                patch.setattr("llmprune.stages.healing.plan.RIDGES", (float(ridge),))
            result = CliRunner().invoke(app, [*map(str, words), "--run", str(run), "--quiet"])
        assert result.exit_code == 0, result.output

    monkeypatch.setattr(healing, "_llmprune", in_this_process)
    model, text, out = save_tiny_llama(tmp_path / "tiny"), tmp_path / "sea.txt", tmp_path / "results.json"
    text.write_text(TEXT, encoding="utf-8")
    words = [model, "--source", text, "--samples", 8, "--seq-len", 16, "--ppl", text, "--ppl-seq-len", 32]
    words = [str(word) for word in (*words, "--targets", "20%", "--run", tmp_path / "run", "--out", out)]
    words += ["--search-samples", "6"]
    healing.main([*words, "--ways", "none,cut"])
    first = json.loads(out.read_text())["rows"]
    words += ["--vary-samples", "4", "--vary-source", "python-docs", "--vary-ridge", "0.1"]
    healing.main([*words, "--ways", "none,cut,all,healed search,swapped search,upper bound"])
    known = json.loads(out.read_text())
    rows, searched = known["rows"], known["search"]
    assert searched == {"samples": "6", "seq_len": "16"} and known["protocol"]["samples"] == "8"
    ways = ["none", "cut", "all", "healed search", "swapped search", "upper bound"]
    ways += ["all, samples 4", "all, source python-docs", "all, ridge 0.1"]
    assert list(rows) == ["dense", *(f"20% {way}" for way in ways)]
    assert {layer["ridge"] for layer in rows["20% all, ridge 0.1"]["layers"]} == {0.1}
    assert rows["20% all, samples 4"]["removed"] == rows["20% all"]["removed"] == rows["20% none"]["removed"]
    assert {name: rows[name] for name in first} == first
    assert rows["dense"]["agreement"] == 1 > rows["20% none"]["agreement"]
    assert len(rows["20% none"]["removed"]) == 2
    printed = capsys.readouterr().out.splitlines()[-12:]
    assert printed[0] == "|  | sea.txt | taken back | greedy agreement | seconds |"
    assert [line.split(" | ")[0] for line in printed[2:]] == [f"| {name}" for name in rows]


def test_the_upper_bound_gives_the_dense_models_output_where_a_linear_map_can(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import healing

    # Blocks that give zeros: what is lacking behind the hole is nothing, so the maps must be none at all.
    dense = load_whole(save_tiny_llama(tmp_path / "tiny"), device=torch.device("cpu"), dtype=torch.float32)
    with torch.no_grad():
        for block in (2, 3):
            dense.model.layers[block].self_attn.o_proj.weight.zero_()
            dense.model.layers[block].mlp.down_proj.weight.zero_()
    tokens = torch.randint(3, 120, (4, 16), generator=torch.Generator().manual_seed(0))
    maps = healing.fitted_maps(dense, [0, 1, 4, 5], tokens)
    assert list(maps) == [1]
    assert not maps[1].weight.any() and not maps[1].bias.any()
    # A hole that took a constant away is filled whole: the bias gives it back.
    with torch.no_grad():
        dense.model.layers[2].register_forward_hook(lambda _module, _args, output: output + 1.5)
    filled = healing.fitted_maps(dense, [0, 1, 4, 5], tokens)
    with torch.no_grad(), healing.holes_filled(dense, {1: maps[1]}):
        whole = dense(tokens, use_cache=False).logits
    torch.testing.assert_close(filled[1].bias, torch.full((32,), 1.5))
    dense.model.layers[2]._forward_hooks.clear()
    with torch.no_grad(), healing.holes_filled(dense, filled):
        torch.testing.assert_close(dense(tokens, use_cache=False).logits, whole, rtol=1e-3, atol=1e-3)
