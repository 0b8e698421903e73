"""Errors that become a sentence, and what stands in a sentence."""

import torch

from llmprune.cli.console import remark
from llmprune.cli.failures import known_error


def test_a_device_without_memory_is_told_apart_from_a_machine_without_it():
    of_the_device = known_error(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert str(of_the_device).startswith("The device ran out of memory")
    assert of_the_device.exit_code == 1
    assert str(known_error(MemoryError())).startswith("This machine has not enough memory")


def test_a_remark_does_not_command_the_terminal(capsys):
    remark("\x1b[31mred [bold]words[/bold]")
    shown = capsys.readouterr().err
    assert "\x1b" not in shown
    assert "red [bold]words[/bold]" in shown
