"""What a person sees while a command works."""

from rich.progress import Progress

from llmprune.cli import console as module
from llmprune.cli.console import Console


def test_time_left_is_known_however_long_a_step_takes(monkeypatch):
    now, bars = [0.0], []

    def progress(*columns, **options):
        bars.append(Progress(*columns, **options, get_time=lambda: now[0]))
        return bars[-1]

    monkeypatch.setattr(module, "Progress", progress)
    with Console().task("Pruning", 6) as advance:
        (task,) = bars[0].tasks
        advance(0)
        for done in range(1, 6):
            now[0] += 600.0
            advance(1)
            assert task.time_remaining == 600 * (6 - done)
