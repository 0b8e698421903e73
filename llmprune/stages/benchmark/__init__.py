"""``llmprune bench``."""

from llmprune.stages.benchmark.gate import refuse_failed
from llmprune.stages.benchmark.settings import QUICK, BenchSettings, parse_batches, parse_tasks
from llmprune.stages.benchmark.sparsity import count_zeros
from llmprune.stages.benchmark.stage import bench, check_bench, measure, result_name, save_result
from llmprune.stages.benchmark.subjects import ModelSubject, Subject, choose_subjects

__all__ = [
    "QUICK",
    "BenchSettings",
    "ModelSubject",
    "Subject",
    "bench",
    "check_bench",
    "choose_subjects",
    "count_zeros",
    "measure",
    "parse_batches",
    "parse_tasks",
    "refuse_failed",
    "result_name",
    "save_result",
]
