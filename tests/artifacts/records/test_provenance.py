"""What artifacts say of their text."""

import pytest

from llmprune.artifacts.records.provenance import CorpusIdentity, SourceIdentity, describe_text
from llmprune.artifacts.records.weight_sparsity import SparsitySettings
from llmprune.choices import TextKind
from tests.report.made import zeroed

PROSE = SourceIdentity(name="c4", kind=TextKind.TEXT, windows=3, origin="Hub", fingerprint="a")
TALK = SourceIdentity(name="chat.jsonl", kind=TextKind.CHAT, windows=1, origin="file", fingerprint="b")


@pytest.mark.parametrize(
    ("name", "kind"), [("wikitext2", TextKind.TEXT), ("self", TextKind.SELF), ("tokens", TextKind.TOKENS)]
)
def test_in_files_from_before_the_kind_was_kept_the_name_tells_it(name, kind):
    identity = CorpusIdentity.model_validate({"name": name, "origin": "somewhere", "fingerprint": "f"})
    assert (identity.kind, identity.sources) == (kind, ())
    known = zeroed().record.sparsity.settings.model_dump(exclude={"corpus_kind", "sources"})
    assert SparsitySettings.model_validate({**known, "corpus": name}).corpus_kind is kind


def test_a_text_is_described_by_its_name_and_what_the_name_does_not_tell():
    assert describe_text("c4", TextKind.TEXT, ()) == "c4"
    assert describe_text("self", TextKind.SELF, ()) == "self"
    assert describe_text("chat.jsonl", TextKind.CHAT, ()) == "chat.jsonl (conversations, by the model's chat template)"
    assert describe_text("c4:3,c4:3", TextKind.TEXT, (PROSE, PROSE)) == "c4:3,c4:3"
    mixed = describe_text("c4:3,chat.jsonl:1", TextKind.MIXTURE, (PROSE, TALK))
    assert mixed == "c4:3,chat.jsonl:1 (c4: text, chat.jsonl: chat)"


def test_it_is_read_as_it_was_written():
    identity = CorpusIdentity(name="m", origin="o", fingerprint="f", kind=TextKind.MIXTURE, sources=(PROSE, TALK))
    assert CorpusIdentity.model_validate_json(identity.model_dump_json()) == identity
