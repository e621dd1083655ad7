"""Runs side by side: over seeds where they are the same recipe, beside each other where they are not."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillhouse.engine.folder import write_text
from stillhouse.errors import StillhouseError
from stillhouse.evaluation import statistics
from stillhouse.report import numbers
from stillhouse.report.figures.frame import colours, scrolling
from stillhouse.report.files import RunFiles, read_run
from stillhouse.report.page import DIFFERENCE, NO_DIFFERENCE, difference_cell, page
from stillhouse.report.svg import breakable, escape, tag
from stillhouse.report.table import ROOM, aligned, difference, metric_names
from stillhouse.report.verdict import interval_of


@dataclass(frozen=True)
class Spread:
    """A metric over the seeds of a group."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return self.interval.mean

    @property
    def std(self) -> float:
        """Sample standard deviation; 0 for one seed."""
        return statistics.spread(self.values)

    @property
    def interval(self) -> statistics.Interval:
        """Student's t, 95 %; no bounds for one seed."""
        return statistics.t_interval(self.values)

    def to_dict(self) -> dict[str, Any]:
        low, high = self.interval.low, self.interval.high
        return {"mean": self.mean, "std": self.std, "low": low, "high": high, "values": list(self.values)}


@dataclass(frozen=True)
class Group:
    """The runs of one recipe: they differ by their seed alone."""

    name: str
    """The recipe's."""
    settings: tuple[str, ...]
    """What the other groups of that name do not share with it: "train.steps=300"."""
    runs: tuple[RunFiles, ...]

    @property
    def label(self) -> str:
        return " ".join([self.name, *self.settings])

    @property
    def seeds(self) -> list[int | None]:
        return [run.seed for run in self.runs]

    @property
    def arms(self) -> dict[str, dict[str, Spread]]:
        """Each arm's metrics over the seeds that have them."""
        names = list(dict.fromkeys(arm for run in self.runs for arm in run.arms))
        return {arm: self._spreads([run.arms.get(arm, {}) for run in self.runs]) for arm in names}

    def interval(self, name: str) -> statistics.Interval:
        """The teacher's effect on a metric: over the seeds, or over the test examples where there is one run."""
        own = self.runs[0].effect.get(name)
        return interval_of(own) if len(self.runs) == 1 and own else self.effect[name].interval

    @property
    def effect(self) -> dict[str, Spread]:
        """Student minus control within each run, over the seeds: pairs, so that what a seed does to both cancels."""
        pairs = [
            (run.arms["student"], run.arms["control"]) for run in self.runs if {"student", "control"} <= set(run.arms)
        ]
        changes = [
            {n: s[n] - c[n] for n in s if _is_quality(n, s) and numbers.is_number(s[n]) and numbers.is_number(c.get(n))}
            for s, c in pairs
        ]
        return self._spreads(changes)

    def _spreads(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Spread]:
        names = dict.fromkeys(name for row in rows for name, value in row.items() if numbers.is_number(value))
        return {n: Spread(tuple(float(row[n]) for row in rows if numbers.is_number(row.get(n)))) for n in names}


