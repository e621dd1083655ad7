"""Runs side by side: over seeds where they are the same recipe, beside each other where they are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillhouse.engine.folder import write_text
from stillhouse.errors import StillhouseError
from stillhouse.evaluation import statistics
from stillhouse.report import numbers
from stillhouse.report.figures import colours
from stillhouse.report.files import RunFiles, read_run
from stillhouse.report.page import NO_DIFFERENCE, difference_cells, page
from stillhouse.report.svg import escape, tag
from stillhouse.report.table import aligned, difference, metric_names
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

    label: str
    runs: tuple[RunFiles, ...]

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

    def table(self) -> str:
        """Plain text: metrics by row; for each group its arms and what the teacher changed."""
        blocks = []
        for group in self.groups:
            head = ["", *group.arms, *([f"student {numbers.MINUS} control"] if group.effect else [])]
            rows = [[numbers.measure(name).label, *self._cells(group, name)] for name in metric_names(group.arms)]
            blocks.append(f"{group.label} ({_seeds(group)})\n{aligned([head, *rows])}")
        if len(self.groups) > 1:
            blocks.append(f"side by side: student\n{aligned(self._beside('student'))}")
        return "\n\n".join(blocks)

    def _cells(self, group: Group, name: str) -> list[str]:
        cells = [spread_text(name, arm.get(name)) for arm in group.arms.values()]
        if group.effect:
            cells.append(difference(name, group.interval(name)) if name in group.effect else "")
        return cells

    def _beside(self, arm: str) -> list[list[str]]:
        """One arm of every group."""
        head = ["", *(group.label for group in self.groups)]
        shown = [name for name in self.metrics if any(name in group.arms.get(arm, {}) for group in self.groups)]
        return [
            head,
            *(
                [numbers.measure(n).label, *(spread_text(n, g.arms.get(arm, {}).get(n)) for g in self.groups)]
                for n in shown
            ),
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
        runs = sum(len(group.runs) for group in self.groups)
        eyebrow = tag("p", tag("b", "Stillhouse") + " · comparison", class_="eyebrow")
        head = tag("h1", escape(f"{runs} runs of {len(self.groups)} recipe{'s' * (len(self.groups) > 1)}"))
        lead = (
            "Means and standard deviations over seeds; differences are taken within a seed, with Student's t interval."
        )
        body = tag("header", eyebrow + head + tag("p", lead, class_="lead"))
        if len(self.groups) > 1:
            body += tag("section", tag("h2", "Students side by side") + _html_table(self._beside("student")))
        for group in self.groups:
            title = tag("h2", escape(group.label)) + tag("p", escape(_seeds(group)), class_="small")
            body += tag("section", title + self._group_table(group))
        return body

    def _group_table(self, group: Group) -> str:
        dots = colours(group.arms)
        heads = [tag("th", tag("i", class_=dots[arm]) + escape(arm), scope="col", class_="num") for arm in group.arms]
        if group.effect:
            heads.append(tag("th", f"student {numbers.MINUS} control", scope="col", class_="num"))
            heads.append(tag("th", "worse ← 0 → better", scope="col", class_="glyph"))
        rows = []
        for name in metric_names(group.arms):
            cells = [tag("td", escape(spread_text(name, arm.get(name))), class_="num") for arm in group.arms.values()]
            if group.effect:
                known = name in group.effect
                cells += difference_cells(name, group.interval(name)) if known else [NO_DIFFERENCE]
            rows.append(tag("tr", tag("th", escape(numbers.measure(name).label), scope="row") + "".join(cells)))
        inside = tag("thead", tag("tr", tag("td", "") + "".join(heads))) + tag("tbody", "".join(rows))
        return tag("div", tag("table", inside, class_="arms"), class_="scroll")


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
    labels = _labels([group[0] for group in groups])
    return Comparison(tuple(Group(label, tuple(group)) for label, group in zip(labels, groups, strict=True)))


def _same(a: RunFiles, b: RunFiles) -> bool:
    """Whether two runs differ by their seed alone."""
    return a.name == b.name and _flat(a.plan) == _flat(b.plan)


def _labels(runs: Sequence[RunFiles]) -> list[str]:
    """A name for each group: the recipe's, and what the recipes of the same name do not share."""
    labels = []
    for run in runs:
        plans = [_flat(other.plan) for other in runs if other.name == run.name]
        own = _flat(run.plan)
        apart = [key for key in own if any(plan.get(key) != own[key] for plan in plans)]
        labels.append(" ".join([run.name, *(f"{key}={own[key]}" for key in apart[:4])]))
    return [
        label if labels.count(label) == 1 else f"{label} ({run.folder})"
        for label, run in zip(labels, runs, strict=True)
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


def _seeds(group: Group) -> str:
    """What the group's intervals are over."""
    seeds = [str(seed) for seed in group.seeds if seed is not None]
    said = f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}" if seeds else f"{len(group.runs)} runs, no seed recorded"
    return said if len(group.runs) > 1 else f"{said}; intervals over its test examples"


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    head = tag("td", "") + "".join(tag("th", escape(cell), scope="col", class_="num") for cell in rows[0][1:])
    body = (
        tag("th", escape(row[0]), scope="row") + "".join(tag("td", escape(cell), class_="num") for cell in row[1:])
        for row in rows[1:]
    )
    inside = tag("thead", tag("tr", head)) + tag("tbody", "".join(tag("tr", row) for row in body))
    return tag("div", tag("table", inside, class_="arms"), class_="scroll")
