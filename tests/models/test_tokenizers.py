"""Every kind of tokenizer beside a model: it cuts a text, or one sentence says the whole reason why not."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llmprune.errors import CorpusError, ModelError
from llmprune.models.loading import load_tokenizer
from llmprune.text.corpora import Corpus
from llmprune.text.tokenizer_identity import tokenizer_fingerprint
from llmprune.text.windows import consecutive_windows
from tests.tiny import save_tiny_tokenizer

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
CODE = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
BPE = {"vocab": {"A": 0, " ": 1, "w": 2, "o": 3, "wo": 4, "<unk>": 5}, "merges": ["w o"]}
Damage = Callable[[Path], None]


def _json(name: str, **changes: object) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def _files(**content: object) -> Damage:
    """Replace the tokenizer by files, their names with ``__`` for a dot."""

    def damage(folder: Path) -> None:
        for path in folder.glob("*"):
            path.unlink()
        for name, data in content.items():
            text = data if isinstance(data, str) else json.dumps(data)
            (folder / name.replace("__", ".")).write_text(text)

    return damage


def _with(**content: object) -> Damage:
    """Add or replace files, their names with ``__`` for a dot."""

    def damage(folder: Path) -> None:
        for name, data in content.items():
            (folder / name.replace("__", ".")).write_text(data if isinstance(data, str) else json.dumps(data))

    return damage


def _model(**model: object) -> Damage:
    """Another algorithm in tokenizer.json, without tokens beside it."""

    def damage(folder: Path) -> None:
        _json("tokenizer.json", model=model, added_tokens=[], pre_tokenizer=None, decoder=None)(folder)
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))

    return damage


def _alone(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()


def _template(*pieces: object) -> dict[str, object]:
    named = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    return {"type": "TemplateProcessing", "single": list(pieces), "pair": list(pieces), "special_tokens": named}


BOS, TEXT = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
CUT = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
PADDED = {
    "strategy": {"Fixed": 900},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "<unk>",
}

USABLE: dict[str, tuple[Damage, int]] = {  # and how many tokens 90 characters are
    "as saved": (lambda _: None, 90),
    "without its config": (_alone, 90),
    "a class that nobody knows": (_json("tokenizer_config.json", tokenizer_class="MagicTokenizer"), 90),
    "no class": (_json("tokenizer_config.json", tokenizer_class=None), 90),
    "one that cuts texts off": (_json("tokenizer.json", truncation=CUT), 90),
    "one that pads texts": (_json("tokenizer.json", padding=PADDED), 90),
    "one that puts BOS in front": (_json("tokenizer.json", post_processor=_template(BOS, TEXT)), 90),
    "a BOS that is no token yet": (_json("tokenizer_config.json", bos_token="<new>"), 90),
    "texts of no length": (_json("tokenizer_config.json", model_max_length=0), 90),
    "a chat template that is none": (_json("tokenizer_config.json", chat_template="{% broken"), 90),
    "vocabulary and merges": (
        _files(
            vocab__json={chr(code): code for code in range(32, 127)} | {"\u0120": 1, "<|endoftext|>": 0},
            merges__txt="",
            tokenizer_config__json={"tokenizer_class": "GPT2Tokenizer"},
        ),
        90,
    ),
    "a list of words": (
        _files(
            vocab__txt="[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\nsea\n",
            tokenizer_config__json={"tokenizer_class": "BertTokenizer"},
        ),
        20,
    ),
    "bytes": (_files(tokenizer_config__json={"tokenizer_class": "ByT5Tokenizer"}), 90),
}

UNUSABLE: dict[str, tuple[Damage, str]] = {
    "none": (_files(), "need to have sentencepiece or tiktoken installed"),
    **{
        f"a config of {known}, alone": (
            _files(tokenizer_config__json={"tokenizer_class": known}),
            "it knows special tokens alone: the files of its vocabulary are missing",
        )
        for known in ("LlamaTokenizer", "GPT2Tokenizer", "T5Tokenizer", "BertTokenizer", "XLNetTokenizer")
    },
    "a vocabulary of nothing": (_model(type="BPE", vocab={}, merges=[]), "it knows special tokens alone"),
    "cut off": (_with(tokenizer__json='{"version": '), "JSONDecodeError: Expecting value: line 1 column 13"),
    "empty": (_with(tokenizer__json=""), "JSONDecodeError: Expecting value"),
    "a pointer of Git LFS": (_with(tokenizer__json=LFS), "JSONDecodeError: Expecting value"),
    "a list": (_with(tokenizer__json=[]), "TypeError"),
    "an object of nothing": (_with(tokenizer__json={}), "KeyError"),
    "an algorithm that nobody knows": (_model(type="Magic"), "data did not match any variant of untagged enum"),
    "a config that is cut off": (_with(tokenizer_config__json="{"), "JSONDecodeError"),
    "a config that is a list": (_with(tokenizer_config__json=[]), "AttributeError: 'list' object"),
    "a class that is a number": (_json("tokenizer_config.json", tokenizer_class=3), "AttributeError: 'int' object"),
    "a BOS that is a number": (
        _json("tokenizer_config.json", bos_token=3),
        "Special token bos_token has to be either str",
    ),
    "a length that is a word": (_json("tokenizer_config.json", model_max_length="long"), "TypeError"),
    "a side that is none": (_json("tokenizer_config.json", padding_side="up"), "current value: up"),
    "special tokens that are cut off": (_with(special_tokens_map__json="{"), "JSONDecodeError"),
    "a template of unknown names": (
        _json("tokenizer.json", post_processor=_template({"SpecialToken": {"id": "<nobody>", "type_id": 0}}, TEXT)),
        "PanicException: no entry found for key",
    ),
    "words without a token for unknown ones": (
        _model(type="WordLevel", vocab={"the": 0}, unk_token="<unk>"),
        "Missing [UNK] token from the vocabulary",
    ),
    "pieces without a token for unknown ones": (
        _model(type="Unigram", unk_id=None, vocab=[["the", -1.0]], byte_fallback=False),
        "Encountered an unknown token but `unk_id` is missing",
    ),
    "sentencepiece that is none": (
        _files(tokenizer__model="garbage", tokenizer_config__json={"tokenizer_class": "LlamaTokenizer"}),
        "no usable tokenizer (",
    ),
    "a vocabulary without merges": (
        _files(vocab__json=BPE["vocab"], tokenizer_config__json={"tokenizer_class": "GPT2Tokenizer"}),
        "`vocab` and `merges` must be both",
    ),
    "code that is not there": (_files(tokenizer_config__json=CODE), "does not appear to have a file named own.py"),
    "code that fails": (
        _files(tokenizer_config__json=CODE, own__py="raise ValueError('its own')"),
        "ValueError: its own",
    ),
    "code that needs more": (
        _files(tokenizer_config__json=CODE, own__py="import nosuchmodule"),
        "pip install nosuchmodule",
    ),
    "code that is none": (_files(tokenizer_config__json=CODE, own__py="def ("), "SyntaxError"),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    save_tiny_tokenizer(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", USABLE)
def test_a_tokenizer_that_is_used(folder, kind):
    damage, tokens = USABLE[kind]
    damage(folder)
    tokenizer = load_tokenizer(folder)
    windows = consecutive_windows(Corpus("c", ("the sea  " * 10,), " ", "o"), tokenizer, seq_len=8, bos="never")
    assert windows.text_tokens == tokens
    assert len(tokenizer_fingerprint(tokenizer)) == 64


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_tokenizer_that_is_refused(folder, kind, capfd):
    damage, reason = UNUSABLE[kind]
    damage(folder)
    with pytest.raises(ModelError, match="has no usable tokenizer") as caught:
        load_tokenizer(folder, trust_remote_code=kind.startswith("code"))
    said = str(caught.value)
    assert reason in said
    assert "\n" not in said
    assert said.endswith("; put the model's own tokenizer beside its weights.")


def test_code_that_came_with_a_tokenizer_needs_the_flag(folder):
    _files(tokenizer_config__json=CODE, own__py="raise SystemExit")(folder)
    with pytest.raises(
        ModelError, match=r"needs Python code .*; read it, and type `trust_remote_code=True` to let it run\."
    ):
        load_tokenizer(folder)


def test_a_text_that_becomes_nothing(folder):
    _json("tokenizer.json", normalizer={"type": "Replace", "pattern": {"Regex": "."}, "content": ""})(folder)
    with pytest.raises(CorpusError, match="has 0 tokens, a window needs 8; give a longer text"):
        consecutive_windows(Corpus("c", ("the sea",), " ", "o"), load_tokenizer(folder), seq_len=8)


def test_a_text_that_cannot_be_cut(folder):
    letters = [[letter, -1.0] for letter in "A word.:1234567890"]
    _model(type="Unigram", unk_id=None, vocab=letters, byte_fallback=False)(folder)
    tokenizer = load_tokenizer(folder)
    with pytest.raises(ModelError, match=r"cannot cut this text .*unknown token"):
        consecutive_windows(Corpus("c", ("the sea",), " ", "o"), tokenizer, seq_len=8)
