"""What a run leaves for its reader: the page, the card, the tables, comparisons."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from stillhouse.errors import StillhouseError
from stillhouse.evaluation.kinds import (
    Accuracy,
    Agreement,
    Calibration,
    Cost,
    FeatureSimilarity,
    GradientConflict,
    GroupEffects,
    Robustness,
)
from stillhouse.report import numbers
from stillhouse.report.card import write_card
from stillhouse.report.compare import compare
from stillhouse.report.curves import stage_curves, thin
from stillhouse.report.figures import sections
from stillhouse.report.figures.images import contact_sheet
from stillhouse.report.files import PARTS, read_run
from stillhouse.report.page import write_report
from stillhouse.report.svg import Scale, scale_for
from stillhouse.report.table import aligned, arms_table
from stillhouse.report.verdict import verdict
from test_evaluation import arm, context, random_answers

RECIPE = """\
name: toy
about: a toy
data: {kind: digits}
student: {network: {kind: convnet, width: 8}}
teacher: {network: {kind: resnet, depth: 20}, weights: {kind: trained, epochs: 15}}
method:
  kind: match
  terms:
  - {signal: logits, by: kl, temperature: 4.0, weight: 0.9}
seed: 0
"""


def summary(seed: int = 0, student: float = 0.95, control: float = 0.90, **changes: Any) -> dict[str, Any]:
    change = {"difference": student - control, "low": 0.02, "high": 0.08}
    return {
        "name": "toy",
        "seed": seed,
        "arms": {
            "control": {"accuracy": control, "parameters": 9123},
            "teacher": {"accuracy": 0.98, "parameters": 1_070_000},
            "student": {"accuracy": student, "agreement": 0.93, "parameters": 9123},
        },
        "effect": {"accuracy": change},
        "cost": {"seconds": 41.5},
        "environment": {"torch": "2.13.0", "cores": 2},
    } | changes


def write_run(folder: Path, **files: Any) -> Path:
    """A run folder; a file given as None is left out."""
    folder.mkdir(parents=True)
    held = {
        "summary.json": summary(),
        "metrics.jsonl": log(),
        "figures.json": FIGURES,
        "ledger.json": {"student": {"seconds": 77.4, "teacher": {"forwards": 640, "examples": 40960}}},
        "provenance.json": {"data": {"licence": "CC BY 4.0", "train": {"examples": 1078}}},
        "recipe.yaml": RECIPE,
    } | {name.replace("_", "."): value for name, value in files.items()}
    for name, value in held.items():
        if value is not None:
            (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    return folder


def log(stage: str = "student", losses: dict[str, float] | None = None) -> str:
    lines = [
        {
            "stage": stage,
            "step": 10 * n,
            "time": 0.1 * n,
            "losses": losses or {"total/student": 5 / n, "logits/kl": 4 / n},
        }
        for n in range(1, 20)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def figure(kind: str, title: str, arm: str = "student", **content: Any) -> dict[str, Any]:
    return {"kind": kind, "title": title, "arm": arm, **content}


FIGURES = [
    figure("lines", "Curve", x=[1, 2, 4], series={"a": [3.0, None, 0.01], "b": [1, 2, 3]}),
    figure("bars", "Bars", labels=["x", "y"], series={"n": [-3, 4]}, ylabel="count"),
    figure("dots", "Dots", labels=["x", "y"], series={"": [0.9, 0.95]}, unit="share"),
    figure("dots", "Dots", "control", labels=["x", "y"], series={"": [0.8, None]}, unit="share"),
    figure("images", "Made", width=2, height=2, channels=1, pixels=[[0, 90, 180, 255]] * 5),
    figure("text", "Said", samples=["one\ntwo"]),
    figure("table", "Nearest", columns=["sample", "distance"], rows=[["a", 0.5], ["b", None]]),
    figure("note", "Time", text="measured once"),
]


class Page(HTMLParser):
    """Reads a page: its elements and attributes, its text, and whether every element is closed."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def report(folder: Path) -> Page:
    path = write_report(folder)
    assert path == folder / "report.html"
    assert [p.name for p in folder.iterdir() if "tmp" in p.name] == []
    return Page(path)


def test_the_page_answers_first_and_shows_everything(tmp_path):
    page = report(write_run(tmp_path / "run"))
    assert "The teacher helped: accuracy 95.0\u202f%, against 90.0\u202f% without it." in page.text
    assert "+5.0 points" in page.text
    assert "+2.0 to +8.0" in page.text
    for shown in (
        "Curve",
        "Bars",
        "Dots",
        "Made",
        "one\ntwo",
        "Nearest",
        "measured once",
        "40960",
        "convnet",
        "CC BY 4.0",
    ):
        assert shown.replace("40960", "41.0\u202fk") in page.text
    assert "could not be drawn" not in page.text
    assert "Missing" not in page.text


