"""YAML as recipes use it: plain data and the line of every key, from text that nobody vouches for.

A subset of YAML 1.2, built from the parser's events: mappings, lists, text, numbers, true, false and
null, with anchors, aliases and merge keys. Tags are refused, all of them, and so is what can only be
an accident or an attack: duplicate keys, several documents, long keys, deep nesting, aliases that
expand to more values than a recipe can have. Sizes are counted before anything is expanded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from stillhouse.recipe.problems import Path, Place, Problem, RecipeError, shorten

MAX_BYTES = 1_000_000
MAX_KEY = 256
MAX_DEPTH = 50
MAX_VALUES = 20_000
MAX_DIGITS = 40

_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Its events alone are used. The one in C is ten times faster, and not in every build of PyYAML."""

_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_INTEGER = re.compile(r"[-+]?[0-9]+", re.ASCII)
_BASED = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+", re.ASCII)
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)


def plain_scalar(text: str) -> str | int | float | bool | None:
    """What unquoted text stands for in YAML 1.2's core schema: `2e-3` is a number; `on` and `yes` are text.

    A power of ten that is whole, such as `1e4`, is a whole number.
    """
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if len(text) > MAX_DIGITS:
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    if _NUMBER.fullmatch(text):
        number = float(text)
        return int(number) if "." not in text and number.is_integer() and abs(number) < 1e15 else number
    return text


@dataclass(frozen=True)
class Document:
    """Plain data, and where each of its values was written."""

    data: Any
    file: str
    places: dict[Path, Place] = field(default_factory=dict)

    def place(self, path: Path) -> Place:
        """Where the value at this path was written, or the nearest value around it."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place(self.file))


@dataclass(slots=True)
class _Node:
    """A value and its line. `size` and `depth` count what it expands to; they are known once it is closed."""

    line: int
    value: Any
    text: str = ""
    size: int = 1
    depth: int = 1
    open: bool = True
    key: _Key | None = None
    """Of a mapping still being read: the key whose value comes next."""


@dataclass(frozen=True, slots=True)
class _Key:
    text: str
    line: int
    merges: bool


def parse(text: str, file: str) -> Document:
    """Read one YAML document.

    Raises:
        RecipeError: the text is not YAML, or is YAML that a recipe may not use.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise _refused(file, line, "half of a surrogate pair, which is not a character") from None
    if size > MAX_BYTES:
        raise _refused(file, 1, f"larger than {MAX_BYTES:,} bytes: no recipe is that long")
    try:
        root = _Composer(file).compose(text)
    except yaml.YAMLError as error:
        raise _not_yaml(error, file) from None
    places: dict[Path, Place] = {}
    return Document(_expand(root, (), file, places), file, places)