@dataclass(frozen=True)
class Comparison:
    """Several groups of runs."""

    groups: tuple[Group, ...]

    @property
    def metrics(self) -> list[str]:
        """Every metric of any group, once."""
        return list(dict.fromkeys(name for group in self.groups for name in metric_names(group.arms)))

    @property
    def headline(self) -> str:
        """How many runs of how many recipes: "3 runs: 1 recipe, 3 settings"."""
        names = len({group.name for group in self.groups})
        runs = _many(sum(len(group.runs) for group in self.groups), "run")
        if len(self.groups) > names:
            return f"{runs}: {_many(names, 'recipe')}, {_many(len(self.groups), 'setting')}"
        return f"{runs} of {_many(names, 'recipe')}"

    def table(self) -> str:
        """Plain text: for each group its arms and what the teacher changed, metrics by row; then all students."""
        blocks = []
        for number, group in enumerate(self.groups, start=1):
            head = ["", *group.arms, *([f"student {numbers.MINUS} control"] if group.effect else [])]
            rows = [[numbers.heading(name), *self._cells(group, name)] for name in metric_names(group.arms)]
            title = f"{self._mark(number)}{group.label} ({_seeds(group)})"
            blocks.append(f"{textwrap.fill(title, ROOM, subsequent_indent='    ')}\n{aligned([head, *rows])}")
        if len(self.groups) > 1:
            blocks.append(f"side by side: student\n{aligned(self._beside('student'))}")
        return "\n\n".join(blocks)

    def _mark(self, number: int) -> str:
        """What stands for a group in the table of all of them."""
        return f"[{number}] " if len(self.groups) > 1 else ""

    def _cells(self, group: Group, name: str) -> list[str]:
        cells = [spread_text(name, arm.get(name)) for arm in group.arms.values()]
        if group.effect:
            cells.append(difference(name, group.interval(name)) if name in group.effect else "")
        return cells

    def _beside(self, arm: str) -> list[list[str]]:
        """One arm of every group, each under its number."""
        head = ["", *(self._mark(number).strip() for number in range(1, len(self.groups) + 1))]
        shown = [name for name in self.metrics if any(name in group.arms.get(arm, {}) for group in self.groups)]
        return [
            head,
            *([numbers.heading(n), *(spread_text(n, g.arms.get(arm, {}).get(n)) for g in self.groups)] for n in shown),
        ]

    def to_dict(self) -> dict[str, Any]:
        """As JSON: by group its folders, seeds, arms and effect, each metric with mean, std, interval and values."""
        return {
            "groups": [
                {
                    "label": group.label,
                    "folders": [str(run.folder) for run in group.runs],
                    "seeds": group.seeds,
                    "arms": {arm: {n: s.to_dict() for n, s in of.items()} for arm, of in group.arms.items()},
                    "effect": {n: s.to_dict() for n, s in group.effect.items()},
                }
                for group in self.groups
            ]
        }

    def html(self, path: Path) -> Path:
        """Write the comparison as one self-contained page."""
        write_text(Path(path), page("Comparison", self._body()))
        return Path(path)

    def _body(self) -> str:
        eyebrow = tag("p", tag("b", "Stillhouse") + " · comparison", class_="eyebrow")
        head = tag("h1", escape(self.headline))
        body = tag("header", eyebrow + head + tag("p", self._lead(), class_="lead"))
        if len(self.groups) > 1:
            body += tag("section", tag("h2", "Students side by side") + self._students())
        for number, group in enumerate(self.groups, start=1):
            title = tag("h2", escape(self._mark(number) + group.label)) + tag(
                "p", escape(_seeds(group)), class_="small"
            )
            body += tag("section", title + self._group_table(group))
        return body

    def _lead(self) -> str:
        """What the numbers are over."""
        if all(len(group.runs) == 1 for group in self.groups):
            each = "One run of each" if len(self.groups) > 1 else "One run"
            return f"{each}: its intervals are over its test examples, not over seeds."
        some = any(len(group.runs) == 1 for group in self.groups)
        over = "Where there are several seeds: means" if some else "Over seeds: means"
        return f"{over} and standard deviations; differences are taken within a seed, with Student's t interval."

    def _students(self) -> str:
        """The students as a table, each column headed by what sets its group apart."""
        head, *rows = self._beside("student")
        heads = tag("td", "")
        for mark, group in zip(head[1:], self.groups, strict=True):
            apart = "".join(tag("span", escape(text), class_="setting") for text in (group.name, *group.settings))
            heads += tag("th", escape(mark) + apart, scope="col", class_="num group-head")
        body = (
            tag("th", escape(row[0]), scope="row") + "".join(tag("td", escape(cell), class_="num") for cell in row[1:])
            for row in rows
        )
        inside = tag("thead", tag("tr", heads)) + tag("tbody", "".join(tag("tr", row) for row in body))
        return scrolling(tag("table", inside, class_="arms"), "students side by side")

    def _group_table(self, group: Group) -> str:
        dots = colours(group.arms)
        heads = [
            tag("th", tag("i", class_=dots[arm]) + breakable(arm), scope="col", class_="num") for arm in group.arms
        ]
        if group.effect:
            heads.append(DIFFERENCE)
        rows = []
        for name in metric_names(group.arms):
            cells = [tag("td", escape(spread_text(name, arm.get(name))), class_="num") for arm in group.arms.values()]
            if group.effect:
                known = name in group.effect
                cells.append(difference_cell(name, group.interval(name)) if known else NO_DIFFERENCE)
            rows.append(tag("tr", tag("th", escape(numbers.heading(name)), scope="row") + "".join(cells)))
        inside = tag("thead", tag("tr", tag("td", "") + "".join(heads))) + tag("tbody", "".join(rows))
        return scrolling(tag("table", inside, class_="arms"), group.label)


