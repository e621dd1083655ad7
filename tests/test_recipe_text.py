"""Recipes as text: what is read, what is refused, where an error points, and the way back to text."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import yaml

from stillhouse.catalog.shipped import recipes
from stillhouse.errors import StillhouseError
from stillhouse.kinds import lookup
from stillhouse.recipe.document import parse, plain_scalar
from stillhouse.recipe.schema import Recipe
from stillhouse.recipe.slots import ROOT, keys_under
from stillhouse.recipe.text import RecipeError, dump, load, python_program, read

SMALL = """\
name: small
data: digits
teacher:
  network: {kind: resnet, depth: 8}
student:
  network: {kind: convnet, width: 8}
method:
  kind: match
  terms:
    - {by: kl, temperature: 4}
    - {by: cross_entropy, signal: labels}
train: {epochs: 2}
"""


def problems(text: str, *overrides: str) -> list[tuple[int | None, str, str]]:
    with pytest.raises(RecipeError) as caught:
        load(text, overrides)
    return [(problem.line, problem.key, problem.message) for problem in caught.value.problems]


def refusal(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse(text, "r.yaml")
    assert str(caught.value).startswith("r.yaml:")
    return str(caught.value)


@pytest.fixture(params=["CSafeLoader", "SafeLoader"])
def either_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML's own parser, and libyaml's where it is there."""
    if not hasattr(yaml, request.param):
        pytest.skip("PyYAML was built without libyaml")
    monkeypatch.setattr("stillhouse.recipe.document._PARSER", getattr(yaml, request.param))


# What is read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-3", 0.002),
        ("2.0e-3", 0.002),
        ("1e4", 10000),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("+3", 3),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        (".inf", math.inf),
        ("1e999", math.inf),
    ],
)
def test_plain_scalars(text: str, value: object) -> None:
    assert plain_scalar(text) == value
    assert type(plain_scalar(text)) is type(value)


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize(
    "text", ["on", "off", "yes", "no", "Y", "1_000", "1:30", "2024-01-01", "0b1", "tRUE", "9" * 50, "٣", "1e", "."]
)
def test_what_looks_special_elsewhere_is_text(text: str) -> None:
    assert plain_scalar(text) == text
    assert parse(f"a: {text}", "r").data == {"a": text}


@pytest.mark.usefixtures("either_parser")
def test_quoted_scalars_are_text() -> None:
    data = parse("""{a: "1", b: 'true', c: "null", d: ""}""", "r").data
    assert data == {"a": "1", "b": "true", "c": "null", "d": ""}


@pytest.mark.usefixtures("either_parser")
def test_anchors_and_merge_keys() -> None:
    text = "base: &b {x: 1, y: 2}\nlist: [*b, *b]\none: {<<: *b, y: 3}\ntwo: {<<: [{x: 9}, *b], z: 0}\nthree: {'<<': 1}"
    data = parse(text, "r").data
    assert data["list"] == [{"x": 1, "y": 2}, {"x": 1, "y": 2}]
    assert data["one"] == {"x": 1, "y": 3}
    assert data["two"] == {"x": 9, "y": 2, "z": 0}
    assert data["three"] == {"<<": 1}


def test_an_aliased_value_is_not_shared() -> None:
    recipe = SMALL.replace("{epochs: 2}", "&t {epochs: 2}").replace("data: digits", "arms: {}\ndata: digits")
    loaded = load(recipe + "stages: [{name: first, train: *t}]\n", ["stages.0.train.epochs=7"])
    assert (loaded.train.epochs, loaded.stages[0].train.epochs) == (2, 7)  # type: ignore[union-attr]


@pytest.mark.usefixtures("either_parser")
def test_every_key_has_its_line() -> None:
    document = parse(SMALL, "r")
    assert document.place(("method", "terms", 1, "signal")).line == 11
    assert document.place(("train", "epochs")).line == 12
    assert document.place(("student", "network", "missing", "deeper")).line == 6


