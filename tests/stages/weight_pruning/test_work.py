"""What pruning computes, as counted beforehand, is what it then computes."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.ranks_counted import Counter
from llmprune.algorithms.weights.patterns import Unstructured
from llmprune.choices import Method, Reference
from llmprune.models.compute import choose_compute
from llmprune.models.resident import model_decoder
from llmprune.stages.calibration import text_of_windows
from llmprune.stages.common.progress import Silent
from llmprune.stages.passes import PassFolder
from llmprune.stages.weight_pruning import PruningSettings
from llmprune.stages.weight_pruning.decoder_pruning import prune_decoder, recorded_settings
from llmprune.stages.weight_pruning.estimate import needs_of
from llmprune.stages.weight_pruning.state import PruningPassState
from llmprune.text.windows import TokenWindows

HALF = Unstructured(0.5)
KNOWN = {"sampling": "windows", "seed": 0, "text_tokens": 1, "corpus_name": "r", "corpus_origin": "r"}


@pytest.fixture
def llama():
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 2, "vocab_size": 32}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=4)).eval()


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (Method.SPARSELLM, {"rounds": 3}),
        (Method.SPARSELLM, {"reference": Reference.PRUNED, "rounds": 2}),
        (Method.SPARSEGPT, {}),
        (Method.SPARSEGPT, {"reference": Reference.PRUNED, "refit_steps": 0}),
    ],
)
def test_products_are_counted_within_a_fifth(method, options, llama, tmp_path):
    tokens = TokenWindows(torch.randint(32, (24, 128)), corpus_fingerprint="0", bos=False, **KNOWN)
    settings, text = PruningSettings(HALF, method, **options), text_of_windows(tokens)
    compute, folder = choose_compute("cpu"), PassFolder(tmp_path / "pass", PruningPassState)
    recorded, decoder = recorded_settings(settings, (0, 1), text, dtype="float32"), model_decoder(llama)
    progress = Silent()
    needs = needs_of(decoder, settings, (0, 1), windows=24, seq_len=128, compute=compute)
    with Counter() as counter:
        prune_decoder(
            decoder, text, settings, recorded, model="", folder=folder, compute=compute, progress=progress,
            on_block=lambda _: None,
        )  # fmt: skip
    (counted, _), *_ = counter.parts
    assert needs.work.products + needs.work.rounded + needs.work.narrow == pytest.approx(counted, rel=0.2)
