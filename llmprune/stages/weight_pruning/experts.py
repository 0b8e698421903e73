"""Pruning the experts of a block one by one, each on the tokens that the router sends it.

The block runs once to see which tokens these are. Then an expert at a time has its tokens gathered, is pruned, and is
given up: of all that grows with the number of experts, only the finished weights stay. A router that sends an expert
fewer tokens than one of its matrices has inputs leaves that matrix's Gram matrix singular. Such an expert is pruned on
tokens of all experts of its block instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from llmprune.algorithms.feed_forward.network import first_chunk, scaled
from llmprune.algorithms.feed_forward.sparsellm import FfnSettings, prune_ffn
from llmprune.algorithms.feed_forward.token_sums import FirstSums
from llmprune.algorithms.weights.pruned import PrunedWeight
from llmprune.artifacts.files.spill import SpillingStore
from llmprune.artifacts.records.weight_sparsity import FfnRecord
from llmprune.errors import UnseenInputsError
from llmprune.models.ffn_wiring import FfnWiring
from llmprune.models.open_experts import OpenExperts, Routing
from llmprune.stages.weight_pruning.chunks import StoredChunks
from llmprune.stages.weight_pruning.expert_tokens import Tokens, in_chunks
from llmprune.stages.weight_pruning.layers import LayerSums, are_unseen, prune_layers, prune_unseen
from llmprune.stages.weight_pruning.streams import Batch, Streams

# Tokens of all experts that stand in for those of one that saw too few, as a multiple of its widest matrix's inputs.
_SHARED = 4


@dataclass(frozen=True)
class ExpertsStep:
    """Experts of a block that are to be pruned.

    Attributes:
        experts: all of them.
        chosen: for each expert to prune, the paths of the matrices to prune.
        wiring: of each as an FFN that is one problem; None: they are pruned matrix by matrix.
    """

    experts: OpenExperts
    chosen: Mapping[int, frozenset[str]]
    wiring: FfnWiring | None

    @property
    def path(self) -> str:
        """Of their module in the block."""
        return self.experts.experts.path


@dataclass(frozen=True)
class MatrixNumbers:
    """What is kept of an expert's pruned matrix beside its weights; see ``PrunedWeight``."""

    zeros: int
    error: float
    energy: float
    damping: float
    widened: bool


@dataclass(frozen=True)
class PrunedExperts:
    """Pruned experts of a block.

    Attributes:
        step: what was done.
        tensors: finished ones by the names that the checkpoint has, as it stores them.
        numbers: for each pruned matrix, by path, those of each expert.
        ffns: what came of each expert that was one problem.
        tokens: that each expert was sent.
        shared: experts that were sent too few, and were pruned on tokens of all.
        unseen: paths of matrices whose inputs were all zero in some expert.
    """

    step: ExpertsStep
    tokens: tuple[int, ...]
    shared: tuple[int, ...]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    numbers: dict[str, dict[int, MatrixNumbers]] = field(default_factory=dict)
    ffns: dict[int, FfnRecord] = field(default_factory=dict)
    unseen: set[str] = field(default_factory=set)


