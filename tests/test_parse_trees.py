"""Averages, sums and best trees against every tree of short sentences; the grammar, its parsers, the metric."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
import torch

from stillhouse.engine.contracts import Data
from stillhouse.errors import StillhouseError
from stillhouse.evaluation.findings import Arm, Context
from stillhouse.evaluation.parsing import bracket_f1_of
from stillhouse.evaluation.task_kinds import BracketF1
from stillhouse.methods.multi_kinds import TreeDistillation
from stillhouse.methods.roles import Roles
from stillhouse.networks.task_kinds import SpanParser
from stillhouse.objectives.trees import average_tree, best_tree, bracket_f1, negative_log_likelihood
from stillhouse.sources.made_kinds import Grammar, Parser
from stillhouse.sources.trees import RULES, parse
from stillhouse.views.field import FieldView
from stillhouse.views.kinds import Field
from stillhouse.views.model import Model

SIZE = 6


@cache
def every_tree(i: int, j: int) -> tuple[frozenset[tuple[int, int]], ...]:
    """All binary trees over the words i to j, by recursion on the split."""
    if i == j:
        return (frozenset(),)
    return tuple(
        frozenset({(i, j)}) | left | right
        for k in range(i, j)
        for left, right in itertools.product(every_tree(i, k), every_tree(k + 1, j))
    )


def chart(spans: frozenset[tuple[int, int]]) -> torch.Tensor:
    tree = torch.zeros(SIZE, SIZE)
    for i, j in spans:
        tree[i, j] = 1
    return tree


def f1(one: frozenset, other: frozenset) -> float:
    return 2 * len(one & other) / (len(one) + len(other))


def test_there_are_as_many_trees_as_catalan_says() -> None:
    assert [len(every_tree(0, n)) for n in range(6)] == [1, 1, 2, 5, 14, 42]


@pytest.mark.parametrize("length", [2, 4, 6])
def test_average_has_the_highest_mean_f1_of_all_trees(length: int) -> None:
    rng = np.random.default_rng(length)
    candidates = every_tree(0, length - 1)
    for _ in range(10):
        given = [candidates[rng.integers(len(candidates))] for _ in range(5)]
        trees = torch.stack([chart(spans) for spans in given])[None]
        found = average_tree(trees, torch.tensor([length]))[0]
        spans = frozenset((int(i), int(j)) for i, j in found.nonzero())
        assert spans in candidates
        best = max(sum(f1(tree, one) for one in given) for tree in candidates)
        assert sum(f1(spans, one) for one in given) == pytest.approx(best)


def test_likelihood_is_that_of_all_trees() -> None:
    scores = torch.randn(2, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for row, length in ((0, 6), (1, 4)):
        candidates = every_tree(0, length - 1)
        totals = torch.stack([(scores[row] * chart(spans)).sum() for spans in candidates])
        for number in (0, len(candidates) - 1):
            tree = torch.stack([chart(candidates[number])] * 2)
            found = negative_log_likelihood(scores, tree, torch.tensor([length, length]))[row]
            torch.testing.assert_close(found, totals.logsumexp(0) - totals[number])
        best = best_tree(scores, torch.tensor([length, length]))[row]
        assert torch.equal(best.float(), chart(candidates[int(totals.argmax())]))


def test_gradient_of_the_likelihood() -> None:
    scores = torch.randn(1, 4, 4, dtype=torch.float64, requires_grad=True)
    tree = chart(every_tree(0, 3)[2])[None, :4, :4].double()
    assert torch.autograd.gradcheck(lambda s: negative_log_likelihood(s, tree, torch.tensor([4])), (scores,))


def test_the_whole_sentence_counts_for_nothing() -> None:
    one, other = every_tree(0, 3)[0], every_tree(0, 3)[-1]
    lengths = torch.tensor([4])
    whole = frozenset({(0, 3)})
    found = bracket_f1(chart(one)[None], chart(other)[None], lengths)
    assert float(found) == pytest.approx(f1(one - whole, other - whole))
    assert float(bracket_f1(chart(one)[None], chart(one)[None], lengths)) == 1
    two = chart(frozenset({(0, 1)}))[None]
    assert float(bracket_f1(two, two, torch.tensor([2]))) == 1


def test_parsers_err_by_their_habit_and_as_often_as_told() -> None:
    rng = np.random.default_rng(0)
    true = sorted(every_tree(0, 5)[7])
    assert set(parse(6, true, 0.0, "any", rng)) == set(true)
    assert set(parse(6, true, 1.0, "right", rng)) == {(i, 5) for i in range(5)}
    assert set(parse(6, true, 1.0, "left", rng)) == {(0, j) for j in range(1, 6)}
    for habit in ("left", "right", "any"):
        assert frozenset(parse(6, true, 0.5, habit, rng)) in every_tree(0, 5)
    kept = np.mean([frozenset(parse(3, [(0, 1), (0, 2)], 0.3, "right", rng)) == {(0, 1), (0, 2)} for _ in range(4000)])
    assert kept == pytest.approx(0.7, abs=0.03)


KIND = Grammar(parsers=[Parser(), Parser(error=0.0)], train=40, validation=10, test=20, longest=SIZE)


def test_sentences_are_distinct_and_their_trees_binary() -> None:
    assert all(len(rule) == 2 for rules in RULES.values() for rule in rules)
    data = KIND.build()
    splits = (data.train, data.validation, data.test)
    ids = [split.fetch(torch.arange(len(split)), None)["input_ids"].tolist() for split in splits]
    rows = [tuple(words) for split in ids for words in split]
    assert len(set(rows)) == len(rows) == 70
    batch = data.train.fetch(torch.arange(40), None)
    for length, tree, parsed in zip(batch["lengths"], batch["tree"], batch["parsed"], strict=True):
        spans = frozenset((int(i), int(j)) for i, j in tree.nonzero())
        assert spans in every_tree(0, int(length) - 1)
        assert torch.equal(parsed[1], tree)  # the parser without errors
    assert KIND.build().train.fingerprint == data.train.fingerprint


def roles() -> Roles:
    data: Data = KIND.build()
    torch.manual_seed(0)
    student = Model(SpanParser(width=8).build(data.facts), FieldView(Field(field="input_ids", truth="tree")))
    return Roles(student, None, data.facts, data.train.fetch(torch.arange(4), None), source=data.train)


def test_what_is_learnt_is_the_average_every_tree_or_one() -> None:
    given = roles()
    batch = given.example
    scores = given.student.signals(batch)["logits"].double()

    def nll(tree: torch.Tensor) -> torch.Tensor:
        return negative_log_likelihood(scores, tree, batch["lengths"]).float()

    expected = {
        "average": nll(average_tree(batch["parsed"], batch["lengths"])),
        "union": (nll(batch["parsed"][:, 0]) + nll(batch["parsed"][:, 1])) / 2,
        1: nll(batch["tree"]),
    }
    for of, values in expected.items():
        (loss,) = TreeDistillation(of=of).build(given).update_student(batch, torch.Generator()).values()
        torch.testing.assert_close(loss.values, values)
    with pytest.raises(StillhouseError, match="no parser 2"):
        TreeDistillation(of=2).build(given)


def test_the_metric_names_the_average_and_the_best_parser() -> None:
    data = KIND.build()
    context = Context(data, data.test, {}, 0, "cpu", batch_size=7)
    found = bracket_f1_of(BracketF1(), Arm("student", roles().student), context).metrics
    assert found["best_parser_f1"] == 1
    assert 0 <= found["f1"] <= 1
    assert found["average_f1"] >= 0.5
