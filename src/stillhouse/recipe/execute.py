"""Running a recipe: its stages, then its arms' measurements, then what the run folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stillhouse.engine.checkpoint import read_summed, write_summed
from stillhouse.engine.contracts import Data, Stage
from stillhouse.engine.events import Events, Listener
from stillhouse.engine.folder import RunFolder, read_json, read_lines, write_json, write_text
from stillhouse.engine.loop import Loop
from stillhouse.engine.paths import root, set_root
from stillhouse.engine.process import Process
from stillhouse.engine.progress import progress as progress_view
from stillhouse.engine.sharding import gathered
from stillhouse.engine.trackers import tracker
from stillhouse.errors import Interrupted, StillhouseError
from stillhouse.evaluation.findings import Arm, Context, Findings, measured
from stillhouse.evaluation.kinds import GradientConflict
from stillhouse.evaluation.statistics import effect
from stillhouse.kinds import load_plugin
from stillhouse.recipe.builder import Builder
from stillhouse.recipe.check import check as preflight
from stillhouse.recipe.plan import files_there, planned
from stillhouse.recipe.provenance import environment, provenance
from stillhouse.recipe.schema import Recipe
from stillhouse.students.save import save_student
from stillhouse.teachers.stored import StoredTeacher

BEGUN = {".lock", "metrics.jsonl", "launch.json"}
"""What a run that was killed before its first step may leave."""


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and what it found."""

    folder: Path

    @cached_property
    def summary(self) -> dict[str, Any]:
        """`summary.json`: name, seed, arms, effect, cost, environment."""
        return read_json(self.folder / "summary.json")

    @property
    def report(self) -> Path:
        """The page the run left behind."""
        return self.folder / "report.html"

    def table(self) -> str:
        """The arms and their metrics, for a terminal."""
        from stillhouse.report.table import arms_table

        return arms_table(self.summary)


def distill(
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    device: str | None = None,
    progress: bool | None = None,
    listeners: Sequence[Listener] = (),
    plugins: Sequence[str | Path] = (),
    track: str | None = None,
    check: bool = True,
) -> Run:
    """Run a recipe from its start and leave a run folder.

    Args:
        out: the folder; by default `runs/<name>`, or the first of `runs/<name>-2`, ... that is free.
        device: "cpu", "cuda", ...; by default the fastest there is.
        progress: False shows nothing.
        listeners: more listeners to the run's events.
        plugins: files whose kinds the recipe uses; a resumed run loads them again.
        track: "tensorboard", "trackio" or "wandb", fed under the run folder; a resumed run goes on with it.
        check: look for what would ruin the run before it starts (stillhouse.recipe.check).

    Raises StillhouseError when the check finds an error, or the folder holds a run or other files; RunFailed,
    Interrupted.
    """
    process = Process(device)
    folder = Path(process.gather(str(_new_folder(recipe.name) if out is None else out))[0])
    if process.agree((folder / "recipe.yaml").exists())[0]:
        raise StillhouseError(
            f"{folder} holds a run already: go on with `stillhouse resume {folder}`, or choose another --out"
        )
    if process.agree(process.first and _holds_other_files(folder))[0]:
        raise StillhouseError(f"{folder} holds files that are no run's: choose another --out, so that none is lost")
    listeners = [*listeners, *_trackers(track, folder, process)]
    builder = Builder(recipe, process.device)
    warnings = require_fit(recipe, device, builder.data) if check else []
    with RunFolder(folder, writes=process.first) as opened:
        if process.first:
            begin(recipe, folder, device=device, plugins=plugins, track=track)
        return _run(builder, opened, process, progress, listeners, warnings)


def begin(
    recipe: Recipe,
    folder: Path,
    *,
    device: str | None = None,
    plugins: Sequence[str | Path] = (),
    track: str | None = None,
) -> None:
    """Write what makes a folder a run's, the recipe last: `resume` starts from there."""
    from stillhouse.recipe.text import dump

    plugged = [str(Path(plugin).resolve()) for plugin in plugins]
    write_json(folder / "launch.json", {"device": device, "root": str(root()), "plugins": plugged, "track": track})
    write_text(folder / "recipe.yaml", dump(recipe))


