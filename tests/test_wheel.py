"""What is built installs into an empty environment and answers."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("llmprune-*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_package(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(["git", "ls-files", "llmprune"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(listed.stdout.split()) <= names
    assert not [name for name in names if name.startswith("tests")]


def test_an_empty_environment_answers(wheel, tmp_path):
    """The package itself comes out of the wheel; only what it depends on is borrowed from this environment."""
    venv.create(tmp_path / "empty", with_pip=False)
    python = tmp_path / "empty" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    (site,) = (tmp_path / "empty" / "lib").glob("python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))

    def answer(*words: object) -> str:
        own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=own, check=True)
        return done.stdout.strip()

    assert "remove-blocks" in answer(tmp_path / "empty" / "bin" / "llmprune", "--help")
    assert Path(answer(python, "-c", "import llmprune; print(llmprune.__file__)")).is_relative_to(site)
