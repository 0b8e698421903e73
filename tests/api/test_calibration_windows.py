"""Calibration windows from Python: the command's own, from texts, and from tokens."""

import pytest
import torch

import llmprune
from llmprune.artifacts.activations import open_calibration
from llmprune.choices import TextKind
from llmprune.errors import CorpusError, ModelError, TargetError
from llmprune.stages.calibration import CalibrationSettings, calibrate
from tests.tiny import Listener
from tests.tiny_models import tiny_model, tiny_tokenizer

TEXTS = ["w3 w4 w5 w6 " * 300, "w7 w8 w9 w10 " * 300]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "words.txt"
    path.write_text("\n\n".join(TEXTS), encoding="utf-8")
    return path


@pytest.fixture
def described(checkpoint, text):
    """The same windows of a path, of a model in memory and of a tokenizer."""
    model = tiny_model("llama")
    model.config.name_or_path = model.name_or_path = str(checkpoint("llama"))

    def described(**settings):
        return [
            llmprune.calibration_windows(source, settings.pop("source", None) or str(text), **settings)
            for source in (checkpoint("llama"), model, tiny_tokenizer())
        ]

    return described


def test_they_are_the_commands_windows(checkpoint, text, workspace, described):
    space = workspace(checkpoint("llama"))
    settings = CalibrationSettings(source=str(text), samples=8, seq_len=16, seed=3)
    manifest = open_calibration(calibrate(space, settings).directory).manifest
    for windows in described(samples=8, seq_len=16, seed=3):
        assert windows.fingerprint == manifest.windows_fingerprint
        assert windows.identity() == manifest.corpus


def test_texts_are_taken_as_they_are(text):
    from_list = llmprune.calibration_windows(tiny_tokenizer(), TEXTS, samples=8, seq_len=16)
    from_file = llmprune.calibration_windows(tiny_tokenizer(), str(text), samples=8, seq_len=16)
    assert torch.equal(from_list.tokens, from_file.tokens)
    assert repr(from_list) == "8 windows of 16 tokens of texts, seed 0"


def test_tokens_are_taken_as_they_are(tokens):
    windows = llmprune.calibration_windows(tiny_tokenizer(), tokens.to(torch.int32))
    assert torch.equal(windows.tokens, tokens)
    assert windows.tokens.dtype == torch.int64
    assert windows.sampling == "given"


@pytest.mark.parametrize(
    "wrong", [torch.zeros(3, dtype=torch.int64), torch.zeros(2, 4), torch.zeros(0, 4).long(), torch.zeros(4, 1).long()]
)
def test_what_is_no_tokens_is_refused(wrong):
    with pytest.raises(TargetError, match="token ids"):
        llmprune.calibration_windows(tiny_tokenizer(), wrong)


def test_the_model_writes_them_itself(checkpoint):
    model = tiny_model("llama")
    model.config.name_or_path = model.name_or_path = str(checkpoint("llama"))
    one, other = (
        llmprune.calibration_windows(source, "self", samples=3, seq_len=8) for source in (model, checkpoint("llama"))
    )
    assert torch.equal(one.tokens, other.tokens)
    assert one.sampling == "self"


def test_a_window_is_as_long_as_the_model_allows(described):
    with_limit, in_memory, without = described(samples=2)
    assert with_limit.seq_len == in_memory.seq_len == 128
    assert without.seq_len == 2048


def test_what_has_to_be_told_is_heard(text):
    listener = Listener()
    llmprune.calibration_windows(tiny_tokenizer(), ["w3 w4 " * 20], samples=8, seq_len=16, progress=listener)
    assert listener.heard("the windows overlap")


def test_remarks_are_logged(text, caplog):
    with caplog.at_level("INFO", logger="llmprune"):
        llmprune.calibration_windows(tiny_tokenizer(), ["w3 w4 " * 20], samples=8, seq_len=16)
    assert "the windows overlap" in caplog.text


def test_what_cannot_be_had_is_refused(checkpoint):
    with pytest.raises(CorpusError, match="window"):
        llmprune.calibration_windows(tiny_tokenizer(), ["w3 w4"], seq_len=16)
    with pytest.raises(ModelError, match="give the tokenizer itself"):
        llmprune.calibration_windows(tiny_model("llama"), TEXTS)
    with pytest.raises(TargetError, match="128 positions"):
        llmprune.calibration_windows(checkpoint("llama"), TEXTS, seq_len=200)
    with pytest.raises(TargetError, match="`sampling=lines` is none of windows, rows"):
        llmprune.calibration_windows(tiny_tokenizer(), TEXTS, sampling="lines")


TALKS = [[{"role": "user", "content": f"w{3 + i} w4"}, {"role": "assistant", "content": "w5 w6"}] for i in range(40)]


def with_template():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}<s> {{ message['content'] }} </s> {% endfor %}"
    return tokenizer


def test_a_mixture_is_drawn_as_the_command_draws_it(checkpoint, text, workspace, described):
    source = f"{text}:5,{text}:3"
    space = workspace(checkpoint("llama"))
    manifest = open_calibration(calibrate(space, CalibrationSettings(source=source, seq_len=16)).directory).manifest
    assert [(one.name, one.windows) for one in manifest.corpus.sources] == [("words.txt", 5), ("words.txt", 3)]
    assert manifest.num_windows == 8
    for source_of in (checkpoint("llama"), tiny_tokenizer()):
        windows = llmprune.calibration_windows(source_of, source, seq_len=16)
        assert windows.fingerprint == manifest.windows_fingerprint
        assert windows.identity() == manifest.corpus
    kept = llmprune.Run(space.run.path).windows
    assert kept.identity() == manifest.corpus


def test_counts_of_a_mixture_and_another_number_of_samples_are_refused(text):
    with pytest.raises(TargetError, match=r"`samples=9` is not the 8 windows that the counts of the mixture make"):
        llmprune.calibration_windows(tiny_tokenizer(), f"{text}:5,{text}:3", samples=9, seq_len=16)
    assert len(llmprune.calibration_windows(tiny_tokenizer(), f"{text}:5,{text}:3", samples=8, seq_len=16).tokens) == 8


def test_conversations_are_written_by_the_chat_template():
    windows = llmprune.calibration_windows(with_template(), TALKS, samples=4, seq_len=10)
    assert (windows.tokens == 1).sum() > 4
    assert windows.identity().kind is TextKind.CHAT
    plain = llmprune.calibration_windows(with_template(), TALKS, samples=4, seq_len=10, chat_template="off")
    assert not (plain.tokens < 3).any()
    assert plain.identity().kind is TextKind.TEXT


def test_kinds_of_what_the_model_wrote_and_of_tokens(described, tokens):
    written = described(source="self", samples=2, seq_len=8)[:1]
    assert [one.identity().kind for one in written] == [TextKind.SELF]
    assert llmprune.calibration_windows(tiny_tokenizer(), tokens).identity().kind is TextKind.TOKENS


@pytest.mark.parametrize("source", [[1, 2], ["w3 w4", TALKS[0]], [[]]])
def test_a_list_of_neither_texts_nor_conversations_is_refused(source):
    with pytest.raises(TargetError, match="neither of texts nor of conversations"):
        llmprune.calibration_windows(with_template(), source, samples=1, seq_len=8)
