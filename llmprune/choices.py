"""What can be chosen by name, and what is taken where nothing is typed: one place for the command line and the stages.

Nothing here loads torch, so that ``llmprune --help`` answers at once. The value of a choice is what is typed after its
option, and what the JSON artifacts hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Metric(StrEnum):
    """What makes a block redundant: its loss measured anew after every removal, or a one-shot score."""

    SLEB = "sleb"
    BLOCK_INFLUENCE = "block-influence"
    ANGULAR = "angular"


class ExpertMetric(StrEnum):
    """What makes an expert important: gate times output norm, averaged over its tokens, or how many tokens it gets."""

    REAP = "reap"
    FREQUENCY = "frequency"


class Search(StrEnum):
    """How the candidates of a round are compared: hopeless ones are dropped early, or all see every window."""

    ELIMINATE = "eliminate"
    EXHAUSTIVE = "exhaustive"


class Sampling(StrEnum):
    """How calibration windows are drawn: at random positions of the text, or from random rows (SLEB's protocol)."""

    WINDOWS = "windows"
    ROWS = "rows"


class Bos(StrEnum):
    """Whether windows start with the BOS token; ``auto``: as the tokenizer does by itself."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class ChatTemplate(StrEnum):
    """What writes conversations as text: the tokenizer's own template, or nothing (their contents as plain text)."""

    AUTO = "auto"
    OFF = "off"


class TextKind(StrEnum):
    """What a text is made of: prose, conversations as a chat template writes them, what the model itself wrote.

    ``tokens`` were given as they are, and of a ``mixture`` the sources are of several kinds.
    """

    TEXT = "text"
    CHAT = "chat"
    SELF = "self"
    TOKENS = "tokens"
    MIXTURE = "mixture"


class DeviceMap(StrEnum):
    """Where a whole model that writes text lies: on the device, or on all GPUs and the host, as accelerate maps it."""

    NONE = "none"
    AUTO = "auto"


class Cache(StrEnum):
    """Which of the dense model's hidden states a calibration keeps, for healing: none, all, or what the disk allows.

    ``auto`` takes a tenth of what is free on the disk, for the first blocks.
    """

    NONE = "none"
    AUTO = "auto"
    ALL = "all"


class Method(StrEnum):
    """What prunes weights: one matrix after another, or (SparseLLM) each FFN as one problem on top of SparseGPT."""

    SPARSELLM = "sparsellm"
    SPARSEGPT = "sparsegpt"
    WANDA = "wanda"
    MAGNITUDE = "magnitude"


class Reference(StrEnum):
    """Whose activations weight pruning reproduces: the dense model's, or (the papers' protocol) the pruned model's."""

    DENSE = "dense"
    PRUNED = "pruned"


class Scope(StrEnum):
    """Which blocks healing solves: the one before each hole, or every one from the first hole on."""

    CUT = "cut"
    ALL = "all"


class Heal(StrEnum):
    """The same for a removal of blocks, which may also leave its holes as they are."""

    NONE = "none"
    CUT = "cut"
    ALL = "all"


class Part(StrEnum):
    """What a weight matrix of a block belongs to. Routers choose experts, or weigh a branch by one number a token."""

    ATTENTION = "attention"
    FFN = "ffn"
    ROUTERS = "routers"


class Combine(StrEnum):
    """How a sweep combines removed blocks and zeros.

    ``budget`` makes only so many zeros beside the removed blocks that as many weights are left as with the zeros alone.
    ``grid`` prunes what is left by the same pattern. ``none`` combines nothing.
    """

    BUDGET = "budget"
    GRID = "grid"
    NONE = "none"


class Dtype(StrEnum):
    """What is computed in; ``auto``: as an artifact that is continued, else as the checkpoint is stored."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


@dataclass(frozen=True)
class Amounts:
    """How much a benchmark measures where nothing is typed.

    Attributes:
        tokens: in a perplexity window and in the single long prompt; a shorter model takes all its positions.
        max_windows: of each text; None: as many as its published protocol takes, or all.
        batch: sequences generated together.
        gen: new tokens of each.
        prompt: prompt tokens of each.
        agreement: prompts behind which greedy choices are compared.
        repeats: timed repeats at least.
        max_seconds: within which more repeats begin.
    """

    tokens: int = 2048
    max_windows: int | None = None
    batch: int = 64
    gen: int = 128
    prompt: int = 64
    agreement: int = 32
    repeats: int = 5
    max_seconds: float = 120.0


USUAL = Amounts()
QUICK = Amounts(tokens=512, max_windows=8, batch=8, gen=32, agreement=8, repeats=3, max_seconds=20.0)

# Where and in what to compute.
DEVICE = "auto"

# Calibration.
SOURCE = "auto"
SAMPLES = 128
SEQ_LEN = 2048
SEED = 0

# The search for redundant blocks.
TARGET = "20%"
PROTECT_FIRST = 1
PROTECT_LAST = 1
ERROR_RATE = 1e-3

# Removing experts.
EXPERT_TARGET = "25%"

# Weight pruning. Coefficients that leave z and s freer than p measured best for gated and plain FFNs alike.
SPARSITY = "50%"
LAYERS = "all"
PARTS = f"{Part.ATTENTION},{Part.FFN}"
ALPHA = 0.1
BETA = 1.0
GAMMA = 1.0
ROUNDS = 2
DAMPING = 0.01
BLOCK_SIZE = 128
REFIT_STEPS = 10

# Files.
SHARD_SIZE = "5GB"
