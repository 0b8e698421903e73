"""The papers behind what was done to a model, as BibTeX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmprune.artifacts.records.pruning import PruningRecord
from llmprune.publishing.history import steps


@dataclass(frozen=True)
class Paper:
    """A paper.

    Attributes:
        short: what people call it.
        arxiv: its number there.
        bibtex: its entry.
    """

    short: str
    arxiv: str
    bibtex: str


def _paper(short: str, key: str, arxiv: str, year: int, title: str, authors: str, venue: str | None = None) -> Paper:
    fields = {"title": title, "author": authors, "booktitle": venue, "year": year, "eprint": arxiv}
    fields["archiveprefix"] = "arXiv"
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items() if value)
    return Paper(short, arxiv, f"@{'inproceedings' if venue else 'misc'}{{{key},\n{lines}\n}}")


_SLEB = _paper(
    "SLEB",
    "song2024sleb",
    "2402.09025",
    2024,
    "{SLEB}: Streamlining {LLMs} through Redundancy Verification and Elimination of Transformer Blocks",
    "Song, Jiwon and Oh, Kyungseok and Kim, Taesu and Kim, Hyungjun and Kim, Yulhwa and Kim, Jae-Joon",
    "International Conference on Machine Learning",
)
_SPARSELLM = _paper(
    "SparseLLM",
    "bai2024sparsellm",
    "2402.17946",
    2024,
    "{SparseLLM}: Towards Global Pruning of Pre-trained Language Models",
    "Bai, Guangji and Li, Yijiang and Ling, Chen and Kim, Kibaek and Zhao, Liang",
    "Advances in Neural Information Processing Systems",
)
_SPARSEGPT = _paper(
    "SparseGPT",
    "frantar2023sparsegpt",
    "2301.00774",
    2023,
    "{SparseGPT}: Massive Language Models Can Be Accurately Pruned in One-Shot",
    "Frantar, Elias and Alistarh, Dan",
    "International Conference on Machine Learning",
)
_WANDA = _paper(
    "Wanda",
    "sun2024wanda",
    "2306.11695",
    2024,
    "A Simple and Effective Pruning Approach for Large Language Models",
    "Sun, Mingjie and Liu, Zhuang and Bair, Anna and Kolter, J. Zico",
    "International Conference on Learning Representations",
)
_SHORTGPT = _paper(
    "ShortGPT",
    "men2024shortgpt",
    "2403.03853",
    2024,
    "{ShortGPT}: Layers in Large Language Models are More Redundant Than You Expect",
    "Men, Xin and Xu, Mingyu and Zhang, Qingyu and Wang, Bingning and Lin, Hongyu and Lu, Yaojie and Han, Xianpei and "
    "Chen, Weipeng",
)
_DEEPER = _paper(
    "The Unreasonable Ineffectiveness of the Deeper Layers",
    "gromov2024unreasonable",
    "2403.17887",
    2024,
    "The Unreasonable Ineffectiveness of the Deeper Layers",
    "Gromov, Andrey and Tirumala, Kushal and Shapourian, Hassan and Glorioso, Paolo and Roberts, Daniel A.",
)
_REAP = _paper(
    "REAP",
    "lasby2025reap",
    "2510.13999",
    2025,
    "{REAP} the Experts: Why Pruning Prevails for One-Shot {MoE} Compression",
    "Lasby, Mike and Lazarevich, Ivan and Sinnadurai, Nish and Lie, Sean and Ioannou, Yani and Thangarasa, Vithursan",
)
_PAPERS: Mapping[str, tuple[Paper, ...]] = {
    "sleb": (_SLEB,),
    "block-influence": (_SHORTGPT,),
    "angular": (_DEEPER,),
    "reap": (_REAP,),
    "sparsellm": (_SPARSELLM, _SPARSEGPT),
    "sparsegpt": (_SPARSEGPT,),
    "wanda": (_WANDA,),
}


def methods(record: PruningRecord) -> tuple[str, ...]:
    """What chose the blocks and the weights, step by step, as the records call it; what was typed has no name."""
    named: list[str | None] = []
    for step in steps(record):
        named.append(step.removal.metric if step.removal else None)
        named.append(step.experts.metric if step.experts else None)
        named.append(step.sparsity.settings.method if step.sparsity else None)
    return tuple(dict.fromkeys(name for name in named if name))


def papers(record: PruningRecord) -> tuple[Paper, ...]:
    """The papers to cite, each once, in the order of the steps."""
    return tuple(dict.fromkeys(paper for name in methods(record) for paper in _PAPERS.get(name, ())))
