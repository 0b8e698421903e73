"""A text of any length as token ids, at a cost in memory that the length of the text does not multiply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmprune.errors import ModelError
from llmprune.quiet import failures_as, first_sentence, panics_unseen

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PIECE = 250_000  # characters; a tokenizer needs some hundred and fifty bytes for each while it is at work
_OVERLAP = 4_000


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    """The tokens of a text, without special ones: (tokens,) int64.

    A long text is cut into pieces that overlap. Two neighbours must agree, token by token, on the middle half of what
    they share, and are joined in the middle of that: these are the tokens of the text in one piece. Where they do not
    agree, and where a tokenizer does not tell which characters a token is made of, the text is cut in one piece.

    Raises:
        ModelError: the tokenizer cannot cut this text.
    """
    if len(text) <= 2 * _PIECE or not tokenizer.is_fast:
        return _whole(tokenizer, text)
    joined: list[NDArray[np.int32]] = []
    piece = _piece(tokenizer, text, 0)
    while piece.end < len(text):
        following = _piece(tokenizer, text, piece.end - _OVERLAP)
        cut = _agreed_cut(piece, following)
        if cut is None:
            return _whole(tokenizer, text)
        joined.append(piece.ids[piece.starts < cut])
        kept = following.starts >= cut
        piece = _Piece(following.end, following.starts[kept], following.ids[kept])
    return torch.from_numpy(np.concatenate([*joined, piece.ids], dtype=np.int64))


@dataclass(frozen=True)
class _Piece:
    """Tokens of a part of a text.

    Attributes:
        end: the character behind the part.
        starts: the first character of each token.
        ids: the tokens.
    """

    end: int
    starts: NDArray[np.int64]
    ids: NDArray[np.int32]


def _piece(tokenizer: PreTrainedTokenizerBase, text: str, start: int) -> _Piece:
    end = min(start + _PIECE, len(text))
    with failures_as(_cannot_cut), panics_unseen():
        encoded = tokenizer(
            text[start:end],
            add_special_tokens=False,
            return_attention_mask=False,
            return_offsets_mapping=True,
            verbose=False,
        )
    starts = np.fromiter((first for first, _ in encoded["offset_mapping"]), np.int64)
    return _Piece(end, starts + start, np.array(encoded["input_ids"], np.int32))


def _agreed_cut(piece: _Piece, following: _Piece) -> int | None:
    """The character before which one piece is taken, and from which on the other; None: they do not agree."""
    first, last = piece.end - _OVERLAP * 3 // 4, piece.end - _OVERLAP // 4
    own, other = ((one.starts >= first) & (one.starts < last) for one in (piece, following))
    same = np.array_equal(piece.starts[own], following.starts[other])
    if not (own.any() and same and np.array_equal(piece.ids[own], following.ids[other])):
        return None
    shared = piece.starts[own]
    return int(shared[len(shared) // 2])


def _whole(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    with failures_as(_cannot_cut), panics_unseen():  # verbose: a text may be longer than the model's positions
        encoded = tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False)
    return torch.tensor(encoded["input_ids"], dtype=torch.int64)


def _cannot_cut(error: BaseException) -> ModelError:
    """Of an unknown word where there is no token for unknown ones, say."""
    return ModelError(f"The tokenizer cannot cut this text ({first_sentence(error):.300}); give another text.")
