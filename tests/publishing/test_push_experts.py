"""A mixture with fewer experts on a Hub: its commit, its card, and the measurement beside it."""

from __future__ import annotations

from tests.publishing.words import SENT
from tests.zoo import save_zoo_model


def test_fewer_experts_arrive_with_what_chose_them(hub, llmprune, text, tmp_path):
    model = save_zoo_model(tmp_path / "moe", "mixtral", num_hidden_layers=2, moe_intermediate_size=16)
    run = ("--run", tmp_path / "run")
    small = ("--source", text, "--samples", 8, "--seq-len", 32)
    assert llmprune("calibrate", model, *small, *run).exit_code == 0
    result = llmprune("remove-experts", "--target", 1, "--out", tmp_path / "fewer", *run)
    assert result.exit_code == 0, result.stderr
    result = llmprune("push", tmp_path / "fewer", "ada/fewer", "--include-artifacts", *run)
    assert result.exit_code == 0, result.stderr
    repository = hub.repositories["ada/fewer"]
    assert "moe with 3 of 4 experts" in repository.titles.values()
    files = repository.files()
    assert "experts.json" in files
    assert files.keys() >= SENT - {"chat_template.jinja"}
    card = files["README.md"].decode()
    assert "1 of 4 experts removed from each of 2 blocks" in card
    (tmp_path / "run" / "experts.json").unlink()
    result = llmprune("push", tmp_path / "fewer", "ada/again", "--include-artifacts", *run)
    assert "No expert-importance file of this checkpoint was found" in " ".join(result.stderr.split())
    assert "experts.json" not in hub.repositories["ada/again"].files()
