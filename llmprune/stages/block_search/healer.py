"""Healing in a search: the block before each candidate is solved for its absence, towards the dense hidden states.

The model as it is by now and the dense one walk side by side over windows that no candidate is measured on. Behind the
block before a candidate, what is lacking is the dense hidden state where the block behind the candidate takes it up,
less what the model has. The last layer of that block that adds to the stream (the FFN's down projection) is asked for
it, by the ridge regression of ``stages/healing``. The candidate that goes leaves its correction in the model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from llmprune.algorithms.healing import MomentsAccumulator, correct, remaining_error
from llmprune.errors import NumericalError
from llmprune.models.decoder import Decoder
from llmprune.models.devices import exact_products
from llmprune.models.known_calls import KnownCalls
from llmprune.models.open_block import OpenBlock
from llmprune.ranks.group import ALONE, Ranks
from llmprune.stages.block_search.batch_states import BatchStates
from llmprune.stages.healing import RIDGES, StoredLayer, add_lacking, held_back, installed, stored_layer


@dataclass(frozen=True)
class _Cut:
    """A candidate, and the block before it as it is healed for its absence; None: it stays as it is."""

    before: int
    layer: StoredLayer | None


class CutHealer:
    """A ``Healer`` of a decoder, whose own weights stay as they are.

    Attributes:
        num_windows: windows that it solves on, those that choose the ridge included.

    Args:
        decoder: the dense model.
        tokens: (windows, seq_len) int64, to solve on; at least 2 windows, of which some choose the ridge.
        batch: windows in one forward pass of a block.
        masked: names of the tensors whose zeros stay zeros; None: all.
        say: hears of every block that cannot be healed.
        ranks: each runs its share of the windows, and all have the sums of all.
        state_bytes: memory for the states of the windows in both models, which else lie in files; None: no bound.
        scratch: folder for these; None: that of temporary files.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokens: Tensor,
        *,
        batch: int,
        masked: frozenset[str] | None,
        say: Callable[[str], None],
        ranks: Ranks = ALONE,
        state_bytes: int | None = None,
        scratch: Path | None = None,
    ) -> None:
        self._decoder, self._masked, self._say, self._ranks = decoder, masked, say, ranks
        self.num_windows = len(tokens)
        cut = len(tokens) - held_back(len(tokens))
        parts = (tokens[:cut], tokens[cut:])
        self._divided = [len(part) >= ranks.size for part in parts]  # fewer windows than ranks: each runs them all
        solved_on, held = (
            ranks.share(part) if divided else part for part, divided in zip(parts, self._divided, strict=True)
        )
        solved_on, held = (part.to(decoder.device).split(batch) for part in (solved_on, held))
        self._batches, self._first_held = [*solved_on, *held], len(solved_on)
        self._calls = KnownCalls(decoder.runner)
        self._state_bytes, self._scratch = state_bytes, scratch
        self._kept: dict[int, StoredLayer] = {}
        self._cuts: dict[int, _Cut] = {}
        self._paths: dict[int, str | None] = {}

    def solve(self, remaining: Sequence[int], candidates: Sequence[int]) -> frozenset[int]:
        """See ``Healer``. What an earlier round solved, and nothing before it has changed since, is not solved again.

        Raises:
            NumericalError: activations that cannot be solved with.
        """
        if remaining[0] in candidates:
            self._say(f"No block stands before block {remaining[0]}, so its absence is measured without healing.")
        wanted = {block for block in candidates if block not in self._cuts and block != remaining[0]}
        if wanted:
            with exact_products():
                self._walk(remaining, wanted)
        return frozenset(block for block in candidates if block in self._cuts and self._cuts[block].layer is not None)

    def restart(self) -> None:
        """See ``Healer``."""
        self._kept, self._cuts = {}, {}

    def keep(self, removed: int) -> None:
        """See ``Healer``."""
        cut = self._cuts.get(removed)
        if cut is not None and cut.layer is not None:
            self._kept[cut.before] = cut.layer
        changed = removed if cut is None else cut.before
        self._cuts = {block: known for block, known in self._cuts.items() if block < changed}

    def as_it_is(self, block: int) -> AbstractContextManager[None]:
        """Let an open block have the weights that it has in the model by now, for as long as the context lasts."""
        return self._having(block, self._kept.get(block))

    def without(self, candidate: int) -> AbstractContextManager[None]:
        """The same of the block before ``candidate``, as it is healed for that one's absence."""
        cut = self._cuts[candidate]
        return self._having(cut.before, cut.layer)

    def _having(self, block: int, layer: StoredLayer | None) -> AbstractContextManager[None]:
        return nullcontext() if layer is None else installed(OpenBlock(self._decoder, block), layer)

    def _walk(self, remaining: Sequence[int], wanted: Collection[int]) -> None:
        """Run the model and the dense one up to the last of the blocks that are ``wanted``, and solve on the way."""
        depth = len(self._decoder.blocks)
        self._decoder.expect(())  # two walks in turn: the next block is not known from the last one
        ours, dense = self._embedded(), self._embedded()
        entering = 0
        for block, behind, goal in zip(remaining, remaining[1:], [*remaining[2:], depth], strict=False):
            if block >= max(wanted):
                return
            for passed in range(entering, goal):
                with self._decoder.block(passed):
                    self._run(passed, dense)
            entering = goal
            with self._decoder.block(block), self.as_it_is(block):
                if behind in wanted:
                    self._cuts[behind] = _Cut(block, self._solved(OpenBlock(self._decoder, block), ours, dense))
                else:
                    self._run(block, ours)

    def _embedded(self) -> BatchStates:
        """The states entering the first block, half of the memory for them."""
        states = (self._decoder.runner.embed(tokens) for tokens in self._batches)
        most = None if self._state_bytes is None else self._state_bytes // 2
        return BatchStates(states, [len(tokens) for tokens in self._batches], most=most, folder=self._scratch)

    def _run(self, block: int, states: BatchStates) -> None:
        """Replace every batch of states by the outputs of a block, whose weights are there."""
        for place, tokens in enumerate(self._batches):
            call = self._calls.at(place, tokens)[block]
            states[place] = self._decoder.runner.forward_block(block, states[place], call)

    def _solved(self, opened: OpenBlock, states: BatchStates, dense: BatchStates) -> StoredLayer | None:
        """Run the open block as ``_run`` does, and find its layer as it comes closest to ``dense``; None: as it is."""
        path = self._path(opened, states[0])
        if path is None:
            self._run(opened.index, states)
            return None
        old = self._kept.get(opened.index) or stored_layer(opened, path)
        solved_on, held = old.sums(), old.sums()
        for place, tokens in enumerate(self._batches):
            call = self._calls.at(place, tokens)[opened.index]
            inputs, states[place] = opened.inputs_of([path], states[place], call)
            add_lacking(solved_on if place < self._first_held else held, inputs[path], states[place], dense[place])
        return self._closest(old, solved_on, held, named=f"Block {opened.index}, {path}")

    def _closest(
        self, old: StoredLayer, solved_on: MomentsAccumulator, held: MomentsAccumulator, *, named: str
    ) -> StoredLayer | None:
        """The layer with the correction whose ridge leaves the smallest error on the windows that choose."""
        moments, judge = (
            part.take(self._ranks if divided else ALONE)
            for part, divided in zip((solved_on, held), self._divided, strict=True)
        )
        mask = old.mask(self._masked)
        smallest, closest = judge.energy, None
        for ridge in RIDGES:
            try:
                change = correct(moments, ridge=ridge, mask=mask)
            except NumericalError as error:
                raise NumericalError(f"{named}: {error}") from error
            if (left := remaining_error(judge, change)) < smallest:
                smallest, closest = left, change
        closest = self._ranks.first(closest)
        return old.corrected(closest) if closest is not None else None

    def _path(self, opened: OpenBlock, states: Tensor) -> str | None:
        """The open block's layer that is solved: the last one that nothing looks at before the block ends."""
        if opened.index not in self._paths:
            call = self._decoder.runner.calls(self._batches[0][:1])[opened.index]
            at_the_end, _ = opened.adding(states[:1], call)
            self._paths[opened.index] = at_the_end[-1] if at_the_end else None
            if not at_the_end:
                self._say(
                    f"Block {opened.index}: no linear layer of it was seen to end it as a plain sum; the block behind "
                    "it is measured without healing."
                )
        return self._paths[opened.index]
