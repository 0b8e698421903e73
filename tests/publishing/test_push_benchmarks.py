"""Benchmarks that belong to what is pushed: in its card when they come later, and named where they cannot be read."""


def test_a_newer_card_of_the_same_checkpoint_needs_no_force(hub, push, cut, run):
    for path in (run / "bench").iterdir():
        path.rename(run / path.name)
    assert push(cut).exit_code == 0
    hub.repositories["ada/model"].add({"picture.png": b"of mine"})
    assert b"Quality" not in hub.repositories["ada/model"].files()["README.md"]
    for path in run.glob("2*.json"):
        path.rename(run / "bench" / path.name)
    assert push(cut).exit_code == 0
    files = hub.repositories["ada/model"].files()
    assert b"## Quality" in files["README.md"]
    assert files["picture.png"] == b"of mine"


def test_a_benchmark_that_cannot_be_read_is_left_out_and_named(push, cut, run):
    assert "left out" not in push(cut, "--dry-run").stderr
    for path in (run / "bench").iterdir():
        path.write_text("{")
    result = push(cut, "--dry-run")
    assert result.exit_code == 0
    for path in (run / "bench").iterdir():
        assert path.name in " ".join(result.stderr.split())
    assert "A benchmark is left out:" in result.stderr
