"""From what is typed as a calibration source to token windows: one text, or a mixture of several."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmprune.choices import Bos, ChatTemplate, Sampling
from llmprune.text.chat_writer import ChatWriter
from llmprune.text.corpora import load_corpus
from llmprune.text.mixtures import mix, parse_mixture, part_seed
from llmprune.text.windows import TokenWindows, sample_windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def draw_from(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    samples: int,
    seq_len: int,
    seed: int,
    sampling: Sampling,
    bos: Bos,
    chat_template: ChatTemplate,
) -> TokenWindows:
    """Draw calibration windows. Every source of a mixture has a seed of its own, made from ``seed`` and its place.

    Args:
        source: a text source, or a mixture with the number of windows of each.
        tokenizer: of the model.
        samples: windows, or rows, of a single source.
        seq_len: tokens in each window.
        seed: of the drawing.
        sampling: ``windows`` or ``rows``, see ``sample_windows``.
        bos: whether windows start with BOS.
        chat_template: how conversations become text.

    Raises:
        CorpusError: a text cannot be had, or is too short.
        TargetError: a mixture that is not to be understood, or a number out of range.
        ModelError: the tokenizer cannot cut a text.
    """
    chat = ChatWriter(tokenizer, chat_template)

    def drawn(source: str, count: int, seed: int) -> TokenWindows:
        corpus = load_corpus(source, chat=chat)
        return sample_windows(
            corpus, tokenizer, num_windows=count, seq_len=seq_len, seed=seed, sampling=sampling, bos=bos
        )

    parts = parse_mixture(source)
    if not parts:
        return drawn(source, samples, seed)
    windows = [drawn(part.source, part.count, part_seed(seed, place)) for place, part in enumerate(parts)]
    return mix(windows, parts, seed=seed)
