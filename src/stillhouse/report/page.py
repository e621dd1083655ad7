"""The page a run leaves behind: one HTML file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from stillhouse.engine.folder import write_text
from stillhouse.evaluation.statistics import Interval
from stillhouse.report import numbers, repeat
from stillhouse.report.curves import stage_curves
from stillhouse.report.figures import sections
from stillhouse.report.figures.frame import colours, note, scrolling
from stillhouse.report.files import PARTS, RunFiles, read_run
from stillhouse.report.svg import breakable, escape, tag
from stillhouse.report.table import bounds, metric_names
from stillhouse.report.verdict import interval_of, interval_texts, reading, verdict

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What the page may load: nothing. It holds no script, so that a run folder can be opened without trust."""

COLUMNS = {"seconds": "time", "forwards": "forward passes", "flops": "FLOPs"}
"""How the ledger's numbers are called where their key does not say it."""
NO_DIFFERENCE = "<td></td>"
DIFFERENCE = (
    '<th scope="col" class="num">student \N{MINUS SIGN} control '
    '<span class="sides">worse \N{LEFTWARDS ARROW} 0 \N{RIGHTWARDS ARROW} better</span></th>'
)
"""The head of the column that `difference_cell` fills."""


def write_report(folder: Path) -> Path:
    """Write report.html into a run folder, from the files that are there, and return its path.

    Raises StillhouseError where the folder is no run folder.
    """
    run = read_run(Path(folder))
    target = run.folder / "report.html"
    write_text(target, page(run.name, render(run)))
    return target


def page(title: str, body: str) -> str:
    """A whole HTML document round the body."""
    style = resources.files("stillhouse.report").joinpath("style.css").read_text(encoding="utf-8")
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escape(title)} · Stillhouse</title><style>{style}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body><main>{body}</main></body></html>\n'


def render(run: RunFiles) -> str:
    """The body of a run's page."""
    drawn = sections(run.figures, colours(run.arms))
    parts = [
        header(run),
        section("Arms", arms(run)),
        section("Samples", drawn.get("samples", "")),
        section("Measurements", drawn.get("measurements", "")),
        section("Training", stage_curves(run.lines)),
        section("What it cost", ledger(run)),
        section("Recipe", recipe(run)),
        section("Reproduce", reproduce(run)),
        section("Environment and provenance", environment(run)),
        missing(run),
        tag("footer", "Written by Stillhouse. This page loads nothing and runs no script."),
    ]
    return "".join(parts)


def section(title: str, content: str) -> str:
    """A part of the page; nothing where there is nothing to show."""
    return tag("section", tag("h2", escape(title)) + content) if content else ""


def header(run: RunFiles) -> str:
    """The answer first."""
    answer = verdict(run)
    seed = f" · seed {run.seed}" if run.seed is not None else ""
    eyebrow = tag("p", tag("b", "Stillhouse") + escape(f" · {run.name}{seed}"), class_="eyebrow")
    head = tag("h1", escape(answer.headline)) + tag("p", escape(answer.detail), class_="lead")
    return tag("header", eyebrow + head + facts(run), class_=answer.reading)


def facts(run: RunFiles) -> str:
    """A few numbers at a glance; each only where the run has it."""
    student, teacher = run.arms.get("student", {}), run.arms.get("teacher", {})
    shown = []
    if "agreement" in student:
        shown.append(("copies the teacher on", numbers.metric("agreement", student["agreement"]), "of the examples"))
    for name in (n for n in student if numbers.measure(n).cost and numbers.is_number(student[n])):
        shown.append(
            (numbers.heading(name), numbers.metric(name, student[name]), _ratio(student[name], teacher.get(name)))
        )
    spent = (run.summary.get("cost") or {}).get("seconds")
    if numbers.is_number(spent):
        shown.append(("trained in", numbers.seconds(spent), "all stages"))
    items = (tag("dt", escape(a)) + tag("dd", tag("b", escape(b)) + " " + escape(c)) for a, b, c in shown)
    return tag("dl", "".join(tag("div", item) for item in items), class_="facts") if shown else ""


def _ratio(own: float, teacher: object) -> str:
    """How the student's number stands to the teacher's."""
    if not numbers.is_number(teacher) or own <= 0 or teacher <= 0:
        return "of the student"
    share = teacher / own
    return f"1/{share:.3g} of the teacher's" if share > 1 else f"{1 / share:.3g} times the teacher's"


# --- the arms ------------------------------------------------------------------------------


