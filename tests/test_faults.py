"""Faults on purpose: operations are counted and turned into faults, and a seeded part of all trials ends well."""

import errno
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.faults.__main__ import chosen
from benchmarks.faults.compare import differences, lost, tree
from benchmarks.faults.log import Finding, Trial, Verdict, faults, read_log, table, try_all
from benchmarks.faults.operations import Act, Counting, Log, Plan, unavailable
from benchmarks.faults.world import World

MEMORY = Path("/dev/shm")
pytestmark = [
    pytest.mark.skipif(unavailable() is not None, reason=f"nothing can be interposed: {unavailable()}"),
    pytest.mark.usefixtures("real_disk"),
]


def write(folder: Path) -> None:
    """Seven operations that change something under a folder, one that does not, and one elsewhere."""
    (folder / "a").mkdir()
    (folder / "a" / "b").write_text("12345678")
    (folder / "a" / "b").rename(folder / "c")
    assert (folder / "c").read_text() == "12345678"
    (folder / "c").unlink()
    (folder.parent / "elsewhere").write_text("")
    save_file({"x": torch.zeros(3)}, folder / "t.safetensors")


def met(folder: Path, plan: Plan, log: Log) -> int:
    """The exit code of a process that writes and meets a fault: an error's number, or minus a signal."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            log.arm(plan)
            write(folder)
            code = 0
        except OSError as error:
            code = error.errno
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def folder(tmp_path) -> Path:
    place = tmp_path / "folder"
    place.mkdir()
    return place


def test_what_changes_files_under_a_folder_is_counted_whoever_asks_the_kernel(folder):
    log = Log()
    assert met(folder, Plan(folder), log) == 0
    names = [(one.name, one.path) for one in log.operations()]
    assert names[:5] == [("mkdir", "a"), ("openat", "a/b"), ("write", "a/b"), ("rename", "c"), ("unlink", "c")]
    # safetensors writes a temporary file, and renames it without libc
    assert names[-1] == ("renameat", "t.safetensors")
    log.clear()
    (folder / "a").rmdir()
    assert met(folder, Plan(folder, counting=Counting.ALL), log) == 0
    assert {"read", "close"} <= {one.name for one in log.operations()}


@pytest.mark.parametrize(
    ("act", "error", "code", "left"),
    [
        (Act.KILL, 0, -signal.SIGKILL, ""),
        (Act.TORN, 0, -signal.SIGKILL, "1234"),
        (Act.TERMINATE, 0, -signal.SIGTERM, ""),
        (Act.FAIL_ONCE, errno.EIO, errno.EIO, "12345678"),  # Python writes again when it closes
        (Act.FAIL_ON, errno.ENOSPC, errno.ENOSPC, ""),
    ],
)
def test_the_third_operation_meets_its_fault(act, error, code, left, folder):
    assert met(folder, Plan(folder, act=act, at=2, error=error), Log()) == code
    assert (folder / "a" / "b").read_text() == left


def test_a_full_disk_lets_files_be_renamed_and_deleted(folder):
    log = Log()
    assert met(folder, Plan(folder, act=Act.FAIL_ON, at=3, error=errno.ENOSPC), log) == 99  # safetensors has its own
    assert not (folder / "c").exists()
    assert [one.name for one in log.operations()][3:5] == ["rename", "unlink"]


def test_what_two_folders_differ_by_is_said_without_times(folder):
    one, other = folder / "one", folder / "other"
    for place, created in ((one, "2026-01-01T10:00:00+00:00"), (other, "2026-01-02T11:30:00+00:00")):
        (place / "sub").mkdir(parents=True)
        (place / "a.json").write_text(f'{{"created": "{created}", "seconds": {len(created)}, "b": [1, {{"c": 2}}]}}')
    (one / "20261127T000851.839269Z.json").write_text("{}")
    (other / "20261127T000951.000001Z.json").write_text("{}")
    assert differences(tree(one), tree(other)) == []
    (other / "a.json").write_text('{"b": [1, {"c": 3}]}')
    (one / "left").write_text("mine")
    assert differences(tree(one), tree(other)) == ["left is left over", "a.json differs.b[1].c: 2 instead of 3"]
    assert lost(tree(other), tree(one)) == ["a.json", "left"]


def test_a_log_goes_on_where_it_was_cut(tmp_path):
    path, tried = tmp_path / "log.jsonl", []

    def judge(name: str) -> Finding:
        tried.append(name)
        return Finding(Verdict.FAULT, "is gone") if name == "b" else Finding(Verdict.SURVIVED)

    trials = [Trial("kill", name, "heal", lambda name=name: judge(name)) for name in "abc"]
    assert len(list(try_all(trials[:2], path))) == 2
    path.write_text(path.read_text() + '{"kind": "ki')
    assert [entry.name for entry in try_all(trials, path)] == ["c"]
    assert tried == ["a", "b", "c"]
    entries = read_log(path)
    assert table(entries).splitlines()[2:] == [
        "| kill | heal | 3 | 2 | 0 | 0 | 0 | 1 |",
        "| **kill** | all | 3 | 2 | 0 | 0 | 0 | 1 |",
    ]
    assert faults(entries) == "kill, fault, 1 times, first at 'b': is gone"


def test_a_seeded_part_of_the_trials_ends_well(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    root = tmp_path_factory.mktemp("faults")
    trials = chosen(World(root), kinds=["kill"], commands=["calibrate"], limit=4)
    entries = list(try_all(trials, root / "log.jsonl"))
    assert len(entries) == 4
    assert not faults(entries)
