"""Help and version: what they say, and that they come at once."""

import re
import subprocess
import sys

import pytest

from tests.cli.conftest import ROOT
from tests.cli.test_command_line import COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help_has_examples(command, llmprune):
    result = llmprune(command, "--help")
    assert result.exit_code == 0
    assert f"Examples: llmprune {command}" in " ".join(result.stdout.split())
    for option in ("--run", "--device", "--dtype", "--json", "--quiet"):
        assert option in result.stdout


def test_help_names_every_command_and_loads_neither_torch_nor_transformers():
    code = (
        "import sys; sys.argv = ['llmprune', '--help']\n"
        "from llmprune.cli.entry import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('LOADED', sorted({'torch', 'transformers', 'numpy', 'datasets', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("LOADED []\n")
    assert all(command in done.stdout for command in COMMANDS)


def test_a_commands_help_loads_neither_torch_nor_transformers():
    code = (
        "import sys; from llmprune.cli.app import app\n"
        f"for command in {COMMANDS}:\n"
        "    try: app([command, '--help'])\n"
        "    except SystemExit: pass\n"
        "    print('LOADED', command, sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = [line for line in done.stdout.splitlines() if line.startswith("LOADED")]
    assert loaded == [f"LOADED {command} []" for command in COMMANDS]


def test_no_command_shows_the_help(llmprune):
    assert "Usage" in llmprune().output


def test_the_version_is_shown(llmprune):
    assert re.fullmatch(r"llmprune \d+\.\d+\.\d+\S*\n", llmprune("--version").stdout)
