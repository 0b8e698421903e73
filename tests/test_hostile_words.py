"""A command line of words that nobody types in earnest: it works, or one sentence says what is wrong."""

import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from llmprune.cli.app import app
from tests.hostile import fuzzed
from tests.tiny import save_tiny_llama

NUMBERS = ["-1", "0", "3000000000", "9" * 4000, "9" * 5000, "1e400", "nan", "\x1b[31m1", "٣", "0x10", "", " ", "1_0"]
LINES = [
    ["remove-blocks", "MODEL", "--blocks", "WORD"],
    ["remove-blocks", "MODEL", "--target", "WORD", "--out", "MODEL"],
    ["remove-blocks", "MODEL", "--max-shard-size", "WORD", "--out", "MODEL"],
    ["remove-experts", "MODEL", "--experts", "WORD"],
    ["verify-redundancy", "MODEL", "--protect-first", "WORD", "--error-rate", "2"],
    ["verify-redundancy", "MODEL", "--error-rate", "WORD", "--chunk-windows", "0"],
    ["global-prune", "MODEL", "--layers", "WORD", "--exclude", "*"],
    ["global-prune", "MODEL", "--sparsity", "WORD", "--exclude", "*"],
    ["global-prune", "MODEL", "--pattern", "WORD", "--exclude", "*"],
    ["global-prune", "MODEL", "--alpha", "WORD", "--samples", "0"],
    ["calibrate", "MODEL", "--samples", "WORD", "--source", "nosuch.txt"],
    ["calibrate", "MODEL", "--seed", "WORD", "--source", "nosuch.txt"],
    ["calibrate", "MODEL", "--seq-len", "WORD", "--source", "nosuch.txt"],
    ["calibrate", "MODEL", "--source", "WORD"],
    ["bench", "MODEL", "--batch", "WORD", "--ppl", "nosuch.txt"],
    ["bench", "MODEL", "--gen", "WORD", "--ppl", "nosuch.txt"],
    ["bench", "MODEL", "--max-seconds", "WORD", "--ppl", "nosuch.txt"],
    ["bench", "MODEL", "--fail-if", "WORD", "--ppl", "nosuch.txt"],
    ["bench", "MODEL", "--fail-if", "ppl>WORD", "--ppl", "nosuch.txt"],
    ["bench", "MODEL", "--device", "WORD"],
    ["sweep", "MODEL", "--targets", "WORD", "--ppl", "nosuch.txt"],
    ["sweep", "MODEL", "--max-params", "WORD", "--targets", "1", "--ppl", "nosuch.txt"],
    ["calibrate", "MODEL", "--dtype", "WORD"],
    ["calibrate", "WORD"],
    ["apply-mask", "MODEL", "WORD"],
    ["report", "WORD"],
    ["push", "WORD", "WORD", "--dry-run"],
    ["WORD"],
    ["bench", "--WORD"],
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@fuzzed(0.8)
@given(
    line=st.sampled_from(LINES),
    word=st.sampled_from(NUMBERS) | st.sampled_from(["\x1b[31mred", "a\nb", "\u202e", "x" * 300, "\udce9", "~nobody"]),
)
def test_words_of_a_command_line(line, word, model, tmp_path):
    words = [str(model) if part == "MODEL" else part.replace("WORD", word) for part in line]
    run = [] if line[0] in {"WORD", "report"} else ["--run", str(tmp_path / "run")]
    result = CliRunner().invoke(app, [*words, *run], env={"HF_HUB_OFFLINE": "1"})
    assert result.exit_code in {0, 2}, result.output
    assert not any(said in result.output for said in ("Traceback", "Unexpected"))
    assert result.output.replace("\n", "").isprintable(), result.output
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