class _Composer:
    """Builds the tree of nodes from the parser's events, without recursion and without expanding aliases."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.anchors: dict[str, _Node] = {}
        self.stack: list[_Node] = []
        self.root: _Node | None = None
        self.values = 0

    def compose(self, text: str) -> _Node:
        for event in yaml.parse(text, Loader=_PARSER):
            line = event.start_mark.line + 1
            match event:
                case yaml.AliasEvent():
                    self._add(self._alias(event.anchor, line), line)
                case yaml.ScalarEvent() | yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                    self._start(event, line)
                case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                    self._close(self.stack.pop())
                case yaml.DocumentStartEvent() if self.root is not None:
                    raise _refused(self.file, line, "a second document begins here; a recipe is one document")
        return self.root or _Node(1, None)

    def _start(self, event: Any, line: int) -> None:
        if event.tag is not None:
            raise _refused(self.file, line, f"the tag {shorten(event.tag)!r}; recipes are plain data, remove the tag")
        self.values += 1
        if self.values > MAX_VALUES:
            raise _refused(self.file, line, f"more than {MAX_VALUES:,} values: no recipe is that long")
        if isinstance(event, yaml.ScalarEvent):
            node = _Node(line, self._scalar(event, line), event.value, open=False)
        else:
            node = _Node(line, [] if isinstance(event, yaml.SequenceStartEvent) else {})
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        self._add(node, line, plain=isinstance(event, yaml.ScalarEvent) and event.implicit[0])
        if node.open:
            self.stack.append(node)
            if len(self.stack) > MAX_DEPTH:
                raise _refused(self.file, line, f"nested deeper than {MAX_DEPTH} levels")

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> Any:
        try:
            event.value.encode()
        except UnicodeEncodeError:
            raise _refused(self.file, line, "half of a surrogate pair, which is not a character") from None
        return plain_scalar(event.value) if event.implicit[0] else event.value

    def _alias(self, name: str, line: int) -> _Node:
        node = self.anchors.get(name)
        if node is None:
            raise _refused(self.file, line, f"the alias *{shorten(name)} has no anchor &{shorten(name)} before it")
        if node.open:
            raise _refused(self.file, line, f"the alias *{shorten(name)} stands inside its own anchor")
        return node

    def _add(self, node: _Node, line: int, plain: bool = False) -> None:
        """Hang a node into the collection being read: as a key, as a key's value, or as an item."""
        if not self.stack:
            self.root = node
            return
        parent = self.stack[-1]
        if isinstance(parent.value, list):
            parent.value.append((None, node))
        elif parent.key is None:
            parent.key = self._key(node, line, plain)
        else:
            self._put(parent, parent.key, node)
            parent.key = None

    def _key(self, node: _Node, line: int, plain: bool) -> _Key:
        if isinstance(node.value, dict | list):
            raise _refused(self.file, line, "a key is a mapping or a list; keys are plain words")
        if len(node.text) > MAX_KEY:
            raise _refused(self.file, line, f"the key {shorten(node.text, 40)!r} is longer than {MAX_KEY} characters")
        return _Key(node.text, line, merges=plain and node.text == "<<")

    def _put(self, parent: _Node, key: _Key, node: _Node) -> None:
        if key.text in parent.value:
            before = parent.value[key.text][0].line
            raise _refused(
                self.file, key.line, f"the key {shorten(key.text)!r} is given twice, before in line {before}"
            )
        parent.value[key.text] = (key, node)

    def _close(self, node: _Node) -> None:
        """Count what a collection expands to, now that all of it is known."""
        children = [child for _, child in (node.value.values() if isinstance(node.value, dict) else node.value)]
        node.open = False
        node.size = 1 + sum(child.size for child in children)
        node.depth = 1 + max((child.depth for child in children), default=0)
        if node.size > MAX_VALUES:
            raise _refused(self.file, node.line, f"its aliases expand to more than {MAX_VALUES:,} values")
        if node.depth > MAX_DEPTH:
            raise _refused(self.file, node.line, f"its aliases nest deeper than {MAX_DEPTH} levels")


def _expand(node: _Node, path: Path, file: str, places: dict[Path, Place]) -> Any:
    """The plain data under a node; notes where each value was written."""
    places.setdefault(path, Place(file, node.line))
    if isinstance(node.value, list):
        return [_expand(child, (*path, at), file, places) for at, (_, child) in enumerate(node.value)]
    if not isinstance(node.value, dict):
        return node.value
    data = {}
    for key, child in _merged(node, file).values():
        places[(*path, key.text)] = Place(file, key.line)
        data[key.text] = _expand(child, (*path, key.text), file, places)
    return data


def _merged(node: _Node, file: str) -> dict[str, tuple[_Key, _Node]]:
    """The entries of a mapping, those of its merge key among them; its own win."""
    entries = dict(node.value)
    merge = next((name for name, (key, _) in entries.items() if key.merges), None)
    if merge is None:
        return entries
    key, source = entries.pop(merge)
    sources = [child for _, child in source.value] if isinstance(source.value, list) else [source]
    inherited: dict[str, tuple[_Key, _Node]] = {}
    for mapping in sources:
        if not isinstance(mapping.value, dict):
            raise _refused(file, key.line, "'<<' takes a mapping, or a list of mappings")
        inherited = _merged(mapping, file) | inherited
    return inherited | entries


def _refused(file: str, line: int, what: str) -> RecipeError:
    return RecipeError([Problem(file, line, "", what)])


def _not_yaml(error: yaml.YAMLError, file: str) -> RecipeError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
    if "could not find expected ':'" in what:
        what = f"no ': ' follows this key, or the key is longer than {MAX_KEY} characters"
    column = f" at column {mark.column + 1}" if mark else ""
    return RecipeError(
        [Problem(file, mark.line + 1 if mark else 1, "", f"not valid YAML{column}: {shorten(what, 160)}")]
    )
