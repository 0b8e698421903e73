"""Artifacts of another model, another version or nobody: one clear sentence, exit code 2, nothing written."""

import json

import pytest
from filelock import FileLock

from tests.cli.world import refused
from tests.tiny import save_tiny_llama


def _artifact(name, text=None, **changes):
    def damage(world):
        path = world.run / name
        if text is not None:
            path.write_text(text)
        else:
            world.edit_json(path, **changes)

    return damage


def _of_another_model(world):
    for name in ("importance.json", "calibration/manifest.json"):
        content = json.loads((world.run / name).read_text())
        world.edit_json(world.run / name, model={**content["model"], "name": "other", "fingerprint": "0" * 64})


def _only_importance_of_another_model(world):
    content = json.loads((world.run / "importance.json").read_text())
    world.edit_json(world.run / "importance.json", model={**content["model"], "name": "other", "fingerprint": "0" * 64})


def _model_changed(world):
    world.model.mkdir(exist_ok=True)
    save_tiny_llama(world.model, seed=5)
    world.edit_json(world.run / "run.json", model=str(world.model), directory=str(world.model))


def _no_manifest(world):
    (world.run / "calibration" / "manifest.json").unlink()


def _importance_is_a_folder(world):
    (world.run / "importance.json").unlink()
    (world.run / "importance.json").mkdir()


def _locked(world):
    lock = FileLock(world.run / ".lock")
    lock.acquire()
    world.lock.append(lock)


VERIFY, REMOVE = "verify-redundancy --target 3", "remove-blocks --target 2"
ARTIFACTS = {
    "importance of another model": (_only_importance_of_another_model, REMOVE, "ranks the blocks of other"),
    "the same, verifying": (_only_importance_of_another_model, VERIFY, "ranks the blocks of other"),
    "importance of a newer schema": (_artifact("importance.json", schema_version=4), REMOVE, "has schema 4"),
    "importance in broken JSON": (_artifact("importance.json", text='{"kind":'), REMOVE, "is not valid JSON"),
    "importance without end": (_artifact("importance.json", text="[" * 100_000), VERIFY, "is not valid JSON"),
    "importance of a wrong kind": (_artifact("importance.json", kind="else"), REMOVE, "is of kind 'else'"),
    "importance that is a list": (_artifact("importance.json", text="[]"), REMOVE, "llmprune-importance"),
    "importance with a field more": (_artifact("importance.json", more=1), REMOVE, "damaged at 'more'"),
    "importance in a contradiction": (_artifact("importance.json", order=[1]), REMOVE, "is damaged"),
    "importance that is a folder": (_importance_is_a_folder, REMOVE, "cannot be read"),
    "calibration of another model": (_of_another_model, VERIFY, "is a calibration of other"),
    "calibration of changed weights": (_model_changed, VERIFY, "config or weights differ"),
    "calibration without manifest": (_no_manifest, VERIFY, "so it is no calibration; move it away"),
    "calibration of a newer schema": (_artifact("calibration/manifest.json", schema_version=9), VERIFY, "has schema 9"),
    "calibration in broken JSON": (_artifact("calibration/manifest.json", text="?"), VERIFY, "is not valid JSON"),
    "a broken run record": (_artifact("run.json", text="?"), REMOVE, "is not valid JSON"),
    "a run record of a newer schema": (_artifact("run.json", schema_version=3), REMOVE, "has schema 3"),
    "a locked run, searching": (_locked, VERIFY, "Another llmprune is at work"),
    "a locked run, calibrating": (_locked, "calibrate --force --source python-docs --samples 2", "Another llmprune"),
}


@pytest.mark.parametrize("case", ARTIFACTS)
def test_an_artifact_that_does_not_belong_here_is_refused(case, world, llmprune):
    damage, command, words = ARTIFACTS[case]
    damage(world)
    assert words in refused(llmprune, world.folder, [*command.split(), "--run", world.run])
