"""Which share of the branches of algorithms/, models/ and artifacts/ the tests enter: 95% is the least.

A branch is a jump from one line to another, as coverage.py counts it.

    python benchmarks/branches.py               # by the tests of the three folders: some minutes
    python benchmarks/branches.py tests         # by all tests
    python benchmarks/branches.py --missed      # and the branches that none enters, line by line
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("algorithms", "models", "artifacts")
LEAST = 0.95


def measured(tests: list[str]) -> dict[str, dict]:
    """What coverage.py says of each file, by its path."""
    with tempfile.TemporaryDirectory() as folder:
        data, result = f"--data-file={folder}/data", Path(folder) / "result.json"
        run = [sys.executable, "-m", "coverage", "run", data, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
        subprocess.run(run, cwd=ROOT, check=True)
        subprocess.run([sys.executable, "-m", "coverage", "json", data, "-q", "-o", result], cwd=ROOT, check=True)
        return json.loads(result.read_text(encoding="utf-8"))["files"]


def table(files: dict[str, dict]) -> tuple[str, float]:
    """The folders with their branches and how many were entered, and the smallest share."""
    rows, shares = ["| folder | branches | entered | |", "|---|---:|---:|---:|"], []
    for folder in FOLDERS:
        found = [one["summary"] for path, one in files.items() if Path(path).parts[:2] == ("llmprune", folder)]
        branches, entered = (sum(one[key] for one in found) for key in ("num_branches", "covered_branches"))
        shares.append(entered / branches)
        rows.append(f"| `{folder}/` | {branches} | {entered} | {shares[-1]:.1%} |")
    return "\n".join(rows), min(shares)


def missed(files: dict[str, dict]) -> list[str]:
    """The branches that were not entered, by file; a negative line is the end of what begins there."""
    return [
        f"{path}: {', '.join(f'{start} -> {end}' for start, end in one['missing_branches'])}"
        for path, one in sorted(files.items())
        if one["missing_branches"]
    ]


def main() -> None:
    """Type ``python benchmarks/branches.py --help``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="*", default=[f"tests/{folder}" for folder in FOLDERS])
    parser.add_argument("--missed", action="store_true")
    args = parser.parse_args()
    files = measured(args.tests)
    rows, least = table(files)
    print(rows)
    if args.missed:
        print("\n".join(missed(files)))
    raise SystemExit(int(least < LEAST))


if __name__ == "__main__":
    main()
