"""The pass behind healing: the pruned and the dense model walk side by side, a block at a time.

Before a block is healed the dense hidden states go on to where the next block of the pruned model would take them up,
across the hole if there is one. Then the block is solved, written, run and given up. Leading blocks that are the dense
model's own run once for both. A pass that was stopped goes on at the next block and ends with the same bytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from llmprune.artifacts.activations import CachedFile
from llmprune.artifacts.files.disk_space import explain_full_disk, require_free_space
from llmprune.artifacts.records.healing import BlockHealing, HealingSettings, LayerHealing
from llmprune.choices import Scope
from llmprune.errors import NumericalError
from llmprune.evaluation.losses import token_losses
from llmprune.models.decoder import Decoder
from llmprune.models.open_block import OpenBlock
from llmprune.stages.common.progress import Progress
from llmprune.stages.healing.block import BlockSolver, Windows
from llmprune.stages.healing.student import Student
from llmprune.stages.passes import PassFolder, PassState, Stream


class HealingPassState(PassState):
    """What a pass runs on, and what it has finished; ``entering`` is a place in the pruned model.

    Attributes:
        dense: the block of the dense model that its hidden states enter.
        loss: mean loss of the model on the held-back windows, healed so far; None: not measured yet.
    """

    settings: HealingSettings
    blocks: tuple[BlockHealing, ...] = ()
    dense: int = 0
    loss: float | None = None


@dataclass(frozen=True)
class HealingPass:
    """One pass, in a folder of its own.

    Attributes:
        student: the pruned model.
        dense: the model that it was made from.
        solved_on: windows that weights are solved on.
        held_back: windows that choose.
        folder: where the pass keeps its files.
        begin: what the pass runs on.
        same: leading blocks that one pass serves for both models.
        progress: who listens.
    """

    student: Student
    dense: Decoder
    solved_on: Windows
    held_back: Windows
    folder: PassFolder[HealingPassState]
    begin: HealingPassState
    same: int
    progress: Progress

    def heal_blocks(self, on_block: Callable[[BlockHealing], None]) -> HealingPassState:
        """Go through all blocks up to the last one to heal.

        Args:
            on_block: called for every block that is healed, not for those that an earlier pass finished.

        Raises:
            NumericalError: activations or Gram matrices that cannot be solved with.
            LlmpruneError: the disk is full.
        """
        places = self.student.healed_places(Scope(self.begin.settings.scope), same=self.same)
        state = self.folder.opened(self.begin, self._embedded, say=self.progress.say)
        total = places[-1] + 1
        if state.entering:
            self.progress.say(f"Going on at block {state.entering} of {total}.")
        with self.progress.task("Healing", total) as advance, explain_full_disk(self.folder.path):
            advance(state.entering)
            for place in range(state.entering, total):
                state = self.folder.save(self._pass_block(place, state, heal=place in places, last=place == places[-1]))
                advance(1)
                if place in places:
                    on_block(state.blocks[-1])
        return state

    def _pass_block(self, place: int, state: HealingPassState, *, heal: bool, last: bool) -> HealingPassState:
        began = time.perf_counter()
        for windows in (self.solved_on, self.held_back):
            windows.find(state.states)
        if place < self.same and not heal:
            return self._dense_moved(state, place + 1, entering=place + 1)
        block = self.student.blocks[place]
        state = self._separated(place, state)
        state = self._dense_moved(state, self.student.goal(place), entering=place)
        with self.student.decoder.block(block):
            opened = OpenBlock(self.student.decoder, block)
            if heal:
                state = self._healed(place, opened, state, began)
            if last:
                return state.model_copy(update={"entering": place + 1, "states": {}})
            return self._student_moved(place, opened, state)

    def _healed(self, place: int, opened: OpenBlock, state: HealingPassState, began: float) -> HealingPassState:
        """Solve the block's layers, write what changed, and note what came of it."""
        solver = BlockSolver(
            opened,
            self.student.goal(place),
            self.solved_on,
            self.held_back,
            self.begin.settings.ridges,
            self.student.masked,
            lambda: self._loss(place, opened),
        )
        loss = self._loss(place, opened) if state.loss is None else state.loss
        if loss is None:
            raise NumericalError("The loss of the pruned model is NaN or infinite on the windows that are held back.")
        paths, remarks = _layers(place, opened, self.solved_on.pruned)
        layers: list[LayerHealing] = []
        tensors: dict[str, Tensor] = {}
        for path in paths:
            layer = solver.heal(path, loss)
            layers.append(layer.record)
            tensors |= layer.tensors
            loss = layer.record.loss if layer.record.kept and layer.record.loss is not None else loss
        weights = {} if self.student.decoder.keeps_changes else self.folder.write_weights(opened.index, tensors)
        record = BlockHealing(
            block=place,
            before=self.student.goal(place),
            layers=tuple(layers),
            seconds=time.perf_counter() - began,
        )
        return state.model_copy(
            update={
                "blocks": (*state.blocks, record),
                "remarks": tuple(dict.fromkeys((*state.remarks, *remarks))),
                "weights": {**state.weights, **weights},
                "loss": loss,
            }
        )

    def _loss(self, place: int, opened: OpenBlock) -> float | None:
        """Mean loss of the model on the held-back windows, from the open block on as its weights are now.

        In nats/token; None: not finite.
        """
        stream, runner = self.held_back.pruned, self.student.decoder.runner
        states = [opened.forward(batch.hidden, batch.call) for batch in stream.entering(opened.index)]
        for block in self.student.blocks[place + 1 :]:
            with self.student.decoder.block(block):
                for at, tokens in enumerate(stream.tokens_of()):
                    states[at] = runner.forward_block(block, states[at], runner.calls(tokens)[block])
        with torch.inference_mode():
            losses = [token_losses(runner, states[at], tokens) for at, tokens in enumerate(stream.tokens_of())]
        loss = float(torch.cat(losses).double().mean())
        return loss if math.isfinite(loss) else None

    def _embedded(self, begin: HealingPassState) -> HealingPassState:
        """The first files of a new pass: the dense model's, which serve both as long as the two are the same."""
        streams = (side for windows in (self.solved_on, self.held_back) for side in (windows.dense, windows.pruned))
        require_free_space(self.folder.path, sum(2 * stream.nbytes for stream in streams))
        states: dict[str, CachedFile] = {}
        for windows in (self.solved_on, self.held_back):
            states |= windows.dense.embedded()
            states |= windows.pruned.embedded() if self.same == 0 else {}
        return begin.model_copy(update={"states": states})

    def _dense_moved(self, state: HealingPassState, goal: int, *, entering: int) -> HealingPassState:
        """Run the dense hidden states on to the block ``goal``, from the last place before it where they are cached."""
        sides = [windows.dense for windows in (self.solved_on, self.held_back)]
        places = [block for block in range(state.dense + 1, goal + 1) if all(side.is_cached(block) for side in sides)]
        if places:
            states = {name: file for name, file in state.states.items() if not name.startswith("dense")}
            states |= {name: file for side in sides for name, file in side.from_cache(places[-1]).items()}
            state = state.model_copy(update={"dense": places[-1], "states": states})
        for block in range(state.dense, goal):
            states = {name: file for name, file in state.states.items() if not name.startswith("dense")}
            with self.dense.block(block):
                for windows in (self.solved_on, self.held_back):
                    states |= _run(OpenBlock(self.dense, block), windows.dense, block + 1)
            state = state.model_copy(update={"dense": block + 1, "states": states})
        return state.model_copy(update={"entering": entering})

    def _separated(self, place: int, state: HealingPassState) -> HealingPassState:
        """Give the pruned model hidden states of its own, where the dense model's have served both until now."""
        states = dict(state.states)
        for windows in (self.solved_on, self.held_back):
            block = self.student.blocks[place]
            if not windows.pruned.has(block):
                states |= windows.pruned.write(block, windows.dense.batches(state.dense))
        return state.model_copy(update={"states": states})

    def _student_moved(self, place: int, opened: OpenBlock, state: HealingPassState) -> HealingPassState:
        """Run the pruned model's hidden states through the open block."""
        states = {name: file for name, file in state.states.items() if name.startswith("dense")}
        for windows in (self.solved_on, self.held_back):
            states |= _run(opened, windows.pruned, self.student.blocks[place + 1])
        return state.model_copy(update={"entering": place + 1, "states": states})


def _run(opened: OpenBlock, stream: Stream, goal: int) -> dict[str, CachedFile]:
    """Write what the open block gives on the states of a stream, as those entering the block ``goal``."""
    entering = stream.entering(opened.index)
    return stream.write(goal, (opened.forward(batch.hidden, batch.call) for batch in entering))


def _layers(place: int, opened: OpenBlock, stream: Stream) -> tuple[list[str], list[str]]:
    """The layers to solve, in order, and remarks on what cannot be."""
    window = stream.first_window(opened.index)
    at_the_end, before = opened.adding(window.hidden, window.call)
    remarks = [f"Block {place}: {path} is no linear layer, and stays as it is" for path in opened.other_matrices()]
    remarks += [f"Block {place}: {path} computes experts, which stay as they are" for path in opened.experts()]
    if not at_the_end and not before:
        remarks.append(
            f"Block {place} stays as it is: no linear layer of it was seen to add to the residual stream unchanged"
        )
    return [*before, *at_the_end], remarks
