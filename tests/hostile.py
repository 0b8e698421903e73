"""What the tests with files and words that nobody wrote in earnest share.

Seeded, within ten seconds. For a long search: LLMPRUNE_FUZZ=2000 pytest tests/test_hostile*.py
"""

import json
import os
import random
from copy import deepcopy

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from llmprune.errors import LlmpruneError

EXAMPLES = int(os.environ.get("LLMPRUNE_FUZZ", "0"))
VALUES = (
    None, True, -1, 0, 1, 3, 2**31, 2**63, 10**12, 10**30, 10**400, 1e18, 1e308, float("inf"), float("nan"), -0.5,
    "", "x", "6", "2:4", "a:b:c", "50%", "\x1b[31mred\n", "\u202egnp", "<script>", "`|`", "../../etc", "y" * 5000, "\0",
    [], {}, [[]], [1, 1], [-1], ["\x1b"], {"\x1b[2J\n": 1}, [10**30] * 3, "sleb", "float32",
)  # fmt: skip


def fuzzed(share: float = 1.0):
    """As many examples as were asked for, or in CI a share of thirty, always the same."""
    long = {"max_examples": EXAMPLES} if EXAMPLES else {"max_examples": max(5, round(30 * share)), "derandomize": True}
    unhurried = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(deadline=None, database=None, suppress_health_check=unhurried, **long)


def changed(content, chooser):
    """A JSON document with one to three values replaced, doubled, removed, or put under another name."""
    content = deepcopy(content)
    for _ in range(chooser.randint(1, 3)):
        places = list(_places(content))
        if not places:
            break
        holder, key = chooser.choice(places)
        match chooser.randrange(5):
            case 0 if isinstance(holder, dict):
                holder[chooser.choice(["\x1b[0m", "", "x" * 3000, "num_hidden_layers"])] = holder.pop(key)
            case 1:
                del holder[key]
            case _:
                holder[key] = deepcopy(chooser.choice(VALUES))
    return content


def _places(value):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def damaged(content: bytes, chooser) -> bytes:
    """Bytes of which some were changed, removed or put in."""
    data = bytearray(content)
    for _ in range(chooser.randint(1, 4)):
        at = chooser.randrange(len(data) + 1)
        match chooser.randrange(4):
            case 0:
                del data[at:]
            case 1:
                data[at:at] = chooser.choice([b"\0" * 8, b"\xff" * 8, b"\x1b[31m", b"{", b"9" * 5000])
            case _:
                data[at : at + 1] = chooser.choice([b"\0", b"\xff", b"\x80", b"[", b'"'])
        if not data:
            break
    return bytes(data)


def dumped(content) -> bytes:
    return json.dumps(content).encode("utf-8", "surrogatepass")


def works_or_says(read) -> object:
    """What is read, or None after one sentence."""
    try:
        return read()
    except LlmpruneError as error:
        said = str(error)
        assert said.isprintable() and 10 < len(said) < 2_000, said
        return None


choosers = st.integers(0, 2**32).map(random.Random)