def test_the_page_needs_nothing_and_runs_nothing(tmp_path):
    page = report(write_run(tmp_path / "run"))
    assert page.count("script") == page.count("link") == page.count("iframe") == 0
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "action"):
            assert (attributes.get(name) or "data:image/png;base64,").startswith("data:image/png;base64,")
    policy = [a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert "@import" not in page.text
    assert "url(" not in page.text


def test_images_and_tables_speak(tmp_path):
    page = report(write_run(tmp_path / "run"))
    assert all(a.get("alt") for tag, a in page.elements if tag == "img")
    assert all(a.get("role") == "img" and a.get("aria-label") for tag, a in page.elements if tag == "svg")
    assert page.count("th") > 0
    assert all(a.get("scope") in ("col", "row", "rowgroup") for tag, a in page.elements if tag == "th")
    assert page.count("caption") == page.count("table")


HOSTILE = "</title></style><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;\x00\u2028"


def hostile(value: Any) -> Any:
    """The same shape, with every text turned hostile, and every key that the report does not look for."""
    if isinstance(value, dict):
        return {k if k in KEYS else k + HOSTILE: v if k == "kind" else hostile(v) for k, v in value.items()}
    if isinstance(value, list):
        return [hostile(v) for v in value]
    return value + HOSTILE if isinstance(value, str) else value


KEYS = {"name", "seed", "arms", "effect", "cost", "environment", "student", "control", "difference", "low", "high"}
KEYS |= {key for one in FIGURES for key in one}


def test_hostile_text_stays_text(tmp_path):
    folder = write_run(
        tmp_path / "run",
        summary_json=hostile(summary()),
        figures_json=hostile(FIGURES),
        ledger_json=hostile({"student": {"seconds": 1.0, "x": "y"}, "who": "z"}),
        provenance_json=hostile({"data": {"licence": "x", "list": ["a", {"b": "c"}]}}),
        recipe_yaml=RECIPE + "about: " + json.dumps(HOSTILE) + "\n",
        metrics_jsonl=log("student" + HOSTILE, {"total/student": 1.0, "kl" + HOSTILE: 0.5}),
    )
    page = report(folder)
    assert page.count("script") == 0
    assert page.count("title") > 1
    assert [a for tag, a in page.elements if tag == "img" and "onerror" in a] == []
    assert not any(a.get("src") == "x" for _, a in page.elements)
    assert page.text.count("<script>alert(1)</script>") > 15
    assert "\x00" not in page.text
    card = write_card(folder).read_text()
    assert "<script>" not in card.replace("\\<script\\>", "")


@pytest.mark.parametrize("name", PARTS)
def test_a_missing_file_is_named_and_nothing_else_is_lost(tmp_path, name):
    page = report(write_run(tmp_path / "run", **{name.replace(".", "_"): None}))
    assert f"{name} ({PARTS[name]})" in page.text
    write_card(tmp_path / "run")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(StillhouseError, match="no run folder at"):
        write_report(tmp_path / "absent")
    with pytest.raises(StillhouseError, match="is no run folder"):
        write_report(tmp_path)
    folder = write_run(tmp_path / "run", summary_json=summary(arms=[1]))
    with pytest.raises(StillhouseError, match="'arms' must map"):
        write_report(folder)


def test_a_line_cut_off_by_a_kill_is_left_out_and_a_broken_one_is_told(tmp_path):
    whole = log()
    cut = read_run(write_run(tmp_path / "cut", metrics_jsonl=whole + '{"stage": "stu'))
    assert len(cut.lines) == 19
    broken = write_run(tmp_path / "broken", metrics_jsonl="{oops\n" + whole)
    with pytest.raises(StillhouseError, match="line 1 is not JSON"):
        read_run(broken)


def test_figures_that_cannot_be_drawn_say_so(tmp_path):
    bad = [
        {"kind": "hologram", "title": "Odd"},
        {"kind": "bars", "title": "Short", "labels": ["a"], "series": {"s": [1, 2]}},
        {"kind": "images", "title": "Cut", "width": 2, "height": 2, "pixels": [[1]]},
        {"kind": "reliability", "title": "Empty"},
    ]
    text = report(write_run(tmp_path / "run", figures_json=bad + FIGURES)).text
    assert "'Odd' is of a kind this report does not draw: 'hologram'" in text
    assert text.count("could not be drawn") == 3
    assert "Nearest" in text


def test_every_figure_of_the_classifiers_measurements_is_drawn(tmp_path):
    logits, labels = random_answers()
    arms = [
        arm(name, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 4)))
        for name in ("teacher", "student", "control")
    ]
    shared = context(logits, labels, *arms)
    shared.logged = {"student": [{"step": n, "losses": {"cosine/a ~ b": n / 5 - 0.5}} for n in range(5)]}
    kinds = (
        Accuracy(),
        Agreement(),
        Calibration(),
        GroupEffects(),
        Robustness(),
        FeatureSimilarity(),
        GradientConflict(),
        Cost(),
    )
    drawn = [found | {"arm": one.name} for one in arms for kind in kinds for found in kind.build(one, shared).figures]
    page = report(write_run(tmp_path / "run", figures_json=json.loads(json.dumps(drawn))))
    assert "could not be drawn" not in page.text
    assert "does not draw" not in page.text
    assert page.text.count("Who is right: ") == 2 * 2  # title and caption, of student and control
    assert page.text.count("ECE") == 3
    for title, times in (("Accuracy under blur", 1), ("What the teacher changed, by class", 1), ("features (CKA)", 2)):
        assert page.texts.count(next(text for text in page.texts if title in text)) == times * 2  # and in the drawing
    assert page.texts.count("Cosine between the terms' gradients: a ~ b") == 2
    for arms_class in ("arm-teacher", "arm-student", "arm-control"):
        assert any(f"dot clear {arms_class}" == a.get("class") for _, a in page.elements)


