"""A process that has imported everything, so that a command starts as soon as it is forked."""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import warnings

import torch


def warm_up() -> None:
    """Import all of llmprune, and what its commands import when they need it; start no thread."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a forked process would say that it cannot have it
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    from huggingface_hub import constants
    from tqdm import tqdm
    from transformers.models.llama import modeling_llama
    from transformers.models.mixtral import modeling_mixtral
    from transformers.utils import logging

    import llmprune

    constants.HF_HUB_OFFLINE = True
    tqdm.monitor_interval = 0
    logging.disable_progress_bar()
    assert modeling_llama and modeling_mixtral
    for module in pkgutil.walk_packages(llmprune.__path__, "llmprune."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    gc.collect()
    gc.freeze()