def test_sources_of_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text("\ufeff" + SMALL, encoding="utf-8")
    from_text = load(SMALL)
    assert from_text == load(tmp_path / "small.yaml") == load(str(tmp_path / "small.yaml")) == load(from_text)
    assert from_text == load({**read(SMALL).data, "data": {"kind": "digits"}, "train": from_text.train})


def test_shipped_names_are_the_files_names() -> None:
    assert recipes()
    for name in recipes():
        assert load(name).name == name


@pytest.mark.parametrize("name", ["kd-digit", "", "nowhere.yaml", "a\0b", "x" * 100_000, "/", "..", "~"])
def test_there_is_no_such_recipe(name: str) -> None:
    with pytest.raises(StillhouseError, match=r"recipe|neither"):
        load(name)


def test_a_near_name_is_offered() -> None:
    with pytest.raises(StillhouseError, match="did you mean 'kd-digits'"):
        load("kd-digit")


# What is refused


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system [id]",
        "!!python/name:os.system x",
        "a: !!binary aGk=",
        "a: !!set {b}",
        "a: !!str 3",
        "!!map {a: 1}",
        "- !mine 1",
        "- ! 1",
        "!!int 3: 4",
        "%TAG !e! tag:e,2000:\n---\na: !e!x 1",
        "a: &x !t 1",
    ],
)
def test_tags_are_refused(text: str) -> None:
    assert "tag" in refusal(text)


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize("build", ["[{}]", "{{a: {}, b: {}}}"])
def test_alias_bombs_are_refused_before_they_expand(build: str) -> None:
    many = ", ".join(["*n{0}"] * 9) if build == "[{}]" else None
    lines = ["n0: &n0 [x, x, x, x, x, x, x, x, x]"]
    for at in range(1, 40):
        inside = many.replace("{0}", str(at - 1)) if many else None
        body = f"[{inside}]" if inside else f"{{a: *n{at - 1}, b: *n{at - 1}, c: *n{at - 1}}}"
        lines.append(f"n{at}: &n{at} {body}")
    assert "expand" in refusal("\n".join(lines))


def test_merge_bombs_are_refused() -> None:
    lines = ["n0: &n0 {" + ", ".join(f"k{i}: 1" for i in range(50)) + "}"]
    lines += [f"n{at}: &n{at} {{<<: [{', '.join([f'*n{at - 1}'] * 9)}]}}" for at in range(1, 40)]
    assert "expand" in refusal("\n".join(lines))


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: 1\nb: 2\na: 3", "'a' is given twice, before in line 1"),
        ("a: 1\n---\nb: 2", "second document"),
        ("k" * 300 + ": 1", "longer than 256"),
        ("? " + "k" * 5000 + "\n: 1", "longer than 256"),
        ("k" * 5000 + ": 1", "not valid YAML"),
        ("k" * 10_000_000 + ": 1", "1,000,000 bytes"),
        ("a: " + "é" * 600_000, "1,000,000 bytes"),
        ("[" * 100_000, "nested deeper"),
        ("a: " + "{a: " * 60 + "1" + "}" * 60, "nested deeper"),
        ("\n".join(["n0: &n0 [1]", *(f"n{i}: &n{i} [*n{i - 1}]" for i in range(1, 60))]), "nest deeper"),
        ("[" + "1," * 30_000 + "]", "more than 20,000 values"),
        ("a: *b", "no anchor"),
        ("a: &a [*a]", "inside its own anchor"),
        ("{[1]: 2}", "key is a mapping or a list"),
        ("<<: 3", "takes a mapping"),
        ('a: "\\ud800"', "r.yaml:1:"),
        ("a: 1\nb: \ud800", "r.yaml:2: half of a surrogate pair"),
        ("a: \0", "not valid YAML"),
        ("a: [1", "not valid YAML"),
        ("a: b: c", "not valid YAML at column 5"),
    ],
)
def test_other_refusals(text: str, what: str) -> None:
    said = refusal(text)
    assert what in said
    assert len(said) < 300