def resume(
    folder: str | Path,
    *,
    progress: bool | None = None,
    listeners: Sequence[Listener] = (),
    track: str | None = None,
) -> Run:
    """Go on with a run that was stopped or killed; nothing is done for one that is finished.

    Args: as `distill`'s; without `track`, the tracker that the run was started with.
    Raises StillhouseError when the folder holds no run.
    """
    from stillhouse.recipe.text import load

    folder = Path(folder)
    if not (folder / "recipe.yaml").is_file():
        raise StillhouseError(f"{folder} holds no run (there is no recipe.yaml in it); start one with `stillhouse run`")
    if (folder / "summary.json").exists() and (folder / "report.html").exists():
        return Run(folder)
    launch = read_json(folder / "launch.json")
    set_root(launch["root"])
    for plugin in launch["plugins"]:
        load_plugin(plugin)
    process = Process(launch["device"])
    listeners = [*listeners, *_trackers(track or launch.get("track"), folder, process)]
    with RunFolder(folder, writes=process.first) as opened:
        return _run(Builder(load(folder / "recipe.yaml"), process.device), opened, process, progress, listeners)


def _trackers(name: str | None, folder: Path, process: Process) -> list[Listener]:
    """The run's tracker, in the process that writes; every process finds out if it is not installed."""
    found = [] if name is None else [tracker(name, folder)]
    return found if process.first else []


def require_fit(recipe: Recipe, device: str | None, data: Data | None = None) -> list[str]:
    """What the preflight warns of; `data` is the recipe's, where it was built before.

    Raises StillhouseError with every error it finds.
    """
    report = preflight(recipe, device, data)
    if not report.passed:
        found = "\n".join(f"  {f.what}: {f.told}" for f in report.findings if f.level == "error")
        raise StillhouseError(f"{recipe.name} cannot run as it stands, and nothing was written:\n{found}")
    return [f"warning: {f.what}: {f.told}" for f in report.findings if f.level == "warning"]


def _run(
    builder: Builder,
    folder: RunFolder,
    process: Process,
    progress: bool | None,
    listeners: Sequence[Listener],
    warnings: Sequence[str] = (),
) -> Run:
    recipe = builder.recipe
    shown = progress_view(progress) if process.first else None
    events = Events([*([shown] if shown else []), *listeners])
    try:
        for warning in warnings:
            events.say(warning)
        stages = planned(recipe)
        for stage in stages:
            files_there(stage)
        spent = {stage.name: run_stage(builder, stage, process, folder, events) for stage in stages}
        if process.first:
            events.say("measuring the arms")
            _conclude(recipe, builder, builder.arms(stages), folder.path, spent)
        process.wait()
    except Interrupted as stopped:
        raise Interrupted(f"{stopped}. Go on with: stillhouse resume {folder.path}") from None
    finally:
        events.close()
    return Run(folder.path)


def run_stage(builder: Builder, stage: Any, process: Process, folder: RunFolder, events: Events) -> dict[str, Any]:
    """Run a stage, or take up what it left when it was done before. Returns its ledger."""
    kept = read_summed(folder.stages, stage.name)
    if kept is None:
        recipe = builder.recipe
        looks = max((metric.looks for metric in recipe.evaluate if isinstance(metric, GradientConflict)), default=0)
        staged = builder.stage(stage)
        loop = Loop(staged, process=process, folder=folder, events=events, seed=recipe.seed, looks=looks)
        done = loop.run()
        final = done.method.players()[done.keeps].final
        state = {name: value.detach().cpu() for name, value in gathered(final.network.state_dict()).items()}
        kept = {"network": state, "ledger": loop.ledger.state_dict(), "told": _told(done, events)}
        if process.first:
            write_summed(folder.stages, stage.name, kept)
        process.wait()
    builder.handed[stage.name] = kept["network"]
    return kept["ledger"] | ({"told": kept["told"]} if kept["told"] else {})


def _told(stage: Stage, events: Events) -> dict[str, float]:
    """What the method tells of its stage, and the share of each teacher's targets that came from a store."""
    told = stage.method.told()
    for name, role in vars(stage.method).items():
        if isinstance(role, StoredTeacher):
            told[f"{name}_from_store"] = role.fraction
            events.say(f"{stage.name}: {role.fraction:.1%} of the {name}'s targets came from {role.store.folder}")
    return told


