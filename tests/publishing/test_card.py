"""The model card: a function of what is known, readable by the Hub's own library, with nothing made up."""

from __future__ import annotations

import pytest
import yaml
from huggingface_hub import ModelCard, constants
from hypothesis import example, given
from hypothesis import strategies as st

from llmprune.artifacts.records.bench import (
    BenchResult,
    Machine,
    ModelResult,
    PerplexityResult,
    TaskDifference,
    TaskResult,
)
from llmprune.artifacts.records.estimates import Estimate
from llmprune.artifacts.records.healing import BlockHealing, Healing, HealingSettings, LayerHealing
from llmprune.artifacts.records.protocols import PerplexityProtocol, TaskProtocol
from llmprune.artifacts.records.provenance import CorpusIdentity, ModelIdentity
from llmprune.artifacts.records.pruning import BlockRemoval, MaskApplication, PruningRecord
from llmprune.artifacts.records.weight_sparsity import BlockRecord, MatrixRecord, SparsitySettings, WeightSparsity
from llmprune.errors import ArtifactError
from llmprune.escaping import for_terminal
from llmprune.publishing.card import CardFacts, check_card, is_as_written, model_card
from llmprune.publishing.history import removed_blocks
from llmprune.publishing.licence import Licence, licence_of
from tests.publishing.card_rules import card_errors


def identity(name: str, num_blocks: int = 6) -> ModelIdentity:
    return ModelIdentity(
        name=name, fingerprint="f" * 64, model_type="llama", num_blocks=num_blocks, num_parameters=1000 * num_blocks
    )


def removal_record(name="acme/base@main", removed=(3, 1), num_blocks=6, earlier=None, **removal) -> PruningRecord:
    known = {"metric": "sleb", "importance": "i" * 64, "calibration": "8 windows of 32 tokens of wikitext2"}
    return PruningRecord(
        source=identity(name, num_blocks),
        source_record=earlier,
        removal=BlockRemoval(removed=removed, **{**known, "dense_loss": 2.0, "pruned_loss": 2.5, **removal}),
        num_blocks=num_blocks - len(removed),
        num_parameters=1000 * (num_blocks - len(removed)),
        weight_bytes=4000,
        command=f"llmprune remove-blocks {name} --blocks {','.join(map(str, sorted(removed)))} --out small",
    )


def sparse_record(name="acme/base", pattern="2:4", method="sparsellm", earlier=None) -> PruningRecord:
    settings = SparsitySettings(
        method=method, pattern=pattern, targets_from="dense", layers=(0, 1, 2, 3), parts=("attention", "ffn"),
        exclude=("*.o_proj",), alpha=0.1, beta=1.0, gamma=1.0, rounds=4, damping=0.01, block_size=128, refit_steps=10,
        dtype="float32", windows=8, seq_len=32, corpus="c4", windows_fingerprint="w" * 64,
    )  # fmt: skip
    matrix = MatrixRecord(tensor="w", kind="mlp.up", rows=8, columns=8, zeros=32, error=0.1, damping=0.01)
    block = BlockRecord(block=0, matrices=(matrix,), ffn=None, output_error=None, seconds=1.0)
    return PruningRecord(
        source=identity(name, 4),
        source_record=earlier,
        sparsity=WeightSparsity(
            settings=settings, blocks=(block,), remarks=("experts stayed dense",), zeros_before=0, zeros=32, numel=64,
            seconds=1.0,
        ),
        num_blocks=4,
        num_parameters=4000,
        weight_bytes=4000,
        command=f"llmprune global-prune {name} --pattern 2:4 --out sparse",
    )  # fmt: skip


def benchmark(created="2026-01-01T00:00:00+00:00", corpus="wikitext2", perplexity=30.0, tasks=True) -> BenchResult:
    def measured(name: str, value: float, accuracy: float) -> ModelResult:
        losses = PerplexityResult(
            corpus=corpus, perplexity=Estimate(value=value, interval=(value - 1, value + 1)), window_losses=(1.0,)
        )
        task = TaskResult(task="piqa", metric="acc", accuracy=accuracy, stderr=0.01, items=(0.0, 1.0))
        return ModelResult(
            name=name, num_blocks=4, num_parameters=4000, weight_bytes=4000, perplexity=(losses,),
            tasks=(task,) if tasks else (),
        )  # fmt: skip

    text = CorpusIdentity(name=corpus, origin=f"Hub {corpus} test", fingerprint="t")
    return BenchResult(
        created=created,
        machine=Machine(processor="A | B", threads=2, memory_bytes=2**30, system="Linux", python="3.11"),
        device="cpu",
        dtype="float32",
        perplexity=(PerplexityProtocol(corpus=text, seq_len=32, windows=8, bos=False),),
        tasks=TaskProtocol(tasks=("piqa",), limit=None, lm_eval="0.4", bos=False) if tasks else None,
        baseline=measured("acme/base", 20.0, 0.7),
        model=measured("small", perplexity, 0.6),
        differences=(TaskDifference(task="piqa", metric="acc", difference=-0.1, stderr=0.02),) if tasks else (),
        metrics={
            f"ppl_ratio.{corpus}": Estimate(value=1.5, interval=(1.4, 1.6)),
            "acc_diff.piqa": Estimate(value=-0.1, interval=(-0.14, -0.06)),
        },
    )


