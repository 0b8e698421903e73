"""Conversations of data sets on the Hub of conftest.py."""

import json

from tests.text.test_hub_text import CONVERTED, parquet

CHATS = """
import sys
from llmprune.choices import TextKind
from llmprune.text.corpora import load_corpus
class Writer:
    kind, separator = TextKind.CHAT, ""
    def write(self, conversation, *, where):
        return where + ": " + " ".join(message["content"] for message in conversation)
for spec in ("o/converted", "o/fresh:default:train:messages"):
    corpus = load_corpus(spec, chat=Writer())
    print(corpus.name, corpus.rows, repr(corpus.separator), str(corpus.kind), corpus.origin.partition(", ")[2])
"""


def test_conversations_of_a_data_set(hub):
    talks = [[{"role": "user", "content": word}] for word in ("a", "b")]
    hub.add("o/converted", {"default/train/0000.parquet": parquet(id=["1", "2"], messages=talks)}, CONVERTED)
    hub.add("o/fresh", {"train.jsonl": "".join(json.dumps({"messages": talk}) + "\n" for talk in talks).encode()})
    done = hub.run(CHATS)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        f"{name}:default:train:messages ('conversation 1 of {name}: a', 'conversation 2 of {name}: b') '' chat "
        "conversations by the chat template"
        for name in ("o/converted", "o/fresh")
    ]
    (refused,) = hub.load(("o/converted:default:train", "evaluation"))
    assert "o/converted holds conversations, which only calibration takes" in refused["message"]
