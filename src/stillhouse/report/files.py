"""What a report is made from: the files of a run folder, those that are there."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from stillhouse.engine.folder import read_json, read_lines
from stillhouse.errors import StillhouseError

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C is ten times faster, and not in every build of PyYAML."""

PARTS = {
    "summary.json": "the metrics of the arms",
    "metrics.jsonl": "the loss curves",
    "figures.json": "the figures",
    "ledger.json": "the cost ledger",
    "recipe.yaml": "the recipe",
    "provenance.json": "the provenance",
}


@dataclass
class RunFiles:
    """The files of a run folder, read. What is absent is empty here and named in `missing`."""

    folder: Path
    summary: dict[str, Any] = field(default_factory=dict)
    lines: list[dict[str, Any]] = field(default_factory=list)
    """metrics.jsonl, a line each."""
    figures: list[dict[str, Any]] = field(default_factory=list)
    ledger: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    recipe: str = ""
    launch: dict[str, Any] = field(default_factory=dict)
    """How it was started: device, root, plugins. Not in `missing`: a folder may be shown without it."""
    classes: int | None = None
    """Of the student's task, where that is one of telling classes apart."""
    missing: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.summary.get("name") or self.plan.get("name") or self.folder.resolve().name)

    @property
    def arms(self) -> dict[str, dict[str, Any]]:
        """Metrics by arm: teacher, student, control, then the others."""
        found = self.summary.get("arms", {})
        first = [name for name in ("teacher", "student", "control") if name in found]
        return {name: found[name] for name in [*first, *(n for n in found if n not in first)]}

    @property
    def finished(self) -> bool:
        return bool(self.arms)

    @property
    def seed(self) -> int | None:
        return self.summary.get("seed", self.plan.get("seed"))

    @property
    def examples(self) -> int | None:
        """How many examples the arms were measured on, where the provenance tells."""
        data = self.provenance.get("data")
        split = data.get(str(self.plan.get("evaluate_on", "test"))) if isinstance(data, dict) else None
        found = split.get("examples") if isinstance(split, dict) else None
        return found if isinstance(found, int) and found > 0 else None

    @cached_property
    def plan(self) -> dict[str, Any]:
        """What the recipe says, as plain data; empty where there is none.

        Raises StillhouseError where it is not YAML, or holds aliases: a resolved recipe has none, and
        they can blow up.
        """
        where = self.folder / "recipe.yaml"
        try:
            if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(self.recipe, _LOADER)):
                raise StillhouseError(f"{where} holds YAML aliases; the recipe of a run folder has none")
            plan = yaml.load(self.recipe, Loader=_LOADER)
        except yaml.YAMLError as error:
            raise StillhouseError(f"{where} is not YAML: {error}") from error
        return plan if isinstance(plan, dict) else {}

    @property
    def effect(self) -> dict[str, dict[str, Any]]:
        """Student minus control, by metric."""
        return self.summary.get("effect") or {}


def read_run(folder: Path) -> RunFiles:
    """Read a run folder. Raises StillhouseError where it is none, or where a file in it is not what it should be."""
    if not folder.is_dir():
        raise StillhouseError(f"no run folder at {folder}")
    missing = [name for name in PARTS if not (folder / name).is_file()]
    if len(missing) == len(PARTS):
        raise StillhouseError(f"{folder} is no run folder: it holds none of {', '.join(PARTS)}")
    run = RunFiles(folder, missing=missing)
    run.summary = _summary(folder / "summary.json")
    run.figures = [f for f in _read(folder / "figures.json", list) if isinstance(f, dict)]
    run.ledger = _read(folder / "ledger.json", dict)
    run.provenance = _read(folder / "provenance.json", dict)
    run.lines = read_lines(folder / "metrics.jsonl")
    run.launch = _read(folder / "launch.json", dict)
    run.classes = _classes(_read(folder / "student" / "config.json", dict))
    if "recipe.yaml" not in missing:
        run.recipe = (folder / "recipe.yaml").read_text(encoding="utf-8")
    return run


def _classes(config: dict[str, Any]) -> int | None:
    """How many classes a saved student tells apart."""
    facts = config.get("facts")
    found = facts.get("classes") if isinstance(facts, dict) and facts.get("task") == "classification" else None
    return found if isinstance(found, int) and found > 1 else None


def _summary(path: Path) -> dict[str, Any]:
    """summary.json, its shape checked where the report leans on it."""
    summary = _read(path, dict)
    arms, effect = summary.get("arms", {}), summary.get("effect") or {}
    if not isinstance(arms, dict) or not all(isinstance(metrics, dict) for metrics in arms.values()):
        raise StillhouseError(f"{path}: 'arms' must map each arm to its metrics")
    if not isinstance(effect, dict) or not all(isinstance(c, dict) and "difference" in c for c in effect.values()):
        raise StillhouseError(f"{path}: 'effect' must map each metric to its 'difference', 'low' and 'high'")
    return summary


def _read(path: Path, shape: type) -> Any:
    if not path.is_file():
        return shape()
    value = read_json(path)
    if not isinstance(value, shape):
        raise StillhouseError(f"{path} holds a {type(value).__name__} where a {shape.__name__} belongs")
    return value
