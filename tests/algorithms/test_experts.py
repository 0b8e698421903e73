"""Which experts matter: REAP's mean over an expert's own tokens, and the least of each group."""

import pytest
import torch

from llmprune.algorithms.experts import ExpertStatistics, least_important


def test_reap_is_the_mean_of_gate_times_output_norm_over_an_experts_tokens():
    statistics = ExpertStatistics(3)
    outputs = torch.tensor([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0]])
    statistics.update(0, torch.tensor([0.5, 1.0]), outputs[:2])
    statistics.update(0, torch.tensor([0.1]), outputs[2:])
    statistics.update(2, torch.tensor([0.25]), outputs[2:])
    assert statistics.tokens == (3, 0, 1)
    assert statistics.reap == pytest.approx(((2.5 + 1.0 + 1.0) / 3, 0.0, 2.5))


def test_the_least_important_go_as_many_of_each_group_and_the_later_of_equals():
    scores = [5.0, 1.0, 2.0, 1.0, 9.0, 8.0, 7.0, 0.0]
    assert least_important(scores, count=3) == (1, 3, 7)
    assert least_important(scores, count=2) == (3, 7)
    assert least_important(scores, count=2, groups=2) == (3, 7)
    assert least_important(scores, count=4, groups=2) == (1, 3, 6, 7)
