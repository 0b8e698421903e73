"""Try faults on every command, and judge each by itself.

A trial is a kill, a failing operation, a damaged file or a fuzzed input. After a kill or a failure the same command is
typed again and must end with the bytes of an undisturbed run; what is damaged must be detected, or make no difference.

    python -m benchmarks.faults --log faults.jsonl                     # everything: an hour or two on one core
    python -m benchmarks.faults --log faults.jsonl --share 1/2         # every second trial; 2/2 in another process
    python -m benchmarks.faults --kinds kill,failure --limit 100       # a seeded part, without a log
    python -m benchmarks.faults --commands heal,push --only "failure: heal: fail_once EIO at writes 12"
    python -m benchmarks.faults --show faults.jsonl                    # the tables, and the faults
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.faults.corruptions import corruptions
from benchmarks.faults.inputs import inputs
from benchmarks.faults.kills import failures, kills
from benchmarks.faults.log import Entry, Trial, Verdict, faults, read_log, table, try_all
from benchmarks.faults.operations import unavailable
from benchmarks.faults.warm import warm_up
from benchmarks.faults.world import SCENARIOS, World

KINDS = {"kill": kills, "failure": failures, "corruption": corruptions, "input": inputs}


def chosen(
    world: World,
    *,
    kinds: Sequence[str] = tuple(KINDS),
    commands: Sequence[str] = tuple(SCENARIOS),
    seed: int = 0,
    limit: int | None = None,
    share: tuple[int, int] = (1, 1),
) -> Iterator[Trial]:
    """The trials that are asked for, kind by kind."""
    for kind in kinds:
        trials = list(KINDS[kind](world, commands, seed))
        if limit is not None:
            trials = random.Random(seed).sample(trials, min(limit, len(trials)))
        yield from trials[share[0] - 1 :: share[1]]


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _part(text: str) -> tuple[int, int]:
    share, of = text.split("/")
    return int(share), int(of)


def main() -> int:
    """Type ``python -m benchmarks.faults --help``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", type=_listed, default=tuple(KINDS), help=f"some of {','.join(KINDS)}")
    parser.add_argument("--commands", type=_listed, default=tuple(SCENARIOS), help=f"some of {','.join(SCENARIOS)}")
    parser.add_argument("--only", help="only the trial of this name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="at most so many trials of each kind, drawn by the seed")
    parser.add_argument("--share", type=_part, default=(1, 1), help="1/4: the first of four that share the trials")
    parser.add_argument("--log", type=Path, help="where results go; trials that it has already are not tried again")
    parser.add_argument("--show", type=Path, nargs="+", help="print what such logs say, and try nothing")
    args = parser.parse_args()
    if args.show is not None:
        entries = [entry for path in args.show for entry in read_log(path)]
        print(table(entries), faults(entries), sep="\n\n")
        return 0
    if (why := unavailable()) is not None:
        print(f"Kills and failing operations cannot be tried: {why}.", file=sys.stderr)
        return 2
    warm_up()
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    begun, entries = time.monotonic(), list[Entry]()
    with tempfile.TemporaryDirectory(dir=place, prefix="faults-") as folder:
        log = args.log or Path(folder) / "log.jsonl"
        trials = chosen(
            World(Path(folder)),
            kinds=args.kinds,
            commands=args.commands,
            seed=args.seed,
            limit=args.limit,
            share=args.share,
        )
        for entry in try_all((one for one in trials if args.only in {None, one.name}), log):
            entries.append(entry)
            if entry.verdict in {Verdict.FAULT, Verdict.REFUSED}:
                print(f"{entry.verdict}: {entry.name}: {entry.why}", flush=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = f"{time.monotonic() - begun:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of them on a processor"
    print(f"{len(entries)} trials in {took}", table(entries), sep="\n\n")
    return int(any(entry.verdict == Verdict.FAULT for entry in entries))


if __name__ == "__main__":
    sys.exit(main())