def draw(*found: dict[str, Any]) -> str:
    classes = {"student": "arm-student", "control": "arm-control"}
    return sections(json.loads(json.dumps(found)), classes)["measurements"]


def rows(**content: Any) -> dict[str, Any]:
    given = {"labels": ["up", "down", "open"], "difference": [0.3, -0.2, 0.1], "low": [0.1, -0.4, None]}
    given |= {
        "high": [0.5, -0.1, None],
        "count": [40, 30, 2],
        "unit": "share",
        "better": "higher",
        "against": "control",
    }
    return figure("intervals", "Changed", **(given | content))


def test_a_run_that_measured_nothing_says_so(tmp_path):
    page = report(write_run(tmp_path / "run", summary_json=summary(arms={"student": {}, "control": {}}, effect={})))
    assert "The recipe's 'evaluate' is empty." in page.text
    assert "Nothing was measured of the arms" in page.text


def test_units_stand_where_the_numbers_are(tmp_path):
    arms = {"student": {"nll": 0.5, "ece": 0.03}, "control": {"nll": 0.7, "ece": 0.05}}
    effect = {"nll": {"difference": -0.2, "low": -0.3, "high": -0.1}}
    folder = write_run(tmp_path / "run", summary_json=summary(arms=arms, effect=effect))
    ledger = {"student": {"seconds": 1.0, "student": {"forwards": 5, "flops": 10}, "student.parts": {}}}
    (folder / "ledger.json").write_text(json.dumps(ledger))
    page = report(folder)
    assert "The teacher helped: negative log-likelihood (nats) 0.500, against 0.700 without it." in page.text
    assert "negative log-likelihood (nats)\xa0" in page.text
    assert "3.0\u202f%" in page.text
    assert "negative log-likelihood (nats)" in arms_table(summary(arms=arms, effect=effect))
    assert "forward passes" in page.texts
    assert "student.parts" not in page.texts  # it did nothing worth a row


def test_intervals_are_coloured_by_what_they_say_and_tell_their_unit():
    drawn = draw(rows())
    assert (
        drawn.count('class="row better"') == drawn.count('class="row worse"') == drawn.count('class="row unclear"') == 1
    )
    drawn_in = [drawn.index(f">{text}</text>") for text in ("up (40)", "+30.0", "down (30)", "\u221220.0")]
    assert drawn_in == sorted(drawn_in)
    assert ">points</text>" in drawn
    assert drawn.count('class="reach"') == 2  # one has no interval
    assert "student \u2212 control" in drawn
    lower = draw(rows(better="lower"))
    assert lower.index('class="row worse"') < lower.index('class="row better"')
    assert draw(rows(better="")).count('class="row unclear"') == 3


def test_intervals_say_when_they_are_some_of_many():
    assert "The 3 of 100 groups that gained and lost most." in draw(rows(groups=100))
    assert "by chance alone" in draw(rows(groups=100))
    assert "by chance" not in draw(rows())
    assert "could not be drawn" in draw(rows(labels=["one"]))


def test_a_heatmap_shows_its_numbers_or_tells_them():
    small = draw(
        figure("heatmap", "Likeness", rows=["a", "b"], columns=["c"], values=[[0.5], [None]], about="Read it.")
    )
    assert small.count('class="number middle"') == 2
    assert ">0.50</text>" in small
    assert 'fill-opacity="0.25"' in small  # half of the strongest that a number can be read on
    assert "Read it." in small
    many = figure("heatmap", "Likeness", rows=["a"], columns=[f"layers.{n}" for n in range(30)], values=[[1.0] * 30])
    large = draw(many)
    assert "number middle" not in large
    assert large.count("a, layers.") == large.count('fill-opacity="1.00"') == 30
    assert "could not be drawn" in draw(many | {"rows": ["a", "b"]})


