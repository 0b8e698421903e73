"""Other libraries are silent inside, and afterwards as loud as they were."""

import logging
import types
import warnings

import datasets
import pytest
from huggingface_hub import utils as hub
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from llmprune.quiet import first_sentence, no_bars_in, quiet

LOUD = {"huggingface_hub": logging.INFO, "datasets": logging.WARNING, "transformers": logging.DEBUG}


def switches() -> list[bool]:
    return [
        hub.are_progress_bars_disabled(),
        datasets.are_progress_bars_disabled(),
        not transformers_logging.is_progress_bar_enabled(),
    ]


@pytest.fixture
def libraries():
    """Leaves loggers and bars as they were."""
    levels, bars = {name: logging.getLogger(name).level for name in LOUD}, switches()
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    (transformers_logging.disable_progress_bar if bars[2] else transformers_logging.enable_progress_bar)()
    (datasets.disable_progress_bars if bars[1] else datasets.enable_progress_bars)()
    (hub.disable_progress_bars if bars[0] else hub.enable_progress_bars)()


@pytest.mark.parametrize("off", [(False, False, False), (True, True, True), (True, False, False), (False, True, True)])
def test_nothing_is_said_inside_and_all_is_as_before_afterwards(libraries, caplog, off):
    (transformers_logging.disable_progress_bar if off[2] else transformers_logging.enable_progress_bar)()
    (datasets.disable_progress_bars if off[1] else datasets.enable_progress_bars)()
    (hub.disable_progress_bars if off[0] else hub.enable_progress_bars)()
    for name, level in LOUD.items():
        logging.getLogger(name).setLevel(level)
    with pytest.raises(ZeroDivisionError), quiet():
        assert switches() == [True, True, True]
        warnings.warn("advice", UserWarning, stacklevel=1)  # an error in these tests, where it is heard
        for name in LOUD:
            logging.getLogger(f"{name}.part").error("noise")
        raise ZeroDivisionError
    assert caplog.text == ""
    assert switches() == list(off)
    assert {name: logging.getLogger(name).level for name in LOUD} == LOUD


def test_a_module_that_draws_bars_without_a_switch(capsys):
    module = types.ModuleType("drawing")
    module.tqdm = tqdm
    with no_bars_in(module):
        assert list(module.tqdm([1, 2])) == [1, 2]
    assert module.tqdm is tqdm
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "gist"),
    [
        (ValueError("What is wrong.\nA page of advice."), "What is wrong."),
        (OSError("\n\n Found:\n  this \nand that"), "Found: this"),
        (KeyError("llama9"), "KeyError 'llama9'"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_the_gist_of_an_error(error, gist):
    assert first_sentence(error) == gist
