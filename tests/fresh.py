"""Python code in a process as good as new: what reads the environment when it is imported, is imported there.

To start Python and to import torch and pyarrow takes seconds. One process does that, waits, and is forked for each run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECONDS = 60  # that a run may take

# A child leaves the loop and ends as any Python does. A warning is an error, in what is imported here, too.
_SERVER = f"""
import json, os, signal, sys, warnings
import fsspec, multiprocess, pandas, pyarrow.dataset, pyarrow.parquet, torch, yaml
assert not {{"huggingface_hub.constants", "datasets", "transformers", "llmprune"}} & set(sys.modules)
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.alarm({SECONDS})
        os.environ.clear()
        os.environ.update(asked["environment"])
        for number, (name, how) in enumerate([("in", os.O_RDONLY), ("out", os.O_WRONLY), ("err", os.O_WRONLY)]):
            os.dup2(os.open(os.path.join(asked["folder"], name), how), number)
        sys.stdin = open(0, closefd=False)
        if not asked["strict"]:
            warnings.resetwarnings()
        exec(asked["code"], {{"__name__": "__main__"}})
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass
class Fresh:
    """The process that waits."""

    process: subprocess.Popen[str]

    def run(
        self, code: str, *, folder: Path, environment: Mapping[str, str], asked: str = "", strict: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run code to its end.

        Args:
            code: Python.
            folder: for the files that are its streams.
            environment: all of it.
            asked: what it reads on stdin.
            strict: warnings are errors.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (("in", asked), ("out", ""), ("err", "")):
            (folder / name).write_text(text)
        request = {"code": code, "folder": str(folder), "environment": dict(environment), "strict": strict}
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        out, err = ((folder / name).read_text() for name in ("out", "err"))
        return subprocess.CompletedProcess([code], status, out, err)


@contextmanager
def fresh_processes(environment: Mapping[str, str]) -> Iterator[Fresh]:
    """Have a process wait for as long as the context lasts; ``environment`` is its own."""
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-W", "error", "-c", _SERVER]
    with subprocess.Popen(command, env={**environment, "PYTHONPATH": str(ROOT)}, **streams) as process:
        yield Fresh(process)