def test_unnamed_curves_of_several_arms_share_a_plot_and_a_range():
    curve = {"x": [0, 1, 2], "series": {"": [1.0, 0.5, 0.1]}, "unit": "share", "range": [0, 1]}
    both = draw(figure("lines", "Under noise", **curve), figure("lines", "Under noise", "control", **curve))
    assert both.count("<figure") == 1
    assert both.count("line arm-student") == both.count("line arm-control") == 1
    assert "student: 50.0\u202f%\ncontrol: 50.0\u202f%" in both
    assert ">100%</text>" in both
    other = draw(
        figure("lines", "Under noise", **curve), figure("lines", "Under noise", "control", **curve | {"x": [0, 1, 3]})
    )
    assert other.count("<figure") == 2
    signed = draw(figure("lines", "Cosine", x=[0, 1], series={"a ~ b": [0.1, 0.2]}, range=[-1, 1]))
    assert 'class="ideal"' in signed


def test_figures_come_in_the_order_of_the_students(tmp_path):
    """The teacher lacks what is measured against it: that would come last."""
    own = [figure("note", name, text=name) for name in ("One", "Two", "Three")]
    folder = write_run(
        tmp_path / "run", figures_json=[figure("note", name, "teacher", text=name) for name in ("One", "Three")] + own
    )
    text = report(folder).text
    assert text.index("One:") < text.index("Two:") < text.index("Three:")


def test_the_norm_of_the_gradient_is_no_loss():
    lines = [
        {"stage": "s", "step": n, "losses": {"kl": 1 / n, "gradient_norm/s": 2.0, "cosine/a ~ b": 0.1}}
        for n in range(1, 5)
    ]
    drawn = stage_curves(lines)
    assert drawn.count("<figure") == 2
    assert ">norm before clipping</text>" in drawn
    assert "cosine" not in drawn


@pytest.mark.parametrize(
    ("name", "low", "high", "start"),
    [
        ("accuracy", 0.01, 0.09, "The teacher helped"),
        ("accuracy", -0.09, -0.01, "The teacher did harm"),
        ("accuracy", -0.01, 0.09, "No clear effect"),
        ("accuracy", 0.0, 0.09, "No clear effect"),
        ("nll", 0.01, 0.09, "The teacher did harm"),
        ("nll", -0.09, -0.01, "The teacher helped"),
        ("accuracy", None, None, "With the teacher"),
        ("made_up", 0.01, 0.09, "With the teacher"),
    ],
)
def test_the_verdict_follows_the_interval_and_the_metrics_good_side(tmp_path, name, low, high, start):
    middle = 0.05 if low is None else (low + high) / 2
    arms = {"student": {name: 0.5 + middle}, "control": {name: 0.5}}
    effect = {name: {"difference": middle, "low": low, "high": high}}
    run = read_run(write_run(tmp_path / "run", summary_json=summary(arms=arms, effect=effect)))
    assert verdict(run).headline.startswith(start)


def test_the_headline_speaks_of_what_the_recipe_would_prove(tmp_path):
    effect = {
        "nll": {"difference": 0.2, "low": 0.1, "high": 0.3},
        "accuracy": {"difference": 0.05, "low": 0.02, "high": 0.08},
    }
    run = read_run(write_run(tmp_path / "plain", summary_json=summary(effect=effect)))
    assert verdict(run).headline.startswith("The teacher did harm: negative log-likelihood")
    proof = 'proof: {expect: ["student.nll < teacher.nll", "student.accuracy > control.accuracy + 0.01"]}\n'
    run = read_run(write_run(tmp_path / "proof", summary_json=summary(effect=effect), recipe_yaml=RECIPE + proof))
    assert verdict(run).headline.startswith("The teacher helped: accuracy")


def write_classifier(folder: Path, accuracy: float, **metrics: float) -> Path:
    """A run of a student that tells ten classes apart, measured on 100 examples."""
    arms = {"student": {"accuracy": accuracy, **metrics}, "control": {"accuracy": 0.5}, "teacher": {"accuracy": 0.9}}
    provenance = {"data": {"test": {"examples": 100}}}
    write_run(folder, summary_json=summary(arms=arms), provenance_json=provenance)
    (folder / "student").mkdir()
    facts = {"task": "classification", "classes": 10}
    (folder / "student" / "config.json").write_text(json.dumps({"network": {"kind": "convnet"}, "facts": facts}))
    return folder


@pytest.mark.parametrize(("accuracy", "guessing"), [(0.02, True), (0.10, True), (0.15, True), (0.17, False)])
def test_a_student_that_guesses_is_called_so(tmp_path, accuracy, guessing):
    """Ten classes, 100 examples: chance is 0.1, two standard errors of it are 0.06."""
    answer = verdict(read_run(write_classifier(tmp_path / "run", accuracy)))
    assert answer.headline.startswith("The student is no better than chance: accuracy") == guessing
    assert "where guessing gives 10.0\u202f%. Without the teacher: 50.0\u202f%." in answer.headline or not guessing


