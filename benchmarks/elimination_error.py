"""How often early elimination drops the better of equal candidates, in simulated rounds with correlated losses.

Token losses of a candidate, less the text's own difficulty, are an AR(1) process inside a window, plus an effect of the
window. On SmolLM2 a window's mean difference has 1.0 to 3.3 times the variance of independent segments of 64 tokens
(1.9 at the median); ``--window-effect 0.07`` has 2.3. All candidates are equal in expectation; the better one is that
with the smallest mean over all windows. The former rule (segments of 64 tokens as the unit, a comparison after every
window, no correction for either) stands beside.

    python benchmarks/elimination_error.py --searches 20000
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.special import stdtrit

from llmprune.algorithms.blocks.elimination import EliminationRule

SEGMENT = 64
Draws = NDArray[np.float64]


def draw_losses(
    generator: np.random.Generator,
    *,
    candidates: int,
    windows: int,
    tokens: int,
    correlation: float = 0.3,
    window_effect: float = 0.07,
    heavy: bool = False,
) -> Draws:
    """(candidates, windows, tokens) losses of equal candidates; ``heavy``: window effects of Student's t, 3 degrees."""
    shape = (candidates, windows, tokens + 50)
    losses = lfilter([(1 - correlation**2) ** 0.5], [1, -correlation], generator.standard_normal(shape))[..., 50:]
    size = (candidates, windows, 1)
    effects = generator.standard_t(3, size) / 3**0.5 if heavy else generator.standard_normal(size)
    return losses + window_effect * effects


def drops_the_best(losses: Draws, rule: EliminationRule) -> bool:
    """Whether a round by llmprune's rule drops the candidate with the smallest mean loss."""
    means = torch.from_numpy(losses.mean(axis=2))
    candidates, windows = means.shape
    surviving = torch.arange(candidates)
    for look in rule.looks(windows):
        out = rule.hopeless(means[surviving, :look], candidates=candidates, num_windows=windows)
        surviving = surviving[~out]
    return int(means.mean(dim=1).argmin()) not in surviving.tolist()


def drops_the_best_formerly(losses: Draws, error_rate: float) -> bool:
    """The same by the former rule."""
    best, windows = int(losses.mean(axis=(1, 2)).argmin()), losses.shape[1]
    parts = np.array_split(losses, -(-losses.shape[2] // SEGMENT), axis=2)
    segments = np.stack([part.mean(axis=2) for part in parts], axis=2)
    surviving = np.arange(len(losses))
    for seen in range(1, windows):
        shown = segments[surviving, :seen].reshape(len(surviving), -1)
        count = shown.shape[1]
        if count < 8:
            continue
        excess = shown - shown[shown.mean(axis=1).argmin()]
        spread = excess.std(axis=1, ddof=1) * np.sqrt((1 - seen / windows) / count)
        surviving = surviving[excess.mean(axis=1) <= -stdtrit(count - 1, error_rate) * spread]
    return best not in surviving


def share_of_two_dropped(rule: EliminationRule, windows: int, rounds: int, *, heavy: bool, seed: int = 0) -> float:
    """How often the better of two equal candidates is dropped, the means of whole windows drawn alone."""
    generator = np.random.default_rng(seed)
    wrong = 0
    for _ in range(rounds // 10_000):
        size = (10_000, windows)
        excess = generator.standard_t(3, size) if heavy else generator.standard_normal(size)
        surviving, dropped = np.ones(len(excess), bool), np.zeros(len(excess), bool)
        sign = np.sign(excess.mean(axis=1))
        for look in rule.looks(windows):
            shown = excess[:, :look]
            error = shown.std(axis=1, ddof=1) * np.sqrt((1 - look / windows) / look)
            quantile = -stdtrit(look - 1, rule.error_rate / len(rule.looks(windows)))
            out = surviving & (np.abs(shown.mean(axis=1)) > quantile * error)
            dropped |= out & (np.sign(shown.mean(axis=1)) != sign)
            surviving &= ~out
        wrong += int(dropped.sum())
    return wrong / rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--error-rate", type=float, action="append")
    parser.add_argument("--of-two", type=int, default=200_000, help="rounds of two candidates, by windows' means")
    options = parser.parse_args()
    for windows in (8, 16, 32, 128):
        for rate in options.error_rate or (1e-3, 1e-2, 5e-2):
            shares = [share_of_two_dropped(EliminationRule(rate), windows, options.of_two, heavy=h) for h in (0, 1)]
            print(
                f"two candidates, {windows} windows, {rate:g}: {shares[0]:.4f} normal, {shares[1]:.4f} heavy",
                flush=True,
            )
    print("| windows | tokens | candidates | window effects | nominal | former rule | this rule |")
    print("|---:|---:|---:|---|---:|---:|---:|")
    for windows, tokens, candidates, effect, heavy in (
        (32, 511, 2, 0.0, False),
        (32, 511, 2, 0.07, False),
        (32, 511, 2, 0.07, True),
        (32, 511, 2, 0.2, True),
        (8, 255, 2, 0.07, False),
        (128, 127, 2, 0.07, False),
        (32, 127, 10, 0.07, False),
    ):
        for rate in options.error_rate or (1e-3, 5e-2):
            generator = np.random.default_rng(options.seed)
            former = current = 0
            for _ in range(options.searches):
                losses = draw_losses(
                    generator, candidates=candidates, windows=windows, tokens=tokens, window_effect=effect, heavy=heavy
                )
                former += drops_the_best_formerly(losses, rate)
                current += drops_the_best(losses, EliminationRule(rate))
            shares = f"{former / options.searches:.4f} | {current / options.searches:.4f}"
            kind = f"{effect} (heavy tails)" if heavy else f"{effect}"
            print(f"| {windows} | {tokens} | {candidates} | {kind} | {rate:g} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
