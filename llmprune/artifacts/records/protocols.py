"""How a benchmark measures: the protocols that stand beside its numbers."""

from __future__ import annotations

from llmprune.artifacts.records.agreement import AgreementProtocol
from llmprune.artifacts.records.provenance import CorpusIdentity, Record


class PerplexityProtocol(Record):
    """How perplexity was measured on one text: on windows that do not overlap, with logits in float32.

    Attributes:
        corpus: the text.
        seq_len: tokens in each window, BOS included.
        windows: the number of windows.
        bos: whether every window starts with BOS.
    """

    corpus: CorpusIdentity
    seq_len: int
    windows: int
    bos: bool


class TaskProtocol(Record):
    """How accuracy on tasks was measured: by lm-eval, on the same items for both models.

    Attributes:
        tasks: lm-eval's names of the tasks.
        limit: how many items of each task, from the first on; null: all.
        lm_eval: the version of lm-eval.
        bos: whether every item starts with BOS.
        num_fewshot: how many solved examples stand before an item, one number for each task; empty in files of earlier
            versions, which gave none.
        generative: those of the tasks whose answers the model writes; it chooses the answers of the others.
    """

    tasks: tuple[str, ...]
    limit: int | None
    lm_eval: str
    bos: bool
    num_fewshot: tuple[int, ...] = ()
    generative: tuple[str, ...] = ()

    def examples(self, task: str) -> str:
        """How many solved examples stand before an item of a task, and whether the model writes its answer."""
        number = dict(zip(self.tasks, self.num_fewshot, strict=False)).get(task, 0)
        said = f"{number} example{'s' if number > 1 else ''}" if number else "no examples"
        return f"{said}, answers written" if task in self.generative else said


class SpeedProtocol(Record):
    """How speed was measured: baseline and model in turn, after one warm-up of each.

    Attributes:
        batch: batch sizes, in sequences generated together; each was measured separately.
        prompt_tokens: tokens of the prompt of each sequence.
        new_tokens: tokens generated for each sequence, greedily, with the KV cache.
        prefill_tokens: tokens of the single long prompt.
        repeats: the least number of timed repeats.
        max_seconds: the time after which no further repeat began, once there were ``repeats``.
        energy: which device's energy was counted, the processor's or the GPU's; or why none was.
    """

    batch: tuple[int, ...]
    prompt_tokens: int
    new_tokens: int
    prefill_tokens: int
    repeats: int
    max_seconds: float
    energy: str


class Protocols(Record):
    """How all benchmarks of a sweep measure, so that their numbers compare.

    Attributes:
        perplexity: one protocol for each text.
        tasks: null without tasks.
        speed: null where speed is not measured.
        agreement: null where the models' greedy choices are not compared.
        dtype: the dtype that was computed in.
        device: ``cpu``, ``cuda:0`` or another GPU's number.
    """

    perplexity: tuple[PerplexityProtocol, ...]
    tasks: TaskProtocol | None = None
    speed: SpeedProtocol | None
    agreement: AgreementProtocol | None = None
    dtype: str
    device: str
