"""Every file that a command leaves, damaged in every way, and read by the commands that come after it."""

from __future__ import annotations

import json
import random
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults.compare import Tree, differences, entry_name, printed
from benchmarks.faults.judge import improper_end, settled
from benchmarks.faults.log import Finding, Trial, Verdict
from benchmarks.faults.process import Ended
from benchmarks.faults.world import MEASURED, SCENARIOS, TEXT, World

# For each state, what reads its artifacts. A state after "killed" is what a kill in the middle of a command leaves.
READERS: Mapping[str, Sequence[str]] = {
    "verify-redundancy": (
        f"calibrate model {TEXT} --run run",
        "verify-redundancy --target 1 --run run",
        "remove-blocks --target 1 --out smaller --run run",
        "remove-blocks --blocks 1 --heal cut --out healed --run run",
        "global-prune --method wanda --out sparse --run run",
        "report run",
    ),
    "bench": (
        SCENARIOS["remove-blocks"].typed,
        SCENARIOS["heal"].typed,
        SCENARIOS["push"].typed,
        f"bench {MEASURED} --run run",
        "report run",
    ),
    "bench zeros": (
        SCENARIOS["global-prune"].typed,
        SCENARIOS["apply-mask"].typed,
        SCENARIOS["push zeros"].typed,
        f"bench {MEASURED} --run run",
        "report run",
    ),
    "apply-mask": (SCENARIOS["apply-mask"].typed, f"bench {MEASURED} --run masked"),
    "sweep": (SCENARIOS["sweep"].typed, "report run"),
    "remove-experts": (SCENARIOS["remove-experts"].typed, f"bench {MEASURED} --run mixed", "report mixed"),
    "report": ("report run",),
    **{
        f"killed {name}": (SCENARIOS[name].typed,)
        for name in ("calibrate", "calibrate pickles", "verify-redundancy", "global-prune", "heal", "sweep")
    },
}
_OWN = {"model", "pickled", "mixture", "text.txt", "notes.txt"}  # of the user: nothing here knows what they should be
# Artifacts of one file that nothing else names. Without it, the command that makes it has not run yet.
_WHOLE = re.compile(r"(?:^|/)(?:(?:importance|experts|generations|sweep)|bench/[^/]+)\.json$")
_TIMED = {"bench", "sweep"}  # they print what took how long
_PER_FILE = 2  # commands that are tried on each damage of a file


def corruptions(world: World, names: Sequence[str], seed: int) -> Iterator[Trial]:
    """Every artifact of the states that some commands leave, in every kind of damage."""
    for state, readers in READERS.items():
        if state.removeprefix("killed ") not in names:
            continue
        world.put(state)
        for file in _artifacts(world.work):
            for kind in DAMAGES:
                chooser = random.Random(f"{seed} {state} {settled(file)} {kind}")
                for number in range(2 if kind in {"bit", "field"} else 1):
                    for typed in chooser.sample(readers, min(_PER_FILE, len(readers))):
                        name = f"corruption: {state}: {kind} {number} of {settled(file)}: {typed}"
                        judged = partial(_judge, world, state, file, kind, f"{seed} {number}", typed)
                        yield Trial("corruption", name, typed.split()[0], judged)


def _artifacts(folder: Path) -> list[str]:
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    return [name for name in names if name.split("/")[0] not in _OWN and Path(name).name not in {".lock", "notes.txt"}]


def _judge(world: World, state: str, file: str, kind: str, seed: str, typed: str) -> Finding:
    expected, undisturbed = _expected(world, state, typed)
    world.put(state)
    path = world.work / file
    name = entry_name(path, world.work)
    if not DAMAGES[kind](path, random.Random(f"{seed} {file}")):
        return Finding(Verdict.HARMLESS, "nothing to damage")
    damaged = world.now().get(name)
    ended = world.typed(shlex.split(typed))
    if ended.code != 0:
        said = improper_end(ended)
        return Finding(Verdict.DETECTED) if said is None else Finding(Verdict.FAULT, said)
    if kind == "deleted" and _WHOLE.search(file):
        return Finding(Verdict.HARMLESS, "as if it had not been made yet")
    found = world.now()
    wrong = differences(found, expected)
    if found.get(name) == damaged:  # nobody touched it
        wrong = [one for one in wrong if not one.startswith(f"{name} ")]
    if not wrong and typed.split()[0] not in _TIMED and printed(ended.stdout) != printed(undisturbed.stdout):
        wrong = ["another result is printed"]
    if not wrong:
        return Finding(Verdict.HARMLESS)
    if any(part in ended.stderr and part not in undisturbed.stderr for part in (path.name, "damaged")):
        return Finding(Verdict.DETECTED, "said")
    return Finding(Verdict.FAULT, f"in silence: {'; '.join(map(settled, wrong[:2]))}")