def test_training_that_diverged_is_told(tmp_path):
    """Guessing among ten classes has a likelihood of log 10 = 2.30."""
    assert (
        "2.30 nats: its training seems to have diverged"
        in verdict(read_run(write_classifier(tmp_path / "far", 0.1, nll=2e9))).detail
    )
    assert "diverged" not in verdict(read_run(write_classifier(tmp_path / "near", 0.1, nll=2.4))).detail
    broken = verdict(read_run(write_classifier(tmp_path / "nan", 0.1, nll=math.nan, brier=math.inf)))
    assert broken.headline == "The student is broken: its negative log-likelihood, Brier score are not finite."


def test_chance_is_not_spoken_of_where_the_classes_are_not_known(tmp_path):
    arms = {"student": {"accuracy": 0.01}, "control": {"accuracy": 0.5}}
    assert "chance" not in verdict(read_run(write_run(tmp_path / "run", summary_json=summary(arms=arms)))).headline


def test_a_difference_without_an_interval_says_why_once(tmp_path):
    bare = {"difference": 0.1, "low": None, "high": None}
    both = {"accuracy": 0.9, "ece": 0.1, "perplexity": 3.0}
    arms = {"student": both, "control": both}
    known = {"difference": 0.1, "low": 0.05, "high": 0.15}
    effect = {"accuracy": known, "ece": bare, "perplexity": bare}
    page = report(write_run(tmp_path / "run", summary_json=summary(arms=arms, effect=effect)))
    assert page.text.count("No interval: expected calibration error, perplexity (") == 1
    assert "No interval" not in report(write_run(tmp_path / "other")).text


def test_the_ledger_names_what_a_stage_trains(tmp_path):
    """In every stage the role "student" is what is trained: the teacher's cost is not the student's."""
    trained = {"student": {"forwards": 10}}
    ledger = {stage: {"seconds": 1.0, **trained} for stage in ("teacher", "student-start", "control")}
    ledger["student"] = {"seconds": 2.0, "teacher": {"forwards": 5}, **trained}
    page = report(write_run(tmp_path / "run", ledger_json=ledger))
    for stage in ledger:
        assert f"{stage}, in training" in page.texts
    written = (tmp_path / "run" / "report.html").read_text()
    assert '<i class="arm-teacher"></i>teacher, in training' in written
    assert '<i class="arm-student"></i>student-start, in training' in written


def test_a_curve_of_one_point_has_one_tick():
    lone = stage_curves([{"stage": "s", "step": 10, "losses": {"kl": 1.0}}])
    assert lone.count("tick middle") == 1
    assert ">10</text>" in lone
    few = stage_curves([{"stage": "s", "step": n, "losses": {"kl": float(n)}} for n in (1, 2)])
    ticks = [part.partition("<")[0] for part in few.split('class="tick middle">')[1:]]
    assert ticks == ["1", "2"]


def test_without_a_control_the_page_does_not_guess(tmp_path):
    arms = {"student": {"accuracy": 0.9}, "teacher": {"accuracy": 0.8}}
    page = report(write_run(tmp_path / "run", summary_json=summary(arms=arms, effect={})))
    assert "Whether the teacher helped cannot be told." in page.text
    assert "The teacher helped" not in page.text


def test_without_a_control_the_arm_that_the_recipe_compares_with_is_told(tmp_path):
    arms = {"student": {"accuracy": 0.9, "nll": 0.3}, "one_view": {"accuracy": 0.8}, "teacher": {"accuracy": 0.95}}
    given = summary(arms=arms, effect={})
    expect = ["student.nll < one_view.nll", "student.accuracy > one_view.accuracy by 2 se"]
    proof = f"control: false\nproof: {{expect: {json.dumps(expect)}}}\n"
    found = verdict(read_run(write_run(tmp_path / "run", summary_json=given, recipe_yaml=RECIPE + proof)))
    assert (found.reading, found.headline) == (
        "unknown",
        "The student's accuracy: 90.0\u202f%, against 80.0\u202f% of 'one_view'.",
    )
    assert "Set control" not in found.detail
    assert "runs no control arm" in found.detail


def test_the_interval_is_drawn_with_better_to_the_right():
    from stillhouse.evaluation.statistics import Interval
    from stillhouse.report.page import whisker

    def place(name: str, interval: Interval) -> float:
        return float(whisker(name, interval).partition('cx="')[2].partition('"')[0])

    gain, loss = Interval(0.05, 0.02, 0.08), Interval(-0.05, -0.08, -0.02)
    assert place("accuracy", gain) == place("nll", loss) > 70
    assert place("accuracy", loss) == place("nll", gain) < 70
    assert whisker("accuracy", Interval(0.05, None, None)) == ""
    assert whisker("accuracy", Interval(math.nan, math.nan, math.nan)) == ""


