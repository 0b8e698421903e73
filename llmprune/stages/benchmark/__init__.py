"""``llmprune bench``."""

from llmprune.stages.benchmark.gate import refuse_failed
from llmprune.stages.benchmark.settings import QUICK, BenchSettings, parse_batches, parse_tasks
from llmprune.stages.benchmark.sparsity import count_zeros
from llmprune.stages.benchmark.stage import bench, check_bench

__all__ = [
    "QUICK",
    "BenchSettings",
    "bench",
    "check_bench",
    "count_zeros",
    "parse_batches",
    "parse_tasks",
    "refuse_failed",
]
