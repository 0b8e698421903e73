"""The windows that a calibration runs on."""

from __future__ import annotations

from llmprune.choices import Bos, ChatTemplate, Sampling
from llmprune.models.loading import load_tokenizer, load_whole, require_finite
from llmprune.stages.common.checks import require_vocabulary
from llmprune.stages.common.workspace import Workspace
from llmprune.text.drawing import draw_from
from llmprune.text.mixtures import SELF
from llmprune.text.self_text import sample_self_text
from llmprune.text.windows import TokenWindows


def draw_windows(
    workspace: Workspace,
    *,
    source: str,
    samples: int,
    seq_len: int,
    seed: int,
    sampling: Sampling,
    bos: Bos,
    chat_template: ChatTemplate,
) -> TokenWindows:
    """Draw calibration windows from a text or a mixture, or let the model write them (``source`` is ``self``).

    Raises:
        CorpusError: the text cannot be had, or is too short.
        TargetError: a number or a choice out of range.
        ModelError: no usable tokenizer, or one whose tokens the model has no embeddings for.
    """
    if source == SELF:
        return _written_by_the_model(workspace, samples=samples, seq_len=seq_len, seed=seed)
    tokenizer = load_tokenizer(workspace.directory, trust_remote_code=workspace.trust_remote_code)
    windows = draw_from(
        source,
        tokenizer,
        samples=samples,
        seq_len=seq_len,
        seed=seed,
        sampling=sampling,
        bos=bos,
        chat_template=chat_template,
    )
    require_vocabulary(workspace.vocabulary, windows.tokens)
    if windows.note:
        workspace.progress.say(windows.note)
    return windows


def _written_by_the_model(workspace: Workspace, *, samples: int, seq_len: int, seed: int) -> TokenWindows:
    """Windows that the model writes itself; the whole of it is in memory for as long as it writes."""
    directory, trust = workspace.directory, workspace.trust_remote_code
    model = load_whole(directory, device=workspace.compute.device, dtype=workspace.dtype, trust_remote_code=trust)
    require_finite(model)
    written = 0
    with workspace.progress.task("The model writes its calibration text", samples) as advance:

        def on_window(done: int) -> None:
            nonlocal written
            advance(done - written)
            written = done

        return sample_self_text(
            model,
            load_tokenizer(directory, trust_remote_code=trust),
            num_windows=samples,
            seq_len=seq_len,
            seed=seed,
            on_window=on_window,
        )
