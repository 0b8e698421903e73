import pytest
import torch

from llmprune.algorithms.weights.factor import cholesky, factorise
from llmprune.errors import NumericalError
from tests.algorithms.problems import layer, normal


def test_the_factor_is_upper_and_gives_the_inverse():
    _, gram = layer(1, 20, seed=0, dtype=torch.float64)
    factor = factorise(gram, damping=0.05)
    damped = gram + 0.05 * gram.diagonal().mean() * torch.eye(20).double()
    assert torch.equal(factor.upper, factor.upper.triu())
    torch.testing.assert_close(factor.upper.T @ factor.upper, torch.linalg.inv(damped))
    right = normal(3, 20, seed=1, dtype=torch.float64)
    torch.testing.assert_close(factor.solve(right) @ damped, right)
    assert factor.shift == pytest.approx(0.05 * float(gram.diagonal().mean()))


def indefinite(least: float) -> torch.Tensor:
    """A symmetric matrix of mean diagonal 1 and smallest eigenvalue `least`."""
    basis = torch.linalg.qr(normal(8, 8, seed=0, dtype=torch.float64)).Q
    values = torch.tensor([least, *[(8 - least) / 7] * 7], dtype=torch.float64)
    return basis @ torch.diag(values) @ basis.T


@pytest.mark.parametrize(("least", "used"), [(0.1, 0.01), (-0.05, 0.1), (-0.5, 1.0), (-5.0, 10.0)])
def test_damping_is_raised_tenfold_and_recorded(least, used):
    gram = indefinite(least)
    copy = gram.clone()
    assert factorise(gram, damping=0.01).damping == pytest.approx(used)
    assert torch.equal(gram, copy)


def test_three_times_at_most():
    with pytest.raises(NumericalError, match="damping of 10 times"):
        factorise(indefinite(-50.0), damping=0.01)


def test_zero_damping_can_be_raised():
    assert factorise(indefinite(-1e-5), damping=0).damping == pytest.approx(1e-4)
    assert factorise(indefinite(-5e-4), damping=0).damping == pytest.approx(1e-3)
    assert factorise(indefinite(0.1), damping=0).damping == 0


def test_dead_inputs_need_no_damping():
    gram = torch.diag(torch.tensor([1.0, 0.0, 3.0]))
    factor = factorise(gram, damping=0)
    assert factor.dead.tolist() == [False, True, False]
    assert factor.upper.isfinite().all()
    assert factor.damping == 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_not_finite(value):
    _, gram = layer(1, 5, seed=0)
    gram[1, 2] = value
    with pytest.raises(NumericalError, match="NaN or infinity"):
        factorise(gram)


def test_nothing_seen():
    with pytest.raises(NumericalError, match="all inputs of this layer were zero"):
        factorise(torch.zeros(4, 4))


def test_the_lower_factor_is_that_of_the_damped_matrix_and_solves_with_it():
    _, gram = layer(1, 20, seed=0, dtype=torch.float64)
    factor = cholesky(gram, damping=0.05)
    damped = gram + factor.shift * torch.eye(20).double()
    torch.testing.assert_close(factor.lower @ factor.lower.T, damped)
    right = normal(3, 20, seed=1, dtype=torch.float64)
    torch.testing.assert_close(factor.solve(right) @ damped, right)


@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.parametrize("factored", [factorise, cholesky])
def test_what_the_device_cannot_factor_is_factored_in_float64_on_the_cpu(factored, raises, monkeypatch):
    _, gram = layer(1, 20, seed=0)
    exact = factored(gram.double(), damping=0.05)
    work = torch.linalg.cholesky_ex

    def failing(matrix, *, upper, out):
        if matrix.dtype == torch.float32:
            if raises:
                raise torch.linalg.LinAlgError("cusolver error")
            return out[1].fill_(1)
        return work(matrix, upper=upper, out=out)

    monkeypatch.setattr(torch.linalg, "cholesky_ex", failing)
    factor = factored(gram, damping=0.05)
    assert (factor.widened, factor.damping, exact.widened) == (True, 0.05, False)
    right = normal(3, 20, seed=1)
    assert factor.solve(right).dtype == torch.float32
    torch.testing.assert_close(factor.solve(right).double(), exact.solve(right.double()), rtol=1e-3, atol=1e-5)
