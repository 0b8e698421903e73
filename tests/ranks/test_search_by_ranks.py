"""verify-redundancy by two processes: the order and the losses of one, whoever dies and however many go on."""

import json
import os
import shutil
import signal

import pytest

from llmprune.artifacts.records.importance import Importance
from llmprune.ranks import joining
from llmprune.stages.block_search.together import SearchShare
from tests.ranks.together import run_ranks
from tests.tiny import save_tiny_llama, write_text


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A run with a calibration, made by one process."""
    folder = tmp_path_factory.mktemp("ranks")
    model, text = save_tiny_llama(folder / "model"), write_text(folder / "sea.txt")
    words = ["calibrate", model, "--source", text, "--samples", 8, "--seq-len", 32, "--run", folder / "run"]
    (ended,) = run_ranks(1, words, folder / "calibrate")
    assert ended.exit_code == 0, ended.stderr
    return folder / "run"


def searched(run):
    return Importance.read(run / "importance.json")


def comparable(importance):
    data = importance.model_dump(mode="json", exclude={"created", "versions"})
    for one in data["rounds"]:
        del one["seconds"]
    return data


def copied(run, to):
    return shutil.copytree(run, to)


@pytest.mark.parametrize("heal", [False, True])
def test_two_and_three_processes_remove_what_one_removes(calibrated, tmp_path, heal):
    words = ["verify-redundancy", "--target", 3, *(["--heal"] if heal else []), "--json", "--run"]
    found = {}
    for size in (1, 2, 3):
        run = copied(calibrated, tmp_path / f"by-{size}")
        ended = run_ranks(size, [*words, run], tmp_path / f"ranks-{size}")
        assert [one.exit_code for one in ended] == [0] * size, ended
        assert json.loads(ended[0].stdout)["order"] == list(searched(run).order)
        assert all(not one.stdout and not one.stderr for one in ended[1:])
        found[size] = searched(run)
    for size in (2, 3):
        assert found[size].order == found[1].order
        for one, other in zip(found[size].rounds, found[1].rounds, strict=True):
            assert one.loss == pytest.approx(other.loss, abs=1e-6)
            assert [c.tokens for c in one.candidates] == [c.tokens for c in other.candidates]
            assert [c.loss for c in one.candidates] == pytest.approx([c.loss for c in other.candidates], abs=1e-6)
            assert one.block_forwards == other.block_forwards
    again = copied(calibrated, tmp_path / "again")
    run_ranks(2, [*words, again], tmp_path / "ranks-again")
    assert comparable(searched(again)) == comparable(found[2])


def test_a_rank_that_dies_is_named_and_others_go_on(calibrated, tmp_path):
    run = copied(calibrated, tmp_path / "run")
    words = ["verify-redundancy", "--target", 3, "--run", run]
    plain = SearchShare.measured

    def die_in_the_second_round(rank):
        def measured(self, windows, remaining, candidates, healed, **own):
            if rank == 1 and len(remaining) == 5:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(self, windows, remaining, candidates, healed, **own)

        SearchShare.measured = measured

    first, second = run_ranks(2, words, tmp_path / "died", before=die_in_the_second_round)
    assert second.exit_code == -signal.SIGKILL
    assert first.exit_code == 1
    assert "Error: Rank 1 (process " in first.stderr
    assert "of 2 died. What was finished is kept: start the same command again" in first.stderr
    assert "Traceback" not in first.stderr
    assert len(searched(run).order) == 1
    for size, before, target in ((3, 2, 2), (1, 3, 3)):
        ended = run_ranks(size, ["verify-redundancy", "--target", target, "--run", run], tmp_path / f"on-{size}")
        assert [one.exit_code for one in ended] == [0] * size
        assert f"{size} process{'es' * (size > 1)} instead of {before};" in ended[0].stderr
        assert searched(run).environment.processes == size
    whole = copied(calibrated, tmp_path / "whole")
    run_ranks(1, ["verify-redundancy", "--target", 3, "--run", whole], tmp_path / "one")
    assert searched(run).order == searched(whole).order


def test_a_death_of_the_first_is_told_by_another(calibrated, tmp_path):
    run = copied(calibrated, tmp_path / "run")

    def die(rank):
        if rank == 0:
            SearchShare.measured = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)

    first, second, third = run_ranks(
        3, ["verify-redundancy", "--target", 1, "--run", run], tmp_path / "died", before=die
    )
    assert first.exit_code == -signal.SIGKILL
    assert (second.exit_code, third.exit_code) == (1, 1)
    assert "Error: Rank 0 (process " in second.stderr
    assert third.stderr == ""


def test_every_rank_must_see_the_run(calibrated, tmp_path, monkeypatch):
    run = copied(calibrated, tmp_path / "run")

    def elsewhere(rank):
        if rank == 1:
            monkeypatch.setattr("llmprune.ranks.shared.Path.read_text", lambda *_, **__: "")

    first, second = run_ranks(2, ["verify-redundancy", "--target", 1, "--run", run], tmp_path / "out", before=elsewhere)
    assert first.exit_code == second.exit_code == 2
    assert f"Rank 1 on {os.uname().nodename} does not see {run}; several processes need one shared" in first.stderr
    assert not list(run.glob(".shared-*"))


def test_more_processes_than_windows_are_refused(calibrated, tmp_path):
    run = copied(calibrated, tmp_path / "run")
    ended = run_ranks(9, ["verify-redundancy", "--target", 1, "--run", run], tmp_path / "out")
    assert {one.exit_code for one in ended} == {2}
    assert "9 processes were started, and there are 8 windows to divide among them" in ended[0].stderr


def test_a_mistake_on_the_command_line_ends_all(calibrated, tmp_path):
    ended = run_ranks(2, ["verify-redundancy", "--no-such-option"], tmp_path / "out")
    assert [one.exit_code for one in ended] == [2, 2]
    assert "No such option" in ended[0].stderr
    assert ended[1].stderr == ""


def test_srun_is_known_by_its_own_variables(calibrated, tmp_path):
    run = copied(calibrated, tmp_path / "run")

    def srun(rank, port):
        return {
            "SLURM_PROCID": str(rank),
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_LOCALID": str(rank),
            "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
            "SLURM_JOB_ID": str(port - 20000 if port < 40000 else port),
            "MASTER_PORT": str(port),
        }

    ended = run_ranks(2, ["verify-redundancy", "--target", 1, "--run", run], tmp_path / "out", environment=srun)
    assert [one.exit_code for one in ended] == [0, 0], ended
    assert len(searched(run).order) == 1


def test_what_a_rank_held_for_a_search_is_gone_when_the_search_is_over(calibrated, tmp_path):
    run, held = copied(calibrated, tmp_path / "run"), tmp_path / "held"
    plain = joining._done

    def note(rank):
        def done(request, objects):
            found = plain(request, objects)
            held.write_text(str(len(objects)))
            return found

        joining._done = done

    words = ["verify-redundancy", "--target", 2, "--swap", 1, "--run", run]
    ended = run_ranks(2, words, tmp_path / "out", before=note)
    assert [one.exit_code for one in ended] == [0, 0], ended
    assert held.read_text() == "0"