class ExpertsPruning:
    """The work on the experts of one open block.

    Args:
        streams: the calibration windows.
        settings: of FFNs, and of single matrices.
        store: working tensors. Where the dense model is the reference, what it gives the experts is there already.
        dense_key: under which key, for the place of a batch; None: the dense model is no reference.
        running: entered around a run of the block on a batch.
        named: entered around the work on an expert of a name, to say so in errors.
    """

    def __init__(
        self,
        streams: Streams,
        settings: FfnSettings,
        store: SpillingStore,
        dense_key: Callable[[int], str] | None,
        running: Callable[[Batch], AbstractContextManager[None]],
        named: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._streams = streams
        self._settings = settings
        self._store = store
        self._dense_key = dense_key
        self._running = running
        self._named = named

    @torch.no_grad()
    def prune(self, step: ExpertsStep) -> PrunedExperts:
        """Prune the experts as ``step`` says, and let the block compute with them.

        Raises:
            NumericalError: activations or Gram matrices that cannot be solved with; names the expert.
        """
        routed = self._route(step)
        known = step.experts.experts
        own = torch.stack([one.routing.counts(known.count) for one in routed]).sum(0)
        counts: list[int] = self._settings.processes.sum(own).tolist()
        shared = tuple(expert for expert in step.chosen if counts[expert] < known.widest)
        done = PrunedExperts(step, tuple(counts), shared)
        for expert, paths in step.chosen.items():
            with self._named(f"{step.path}, expert {expert}"):
                weights = step.experts.stored(expert)
                source = partial(self._shared_tokens, step) if expert in shared else partial(self._own_tokens, expert)
                tokens = partial(source, routed)
                pruned = self._prune_expert(step, expert, weights, paths, tokens, done)
            self._finish(step, expert, pruned, done)
        for one in routed:
            for key in one.keys:
                self._store.drop(key)
        step.experts.install({path: numbers.keys() for path, numbers in done.numbers.items()}, done.tensors)
        return done

    def _route(self, step: ExpertsStep) -> list[_Routed]:
        """See what every batch sends to which experts; the inputs go to the store."""
        routed = []
        for batch in self._streams.entering(step.experts.block.index):
            with self._running(batch):
                routing = step.experts.routing(batch.pruned, batch.call)
            assert routing is not None, "the experts were seen to be routed to"
            own = f"{step.path}-routed-{batch.place}"
            self._store.put(own, {"inputs": routing.inputs})
            keys = (own,) if self._dense_key is None else (own, self._dense_key(batch.place))
            routed.append(_Routed(routing.without_inputs(), keys))
        return routed

    def _own_tokens(self, expert: int, routed: Iterable[_Routed]) -> Iterator[Tokens]:
        """An expert's tokens, with its gates; where this rank has none, none of its first batch's."""
        found = [(one, *one.routing.rows(expert)) for one in routed]
        for one, rows, gates in [some for some in found if len(some[1])] or found[:1]:
            yield self._gathered(one, rows, gates)

    def _shared_tokens(self, step: ExpertsStep, routed: list[_Routed]) -> Iterator[Tokens]:
        """Tokens of all experts, spread evenly over the calibration text: the same whoever has which windows."""
        stream = self._streams.pruned
        seq_len = stream.tokens.shape[1]
        stride = max(1, stream.tokens.numel() // (_SHARED * step.experts.experts.widest))
        place = stream.windows.start * seq_len
        for one in routed:
            count, device = len(one.routing.chosen), one.routing.chosen.device
            places = torch.arange(place, place + count, device=device) % (stream.batch * seq_len)
            yield self._gathered(one, (places % stride == 0).nonzero().flatten(), None)
            place += count

    def _gathered(self, one: _Routed, rows: Tensor, gates: Tensor | None) -> Tokens:
        found = [self._store.rows(key, rows)["inputs"] for key in one.keys]
        return Tokens(found[0], found[1] if len(found) > 1 else None, gates)

    def _prune_expert(
        self,
        step: ExpertsStep,
        expert: int,
        weights: dict[str, Tensor],
        paths: frozenset[str],
        tokens: Callable[[], Iterator[Tokens]],
        done: PrunedExperts,
    ) -> dict[str, PrunedWeight]:
        if step.wiring is None or paths != weights.keys():
            return self._prune_matrices(step, expert, weights, paths, tokens, done)
        ffn = step.wiring.assembled(step.experts.layers(expert, weights))
        chunks = StoredChunks(self._store, prefix="expert")
        first = FirstSums(ffn, self._settings.reference)
        for part in in_chunks(tokens(), self._streams.pruned.batch * self._streams.pruned.tokens.shape[1]):
            chunk = chunks.append(first_chunk(ffn, part.inputs, dense_inputs=part.dense, scale=part.scale))
            with self._settings.products():
                first.add(chunk, dense_inputs=part.dense)
        try:
            result = prune_ffn(ffn, chunks, self._settings, first=first.take(self._settings.processes))
        except UnseenInputsError:
            done.unseen.update(weights)
            return prune_unseen(weights, self._settings)
        finally:
            chunks.clear()
        done.ffns[expert] = FfnRecord(errors=result.relative_errors, kept=result.best.index)
        return step.wiring.taken_apart(result.best)

    def _prune_matrices(
        self,
        step: ExpertsStep,
        expert: int,
        weights: dict[str, Tensor],
        paths: frozenset[str],
        tokens: Callable[[], Iterator[Tokens]],
        done: PrunedExperts,
    ) -> dict[str, PrunedWeight]:
        """Prune an expert's matrices one after another, as any layers with the same inputs are."""
        known = step.experts.experts
        inner = {m.path: weights[m.path] for m in known.inner if m.path in paths}
        pruned = self._prune_alike(inner, ((part.inputs, part.dense, part.scale) for part in tokens()), done)
        after = {**weights, **{path: layer.weight for path, layer in pruned.items()}}
        if known.down.path in paths:
            given = (
                (
                    step.experts.hidden(expert, part.inputs, after),
                    None if part.dense is None else step.experts.hidden(expert, part.dense, weights),
                    part.scale,
                )
                for part in tokens()
            )
            pruned |= self._prune_alike({known.down.path: weights[known.down.path]}, given, done)
        return pruned

    def _prune_alike(
        self,
        weights: dict[str, Tensor],
        inputs: Iterable[tuple[Tensor, Tensor | None, Tensor | None]],
        done: PrunedExperts,
    ) -> dict[str, PrunedWeight]:
        """Prune matrices with the same inputs, the dense model's, and what the outputs are multiplied by."""
        if not weights:
            return {}
        sums = LayerSums()
        with self._settings.products():
            for own, dense, scale in inputs:
                sums.add(scaled(own, scale), dense=None if dense is None else scaled(dense, scale))
        moments = sums.take(self._settings.processes)
        done.unseen.update(weights if are_unseen(moments.gram) else ())
        return prune_layers(weights, moments, self._settings)

    def _finish(self, step: ExpertsStep, expert: int, pruned: dict[str, PrunedWeight], done: PrunedExperts) -> None:
        """Put an expert's pruned matrices where the finished ones go, and note what is kept of them."""
        for matrix in step.experts.experts.matrices:
            layer = pruned.get(matrix.path)
            if layer is None:
                continue
            name = matrix.slot(expert).tensor
            if name not in done.tensors:
                done.tensors[name] = step.experts.block.decoder.stored([name])[name].clone()
            matrix.of_stored(done.tensors[name], expert).copy_(layer.weight)
            numbers = MatrixNumbers(layer.zeros, layer.error, layer.energy, layer.damping, layer.widened)
            done.numbers.setdefault(matrix.path, {})[expert] = numbers


@dataclass(frozen=True)
class _Routed:
    """A batch at the experts: who is sent what, and where its inputs are stored, the dense model's last."""

    routing: Routing
    keys: tuple[str, ...]
