"""Commands that are killed, torn, interrupted or failed at every operation on a file, and typed again."""

from __future__ import annotations

import errno
import random
import re
import signal
from collections.abc import Iterator, Sequence
from functools import partial

from benchmarks.faults.compare import differences, lost
from benchmarks.faults.judge import improper_end, last_line, settled
from benchmarks.faults.log import Finding, Trial, Verdict
from benchmarks.faults.operations import Act, Counting, Operation, Plan
from benchmarks.faults.process import Ended
from benchmarks.faults.world import SCENARIOS, World

_MOST = 200  # operations of one command at which it is killed
_SIGNALS = {Act.INTERRUPT: (130, signal.SIGINT), Act.TERMINATE: (143, signal.SIGTERM)}
_DEFECT, _DENIED, _CLOSED = (Act.FAIL_ONCE, errno.EIO), (Act.FAIL_ONCE, errno.EACCES), (Act.FAIL_ON, errno.EROFS)
_FULL, _QUOTA, _MANY = (Act.FAIL_ON, errno.ENOSPC), (Act.FAIL_ON, errno.EDQUOT), (Act.FAIL_ONCE, errno.EMFILE)
_ERRORS = {
    "write": (_FULL, _DEFECT, _QUOTA),
    "writev": (_FULL, _DEFECT),
    "sendfile": (_FULL, _DEFECT),
    "ftruncate": (_FULL, _DEFECT),
    "fallocate": (_FULL,),
    "openat": (_FULL, _DENIED, _CLOSED, _MANY),
    "mkdir": (_FULL, _DENIED),
    "rename": (_DENIED, _DEFECT, _CLOSED),
    "renameat": (_DENIED, _DEFECT),
}
_READING_ERRORS = {
    "openat": (_DENIED, _DEFECT, _MANY),
    "flock": ((Act.FAIL_ONCE, errno.ENOLCK),),
    "mmap": ((Act.FAIL_ONCE, errno.ENOMEM),),
}
_DELETIONS = {"unlink", "unlinkat", "rmdir"}


def kills(world: World, names: Sequence[str], seed: int) -> Iterator[Trial]:
    """Commands killed at every operation that changes a file, once or twice, and interrupted at many."""
    for name in names:
        chooser = random.Random(f"{seed} {name}")
        count = len(operations(world, name, Counting.WRITES))
        places = sorted(chooser.sample(range(count), min(count, _MOST)))
        written = [at for at in places if operations(world, name, Counting.WRITES)[at].name == "write"]
        some = chooser.sample(places, min(len(places), 40))
        for act, chosen in ((Act.KILL, places), (Act.TORN, written), (Act.INTERRUPT, some), (Act.TERMINATE, some)):
            for at in chosen:
                yield _trial("kill", world, name, [Plan(world.work, act=act, at=at)])
        for at in some[: count // 4]:
            twice = [Plan(world.work, act=Act.KILL, at=at), Plan(world.work, act=Act.KILL, at=chooser.randrange(count))]
            yield _trial("kill", world, name, twice)


def failures(world: World, names: Sequence[str], seed: int) -> Iterator[Trial]:
    """Commands with many operations failing that change a file, and that read one."""
    for name in names:
        chooser = random.Random(f"{seed} {name}")
        for counting, errors in ((Counting.WRITES, _ERRORS), (Counting.ALL, _READING_ERRORS)):
            found = operations(world, name, counting)
            for at in sorted(chooser.sample(range(len(found)), min(len(found), 60))):
                for act, error in errors.get(found[at].name, (_DEFECT,)):
                    plan = Plan(world.work, counting=counting, act=act, at=at, error=error)
                    yield _trial("failure", world, name, [plan])


def operations(world: World, name: str, counting: Counting) -> list[Operation]:
    """What a command does when nothing goes wrong."""
    known = world.operations.get((name, counting))
    if known is None:
        world.type(name, Plan(world.work, counting=counting))
        known = world.operations[name, counting] = list(world.log.operations())
    return known


# What could not be verified is kept for whoever wants to look, and the message said so.
_KEPT_ASIDE = re.compile(r"\.failed(/\S*)? is left over$")


def _trial(kind: str, world: World, name: str, plans: list[Plan]) -> Trial:
    def spelled(plan: Plan) -> str:
        error = f" {errno.errorcode[plan.error]}" if plan.error else ""
        return f"{plan.act.name.lower()}{error} at {plan.counting.name.lower()} {plan.at}"

    label = f"{kind}: {name}: {', then '.join(map(spelled, plans))}"
    return Trial(kind, label, name, partial(_judge, world, name, plans))


def _judge(world: World, name: str, plans: list[Plan]) -> Finding:
    """Type a command that meets faults one after another, then once more, and compare what it leaves."""
    expected, before = world.state(name), world.state(SCENARIOS[name].after)
    world.put(SCENARIOS[name].after)
    where, finished = "", False
    for plan in plans:
        ended = world.again(name, plan)
        met = world.log.operations()[plan.at : plan.at + 1]
        where = f" [{plan.act.name.lower()} at {met[0].name} {settled(met[0].path)}]" if met else ""
        if complaint := _improper(ended, plan):
            return Finding(Verdict.FAULT, complaint + where)
        # What cannot be deleted stays; it is for the next command to do.
        finished = ended.code == 0 and not (met and met[0].name in _DELETIONS)
    if not finished:
        ended = world.again(name)
    if ended.code == 0:
        wrong = [one for one in differences(world.now(), expected) if not _KEPT_ASIDE.search(one)]
        if wrong:
            return Finding(Verdict.FAULT, f"{'; '.join(map(settled, wrong[:3]))}{where}")
        return Finding(Verdict.HARMLESS if finished else Verdict.SURVIVED)
    said = improper_end(ended)
    if said is None and (gone := lost(world.now(), before)):
        said = f"{gone[0]} is lost"
    verdict = Verdict.REFUSED if said is None else Verdict.FAULT
    return Finding(verdict, f"typed again: {said or last_line(ended)}{where}")


def _improper(ended: Ended, plan: Plan) -> str | None:
    """What is wrong with how a command ended that met a fault; None: nothing."""
    if ended.code == 0:
        return None
    if plan.act in {Act.KILL, Act.TORN}:
        return None if ended.code == -signal.SIGKILL else f"ends with {ended.code}, not killed: {last_line(ended)}"
    if plan.act in _SIGNALS:
        code, _ = _SIGNALS[plan.act]
        return improper_end(ended, codes=(code,))
    return improper_end(ended)
