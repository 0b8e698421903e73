"""Which tests benchmarks/mutations.py runs on a mutant, and which mutants it puts into a function in place."""

import ast

import pytest

from benchmarks import mutation_trials

TREE = ast.parse(
    "def f(x=1):\n"  # 1
    "    if x > 2 and (\n"  # 2
    "        x > 3\n"  # 3
    "    ):\n"  # 4
    "        return g(\n"  # 5
    "            4,\n"  # 6
    "        )\n"  # 7
    "    return 5\n"  # 8
    "LAMBDA = lambda: 6\n"  # 9
)


@pytest.mark.parametrize(
    ("line", "expected"), [(2, ["quick", "slow"]), (3, ["quick", "slow"]), (6, ["slow"]), (8, ["quick"]), (9, [])]
)
def test_the_tests_of_a_mutant_are_those_that_enter_its_statement_the_fastest_first(line, expected):
    lines = {2: {"slow", "quick"}, 3: {"slow"}, 5: {"slow"}, 8: {"quick"}}
    assert mutation_trials.tests_of(TREE, line, lines, {"slow": 3.0, "quick": 0.1}) == expected


def test_a_default_is_not_inside_its_function():
    constants = [node for node in ast.walk(TREE) if isinstance(node, ast.Constant)]
    numbers = {number: node.value for number, node in enumerate(ast.walk(TREE)) if node in constants}
    inside = {value: mutation_trials.is_inside_function(TREE, number) for number, value in numbers.items()}
    assert inside == {1: False, 2: True, 3: True, 4: True, 5: True, 6: True}
