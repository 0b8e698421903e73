"""Mixtures of sources: how they are spelled, and windows of each, from seeds of their own, mixed alike throughout."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmprune.artifacts.records.provenance import SourceIdentity
from llmprune.choices import Bos, ChatTemplate, Sampling, TextKind
from llmprune.errors import TargetError
from llmprune.text.corpora import load_corpus
from llmprune.text.drawing import draw_from
from llmprune.text.mixtures import Part, mix, parse_mixture, part_seed
from llmprune.text.windows import TokenWindows, sample_windows
from tests.text.test_windows import PLAIN

HOW = {"sampling": Sampling.WINDOWS, "bos": Bos.AUTO, "chat_template": ChatTemplate.AUTO}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("wikitext2:64,c4:32", [("wikitext2", 64), ("c4", 32)]),
        (" wikitext2:64 , c4:32 ", [("wikitext2", 64), ("c4", 32)]),
        ("wikitext2:wiki.train.raw:64,./chat.jsonl:32", [("wikitext2:wiki.train.raw", 64), ("./chat.jsonl", 32)]),
        ("owner/name:config:train:column:8,c4:1", [("owner/name:config:train:column", 8), ("c4", 1)]),
        ("a.jsonl:7:8,a.jsonl:9", [("a.jsonl:7", 8), ("a.jsonl", 9)]),
        ("python-docs:4,python-docs:4", [("python-docs", 4), ("python-docs", 4)]),
        ("C:\\texts\\a.txt:8,c4:2", [("C:\\texts\\a.txt", 8), ("c4", 2)]),
        # A single source is what it always was.
        ("wikitext2", []),
        ("wikitext2:64", []),
        ("a.jsonl:7", []),
        ("owner/name:config", []),
        ("", []),
        ("notes, old.txt", []),
        ("wikitext2,c4", []),
    ],
)
def test_how_a_mixture_is_spelled(here, spec, parts):
    assert parse_mixture(spec) == tuple(Part(*part) for part in parts)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            "wikitext2:64,c4",
            "'c4' has no number of windows; type one behind every source, as in `source=wikitext2",
        ),
        ("wikitext2:64,c4:", "'c4:' has no number of windows"),
        ("wikitext2:64,,c4:32", "'' has no number of windows"),
        ("wikitext2:64,", "'' has no number of windows"),
        ("wikitext2:64,c4:-3", "'c4:-3' has no number of windows"),
        ("wikitext2:64,:32", "':32' has no number of windows"),
        ("wikitext2:64,c4:0", "takes 0 windows of 'c4'; leave that source out"),
        ("self:64,c4:32", "names self, text that the model itself writes, which cannot be mixed"),
    ],
)
def test_what_is_no_mixture_and_looks_like_one_is_refused(here, spec, words):
    with pytest.raises(TargetError, match=f"In the mixture '{spec}', {words}" if "number" in words else words):
        parse_mixture(spec)


def test_a_file_whose_name_has_a_comma(here):
    (here / "a:1,b.jsonl").touch()
    with pytest.raises(TargetError, match=r"can be read as a mixture and as the file 'a:1,b\.jsonl'; give the file a"):
        parse_mixture("a:1,b.jsonl:7")
    (here / "c,d.jsonl").touch()
    assert parse_mixture("c,d.jsonl:7") == ()  # its column 7
    with pytest.raises(TargetError, match="'c' has no number of windows"):
        parse_mixture("c,e.jsonl:7")
    with pytest.raises(TargetError, match="'x' has no number of windows"):
        parse_mixture("x," + "y" * 300 + ":7")  # a name too long for a file


def texts(folder):
    """Two texts whose tokens tell which it is."""
    (folder / "low.txt").write_text(" ".join(f"w{i % 400}" for i in range(3_000)))
    (folder / "high.txt").write_text(" ".join(f"w{500 + i % 400}" for i in range(3_000)))


def test_every_source_is_drawn_with_a_seed_of_its_own_place(here):
    texts(here)
    windows = draw_from("low.txt:6,high.txt:3", PLAIN, samples=1, seq_len=8, seed=5, **HOW)
    low, high = (
        sample_windows(load_corpus(name), PLAIN, num_windows=count, seq_len=8, seed=part_seed(5, place))
        for place, (name, count) in enumerate((("low.txt", 6), ("high.txt", 3)))
    )
    is_high = windows.tokens[:, 0] > 450
    assert torch.equal(windows.tokens[~is_high], low.tokens)
    assert torch.equal(windows.tokens[is_high], high.tokens)
    assert is_high.tolist() == [False, True, False, False, True, False, False, True, False]
    assert windows.text_tokens == 6_000
    assert windows.seed == 5
    assert windows.identity().name == "low.txt:6,high.txt:3"
    assert windows.identity().kind is TextKind.TEXT
    assert windows.identity().described == "low.txt:6,high.txt:3"
    assert windows.sources == tuple(
        SourceIdentity(
            name=one.corpus_name,
            kind=TextKind.TEXT,
            windows=one.num_windows,
            origin=one.corpus_origin,
            fingerprint=one.corpus_fingerprint,
        )
        for one in (low, high)
    )


def test_the_name_draws_the_same_again_and_another_order_or_seed_does_not(here):
    texts(here)
    first = draw_from("low.txt:6,high.txt:3", PLAIN, samples=1, seq_len=8, seed=5, **HOW)
    again = draw_from(first.corpus_name, PLAIN, samples=1, seq_len=8, seed=5, **HOW)
    assert again.identity() == first.identity()
    assert again.fingerprint == first.fingerprint
    for spec, seed in (("high.txt:3,low.txt:6", 5), ("low.txt:6,high.txt:3", 6)):
        other = draw_from(spec, PLAIN, samples=1, seq_len=8, seed=seed, **HOW)
        assert other.fingerprint != first.fingerprint


def test_one_source_twice_gives_different_windows(here):
    texts(here)
    twice = draw_from("low.txt:8,low.txt:8", PLAIN, samples=1, seq_len=8, seed=0, **HOW)
    assert len(twice.tokens.unique(dim=0)) > 12


def test_rows_of_every_source(here):
    (here / "a.jsonl").write_text("".join(f'{{"text": "w{i} w{i} w{i} w{i}"}}\n' for i in range(10)))
    (here / "b.jsonl").write_text("".join(f'{{"text": "w{500 + i} w1 w1 w1"}}\n' for i in range(10)))
    how = {**HOW, "sampling": Sampling.ROWS}
    windows = draw_from("a.jsonl:8,b.jsonl:4", PLAIN, samples=1, seq_len=8, seed=0, **how)
    assert [one.windows for one in windows.sources] == [4, 2]
    assert windows.corpus_name == "a.jsonl:8,b.jsonl:4"


def test_remarks_of_all_sources_are_kept(here):
    (here / "low.txt").write_text(" ".join(f"w{i}" for i in range(20)))
    (here / "high.txt").write_text(" ".join(f"w{i}" for i in range(500, 520)))
    note = draw_from("low.txt:6,high.txt:3", PLAIN, samples=1, seq_len=8, seed=5, **HOW).note
    assert note.count("the windows overlap") == 2


@given(counts=st.lists(st.integers(1, 40), min_size=2, max_size=4))
def test_every_beginning_is_mixed_alike(counts):
    drawn = [
        TokenWindows(torch.full((count, 2), n), False, "windows", 0, 9, f"{n}", "made up", "f")
        for n, count in enumerate(counts)
    ]
    tokens = mix(drawn, [Part(f"{n}", count) for n, count in enumerate(counts)], seed=0).tokens[:, 0]
    assert torch.bincount(tokens, minlength=len(counts)).tolist() == counts
    for length in range(1, len(tokens) + 1):
        for n, count in enumerate(counts):
            share = length * count / len(tokens)
            assert abs(int((tokens[:length] == n).sum()) - share) <= len(counts) / 2


def test_the_kind_of_a_mixture_of_kinds():
    plain = TokenWindows(torch.zeros(2, 4, dtype=torch.int64), False, "windows", 0, 9, "c4", "made up", "f")
    chat = replace(plain, corpus_name="chat.jsonl", kind=TextKind.CHAT)
    identity = mix([plain, chat], [Part("c4", 2), Part("chat.jsonl", 2)], seed=0).identity()
    assert identity.kind is TextKind.MIXTURE
    assert identity.described == "c4:2,chat.jsonl:2 (c4: text, chat.jsonl: chat)"


@pytest.mark.parametrize("place", range(3))
def test_seeds_of_places_are_streams_of_their_own(place):
    seeds = {part_seed(seed, place) for seed in range(50)}
    others = {part_seed(seed, place + 1) for seed in range(50)}
    assert len(seeds | others) == 100
    assert all(0 <= seed < 2**63 for seed in seeds)