def test_contact_sheet_keeps_every_pixel():
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(5, 3 * 2 * 3))
    sheet = Image.open(BytesIO(contact_sheet({"width": 2, "height": 3, "channels": 3, "pixels": pixels.tolist()}, 3)))
    assert sheet.size == (3 * 3 - 1, 2 * 4 - 1)
    shown = np.asarray(sheet.convert("RGBA"))
    for place in range(5):
        x, y = (place % 3) * 3, (place // 3) * 4
        np.testing.assert_array_equal(shown[y : y + 3, x : x + 2, :3], pixels[place].reshape(3, 2, 3))
    assert (shown[:, 2, 3] == 0).all()


def test_long_curves_are_thinned_by_means():
    x = [float(n) for n in range(1, 1001)]
    steps, series = thin(x, {"loss": x, "gap": [None] * 1000})
    assert len(steps) == 250
    assert steps[-1] == 1000
    assert series["loss"][0] == 2.5
    assert series["gap"] == [None] * 250
    assert np.mean([v for v in series["loss"] if v is not None]) == pytest.approx(np.mean(x))


def test_a_total_of_one_term_is_drawn_once():
    one = stage_curves(
        [{"stage": "s", "step": n, "losses": {"total/student": 1 / n, "kl": 1 / n}} for n in range(1, 9)]
    )
    assert one.count("<path") == 1
    two = stage_curves(
        [{"stage": "s", "step": n, "losses": {"total/student": 2 / n, "kl": 1 / n}} for n in range(1, 9)]
    )
    assert two.count("<path") == 2


def test_values_that_are_not_finite_leave_a_gap():
    lines = [{"stage": "s", "step": n, "losses": {"kl": math.nan if n == 3 else 1.0 + n}} for n in range(1, 9)]
    drawn = stage_curves(lines)
    assert "nan" not in drawn
    assert drawn.count("M") >= 2


def test_scales_hold_their_values_and_turn_logarithmic_when_they_must():
    near = scale_for([0.95, 0.99], 100, 0)
    assert not near.log
    assert near.low > 0.9
    assert 0 <= near(0.99) < near(0.95) <= 100
    wide = scale_for([0.001, 10], 100, 0)
    assert wide.log
    assert wide(0.1) == pytest.approx((wide(0.001) + wide(10)) / 2)
    assert all(wide.low <= t <= wide.high for t in wide.ticks())
    assert scale_for([3, 7], 100, 0, zero=True).low == 0
    assert scale_for([2.0, 2.0], 100, 0)(2.0) == 50
    assert Scale(0, 1, 0, 10).ticks() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("accuracy", 0.9714, "97.1\u202f%"),
        ("nll", 0.12345, "0.123"),
        ("nll", 2.0, "2.00"),
        ("nll", 123.456, "123.5"),
        ("nll", -0.5, "\u22120.500"),
        ("nll", 3.2e-6, "3.20e-06".replace("-", "\u2212")),
        ("parameters", 9123, "9\u202f123"),
        ("parameters", 1_070_000, "1.07\u202fM"),
        ("flops", 40_960, "41.0\u202fk"),
        ("milliseconds", 0.853, "0.853\u202fms"),
        ("nll", None, "\u2013"),
        ("nll", math.inf, "inf"),
        ("nll", 0.0, "0"),
    ],
)
def test_metrics_are_printed_with_their_units(name, value, text):
    assert numbers.metric(name, value) == text


def test_differences_share_their_decimals_and_have_signs():
    assert numbers.changes("accuracy", 0.0187, 0.004, 0.0312) == ["+1.9", "+0.4", "+3.1"]
    assert numbers.changes("nll", -1.3e-6, -0.0291, 0.0317) == ["0.0000", "\u22120.0291", "+0.0317"]
    assert numbers.changes("nll", 0.0) == ["0.0"]
    assert numbers.spread("accuracy", 0.967, 0.0071) == "96.7 ± 0.7 %"
    assert numbers.spread("nll", 0.0885, 0.00031) == "0.0885 ± 0.0003"


def test_durations_read_well():
    assert [numbers.seconds(s) for s in (0.4231, 41.5, 185, 7800)] == [
        "0.42\u202fs", "42\u202fs", "3\u202fmin 5\u202fs", "2\u202fh 10\u202fmin",
    ]  # fmt: skip


def test_the_table_for_the_terminal():
    lines = arms_table(summary()).splitlines()
    assert lines[0].split("  ")[-1].strip() == "student \u2212 control"
    assert lines[0].index("teacher") < lines[0].index("student") < lines[0].index("control")
    assert " ".join(lines[2].split()) == "accuracy 98.0 % 95.0 % 90.0 % +5.0 [+2.0, +8.0] points"
    assert " ".join(lines[3].split()) == "agreement with the teacher \u2013 93.0 % \u2013"
    assert len({len(line) for line in lines[:3]}) == 1


def test_a_metric_with_its_own_interval_takes_one_row(tmp_path):
    own = {"frechet": 0.53, "frechet_low": 0.26, "frechet_high": 0.85}
    arms = {"student": own, "control": {"frechet": 5.09}}
    told = summary(arms=arms, effect={"frechet": {"difference": -4.56, "low": -5.3, "high": -3.8}})
    assert [line.split("  ")[0] for line in arms_table(told).splitlines()[2:]] == ["Fr\u00e9chet distance"]
    assert "0.530 [0.260, 0.850]" in arms_table(told)
    page = report(write_run(tmp_path / "run", summary_json=told))
    assert "0.5300.260 to 0.850" in page.text
    assert "frechet low" not in page.text


