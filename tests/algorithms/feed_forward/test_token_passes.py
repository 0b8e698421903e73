from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmprune.algorithms.feed_forward.activation import GELU, RELU, SILU
from llmprune.algorithms.feed_forward.auxiliary import solve_auxiliary
from llmprune.algorithms.feed_forward.network import Linear, first_chunk, hidden, pre_activations
from llmprune.algorithms.feed_forward.subproblems import Coefficients, hidden_solver
from llmprune.algorithms.feed_forward.token_passes import (
    first_moments,
    hidden_moments,
    output_error,
    update_auxiliary,
    update_auxiliary_and_measure,
)
from llmprune.algorithms.feed_forward.token_sums import FirstSums
from llmprune.choices import Reference
from tests.algorithms.problems import chunks_of, gated_ffn, normal, plain_ffn

WIDE = torch.float64
FFNS = {
    "silu": gated_ffn(6, 10, seed=0, dtype=WIDE),
    "reglu": gated_ffn(6, 10, seed=1, dtype=WIDE, activation=RELU),
    "relu": plain_ffn(6, 10, seed=2, dtype=WIDE, activation=RELU),
    "gelu": plain_ffn(6, 10, seed=3, dtype=WIDE, activation=GELU),
}
EVERY_FFN = pytest.mark.parametrize("ffn", FFNS.values(), ids=FFNS.keys())
GRID = st.sampled_from([0.01, 0.1, 1.0, 10.0, 100.0])


def halved(ffn):
    """The FFN with half of its weights gone."""

    def half(linear):
        return Linear(linear.weight * (linear.weight.abs() > linear.weight.abs().median()), linear.bias)

    changed = {"up": half(ffn.up), "down": half(ffn.down)}
    if hasattr(ffn, "gate"):
        changed["gate"] = half(ffn.gate)
    return replace(ffn, **changed)


def objective(ffn, chunk, p, coefficients):
    """The whole penalty function of one chunk."""
    up, gate = pre_activations(ffn, chunk.inputs)
    total = coefficients.alpha * (up - chunk.up).square().sum()
    if gate is not None:
        total += coefficients.alpha * (gate - chunk.gate).square().sum()
    total += coefficients.beta * (ffn.down(p) - chunk.outputs).square().sum()
    return float(total + coefficients.gamma * (p - hidden(ffn, chunk.up, chunk.gate)).square().sum())


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(sorted(FFNS)), st.integers(0, 99), st.builds(Coefficients, GRID, GRID, GRID))
def test_one_pass_lowers_the_penalty_function(name, seed, coefficients):
    chunk = chunks_of(FFNS[name], count=1, tokens=70, seed=seed)[0]
    ffn = halved(FFNS[name])
    solver = hidden_solver(ffn.down, coefficients)
    before = objective(ffn, chunk, hidden(ffn, chunk.up, chunk.gate), coefficients)
    p_only = objective(ffn, chunk, solver(hidden(ffn, chunk.up, chunk.gate), chunk.outputs), coefficients)
    solved, p = solve_auxiliary(ffn, chunk, *pre_activations(ffn, chunk.inputs), solver, coefficients, steps=3)
    after = objective(ffn, solved, p, coefficients)
    assert after <= p_only * (1 + 1e-9) <= before * (1 + 1e-8)


@EVERY_FFN
def test_moments_are_those_of_all_tokens(ffn):
    chunks = chunks_of(ffn, seed=1)
    inputs, outputs = (torch.cat([getattr(c, name) for c in chunks]) for name in ("inputs", "outputs"))
    up = torch.cat([c.up for c in chunks])
    p = torch.cat([hidden(ffn, c.up, c.gate) for c in chunks])
    papers, dense = (first_moments(ffn, chunks, reference) for reference in (Reference.PRUNED, Reference.DENSE))
    for first in (papers, dense):
        torch.testing.assert_close(first.gram, inputs.T @ inputs)
    torch.testing.assert_close(papers.hidden, p.T @ p)
    torch.testing.assert_close(dense.cross.up, ffn.up.without_bias(up).T @ inputs)
    assert papers.cross is dense.hidden is None
    moments = hidden_moments(ffn, chunks)
    torch.testing.assert_close(moments.gram, p.T @ p)
    torch.testing.assert_close(moments.cross, ffn.down.without_bias(outputs).T @ p)
    assert output_error(ffn, chunks).error < 1e-20
    assert output_error(ffn, chunks).energy == pytest.approx(float(outputs.square().sum()))


