"""The table of branches that benchmarks/branches.py makes of what coverage.py says."""

from benchmarks.branches import FOLDERS, missed, table


def file(branches, entered, missing=()):
    return {"summary": {"num_branches": branches, "covered_branches": entered}, "missing_branches": list(missing)}


def test_the_folders_are_summed_up_and_the_smallest_share_decides():
    files = {f"llmprune/{folder}/a.py": file(10, 10) for folder in FOLDERS}
    files |= {"llmprune/models/deep/b.py": file(30, 28, [[3, 5], [7, -1]]), "llmprune/text/c.py": file(9, 0)}
    rows, least = table(files)
    assert rows.splitlines()[3] == "| `models/` | 40 | 38 | 95.0% |"
    assert "| `artifacts/` | 10 | 10 | 100.0% |" in rows and least == 0.95
    assert missed(files) == ["llmprune/models/deep/b.py: 3 -> 5, 7 -> -1"]
