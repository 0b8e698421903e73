"""Which points a sweep has: one budget of weights for blocks, zeros and both."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprune.algorithms.weights.patterns import SemiStructured, Unstructured
from llmprune.errors import TargetError
from llmprune.stages.sweeping import SweepSettings, parse_patterns, parse_targets
from llmprune.stages.sweeping.plan import WeightCounts, count_weights, plan_points
from tests.zoo import save_zoo_model

HALF, MOST = Unstructured(0.5), Unstructured(0.8)
EVEN = WeightCounts(stored=1000, blocks=(80,) * 10, prunable=(70,) * 10)


def plan(*, targets=(), patterns=(), combine="budget", sizes=EVEN, removed=None):
    removed = removed or {target: tuple(range(1, 1 + int(target))) for target in targets}
    return plan_points(SweepSettings(targets, patterns, combine), sizes, removed)


def names(planned):
    return [point.name for point in planned]


def test_a_combined_point_leaves_as_many_weights_as_the_zeros_alone():
    planned, skipped = plan(targets=("2",), patterns=(HALF,))
    zeros, blocks, both = planned
    assert (zeros.pattern, zeros.removed) == (HALF, ())
    assert (blocks.pattern, blocks.removed) == (None, (1, 2))
    assert (both.removed, both.budget, both.alone) == ((1, 2), HALF, blocks)
    assert EVEN.without(both.removed) - both.pattern.ratio * 8 * 70 == pytest.approx(1000 - 0.5 * 700, abs=0.1)
    assert not skipped


@given(
    st.lists(st.tuples(st.integers(10, 99), st.integers(1, 9)), min_size=4, max_size=12),
    st.floats(0.05, 0.95),
    st.data(),
)
def test_the_budget_holds_for_blocks_of_any_sizes(blocks, ratio, data):
    prunable = tuple(weights for weights, _ in blocks)
    sizes = WeightCounts(stored=500 + sum(map(sum, blocks)), blocks=tuple(map(sum, blocks)), prunable=prunable)
    removed = tuple(data.draw(st.permutations(range(len(blocks))))[: len(blocks) // 2])
    planned, skipped = plan(targets=("3",), patterns=(Unstructured(ratio),), sizes=sizes, removed={"3": removed})
    left = [weights for block, weights in enumerate(prunable) if block not in removed]
    budget = sizes.stored - ratio * sum(prunable)
    if skipped:
        assert len(planned) == 2
        assert sizes.without(removed) - 1e-3 * sum(left) <= budget
    else:
        both = planned[-1]
        assert sizes.stored - sum(sizes.blocks[block] for block in removed) - both.pattern.ratio * sum(
            left
        ) == pytest.approx(budget, abs=1e-4 * sum(left))
        assert 0 < both.pattern.ratio < 1


def test_what_blocks_alone_take_already_is_left_out_and_said():
    planned, (skipped,) = plan(targets=("8",), patterns=(HALF,))
    assert names(planned) == ["sparsity 50%", "blocks 8"]
    assert skipped.name == "blocks 8 within sparsity 50%"
    assert "leaves no more weights" in skipped.reason


def test_the_largest_target_is_searched_first_and_what_is_made_from_it_follows():
    planned, _ = plan(targets=("1", "3"), patterns=(MOST, SemiStructured(2, 4)), combine="grid")
    assert names(planned) == [
        "sparsity 80%",
        "pattern 2:4",
        "blocks 3",
        "blocks 3 + sparsity 80%",
        "blocks 3 + pattern 2:4",
        "blocks 1",
        "blocks 1 + sparsity 80%",
        "blocks 1 + pattern 2:4",
    ]
    assert all(point.budget is None for point in planned)
    assert len({point.folder for point in planned}) == len(planned)


def test_a_pattern_has_no_room_for_a_budget_and_none_combines_nothing():
    planned, _ = plan(targets=("2",), patterns=(SemiStructured(2, 4),))
    assert (planned[-1].pattern, planned[-1].budget) == (SemiStructured(2, 4), None)
    assert names(plan(targets=("2",), patterns=(HALF,), combine="none")[0]) == ["sparsity 50%", "blocks 2"]


def test_sizes_are_counted_in_the_files(workspace, model):
    from safetensors.torch import load_file

    weights = load_file(model / "model.safetensors")
    sizes = count_weights(workspace.open_shell())
    assert sizes.stored == sum(weight.numel() for weight in weights.values())
    inside = {name: weight for name, weight in weights.items() if name.startswith("model.layers.3.")}
    matrices = {name: weight for name, weight in inside.items() if weight.dim() == 2}
    assert sizes.blocks[3] == sum(weight.numel() for weight in inside.values())
    assert sizes.prunable[3] == sum(weight.numel() for weight in matrices.values())
    assert sizes.without((3,)) == sizes.stored - sizes.blocks[3]


def test_experts_count_among_what_can_be_pruned(open_run, tmp_path):
    small = {"num_hidden_layers": 2, "moe_intermediate_size": 16}
    model = save_zoo_model(tmp_path / "moe", "qwen3_moe", **small)
    shell = open_run(of=model).open_shell()
    sizes = count_weights(shell)
    outside = {"mlp.gate.weight": 4 * 32, "input_layernorm.weight": 32, "post_attention_layernorm.weight": 32}
    norms = 2 * 8  # of queries and keys, one entry for each of a head's dimensions
    assert [whole - part for whole, part in zip(sizes.blocks, sizes.prunable, strict=True)] == [
        sum(outside.values()) + norms
    ] * 2


def test_lists_are_read():
    assert parse_targets("10%, 0.2,3") == ("10%", "0.2", "3")
    assert parse_patterns("0.5,70%", "2:4") == (Unstructured(0.5), Unstructured(0.7), SemiStructured(2, 4))
    assert parse_targets(None) == parse_patterns(None, None) == ()
    with pytest.raises(TargetError, match="has an empty value"):
        parse_targets("10%,")
