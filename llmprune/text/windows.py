"""Token windows: the (num_windows, seq_len) batches that calibration and perplexity run on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from llmprune.artifacts.records.provenance import CorpusIdentity, SourceIdentity
from llmprune.choices import SAMPLES, SEED, SEQ_LEN, USUAL, Bos, Sampling, TextKind
from llmprune.errors import CorpusError, TargetError
from llmprune.text.tokenising import token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llmprune.text.corpora import Corpus


@dataclass(frozen=True, eq=False)
class TokenWindows:
    """Windows of token ids and where they come from.

    Attributes:
        tokens: (num_windows, seq_len), int64, on the CPU.
        bos: whether every window starts with the BOS token (which is one of its seq_len tokens).
        sampling: `windows`, `rows`, `consecutive` as below, `self` (written by the model, self_text.py), or `given`.
        seed: of the random positions, rows or samples; None where nothing is random.
        text_tokens: how many tokens the text had from which the windows were cut, BOS not counted.
        corpus_name, corpus_origin, corpus_fingerprint: the text's provenance; the name is its label.
        note: what the user must be told about text or windows, or None.
        kind: what the text is made of.
        sources: of a mixture.
    """

    tokens: Tensor
    bos: bool
    sampling: str
    seed: int | None
    text_tokens: int
    corpus_name: str
    corpus_origin: str
    corpus_fingerprint: str
    note: str | None = None
    kind: TextKind = TextKind.TEXT
    sources: tuple[SourceIdentity, ...] = ()

    def __repr__(self) -> str:
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"{self.num_windows} windows of {self.seq_len} tokens of {self.corpus_name}{seed}"

    @property
    def num_windows(self) -> int:
        """Number of windows."""
        return self.tokens.shape[0]

    @property
    def seq_len(self) -> int:
        """Tokens a window, BOS included."""
        return self.tokens.shape[1]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal: the shape and the ids, as 8-byte little-endian integers, row by row."""
        digest = hashlib.sha256()
        for part in (torch.tensor(self.tokens.shape, dtype=torch.int64), self.tokens):
            digest.update(np.ascontiguousarray(part.numpy(), "<i8").data)
        return digest.hexdigest()

    def identity(self) -> CorpusIdentity:
        """How artifacts name the text that the windows come from."""
        return CorpusIdentity(
            name=self.corpus_name,
            origin=self.corpus_origin,
            fingerprint=self.corpus_fingerprint,
            note=self.note,
            kind=self.kind,
            sources=self.sources,
        )


def sample_windows(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_windows: int = SAMPLES,
    seq_len: int = SEQ_LEN,
    seed: int = SEED,
    sampling: Sampling = Sampling.WINDOWS,
    bos: Bos = Bos.AUTO,
) -> TokenWindows:
    """Draw windows for calibration.

    `windows`: from uniformly random positions (with repetition) of the joined text, tokenised once.
    `rows`: as SLEB's published experiments: `num_windows` different random rows, joined and tokenised, are
    cut into consecutive windows. WikiText-2's rows are short: 128 of them give about 4 windows of 2048.

    The seed decides alone: torch's CPU generator draws the same positions on every machine.

    Args:
        corpus: the text.
        tokenizer: of the model.
        num_windows: windows to draw, or rows to draw.
        seq_len: tokens a window, BOS included.
        seed: of the random positions or rows.
        sampling: `windows` or `rows`.
        bos: whether windows start with BOS: `auto` as the tokenizer does by itself when called on a text,
            `always`, `never`.

    Raises:
        TargetError: `num_windows` < 1, `seq_len` < 2, or an unknown option; `always` without a BOS token.
        CorpusError: the text is too short for one window, or has fewer rows than asked for.
    """
    if num_windows < 1:
        raise TargetError(f"{num_windows} windows were asked for; at least 1 is needed.")
    if sampling not in list(Sampling):
        raise TargetError(f"Unknown sampling '{sampling}'; expected windows or rows.")
    prefix = _bos_prefix(tokenizer, bos)
    body = _body_len(seq_len, prefix)
    generator = torch.Generator().manual_seed(seed)
    if sampling == Sampling.ROWS:
        ids = _token_ids(corpus, tokenizer, _random_rows(corpus, num_windows, generator))
        pieces, note = _consecutive(corpus, ids, body, len(prefix), "seq_len"), corpus.note
    else:
        ids = _token_ids(corpus, tokenizer, corpus.rows)
        _require(corpus, ids, body, len(prefix), "seq_len")
        starts = torch.randint(0, len(ids) - body + 1, (num_windows, 1), generator=generator)
        pieces, note = ids[starts + torch.arange(body)], _overlap_note(corpus, num_windows * body, len(ids))
    return _windows(corpus, ids, _with_prefix(pieces, prefix), bool(prefix), sampling, seed, note)


