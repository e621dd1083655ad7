"""Recipes are data: whatever the text, it is read or refused, and nothing else happens."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.catalog.shipped import recipes
from stillhouse.errors import StillhouseError
from stillhouse.recipe.plan import planned
from stillhouse.recipe.problems import RecipeError
from stillhouse.recipe.schema import Recipe
from stillhouse.recipe.text import dump, load, python_program

MUTANTS = 1000
CANARY = "canary-of-the-fuzz-test"
DEEDS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.mkdir", "os.remove", "os.rename", "os.symlink")
DEEDS += ("os.chmod", "os.putenv", "subprocess.Popen", "pickle.find_class", "socket.", "shutil.", "ctypes.", "urllib.")

_done: list[str] = []
_watching = False


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    written = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if written or event.startswith(DEEDS):
        _done.append(f"{event} {arguments!r}")


sys.addaudithook(_audit)  # cannot be removed; it looks away unless watching


@contextmanager
def watched() -> Iterator[None]:
    """Nothing inside may write, spawn, connect or unpickle."""
    global _watching
    _done.clear()
    _watching = True
    try:
        yield
    finally:
        _watching = False
    assert not _done, _done


def outcome(source: Any, overrides: tuple[str, ...] = ()) -> str:
    """ "read" or "refused"; anything else fails the test."""
    try:
        with watched():
            recipe = load(source, overrides)
            text = dump(recipe)
            again = load(text)
            program = python_program(recipe)
    except StillhouseError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert len(said) < 20_000
        return "refused"
    assert isinstance(recipe, Recipe)
    assert again == recipe, text
    compile(program, "program", "exec")
    try:
        planned(recipe)
    except StillhouseError:
        return "refused"
    return "read"


HOSTILE = [
    f"!!python/object/apply:os.system ['touch {CANARY}']",
    f"!!python/object/new:os.system ['touch {CANARY}']",
    "!!python/object/apply:subprocess.check_output [[touch, canary-of-the-fuzz-test]]",
    f'!!python/object/apply:builtins.eval [\'open("{CANARY}", "w")\']',
    "!!python/name:os.system",
    "!!python/module:os",
    "!!binary gASVHAAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjARleGl0lIWUUpQu",
    "!!timestamp 2024-01-01",
    "!import_call {key: os.system}",
    "../../../../x",
    f"'; touch {CANARY}; '",
    f"$(touch {CANARY})",
    f"{{{{''.__class__.__mro__[1].__subclasses__()}}}} {CANARY}",
    '"\\ud800"',
    '"\\0"',
    "[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]",
    "{? [a] : b}",
    "&a [*a]",
    "*nowhere",
    "{<<: [1, 2]}",
    "1e400",
    "-.inf",
    ".nan",
    "9" * 400,
    "0x" + "f" * 39,
    "''",
    "null",
    "true",
    "[]",
    "{}",
    "-1",
    "0",
    "1e15",
    "123456789012345678901234567890",
    "[accuracy, {kind: accuracy}]",
    "{kind: match}",
    "{kind: [kl]}",
    "{by: kl, kind: kl}",
    "__class__",
    "{__class__: os, __init__: {}}",
    "k" * 600,
    "%YAML 9.9",
    "---",
    "\t",
]


def mutated(text: str, dice: random.Random) -> str:
    """The text with one to three things wrong with it."""
    for _ in range(dice.choice([1, 1, 2, 3])):
        text = dice.choice([_value, _key, _line, _character, _span, _structure, _structure])(text, dice)
    return text


def _value(text: str, dice: random.Random) -> str:
    """Another value behind some colon."""
    parts = text.split(": ")
    at = dice.randrange(1, len(parts)) if len(parts) > 1 else 0
    rest = parts[at][parts[at].find("\n") :] if "\n" in parts[at] else dice.choice(["", "}", "\n"])
    parts[at] = dice.choice(HOSTILE) + rest
    return ": ".join(parts)


def _key(text: str, dice: random.Random) -> str:
    """A misspelt, foreign or repeated key."""
    words = [
        "kind",
        "by",
        "train",
        "name",
        "terms",
        "weight",
        "epochs",
        "network",
        "<<",
        "__proto__",
        "a" * 300,
        "1",
        "?",
    ]
    return text.replace(
        dice.choice(words), dice.choice([*words, "&x kind", "!t by", '"train'])[:400], dice.choice([1, 2, 99])
    )


def _line(text: str, dice: random.Random) -> str:
    lines = text.split("\n")
    at, other = dice.randrange(len(lines)), dice.randrange(len(lines))
    hostile = (
        " " * dice.choice([0, 2, 4]) + dice.choice(["x: ", "- ", "name: ", "data: ", "", "? "]) + dice.choice(HOSTILE)
    )
    lines[at] = dice.choice([lines[other], "", lines[at] + "\n" + lines[at], hostile, "  " + lines[at]])
    return "\n".join(lines)


def _character(text: str, dice: random.Random) -> str:
    at = dice.randrange(len(text) + 1)
    return (
        text[:at] + dice.choice("{}[]:,#&*!|>'\"%@`\t\n\0\x85\u2028\ufeff\ud800é-?<") + text[at + dice.randint(0, 1) :]
    )


def _span(text: str, dice: random.Random) -> str:
    start = dice.randrange(len(text) + 1)
    end = min(len(text), start + dice.randint(1, 80))
    return text[:start] + text[start:end] * dice.choice([0, 2]) + text[end:]


def _structure(text: str, dice: random.Random) -> str:
    """Two subtrees exchanged, or one put inside another, where the text is still YAML."""
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, AttributeError):  # the last: PyYAML on !!timestamp before what is none
        return text
    places = list(_holders(data))
    if len(places) < 2:
        return text
    (one, here), (two, there) = dice.sample(places, 2)
    value = two[there]
    two[there] = dice.choice([one[here], [one[here]], {"kind": one[here]}, str(one[here])])
    if dice.random() < 0.5:
        one[here] = value
    try:
        return yaml.safe_dump(data, sort_keys=False)
    except (RecursionError, ValueError):
        return text


def _holders(data: Any, depth: int = 12) -> Iterator[tuple[Any, Any]]:
    items = list(data.items()) if isinstance(data, dict) else list(enumerate(data)) if isinstance(data, list) else []
    for key, item in items if depth else []:
        yield data, key
        yield from _holders(item, depth - 1)


def test_mutated_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    texts = [recipe.path.read_text(encoding="utf-8") for recipe in recipes().values()]
    dice = random.Random(20)
    count = {"read": 0, "refused": 0}
    for _ in range(MUTANTS):
        text = mutated(dice.choice(texts), dice)
        try:
            count[outcome(text if "\n" in text else text + "\n")] += 1
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}\n--- this recipe did it:\n{text}") from error
    assert list(tmp_path.iterdir()) == []
    assert count["read"] > 30, count
    assert count["refused"] > 500, count


def test_the_watch_sees_deeds(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="open"), watched():
        (tmp_path / "x").write_text("")
    with pytest.raises(AssertionError, match=r"os\.mkdir"), watched():
        (tmp_path / "y").mkdir()


@pytest.mark.parametrize("hostile", [text for text in HOSTILE if text.startswith(("!", "&", "*"))])
@pytest.mark.parametrize(
    "place", ["name: {}\n", "name: x\ndata: {}\n", "{}\n", "- {}\n", "? {}\n: 1\n", "a: {{<<: {}}}\n"]
)
def test_tags_and_dangling_aliases_are_refused_anywhere(hostile: str, place: str) -> None:
    with watched(), pytest.raises(RecipeError) as caught:
        load(place.format(hostile))
    assert caught.value.problems[0].line


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/x", "a/b", "..", "a\\b", "x\n", "con:", "Ünter", "a" * 65, "", "-rf", "~"]
)
def test_a_name_is_no_path(name: str) -> None:
    with pytest.raises(RecipeError, match="name: must match the pattern"):
        load("kd-digits", [f"name={yaml.safe_dump(name, default_style=chr(34)).strip()}"])
    with pytest.raises(RecipeError):
        load("kd-digits", [f"stages=[{{name: {yaml.safe_dump(name, default_style=chr(34)).strip()}}}]"])


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(HOSTILE)
words = st.sampled_from(
    [*Recipe.model_fields, "kind", "by", "network", "epochs", "steps", "weight", "terms", "<<", "0"]
)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
fuzzed = settings(max_examples=150, deadline=None, derandomize=True, database=None)


@fuzzed
@given(st.dictionaries(words, trees, max_size=6))
def test_any_tree(tree: dict[str, Any]) -> None:
    outcome(tree)
    outcome(load("kd-digits").model_dump() | tree)


@fuzzed
@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    outcome(text + "\n")


@fuzzed
@given(
    st.lists(words | st.sampled_from(["0", "1", "-1", "99", "", "optimizer", "lr"]), min_size=1, max_size=4),
    st.text(max_size=12) | st.sampled_from(HOSTILE),
)
def test_any_override(path: list[str], value: str) -> None:
    outcome("kd-digits", (f"{'.'.join(path)}={value}",))