def test_depth_and_count_at_their_limits_are_read() -> None:
    assert parse("[" * 49 + "1" + "]" * 49, "r").data
    assert len(parse("[" + "1," * 19_000 + "]", "r").data) == 19_000


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"name: small\nabout: \xff\xfe\n")
    with pytest.raises(RecipeError, match=r"r\.yaml:2: not UTF-8"):
        load(tmp_path / "r.yaml")


@pytest.mark.parametrize("text", ["[1]\n", "just text\n", "3\n", "\n"])
def test_a_recipe_is_a_mapping(text: str) -> None:
    with pytest.raises(RecipeError, match="a recipe is a mapping"):
        load(text)


# Where an error points, and what it says


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "said"),
    [
        ("name: small", "name: ../../x", 1, "name", "must match the pattern"),
        ("name: small", "nam: small", 1, "nam", "unknown key; did you mean 'name'?"),
        ("data: digits", "data: digts", 2, "data", "no data is named 'digts'; did you mean 'digits'?"),
        ("data: digits", "data: [digits]", 2, "data", "expected a data kind"),
        ("data: digits", "data:", 2, "data", "got nothing"),
        ("depth: 8", "dept: 8", 4, "teacher.network.dept", "did you mean 'depth'?"),
        ("depth: 8", "depth: 8.5", 4, "teacher.network.depth", "expected a whole number >= 8, got 8.5"),
        ("depth: 8", "depth: 3", 4, "teacher.network.depth", "greater than or equal to 8, got 3"),
        ("depth: 8", 'depth: "8"', 4, "teacher.network.depth", "got '8'"),
        ("{kind: convnet, width: 8}", "{width: 8}", 6, "student.network", "the key 'kind' is missing: which network?"),
        ("kind: convnet", "kind: covnet", 6, "student.network.kind", "did you mean 'convnet'?"),
        ("kind: convnet", "kind: 3", 6, "student.network.kind", "no network is named 3"),
        ("by: kl", "by: kll", 10, "method.terms.0.by", "did you mean 'kl'?"),
        ("temperature: 4", "tempreture: 4", 10, "method.terms.0.tempreture", "did you mean 'temperature'?"),
        ("temperature: 4", "weight: [1]", 10, "method.terms.0.weight", "expected a number or a mapping"),
        ("temperature: 4", "weight: {start: 1}", 10, "method.terms.0.weight", "the key 'end' is missing: a number"),
        ("temperature: 4", "weight: {start: 1, end: x}", 10, "method.terms.0.weight.end", "expected a number, got 'x'"),
        ("temperature: 4", "temperature: .nan", 10, "method.terms.0.temperature", "finite"),
        ("{epochs: 2}", "{epochs: true}", 12, "train.epochs", "expected a number > 0, got true"),
        ("{epochs: 2}", "{}", 12, "train", "exactly one of 'epochs' and 'steps'"),
        ("{epochs: 2}", "{epochs: 2, schedule: cosin}", 12, "train.schedule", "did you mean 'cosine'?"),
        (
            "{epochs: 2}",
            "{epochs: 2, optimizer: {kind: adam, betas: [1]}}",
            12,
            "train.optimizer.betas",
            "expected a list of 2",
        ),
        ("{epochs: 2}", "{epochs: 2, players: {student: {emma: 1}}}", 12, "train.players.student.emma", "'ema'"),
        ("{epochs: 2}", "{epochs: 2}\ncontrol: yes", 13, "control", "expected true or false or a mapping"),
        ("{epochs: 2}", "{epochs: 2}\ncontrol: {off: x}", 13, "control.off", "did you mean 'of'?"),
        ("{epochs: 2}", "{epochs: 2}\nevaluate: [accurcy]", 13, "evaluate.0", "did you mean 'accuracy'?"),
        ("{epochs: 2}", "{epochs: 2}\narms: {teacher: {}}", 1, "", "arms may not be named teacher"),
        (
            "{epochs: 2}",
            "{epochs: 2}\narms: {a: {method: {kind: match, terms: []}}}",
            13,
            "arms.a.method.terms",
            "at least 1 item, got an empty",
        ),
        ("{epochs: 2}", "{epochs: 2}\nproof: {expect: []}", 13, "proof.expect", "proof=null leaves the proof out"),
        ("{epochs: 2}", "{epochs: 2}\nevaluate: [accuracy]\nproof: {expect: [student.cost > 1]}", 1, "", "proof=null"),
        (
            "{epochs: 2}",
            "{epochs: 2}\nproof: {expect: [student.a > 1], seeds: []}",
            13,
            "proof.seeds",
            "should have at",
        ),
    ],
)
def test_an_error_names_line_key_and_the_nearest_word(old: str, new: str, line: int, key: str, said: str) -> None:
    assert old in SMALL
    found = problems(SMALL.replace(old, new, 1))
    assert any(at == line and where == key and said in what for at, where, what in found), found
    assert len(found) == (2 if new.startswith("nam:") else 1), found


