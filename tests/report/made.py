"""A made-up run: artifacts of a model of 8 blocks, with numbers that a test can look for."""

from __future__ import annotations

from dataclasses import replace

from llmprune.artifacts.activations import BlockStatistics, CalibrationManifest
from llmprune.artifacts.records.estimates import Estimate
from llmprune.artifacts.records.generations import Generations, ModelGenerations
from llmprune.artifacts.records.importance import CandidateRecord, Importance, RoundRecord, SearchSettings
from llmprune.artifacts.records.protocols import Protocols
from llmprune.artifacts.records.pruning import BlockRemoval, PruningRecord
from llmprune.artifacts.records.sweep import ParetoSets, SweepPoint, SweepPruning, SweepResult
from llmprune.artifacts.records.weight_sparsity import BlockRecord, MatrixRecord, SparsitySettings, WeightSparsity
from llmprune.report.contents import Checkpoint, Measurement, RunContents
from tests.report.made_bench import DEPTH, KINDS, MACHINE, MODEL, PROTOCOL, SPEED, TEXT, bench, model_result


def calibration() -> CalibrationManifest:
    blocks = tuple(BlockStatistics(influence=0.1 + 0.05 * i, input_norm=1.0, update_norm=0.5) for i in range(DEPTH))
    return CalibrationManifest(
        model=MODEL,
        corpus=TEXT,
        num_windows=16,
        seq_len=512,
        sampling="windows",
        seed=3,
        bos=False,
        windows_fingerprint="ef" * 32,
        dtype="float32",
        cache="first",
        dense_losses=(2.0,) * 16,
        blocks=blocks,
        angular_distances=((0.0,),),
        files={},
    )


def search_round(removed: int, loss: float, gone: tuple[int, ...] = ()) -> RoundRecord:
    """All blocks but the first, the last and those gone are candidates; even ones are dropped early."""
    candidates = tuple(
        CandidateRecord(
            block=b, loss=loss + 0.1 * abs(b - removed), tokens=511 if b % 2 == 0 else 8176, complete=b % 2 == 1
        )
        for b in range(1, DEPTH - 1)
        if b not in gone
    )
    return RoundRecord(
        removed=removed, loss=loss, candidates=candidates, block_forwards=20, naive_block_forwards=100, seconds=1.5
    )


def importance(**changes: object) -> Importance:
    made = Importance(
        model=MODEL,
        corpus=TEXT,
        windows_fingerprint="ef" * 32,
        num_windows=16,
        seq_len=512,
        settings=SearchSettings(
            metric="sleb",
            search="eliminate",
            protect_first=1,
            protect_last=1,
            error_rate=1e-3,
            looks=(4, 6, 9, 13),
            dtype="float32",
        ),
        dense_loss=2.0,
        rounds=(search_round(5, 2.125), search_round(3, 2.375, gone=(5,))),
        order=(5, 3),
    )
    return made.model_copy(update=changes)


def scored() -> Importance:
    settings = importance().settings.model_copy(update={"metric": "angular", "search": None})
    scores = tuple(0.9 - 0.1 * block for block in range(DEPTH))
    return importance(settings=settings, rounds=(), scores=scores, order=(7, 6))


def removed() -> Checkpoint:
    record = PruningRecord(
        source=MODEL,
        removal=BlockRemoval(removed=(5, 3), metric="sleb", importance="00", calibration="sea.txt"),
        num_blocks=6,
        num_parameters=6_500_000,
        weight_bytes=26_000_000,
        command="llmprune remove-blocks made/sea-8b --blocks 3,5 --out sea-6of8",
    )
    return Checkpoint("sea-6of8", record)


def zeroed_block(block: int) -> BlockRecord:
    matrices = tuple(
        MatrixRecord(
            tensor=f"model.layers.{block}.{kind}.weight",
            kind=kind,
            rows=100,
            columns=100,
            zeros=5000,
            error=0.01 * (block + 1),
            damping=0.01,
        )
        for kind in KINDS
    )
    output_error = 0.001 * (block + 1) if block < DEPTH - 1 else None
    return BlockRecord(block=block, matrices=matrices, ffn=None, output_error=output_error, seconds=1.0)