def consecutive_windows(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seq_len: int = USUAL.tokens,
    max_windows: int | None = None,
    bos: Bos = Bos.AUTO,
) -> TokenWindows:
    """Cut the whole text into non-overlapping windows for perplexity; the last partial window is dropped.

    The rows are joined and tokenised once, as one text. With BOS, a window is BOS and seq_len - 1 tokens.

    Args:
        corpus: the text.
        tokenizer: of the model.
        seq_len: tokens a window, BOS included.
        max_windows: keep the first windows alone; None for as many as the text's published protocol takes
            (C4: 256), or all.
        bos: as in sample_windows.

    Raises:
        TargetError: `max_windows` < 1, `seq_len` < 2, or an unknown option; `always` without a BOS token.
        CorpusError: the text is too short for one window.
    """
    if max_windows is not None and max_windows < 1:
        raise TargetError(f"{max_windows} windows were asked for; at least 1 is needed.")
    prefix = _bos_prefix(tokenizer, bos)
    body = _body_len(seq_len, prefix)
    ids = _token_ids(corpus, tokenizer, corpus.rows)
    pieces = _consecutive(corpus, ids, body, len(prefix), "ppl_seq_len")[: max_windows or corpus.max_windows]
    return _windows(corpus, ids, _with_prefix(pieces, prefix), bool(prefix), "consecutive", None, corpus.note)


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer, called on a text, puts its BOS token in front by itself."""
    if tokenizer.bos_token_id is None:
        return False
    text = "A text."
    plain, special = (
        tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"] for special in (False, True)
    )
    return len(special) > len(plain) and special[0] == tokenizer.bos_token_id


def _bos_prefix(tokenizer: PreTrainedTokenizerBase, bos: Bos) -> list[int]:
    if bos not in list(Bos):
        raise TargetError(f"Unknown `bos` '{bos}'; expected one of {', '.join(Bos)}.")
    if bos == Bos.ALWAYS and tokenizer.bos_token_id is None:
        raise TargetError("`bos=always` needs a BOS token, and this tokenizer has none; type `bos=auto`.")
    wanted = bos == Bos.ALWAYS or (bos == Bos.AUTO and adds_bos(tokenizer))
    return [tokenizer.bos_token_id] if wanted else []


def _body_len(seq_len: int, prefix: list[int]) -> int:
    """Tokens of text in a window."""
    if seq_len < 2:
        raise TargetError(
            f"A window of {seq_len} token(s) predicts nothing; a sequence length of at least 2 is needed."
        )
    return seq_len - len(prefix)


def _token_ids(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, rows: Sequence[str]) -> Tensor:
    """The tokens of some rows: of prose in one piece, of conversations as the tokenizer itself gives each."""
    if corpus.kind is TextKind.CHAT:
        return torch.cat([token_ids(tokenizer, row) for row in rows])
    return token_ids(tokenizer, corpus.separator.join(rows))


def _random_rows(corpus: Corpus, count: int, generator: torch.Generator) -> list[str]:
    if len(corpus.rows) < count:
        raise CorpusError(
            f"{corpus.name} has {len(corpus.rows):,} row(s), and {count:,} were asked for; "
            "take fewer `samples`, or `sampling=windows`."
        )
    chosen = torch.randperm(len(corpus.rows), generator=generator)[:count]
    return [corpus.rows[index] for index in chosen.tolist()]


def _consecutive(corpus: Corpus, ids: Tensor, body: int, extra: int, argument: str) -> Tensor:
    _require(corpus, ids, body, extra, argument)
    count = len(ids) // body
    return ids[: count * body].reshape(count, body)


def _require(corpus: Corpus, ids: Tensor, body: int, extra: int, argument: str) -> None:
    if len(ids) < body:
        raise CorpusError(
            f"The text of {corpus.name} has {len(ids):,} tokens, a window needs {body:,}; give a longer text"
            + (f", or type `{argument}={len(ids) + extra}` or less." if len(ids) + extra >= 2 else ".")
        )


def _overlap_note(corpus: Corpus, asked: int, there: int) -> str | None:
    if asked <= there:
        return corpus.note
    short = f"{corpus.label} has {there:,} tokens, and {asked:,} were drawn from it: the windows overlap."
    return f"{corpus.note} {short}" if corpus.note else short


def _with_prefix(pieces: Tensor, prefix: list[int]) -> Tensor:
    if not prefix:
        return pieces
    start = torch.tensor(prefix, dtype=torch.int64).expand(len(pieces), len(prefix))
    return torch.cat([start, pieces], dim=1)


def _windows(
    corpus: Corpus,
    ids: Tensor,
    tokens: Tensor,
    bos: bool,
    sampling: str,
    seed: int | None,
    note: str | None,
) -> TokenWindows:
    return TokenWindows(
        tokens=tokens,
        bos=bos,
        sampling=sampling,
        seed=seed,
        text_tokens=len(ids),
        corpus_name=corpus.label,
        corpus_origin=corpus.origin,
        corpus_fingerprint=corpus.fingerprint,
        note=note,
        kind=corpus.kind,
    )