def test_a_missing_key_points_at_what_lacks_it() -> None:
    text = SMALL.replace("  terms:\n    - {by: kl, temperature: 4}\n    - {by: cross_entropy, signal: labels}\n", "")
    assert problems(text) == [(7, "method", problems(text)[0][2])]
    assert problems(text)[0][2].startswith("the key 'terms' is missing: a list, each a term kind")
    assert problems(text.replace("method:\n  kind: match", "method: match"))[0][:2] == (7, "method")


def test_all_errors_come_at_once_in_the_order_of_lines() -> None:
    text = SMALL.replace("by: kl", "by: kll").replace("depth", "dept").replace("epochs: 2", "epoch: 2")
    found = problems(text)
    assert [line for line, _, _ in found] == [4, 10, 12, 12] or [line for line, _, _ in found] == [4, 10, 12]
    with pytest.raises(RecipeError) as caught:
        load(text)
    assert str(caught.value).splitlines()[0] == "recipe:4: teacher.network.dept: unknown key; did you mean 'depth'?"


def test_long_keys_and_values_are_cut_in_messages() -> None:
    text = SMALL + "x" * 250 + ": 1\nseed: '" + "y" * 5000 + "'\n"
    assert all(len(f"{key}{message}") < 700 for _, key, message in problems(text))
    assert max(len(key) for _, key, _ in problems(text)) <= 64


# Overrides


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("train.epochs=5", "train.epochs", 5),
        ("train.optimizer.lr=2e-3", "train.optimizer.lr", 0.002),
        ("method.terms.0.weight=-0.5", "method.terms.0.weight", -0.5),
        ("data.shift=0", "data.shift", 0),
        ("student.network=resnet", "student.network.kind", "resnet"),
        ("train.optimizer={kind: sgd, momentum: 0.5}", "train.optimizer.momentum", 0.5),
        ("evaluate=[accuracy, cost]", "evaluate.1.kind", "cost"),
        ("train.players.student.ema=0.9", "train.players.student.ema", 0.9),
        ("train.clip=", "train.clip", None),
        ("about=a=b", "about", "a=b"),
        ("teacher.view={kind: image, mean: [0.5]}", "teacher.view.mean", (0.5,)),
    ],
)
def test_overrides(override: str, path: str, value: object) -> None:
    found: object = load(SMALL, [override])
    for part in path.split("."):
        if isinstance(found, dict):
            found = found[part]
        else:
            found = found[int(part)] if isinstance(found, list | tuple) else getattr(found, part)
    assert found == value


def test_the_last_override_wins() -> None:
    assert load(SMALL, ["train.epochs=3", "train.epochs=4"]).train.epochs == 4


