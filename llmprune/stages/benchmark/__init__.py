"""``llmprune bench``."""

from llmprune.stages.benchmark.cost import Measured, bench_steps, expected_of_dense, measured_texts, plan_bench
from llmprune.stages.benchmark.gate import refuse_failed
from llmprune.stages.benchmark.in_run import Benched, bench_in_run, benched_before, check_bench, without_lost
from llmprune.stages.benchmark.settings import QUICK, BenchSettings, parse_batches, parse_tasks
from llmprune.stages.benchmark.sparsity import count_zeros
from llmprune.stages.benchmark.stage import bench, measure, result_name, save_result
from llmprune.stages.benchmark.subjects import ModelSubject, Subject, choose_subjects

__all__ = [
    "QUICK",
    "BenchSettings",
    "Benched",
    "Measured",
    "ModelSubject",
    "Subject",
    "bench",
    "bench_in_run",
    "bench_steps",
    "benched_before",
    "check_bench",
    "choose_subjects",
    "count_zeros",
    "expected_of_dense",
    "measure",
    "measured_texts",
    "parse_batches",
    "parse_tasks",
    "plan_bench",
    "refuse_failed",
    "result_name",
    "save_result",
    "without_lost",
]
