"""Pruning one block: its layers group by group in the order in which they are used, the FFN as one problem.

A group sees the activations that the block gives with everything before the group already pruned. So the batches run
through the block once a group, finished parts passed by (``replay``).

With the dense model as reference (``Reference.DENSE``) the dense block runs once beforehand. The inputs of its groups
and the pre-activations of its FFN are stored, and a pruned layer, on its own inputs, is to give what the dense layer
gives on these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from torch import Tensor

from llmprune.algorithms.feed_forward.network import Ffn, FfnChunk, Linear, first_chunk
from llmprune.algorithms.feed_forward.sparsellm import FfnResult, FfnSettings, prune_ffn
from llmprune.algorithms.feed_forward.token_sums import FirstMoments, FirstSums
from llmprune.algorithms.weights.pruned import PrunedWeight
from llmprune.artifacts.files.spill import SpillingStore
from llmprune.artifacts.records.provenance import FileRecord
from llmprune.choices import Reference
from llmprune.errors import NumericalError, UnseenInputsError
from llmprune.models.ffn_wiring import FfnWiring
from llmprune.models.open_block import OpenBlock
from llmprune.stages.weight_pruning.chunks import StoredChunks
from llmprune.stages.weight_pruning.experts import ExpertsPruning, ExpertsStep, PrunedExperts
from llmprune.stages.weight_pruning.layers import LayerSums, are_unseen, prune_layers, prune_unseen
from llmprune.stages.weight_pruning.replay import Replay
from llmprune.stages.weight_pruning.steps import BlockSteps, paths_of
from llmprune.stages.weight_pruning.streams import Batch, Streams


@dataclass(frozen=True)
class PrunedBlock:
    """What came of a block.

    Attributes:
        layers: pruned weights (out, in) by path.
        ffn: the rounds of its FFN if that was one problem.
        experts: those that were pruned.
        unseen: paths of layers whose inputs were all zero.
    """

    layers: dict[str, PrunedWeight] = field(default_factory=dict)
    ffn: FfnResult | None = None
    experts: tuple[PrunedExperts, ...] = ()
    unseen: frozenset[str] = frozenset()


class BlockPruning:
    """The work on one open block.

    Args:
        block: open, its weights dense; they change as the work goes on.
        steps: what is done to it.
        streams: the calibration windows.
        settings: of FFNs, and of single layers within them.
        scratch: an existing folder for activations that memory has no room for.
        memory: bytes of activations that stay in memory.
    """

    def __init__(
        self,
        block: OpenBlock,
        steps: BlockSteps,
        streams: Streams,
        settings: FfnSettings,
        *,
        scratch: Path,
        memory: int,
    ) -> None:
        self._block = block
        self._steps = steps
        self._streams = streams
        self._settings = settings
        self._store = SpillingStore(scratch, budget=memory)
        self._chunks = StoredChunks(self._store, prefix="ffn")
        self._replay = Replay(block, steps.shortcuts, steps.used, steps.pruned, self._store)
        self._dense = settings.reference is Reference.DENSE
        self._unseen: list[str] = []

    def run_dense(self, *, last: bool = False) -> dict[str, FileRecord]:
        """Run the dense block beforehand, where the dense model is the reference, and note what ``prune`` asks for.

        Args:
            last: whether no block behind this one is pruned, so that none asks for the dense states leaving it.

        Returns:
            The file of the dense states leaving the block, by its path in the folder of the pass; none where nobody
            asks for them.
        """
        if not self._dense:
            return {}
        index = self._block.index
        if last and not self._steps.adds:
            for _ in self._dense_outputs():
                pass
            return {}
        return self._streams.dense_at(index + 1).write(index + 1, self._dense_outputs())

    def prune(self) -> PrunedBlock:
        """Prune the block, and install the pruned weights in it.

        Raises:
            NumericalError: activations or Gram matrices that cannot be solved with; names the layers.
        """
        self._weights = self._block.stored_weights(self._steps.slots.values())
        layers: dict[str, PrunedWeight] = {}
        found: FfnResult | None = None
        experts: list[PrunedExperts] = []
        for step in self._steps.order:
            pruned: dict[str, PrunedWeight] = {}
            if isinstance(step, ExpertsStep):
                experts.append(self._prune_experts(step))
            elif isinstance(step, FfnWiring):
                with self._named(paths_of(step)):
                    found, pruned = self._prune_ffn(step)
            else:
                with self._named(step):
                    pruned = self._prune_group(step, repairs=step == self._steps.repairing)
            self._block.install({path: layer.weight for path, layer in pruned.items()})
            self._forget_dense(pruned)
            self._replay.finish(paths_of(step))
            layers |= pruned
        return PrunedBlock(layers, found, tuple(experts), frozenset(self._unseen))

    def _forget_dense(self, paths: Iterable[str]) -> None:
        """The dense weights of layers that are pruned now."""
        for path in paths:
            del self._weights[path]
        self._block.decoder.forget(self._steps.slots[path].tensor for path in paths)

    def leaving(self) -> Iterator[tuple[Batch, Tensor]]:
        """Every batch and what the block makes of it, behind ``prune``."""
        for batch in self._streams.entering(self._block.index):
            with self._replay.running(batch, last=True):
                output = self._block.forward(batch.pruned, batch.call)
            yield batch, output

    def _dense_outputs(self) -> Iterator[Tensor]:
        """What leaves the dense block, batch by batch. Stored are all steps' inputs, and z, s and outputs of FFNs."""
        ffns = [step for step in self._steps.order if isinstance(step, FfnWiring)]
        leaders = [paths_of(step)[0] for step in self._steps.order]
        giving = [path for ffn in ffns for path in (ffn.inner if self._steps.adds else paths_of(ffn))]
        index = self._block.index
        for batch in self._streams.dense_at(index).entering(index):
            inputs, outputs, output = self._block.watched(leaders, giving, batch.hidden, batch.call)
            for path in leaders:
                self._store.put(_key(path, batch.place), {"inputs": inputs[path]})
            for ffn in ffns:
                self._chunks.begin(batch.place, *ffn.pre_activations(outputs))
                if not self._steps.adds:
                    self._store.put(_key(ffn.down, batch.place), {"outputs": outputs[ffn.down]})
            yield output

    def _prune_experts(self, step: ExpertsStep) -> PrunedExperts:
        def named(name: str) -> AbstractContextManager[None]:
            return self._named([name])

        key = partial(_key, step.path) if self._dense else None
        work = ExpertsPruning(self._streams, self._settings, self._store, key, self._replay.running, named)
        return work.prune(step)

    def _prune_group(self, group: tuple[str, ...], *, repairs: bool) -> dict[str, PrunedWeight]:
        """Prune layers with the same inputs. One that ``repairs`` also adds what the block's input lacks."""
        sums = LayerSums()
        with self._settings.products():
            for batch in self._streams.entering(self._block.index, dense=repairs):
                with self._replay.running(batch):
                    inputs = self._block.input_of(group[0], batch.pruned, batch.call)
                sums.add(
                    inputs,
                    dense=self._taken(group[0], batch.place)["inputs"] if self._dense else None,
                    lacking=None if batch.dense is None else batch.dense.float() - batch.pruned.float(),
                )
        moments = sums.take(self._settings.processes)
        self._unseen += group if are_unseen(moments.gram) else ()
        return prune_layers({path: self._weights[path] for path in group}, moments, self._settings)

    def _prune_ffn(self, wiring: FfnWiring) -> tuple[FfnResult | None, dict[str, PrunedWeight]]:
        """Solve the FFN as one problem. It is none where all inputs of a matrix of it were zero."""
        biases = {path: self._block.layer(path).bias for path in paths_of(wiring)}
        ffn = wiring.assembled({path: Linear(self._weights[path], bias) for path, bias in biases.items()})
        try:
            found = prune_ffn(ffn, self._chunks, self._settings, first=self._first_moments(wiring, ffn))
        except UnseenInputsError:
            self._unseen += biases
            return None, prune_unseen({path: self._weights[path] for path in biases}, self._settings)
        finally:
            self._chunks.clear()
        return found, wiring.taken_apart(found.best)

    def _first_moments(self, wiring: FfnWiring, ffn: Ffn) -> FirstMoments:
        """Make the chunks of the FFN's problem, and sum up what is asked of them first."""
        first = FirstSums(ffn, self._settings.reference)
        for batch in self._streams.entering(self._block.index):
            with self._replay.running(batch):
                chunk = self._chunk(wiring, ffn, batch)
            dense_inputs = self._taken(wiring.inner[0], batch.place)["inputs"] if self._dense else None
            with self._settings.products():
                first.add(chunk, dense_inputs=dense_inputs)
        return first.take(self._settings.processes)

    def _chunk(self, wiring: FfnWiring, ffn: Ffn, batch: Batch) -> FfnChunk:
        """Make a chunk of the FFN's problem, and store it.

        Where the block adds the FFN's outputs to the residual stream as they are, those are asked for with which the
        block's output is the dense one. Where it does more (a norm behind the FFN), the dense FFN's own are the goal.
        """
        if not self._dense:
            return self._chunks.append(first_chunk(ffn, self._input_of(wiring.inner[0], batch)))
        if not self._steps.adds:
            outputs = self._taken(wiring.down, batch.place)["outputs"]
            return self._chunks.finish(self._input_of(wiring.inner[0], batch), outputs)
        inputs, rest = self._block.around_ffn(wiring, batch.pruned, batch.call)
        index = self._block.index + 1
        goal = self._streams.dense_at(index).states(index, batch.place).float() - rest.float()
        return self._chunks.finish(inputs, goal.view(-1, goal.shape[-1]))

    def _input_of(self, path: str, batch: Batch) -> Tensor:
        return self._block.input_of(path, batch.pruned, batch.call)

    def _taken(self, path: str, place: int) -> dict[str, Tensor]:
        """What the dense run has stored, which is given up."""
        key = _key(path, place)
        kept = self._store.get(key)
        self._store.drop(key)
        return kept

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


def _key(path: str, place: int) -> str:
    """Of what the dense run stores of a batch."""
    return f"{path}-dense-{place}"
