"""The part of a benchmark that needs no data set: whether a model still writes what its dense model writes."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from llmprune.artifacts.records.agreement import AgreementProtocol, AgreementResult, DraftResult
from llmprune.artifacts.records.estimates import Estimate, Repeats
from llmprune.choices import TextKind
from llmprune.errors import TargetError
from llmprune.evaluation.agreement import agreed_lengths, same_choices, write_greedily
from llmprune.evaluation.assisted import AssistedText, write_with_draft
from llmprune.evaluation.intervals import estimate_mean
from llmprune.evaluation.repeats import estimate_paired_ratio
from llmprune.models.compute import Compute
from llmprune.stages.benchmark.opened import Loaded
from llmprune.stages.benchmark.settings import BenchSettings
from llmprune.stages.benchmark.subjects import Subject
from llmprune.stages.common.progress import Progress
from llmprune.text.self_text import sample_self_text
from llmprune.text.tokenizer_identity import tokenizer_fingerprint
from llmprune.text.windows import TokenWindows

Texts = tuple[tuple[int, ...], ...]
"""Token ids of every prompt, and of what the dense model wrote behind it."""


def agreement_protocol(
    subjects: Sequence[Subject],
    settings: BenchSettings,
    texts: Sequence[TokenWindows],
    *,
    streamed: frozenset[str],
    progress: Progress,
) -> AgreementProtocol | None:
    """How the greedy choices of two models are compared; None: they are not, and a remark says why.

    Raises:
        TargetError: a draft was asked for where the models cannot be compared.
    """
    if not settings.agreement or len(subjects) < 2:
        reason = "there is no dense model to compare with"
    elif streamed:
        reason = f"{' and '.join(sorted(streamed))} cannot write text, for memory has no room for the whole model"
    elif len({tokenizer_fingerprint(one.tokenizer()) for one in subjects}) > 1:
        reason = f"{subjects[0].name} and {subjects[1].name} have different tokenizers"
    else:
        prompt, new = settings.written(min(subject.positions for subject in subjects))
        source, count = str(TextKind.SELF), settings.agreement
        if texts:
            source, count = texts[0].identity().name, min(count, texts[0].num_windows)
            prompt = min(prompt, texts[0].seq_len)
        return AgreementProtocol(source=source, prompts=count, prompt_tokens=prompt, new_tokens=new)
    if settings.draft:
        raise TargetError(f"`draft`: {reason}; leave out `draft`, or name the dense model: `baseline=MODEL`.")
    if settings.agreement and len(subjects) > 1:
        progress.say(f"Greedy agreement is not measured: {reason}.")
    return None


def dense_texts(
    dense: Loaded, protocol: AgreementProtocol, texts: Sequence[TokenWindows], *, compute: Compute, progress: Progress
) -> Texts:
    """What the dense model writes behind prompts: the beginnings of a text's windows, evenly, or its own samples.

    Raises:
        NumericalError: the model computes NaN or infinity.
        ModelError: the model has no embedding for its tokenizer's BOS.
    """
    count, length = protocol.prompts, protocol.prompt_tokens
    batch = _batch(protocol, compute)
    if texts:
        windows = texts[0].tokens
        prompts = windows[torch.arange(count) * len(windows) // count, :length]
    else:
        prompts = sample_self_text(
            dense.model, dense.subject.tokenizer(), num_windows=count, seq_len=length, batch_size=batch
        ).tokens
    with progress.task("Text of the dense model", count) as advance:
        written = write_greedily(
            dense.model, prompts, new_tokens=protocol.new_tokens, batch_size=batch, on_prompts=advance
        )
    return tuple(map(tuple, written.tolist()))


def measure_agreement(
    one: Loaded, texts: Texts, protocol: AgreementProtocol, *, compute: Compute, progress: Progress
) -> AgreementResult:
    """Hold a model's choices against what the dense model wrote."""
    with progress.task(f"Greedy agreement, {one.subject.num_blocks} blocks", len(texts)) as advance:
        same = same_choices(
            one.model,
            torch.tensor(texts),
            prompt_tokens=protocol.prompt_tokens,
            batch_size=_batch(protocol, compute),
            on_prompts=advance,
        )
    shares, lengths = same.double().mean(dim=1).tolist(), agreed_lengths(same).tolist()
    return AgreementResult(
        share=_within(estimate_mean(shares), 1),
        length=_within(estimate_mean(lengths), protocol.new_tokens),
        shares=tuple(shares),
        lengths=tuple(lengths),
    )


def _within(estimate: Estimate, most: float) -> Estimate:
    """An estimate whose interval does not leave what can be: few prompts make it reach below 0 or beyond all."""
    if estimate.interval is None:
        return estimate
    low, high = estimate.interval
    return Estimate(value=estimate.value, interval=(max(0.0, low), min(most, high)))


def measure_draft(
    dense: Loaded,
    one: Loaded,
    texts: Texts,
    protocol: AgreementProtocol,
    *,
    settings: BenchSettings,
    progress: Progress,
) -> DraftResult:
    """Let the dense model write behind prompts, alone and with a draft in turn, as long as speed may take.

    Raises:
        ModelError: transformers cannot use the model as a draft.
    """
    new = protocol.new_tokens

    def written(prompt: Tensor, draft: Loaded | None) -> AssistedText:
        return write_with_draft(dense.model, prompt, new_tokens=new, draft=None if draft is None else draft.model)

    pairs: list[tuple[AssistedText, AssistedText]] = []
    deadline = time.monotonic() + settings.max_seconds
    with progress.task(f"Draft, {one.subject.num_blocks} blocks", 1 + len(texts)) as advance:
        for number, text in enumerate((texts[0], *texts)):  # the first warms up
            prompt = torch.tensor([text[: protocol.prompt_tokens]], device=dense.model.device)
            order = (None, one) if number % 2 else (one, None)
            found = {draft is None: written(prompt, draft) for draft in order}
            pairs += [(found[True], found[False])] if number else []
            advance(1)
            if len(pairs) >= settings.repeats and time.monotonic() > deadline:
                break
    alone, assisted = (tuple(new / one.seconds for one in side) for side in zip(*pairs, strict=True))
    return DraftResult(
        alone=Repeats(values=alone),
        assisted=Repeats(values=assisted),
        speedup=estimate_paired_ratio(assisted, alone),
        proposed=tuple(one.proposed for _, one in pairs),
        accepted=tuple(one.accepted for _, one in pairs),
    )


def _batch(protocol: AgreementProtocol, compute: Compute) -> int:
    return compute.batch_windows(protocol.prompt_tokens + protocol.new_tokens)
