import errno
import json
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llmprune.artifacts.files.atomic import atomic_directory, write_json_atomic, write_text_atomic
from llmprune.artifacts.files.disk_space import explain_full_disk, require_free_space
from llmprune.errors import LlmpruneError, NumericalError, OutputExistsError, UserError


def children(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_directory_appears_complete_and_alone(tmp_path: Path):
    target = tmp_path / "new" / "out"
    with atomic_directory(target) as partial:
        assert partial.parent == target.parent
        assert not target.exists()
        (partial / "sub").mkdir()
        (partial / "sub" / "file").write_text("content")
    assert (target / "sub" / "file").read_text() == "content"
    assert children(target.parent) == ["out"]


def test_directory_has_ordinary_permissions(tmp_path: Path):
    (tmp_path / "ordinary").mkdir()
    with atomic_directory(tmp_path / "out"):
        pass
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("out", "ordinary")}
    assert len(modes) == 1


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_after_an_exception(tmp_path: Path, kind: type[BaseException]):
    with pytest.raises(kind), atomic_directory(tmp_path / "a" / "b" / "out") as partial:
        (partial / "file").write_text("content")
        raise kind
    assert children(tmp_path) == []


def test_empty_directory_is_taken(tmp_path: Path):
    (tmp_path / "out").mkdir()
    with atomic_directory(tmp_path / "out") as partial:
        (partial / "file").touch()
    assert children(tmp_path / "out") == ["file"]


def test_other_content_is_refused_before_any_work(tmp_path: Path, snapshot):
    target = tmp_path / "out"
    target.mkdir()
    for name in "abcde":
        (target / name).write_text("old")
    before = snapshot(tmp_path)
    message = r"out already holds a, b, c and 2 more; give another directory with `out`, or .* `force=True`"
    with pytest.raises(OutputExistsError, match=message), atomic_directory(target):
        pytest.fail("the block ran")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_refused(tmp_path: Path, overwrite: bool):
    (tmp_path / "out").write_text("old")
    with (
        pytest.raises(OutputExistsError, match="out is a file"),
        atomic_directory(tmp_path / "out", overwrite=overwrite),
    ):
        pytest.fail("the block ran")
    assert (tmp_path / "out").read_text() == "old"


def test_the_working_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "out" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "out" / "here")
    with (
        pytest.raises(UserError, match="holds the working"),
        atomic_directory(tmp_path / "out", overwrite=True),
    ):
        pytest.fail("the block ran")
    assert children(tmp_path) == ["out"]


def test_a_mount_point_is_refused(small_disk: Path):
    with pytest.raises(UserError, match="is a mount point"), atomic_directory(small_disk):
        pytest.fail("the block ran")


def test_an_unwritable_place_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"Cannot write in .*file: File exists"),
        atomic_directory(tmp_path / "file/out"),
    ):
        pytest.fail("the block ran")
    assert children(tmp_path) == ["file"]


def test_overwrite_keeps_the_old_content_until_the_new_is_complete(tmp_path: Path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    with atomic_directory(target, overwrite=True) as partial:
        (partial / "new").write_text("new")
        assert children(target) == ["old"]
    assert children(target) == ["new"]
    assert children(tmp_path) == ["out"]


def test_overwrite_that_fails_changes_nothing(tmp_path: Path, snapshot):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    before = snapshot(tmp_path)
    with pytest.raises(RuntimeError), atomic_directory(tmp_path / "out", overwrite=True):
        raise RuntimeError
    assert snapshot(tmp_path) == before


def test_overwrite_puts_the_old_content_back_when_the_last_rename_fails(tmp_path: Path, monkeypatch, snapshot):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    before = snapshot(tmp_path)
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.suffix == ".partial":
            raise OSError(errno.EIO, "broken")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="broken"), atomic_directory(tmp_path / "out", overwrite=True):
        pass
    assert snapshot(tmp_path) == before


def test_what_another_process_wrote_meanwhile_is_kept(tmp_path: Path):
    target = tmp_path / "out"
    with pytest.raises(OutputExistsError, match="meanwhile"), atomic_directory(target):
        target.mkdir()
        (target / "theirs").touch()
    assert children(target) == ["theirs"]
    assert children(tmp_path) == ["out"]


def test_a_symbolic_link_stays_one(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "old").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_directory(tmp_path / "link", overwrite=True) as partial:
        (partial / "new").touch()
    assert (tmp_path / "link").is_symlink()
    assert children(tmp_path / "real") == ["new"]


def test_a_name_of_the_longest_length(tmp_path: Path):
    with atomic_directory(tmp_path / ("é" * 127)) as partial:
        (partial / "file").touch()
    write_text_atomic(tmp_path / ("t" * 255), "text")
    assert children(tmp_path) == ["t" * 255, "é" * 127]


