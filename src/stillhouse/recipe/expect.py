"""What a proof expects: comparisons between arms' metrics, parsed and judged; nothing is ever eval'ed.

    expectation = sum ("<" | "<=" | ">" | ">=") sum ["by" number "se"]
    sum         = product {("+" | "-") product}
    product     = signed {("*" | "/") signed}
    signed      = "-" signed | number | arm "." metric | "(" sum ")"

Each side is computed for each seed and averaged over the seeds. With `by 2 se` the mean difference of
the sides must exceed two standard errors of the per-seed differences (paired, since the arms of a seed
share data and initialisation): se = std(ddof=1) / sqrt(seeds).

Imports no torch.
"""

from __future__ import annotations

import math
import operator
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from stillhouse.catalog.evidence import Arms, Finding
from stillhouse.errors import StillhouseError, nearest

_LONGEST = 500
_DEEPEST = 32
_LARGEST = 1e100
_TOKEN = re.compile(
    r"(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.])"
    r"|(?P<word>[A-Za-z_]\w*(?:\.\w+)*)"
    r"|(?P<sign><=|>=|[<>+\-*/()])",
    re.ASCII,
)
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_COMBINE: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


class _Unmeasured(Exception):
    """A seed gives no number for a side; the message says why."""


@dataclass(frozen=True, slots=True)
class Number:
    value: float

    def at(self, arms: Arms) -> float:
        return self.value


@dataclass(frozen=True, slots=True)
class Name:
    arm: str
    metric: str

    def at(self, arms: Arms) -> float:
        """The metric's value in these arms. Raises _Unmeasured where there is none."""
        if self.arm not in arms:
            raise _Unmeasured(f"no arm is named {self.arm!r}; {nearest(self.arm, arms)}")
        metrics = arms[self.arm]
        if self.metric not in metrics:
            raise _Unmeasured(f"{self.arm} has no metric {self.metric!r}; {nearest(self.metric, metrics)}")
        value = metrics[self.metric]
        if value is None or not abs(value) <= _LARGEST:
            raise _Unmeasured(f"{self.arm}.{self.metric} is {'missing' if value is None else value}")
        return float(value)


@dataclass(frozen=True, slots=True)
class Negated:
    inner: Node

    def at(self, arms: Arms) -> float:
        return -self.inner.at(arms)


@dataclass(frozen=True, slots=True)
class Pair:
    sign: str
    left: Node
    right: Node

    def at(self, arms: Arms) -> float:
        left, right = self.left.at(arms), self.right.at(arms)
        if self.sign == "/" and right == 0:
            raise _Unmeasured("a division by zero")
        value = _COMBINE[self.sign](left, right)
        if not abs(value) <= _LARGEST:
            raise _Unmeasured(f"{left:g} {self.sign} {right:g} is beyond {_LARGEST:g}")
        return value


Node = Number | Name | Negated | Pair


@dataclass(frozen=True, slots=True)
class Expectation:
    """One parsed comparison."""

    text: str
    left: Node
    sign: str
    right: Node
    by: float | None = None
    """How many standard errors the difference must exceed; None compares the means."""

    @property
    def names(self) -> list[Name]:
        """Every `arm.metric` it mentions, in order, each once."""
        return list(dict.fromkeys([*_names(self.left), *_names(self.right)]))

    def judge(self, per_seed: Sequence[Arms]) -> Finding:
        """Whether it holds for these seeds. A number that is missing or not finite makes it not hold."""
        if not per_seed:
            raise StillhouseError(f"{self.text!r} cannot be judged: there are no seeds")
        sides: list[tuple[float, float]] = []
        for position, arms in enumerate(per_seed, start=1):
            try:
                sides.append((self.left.at(arms), self.right.at(arms)))
            except _Unmeasured as reason:
                where = f" (seed {position} of {len(per_seed)})" if len(per_seed) > 1 else ""
                return Finding(self.text, False, None, None, None, None, f"{reason}{where}")
        return self._weigh([left for left, _ in sides], [right for _, right in sides])

    def _weigh(self, lefts: list[float], rights: list[float]) -> Finding:
        towards = 1.0 if self.sign in (">", ">=") else -1.0
        left, right = statistics.fmean(lefts), statistics.fmean(rights)
        differences = [towards * (a - b) for a, b in zip(lefts, rights, strict=True)]
        margin = statistics.fmean(differences)
        se = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else None
        why = f"{left:.6g} {self.sign} {right:.6g}"
        if self.by is None:
            holds = _COMPARE[self.sign](left, right)
        elif se is None:
            return Finding(self.text, False, left, right, margin, None, "a standard error needs two seeds or more")
        else:
            strict = self.sign in ("<", ">")
            holds = margin > self.by * se if strict else margin >= self.by * se
            why += f", a margin of {margin:.3g} against {self.by:g} x {se:.3g}"
        return Finding(self.text, holds, left, right, margin, se, why if holds else f"not {why}")


