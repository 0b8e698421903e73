"""Made-up benchmarks, and the model, text and machine that they are of, with numbers that a test can look for."""

from __future__ import annotations

import math

from llmprune.artifacts.records.agreement import AgreementProtocol, AgreementResult, DraftResult
from llmprune.artifacts.records.bench import (
    BenchResult,
    GenerationResult,
    Machine,
    ModelResult,
    PerplexityResult,
    TaskDifference,
    TaskResult,
)
from llmprune.artifacts.records.estimates import Estimate, Repeats
from llmprune.artifacts.records.protocols import PerplexityProtocol, SpeedProtocol, TaskProtocol
from llmprune.artifacts.records.provenance import CorpusIdentity, ModelIdentity
from llmprune.artifacts.records.zeros_counted import SparsityReport, TensorSparsity

DEPTH = 8
MODEL = ModelIdentity(
    name="made/sea-8b", fingerprint="ab" * 32, model_type="llama", num_blocks=DEPTH, num_parameters=8_000_000
)
TEXT = CorpusIdentity(name="sea.txt", origin="file sea.txt", fingerprint="cd" * 32)
MACHINE = Machine(
    processor="Abacus 9000", threads=2, memory_bytes=2**34, system="Linux", python="3.11", attention=("sdpa",)
)
KINDS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")


def counted(zeros: int) -> SparsityReport:
    """As many zeros in every pruned matrix."""
    names = (f"model.layers.{block}.{kind}.weight" for block in range(DEPTH) for kind in KINDS)
    return SparsityReport(
        tensors=tuple(TensorSparsity(name=name, shape=(100, 100), parameters=10_000, zeros=zeros) for name in names)
    )


def model_result(
    name: str,
    *,
    ppl: float,
    speed: float,
    blocks: int,
    parameters: int,
    zeros: int = 0,
    agreement: float | None = None,
) -> ModelResult:
    interval = (ppl * 0.9, ppl * 1.1)
    return ModelResult(
        name=name,
        num_blocks=blocks,
        num_parameters=parameters,
        weight_bytes=parameters * 4,
        sparsity=counted(zeros),
        load_seconds=0.5,
        perplexity=(
            PerplexityResult(
                corpus="sea.txt", perplexity=Estimate(value=ppl, interval=interval), window_losses=(math.log(ppl),) * 2
            ),
        ),
        tasks=(TaskResult(task="sea", metric="acc", accuracy=0.5, stderr=0.1, items=(0.0, 1.0)),),
        agreement=_agreement(agreement) if agreement is not None else None,
        draft=_draft(speed) if agreement is not None else None,
        generation=(
            GenerationResult(
                batch=8,
                tokens_per_second=Repeats(values=(speed, speed * 1.05, speed * 0.95)),
                first_token_ms=Repeats(values=(1e4 / speed,) * 3),
                joules_per_token=None,
                peak_bytes=10**8,
            ),
        ),
        prompt=Repeats(values=(speed * 10,) * 3),
        peak_bytes=10**8,
    )


def _agreement(share: float) -> AgreementResult:
    return AgreementResult(
        share=Estimate(value=share, interval=(share - 0.05, share + 0.05)),
        length=Estimate(value=7.5, interval=(6.5, 8.5)),
        shares=(share, share),
        lengths=(7, 8),
    )


def _draft(speed: float) -> DraftResult:
    return DraftResult(
        alone=Repeats(values=(100.0, 100.0)),
        assisted=Repeats(values=(speed, speed)),
        speedup=Estimate(value=speed / 100, interval=(speed / 100, speed / 100)),
        proposed=(20, 20),
        accepted=(13, 12),
    )


DENSE = model_result(MODEL.name, ppl=12.34, speed=100.0, blocks=DEPTH, parameters=MODEL.num_parameters)
SPEED = SpeedProtocol(
    batch=(8,), prompt_tokens=64, new_tokens=32, prefill_tokens=512, repeats=3, max_seconds=20, energy="not measured"
)
AGREEMENT = AgreementProtocol(source="sea.txt", prompts=2, prompt_tokens=64, new_tokens=32)
PROTOCOL = PerplexityProtocol(corpus=TEXT, seq_len=512, windows=2, bos=False)


def bench(model: ModelResult, *, baseline: ModelResult | None = DENSE, **changes: object) -> BenchResult:
    metrics = {}
    if baseline is not None:
        ppl = model.perplexity[0].perplexity.value / baseline.perplexity[0].perplexity.value
        speed = model.generation[0].tokens_per_second.median / baseline.generation[0].tokens_per_second.median
        metrics = {
            "ppl_ratio.sea.txt": Estimate(value=ppl, interval=(ppl * 0.99, ppl * 1.01)),
            "generation_ratio.8": Estimate(value=speed, interval=(speed * 0.99, speed * 1.01)),
            "prompt_ratio": Estimate(value=speed, interval=(speed * 0.99, speed * 1.01)),
            "acc_diff.sea": Estimate(value=-0.125),
        }
    made = BenchResult(
        machine=MACHINE,
        device="cpu",
        dtype="float32",
        perplexity=(PROTOCOL,),
        tasks=TaskProtocol(tasks=("sea",), limit=2, lm_eval="0.4.13", bos=False),
        speed=SPEED,
        agreement=AGREEMENT if model.agreement is not None else None,
        baseline=baseline,
        model=model,
        differences=(TaskDifference(task="sea", metric="acc", difference=-0.125, stderr=None),),
        metrics=metrics,
    )
    return made.model_copy(update=changes)
