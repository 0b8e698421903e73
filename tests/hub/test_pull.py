"""Taking a MODEL from a Hub: gated, private, absent, offline; each with what to do about it."""

from __future__ import annotations

import pytest
from huggingface_hub import constants

from llmprune.errors import ModelError
from llmprune.models.source import find_model
from tests.hub.server import READER
from tests.hub.store import Repository


@pytest.fixture
def repository(hub, base) -> Repository:
    """ada's model."""
    found = hub.repositories["ada/base"] = Repository("ada")
    found.add({path.name: path.read_bytes() for path in base.iterdir()})
    return found


def refusal(spec: str = "ada/base") -> str:
    with pytest.raises(ModelError) as caught:
        find_model(spec)
    return str(caught.value)


def test_a_model_and_its_revisions(hub, repository, base):
    first = repository.branches["main"]
    repository.add({"config.json": b"{}"})
    assert (find_model(f"ada/base@{first}").path / "config.json").read_bytes() == (base / "config.json").read_bytes()
    assert (find_model("ada/base").path / "config.json").read_bytes() == b"{}"
    assert refusal("ada/base@v9") == "The Hub has ada/base, but no revision 'v9' of it."


def test_a_gated_model(hub, repository, monkeypatch):
    repository.gated = True
    assert find_model("ada/base").path.is_dir()  # its owner's
    for token, known in (
        (READER, "the token of this machine has no access to it yet"),
        ("", "nobody is logged in here"),
    ):
        monkeypatch.setenv("HF_TOKEN", token)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", constants.HF_HUB_CACHE + "x")
        said = refusal()
        assert f"ada/base is gated, and {known}: ask for access on {hub.endpoint}/ada/base, then type" in said
        assert not token or token not in said


@pytest.mark.parametrize("name", ["ada/base", "ada/absent"])
def test_a_private_model_looks_like_none_at_all(hub, repository, monkeypatch, name):
    repository.private = True
    monkeypatch.setenv("HF_TOKEN", READER)
    said = refusal(name)
    assert f"no Hub model called {name} that the token of this machine may see; if it is private, type" in said
    assert READER not in said
    monkeypatch.setenv("HF_TOKEN", "")
    assert f"no public Hub model called {name}; if it is private, type: hf auth login" in refusal(name)
    monkeypatch.setenv("HF_TOKEN", "hf_" + "z" * 34)
    said = refusal(name)
    assert "The Hub does not accept the token of this machine" in said
    assert "zzz" not in said


def test_a_model_in_the_cache_is_there_offline(hub, repository, base, monkeypatch):
    online = find_model("ada/base").path
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_model("ada/base").path == online
    assert hub.asked == []


def test_a_model_that_is_not_in_the_cache_is_not_there_offline(hub, repository, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = refusal()
    assert "ada/base is no directory here and not, or not whole, in the Hub's cache, and HF_HUB_OFFLINE is set" in said
    assert hub.asked == []


def test_half_a_model_in_the_cache_is_not_taken_for_a_whole_one(hub, repository, monkeypatch):
    hub.fail("GET", "/ada/base/[0-9a-f]{64}", times=100, status=404)
    refusal()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refusal()


def test_a_hub_that_fails_says_so(hub, repository):
    hub.fail("GET", "/api/models/ada/base", times=100, status=503)
    assert "not in the Hub's cache here, and the Hub answered with HTTP status 503; try again later." in refusal()


def test_a_hub_that_hangs_up_cannot_be_reached(hub, repository):
    hub.fail("GET", "/api/models/ada/base", times=100, cut_after=0)
    assert "the Hub cannot be reached; to go on offline, type the path of a checkpoint directory" in refusal()


def test_a_download_that_is_cut_goes_on(hub, repository, base):
    hub.fail("GET", "/ada/base/[0-9a-f]{64}", cut_after=0)
    directory = find_model("ada/base").path
    assert (directory / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
