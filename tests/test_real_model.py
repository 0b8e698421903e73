"""What only a real model can tell: SmolLM2-135M-Instruct, out of its wheel, on real text."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmprune.algorithms.blocks.search import forked_losses
from llmprune.evaluation.perplexity import window_losses
from llmprune.models import gguf
from llmprune.models.capture import bypassed
from llmprune.models.demo import demo_model
from llmprune.models.loading import load_tokenizer, load_whole, open_decoder
from llmprune.stages.block_search.evaluator import WindowEvaluator
from llmprune.text.corpora import load_corpus
from llmprune.text.windows import consecutive_windows, sample_windows

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(demo_model() is None, reason="the demo model is not installed (extra 'demo')"),
]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def read():
    """What transformers reads of the GGUF file, which takes a quarter of a minute: the options, and the model."""
    return {}


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory, read):
    directory = tmp_path_factory.mktemp("smollm2") / "dense"

    def from_pretrained(**options):
        model, info = AutoModelForCausalLM.from_pretrained(**options)
        read.update(options=options, model=model)
        return model, info

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "AutoModelForCausalLM", SimpleNamespace(from_pretrained=from_pretrained))
        gguf.convert_gguf(demo_model(), directory)
    return directory


@pytest.fixture(scope="module")
def whole(smollm2):
    return load_whole(smollm2, device=CPU, dtype=torch.float32)


def plain_loss(model, tokens):
    """Mean loss of each window by plain transformers."""
    with torch.inference_mode():
        logits = model(input_ids=tokens).logits.float()
    flat = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return flat.view(len(tokens), -1).double().mean(dim=1)


def test_the_converted_checkpoint_is_the_gguf_model(whole, read):
    path = demo_model()
    assert read["options"] == {
        "pretrained_model_name_or_path": path.parent,
        "gguf_file": path.name,
        "dtype": torch.float32,
        "output_loading_info": True,
    }
    ours = dict(whole.named_parameters())
    assert all(torch.equal(parameter, ours[name]) for name, parameter in read.pop("model").named_parameters())


def test_perplexity_is_that_of_plain_transformers(smollm2, whole):
    corpus = load_corpus("python-docs", purpose="evaluation")
    tokens = consecutive_windows(corpus, load_tokenizer(smollm2), seq_len=256, max_windows=3).tokens
    ours = window_losses(whole, tokens, batch_tokens=512)
    torch.testing.assert_close(torch.tensor(ours), plain_loss(whole, tokens).float(), atol=1e-5, rtol=0)


def test_forked_losses_are_those_of_skipping_each_block_in_a_full_forward_pass(smollm2, whole):
    tokens = sample_windows(load_corpus("python-docs"), load_tokenizer(smollm2), num_windows=2, seq_len=32).tokens
    decoder = open_decoder(smollm2, device=CPU)
    evaluator = WindowEvaluator(decoder, tokens, batch_size=3)
    candidates = range(1, 29)
    losses = forked_losses(evaluator, range(2), remaining=range(30), candidates=candidates)
    ours = losses.sums.sum(dim=1) / (losses.tokens * losses.sums.shape[1])
    for candidate, loss in [*zip(candidates, ours, strict=True)][::4]:
        with bypassed(whole.model.layers, [candidate], decoder.runner.returned):
            assert abs(plain_loss(whole, tokens).mean() - loss) < 1e-4
