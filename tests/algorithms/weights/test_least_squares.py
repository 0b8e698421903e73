import torch

from llmprune.algorithms.weights.factor import factorise
from llmprune.algorithms.weights.least_squares import ridge_towards
from tests.algorithms.problems import activations, normal


def problem():
    inputs = activations(100, 12, seed=0, dtype=torch.float64)
    outputs = normal(100, 5, seed=1, dtype=torch.float64)
    prior = normal(5, 12, seed=2, dtype=torch.float64)
    return outputs.T @ inputs, inputs.T @ inputs, prior


def test_ridge_towards_is_section_4():
    cross, gram, prior = problem()
    factor = factorise(gram, damping=0.1)
    damped = gram + factor.shift * torch.eye(12).double()
    expected = (cross + factor.shift * prior) @ torch.linalg.inv(damped)
    torch.testing.assert_close(ridge_towards(prior, cross, gram, factor), expected)


def test_ridge_towards_minimises_its_objective():
    cross, gram, prior = problem()
    factor = factorise(gram, damping=0.1)
    best = ridge_towards(prior, cross, gram, factor)

    def objective(weight):
        fitted = ((weight @ gram) * weight).sum() - 2 * (weight * cross).sum()
        return fitted + factor.shift * (weight - prior).square().sum()

    for seed in range(20):
        assert objective(best) < objective(best + 1e-3 * normal(5, 12, seed=seed, dtype=torch.float64))


def test_outputs_that_the_prior_gives_return_the_prior():
    _, gram, prior = problem()
    factor = factorise(gram.float())
    prior = prior.float()
    torch.testing.assert_close(ridge_towards(prior, prior @ gram.float(), gram.float(), factor), prior)


def test_weights_of_dead_inputs_are_exactly_the_prior():
    cross, gram, prior = problem()
    gram[4], gram[:, 4], cross[:, 4] = 0, 0, 0
    result = ridge_towards(prior, cross, gram, factorise(gram))
    assert torch.equal(result[:, 4], prior[:, 4])