def test_a_page_written_again_knows_every_metric():
    """In a process that has read no recipe, as `stillhouse report` is one."""
    known = (
        "from stillhouse.report import numbers; print(numbers.heading('frechet'), '/', numbers.measure('rmse').better)"
    )
    told = subprocess.run([sys.executable, "-c", known], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "Fr\u00e9chet distance / lower"


def test_compare_takes_differences_within_a_seed(tmp_path):
    """Gains 0.04, 0.05 and 0.06: mean 0.05, standard deviation 0.01, t(2) = 4.302653."""
    gains = {0: (0.94, 0.90), 1: (0.85, 0.80), 2: (0.96, 0.90)}
    folders = []
    for seed, pair in gains.items():
        recipe = RECIPE.replace("seed: 0", f"seed: {seed}")
        folders.append(write_run(tmp_path / str(seed), summary_json=summary(seed, *pair), recipe_yaml=recipe))
    found = compare(folders)
    (group,) = found.groups
    assert group.seeds == [0, 1, 2]
    interval = group.effect["accuracy"].interval
    reach = 4.302653 * 0.01 / math.sqrt(3)
    assert interval == pytest.approx((0.05, 0.05 - reach, 0.05 + reach), rel=1e-6)
    assert "parameters" not in group.effect
    told = found.to_dict()["groups"][0]
    assert told["arms"]["student"]["accuracy"]["mean"] == pytest.approx(np.mean([0.94, 0.85, 0.96]))
    assert told["arms"]["student"]["accuracy"]["std"] == pytest.approx(np.std([0.94, 0.85, 0.96], ddof=1))
    assert told["effect"]["accuracy"]["values"] == pytest.approx([0.04, 0.05, 0.06])
    assert "+5.0 [+2.5, +7.5] points" in found.table()
    json.dumps(found.to_dict())


def test_compare_sets_other_recipes_apart_and_says_what_differs(tmp_path):
    one = write_run(tmp_path / "one")
    other = write_run(tmp_path / "other", recipe_yaml=RECIPE.replace("temperature: 4.0", "temperature: 1.0"))
    found = compare([one, other])
    assert [group.label for group in found.groups] == [
        "toy method.terms.0.temperature=4.0",
        "toy method.terms.0.temperature=1.0",
    ]
    assert "side by side" in found.table()
    assert "+5.0 [+2.0, +8.0] points" in found.table()  # one run: its own interval over the examples
    page = Page(found.html(tmp_path / "comparison.html"))
    assert "toy method.terms.0.temperature=1.0" in page.text
    assert page.count("script") == 0


def test_a_comparison_of_settings_fits_a_terminal_and_counts_what_it_holds(tmp_path):
    """Eight settings whose labels are far wider than a terminal: none of its lines is."""
    long = RECIPE.replace("width: 8", "width: {n}").replace("epochs: 15", "epochs: 15{n}").replace("4.0", "{n}.0")
    folders = [write_run(tmp_path / f"{n}", recipe_yaml=long.replace("{n}", f"{n}")) for n in range(8)]
    told = compare(folders)
    assert max(map(len, told.table().splitlines())) <= 120
    assert told.headline == "8 runs: 1 recipe, 8 settings"
    for number in range(1, 9):
        assert told.table().count(f"[{number}]") == 2  # over its block, and over its column
    page = Page(told.html(tmp_path / "page.html"))
    assert "8 runs: 1 recipe, 8 settings" in page.text
    assert "standard deviations" not in page.text
    assert "One run of each" in page.text


def test_a_comparison_of_seeds_says_what_its_intervals_are_over(tmp_path):
    one = write_run(tmp_path / "one")
    seeded = [
        write_run(tmp_path / f"{n}", summary_json=summary(n), recipe_yaml=RECIPE.replace("seed: 0", f"seed: {n}"))
        for n in (1, 2)
    ]
    other = write_run(tmp_path / "other", summary_json=summary(name="other"))
    together = compare([one, *seeded])
    assert together.headline == "3 runs of 1 recipe"
    assert "Over seeds: means and standard deviations" in Page(together.html(tmp_path / "a.html")).text
    mixed = compare([one, *seeded, other])
    assert mixed.headline == "4 runs of 2 recipes"
    assert "Where there are several seeds: means" in Page(mixed.html(tmp_path / "b.html")).text


def test_a_table_that_is_too_wide_goes_on_below():
    rows = [["", "a", "b", "c"], ["one", "x" * 10, "y" * 10, "z" * 40]]
    parts = aligned(rows, room=30).split("\n\n")
    assert [part.splitlines()[0].split() for part in parts] == [["a", "b"], ["c"]]
    assert [part.splitlines()[2].split() for part in parts] == [["one", "x" * 10, "y" * 10], ["one", "z" * 40]]
    assert aligned(rows, room=120).count("\n\n") == 0


def test_compare_refuses_one_experiment_twice_and_unfinished_runs(tmp_path):
    one, twin = write_run(tmp_path / "one"), write_run(tmp_path / "twin")
    with pytest.raises(StillhouseError, match="the same recipe with the same seed"):
        compare([one, twin])
    unfinished = write_run(tmp_path / "unfinished", summary_json=None)
    with pytest.raises(StillhouseError, match="no finished run"):
        compare([one, unfinished])
    with pytest.raises(StillhouseError, match="at least one"):
        compare([])


def test_a_recipe_with_aliases_is_not_expanded(tmp_path):
    laughs = "a: &a [x, x]\n" + "".join(
        f"b{n}: &b{n} [*{p}, *{p}]\n" for n, p in enumerate(["a", *(f"b{n}" for n in range(60))])
    )
    run = read_run(write_run(tmp_path / "run", recipe_yaml=laughs))
    with pytest.raises(StillhouseError, match="aliases"):
        _ = run.plan


def test_the_card_says_what_it_is_and_how_to_load_it(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "student").mkdir()
    save_file({"linear.weight": np.zeros((10, 32), np.float32)}, folder / "student" / "model.safetensors")
    (folder / "student" / "config.json").write_text(json.dumps({"network": {"kind": "convnet", "width": 8}}))
    card = write_card(folder).read_text()
    for shown in (
        "# toy",
        "The teacher helped: accuracy 95.0\u202f%",
        "- Student: convnet (width 8)",
        "- Teacher: resnet (depth 20), trained on the data itself by this run",
        "- Method: match: 0.9 x kl of the logits (temperature 4.0)",
        "licence: CC BY 4.0",
        "| linear.weight | F32 | [10, 32] |",
        "stillhouse run recipe.yaml --seed 0",
    ):
        assert shown in card
    assert "licence of the data is not known" not in card


def test_the_card_names_the_loss_of_a_method_that_has_one(tmp_path):
    recipe = "method: {kind: gkd, divergence: {by: reverse_kl, signal: logits, weight: 1.0, temperature: 2.0}}\n"
    card = write_card(write_run(tmp_path / "run", recipe_yaml=recipe)).read_text()
    assert "- Method: gkd (divergence reverse\\_kl of the logits (temperature 2.0))" in card


@pytest.mark.parametrize(
    ("data", "options"),
    [
        ("{kind: digits}", ""),
        ("{kind: text, path: all.txt}", " --root '/home/me/my data'"),
        ("{kind: text, path: /data/all.txt}", ""),
        ("{kind: text, path: 'hub:me/texts'}", ""),
    ],
)
def test_a_run_is_repeated_from_its_own_recipe_and_the_root_of_its_paths(tmp_path, data, options):
    recipe = RECIPE.replace("{kind: digits}", data) + "proof: {expect: [student.accuracy > 0.5]}\n"
    launch = {"device": None, "root": "/home/me/my data", "plugins": [], "track": None}
    folder = write_run(tmp_path / "run", recipe_yaml=recipe, launch_json=launch, summary_json=summary(seed=3))
    page = report(folder)
    assert f"stillhouse run recipe.yaml --seed 3{options}\n" in page.text
    assert f"stillhouse prove recipe.yaml{options}\n" in page.text
    assert "stillhouse prove toy" not in page.text
    assert f"`stillhouse run recipe.yaml --seed 3{options}`, called in this folder" in write_card(folder).read_text()


def test_the_commands_name_the_plug_ins_and_the_device(tmp_path):
    launch = {"device": "cuda:1", "root": "/r", "plugins": ["/p/mine.py"], "track": None}
    page = report(write_run(tmp_path / "run", launch_json=launch))
    assert "stillhouse run recipe.yaml --seed 0 --plugin /p/mine.py --device cuda:1\n" in page.text
    assert "stillhouse prove" not in page.text  # the recipe has no proof


def test_an_unfinished_run_says_how_to_go_on(tmp_path):
    folder = write_run(tmp_path / "a run", summary_json=None, figures_json=None, ledger_json=None)
    page = report(folder)
    assert f"stillhouse resume '{folder}'" in page.text
    assert "stillhouse run recipe.yaml" not in page.text
    assert "toy · seed 0" in page.text


def test_the_card_of_a_hugging_face_student_names_its_class(tmp_path):
    folder = write_run(tmp_path / "run", provenance_json=None)
    (folder / "student").mkdir()
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (folder / "student" / "config.json").write_text(json.dumps(config))
    card = write_card(folder).read_text()
    assert 'LlamaForCausalLM.from_pretrained("student")' in card
    assert "licence of the data is not known" in card


def test_the_report_imports_no_torch():
    code = "import sys, stillhouse.report.compare, stillhouse.report.card; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
