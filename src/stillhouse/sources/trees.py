"""Sentences of a small grammar with their trees, and several parsers that each err in a way of their own.

A binary tree of a sentence of T words is a chart [T, T] of zeros and ones: [i, j] is one where the words i to j,
both counted, form a constituent. Single words are left out; the whole sentence is in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from stillhouse.engine.contracts import Batch, Data, Facts
from stillhouse.sources.made_kinds import Grammar

SEED = 0
RULES: dict[str, list[tuple[str, ...]]] = {
    "S": [("NP", "VP")],
    "NP": [("D", "N"), ("D", "NB"), ("NP", "PP")],
    "NB": [("A", "N"), ("A", "NB")],
    "PP": [("P", "NP")],
    "VP": [("V", "NP"), ("VP", "PP"), ("V", "PP")],
}
WORDS = {"D": 3, "N": 12, "A": 6, "P": 4, "V": 8}
"""How many words there are of each class; every fourth noun can be a verb as well."""
PAD = 0

Span = tuple[int, int]


class Sentences:
    """A `Source` of sentences with their true trees and several parsers'.

    `input_ids` [B, T], 0 behind the end; `lengths` [B]; `tree` [B, T, T]; `parsed` [B, K, T, T], a tree a parser.
    """

    def __init__(self, words: Tensor, lengths: Tensor, tree: Tensor, parsed: Tensor) -> None:
        self.fields = {"input_ids": words, "lengths": lengths, "tree": tree, "parsed": parsed}
        self.fingerprint = hashlib.sha256(b"".join(f.numpy().tobytes() for f in self.fields.values())).hexdigest()

    def __len__(self) -> int:
        return len(self.fields["lengths"])

    def fetch(self, indices: Tensor, rng: torch.Generator | None) -> Batch:
        """Trees as floats of zeros and ones."""
        del rng
        chosen = {name: value.index_select(0, indices) for name, value in self.fields.items()}
        return {"index": indices, **chosen, "tree": chosen["tree"].float(), "parsed": chosen["parsed"].float()}


def grammar(kind: Grammar) -> Data:
    """Distinct sentences of 4 to `kind.longest` words, drawn once; no sentence is in two splits."""
    rng = np.random.default_rng(SEED)
    total = kind.train + kind.validation + kind.test
    drawn: dict[tuple[int, ...], list[Span]] = {}
    while len(drawn) < total:
        words, spans = derive("S", rng, kind.longest)
        if 4 <= len(words) <= kind.longest:
            drawn.setdefault(tuple(words), spans)
    sentences = list(drawn.items())
    ends = (0, kind.train, kind.train + kind.validation, total)
    train, validation, test = (_source(sentences[start:end], kind, rng) for start, end in pairwise(ends))
    facts = Facts("parsing", (kind.longest,), 1 + sum(WORDS.values()), licence="made up")
    return Data(train, validation, test, facts)


def derive(symbol: str, rng: np.random.Generator, longest: int, depth: int = 0) -> tuple[list[int], list[Span]]:
    """Words and constituents below a symbol, the rules drawn evenly; deep ones take their first rule."""
    if symbol not in RULES:
        return [_word(symbol, rng)], []
    rules = RULES[symbol]
    chosen = rules[0] if depth > longest // 2 else rules[rng.integers(len(rules))]
    words, spans = [], []
    for child in chosen:
        below, inside = derive(child, rng, longest, depth + 1)
        spans += [(i + len(words), j + len(words)) for i, j in inside]
        words += below
    return words, [*spans, (0, len(words) - 1)]


def parse(length: int, true: Sequence[Span], error: float, habit: str, rng: np.random.Generator) -> list[Span]:
    """The tree of a parser that splits each constituent where it truly splits, but for a share `error` of them, and
    for spans that are no constituents: those it splits by its habit, `left`, `right` or `any` (at random)."""
    known, found, waiting = set(true), [], [(0, length - 1)]
    while waiting:
        i, j = waiting.pop()
        if i == j:
            continue
        found.append((i, j))
        right = [k for k in range(i, j) if _is(known, i, k) and _is(known, k + 1, j)]
        if right and (i, j) in known and rng.random() >= error:
            k = right[0]
        else:
            k = {"right": i, "left": j - 1, "any": int(rng.integers(i, j))}[habit]
        waiting += [(i, k), (k + 1, j)]
    return found


def _is(known: set[Span], i: int, j: int) -> bool:
    return i == j or (i, j) in known


def _word(symbol: str, rng: np.random.Generator) -> int:
    first = 1 + sum(count for name, count in WORDS.items() if name < symbol)
    nouns = 1 + sum(count for name, count in WORDS.items() if name < "N")
    if symbol == "V" and rng.random() < 0.25:
        return nouns + 4 * int(rng.integers(WORDS["N"] // 4))
    return first + int(rng.integers(WORDS[symbol]))


def _source(sentences: list[tuple[tuple[int, ...], list[Span]]], kind: Grammar, rng: np.random.Generator) -> Sentences:
    count, longest = len(sentences), kind.longest
    words = torch.full((count, longest), PAD)
    tree = torch.zeros(count, longest, longest, dtype=torch.bool)
    parsed = torch.zeros(count, len(kind.parsers), longest, longest, dtype=torch.bool)
    for row, (sentence, spans) in enumerate(sentences):
        words[row, : len(sentence)] = torch.tensor(sentence)
        for i, j in spans:
            tree[row, i, j] = True
        for number, parser in enumerate(kind.parsers):
            for i, j in parse(len(sentence), spans, parser.error, parser.habit, rng):
                parsed[row, number, i, j] = True
    return Sentences(words, torch.tensor([len(s) for s, _ in sentences]), tree, parsed)
