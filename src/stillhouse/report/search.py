"""The page of a search: what was best, what mattered, every trial."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stillhouse.engine.folder import read_json, write_text
from stillhouse.report import numbers
from stillhouse.report.figures import sections
from stillhouse.report.page import page, section
from stillhouse.report.svg import escape, tag

Trials = Sequence[Mapping[str, Any]]


def write_search_report(folder: Path) -> Path:
    """Write report.html into a search's folder, from its search.json, and return its path."""
    outcome = read_json(Path(folder) / "search.json")
    target = Path(folder) / "report.html"
    write_text(target, page(f"{outcome['name']}: search", render(outcome)))
    return target


def render(outcome: Mapping[str, Any]) -> str:
    """The body of a search's page."""
    done = [trial for trial in outcome["trials"] if trial["state"] == "done"]
    figures = [*_importance(outcome), *_course(outcome, done), *_by_choice(outcome, done)]
    drawn = sections(figures, {})
    parts = [
        _header(outcome, done),
        section("What mattered", drawn.get("measurements", "")),
        section("Trials", sections([_table(outcome)], {}).get("measurements", "")),
        section("Go on", _commands(outcome)) if done else "",
        tag("footer", "Written by Stillhouse. This page loads nothing and runs no script."),
    ]
    return "".join(parts)


def _header(outcome: Mapping[str, Any], done: Trials) -> str:
    metric = outcome["metric"]
    eyebrow = tag("p", tag("b", "Stillhouse") + escape(f" · {outcome['name']} · search"), class_="eyebrow")
    if not done:
        return tag("header", eyebrow + tag("h1", "No trial has come to its end."))
    best = outcome["trials"][outcome["best"] - 1]
    value = numbers.metric(metric, best["value"])
    head = f"Best of {len(done)} trials: {numbers.heading(metric)} {value} on the validation split."
    chosen = "; ".join(f"{key}: {in_short(value)}" for key, value in best["choices"].items())
    told = f"Trial {best['number']}, with {chosen or 'the recipe as it is'}. The test split was not looked at."
    return tag("header", eyebrow + tag("h1", escape(head)) + tag("p", escape(told), class_="lead"))


def _importance(outcome: Mapping[str, Any]) -> list[dict[str, Any]]:
    shares = sorted(outcome["importance"].items(), key=lambda item: -item[1])
    if not shares:
        return []
    title = "Share of the variance between trials that each choice explains (fANOVA)"
    bars = {"kind": "bars", "title": title, "labels": [_end(key) for key, _ in shares], "unit": "share"}
    return [bars | {"series": {"importance": [share for _, share in shares]}}]


def _end(key: str) -> str:
    """The last two words of a key, for a narrow place."""
    return ".".join(key.split(".")[-2:])


def _course(outcome: Mapping[str, Any], done: Trials) -> list[dict[str, Any]]:
    """The value of each trial, and the best until then."""
    if not done:
        return []
    pick = max if outcome["direction"] == "maximise" else min
    values = [trial["value"] for trial in done]
    best = [pick(values[: place + 1]) for place in range(len(values))]
    measure = numbers.measure(outcome["metric"])
    course = {
        "kind": "lines",
        "title": "The course of the search",
        "xlabel": "trial",
        "ylabel": numbers.heading(outcome["metric"]),
    }
    course["unit"] = measure.unit
    return [course | {"x": [trial["number"] for trial in done], "series": {"trial": values, "best so far": best}}]


def _by_choice(outcome: Mapping[str, Any], done: Trials) -> list[dict[str, Any]]:
    """For each choice, the mean, the worst and the best value under it; of a range, by its thirds."""
    figures = []
    for key, values in outcome["choices"].items():
        groups = _grouped(key, values, done)
        series = {
            "highest": [max(group) for group in groups.values()],
            "mean": [sum(group) / len(group) for group in groups.values()],
            "lowest": [min(group) for group in groups.values()],
        }
        if len(groups) > 1:
            dots = {"kind": "dots", "title": key, "labels": list(groups), "series": series}
            measure = numbers.measure(outcome["metric"])
            figures.append(dots | {"ylabel": numbers.heading(outcome["metric"]), "unit": measure.unit})
    return figures


def _grouped(key: str, values: Any, done: Trials) -> dict[str, list[float]]:
    """The trials' values by what was chosen; a range is cut so that each part has as many trials."""
    if isinstance(values, list):
        texts = [json.dumps(value) for value in values]
        by_text = {text: [t["value"] for t in done if json.dumps(t["choices"].get(key)) == text] for text in texts}
        return {in_short(json.loads(text)): group for text, group in by_text.items() if group}
    ordered = sorted((t for t in done if key in t["choices"]), key=lambda t: t["choices"][key])
    parts = min(3, len(ordered))
    cuts = [ordered[len(ordered) * n // parts : len(ordered) * (n + 1) // parts] for n in range(parts)]
    spans = [[f"{trial['choices'][key]:.2g}" for trial in (cut[0], cut[-1])] for cut in cuts]
    named = ["\N{EN DASH}".join(dict.fromkeys(span)) for span in spans]
    return {name: [trial["value"] for trial in cut] for name, cut in zip(named, cuts, strict=True)}


def _table(outcome: Mapping[str, Any]) -> dict[str, Any]:
    keys, metric = list(outcome["choices"]), outcome["metric"]
    warm = any(trial["taught_by"] is not None for trial in outcome["trials"])
    failed = any(trial["error"] for trial in outcome["trials"])
    rows = []
    for trial in outcome["trials"]:
        chosen = [in_short(trial["choices"].get(key)) for key in keys]
        value = numbers.metric(metric, trial["value"]) if trial["state"] == "done" else trial["state"]
        descent = [trial["starts_from"], trial["taught_by"]] if warm else []
        why = [trial["error"]] if failed else []
        rows.append([str(trial["number"]), *chosen, *descent, value, numbers.seconds(trial["seconds"]), *why])
    descent = ["starts from", "taught by"] if warm else []
    columns = ["trial", *keys, *descent, numbers.heading(metric), "took", *(["error"] if failed else [])]
    return {"kind": "table", "title": "Every trial, on the validation split", "columns": columns, "rows": rows}


def _commands(outcome: Mapping[str, Any]) -> str:
    best = outcome["trials"][outcome["best"] - 1]
    steps = {
        "the best choices at the recipe's own budget, measured on the test split": ["run", "best.yaml"],
        "the best trial's own page": ["report", f"trials/{best['number']:03d}"],
        "more trials": ["search", "recipe.yaml", "--out", ".", "--trials", str(2 * len(outcome["trials"]))],
    }
    lines = (
        f"{tag('span', '# ' + escape(why), class_='key')}\n{escape(shlex.join(['stillhouse', *words]))}"
        for why, words in steps.items()
    )
    return tag("p", "Called in the search's folder:", class_="small") + tag(
        "pre", "\n".join(lines), class_="code", tabindex=0
    )


def in_short(value: Any) -> str:
    """A choice in a few words: a kind by its word and what tells it apart."""
    match value:
        case dict():
            word = value.get("by") or value.get("kind") or ""
            rest = [f"{key} {in_short(item)}" for key, item in value.items() if key not in ("by", "kind")]
            return " ".join(filter(None, (str(word), ", ".join(rest))))
        case list():
            return " + ".join(map(in_short, value)) or "none"
        case float():
            return f"{value:.3g}"
        case _:
            return numbers.NOTHING if value is None else str(value)