def test_steps_and_epochs_replace_each_other() -> None:
    train = load(SMALL, ["train.steps=4"]).train
    assert (train.steps, train.epochs) == (4, None)
    back = load(SMALL.replace("epochs: 2", "steps: 2"), ["train.epochs=1"]).train
    assert (back.steps, back.epochs) == (None, 1)
    weights = load("kd-digits", ["teacher.weights.steps=7"]).teacher.weights  # type: ignore[union-attr]
    assert (weights.steps, weights.epochs) == (7, None)  # type: ignore[attr-defined]
    assert "exactly one" in problems(SMALL, "train.steps=4", "train.epochs=4")[0][2]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.stps=4", "override train.stps=4: train.stps: unknown key; did you mean 'train.steps'?"),
        ("lr=0.1", "override lr=0.1: lr: unknown key; did you mean 'train.optimizer.lr'?"),
        ("optimzer.lr=3", "override optimzer.lr=3: optimzer: unknown key; did you mean 'train.optimizer'?"),
        ("method.terms.0.wieght=1", "did you mean 'method.terms.0.weight'?"),
        ("method.terms.1.wieght=1", "did you mean 'method.terms.1.weight'?"),
        ("method.terms.2.weight=1", "is a list of 2; '2' is none of its positions from 0"),
        ("method.terms.-1.weight=1", "is none of its positions"),
        ("train.epochs.x=3", "train.epochs: holds 2, which has no part 'x'"),
        ("train.ema=2", "override train.ema=2: train.ema: should be less than or equal to 1, got 2"),
        ("train.epochs=five", "train.epochs: expected a number > 0, got 'five'"),
        ("zzz.y=1", "zzz: unknown key; known: about, arms,"),
        ("epochs", "an override is written key.path=value"),
        ("=3", "an override is written key.path=value"),
        ("a..b=3", "an override is written key.path=value"),
        ("train.epochs=[1", "not valid YAML"),
        ("about=!!python/name:os.system", "tag"),
        (".".join("a" * 60) + "=1", "more than 50 parts"),
    ],
)
def test_an_override_s_error_names_the_override(override: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(SMALL, [override])
    assert said in str(caught.value)
    assert str(caught.value).startswith("override ")


def test_suggested_keys_are_valid() -> None:
    data = read("kd-digits").data
    keys = list(keys_under(ROOT, data))
    assert "train.optimizer.lr" in keys
    assert "method.terms.1.label_smoothing" in keys
    said = {key: outcome(f"{key}=null") for key in keys}
    assert not [key for key, message in said.items() if "unknown key" in message]
    assert "unknown key" in outcome("train.optimizer.lrr=null")


def outcome(override: str) -> str:
    try:
        load("kd-digits", [override])
    except RecipeError as error:
        return str(error)
    return ""


# And back to text

RICH = [
    "about=\"on: 'quoted', 1e-3\\nsecond line\\t\\u2028 # no comment\"",
    "paper=[born-again-networks, gold]",
    "method.terms.0.name='1e-3'",
    "method.terms.0.weight={start: 1, end: 0.5}",
    "method.terms.1.name='~'",
    "teacher.store='0x10'",
    "student.network={kind: convnet, width: 10}",
    "train.players.student={optimizer: {kind: sgd, lr: 1e-7}, ema: 0.5}",
    "arms.bigger.student.network={kind: convnet, width: 16}",
    "arms.null.of=student",
    "stages=[{name: first, train: {steps: 3}}]",
    "control={method: {kind: match, terms: [{by: mse, project: linear}]}}",
    "teacher.view={kind: image, mean: [0.485, 0.456, 0.406], std: [1e-2, 1.0e+10, 3]}",
    "proof={expect: [student.accuracy > 0.5], overrides: {train.epochs: 1, '1': 1e-5, '<<': null, on: 'true'}}",
    "student.weights={kind: file, path: '~/weights, old.safetensors'}",
]


@pytest.mark.parametrize("name", [*recipes(), "rich"])
@pytest.mark.parametrize("defaults", [True, False])
def test_dump_loads_back_to_an_equal_recipe(name: str, defaults: bool) -> None:
    recipe = load("kd-digits", RICH) if name == "rich" else load(name)
    text = dump(recipe, defaults=defaults)
    assert load(text) == recipe
    assert dump(load(text), defaults=defaults) == text


def test_dump_keeps_defaults_for_a_later_version() -> None:
    assert "weight_decay: 0.0" in dump(load(SMALL))
    assert "weight_decay" not in dump(load(SMALL), defaults=False)


@pytest.mark.parametrize("name", [*recipes(), "rich"])
def test_the_python_program_builds_an_equal_recipe(name: str) -> None:
    recipe = load("kd-digits", RICH) if name == "rich" else load(name)
    program = python_program(recipe)
    namespace: dict[str, object] = {"__name__": "program"}
    exec(compile(program, "program", "exec"), namespace)
    assert namespace["recipe"] == recipe
    assert "distill(recipe)" in program


def test_the_python_program_leaves_defaults_out() -> None:
    program = python_program(load("kd-digits"))
    assert "train=Train(steps=1500, batch_size=50, optimizer=AdamW(lr=0.004))" in program
    assert "schedule" not in program


def test_equality_would_notice_a_difference() -> None:
    assert load(SMALL) != load(SMALL, ["method.terms.0.temperature=5"])


# Plug-ins

PLUGIN = '''
from typing import Literal
from pathlib import Path
from stillhouse.objectives.kinds import TermKind

with Path(__file__).with_suffix(".count").open("a") as count:
    count.write("x")

class Huber(TermKind):
    """A loss."""
    by: Literal["{name}"] = "{name}"
    builds = "torch.nn.functional:huber_loss"
    delta: float = 1.0
'''


def test_a_plug_in_s_kinds_are_known_after_the_schema_was_used(tmp_path: Path) -> None:
    load(SMALL)
    file = tmp_path / "huber.py"
    file.write_text(PLUGIN.replace("{name}", "huber_test"))
    text = SMALL.replace("{by: kl, temperature: 4}", "{by: huber_test, delta: 2}")
    assert "no term is named 'huber_test'" in problems(text)[0][2]
    recipe = load(text, plugins=[file])
    assert recipe == load(text, plugins=[file])
    assert file.with_suffix(".count").read_text() == "x", "it runs once a process"
    assert recipe.method.terms[0].delta == 2.0  # type: ignore[attr-defined]
    assert type(recipe.method.terms[0]) is lookup("term", "huber_test")  # type: ignore[attr-defined]
    assert load(dump(recipe)) == recipe
    namespace: dict[str, object] = {"__name__": "program"}
    exec(python_program(recipe), namespace)
    assert namespace["recipe"] == recipe


def test_plug_ins_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(StillhouseError, match="no plug-in file"):
        load(SMALL, plugins=[tmp_path / "none.py"])
    (tmp_path / "bad.py").write_text("1 / 0")
    with pytest.raises(StillhouseError, match=r"bad\.py failed: ZeroDivisionError"):
        load(SMALL, plugins=[tmp_path / "bad.py"])
    assert not [name for name in sys.modules if name.startswith("stillhouse_plugin_bad")]
    (tmp_path / "clash.py").write_text(PLUGIN.replace("{name}", "kl"))
    with pytest.raises(StillhouseError, match="two kinds of term are named 'kl'"):
        load(SMALL, plugins=[tmp_path / "clash.py"])
    assert load(SMALL).method.terms[0].temperature == 4  # type: ignore[attr-defined]


def test_python_objects_take_what_text_refuses_nowhere() -> None:
    with pytest.raises(StillhouseError, match="a object is none of them"):
        load({"name": "x", "data": object()})
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(StillhouseError, match="nested deeper"):
        load({"name": endless})
    assert isinstance(load(read(SMALL).data), Recipe)


def test_what_is_neither_a_word_nor_a_number_is_told_what_fits():
    chosen = "method: {kind: granularity-selection, by: %s}"
    text = "name: a\ndata: digits\nstudent: {network: {kind: mlp}}\ntrain: {steps: 1}\ncontrol: false\n"
    for given in ("{kind: scene}", "averge", "[1]"):
        with pytest.raises(RecipeError, match=r"method\.by: expected 'learned' or 'average' or a whole number"):
            load(text + chosen % given)