def parsed(card: str) -> dict:
    check_card(card)
    assert card_errors(card) == []
    return yaml.safe_load(card.split("---\n")[1])


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch):
    """Nothing here may ask the Hub."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_metadata_of_removed_blocks():
    data = parsed(model_card(CardFacts(removal_record(), Licence("apache-2.0"))))
    assert data == {
        "base_model": "acme/base",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["pruned", "llmprune", "sleb", "depth-pruning"],
    }


def test_what_is_not_known_is_not_claimed():
    data = parsed(model_card(CardFacts(removal_record("my-model", metric=None, calibration=None, importance=None))))
    assert {"license", "base_model", "base_model_relation", "model-index"}.isdisjoint(data)
    assert "sleb" not in data["tags"]
    card = model_card(CardFacts(removal_record("my-model"), base_model="acme/real"))
    assert parsed(card)["base_model"] == "acme/real"


def test_results_stand_in_the_metadata_with_their_protocol():
    facts = CardFacts(removal_record(), results=(benchmark(),), repo_id="ada/small")
    data = ModelCard(model_card(facts)).data
    assert data.model_name == "small"
    found = {(one.dataset_type, one.metric_type): one for one in data.eval_results}
    ppl = found["Salesforce/wikitext", "perplexity"]
    assert ppl.metric_value == 30.0
    assert "8 windows of 32 tokens, no BOS, float32" in ppl.metric_name
    assert found["piqa", "accuracy"].metric_value == 0.6
    card = model_card(facts)
    line = "| perplexity | wikitext2 | 20.00 (19.00 to 21.00) | 30.00 (29.00 to 31.00) | x 1.500 (1.400 to 1.600) |"
    assert line in card
    assert "-0.100 ± 0.020" in card
    assert 'from_pretrained("ada/small")' in card


def test_the_newest_result_of_each_text_counts():
    results = (
        benchmark("2026-03-01T00:00:00+00:00", perplexity=33.0, tasks=False),
        benchmark("2026-01-01T00:00:00+00:00", perplexity=31.0),
        benchmark("2026-02-01T00:00:00+00:00", corpus="c4", perplexity=44.0, tasks=False),
    )
    found = {one.dataset_name: one.metric_value for one in ModelCard(
        model_card(CardFacts(removal_record(), results=results))).data.eval_results}  # fmt: skip
    assert found == {"wikitext2": 33.0, "c4": 44.0, "piqa": 0.6}


def test_removed_blocks_are_named_by_their_index_in_the_base_model():
    twice = removal_record("small", removed=(1, 2), num_blocks=4, earlier=removal_record())
    assert removed_blocks(twice) == (1, 2, 3, 4)  # 0 2 4 5 were left, of which 2 and 4 went
    card = model_card(CardFacts(twice))
    assert "Removed blocks, by their index in the base model, counted from 0: **1, 2, 3, 4**." in card
    assert "| transformer blocks | 6 | 2 |" in card
    assert parsed(card)["base_model"] == "acme/base"
    assert card.index("--blocks 1,3") < card.index("--blocks 1,2")


@given(st.data())
def test_removal_over_several_steps_is_what_deleting_from_a_list_gives(data):
    left = list(range(data.draw(st.integers(4, 12))))
    depth, record = len(left), None
    for _ in range(data.draw(st.integers(1, 3))):
        if len(left) < 2:
            break
        gone = data.draw(st.lists(st.integers(0, len(left) - 1), min_size=1, max_size=len(left) - 1, unique=True))
        record = removal_record("x", tuple(gone), len(left), earlier=record)
        for block in sorted(gone, reverse=True):
            del left[block]
    assert set(removed_blocks(record)) == set(range(depth)) - set(left)


def test_pruned_weights_and_both_together():
    alone = model_card(CardFacts(sparse_record()))
    assert parsed(alone)["tags"] == ["pruned", "llmprune", "sparsellm", "sparse", "2:4"]
    assert "2:4 (2 zeros in every 4 inputs)" in alone
    assert "32 of 64 pruned weights are zero (50.00%)" in alone
    assert "dense kernels do not get faster" in alone
    assert "Note: experts stayed dense." in alone
    assert "(attention and ffn, without `*.o_proj`)" in alone
    assert "bit for bit" not in alone
    both = model_card(CardFacts(sparse_record("small", earlier=removal_record())))
    assert parsed(both)["tags"] == ["pruned", "llmprune", "sleb", "sparsellm", "depth-pruning", "sparse", "2:4"]
    assert "# base, 2 of 6 blocks removed and weights pruned to 2:4" in both
    for paper in ("2402.09025", "2402.17946", "2301.00774"):
        assert f"eprint = {{{paper}}}" in both


def healed(record: PruningRecord) -> PruningRecord:
    settings = HealingSettings(
        teacher=identity("acme/base"), scope="all", origins=(0, 2, 4, 5), ridges=(0.1,), dtype="float32", windows=10,
        held_back=2, seq_len=32, corpus="c4", windows_fingerprint="w" * 64,
    )  # fmt: skip
    layers = [
        LayerHealing(
            tensor="w", bias=None, kind="mlp.down", ridge=0.1, error_before=0.5, error=0.4, loss_before=3.0, loss=loss,
            masked=False,
        )
        for loss in (2.75, 3.5, None)
    ]  # fmt: skip
    block = BlockHealing(block=0, before=2, layers=tuple(layers), seconds=1.0)
    healing = Healing(settings=settings, blocks=(block,), remarks=("experts stayed",), seconds=1.0)
    return record.model_copy(update={"healing": healing})


def test_a_healed_model_says_so_and_claims_no_bits_that_changed():
    card = model_card(CardFacts(healed(removal_record())))
    assert "# base, 2 of 6 blocks removed and healed" in card
    assert "bit for bit, but for the layers that were healed." in card
    assert "Healed: 1 layers were solved anew by least squares" in card
    assert "8 windows of 32 tokens of c4, in float32; 2 more were held back to choose." in card
    assert "Loss on those: 3.0000 nats/token before, 2.7500 after." in card
    assert "Note: experts stayed." in card
    assert "Layers were solved anew by least squares to recover some of it; nothing was trained." in card


def test_a_masked_model():
    masked = MaskApplication(
        mask="mask.safetensors", sha256="s" * 64, fingerprint="abc" * 10, pattern="50%", tensors=("w",), numel=10,
        zeros_before=0, zeros=5,
    )  # fmt: skip
    record = removal_record().model_copy(update={"removal": None, "masked": masked, "num_blocks": 6})
    card = model_card(CardFacts(record))
    assert "sparse" in parsed(card)["tags"]
    assert "5 of 10 masked weights are zero" in card


def test_names_that_people_give_do_not_break_the_table():
    card = model_card(CardFacts(removal_record(), results=(benchmark(corpus="a|b<i>\n.txt"),)))
    row = next(line for line in card.splitlines() if line.startswith("| perplexity"))
    assert row.count(" | ") == 5
    assert r"a\|b\<i\> .txt" in row
    parsed(card)


@given(st.text(max_size=30), st.text(max_size=30))
@example("", "\x85")
def test_any_name_gives_metadata_that_can_be_read(corpus, licence):
    card = model_card(CardFacts(removal_record(), Licence("other", licence or None), (benchmark(corpus=corpus),)))
    data = ModelCard(card).data
    assert data.license_name == (for_terminal(" ".join(licence.split())) or None)
    assert data.eval_results[0].dataset_name == (for_terminal(" ".join(corpus.split())) or "text")
    assert card_errors(card) == []


def test_the_card_is_the_same_every_time_and_knows_when_it_was_edited():
    facts = CardFacts(removal_record(), Licence("mit"), (benchmark(),))
    card = model_card(facts)
    assert card == model_card(facts)
    assert is_as_written(card)
    for edited in (card + "more", card.replace("mit", "gpl"), card.replace("\n# ", "\n## "), "# My card\n"):
        assert not is_as_written(edited)


@pytest.mark.parametrize(
    "text", ["# No metadata\n", "---\nlicense: [\n---\n", "---\n- a\n---\n", "---\nmodel-index: 3\n---\n"]
)
def test_broken_cards_are_refused(text):
    with pytest.raises(ArtifactError, match=r"README\.md"):
        check_card(text)


def test_the_licence_is_copied_and_never_invented(tmp_path):
    assert licence_of(tmp_path) is None
    (tmp_path / "config.json").write_text('{"license": "mit"}')
    assert licence_of(tmp_path) == Licence("mit")
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: own\nlicense_link: LICENSE\n---\n")
    assert licence_of(tmp_path) == Licence("other", "own", "LICENSE")
    for broken in ("no metadata", "---\nlicense: [\n---\n", "---\nlicense:\n---\n", "---\nlicense: {a: b}\n---\n"):
        (tmp_path / "README.md").write_text(broken)
        assert licence_of(tmp_path) == Licence("mit")
    (tmp_path / "config.json").write_text("[1")
    assert licence_of(tmp_path) is None