def zeroed() -> Checkpoint:
    settings = SparsitySettings(
        method="sparsellm",
        pattern="50%",
        targets_from="dense",
        layers=tuple(range(DEPTH)),
        parts=("attention", "ffn"),
        exclude=(),
        alpha=0.1,
        beta=1.0,
        gamma=1.0,
        rounds=4,
        damping=0.01,
        block_size=128,
        refit_steps=10,
        dtype="float32",
        windows=16,
        seq_len=512,
        corpus="sea.txt",
        windows_fingerprint="ef" * 32,
    )
    total = DEPTH * len(KINDS) * 10_000
    sparsity = WeightSparsity(
        settings=settings,
        blocks=tuple(map(zeroed_block, range(DEPTH))),
        remarks=(),
        zeros_before=0,
        zeros=total // 2,
        numel=total,
        seconds=8.0,
    )
    record = PruningRecord(
        source=MODEL,
        sparsity=sparsity,
        num_blocks=DEPTH,
        num_parameters=MODEL.num_parameters,
        weight_bytes=32_000_000,
        command="llmprune global-prune made/sea-8b --sparsity 50% --out sea-50",
    )
    return Checkpoint("sea-50", record)


def measurements() -> tuple[Measurement, ...]:
    short = model_result("sea-6of8", ppl=23.45, speed=125.0, blocks=6, parameters=6_500_000, agreement=0.625)
    sparse = model_result("sea-50", ppl=17.89, speed=100.0, blocks=8, parameters=8_000_000, zeros=5000)
    return Measurement("1.json", bench(short)), Measurement("2.json", bench(sparse))


def sweep() -> SweepResult:
    def point(name: str, ppl: float, params: float, effective: float, speed: float, **done: object) -> SweepPoint:
        metrics = {
            "ppl": Estimate(value=ppl, interval=(ppl * 0.95, ppl * 1.05)),
            "ppl_ratio": Estimate(value=ppl / 12.34),
            "params": Estimate(value=params),
            "effective_params": Estimate(value=effective),
            "generation": Estimate(value=100 * speed),
            "generation_ratio": Estimate(value=speed, interval=(speed, speed)),
        }
        return SweepPoint(
            name=name,
            metrics=metrics,
            bench=f"bench/{name}.json",
            checkpoint=None,
            commands=(f"llmprune {name}",),
            bench_seconds=1.0,
            **done,
        )

    points = (
        point("blocks 10%", 15.0, 7.2e6, 7.2e6, 1.1, target="10%", removed=(5,)),
        point("blocks 20%", 23.45, 6.5e6, 6.5e6, 1.25, target="20%", removed=(5, 3)),
        point("sparsity 50%", 17.89, 8e6, 4e6, 1.0, pattern="50%"),
        point("blocks 20% + sparsity 30%", 40.0, 6.5e6, 5e6, 1.25, target="20%", removed=(5, 3), pattern="30%"),
    )
    return SweepResult(
        model=MODEL,
        pruning=SweepPruning(
            method="sparsellm", metric="sleb", corpus=TEXT, windows_fingerprint="ef" * 32, windows=16, seq_len=512
        ),
        measuring=Protocols(perplexity=(PROTOCOL,), speed=SPEED, dtype="float32", device="cpu"),
        planned=tuple(one.name for one in points),
        dense=point("dense", 12.34, 8e6, 8e6, 1.0),
        points=points,
        machine=MACHINE,
        pareto=ParetoSets(
            params=("blocks 20%", "blocks 10%", "dense"),
            effective_params=("sparsity 50%", "blocks 10%", "dense"),
            latency=("blocks 20%", "blocks 10%", "dense"),
        ),
    )


def generations() -> Generations:
    texts = {MODEL.name: " its beauty.", "sea-6of8": " a ship & <b>more</b>.", "sea-50": " wide."}
    return Generations(
        prompts=("The sea is",),
        new_tokens=40,
        repetition_penalty=1.2,
        dtype="float32",
        models=tuple(ModelGenerations(name=name, model=MODEL, texts=(text,)) for name, text in texts.items()),
    )


def contents(**changes: object) -> RunContents:
    """A run that holds everything, but for ``changes``."""
    made = RunContents(
        run="made-run",
        model=MODEL.name,
        calibration=calibration(),
        importance=importance(),
        checkpoints=(removed(), zeroed()),
        measurements=measurements(),
        sweep=sweep(),
        generations=generations(),
    )
    return replace(made, **changes)