def arms(run: RunFiles) -> str:
    """Metrics by row, arms by column, and what the teacher changed; what an arm costs to use stands below."""
    if not run.arms:
        return ""
    names = metric_names(run.arms)
    if not names:
        return note("Nothing was measured of the arms: name measurements under 'evaluate' (`stillhouse list metrics`).")
    dots = colours(run.arms)
    heads = [tag("th", tag("i", class_=dots[arm]) + breakable(arm), scope="col", class_="num") for arm in run.arms]
    if run.effect:
        heads.append(DIFFERENCE)
    quality, prices = ([n for n in names if numbers.measure(n).cost == priced] for priced in (False, True))
    bodies = [tag("tbody", "".join(_arms_row(run, name) for name in quality))]
    if prices:
        group = tag("tr", tag("th", "cost to use", scope="rowgroup", colspan=len(heads) + 1, class_="group"))
        bodies.append(tag("tbody", group + "".join(_arms_row(run, name) for name in prices)))
    head = tag("thead", tag("tr", tag("td", "") + "".join(heads)))
    inside = tag("caption", "Arms by column, measurements by row", class_="hidden") + head + "".join(bodies)
    return scrolling(tag("table", inside, class_="arms"), "arms") + _without_interval(run.effect)


def _without_interval(effect: Mapping[str, Mapping[str, Any]]) -> str:
    """Why some differences have no interval, said once."""
    bare = [
        numbers.measure(name).label
        for name, change in effect.items()
        if change.get("low") is None and numbers.is_number(change["difference"])
    ]
    why = "a number of the whole test, not one for each example that could be drawn anew; repeat over seeds for one"
    return tag("p", escape(f"No interval: {', '.join(bare)} ({why})."), class_="small") if bare else ""


def _arms_row(run: RunFiles, name: str) -> str:
    better = numbers.measure(name).better
    arrow = {"higher": "↑", "lower": "↓"}.get(better)
    mark = "&nbsp;" + tag("abbr", arrow, title=f"{better} is better") if arrow else ""
    cells = [tag("td", _value(name, metrics), class_="num") for metrics in run.arms.values()]
    if run.effect:
        cells.append(difference_cell(name, interval_of(run.effect[name])) if name in run.effect else NO_DIFFERENCE)
    return tag("tr", tag("th", escape(numbers.heading(name)) + mark, scope="row") + "".join(cells))


def _value(name: str, metrics: Mapping[str, Any]) -> str:
    ends = bounds(name, metrics)
    below = tag("span", escape(" to ".join(ends)), class_="below") if ends else ""
    return escape(numbers.metric(name, metrics.get(name))) + below


def difference_cell(name: str, interval: Interval) -> str:
    """The difference with its bounds, and the interval drawn: beside it, or below where the page is narrow."""
    found = reading(name, interval)
    mean, *ends = interval_texts(name, interval)
    shown = tag("b", escape(mean) + tag("span", escape(" " + numbers.change_unit(name)), class_="unit"))
    shown += " " + tag("span", escape(" to ".join(ends)), class_="bounds")
    return tag("td", shown + tag("span", whisker(name, interval), class_="drawn"), class_=f"num {found}")


def whisker(name: str, interval: Interval) -> str:
    """The interval as a line with a dot, better to the right; each row has a scale of its own."""
    if interval.low is None or interval.high is None or not all(map(math.isfinite, (interval.low, interval.high))):
        return ""
    found = reading(name, interval)
    side = -1 if numbers.measure(name).better == "lower" else 1
    reach = max(abs(interval.low), abs(interval.high), 1e-12) * 1.1
    low, mid, high = (70 + side * 64 * v / reach for v in (interval.low, interval.mean, interval.high))
    words = {"better": "better", "worse": "worse", "unclear": "the interval holds zero", "unknown": ""}[found]
    marks = (
        tag("title", escape(words))
        + tag("line", x1=70, x2=70, y1=1, y2=19, class_="zero")
        + tag("line", x1=low, x2=high, y1=10, y2=10, class_="reach")
        + tag("circle", cx=mid, cy=10, r=4)
    )
    label = f"{numbers.measure(name).label}: {words}"
    return tag("svg", marks, viewBox="0 0 140 20", role="img", aria_label=label, class_=f"whisker {found}")


# --- the rest ------------------------------------------------------------------------------


def ledger(run: RunFiles) -> str:
    """What training took, by stage and role."""
    entries = run.ledger or run.summary.get("cost") or {}
    rows = list(_rows(entries))
    columns = list(dict.fromkeys(key for _, _, row in rows for key in row))
    rest = {name: value for name, value in entries.items() if not isinstance(value, Mapping)}
    return (_ledger_table(rows, columns) if columns else "") + (definitions(rest) if rest else "")


