"""The memory of a pass: one block and one batch, however many blocks there are."""

import sys

import psutil
import pytest
import torch

from llmprune.models.compute import choose_compute
from llmprune.models.loading import open_decoder
from llmprune.models.memory import give_back_freed_memory
from llmprune.stages.calibration import measure_dense
from llmprune.stages.common.progress import Silent
from tests.tiny import save_tiny_llama

BLOCKS, INNER, WINDOWS, SEQ_LEN = 6, 3072, 4, 512
ACTIVATION = WINDOWS * SEQ_LEN * INNER * 4  # bytes of what enters the down projection


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no malloc_trim")
def test_no_block_leaves_a_hole_of_its_activations_behind(tmp_path):
    shape = {"hidden_size": 256, "intermediate_size": INNER, "max_position_embeddings": SEQ_LEN}
    model = save_tiny_llama(tmp_path / "model", num_blocks=BLOCKS, initializer_range=0.02, **shape)
    compute = choose_compute("cpu")
    decoder = open_decoder(model, device=compute.device)
    tokens = torch.randint(3, 120, (WINDOWS, SEQ_LEN), generator=torch.Generator().manual_seed(0))
    give_back_freed_memory()
    before = psutil.Process().memory_info().rss
    measure_dense(decoder, tokens, tmp_path / "pass", compute, Silent())
    assert psutil.Process().memory_info().rss - before < BLOCKS / 2 * ACTIVATION
