"""Tiny models, and every command on them: from which state it starts, and what it leaves when nothing goes wrong."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.faults.compare import Tree, tree
from benchmarks.faults.operations import Act, Log, Operation, Plan
from benchmarks.faults.process import Ended, run

TEXT = "--source text.txt --samples 4 --seq-len 16"
MEASURED = "--no-speed --ppl text.txt --ppl-seq-len 16 --max-windows 2"
START, _KILLED = "start", "killed "


@dataclass(frozen=True)
class Scenario:
    """A command, typed in the state that another one leaves.

    Attributes:
        after: the name of that other one, or ``START``.
        typed: the command without ``llmprune``.
    """

    after: str
    typed: str

    @property
    def words(self) -> list[str]:
        """The command as a shell would split it."""
        return shlex.split(self.typed)


SCENARIOS: Mapping[str, Scenario] = {
    "calibrate": Scenario(START, f"calibrate model {TEXT} --run run"),
    "calibrate all blocks": Scenario(START, f"calibrate model {TEXT} --cache all --run run"),
    "calibrate pickles": Scenario(START, f"calibrate pickled {TEXT} --run pickled-run"),
    "calibrate anew": Scenario("calibrate", "calibrate --source text.txt --samples 3 --seq-len 16 --force --run run"),
    "verify-redundancy": Scenario("calibrate", "verify-redundancy --target 1 --run run"),
    "verify-redundancy --heal": Scenario("calibrate", "verify-redundancy --target 1 --heal --run run"),
    "remove-blocks": Scenario("verify-redundancy", "remove-blocks --target 1 --out smaller --run run"),
    "remove-blocks anew": Scenario("remove-blocks", "remove-blocks --blocks 2 --force --out smaller --run run"),
    "remove-blocks --heal": Scenario("calibrate", "remove-blocks --blocks 1 --heal cut --run run"),
    "heal": Scenario("remove-blocks", "heal smaller --scope cut --out healed --run run"),
    "calibrate experts": Scenario(START, f"calibrate mixture {TEXT} --run mixed"),
    "remove-experts": Scenario("calibrate experts", "remove-experts --target 1 --run mixed"),
    "global-prune experts": Scenario("calibrate experts", "global-prune --rounds 1 --run mixed"),
    "global-prune": Scenario("calibrate", "global-prune --sparsity 50% --rounds 1 --out sparse --run run"),
    "global-prune anew": Scenario(
        "global-prune", "global-prune --pattern 2:4 --method wanda --out sparse --force --run run"
    ),
    "apply-mask": Scenario("global-prune", "apply-mask model sparse --run masked"),
    "bench": Scenario("remove-blocks", f"bench {MEASURED} --run run"),
    "bench zeros": Scenario("global-prune", f"bench {MEASURED} --run run"),
    "sweep": Scenario(START, f"sweep model --targets 1 --sparsity 50% --method magnitude {TEXT} {MEASURED} --run run"),
    "prune": Scenario(
        START, f"prune model --size 90% {TEXT} --ppl text.txt --ppl-seq-len 16 --max-windows 2 --run run"
    ),
    "report": Scenario("bench", "report run"),
    "report again": Scenario("report", "report run"),
    "push": Scenario("bench", "push smaller owner/name --dry-run --include-artifacts --run run"),
    "push zeros": Scenario("bench zeros", "push sparse owner/name --dry-run --include-artifacts --run run"),
}


class World:
    """A folder in which commands are typed, and a copy of the state before and after each of them.

    The state "killed NAME" is what a kill in the middle of a scenario leaves.

    Args:
        root: an empty folder, best in memory. Everything is in it.

    Attributes:
        undisturbed: what a command leaves and says, by state and command; kept by who asks for it.
        operations: those of a scenario, by its name and what counts; kept by who asks for them.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.work, self.said = root, root / "work", root / "said"
        self.log = Log()
        self._states: dict[str, Path] = {}
        self.undisturbed: dict[tuple[str, str], tuple[Tree, Ended]] = {}
        self.operations: dict[tuple[str, int], list[Operation]] = {}
        self.said.mkdir()
        self.work.mkdir()
        _start(self.work)
        self._keep(START)

    def put(self, state: str) -> None:
        """Make the folder what it is when a scenario has ended."""
        if state.startswith(_KILLED) and state not in self._states:
            self._kill_halfway(state.removeprefix(_KILLED))
            self._keep(state)
        if state not in self._states:
            ended = self.type(state)
            if ended.code != 0:
                raise RuntimeError(f"`llmprune {SCENARIOS[state].typed}` ends with {ended.code}: {ended.stderr}")
            self._keep(state)
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self._states[state], self.work, symlinks=True)

    def type(self, name: str, plan: Plan | None = None) -> Ended:
        """Type a scenario's command where it starts."""
        self.put(SCENARIOS[name].after)
        return self.again(name, plan)

    def again(self, name: str, plan: Plan | None = None) -> Ended:
        """Type a scenario's command in the folder as it is."""
        return self.typed(SCENARIOS[name].words, plan)

    def typed(self, words: Sequence[str], plan: Plan | None = None) -> Ended:
        """Type any command in the folder as it is."""
        self.log.clear()
        return run(words, self.work, said=self.said, plan=plan, log=self.log)

    def now(self) -> Tree:
        """What is in the folder."""
        return tree(self.work)

    @cache  # noqa: B019 - one world a process
    def state(self, name: str) -> Tree:
        """What is in the folder when a scenario has ended."""
        self.put(name)
        return self.now()

    def _kill_halfway(self, name: str) -> None:
        self.type(name, Plan(self.work))
        count = self.log.count
        self.type(name, Plan(self.work, act=Act.KILL, at=count * 3 // 5))

    def _keep(self, state: str) -> None:
        place = self.root / "states" / str(len(self._states))
        shutil.copytree(self.work, place, symlinks=True)
        self._states[state] = place


def _start(folder: Path) -> None:
    """Models, a text, and what is the user's own."""
    import torch
    from transformers import MixtralForCausalLM
    from transformers.models.mixtral import MixtralConfig

    from llmprune.models.loading import load_whole
    from tests.pickled import pickle_weights
    from tests.tiny import save_tiny_llama, save_tiny_tokenizer, write_text
    from tests.tiny_models import SHAPE

    save_tiny_llama(folder / "model", num_blocks=4)
    shutil.copytree(folder / "model", folder / "pickled")
    weights = load_whole(folder / "model", device=torch.device("cpu"), dtype=torch.float32).state_dict()
    pickle_weights(folder / "pickled", weights)
    torch.manual_seed(0)
    config = MixtralConfig(**{**SHAPE, "num_hidden_layers": 2}, num_local_experts=4, num_experts_per_tok=2)
    MixtralForCausalLM(config).save_pretrained(folder / "mixture")
    save_tiny_tokenizer(folder / "mixture")
    write_text(folder / "text.txt", num_words=400)
    for place in (".", "model", "run"):
        (folder / place).mkdir(exist_ok=True)
        (folder / place / "notes.txt").write_text(f"My own notes in {place}.\n")
