"""Errors that become a sentence, and what stands in a sentence."""

import errno

import pytest
import torch

from llmprune.cli.console import remark
from llmprune.cli.failures import known_error
from llmprune.quiet import system_errno


def test_a_device_without_memory_is_told_apart_from_a_machine_without_it():
    of_the_device = known_error(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert str(of_the_device).startswith("The device ran out of memory")
    assert of_the_device.exit_code == 1
    assert str(known_error(MemoryError())).startswith("This machine has not enough memory")


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.EIO, "words"), errno.EIO),
        (RuntimeError("Error closing file <a.safetensors>: Input/output error (5)"), errno.EIO),
        (RuntimeError("unable to open file <a> in read-only mode: Too many open files (24)"), errno.EMFILE),
        (RuntimeError("I/O error: Permission denied (os error 13)"), errno.EACCES),
        (FileNotFoundError("No such file or directory: a.safetensors"), errno.ENOENT),
        (RuntimeError("shapes do not fit: (3 x 4) and (5)"), None),
        (RuntimeError("mat1 and mat2: Input/output error (7)"), None),
    ],
)
def test_an_error_of_the_system_is_known_by_its_number_or_by_what_a_library_says_of_it(error, number):
    assert system_errno(error) == number
    told = known_error(error)
    assert (told is not None and str(told).startswith("The operating system refused")) == (number is not None)


def test_a_remark_does_not_command_the_terminal(capsys):
    remark("\x1b[31mred [bold]words[/bold]")
    shown = capsys.readouterr().err
    assert "\x1b" not in shown
    assert "red [bold]words[/bold]" in shown
