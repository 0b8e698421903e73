"""Experts pruned the slow, obvious way: each from the tokens that a plain forward pass sends it, in float64."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from llmprune.algorithms.weights.patterns import Pattern
from tests.reference import obs_sparsegpt


def routed_tokens(module: nn.Module, run: Callable[[], object]) -> list[tuple[Tensor, Tensor]]:
    """What an experts' module is given when ``run`` is called: each expert's inputs (tokens, in) and its gates."""
    seen: list[tuple[Tensor, ...]] = []
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args))
    with torch.no_grad():
        run()
    handle.remove()
    inputs, chosen, gates = (torch.cat([args[place] for args in seen]) for place in range(3))
    routed = []
    for expert in range(len(module.down_proj)):
        tokens = [token for token in range(len(inputs)) if expert in chosen[token]]
        own = [gates[token, (chosen[token] == expert).nonzero().item()] for token in tokens]
        routed.append((inputs[tokens], torch.tensor(own, dtype=gates.dtype)))
    return routed


def prune_expert(
    gate: Tensor, up: Tensor, down: Tensor, inputs: Tensor, scale: Tensor, pattern: Pattern, **settings: float
) -> tuple[Tensor, Tensor, Tensor]:
    """SparseGPT of a SiLU expert's gate, up and down (out, in), one after the other, on its own tokens.

    Args:
        gate: float64, as all matrices.
        up: the other matrix in front.
        down: the matrix behind.
        inputs: (tokens, in).
        scale: (tokens,), what a token counts with.
        pattern: which zeros.
        settings: damping and block_size.
    """
    scaled = inputs.double() * scale.double()[:, None]
    gram = scaled.T @ scaled
    gate, up = (obs_sparsegpt(weight, gram, pattern, **settings) for weight in (gate, up))
    hidden = nn.functional.silu(inputs.double() @ gate.T) * (inputs.double() @ up.T) * scale.double()[:, None]
    return gate, up, obs_sparsegpt(down, hidden.T @ hidden, pattern, **settings)


def reap_scores(module: nn.Module, routed: list[tuple[Tensor, Tensor]]) -> tuple[float, ...]:
    """The mean over an expert's tokens of gate times output norm, in float64; experts are SiLU, gate above up."""
    scores = []
    for expert, (inputs, gates) in enumerate(routed):
        gate, up = (inputs @ module.gate_up_proj[expert].detach().T).chunk(2, dim=1)
        outputs = (nn.functional.silu(gate) * up) @ module.down_proj[expert].detach().T
        scores.append(float((outputs.norm(dim=1) * gates).mean()))
    return tuple(scores)