def _expected(world: World, state: str, typed: str) -> tuple[Tree, Ended]:
    """What a command leaves and prints in a state where nothing is damaged."""
    if (state, typed) not in world.undisturbed:
        world.put(state)
        ended = world.typed(shlex.split(typed))
        world.undisturbed[state, typed] = (world.now(), ended)
    return world.undisturbed[state, typed]


def _bit(path: Path, chooser: random.Random) -> bool:
    data = bytearray(path.read_bytes())
    if data:
        data[chooser.randrange(len(data))] ^= 1 << chooser.randrange(8)
    path.write_bytes(data)
    return bool(data)


def _zeros(path: Path, chooser: random.Random) -> bool:
    """A stretch of zeros, as a lost page of a file leaves it."""
    data = bytearray(path.read_bytes())
    start = chooser.randrange(len(data)) if data else 0
    before = bytes(data)
    data[start : start + 512] = bytes(len(data[start : start + 512]))
    path.write_bytes(data)
    return bytes(data) != before


def _truncated(path: Path, chooser: random.Random) -> bool:
    data = path.read_bytes()
    path.write_bytes(data[: chooser.randrange(len(data))] if data else data)
    return bool(data)


def _emptied(path: Path, _: random.Random) -> bool:
    whole = path.stat().st_size > 0
    path.write_bytes(b"")
    return whole


def _longer(path: Path, chooser: random.Random) -> bool:
    path.write_bytes(path.read_bytes() + chooser.randbytes(8))
    return True


def _deleted(path: Path, _: random.Random) -> bool:
    path.unlink()
    return True


def _sibling(path: Path, chooser: random.Random) -> bool:
    """The content of another file of its kind, in its folder if there is one."""
    root = next(parent for parent in path.parents if parent.name == "work")
    alike = [one for one in sorted(root.rglob(f"*{path.suffix}")) if one.is_file() and one != path]
    others = [one for one in alike if one.read_bytes() != path.read_bytes()]
    near = [one for one in others if one.parent == path.parent]
    if not others:
        return False
    path.write_bytes(chooser.choice(near or others).read_bytes())
    return True


def _field(path: Path, chooser: random.Random) -> bool:
    """One value of a JSON file, or of the header of a safetensors file, changed to another that is as plausible."""
    data = path.read_bytes()
    start, end = 0, len(data)
    if path.suffix == ".safetensors":
        start, end = 8, 8 + int.from_bytes(data[:8], "little")
    elif path.suffix != ".json":
        return False
    content = json.loads(data[start:end])
    places = list(_leaves(content))
    if not places:
        return False
    holder, key = chooser.choice(places)
    holder[key] = _other(holder[key], chooser)
    text = json.dumps(content).encode()
    head = len(text).to_bytes(8, "little") if start else b""
    path.write_bytes(head + text + data[end:])
    return True


def _leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(inner, dict | list):
            yield from _leaves(inner)
        else:
            yield value, key


def _other(value: object, chooser: random.Random) -> object:
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return value + chooser.choice([-1, 1])
    text = str(value)
    place = chooser.randrange(len(text) + 1)
    return text[:place] + chooser.choice("x7-") + text[place + 1 :]


DAMAGES: Mapping[str, Callable[[Path, random.Random], bool]] = {
    "bit": _bit,
    "zeros": _zeros,
    "truncated": _truncated,
    "emptied": _emptied,
    "longer": _longer,
    "deleted": _deleted,
    "sibling": _sibling,
    "field": _field,
}
