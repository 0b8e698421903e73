"""remove-blocks on the command line: what it says of its verification."""

import pytest

from llmprune.models.compute import Compute


@pytest.mark.parametrize(
    ("free", "said"), [(10**10, "tokens generated alike with and without"), (1000, "tokens, block by block.")]
)
def test_it_tells_how_the_result_was_verified(free, said, world, llmprune, monkeypatch):
    monkeypatch.setattr(Compute, "free_bytes", lambda _: free)
    result = llmprune("remove-blocks", world.intact, "--blocks", "2", "--run", world.folder / "cut")
    assert result.exit_code == 0, result.stderr
    assert "Verified in float32: logits differ from the bypassed source's by at most" in result.stdout
    assert said in " ".join(result.stdout.split())
