"""The figures of a benchmark by name, and those that were promised before it began."""

import pytest

from llmprune.artifacts.records.agreement import AgreementResult, DraftResult
from llmprune.artifacts.records.bench import GenerationResult, ModelResult, PerplexityResult, TaskResult
from llmprune.artifacts.records.estimates import Estimate, Repeats
from llmprune.evaluation.intervals import estimate_exp_mean
from llmprune.stages.benchmark.metrics import collect_metrics, metric_names


def repeats(*values):
    return Repeats(values=values)


def model(shift=0.0, speed=1.0, joules=True):
    texts = {"easy": (1.0, 1.2, 1.1), "hard": (3.0, 3.4, 3.1)}
    return ModelResult(
        name="m",
        num_blocks=6,
        num_parameters=1000,
        weight_bytes=4000,
        load_seconds=0.5,
        perplexity=tuple(
            PerplexityResult(
                corpus=name,
                perplexity=estimate_exp_mean([loss + shift for loss in losses]),
                window_losses=tuple(loss + shift * (1 + (name == "easy")) for loss in losses),
            )
            for name, losses in texts.items()
        ),
        tasks=(
            TaskResult(
                task="piqa", metric="acc", accuracy=0.5, stderr=0.3, items=(1.0, 0.0, 1.0, 0.0 if shift else 1.0)
            ),
            TaskResult(task="boolq", metric="acc", accuracy=1.0, stderr=0.0, items=(1.0, 1.0)),
        ),
        generation=tuple(
            GenerationResult(
                batch=batch,
                tokens_per_second=repeats(*(speed * batch * value for value in (9.0, 10.0, 11.0))),
                first_token_ms=repeats(batch / speed, batch / speed),
                joules_per_token=repeats(2.0 / speed, 2.0 / speed) if joules else None,
                peak_bytes=5000,
            )
            for batch in (1, 8)
        ),
        prompt=repeats(100.0 * speed, 110.0 * speed),
        peak_bytes=6000,
    )


PLANNED = {"texts": ["easy", "hard"], "tasks": [("piqa", "acc"), ("boolq", "acc")], "batch": [1, 8], "repeats": 2}
ALONE = {"agreement": False, "draft": False}
AGREED = AgreementResult(share=Estimate(value=0.75), length=Estimate(value=3.0), shares=(0.5, 1.0), lengths=(2, 4))
DRAFT = DraftResult(
    alone=repeats(10.0, 10.0),
    assisted=repeats(15.0, 15.0),
    speedup=Estimate(value=1.5, interval=(1.5, 1.5)),
    proposed=(4, 6),
    accepted=(4, 1),
)


@pytest.mark.parametrize("energy", [True, False])
@pytest.mark.parametrize("compared", [True, False])
def test_what_was_promised_is_measured_and_nothing_else(energy, compared):
    baseline = model(joules=energy) if compared else None
    promised = metric_names(
        **PLANNED, energy=energy, loaded=True, compared=compared, agreement=compared, draft=compared
    )
    one = model(0.1, joules=energy).model_copy(update={"agreement": AGREED, "draft": DRAFT} if compared else {})
    assert set(collect_metrics(one, baseline)) == set(promised)


def test_agreement_and_drafts_have_no_ratio():
    metrics = collect_metrics(model().model_copy(update={"agreement": AGREED, "draft": DRAFT}), model())
    assert metrics["agreement"].value == 0.75
    assert metrics["agreed_tokens"].value == 3.0
    assert metrics["draft_acceptance"].value == 0.5
    assert metrics["draft_speedup"] == Estimate(value=1.5, interval=(1.5, 1.5))
    assert not any(name.startswith(("agreement_", "draft_speedup_")) for name in metrics)


def test_a_model_of_which_only_sizes_are_known():
    one = ModelResult(name="m", num_blocks=6, num_parameters=1000, weight_bytes=4000, load_seconds=1.0)
    promised = metric_names(texts=[], tasks=[], batch=[], repeats=2, energy=False, loaded=True, compared=True, **ALONE)
    assert set(collect_metrics(one, one)) == set(promised)


def test_the_short_name_is_the_worst():
    metrics = collect_metrics(model(0.1, speed=1.25), model())
    assert metrics["ppl"] == metrics["ppl.hard"]
    assert metrics["ppl_ratio"] == metrics["ppl_ratio.easy"]  # shifted twice as far
    assert metrics["acc"] == metrics["acc.piqa"]
    assert metrics["acc_diff"] == metrics["acc_diff.piqa"]
    assert metrics["piqa_drop"].value == -metrics["acc_diff.piqa"].value == 0.25
    assert metrics["piqa_drop"].interval == tuple(-end for end in reversed(metrics["acc_diff.piqa"].interval))
    assert metrics["boolq_drop"].value == 0.0
    assert metrics["generation"] == metrics["generation.1"]
    assert metrics["first_token"] == metrics["first_token.8"]


def test_ratios_and_differences_are_paired():
    metrics = collect_metrics(model(0.1, speed=1.25), model())
    assert metrics["generation_ratio.8"].value == pytest.approx(1.25)
    assert metrics["generation_ratio.8"].interval == pytest.approx((1.25, 1.25))  # every repeat alike
    assert metrics["first_token_ratio.1"].value == pytest.approx(0.8)
    assert metrics["prompt_ratio"].value == pytest.approx(1.25)
    assert metrics["acc_diff.piqa"].value == pytest.approx(-0.25)
    assert metrics["params_ratio"] == Estimate(value=1.0)
    assert metrics["sparsity"].value == 0.0


def test_a_single_run_gives_no_ratio():
    once = model().model_copy(update={"prompt": repeats(100.0)})
    metrics = collect_metrics(once, once)
    assert metrics["prompt"].value == 100.0
    assert {"prompt_ratio", "load_seconds_ratio"}.isdisjoint(metrics)
    promised = metric_names(**{**PLANNED, "repeats": 1}, energy=True, loaded=True, compared=True, **ALONE)
    assert not any(name.startswith(("prompt_ratio", "generation_ratio", "load_seconds_ratio")) for name in promised)
    assert "ppl_ratio" in promised


def test_a_stalled_repeat_does_not_decide_a_ratio():
    steady, stalled = repeats(100.0, 101.0, 99.0, 100.0, 100.0), repeats(100.0, 101.0, 5.0, 100.0, 100.0)
    metrics = collect_metrics(
        model().model_copy(update={"prompt": stalled}), model().model_copy(update={"prompt": steady})
    )
    assert metrics["prompt_ratio"].value == 1.0
    assert not metrics["prompt_ratio"].is_clear
