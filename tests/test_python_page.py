"""The session of docs/python.md runs, on a tiny model in place of the one that it names."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from tests.tiny import save_tiny_llama

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture
def session(tmp_path, monkeypatch):
    """Runs a block of code after the ones before it, and gives what it prints."""
    save_tiny_llama(tmp_path / NAME)
    monkeypatch.chdir(tmp_path)
    names = {}

    def run(code):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(code, "docs/python.md", "exec"), names)
        return printed.getvalue()

    return run


def test_every_block_of_the_page_runs_and_prints_what_it_shows(session):
    blocks = re.findall(r"```(python|text)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    printed = ""
    for kind, content in blocks:
        if kind == "python":
            printed = session(content)
        else:
            assert shape(printed) == shape(content)
    assert sum(kind == "text" for kind, _ in blocks) == 8


def shape(text):
    """The words of the first lines, without numbers: these are of the model that the page is about."""
    return [re.sub(r"\b[kMG]B\b|[\W\d_]+", " ", line).strip() for line in text.splitlines()[:2]]
