"""The sub-problems of SparseLLM (Bai et al., NeurIPS 2024, arXiv 2402.17946).

The FFN's constraints become penalties on auxiliary variables: pre-activations z (up) and s (gate), hidden
activations p. For inputs X, outputs Y, an activation f, and * elementwise:

    (1) gated  alpha ||Wu X - z||^2 + alpha ||Wg X - s||^2 + beta ||Wd p - Y||^2 + gamma ||p - f(s) * z||^2
    (2) plain  alpha ||W1 X + b1 - z||^2                   + beta ||W2 p + b2 - Y||^2 + gamma ||p - f(z)||^2

Alternating minimisation solves one variable with the others fixed:

    (3) W = Z A^T (A A^T + ridge)^-1, A the layer's inputs, Z what it has to give: `weights.least_squares`
    (4) (beta Wd^T Wd + gamma I) p = beta Wd^T (Y - b) + gamma f(s) * z                     `HiddenSolver`
    (5) z = (alpha Wu X + gamma f(s) * p) / (alpha + gamma f(s)^2)                          `solve_up`
    (6) s, or z of a plain FFN: min over x of alpha (x - m)^2 + gamma (f(x) c - p)^2        `solve_rectified`,
        elementwise, with m = Wg X and c = z, or m = W1 X + b1 and c = 1                    `solve_activated`

The numbers are this page's own. Activations are (tokens, features), the transpose of the above. Tokens do not
interact, so any chunk of them can be solved by itself. Only the ratios of the coefficients matter.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from llmprune.algorithms.feed_forward.activation import Activation
from llmprune.algorithms.feed_forward.network import Linear
from llmprune.algorithms.processes import ALONE, Processes, Rows
from llmprune.choices import ALPHA, BETA, GAMMA
from llmprune.errors import TargetError


@dataclass(frozen=True)
class Coefficients:
    """The penalties alpha (pre-activations), beta (output), gamma (activation).

    The defaults leave z and s freer than p: they measured best for gated and plain FFNs alike. How little they
    matter on a small OPT stands in docs/results.md.

    Raises:
        TargetError: one is not positive and finite.
    """

    alpha: float = ALPHA
    beta: float = BETA
    gamma: float = GAMMA

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < float("inf"):
                raise TargetError(f"The coefficient {name} must be positive, and {value:g} is not.")


@dataclass(frozen=True)
class HiddenSolver:
    """Equation 4: minimises beta ||W p + b - Y||^2 + gamma ||p - q||^2 in p, for one W and any number of tokens.

    With q = f(s) z and r = gamma / beta, the normal equations are (W^T W + r I) p = W^T (Y - b) + r q, with a
    matrix (hidden, hidden). With p = q + d they are (W^T W + r I) d = W^T (Y - b - W q), and by the push-through
    identity (W^T W + r I)^-1 W^T = W^T (W W^T + r I)^-1 the correction is d = W^T (W W^T + r I)^-1 (Y - b - W q).
    Its matrix is only (out, out): 576 in place of 1,536 rows in SmolLM2. It is the better conditioned one too:
    W^T W has a rank of at most `out`, so that the smallest eigenvalue of W^T W + r I is r itself.

    `gain` (hidden, out) = W^T (W W^T + r I)^-1.
    """

    down: Linear
    gain: Linear

    def __call__(self, hidden: Tensor, outputs: Tensor, *, product: torch.dtype | None = None) -> Tensor:
        """The minimiser p (tokens, hidden), for `hidden` q = f(s) z or f(z) and `outputs` Y.

        `product` as `Linear` takes it: what is rounded to it are W q and the correction of q, not p.
        """
        missing = outputs - self.down(hidden, product=product)
        return self.gain(missing, product=product).add_(hidden)


def hidden_solver(down: Linear, coefficients: Coefficients, processes: Processes = ALONE) -> HiddenSolver:
    """Factor the p problem of `down` (out, hidden), in float32 or wider; processes divide the work."""
    weight = down.weight.to(torch.promote_types(down.weight.dtype, torch.float32))
    outputs, hidden = (Rows(count, processes) for count in weight.shape)
    normal = outputs.join(weight[outputs.here] @ weight.T)
    normal.diagonal().add_(coefficients.gamma / coefficients.beta)
    gain = torch.cholesky_solve(weight[:, hidden.here], torch.linalg.cholesky(normal)).T
    return HiddenSolver(down=down, gain=Linear(hidden.join(gain)))


def solve_up(centre: Tensor, gate_value: Tensor, hidden: Tensor, coefficients: Coefficients) -> Tensor:
    """Equation 5: the minimising z of a gated FFN, elementwise.

    `centre` m = up(x), `gate_value` f(s), `hidden` p: (tokens, hidden).
    """
    ratio = coefficients.gamma / coefficients.alpha
    numerator = torch.addcmul(centre, gate_value, hidden, value=ratio)
    return numerator.div_(gate_value.square().mul_(ratio).add_(1))


def solve_rectified(centre: Tensor, scale: Tensor | None, hidden: Tensor, coefficients: Coefficients) -> Tensor:
    """Equation 6 for f(x) = max(x, 0): the global minimum of alpha (x - m)^2 + gamma (f(x) c - p)^2, elementwise.

    `centre` m, `scale` c (None for 1) and `hidden` p: (tokens, hidden). x is z of a plain FFN, or s of a
    gated one with c = z. Of the two branches' minima, x >= 0: max((alpha m + gamma c p) / (alpha + gamma
    c^2), 0) and x <= 0: min(m, 0), the one with the smaller objective.
    """
    ratio = coefficients.gamma / coefficients.alpha
    scale = torch.ones_like(centre) if scale is None else scale
    right = torch.addcmul(centre, scale, hidden, value=ratio).div_(scale.square().mul_(ratio).add_(1)).clamp_(min=0)
    left = centre.clamp(max=0)
    right_cost = (right - centre).square_().add_((right * scale).sub_(hidden).square_(), alpha=ratio)
    left_cost = (left - centre).square_().add_(hidden.square(), alpha=ratio)
    return torch.lerp(left, right, right_cost.le_(left_cost))


def solve_activated(
    start: Tensor,
    centre: Tensor,
    scale: Tensor | None,
    hidden: Tensor,
    activation: Activation,
    coefficients: Coefficients,
    *,
    steps: int = 2,
) -> Tensor:
    """Equation 6 for any f: lower alpha (x - m)^2 + gamma (f(x) c - p)^2 by safeguarded Gauss-Newton steps.

    `start` x, `centre` m, `scale` c (None for 1) and `hidden` p: (tokens, hidden). x is s of a gated FFN with
    c = z, or z of a plain one. A step that would raise an element's objective is not taken, and that
    element's next one is four times shorter: the objective never rises. The curvature alpha + gamma (f' c)^2
    leaves out f'', so that it is positive wherever the objective is concave.
    """
    ratio = coefficients.gamma / coefficients.alpha
    x = start
    cost, pull, curve = _expand(x, centre, scale, hidden, activation, ratio)
    trial = torch.addcdiv(x, pull, curve, value=-1)
    length: float | Tensor = 1.0
    for _ in range(steps - 1):
        trial_cost, trial_pull, trial_curve = _expand(trial, centre, scale, hidden, activation, ratio)
        lower = torch.minimum(cost, trial_cost)
        better = trial_cost.le_(cost)  # 1 or 0 in place: several times as fast as a comparison that gives booleans
        x = torch.lerp(x, trial, better)
        cost, pull, curve = lower, pull.lerp_(trial_pull, better), curve.lerp_(trial_curve, better)
        length = better.mul_(0.75).add_(0.25).mul_(length)
        trial = torch.addcdiv(x, length * pull, curve, value=-1)
    return torch.lerp(x, trial, _cost(trial, centre, scale, hidden, activation, ratio).le_(cost))


def _cost(
    x: Tensor, centre: Tensor, scale: Tensor | None, hidden: Tensor, activation: Activation, ratio: float
) -> Tensor:
    """The objective at x, divided by alpha."""
    value = activation.value(x)
    if scale is not None:
        value = value.mul_(scale)
    return (x - centre).square_().add_(value.sub_(hidden).square_(), alpha=ratio)


def _expand(
    x: Tensor, centre: Tensor, scale: Tensor | None, hidden: Tensor, activation: Activation, ratio: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Objective, half its slope and half its Gauss-Newton curvature at x, all divided by alpha."""
    value, slope = activation.value_and_slope(x)
    if scale is not None:
        value, slope = value.mul_(scale), slope.mul_(scale)
    miss = value.sub_(hidden)
    away = x - centre
    pull = torch.addcmul(away, slope, miss, value=ratio)
    cost = away.square_().add_(miss.square_(), alpha=ratio)
    return cost, pull, slope.square_().mul_(ratio).add_(1)