def _rows(entries: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterable[tuple[tuple[str, ...], str, dict]]:
    """Every group of numbers in a nested ledger: where it lies, the colour of its dot, its own numbers."""
    for name, value in entries.items():
        if isinstance(value, Mapping):
            where = (*path, str(name))
            if value:
                yield where, _actor(where), {key: v for key, v in value.items() if not isinstance(v, Mapping)}
            yield from _rows(value, where)


def _actor(where: tuple[str, ...]) -> str:
    """Who does the work in a row: a stage's "student" is the network that the stage trains, whatever it is to be."""
    return where[0].split("-")[0] if where[1:] == ("student",) else where[-1]


def _ledger_table(rows: list[tuple[tuple[str, ...], str, dict]], columns: list[str]) -> str:
    head = "".join(tag("th", escape(_named(key)), scope="col", class_="num") for key in columns)
    nested = any(len(where) > 1 for where, _, _ in rows)
    dots = colours(dict.fromkeys(actor for where, actor, _ in rows if len(where) == 1 + nested))
    lines = []
    for where, actor, row in rows:
        dot = tag("i", class_=dots[actor]) if len(where) == 1 + nested else ""
        named = f"{where[0]}, in training" if where[1:] == ("student",) else where[-1]
        label = tag("th", dot + escape(named), scope="row", class_=f"depth-{min(len(where) - 1, 3)}")
        cells = "".join(tag("td", escape(numbers.named(key, row.get(key, ""))), class_="num") for key in columns)
        lines.append(tag("tr", label + cells))
    first = tag("td", "stage and role" if nested else "")
    inside = tag("caption", "What training took; measuring the arms is not in it")
    inside += tag("thead", tag("tr", first + head)) + tag("tbody", "".join(lines))
    return scrolling(tag("table", inside, class_="ledger"), "what training took")


def recipe(run: RunFiles) -> str:
    """The resolved recipe, folded away."""
    if not run.recipe:
        return ""
    shown = "\n".join(_yaml_line(line) for line in run.recipe.rstrip().splitlines())
    count = f"recipe.yaml, {len(run.recipe.splitlines())} lines"
    return tag("details", tag("summary", count) + tag("pre", shown, class_="code", tabindex=0))


def _yaml_line(line: str) -> str:
    """A line of YAML with its key set apart."""
    key, colon, rest = line.partition(":")
    if not colon or line.lstrip().startswith("#"):
        return escape(line)
    return tag("span", escape(key + colon), class_="key") + escape(rest)


def reproduce(run: RunFiles) -> str:
    """The commands that give this run again, and more; of an unfinished run, the one that goes on with it."""
    if not run.finished:
        return _commands([(repeat.onward(run), "goes on from its last checkpoint")]) if run.recipe else ""
    steps = [(repeat.again(run), "this run again, called in its folder")] if run.recipe else []
    if proof := repeat.proof(run):
        steps.append((proof, "its recipe over seeds, against what it expects, called in its folder"))
    return _commands([*steps, ("stillhouse compare RUN RUN", "this run beside others")])


def _commands(steps: Iterable[tuple[str, str]]) -> str:
    lines = "\n".join(f"{tag('span', '# ' + escape(why), class_='key')}\n{escape(command)}" for command, why in steps)
    return tag("pre", lines, class_="code", tabindex=0)


def environment(run: RunFiles) -> str:
    """Machine, versions, fingerprints and licences."""
    tables = []
    if run.summary.get("environment"):
        tables.append(tag("h3", "Environment") + definitions(run.summary["environment"]))
    if run.provenance:
        tables.append(tag("h3", "Provenance") + definitions(run.provenance))
    return "".join(tables)


def definitions(values: Mapping[str, Any]) -> str:
    """Nested values as terms and descriptions."""
    items = []
    for name, value in values.items():
        label = tag("dt", escape(_named(str(name))))
        items.append(tag("div", label + tag("dd", _described(str(name), value))))
    return tag("dl", "".join(items), class_="nested")


def _named(key: str) -> str:
    return COLUMNS.get(key, key.replace("_", " "))


def _described(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return definitions(value) if value else numbers.NOTHING
    if isinstance(value, list):
        if any(isinstance(item, Mapping | list) for item in value):
            return "".join(_described(name, item) for item in value)
        return escape(", ".join(numbers.named(name, item) for item in value)) or numbers.NOTHING
    return escape(numbers.named(name, value))


def missing(run: RunFiles) -> str:
    """What the page could not show, and why."""
    if not run.missing:
        return ""
    absent = "; ".join(f"{name} ({PARTS[name]})" for name in run.missing)
    return note(f"Missing from the run folder, and so from this page: {absent}.")
