"""Calibration windows: from a named source, from texts, or from tokens that are at hand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llmprune.api.choice import choice
from llmprune.api.models import Model, OnDisk
from llmprune.api.progress import Logged
from llmprune.artifacts.activations import Calibration
from llmprune.choices import SEED, SEQ_LEN, Bos, ChatTemplate, Sampling, TextKind
from llmprune.errors import TargetError
from llmprune.models.loading import load_tokenizer
from llmprune.models.resident import tokenizer_of
from llmprune.models.source import positions
from llmprune.stages.calibration import CalibrationSettings, calibrated
from llmprune.stages.calibration.windows import draw_windows
from llmprune.stages.common.checks import require_positions, require_vocabulary
from llmprune.stages.common.progress import Progress
from llmprune.stages.common.workspace import Workspace
from llmprune.text.chat_writer import ChatWriter
from llmprune.text.columns import Holds, what_is
from llmprune.text.conversations import Conversation, Row, written
from llmprune.text.corpora import Corpus, as_held
from llmprune.text.drawing import draw_from
from llmprune.text.mixtures import SELF
from llmprune.text.self_text import sample_self_text
from llmprune.text.windows import TokenWindows, sample_windows

Windows: TypeAlias = "TokenWindows | Tensor"


def calibration_windows(
    model: Model | PreTrainedTokenizerBase,
    source: str | Sequence[str] | Sequence[Conversation] | Tensor = "wikitext2",
    *,
    samples: int | None = None,
    seq_len: int | None = None,
    seed: int = SEED,
    sampling: str = Sampling.WINDOWS,
    bos: str = Bos.AUTO,
    chat_template: str = ChatTemplate.AUTO,
    trust_remote_code: bool = False,
    check: bool = True,
    progress: Progress | None = None,
) -> TokenWindows:
    """Draw the token windows that a model is searched, pruned or measured on.

    Args:
        model: whose tokens: a tokenizer, the path or Hub id of a model, or a model in memory (its tokenizer is read
            from where it was loaded).
        source: ``wikitext2``, ``c4``, ``ptb``, ``python-docs``, ``self`` (text that the model writes), any Hub data set
            ``owner/name[:config[:split[:column]]]`` or file, as after ``--source`` at the command line, or a mixture
            ``wikitext2:64,c4:32``; or a list of texts, or of conversations (lists of messages with ``role`` and
            ``content``); or tokens (windows, seq_len), which are taken as they are.
        samples: windows to draw; None: as many as a mixture says, or 128.
        seq_len: tokens in each, BOS included; None: 2048, or as many as the model has positions.
        seed: of the random positions.
        sampling: ``windows`` at random positions of the joined text, or ``rows`` as SLEB's published protocol.
        bos: whether windows start with BOS: ``auto`` as the tokenizer does by itself, ``always``, ``never``.
        chat_template: conversations as the tokenizer's own template writes them (``auto``), or their contents as plain
            text (``off``).
        trust_remote_code: whether the model's own Python files may run.
        check: whether to see first that a checkpoint of llmprune is as it was written, by the digests in its record.
        progress: who hears remarks; None: the logger ``llmprune``.

    Raises:
        CorpusError: the text cannot be had, or is too short.
        TargetError: a number out of range.
        ModelError: no such model, or no usable tokenizer.

    Example:
        >>> windows = calibration_windows("HuggingFaceTB/SmolLM2-135M", "wikitext2", samples=32, seq_len=512)
    """
    if isinstance(source, Tensor):
        return as_windows(source)
    settings = CalibrationSettings(
        source if isinstance(source, str) else "texts",
        samples,
        seq_len,
        seed,
        choice(Sampling, sampling=sampling),
        choice(Bos, bos=bos),
        chat_template=choice(ChatTemplate, chat_template=chat_template),
    )
    progress = progress or Logged()
    if isinstance(model, PreTrainedTokenizerBase):
        return _drawn(source, model, model.model_max_length, settings, progress)
    if isinstance(model, str | Path):
        with OnDisk(trust_remote_code=trust_remote_code, progress=progress, check=check).workspace(model) as workspace:
            if isinstance(source, str):
                return _drawn_for(workspace, settings)
            tokenizer = load_tokenizer(workspace.directory, trust_remote_code=trust_remote_code)
            return _drawn(source, tokenizer, workspace.positions, settings, progress)
    most, tokenizer = positions(model.config), tokenizer_of(model)
    if source == SELF:
        length = _length(settings, most)
        return sample_self_text(model, tokenizer, num_windows=settings.num_windows, seq_len=length, seed=seed)
    return _drawn(source, tokenizer, most, settings, progress)


def as_windows(windows: Windows) -> TokenWindows:
    """Tokens (windows, seq_len) as windows of a text that has no name; windows stay what they are.

    Raises:
        TargetError: no two-dimensional tensor of integers, or no window, or windows that predict nothing.
    """
    if isinstance(windows, TokenWindows):
        return windows
    if windows.ndim != 2 or windows.is_floating_point() or len(windows) < 1 or windows.shape[1] < 2:
        raise TargetError(
            f"A {str(windows.dtype).removeprefix('torch.')} tensor of shape {tuple(windows.shape)} was given as "
            "windows; token ids (windows, seq_len), with at least 2 in each window, were expected."
        )
    tokens = windows.detach().cpu().long()
    content = tokens.contiguous().numpy().astype("<i8").tobytes()
    return TokenWindows(
        tokens=tokens,
        bos=False,
        sampling="given",
        seed=None,
        text_tokens=tokens.numel(),
        corpus_name="tokens",
        corpus_origin="tokens given in Python",
        corpus_fingerprint=hashlib.sha256(content).hexdigest(),
        kind=TextKind.TOKENS,
    )


def windows_of(calibration: Calibration) -> TokenWindows:
    """The windows that a calibration was made on.

    Raises:
        ArtifactError: its file of tokens is damaged.
    """
    manifest = calibration.manifest
    tokens = calibration.tokens()
    return TokenWindows(
        tokens=tokens,
        bos=manifest.bos,
        sampling=manifest.sampling,
        seed=manifest.seed,
        text_tokens=tokens.numel(),
        corpus_name=manifest.corpus.name,
        corpus_origin=manifest.corpus.origin,
        corpus_fingerprint=manifest.corpus.fingerprint,
        note=manifest.corpus.note,
        kind=manifest.corpus.kind,
        sources=manifest.corpus.sources,
    )


def given_or_kept(windows: Windows | None, workspace: Workspace, place: OnDisk) -> TokenWindows:
    """The windows that were given, or else those of the run's calibration, which is made now if need be.

    Raises:
        TargetError: no windows were given, and no run, or windows longer than the model was made for.
        ModelError: the model has no embedding for a token.
    """
    if windows is None and place.run is not None:
        return windows_of(calibrated(workspace))
    given = as_windows(required(windows))
    require_positions(workspace.positions, seq_len=given.seq_len)
    require_vocabulary(workspace.vocabulary, given.tokens)
    return given


def required(windows: Windows | None) -> Windows:
    """See that there are windows.

    Raises:
        TargetError: there are none.
    """
    if windows is None:
        raise TargetError(
            "No `windows` were given; make some with calibration_windows, or give the `run` of a model on disk, which "
            "has them."
        )
    return windows


def _drawn(
    source: str | Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    most: int,
    settings: CalibrationSettings,
    progress: Progress,
) -> TokenWindows:
    if isinstance(source, str):
        windows = draw_from(
            source,
            tokenizer,
            samples=settings.num_windows,
            seq_len=_length(settings, most),
            seed=settings.seed,
            sampling=settings.sampling,
            bos=settings.bos,
            chat_template=settings.chat_template,
        )
    else:
        windows = sample_windows(
            _corpus(source, ChatWriter(tokenizer, settings.chat_template)),
            tokenizer,
            num_windows=settings.num_windows,
            seq_len=_length(settings, most),
            seed=settings.seed,
            sampling=settings.sampling,
            bos=settings.bos,
        )
    if windows.note:
        progress.say(windows.note)
    return windows


def _drawn_for(workspace: Workspace, settings: CalibrationSettings) -> TokenWindows:
    """As ``llmprune calibrate`` draws them."""
    return draw_windows(
        workspace,
        source=settings.source,
        samples=settings.num_windows,
        seq_len=_length(settings, workspace.positions),
        seed=settings.seed,
        sampling=settings.sampling,
        bos=settings.bos,
        chat_template=settings.chat_template,
    )


def _length(settings: CalibrationSettings, most: int) -> int:
    """Tokens in a window, of a model of so many positions."""
    seq_len = settings.seq_len or min(SEQ_LEN, most)
    require_positions(most, seq_len=seq_len)
    return seq_len


def _corpus(rows: Sequence[Row], chat: ChatWriter) -> Corpus:
    """Texts that are at hand, joined by blank lines, or conversations.

    Raises:
        TargetError: neither.
        CorpusError: a conversation that cannot be written.
    """
    kinds = {what_is(row) for row in rows}
    if Holds.OTHER in kinds or len(kinds) > 1:
        raise TargetError(
            "A list was given as the source that is neither of texts nor of conversations; strings, or lists of "
            "messages with role and content, were expected."
        )
    texts = Corpus(
        "texts", tuple(written(rows, chat, where="the list")), separator="\n\n", origin="texts given in Python"
    )
    return as_held(texts, kinds.pop() if kinds else Holds.STRINGS, chat)
