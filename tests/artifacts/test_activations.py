"""Hidden states in files, whole or in parts, and a calibration whose files are what was written."""

import hashlib
from pathlib import Path, PurePosixPath

import pytest
import torch
from safetensors.torch import load_file

from llmprune.artifacts.activations import (
    MANIFEST,
    TOKENS,
    BlockStatistics,
    CalibrationManifest,
    HiddenStatesWriter,
    calibration_files,
    hidden_name,
    open_calibration,
    open_hidden_states,
    save_tokens,
)
from llmprune.artifacts.hidden_parts import hidden_parts, open_hidden_parts
from llmprune.artifacts.records.provenance import CorpusIdentity, FileRecord, ModelIdentity
from llmprune.errors import ArtifactError

SHAPE = (5, 3, 4)
STATES = torch.arange(60.0).reshape(SHAPE) / 7


def written(path: Path, states: torch.Tensor) -> FileRecord:
    writer = HiddenStatesWriter(path, shape=tuple(states.shape), dtype=states.dtype)
    for part in states.split(2):
        assert not path.exists(), "a file that is not whole has another name"
        writer.append(part)
    return writer.finish()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_states_are_read_as_they_were_written_window_by_window(tmp_path, dtype):
    path, states = tmp_path / "h.safetensors", STATES.to(dtype)
    known = written(path, states)
    assert torch.equal(load_file(path)["hidden_states"], states)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert known == FileRecord.of_file(path) == FileRecord(bytes=path.stat().st_size, sha256=digest)
    with open_hidden_states(path) as found:
        assert found.shape == SHAPE
        for start, stop in [(0, 5), (1, 3), (4, 9), (2, 2), (3, 1)]:
            part = found.windows(start, stop)
            assert part.dtype == dtype and torch.equal(part, states[start:stop])
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_discarded_leaves_nothing_and_what_is_finished_stays(tmp_path):
    path = tmp_path / "h.safetensors"
    writer = HiddenStatesWriter(path, shape=SHAPE, dtype=torch.float32)
    writer.append(STATES[:2])
    writer.discard()
    assert list(tmp_path.iterdir()) == []
    writer = HiddenStatesWriter(path, shape=SHAPE, dtype=torch.float32)
    writer.append(STATES)
    writer.finish()
    writer.discard()
    assert list(tmp_path.iterdir()) == [path]


def test_parts_of_several_processes_are_read_as_one(tmp_path):
    names = [hidden_name(2, range(2)), hidden_name(2, range(2, 5))]
    assert names == ["hidden-00002-00000-00002.safetensors", "hidden-00002-00002-00005.safetensors"]
    written(tmp_path / names[0], STATES[:2])
    written(tmp_path / names[1], STATES[2:])
    others = [hidden_name(3), hidden_name(3, range(5)), TOKENS]
    parts = hidden_parts([*others, *reversed(names)], 2, windows=5)
    assert parts == {names[0]: range(2), names[1]: range(2, 5)} and list(parts) == names
    assert hidden_parts([hidden_name(3), *names], 3, windows=5) == {hidden_name(3): range(5)}
    assert hidden_parts(names, 4, windows=5) == {}
    with open_hidden_parts(tmp_path, parts) as states:
        for start, stop in [(0, 5), (0, 2), (2, 4), (1, 3), (4, 5)]:
            assert torch.equal(states.windows(start, stop), STATES[start:stop])


def calibration(directory: Path, **fields: object) -> CalibrationManifest:
    directory.mkdir()
    save_tokens(directory / TOKENS, torch.tensor([[1, 2, 3], [4, 5, 70000]]))
    files = {
        TOKENS: FileRecord.of_file(directory / TOKENS),
        hidden_name(0): written(directory / hidden_name(0), STATES),
    }
    manifest = CalibrationManifest(
        model=ModelIdentity(name="m", fingerprint="f", model_type="llama", num_blocks=2, num_parameters=9),
        corpus=CorpusIdentity(name="c4", origin="o", fingerprint="f"),
        num_windows=2,
        seq_len=3,
        sampling="windows",
        seed=0,
        bos=False,
        windows_fingerprint="w",
        files=files,
        **fields,
    )
    manifest.write(directory / MANIFEST)
    return manifest


def test_a_calibration_gives_back_its_tokens_and_states(tmp_path):
    manifest = calibration(tmp_path / "calibration")
    found = open_calibration(tmp_path / "calibration")
    assert found.manifest == manifest
    assert found.tokens().dtype == torch.int64 and found.tokens().tolist() == [[1, 2, 3], [4, 5, 70000]]
    assert [found.keeps(block) for block in range(3)] == [True, False, False]
    with found.hidden_states(0) as states:
        assert torch.equal(states.windows(0, 5), STATES)
    found.require_intact()
    with (
        pytest.raises(ArtifactError, match=r"does not keep hidden-00001\.safetensors \(its cache is 'none'\)"),
        found.hidden_states(1),
    ):
        pass


@pytest.mark.parametrize("damage", ["deleted", "shorter", "another byte"])
def test_a_file_that_is_not_what_was_written_is_refused(tmp_path, damage):
    calibration(tmp_path / "calibration")
    found, path = open_calibration(tmp_path / "calibration"), tmp_path / "calibration" / TOKENS
    content, known = path.read_bytes(), FileRecord.of_file(path)
    assert known.is_at(path)
    path.unlink()
    if damage != "deleted":
        path.write_bytes(content[:-1] if damage == "shorter" else content[:-1] + bytes([content[-1] ^ 1]))
    assert not known.is_at(path)
    for use in (found.tokens, found.require_intact):
        with pytest.raises(ArtifactError, match=r"tokens\.safetensors is missing or is not what calibrate wrote"):
            use()


def test_what_a_pass_measured_is_a_mean_over_windows(tmp_path):
    drawn = calibration(tmp_path / "drawn")
    assert not drawn.measured
    block = BlockStatistics(influence=0.1, input_norm=1.0, update_norm=0.5)
    passed = calibration(tmp_path / "passed", dense_losses=(2.0, 3.0), blocks=(block, block))
    assert passed.measured and passed.dense_loss == 2.5


def test_only_the_files_that_a_manifest_names_are_its_own(tmp_path):
    folder = tmp_path / "calibration"
    temporary = PurePosixPath(".tokens.safetensors.7-1.partial")
    nobody = calibration_files(folder)
    assert nobody(temporary) and not nobody(PurePosixPath(TOKENS))
    calibration(folder)
    own = calibration_files(folder)
    assert all(own(PurePosixPath(name)) for name in (MANIFEST, TOKENS, hidden_name(0))) and own(temporary)
    assert not any(own(PurePosixPath(name)) for name in ("notes.txt", hidden_name(1), f"mine/{TOKENS}"))


def test_a_folder_without_a_manifest_is_no_calibration(tmp_path):
    with pytest.raises(ArtifactError, match=r"holds no manifest\.json, so it is no calibration; move it away"):
        open_calibration(tmp_path)
