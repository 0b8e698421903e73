"""peft attaches a LoRA to a pruned checkpoint and trains it; a mask brings the zeros back after it was merged."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmprune.algorithms.weights.patterns import SemiStructured
from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.artifacts.records.pruning import RECORD_NAME, PruningRecord
from llmprune.evaluation.sparsity import measure_sparsity

peft = pytest.importorskip("peft", reason="peft is not installed (extra 'dev')")
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # of peft's
PATTERN = SemiStructured(2, 4)


def pruned_names(directory):
    return PruningRecord.read(directory / RECORD_NAME).pruned_tensors


def trained(directory, tokens, *, steps=2):
    """A LoRA on the attention, trained on next-token prediction; gives the model and the loss of every step."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(directory)
    settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, settings)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=0.02)
    losses = []
    for _ in range(steps):
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return model, losses


def test_two_steps_lower_the_loss_and_leave_the_pruned_weights_alone(sparse, tokens):
    model, losses = trained(sparse, tokens, steps=3)  # the third tells what the second did
    assert losses[2] < losses[1] < losses[0]
    stored = open_checkpoint(sparse)
    weights = stored.load(stored.tensors)
    base = {name.replace(".base_layer", ""): weight for name, weight in model.get_base_model().state_dict().items()}
    assert all(torch.equal(base[name], weight) for name, weight in weights.items())
    adapted = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert len(adapted) == 2 * 2 * model.config.num_hidden_layers
    assert all("lora_" in name for name in adapted)


def test_an_adapter_is_saved_and_loaded_on_the_pruned_checkpoint(sparse, tokens, tmp_path):
    model, _ = trained(sparse, tokens)
    model.eval().save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(sparse), tmp_path / "adapter").eval()
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)


def test_merging_fills_the_zeros_and_apply_mask_brings_them_back(sparse, tokens, prune, tmp_path):
    names = pruned_names(sparse)
    merged, _ = trained(sparse, tokens)
    merged.merge_and_unload().save_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(sparse).save_pretrained(tmp_path / "merged")
    filled = measure_sparsity(open_checkpoint(tmp_path / "merged"), names, PATTERN)
    assert filled.violations > 0
    masked = open_checkpoint(prune("apply-mask", tmp_path / "merged", sparse))
    counted = measure_sparsity(masked, names, PATTERN)
    assert (counted.ratio, counted.violations) == (0.5, 0)