def measure(
    recipe: Recipe, builder: Builder, arms: dict[str, Arm], lines: Sequence[dict[str, Any]] = ()
) -> dict[str, Findings]:
    """Every measurement of every arm, on the split the recipe names; `lines` are those of metrics.jsonl.

    Raises StillhouseError for a metric that its kind does not register under `gives`.
    """
    source = getattr(builder.data, recipe.evaluate_on)
    logged = {stage: [line for line in lines if line["stage"] == stage] for stage in {line["stage"] for line in lines}}
    context = Context(builder.data, source, arms, recipe.seed, builder.device, logged=logged)
    found = {}
    for name, arm in arms.items():
        findings = found[name] = Findings()
        for metric in recipe.evaluate:
            findings.add(measured(metric, arm, context))
    return found


def measured_on(folder: Path, split: str) -> dict[str, dict[str, float]]:
    """The metrics of a finished run's arms on another split, from the weights in its folder."""
    from stillhouse.recipe.text import load

    recipe = load(folder / "recipe.yaml", [f"evaluate_on={split}"])
    builder = Builder(recipe, Process(read_json(folder / "launch.json")["device"]).device)
    stages = planned(recipe)
    for stage in stages:
        kept = read_summed(folder / "stages", stage.name)
        if kept is None:
            raise StillhouseError(f"{folder} is no finished run: its stage {stage.name!r} is not done")
        builder.handed[stage.name] = kept["network"]
    lines = read_lines(folder / "metrics.jsonl")
    return {name: found.metrics for name, found in measure(recipe, builder, builder.arms(stages), lines).items()}


def _conclude(
    recipe: Recipe, builder: Builder, arms: dict[str, Arm], folder: Path, spent: dict[str, dict[str, Any]]
) -> None:
    """Measure the arms and write the run folder's files; the summary and the report come last."""
    from stillhouse.report.card import write_card
    from stillhouse.report.page import write_report

    found = measure(recipe, builder, arms, read_lines(folder / "metrics.jsonl"))
    teacher = arms.get("teacher")
    kind = recipe.student.network or (recipe.teacher and recipe.teacher.network)
    assert kind is not None, "the schema checks that a student has a network"
    words = recipe.student
    save_student(
        arms["student"].model.network,
        kind,
        builder.data.facts,
        folder / "student",
        view=words.view,
        sampler=words.sampler,
    )
    write_json(folder / "provenance.json", provenance(builder.data, teacher and teacher.model))
    write_json(folder / "ledger.json", _ledger(spent, found))
    write_json(folder / "figures.json", [f | {"arm": name} for name, of in found.items() for f in of.figures])
    summary = {
        "name": recipe.name,
        "seed": recipe.seed,
        "arms": {name: of.metrics for name, of in found.items()},
        "effect": effect(found["student"], found["control"], seed=recipe.seed) if "control" in found else {},
        "cost": {"seconds": sum(row["seconds"] for row in spent.values())},
        "environment": environment(builder.device),
    }
    write_json(folder / "summary.json", summary)
    write_card(folder)
    write_report(folder)


def _ledger(spent: dict[str, dict[str, Any]], found: dict[str, Findings]) -> dict[str, Any]:
    """By stage and role: forward passes, examples, tokens, seconds; FLOPs where the cost was measured.

    A trained network's backward pass counts as two forward passes.
    """
    flops = {name: of.metrics["flops"] for name, of in found.items() if "flops" in of.metrics}
    ledger: dict[str, Any] = {}
    for stage, row in spent.items():
        roles = {}
        for role, counts in row["roles"].items():
            per_example = flops.get("teacher" if stage == "teacher" else role)
            own = {name: value for name, value in counts.items() if value}
            if per_example is not None:
                own["flops"] = per_example * counts["examples"] * (3 if role == "student" else 1)
            roles[role] = own
        ledger[stage] = {"seconds": round(row["seconds"], 3), **roles, **row.get("told", {})}
    return ledger


def _holds_other_files(folder: Path) -> bool:
    """Whether a folder holds what no start of a run leaves."""
    return folder.is_dir() and any(entry.name not in BEGUN for entry in folder.iterdir())


def _new_folder(name: str) -> Path:
    """The first folder of that name under runs/ that holds nothing."""
    folder, number = Path("runs") / name, 1
    while folder.exists() and any(folder.iterdir()):
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    return folder
