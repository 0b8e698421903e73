"""Conversations: found in every kind of file, and written by the tokenizer's own chat template."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llmprune.choices import Bos, ChatTemplate, Sampling, TextKind
from llmprune.errors import CorpusError
from llmprune.text.chat_writer import ChatWriter
from llmprune.text.columns import Holds, choose_column
from llmprune.text.corpora import load_corpus
from llmprune.text.drawing import draw_from
from llmprune.text.tables import open_table
from llmprune.text.windows import sample_windows

TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}\n{{ message['content'] }}</s>{% endfor %}"
    "{% if messages[0]['content'] == 'bad' %}{{ raise_exception('no bad words') }}{% endif %}"
)
TALKS = [
    [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": f"answer {i}"}] for i in range(9)
]
WRITTEN = [f"<s>user\nquestion {i}</s><s>assistant\nanswer {i}</s>" for i in range(9)]


def letters(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """A tokenizer of single characters, whose special tokens are one token each."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, "\n": 3} | {chr(code): code - 28 for code in range(32, 127)}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = template
    return tokenizer


CHAT = ChatWriter(letters())
PLAIN = ChatWriter(letters(), ChatTemplate.OFF)


def save(folder, name, records):
    path = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.mark.parametrize("name", ["chat.jsonl", "chat.parquet"])
def test_messages_of_a_file_are_written_by_the_template(tmp_path, name):
    path = save(tmp_path, name, [{"id": f"{i}", "messages": talk} for i, talk in enumerate(TALKS)])
    corpus = load_corpus(path, chat=CHAT)
    assert list(corpus.rows) == WRITTEN
    assert (corpus.separator, corpus.kind) == ("", TextKind.CHAT)
    assert corpus.origin == f"file {name}, conversations by the chat template"


def test_without_a_template_their_contents_are_plain_text(tmp_path):
    corpus = load_corpus(save(tmp_path, "chat.jsonl", [{"messages": talk} for talk in TALKS]), chat=PLAIN)
    assert corpus.rows[3] == "question 3\n\nanswer 3"
    assert (corpus.separator, corpus.kind) == ("\n\n", TextKind.TEXT)
    assert corpus.origin == "file chat.jsonl, conversations without a chat template"


@pytest.mark.parametrize("name", ["chat.jsonl", "chat.parquet"])
def test_a_data_sets_table_has_them_too(tmp_path, name):
    path = tmp_path / name
    save(tmp_path, name, [{"id": f"{i}", "messages": talk} for i, talk in enumerate(TALKS)])
    table = open_table(path, "parquet" if name.endswith("parquet") else "json")
    assert table.columns() == {"id": Holds.STRINGS, "messages": Holds.CONVERSATIONS}
    assert list(table.rows("messages")) == TALKS


@pytest.mark.parametrize(
    ("columns", "wanted", "found"),
    [
        ({"text": Holds.STRINGS, "messages": Holds.CONVERSATIONS}, None, "text"),
        ({"id": Holds.STRINGS, "messages": Holds.CONVERSATIONS}, None, "messages"),
        ({"text": Holds.STRINGS, "messages": Holds.CONVERSATIONS}, "messages", "messages"),
        ({"id": Holds.STRINGS, "chosen": Holds.CONVERSATIONS}, "chosen", "chosen"),
        ({"id": Holds.STRINGS, "chosen": Holds.CONVERSATIONS}, None, "id"),
        ({"text": Holds.CONVERSATIONS, "id": Holds.STRINGS}, None, "id"),
    ],
)
def test_which_column_is_read(columns, wanted, found):
    assert choose_column(columns, wanted, where="x") == found


def test_the_tokens_are_those_that_the_tokenizer_gives_each_conversation(tmp_path):
    tokenizer = letters()
    path = save(tmp_path, "chat.jsonl", [{"messages": talk} for talk in TALKS])
    how = {"sampling": Sampling.WINDOWS, "bos": Bos.NEVER, "chat_template": ChatTemplate.AUTO}
    windows = draw_from(path, tokenizer, samples=5, seq_len=20, seed=3, **how)
    ids = [tokenizer.apply_chat_template(talk, return_dict=False) for talk in TALKS]
    stream = torch.tensor([token for one in ids for token in one])
    starts = torch.randint(0, len(stream) - 20 + 1, (5, 1), generator=torch.Generator().manual_seed(3))
    assert torch.equal(windows.tokens, stream[starts + torch.arange(20)])
    assert (windows.kind, windows.text_tokens) == (TextKind.CHAT, len(stream))
    assert windows.identity().described == f"{path.rsplit('/')[-1]} (conversations, by the model's chat template)"


def test_random_rows_are_conversations(tmp_path):
    corpus = load_corpus(save(tmp_path, "chat.jsonl", [{"messages": talk} for talk in TALKS]), chat=CHAT)
    windows = sample_windows(corpus, letters(), num_windows=4, seq_len=10, sampling=Sampling.ROWS)
    assert windows.tokens[0, 0] == 1


def test_a_content_of_parts_of_nothing_and_of_half_a_character(tmp_path):
    talk = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "one"}, {"type": "image"}, {"type": "text", "text": "two"}],
        },
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "three \ud83d"},
    ]
    corpus = load_corpus(save(tmp_path, "chat.jsonl", [{"messages": talk}]), chat=PLAIN)
    assert corpus.rows == ("one\n\ntwo\n\n\n\nthree \ufffd\ufffd\ufffd",)


def test_a_template_that_asks_for_the_date_gets_the_same_on_every_day():
    writer = ChatWriter(letters("{{ strftime_now('%d %b %Y') }}: {{ messages[0]['content'] }}"))
    assert writer.write(TALKS[0], where="a talk") == "26 Jul 2024: question 0"


@pytest.mark.parametrize(
    ("records", "chat", "words"),
    [
        ([{"messages": TALKS[0]}], None, r"chat\.jsonl holds conversations, which only calibration takes"),
        (
            [{"messages": TALKS[0]}],
            ChatWriter(letters(None)),
            "and the tokenizer of this model has no chat template; type `chat_template=off`",
        ),
        (
            [{"messages": TALKS[0]}, {"messages": [{"role": "user", "content": "bad"}]}],
            CHAT,
            r"The chat template of this model does not take conversation 2 of chat\.jsonl \(no bad words\)",
        ),
        (
            [{"messages": TALKS[0]}, {"messages": "a"}],
            CHAT,
            "line 2: expected messages with role and content",
        ),
        ([{"messages": TALKS[0]}, {"messages": []}], CHAT, "line 2: expected messages .*, found a JSON list"),
        ([{"messages": [{"role": "user"}]}], CHAT, r"no column of strings; its columns are messages \(no strings\)"),
        (
            [{"messages": [{"role": "user", "content": 3}]}],
            PLAIN,
            "a message whose content is a float; a text was",
        ),
        ([{"text": "a"}, {"text": TALKS[0]}], CHAT, "line 2: expected a string in 'text', found a JSON list"),
        (
            [{"chosen": TALKS[0], "rejected": TALKS[1]}],
            CHAT,
            r"its columns are chosen \(conversations\), rejected",
        ),
    ],
)
def test_what_is_refused(tmp_path, records, chat, words):
    with pytest.raises(CorpusError, match=words):
        load_corpus(save(tmp_path, "chat.jsonl", records), chat=chat)
