"""The perplexity part of a benchmark: all models are measured on the same windows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmprune.artifacts.records.bench import PerplexityResult
from llmprune.artifacts.records.protocols import PerplexityProtocol
from llmprune.choices import Bos
from llmprune.errors import CorpusError, ModelError, NumericalError, TargetError
from llmprune.evaluation.intervals import estimate_exp_mean
from llmprune.models.compute import dtype_name
from llmprune.ranks.group import Placed
from llmprune.stages.benchmark.settings import BenchSettings
from llmprune.stages.benchmark.subjects import Subject
from llmprune.stages.benchmark.together import QualityShare
from llmprune.stages.common.checks import require_vocabulary
from llmprune.stages.common.progress import Progress, shared_task
from llmprune.text.corpora import Corpus, load_corpus
from llmprune.text.windows import TokenWindows, adds_bos, consecutive_windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LARGEST_LOSS = 300.0  # nats/token: far beyond guessing, and its exp is still a number


def read_texts(
    subjects: Sequence[Subject], settings: BenchSettings, *, seq_len: int, progress: Progress
) -> list[TokenWindows]:
    """The windows of all texts that were asked for.

    Raises:
        CorpusError: a text cannot be had, or is too short.
        ModelError: no usable tokenizer, one whose tokens a model has no embeddings for, or two models that cut a text
            into different tokens.
        TargetError: an option out of range, or two texts with one name.
    """
    texts = [*settings.windows]
    if settings.ppl:
        corpora = [_corpus(spec) for spec in dict.fromkeys(settings.ppl)]
        tokenizers = [one.tokenizer() for one in subjects]
        if settings.bos == Bos.NEVER and adds_bos(tokenizers[0]):
            progress.say(
                "This tokenizer puts BOS in front by itself; without it some models' perplexity is far too high."
            )
        texts += [_windows(corpus, subjects, tokenizers, settings, seq_len) for corpus in corpora]
    for windows in texts:
        require_vocabulary(min(subject.vocabulary for subject in subjects), windows.tokens)
        if windows.note:
            progress.say(windows.note)
    _require_different_names(texts)
    return texts


def _corpus(spec: str) -> Corpus:
    """A text. Errors name the option that was typed."""
    try:
        return load_corpus(spec, purpose="evaluation")
    except CorpusError as error:
        raise CorpusError(str(error).replace("`source", "`ppl")) from error


def _windows(
    corpus: Corpus,
    subjects: Sequence[Subject],
    tokenizers: Sequence[PreTrainedTokenizerBase],
    settings: BenchSettings,
    seq_len: int,
) -> TokenWindows:
    """One text's windows; both models must read the same tokens."""
    windows = [
        consecutive_windows(corpus, tokenizer, seq_len=seq_len, max_windows=settings.max_windows, bos=settings.bos)
        for tokenizer in tokenizers
    ]
    if len({one.fingerprint for one in windows}) > 1:
        raise ModelError(
            f"{subjects[0].name} and {subjects[1].name} cut the text into different tokens, so their perplexities "
            "do not compare; type another `baseline`, or `ppl=None`."
        )
    return windows[0]


def _require_different_names(texts: Sequence[TokenWindows]) -> None:
    """Results are named after their texts, and local texts after their files."""
    for name, times in Counter(windows.identity().name for windows in texts).items():
        if times == 1:
            continue
        raise TargetError(f"{times} texts are called {name}, so their results could not be told apart; rename one.")


def measure_perplexity(
    shares: Placed[QualityShare], texts: Sequence[TokenWindows], *, progress: Progress
) -> tuple[PerplexityResult, ...]:
    """Perplexity of a model, which every rank has, on every text.

    Raises:
        NumericalError: the model computes NaN, infinity, or a loss without a perplexity.
    """
    return tuple(_measure(shares, windows, progress) for windows in texts)


def _measure(shares: Placed[QualityShare], windows: TokenWindows, progress: Progress) -> PerplexityResult:
    name, one = windows.identity().name, shares.local.one
    title, own = f"Perplexity on {name}, {one.subject.num_blocks} blocks", len(shares.ranks.share(windows.tokens))
    with shared_task(progress, title, windows.num_windows, own=own) as advance:
        found = shares.call("window_losses", windows.tokens, own={"on_windows": advance})
    losses = tuple(loss for part in found for loss in part)
    mean = sum(losses) / len(losses)
    if not mean < _LARGEST_LOSS:
        raise NumericalError(
            f"{one.subject.name} has a loss of {mean:.4g} nats/token in {dtype_name(one.model.dtype)}, too large for a "
            "perplexity; try `dtype=float32`."
        )
    return PerplexityResult(corpus=name, perplexity=estimate_exp_mean(losses), window_losses=losses)


def perplexity_protocol(windows: TokenWindows) -> PerplexityProtocol:
    """How perplexity on a text is measured."""
    return PerplexityProtocol(
        corpus=windows.identity(), seq_len=windows.seq_len, windows=windows.num_windows, bos=windows.bos
    )