@EVERY_FFN
def test_an_update_measures_the_weights_it_is_solved_for_and_the_new_moments(ffn):
    chunks, same = chunks_of(ffn, seed=1), chunks_of(ffn, seed=1)
    pruned = halved(ffn)
    before = output_error(pruned, chunks)
    solver = hidden_solver(pruned.down, Coefficients())
    old = chunks[0]
    step = update_auxiliary_and_measure(pruned, chunks, solver, Coefficients(), steps=2)
    assert step.error == before
    assert not torch.equal(chunks[0].up, old.up)
    assert torch.equal(step.cross.up, first_moments(pruned, chunks, Reference.DENSE).cross.up)
    solved = [
        solve_auxiliary(pruned, c, *pre_activations(pruned, c.inputs), solver, Coefficients(), steps=2) for c in same
    ]
    p = torch.cat([hidden_activations for _, hidden_activations in solved])
    torch.testing.assert_close(step.hidden.gram, p.T @ p)
    cross = update_auxiliary(pruned, same, solver, Coefficients(), steps=2)
    assert torch.equal(cross.up, step.cross.up)
    assert all(torch.equal(ours.up, theirs.up) for ours, theirs in zip(same, chunks, strict=True))


@EVERY_FFN
def test_the_moments_of_z_and_s_follow_from_those_of_the_dense_inputs(ffn):
    inputs = [normal(70, 6, seed=seed, dtype=WIDE) for seed in range(3)]
    dense = [normal(70, 6, seed=10 + seed, dtype=WIDE) for seed in range(3)]
    pairs = list(zip(inputs, dense, strict=True))
    chunks = [replace(first_chunk(ffn, x, dense_inputs=d), scale=normal(70, seed=7, dtype=WIDE)) for x, d in pairs]
    sums = FirstSums(ffn, Reference.DENSE)
    for chunk, dense_inputs in zip(chunks, dense, strict=True):
        sums.add(chunk, dense_inputs=dense_inputs)
    short, direct = sums.take().cross, first_moments(ffn, chunks, Reference.DENSE).cross
    torch.testing.assert_close(short.up, direct.up)
    assert (short.gate is None) == (direct.gate is None)
    if short.gate is not None:
        torch.testing.assert_close(short.gate, direct.gate)


@EVERY_FFN
def test_what_pruned_weights_give_is_kept_for_the_next_update_and_then_dropped(ffn):
    chunks, same = chunks_of(ffn, seed=1), chunks_of(ffn, seed=1)
    pruned, solver = halved(ffn), hidden_solver(halved(ffn).down, Coefficients())
    kept, computed = hidden_moments(pruned, chunks, keep=True), hidden_moments(pruned, same)
    assert torch.equal(kept.gram, computed.gram)
    assert all(torch.equal(c.own_up, pruned.up(c.inputs)) for c in chunks)
    chunks[0] = replace(chunks[0], own_up=None, own_gate=None)  # as a store without room would have it
    ours, theirs = (update_auxiliary(pruned, some, solver, Coefficients(), steps=2) for some in (chunks, same))
    assert torch.equal(ours.up, theirs.up)
    assert all(c.own_up is c.own_gate is None for c in chunks)


def test_linear_adds_its_bias_and_takes_it_away():
    linear = Linear(normal(3, 4, seed=0), normal(3, seed=1))
    x = normal(5, 4, seed=2)
    torch.testing.assert_close(linear(x), torch.nn.functional.linear(x, linear.weight, linear.bias))
    torch.testing.assert_close(linear.without_bias(linear(x)), x @ linear.weight.T)
    assert FFNS["silu"].activation is SILU


@EVERY_FFN
def test_moments_tell_the_true_error_of_any_down_weights(ffn):
    chunks = chunks_of(ffn, seed=1)
    pruned = halved(ffn)
    found = hidden_moments(pruned, chunks).output_error(pruned.down.weight)
    expected = output_error(pruned, chunks)
    assert found.error == pytest.approx(expected.error, rel=1e-9)
    assert found.energy == pytest.approx(expected.energy, rel=1e-12)


@EVERY_FFN
def test_the_error_towards_given_outputs_and_that_of_no_tokens(ffn):
    inputs, wanted = normal(7, 6, seed=1, dtype=WIDE), normal(7, 6, seed=2, dtype=WIDE)
    chunk = first_chunk(ffn, inputs, outputs=wanted)
    assert chunk.outputs is wanted
    found = output_error(ffn, [chunk])
    assert found.error == pytest.approx(float((ffn.down(hidden(ffn, chunk.up, chunk.gate)) - wanted).square().sum()))
    assert found.energy == pytest.approx(float(wanted.square().sum()))
    assert (output_error(ffn, []).error, output_error(ffn, []).energy) == (0.0, 0.0)