WRITER = """
import signal, sys, time
from pathlib import Path
from llmprune.artifacts.files.atomic import atomic_directory
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process in the background ignores
with atomic_directory(Path(sys.argv[1])) as partial:
    (partial / "file").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def start_writer(target: Path) -> subprocess.Popen:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    return writer


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_kept(tmp_path: Path):
    with start_writer(tmp_path / "out") as killed, start_writer(tmp_path / "out") as living:
        killed.kill()
        killed.wait()
        assert len(children(tmp_path)) == 2
        with atomic_directory(tmp_path / "out") as partial:
            (partial / "mine").touch()
        assert children(tmp_path) == [f".out.{living.pid}-0.partial", "out"]
        living.send_signal(signal.SIGINT)
        living.wait()
    assert children(tmp_path) == ["out"]


def test_an_interrupted_replacement_is_undone(tmp_path: Path):
    aside = tmp_path / ".out.1-0.replaced"
    aside.mkdir()
    (aside / "old").write_text("old")
    (tmp_path / ".out.1-0.partial").mkdir()
    with pytest.raises(OutputExistsError, match="already holds old"), atomic_directory(tmp_path / "out"):
        pytest.fail("the block ran")
    assert children(tmp_path) == ["out"]
    assert (tmp_path / "out" / "old").read_text() == "old"


def test_an_interrupted_deletion_is_finished(tmp_path: Path):
    (tmp_path / ".out.1-0.replaced").mkdir()
    (tmp_path / "out").mkdir()
    with atomic_directory(tmp_path / "out"):
        pass
    assert children(tmp_path) == ["out"]


def test_hidden_siblings_of_other_outputs_are_left_alone(tmp_path: Path):
    names = [".out.1-0.partial.txt", ".out2.1-0.partial", ".outx1-0.partial", "out.1-0.partial"]
    for name in names:
        (tmp_path / name).mkdir()
    with atomic_directory(tmp_path / "out"):
        pass
    assert children(tmp_path) == sorted([*names, "out"])


def test_text_and_json(tmp_path: Path):
    write_text_atomic(tmp_path / "text", "one\n")
    write_text_atomic(tmp_path / "text", "zwö\n")
    assert (tmp_path / "text").read_bytes() == "zwö\n".encode()
    write_json_atomic(tmp_path / "json", {"name": "é", "list": [1, 2.5]})
    assert json.loads((tmp_path / "json").read_text()) == {"name": "é", "list": [1, 2.5]}
    with pytest.raises(NumericalError, match=r"blocks\[1\]\.loss of json would be nan"):
        write_json_atomic(tmp_path / "json", {"blocks": [{"loss": 1.0}, {"loss": float("nan")}]})
    assert json.loads((tmp_path / "json").read_text())["name"] == "é"
    assert children(tmp_path) == ["json", "text"]


def test_a_full_disk_keeps_the_old_directory(small_disk: Path):
    target = small_disk / "out"
    target.mkdir()
    (target / "old").write_bytes(b"o" * 600_000)
    message = r"The disk that holds .*small-disk.* is full \(.* left\)\. What was there before is intact"
    with (
        pytest.raises(LlmpruneError, match=message) as caught,
        atomic_directory(target, overwrite=True) as partial,
    ):
        (partial / "new").write_bytes(b"n" * 600_000)
    assert caught.value.exit_code == 1
    assert (target / "old").read_bytes() == b"o" * 600_000
    assert children(small_disk) == ["out"]


def test_a_full_disk_keeps_the_old_file(small_disk: Path):
    path = small_disk / "importance.json"
    write_text_atomic(path, "old")
    with pytest.raises(LlmpruneError, match="is full"):
        write_text_atomic(path, "n" * 2_000_000)
    assert path.read_text() == "old"
    assert children(small_disk) == ["importance.json"]


def test_a_full_disk_found_by_a_library_in_rust(small_disk: Path):
    with pytest.raises(LlmpruneError, match="is full"), atomic_directory(small_disk / "out") as partial:
        save_file({"w": torch.zeros(500_000)}, partial / "model.safetensors")
    assert children(small_disk) == []


def test_a_device_that_is_always_full():
    with pytest.raises(LlmpruneError, match="is full"), explain_full_disk(Path("/dev/full")):
        Path("/dev/full").write_text("text")


def test_a_limit_on_file_size(tmp_path: Path):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try:
        with pytest.raises(LlmpruneError, match="limit on a file's size"):
            write_text_atomic(tmp_path / "text", "n" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert children(tmp_path) == []


def test_other_errors_pass_unchanged(tmp_path: Path):
    with pytest.raises(PermissionError), explain_full_disk(tmp_path):
        raise PermissionError(errno.EACCES, "no")
    with pytest.raises(OutputExistsError, match="other"), explain_full_disk(tmp_path):
        raise OutputExistsError("other (os error 28)")


def test_free_space_is_asked_for_beforehand(tmp_path: Path):
    require_free_space(tmp_path / "not" / "there", 1)
    with pytest.raises(LlmpruneError, match=r"is full \(1000000.0 TB needed, .* left\)"):
        require_free_space(tmp_path, 10**18)
