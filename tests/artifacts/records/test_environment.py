import torch

from llmprune.artifacts.records.environment import Environment, compared

OLD = Environment(threads=2, tf32=False, libraries={"torch": "2.10", "numpy": "2.1"})


def test_that_of_this_process():
    now = Environment.now()
    assert (now.threads, now.tf32) == (torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32)
    assert now.libraries.keys() == {"torch", "transformers", "numpy"}
    assert now.libraries["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_every_difference_is_said_and_nothing_else():
    assert compared(OLD, OLD.model_copy()) is None
    said = {
        "1 thread instead of 2": {"threads": 1},
        "4 threads instead of 2": {"threads": 4},
        "TF32": {"tf32": True},
        "numpy 2.2 instead of 2.1": {"libraries": {**OLD.libraries, "numpy": "2.2"}},
        "numpy none instead of 2.1, scipy 1.0 instead of none": {"libraries": {"torch": "2.10", "scipy": "1.0"}},
    }
    for words, update in said.items():
        new = OLD.model_copy(update=update)
        assert compared(OLD, new) == f"the computation went on with {words}; its last bits may differ from one run."
    back = compared(OLD.model_copy(update={"tf32": True}), OLD)
    assert "with full float32 instead of TF32;" in back
