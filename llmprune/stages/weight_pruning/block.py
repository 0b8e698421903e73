"""Pruning one block: its layers group by group in the order in which they are used, the FFN as one problem.

A group is the layers that have the same input (query, key and value). It sees the activations that the block gives with
everything before the group already pruned. So the batches run through the block once a group: storing the inputs of all
groups instead would fix them before the earlier groups are pruned.

With the dense model as reference (``Reference.DENSE``) the dense block runs once beforehand. The inputs of its groups
are stored, and a pruned layer, on its own inputs, is to give what the dense layer gives on these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from llmprune.algorithms.feed_forward.network import Linear, first_chunk
from llmprune.algorithms.feed_forward.sparsellm import FfnResult, FfnSettings, prune_ffn
from llmprune.algorithms.weights.gram import CrossAccumulator, GramAccumulator
from llmprune.algorithms.weights.pruned import PrunedWeight
from llmprune.artifacts.files.spill import SpillingStore
from llmprune.choices import Part, Reference
from llmprune.errors import NumericalError, UnseenInputsError
from llmprune.models.block_linears import LinearSlot
from llmprune.models.ffn_wiring import FfnWiring
from llmprune.models.open_block import OpenBlock
from llmprune.stages.weight_pruning.choose_experts import choose_experts
from llmprune.stages.weight_pruning.chunks import StoredChunks
from llmprune.stages.weight_pruning.experts import ExpertsPruning, ExpertsStep, PrunedExperts
from llmprune.stages.weight_pruning.layers import are_unseen, prune_layers, prune_unseen
from llmprune.stages.weight_pruning.selection import Selection
from llmprune.stages.weight_pruning.streams import Batch, Streams

# Bytes of activations that stay in memory; the rest goes to files. 32 x 1024 tokens of SmolLM2 (width 576) take 75 MB a
# group in float32 and never leave memory; 128 x 2048 tokens of width 4096 take 4.3 GB a group.
_MEMORY = 1 << 30


Step = tuple[str, ...] | FfnWiring | ExpertsStep


@dataclass(frozen=True)
class BlockSteps:
    """What is done to a block.

    Attributes:
        order: each is a group of layers with the same input, the FFN, or experts.
        slots: the layers to prune, by path.
        remarks: what is done differently than asked for.
    """

    order: tuple[Step, ...]
    slots: dict[str, LinearSlot]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class PrunedBlock:
    """A block's pruned weights (out, in) by path, the rounds of its FFN if that was one problem, and its experts.

    The inputs of the ``unseen`` were all zero.
    """

    layers: dict[str, PrunedWeight]
    ffn: FfnResult | None
    experts: tuple[PrunedExperts, ...] = ()
    unseen: frozenset[str] = frozenset()


def choose_steps(block: OpenBlock, window: Batch, selection: Selection, *, joint: bool) -> BlockSteps:
    """Watch one window pass through the block, and decide what is pruned together.

    Args:
        block: open, its weights dense.
        window: one window entering it.
        selection: which layers.
        joint: solve the FFN as one problem where it is of a known kind.
    """
    groups, ffn = block.groups(window.pruned, window.call)
    experts, odd = choose_experts(block, window, selection, joint=joint)
    slots = {path: slot for path, slot in block.linears().items() if selection.takes(slot)}
    unused = [path for path in slots if not any(path in group for group in groups)]
    remarks = [f"{path} was used by no token, and stays dense" for path in unused]  # an expert, for example
    remarks += [f"{path} is no linear layer, and stays dense" for path in block.other_matrices()]
    remarks += [f"{path} is not stored as it is used, and stays dense" for path in block.merged()]
    remarks += [f"{path} is a router, and stays dense" for path in _dense_routers(block, selection)]
    remarks += odd
    slots = {path: slot for path, slot in slots.items() if path not in unused}
    why = _why_not_joint(ffn, slots) if joint else None
    remarks += [f"{why}: such an FFN is pruned by SparseGPT, matrix by matrix"] if why else []
    whole = ffn if joint and ffn is not None and ffn.down in slots and why is None else None
    return BlockSteps(tuple(_steps(groups, slots, whole, experts)), slots, tuple(remarks))


def _dense_routers(block: OpenBlock, selection: Selection) -> list[str]:
    """Routers, where they were not asked for."""
    if Part.ROUTERS in selection.parts:
        return []
    return [path for path, slot in block.linears().items() if slot.part is Part.ROUTERS]


def _why_not_joint(ffn: FfnWiring | None, slots: dict[str, LinearSlot]) -> str | None:
    """Why an FFN cannot be one problem; None if it can, or if nothing of one is to be pruned."""
    if not any(slot.part is Part.FFN for slot in slots.values()):
        return None
    if ffn is None:
        return "No gated or plain feed-forward network of a known activation was seen in some block"
    missing = [path for path in (*ffn.inner, ffn.down) if path not in slots]
    return f"{', '.join(missing)} is to stay dense" if missing else None


def _steps(
    groups: Sequence[tuple[str, ...]],
    slots: dict[str, LinearSlot],
    ffn: FfnWiring | None,
    experts: Mapping[str, ExpertsStep],
) -> Iterator[Step]:
    joint = (*ffn.inner, ffn.down) if ffn is not None else ()
    for group in groups:
        if group[0] in experts:
            yield experts[group[0]]
        if alone := tuple(path for path in group if path in slots and path not in joint):
            yield alone
        if ffn is not None and ffn.down in group:
            yield ffn


class BlockPruning:
    """The work on one open block.

    Args:
        block: open, its weights dense; they change as the work goes on.
        streams: the calibration windows.
        settings: of FFNs, and of single layers within them.
        scratch: an existing folder for activations that memory has no room for.
    """

    def __init__(self, block: OpenBlock, streams: Streams, settings: FfnSettings, *, scratch: Path) -> None:
        self._block = block
        self._streams = streams
        self._settings = settings
        self._store = SpillingStore(scratch, budget=_MEMORY)
        self._dense = settings.reference is Reference.DENSE
        self._unseen: list[str] = []

    def prune(self, steps: BlockSteps) -> PrunedBlock:
        """Prune the block as ``steps`` says, and install the pruned weights in it.

        Raises:
            NumericalError: activations or Gram matrices that cannot be solved with; names the layers.
        """
        self._weights = self._block.stored_weights(steps.slots.values())
        layers: dict[str, PrunedWeight] = {}
        found: FfnResult | None = None
        experts: list[PrunedExperts] = []
        if self._dense:
            self._note_dense_inputs([_leader(step) for step in steps.order])
        repairing = self._repairing(steps) if self._dense else None
        for step in steps.order:
            if isinstance(step, ExpertsStep):
                experts.append(self._prune_experts(step))
                continue
            if isinstance(step, FfnWiring):
                with self._named((*step.inner, step.down)):
                    found, pruned = self._prune_ffn(step)
            else:
                with self._named(step):
                    pruned = self._prune_group(step, repairs=step == repairing)
            self._block.install({path: layer.weight for path, layer in pruned.items()})
            layers |= pruned
        return PrunedBlock(layers, found, tuple(experts), frozenset(self._unseen))

    def _prune_experts(self, step: ExpertsStep) -> PrunedExperts:
        def named(name: str) -> AbstractContextManager[None]:
            return self._named([name])

        key = partial(self._key, step.path) if self._dense else None
        return ExpertsPruning(self._streams, self._settings, self._store, key, named).prune(step)

    def _note_dense_inputs(self, leaders: Sequence[str]) -> None:
        """Run the dense block: store the inputs of each group (of its first layer), write what leaves the block."""

        def outputs() -> Iterator[Tensor]:
            for batch in self._streams.entering(self._block.index):
                assert batch.dense is not None
                inputs, output = self._block.inputs_of(leaders, batch.dense, batch.call)
                for path in leaders:
                    self._store.put(self._key(path, batch), {"inputs": inputs[path]})
                yield output

        assert self._streams.dense is not None
        self._streams.dense.write(self._block.index + 1, outputs())

    def _repairing(self, steps: BlockSteps) -> tuple[str, ...] | None:
        """The layer before FFN and experts whose output alone is added to the block's input (the attention's output).

        Such a layer can also correct the error that the earlier blocks have left in the block's input. None: no layer.
        """
        window = self._streams.first_window(self._block.index)
        ffns: list[FfnWiring | None] = [step for step in steps.order if isinstance(step, FfnWiring)]
        if not ffns and any(isinstance(step, ExpertsStep) for step in steps.order):
            ffns = [None]
        alone = [step for step in steps.order if isinstance(step, tuple) and len(step) == 1]
        found = (
            step
            for ffn in ffns
            for step in alone
            if self._block.adds_before_ffn(step[0], ffn, window.pruned, window.call)
        )
        return next(found, None)

    def _prune_group(self, group: tuple[str, ...], *, repairs: bool) -> dict[str, PrunedWeight]:
        """Prune layers with the same inputs. One that ``repairs`` also adds what the block's input lacks.

        All that is kept of the tokens is products over them: inputs with themselves, dense inputs with inputs, and what
        is lacking with inputs.
        """
        gram, cross, lacking = GramAccumulator(), CrossAccumulator(), CrossAccumulator()
        with self._settings.products():
            for batch in self._streams.entering(self._block.index):
                inputs = self._block.input_of(group[0], batch.pruned, batch.call)
                gram.update(inputs)
                if self._dense:
                    cross.update(self._store.get(self._key(group[0], batch))["inputs"], inputs)
                    self._store.drop(self._key(group[0], batch))
                if repairs:
                    assert batch.dense is not None
                    lacks = batch.dense.float() - batch.pruned.float()
                    lacking.update(lacks.view(-1, lacks.shape[-1]), inputs)
        inputs = gram.result()
        self._unseen += group if are_unseen(inputs) else ()
        return prune_layers(
            {path: self._weights[path] for path in group},
            inputs,
            self._settings,
            cross=cross.result() if self._dense else None,
            lacking=lacking.result() if repairs else None,
        )

    def _prune_ffn(self, wiring: FfnWiring) -> tuple[FfnResult | None, dict[str, PrunedWeight]]:
        """Solve the FFN as one problem. It is none where all inputs of a matrix of it were zero."""
        biases = {path: self._block.layer(path).bias for path in (*wiring.inner, wiring.down)}
        ffn = wiring.assembled({path: Linear(self._weights[path], bias) for path, bias in biases.items()})
        window = self._streams.first_window(self._block.index)
        adds = self._dense and self._block.adds_ffn(wiring, window.pruned, window.call)
        chunks = StoredChunks(self._store, prefix="ffn")
        for batch in self._streams.entering(self._block.index):
            if not self._dense:
                inputs = self._block.input_of(wiring.inner[0], batch.pruned, batch.call)
                chunks.append(first_chunk(ffn, inputs))
                continue
            inputs, outputs = self._inputs_and_goal(wiring, batch, adds=adds)
            key = self._key(wiring.inner[0], batch)
            dense_inputs = self._store.get(key)["inputs"]
            chunks.append(first_chunk(ffn, inputs, dense_inputs=dense_inputs, outputs=outputs))
            self._store.drop(key)
        try:
            found = prune_ffn(ffn, chunks, self._settings)
        except UnseenInputsError:
            self._unseen += biases
            return None, prune_unseen({path: self._weights[path] for path in biases}, self._settings)
        return found, wiring.taken_apart(found.best)

    def _inputs_and_goal(self, wiring: FfnWiring, batch: Batch, *, adds: bool) -> tuple[Tensor, Tensor | None]:
        """The FFN's inputs (tokens, in), and the outputs (tokens, out) with which the block's output is the dense one.

        The outputs are None where the block does more than add them to the residual stream (a norm behind the FFN).
        Then the dense FFN's own outputs are the goal.
        """
        if not adds:
            return self._block.input_of(wiring.inner[0], batch.pruned, batch.call), None
        inputs, rest = self._block.around_ffn(wiring, batch.pruned, batch.call)
        assert self._streams.dense is not None
        dense = self._streams.dense.states(self._block.index + 1, batch.place).float()
        return inputs, (dense - rest.float()).view(-1, dense.shape[-1])

    def _key(self, path: str, batch: Batch) -> str:
        return f"{path}-{batch.place}"

    @contextmanager
    def _named(self, paths: Sequence[str]) -> Iterator[None]:
        """Add to a numerical error which layers it is about."""
        try:
            yield
        except NumericalError as error:
            raise NumericalError(
                f"Block {self._block.index}, {', '.join(paths)}: {error} "
                "More `samples`, a larger `damping` or `dtype=float32` may help."
            ) from error


def _leader(step: Step) -> str:
    """The module whose input is that of all that a step prunes first."""
    if isinstance(step, ExpertsStep):
        return step.path
    return step.inner[0] if isinstance(step, FfnWiring) else step[0]
