"""Publishing from Python without the Hub, and a run directory as an object."""

import pytest

import llmprune
from llmprune.errors import ArtifactError


@pytest.fixture
def cut(checkpoint, tokens, tmp_path):
    run = tmp_path / "run"
    llmprune.rank_blocks(checkpoint("llama"), tokens, run=run).first(2)
    return llmprune.remove_blocks(checkpoint("llama"), target=1, run=run, out=run / "cut")


def test_a_dry_run_lists_what_would_be_sent(cut):
    listed = llmprune.push(cut, "owner/name", dry_run=True)
    assert {"README.md", "config.json", "llmprune.json", "model.safetensors"} <= listed.files.keys()
    assert listed.commit is None
    assert repr(listed).startswith("owner/name, a dry run: nothing was sent\n")
    assert "model.safetensors" in repr(listed)
    assert llmprune.push(cut.directory, "owner/name", dry_run=True) == listed


def test_the_run_that_a_checkpoint_lies_in_is_known(cut):
    listed = llmprune.push(cut, "owner/name", dry_run=True, include_artifacts=True)
    assert "importance.json" in listed.files


def test_what_llmprune_did_not_write_is_not_pushed(checkpoint):
    with pytest.raises(ArtifactError, match=r"llmprune\.json"):
        llmprune.push(checkpoint("llama"), "owner/name", dry_run=True)


def test_a_run_gives_what_it_holds(cut, checkpoint, tokens):
    run = llmprune.Run(cut.directory.parent)
    assert run.model == str(checkpoint("llama"))
    assert run.windows.tokens.equal(tokens)
    assert run.calibration.manifest.num_windows == 12
    assert len(run.ranking.order) == 2
    assert run.checkpoints == [cut]
    assert run.benchmarks == []
    assert run.sweep is None
    assert [line.split(":")[0] for line in repr(run).splitlines()[1:]] == ["calibration", "ranking", "checkpoint"]


def test_a_ranking_that_was_kept_prints_and_ends(cut):
    ranking = llmprune.Run(cut.directory.parent).ranking
    assert ranking.rounds[0].loss is not None
    assert list(ranking) == []
    assert "2 of 6 blocks ranked" in repr(ranking)


def test_a_run_that_is_not_there_is_empty(tmp_path):
    run = llmprune.Run(tmp_path / "none")
    assert (run.model, run.calibration, run.windows, run.ranking, run.checkpoints, run.sweep) == (None,) * 4 + (
        [],
        None,
    )
    assert repr(run) == f"{tmp_path / 'none'}: nothing yet"
