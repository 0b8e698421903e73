"""What `llmprune.algorithms` hands on, and the example in its docstring."""

import doctest

import pytest

import llmprune.algorithms
from llmprune.algorithms import blocks, feed_forward, healing, weights


def test_the_example_does_what_it_says():
    result = doctest.testmod(llmprune.algorithms)
    assert result.attempted > 10
    assert result.failed == 0


def test_every_public_name_of_the_parts_is_handed_on():
    parts = {*blocks.__all__, *feed_forward.__all__, *healing.__all__, *weights.__all__, "pareto_front"}
    assert set(llmprune.algorithms.__all__) == parts


@pytest.mark.parametrize("package", [llmprune.algorithms, blocks, feed_forward, healing, weights])
def test_names_are_there_and_documented(package):
    for name in package.__all__:
        public = getattr(package, name)
        assert public.__doc__, name