def parse(text: str) -> Expectation:
    """The expectation a text stands for.

    Raises: StillhouseError with the position and what was expected there.

    >>> parse("student.accuracy > control.accuracy + 0.01 by 2 se").by
    2.0
    """
    return _Parser(text).expectation()


def check_names(expectation: Expectation, arms: Iterable[str], metrics: Iterable[str]) -> None:
    """Raise StillhouseError where it names an arm or a metric that is not among these; no metrics: any goes."""
    arms, metrics = list(arms), list(metrics)
    for name in expectation.names:
        if name.arm not in arms:
            problem = f"the recipe has no arm named {name.arm!r}; {nearest(name.arm, arms)}"
        elif metrics and name.metric not in metrics:
            problem = f"nothing under 'evaluate' gives {name.metric!r}; {nearest(name.metric, metrics)}"
        else:
            continue
        raise StillhouseError(f"in the expectation {expectation.text!r}: {problem}")


def _names(node: Node) -> list[Name]:
    match node:
        case Name():
            return [node]
        case Negated(inner):
            return _names(inner)
        case Pair(_, left, right):
            return [*_names(left), *_names(right)]
        case Number():
            return []


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    """"number", "word", "sign" or "end"."""
    text: str
    at: int


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        match = _TOKEN.match(text, at)
        if match is None:
            raise _wrong(
                text, at, f"{text[at : at + 12]!r} is not a number, an arm.metric or one of < <= > >= + - * / ( )"
            )
        found.append(_Token(str(match.lastgroup), match.group(), at))
        at = match.end()
    return [*found, _Token("end", "", len(text))]


def _wrong(text: str, at: int, what: str) -> StillhouseError:
    return StillhouseError(f"in the expectation {text!r}, at character {at + 1}: {what}")


class _Parser:
    """Recursive descent over the grammar above, at most `_DEEPEST` signs and parentheses deep."""

    def __init__(self, text: str) -> None:
        if len(text) > _LONGEST:
            raise StillhouseError(
                f"the expectation {text[:40]!r}... has {len(text)} characters; at most {_LONGEST} are allowed"
            )
        self.text, self.tokens, self.next, self.depth = text, _tokens(text), 0, 0

    @property
    def token(self) -> _Token:
        return self.tokens[self.next]

    def wrong(self, expected: str) -> StillhouseError:
        found = repr(self.token.text) if self.token.text else "the end"
        return _wrong(self.text, self.token.at, f"expected {expected}, found {found}")

    def take(self, kind: str, words: Iterable[str] = ()) -> str | None:
        """Step over the next token and return it if it is of that kind (and one of the words); else None."""
        token = self.token
        if token.kind != kind or (words and token.text not in words):
            return None
        self.next += 1
        return token.text

    def expectation(self) -> Expectation:
        left = self.sum()
        sign = self.take("sign", _COMPARE)
        if sign is None:
            raise self.wrong("one of < <= > >=")
        right = self.sum()
        by = self.suffix()
        if self.token.kind != "end":
            raise self.wrong("an operator, 'by NUMBER se' or the end")
        return Expectation(self.text, left, sign, right, by)

    def suffix(self) -> float | None:
        if not self.take("word", ("by",)):
            return None
        count = self.number()
        if count is None:
            raise self.wrong("how many standard errors, as in 'by 2 se'")
        if not self.take("word", ("se",)):
            raise self.wrong("'se' (standard errors), as in 'by 2 se'")
        return count

    def sum(self) -> Node:
        node = self.product()
        while sign := self.take("sign", ("+", "-")):
            node = Pair(sign, node, self.product())
        return node

    def product(self) -> Node:
        node = self.signed()
        while sign := self.take("sign", ("*", "/")):
            node = Pair(sign, node, self.signed())
        return node

    def signed(self) -> Node:
        if self.token.text in ("-", "("):
            return self.inner()
        value = self.number()
        return self.name() if value is None else Number(value)

    def inner(self) -> Node:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise _wrong(self.text, self.token.at, f"more than {_DEEPEST} signs and parentheses inside each other")
        if self.take("sign", ("-",)):
            node: Node = Negated(self.signed())
        else:
            self.take("sign", ("(",))
            node = self.sum()
            if not self.take("sign", (")",)):
                raise self.wrong("')'")
        self.depth -= 1
        return node

    def number(self) -> float | None:
        at = self.token.at
        text = self.take("number")
        if text is not None and float(text) > _LARGEST:
            raise _wrong(self.text, at, f"{text} is too large; numbers go up to {_LARGEST:g}")
        return None if text is None else float(text)

    def name(self) -> Name:
        if self.token.kind == "word" and "." not in self.token.text:
            raise self.wrong("an arm and its metric, as in student.accuracy")
        word = self.take("word")
        if word is None:
            raise self.wrong("a number, an arm.metric or '('")
        arm, _, metric = word.partition(".")
        return Name(arm, metric)
