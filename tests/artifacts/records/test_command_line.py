"""Recorded commands are spelled so that a shell, and the command line behind it, read back what was decided."""

import shlex
import subprocess

import pytest

from llmprune.artifacts.records.command_line import spell_command, unless_usual


def test_words_and_options_are_typed_in_order():
    command = spell_command("bench", "tiny", run="a-run", batch="1,8", no_speed=True, no_ppl=False, limit=None)
    assert command == "llmprune bench tiny --run a-run --batch 1,8 --no-speed"


def test_a_sequence_repeats_its_option_and_an_empty_one_is_not_typed():
    assert spell_command("bench", ppl=["a", "b"], exclude=()) == "llmprune bench --ppl a --ppl b"


@pytest.mark.parametrize("word", ["my model", "it's", "*.o_proj", "$HOME", "a;b", '"', "", "ü"])
def test_whatever_a_shell_would_change_is_quoted(word):
    command = spell_command("global-prune", word, exclude=[word], out=word)
    assert shlex.split(command) == ["llmprune", "global-prune", word, "--exclude", word, "--out", word]


@pytest.mark.parametrize("number", [0.1, 1 / 3, 1e-7, 1.0, 2.5e20, 0.1 + 0.2, 3, 10**12])
def test_numbers_read_back_as_the_same_number(number):
    assert type(number)(shlex.split(spell_command("x", alpha=number))[-1]) == number


def test_whole_numbers_have_no_point():
    assert spell_command("x", max_seconds=120.0) == "llmprune x --max-seconds 120"


def test_what_is_a_default_is_not_typed():
    assert (unless_usual(3, 4), unless_usual(4, 4)) == (3, None)


@pytest.mark.parametrize("word", ["a\nb", "\x1b[31mit's", "back\\slash\t", "\u202egnp"])
def test_what_a_terminal_would_obey_is_spelled_out_on_one_line(word):
    command = spell_command("bench", word)
    assert command.isprintable()
    said = command.replace("llmprune bench", "printf %s", 1)
    assert subprocess.run(["bash", "-c", said], capture_output=True, check=True, text=True).stdout == word
