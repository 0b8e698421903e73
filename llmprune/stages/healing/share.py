"""One rank's part of the pass behind healing: its windows in both models, and the blocks, healed by all together."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from llmprune.artifacts.files.disk_space import explain_full_disk
from llmprune.artifacts.records.healing import BlockHealing, HealingSettings, LayerHealing
from llmprune.artifacts.records.provenance import FileRecord
from llmprune.errors import NumericalError
from llmprune.evaluation.losses import token_losses
from llmprune.models.decoder import Decoder
from llmprune.models.devices import exact_products
from llmprune.models.open_block import OpenBlock
from llmprune.ranks.group import Ranks
from llmprune.stages.healing.block import BlockSolver, Windows
from llmprune.stages.healing.state import HealingPassState
from llmprune.stages.healing.student import Student
from llmprune.stages.passes import PassFolder, Stream


@dataclass(frozen=True)
class HealingShare:
    """One rank's part.

    Attributes:
        student: the pruned model.
        dense: the model that it was made from.
        solved_on: windows that weights are solved on.
        held_back: windows that choose; a rank may have none of them.
        settings: of the healing.
        folder: where the pass keeps its files.
        same: leading blocks that one pass serves for both models.
        ranks: which divide the windows.
    """

    student: Student
    dense: Decoder
    solved_on: Windows
    held_back: Windows
    settings: HealingSettings
    folder: PassFolder[HealingPassState]
    same: int
    ranks: Ranks

    @property
    def windows(self) -> tuple[Windows, Windows]:
        """All windows."""
        return self.solved_on, self.held_back

    def embedded(self) -> dict[str, FileRecord]:
        """Write the first files: the dense model's, which serve both as long as the two are the same."""
        states: dict[str, FileRecord] = {}
        with explain_full_disk(self.folder.path):
            for windows in self.windows:
                states |= windows.dense.embedded()
                states |= windows.pruned.embedded() if self.same == 0 else {}
        return states

    def pass_block(self, place: int, state: HealingPassState, heal: bool, last: bool) -> HealingPassState:
        """Pass the block at ``place`` of the pruned model, and heal it if asked to.

        Args:
            place: of the block.
            state: of the pass before it, with the files of all ranks.
            heal: whether it is healed.
            last: whether no block behind it is.

        Returns:
            The state behind it, with those files that this rank has written.

        Raises:
            NumericalError: activations or Gram matrices that cannot be solved with.
            LlmpruneError: the disk is full.
        """
        for windows in self.windows:
            windows.find(state.states)
        with exact_products(), explain_full_disk(self.folder.path):
            passed = self._pass_block(place, state, heal=heal, last=last)
        halved = self.student.decoder.runner.halving.remarks
        return passed.model_copy(update={"remarks": tuple(dict.fromkeys((*passed.remarks, *halved)))})

    def _pass_block(self, place: int, state: HealingPassState, *, heal: bool, last: bool) -> HealingPassState:
        began = time.perf_counter()
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
            self.settings.ridges,
            self.student.masked,
            lambda: self._loss(place, opened),
            self.ranks,
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
        writes = self.ranks.is_first and not self.student.decoder.keeps_changes
        weights = self.folder.write_weights(opened.index, tensors) if writes else {}
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
                    states[at] = runner.forward_block(block, states[at], stream.call(block, at, tokens))
        with torch.inference_mode():
            losses = [token_losses(runner, states[at], tokens) for at, tokens in enumerate(stream.tokens_of())]
        own = torch.cat(losses).double() if losses else torch.zeros(0, dtype=torch.float64)
        total, count = self.ranks.sum(torch.tensor([float(own.sum()), own.numel()], dtype=torch.float64)).tolist()
        return total / count if math.isfinite(total) else None

    def _dense_moved(self, state: HealingPassState, goal: int, *, entering: int) -> HealingPassState:
        """Run the dense hidden states on to the block ``goal``, from the last place before it where they are cached."""
        sides = [windows.dense for windows in self.windows]
        places = [block for block in range(state.dense + 1, goal + 1) if all(side.is_cached(block) for side in sides)]
        if places:
            states = {name: file for name, file in state.states.items() if not name.startswith("dense")}
            states |= {name: file for side in sides for name, file in side.from_cache(places[-1]).items()}
            state = state.model_copy(update={"dense": places[-1], "states": states})
        for block in range(state.dense, goal):
            states = {name: file for name, file in state.states.items() if not name.startswith("dense")}
            with self.dense.block(block):
                for windows in self.windows:
                    states |= _run(OpenBlock(self.dense, block), windows.dense, block + 1)
            state = state.model_copy(update={"dense": block + 1, "states": states})
        return state.model_copy(update={"entering": entering})

    def _separated(self, place: int, state: HealingPassState) -> HealingPassState:
        """Give the pruned model hidden states of its own, where the dense model's have served both until now."""
        states = dict(state.states)
        for windows in self.windows:
            block = self.student.blocks[place]
            if not windows.pruned.has(block):
                written = windows.pruned.write(block, windows.dense.batches(state.dense))
                states |= written
                for others in self.ranks.gather(tuple(written)):  # all look at the first window, whoever has it
                    windows.pruned.add(others)
        return state.model_copy(update={"states": states})

    def _student_moved(self, place: int, opened: OpenBlock, state: HealingPassState) -> HealingPassState:
        """Run the pruned model's hidden states through the open block."""
        states = {name: file for name, file in state.states.items() if name.startswith("dense")}
        for windows in self.windows:
            states |= _run(opened, windows.pruned, self.student.blocks[place + 1])
        return state.model_copy(update={"entering": place + 1, "states": states})


def _run(opened: OpenBlock, stream: Stream, goal: int) -> dict[str, FileRecord]:
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