def _is_quality(name: str, metrics: Mapping[str, Any]) -> bool:
    """Whether a metric says how good an arm is: no cost, and no bound of another metric."""
    return not numbers.measure(name).cost and not statistics.is_bound(name, metrics)


def compare(folders: Sequence[str | Path]) -> Comparison:
    """Put runs side by side. Runs whose recipes differ by the seed alone are one group.

    Raises StillhouseError for a folder that holds no finished run, and where two runs of one group
    have the same seed: they are one experiment twice, and would make an interval too narrow.
    """
    if not folders:
        raise StillhouseError("name at least one run folder to compare")
    runs = [read_run(Path(folder)) for folder in folders]
    for run in runs:
        if not run.arms:
            raise StillhouseError(f"{run.folder} holds no finished run: there are no arms in summary.json")
    groups: list[list[RunFiles]] = []
    for run in runs:
        home = next((group for group in groups if _same(group[0], run)), None)
        if home is None:
            groups.append([run])
        elif run.seed in [other.seed for other in home]:
            twin = next(other for other in home if other.seed == run.seed)
            raise StillhouseError(
                f"{twin.folder} and {run.folder} are the same recipe with the same seed: leave one out"
            )
        else:
            home.append(run)
    apart = _settings([group[0] for group in groups])
    return Comparison(tuple(Group(g[0].name, own, tuple(g)) for g, own in zip(groups, apart, strict=True)))


def _same(a: RunFiles, b: RunFiles) -> bool:
    """Whether two runs differ by their seed alone."""
    return a.name == b.name and _flat(a.plan) == _flat(b.plan)


def _settings(runs: Sequence[RunFiles]) -> list[tuple[str, ...]]:
    """For each run what the recipes of the same name do not share; the folder where that tells no two apart."""
    found = []
    for run in runs:
        plans = [_flat(other.plan) for other in runs if other.name == run.name]
        own = _flat(run.plan)
        apart = [key for key in own if any(plan.get(key) != own[key] for plan in plans)]
        found.append(tuple(f"{key}={own[key]}" for key in apart[:4]))
    told = [(run.name, own) for run, own in zip(runs, found, strict=True)]
    return [
        own if told.count((run.name, own)) == 1 else (*own, f"({run.folder})")
        for run, own in zip(runs, found, strict=True)
    ]


def _flat(plan: Any, above: str = "") -> dict[str, Any]:
    """A recipe as dotted keys, without its seed."""
    if isinstance(plan, Mapping):
        pairs = [(str(key), value) for key, value in plan.items() if above or key != "seed"]
    elif isinstance(plan, list):
        pairs = [(str(place), value) for place, value in enumerate(plan)]
    else:
        return {above: plan}
    return {k: v for key, value in pairs for k, v in _flat(value, f"{above}.{key}" if above else key).items()}


def spread_text(name: str, spread: Spread | None) -> str:
    """A mean with the standard deviation over seeds, or nothing."""
    if spread is None:
        return numbers.NOTHING
    return numbers.spread(name, spread.mean, spread.std)


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _seeds(group: Group) -> str:
    """What the group's intervals are over."""
    seeds = [str(seed) for seed in group.seeds if seed is not None]
    said = f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}" if seeds else f"{len(group.runs)} runs, no seed recorded"
    return said if len(group.runs) > 1 else f"{said}; intervals over its test examples"
