"""Searching the choices that a recipe leaves open: trials on the validation split, and what mattered.

    done = search(load("my-recipe.yaml"))
    print(done.best)                # the best trial's choices and value
    run = distill(load(done.folder / "best.yaml"))

Every trial is a run of its own under `trials/`, with the recipe's seed: trials differ by their choices alone.
`search.json` holds all that the sampler goes by and is written whole after every step, so a search may be killed
at any time: called again it takes up the trial that was running and proposes what it would have proposed.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from stillhouse.engine.folder import hold, make_folder, read_json, write_json, write_text
from stillhouse.engine.process import Process
from stillhouse.engine.seeds import derive
from stillhouse.errors import Interrupted, RunFailed, StillhouseError
from stillhouse.evaluation.metrics import measures
from stillhouse.networks.kinds import File
from stillhouse.recipe.choices import SearchSpec
from stillhouse.recipe.execute import begin, require_fit, resume
from stillhouse.recipe.optuna_choices import distribution, optuna_package, param_of, value_of
from stillhouse.recipe.plan import network_of, planned
from stillhouse.recipe.provenance import environment
from stillhouse.recipe.schema import Recipe, TeacherSpec
from stillhouse.recipe.search_progress import search_progress
from stillhouse.recipe.text import dump, load, written

PROPOSALS, BY_CHANCE = 10, 1000
"""How often the sampler, and then chance, may propose choices that were tried before."""
ENOUGH = 4
"""Finished trials from which the importance of the choices is told."""


@dataclass
class Trial:
    """One setting of the choices, and what came of it."""

    number: int
    """From 1."""
    choices: dict[str, Any]
    state: Literal["running", "done", "failed"] = "running"
    value: float | None = None
    """The metric of its student on the validation split."""
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""
    starts_from: int | None = None
    """In a warm search: the trial whose student this one's starts from."""
    taught_by: int | None = None
    """In a warm search: the trial whose student is this one's teacher."""


@dataclass(frozen=True)
class Searched:
    """A finished search: its folder and what it found."""

    folder: Path

    @cached_property
    def outcome(self) -> dict[str, Any]:
        """`search.json`: the trials, the best one's number, the importance of each choice."""
        return read_json(self.folder / "search.json")

    @property
    def best(self) -> dict[str, Any]:
        """The best trial."""
        return self.outcome["trials"][self.outcome["best"] - 1]

    def trial_folder(self, number: int) -> Path:
        """The run folder of a trial."""
        return trial_folder(self.folder, number)


def search(
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    trials: int | None = None,
    device: str | None = None,
    progress: bool | None = None,
    plugins: Sequence[str | Path] = (),
) -> Searched:
    """Try the choices of a recipe's `search` section, or go on where an earlier call was stopped.

    Args:
        out: the search's folder; by default `runs/<name>-search`. Where it holds this recipe's search, that goes on.
        trials: in place of the recipe's; more than before adds some.
        device, progress, plugins: as for `distill`.

    Raises:
        StillhouseError: the recipe has no search, its check finds an error, optuna is missing, or the folder
            holds something else.
        RunFailed: every trial failed. One that fails is recorded and does not stop the others.
        Interrupted: the user did; the same call goes on.
    """
    if recipe.search is None:
        raise StillhouseError(f"the recipe {recipe.name!r} has no 'search' section: it leaves nothing open to choose")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise StillhouseError("a search runs in one process: start it without torchrun or accelerate")
    optuna_package()
    folder = Path("runs") / f"{recipe.name}-search" if out is None else Path(out)
    spec = recipe.search.model_copy(update={} if trials is None else {"trials": trials})
    recipe = recipe.model_copy(update={"search": spec})
    _claim(recipe, folder, device)
    with hold(folder):
        return _Search(recipe, spec, folder, device, plugins).run(progress)


def trial_folder(folder: Path, number: int) -> Path:
    """Where the run of a trial lies in its search's folder."""
    return folder / "trials" / f"{number:03d}"


def trial_recipe(recipe: Recipe, choices: Mapping[str, Any], *, whole: bool = False) -> Recipe:
    """The recipe with these choices: for a trial, on the validation split and without arms; or as a `whole`."""
    assert recipe.search is not None, "a search has a search section"
    taken = [written(*item) for item in choices.items()]
    if whole:
        return load(recipe, [*taken, "search=null", "proof=null", "evaluate_on=test"])
    common = [written(*item) for item in recipe.search.overrides.items()]
    plain = ["search=null", "proof=null", "control=false", "arms={}", "evaluate_on=validation"]
    return load(recipe, [*common, *taken, *plain])


def _claim(recipe: Recipe, folder: Path, device: str | None) -> None:
    """Make the folder this recipe's search, or see that it is. Raises StillhouseError where it is another's."""
    file = folder / "recipe.yaml"
    if file.is_file():
        if _asked(load(file)) != _asked(recipe):
            why = "the search of another recipe, or of this one before it was changed"
            raise StillhouseError(f"{folder} holds {why}: choose another --out")
    else:
        if folder.is_dir() and any(entry.name != ".lock" for entry in folder.iterdir()):
            raise StillhouseError(f"{folder} holds files that are no search's: choose another --out")
        require_fit(trial_recipe(recipe, {}), device)
        make_folder(folder)
    write_text(file, dump(recipe))


def _asked(recipe: Recipe) -> dict[str, Any]:
    """What a search is of; only how many trials there are may change."""
    return recipe.model_dump(mode="json", exclude={"search": {"trials"}})


class _Search:
    """A search at work."""

    def __init__(
        self, recipe: Recipe, spec: SearchSpec, folder: Path, device: str | None, plugins: Sequence[str | Path]
    ) -> None:
        self.recipe, self.spec, self.folder = recipe, spec, folder
        self.device, self.plugins = device, plugins
        self.maximise = (spec.direction or _direction(spec.metric)) == "maximise"
        there = folder / "search.json"
        known = read_json(there)["trials"] if there.is_file() else []
        self.trials = [Trial(**trial) for trial in known]
        self.stages: dict[str, Path] = {}
        for trial in self.of("done"):
            self._share(trial)

    def of(self, state: str) -> list[Trial]:
        """The trials in a state."""
        return [trial for trial in self.trials if trial.state == state]

    @property
    def best(self) -> Trial | None:
        """The best trial so far: of equals, the first."""
        return next(iter(self.ranked()), None)

    def ranked(self) -> list[Trial]:
        """The finished trials, the best first."""
        return sorted(self.of("done"), key=lambda trial: (trial.value or 0.0) * (-1 if self.maximise else 1))

    # --- the loop --------------------------------------------------------------------------

    def run(self, progress: bool | None) -> Searched:
        shown = search_progress(progress, self.spec)
        try:
            while trial := self._next():
                shown.begins(trial.number, trial.choices)
                self._try(trial, shown)
                self._save()
                shown.ends(asdict(trial), None if self.best is None else asdict(self.best))
        except (Interrupted, KeyboardInterrupt):
            self._conclude()
            again = f"stillhouse search {self.folder / 'recipe.yaml'} --out {self.folder}"
            raise Interrupted(f"stopped in trial {len(self.trials)}, saved. Go on with: {again}") from None
        finally:
            shown.close()
        self._conclude()
        if self.best is None:
            raise RunFailed(f"no trial of {self.folder} came to its end; the last one: {self.trials[-1].error}")
        return Searched(self.folder)

    def _next(self) -> Trial | None:
        """The trial that was running when the search was stopped, or else a new one; None when all are done."""
        for trial in self.of("running"):
            return trial
        if len(self.trials) >= self.spec.trials:
            return None
        choices = self._proposed(len(self.trials) + 1)
        if choices is None:
            return None
        trial = Trial(len(self.trials) + 1, choices)
        if self._warm(trial.number):
            pool = [other for other in self.ranked() if self._same_student(trial, other)]
            assert self.spec.warm is not None, "a cold search has no warm trials"
            if len(pool) > 1:
                drawn = random.Random(derive(self.recipe.seed, "warm", trial.number))
                start, teacher = drawn.sample(pool[: self.spec.warm.pool], 2)
                trial.starts_from, trial.taught_by = start.number, teacher.number
        self.trials.append(trial)
        self._save()
        return trial

    def _try(self, trial: Trial, shown: Any) -> None:
        began = time.perf_counter()
        folder = trial_folder(self.folder, trial.number)
        try:
            if not (folder / "recipe.yaml").is_file():
                self._prepare(trial, folder)
            summary = resume(folder, progress=False, listeners=[shown]).summary
            trial.metrics = summary["arms"]["student"]
            trial.value = trial.metrics.get(self.spec.metric)
            trial.state = "done"
            if trial.value is None or not math.isfinite(trial.value):
                raise RunFailed(f"{self.spec.metric} is {trial.value}")
            self._share(trial)
        except Interrupted:
            raise
        except StillhouseError as error:
            trial.state, trial.value, trial.error = "failed", None, str(error)
        trial.seconds += round(time.perf_counter() - began, 3)

    def _prepare(self, trial: Trial, folder: Path) -> None:
        """A run folder that only has to be resumed, with the stages that another trial has done alike."""
        recipe = self._recipe_of(trial)
        require_fit(recipe, self.device)
        for _, key in _stage_keys(recipe):
            done = self.stages.get(key)
            if done is not None and not (folder / "stages" / done.name).exists():
                make_folder(folder / "stages")
                with suppress(OSError):  # a file system without hard links: the stage is done again
                    os.link(done, folder / "stages" / done.name)
        begin(recipe, folder, device=self.device, plugins=self.plugins)

    def _share(self, trial: Trial) -> None:
        """Let later trials take up this one's stages where theirs are the same: a teacher is trained once."""
        folder = trial_folder(self.folder, trial.number)
        for name, key in _stage_keys(self._recipe_of(trial)):
            for file in (folder / "stages").glob(f"{name}-{'[0-9a-f]' * 16}.safetensors"):
                self.stages.setdefault(key, file)

    def _recipe_of(self, trial: Trial) -> Recipe:
        recipe = trial_recipe(self.recipe, trial.choices)
        return recipe if self.spec.warm is None else self._warmed(recipe, trial)

    # --- warm trials -----------------------------------------------------------------------

    def _warm(self, number: int) -> bool:
        """Whether a trial belongs to the warm part of the search."""
        return self.spec.warm is not None and number > self.spec.warm.after

    def _same_student(self, trial: Trial, other: Trial) -> bool:
        recipes = [trial_recipe(self.recipe, one.choices) for one in (trial, other)]
        own, others = (network_of(recipe.student, recipe) for recipe in recipes)
        return own == others

    def _warmed(self, recipe: Recipe, trial: Trial) -> Recipe:
        """The trial's recipe with the earlier trials' students in it, or without any teacher."""
        if trial.starts_from is None or trial.taught_by is None:
            method = recipe.method.without_teacher()
            evaluate = [metric for metric in recipe.evaluate if not metric.needs_teacher]
            return recipe.model_copy(update={"teacher": None, "method": method, "evaluate": evaluate})
        network = network_of(recipe.student, recipe)
        student = recipe.student.model_copy(update={"network": network, "weights": self._weights(trial.starts_from)})
        teacher = TeacherSpec(network=network, weights=self._weights(trial.taught_by), view=student.view)
        return recipe.model_copy(update={"teacher": teacher, "student": student})

    def _weights(self, number: int) -> File:
        return File(path=str((trial_folder(self.folder, number) / "student" / "model.safetensors").resolve()))

    # --- what is tried next ----------------------------------------------------------------

    def _proposed(self, number: int) -> dict[str, Any] | None:
        """New choices; None where every combination was tried. In a warm search they may come again."""
        tried = [] if self.spec.warm else [_key(trial.choices) for trial in self.trials]
        if len(tried) >= self.spec.combinations:
            return None
        for attempt in range(BY_CHANCE):
            sampler = self.spec.sampler if attempt < PROPOSALS else "random"
            study = self._study(number, sampler, derive(self.recipe.seed, "trial", number, attempt) % 2**32)
            drawn = study.ask(self._distributions())
            choices = {key: value_of(self.spec.choices[key], drawn.params[key]) for key in self.spec.choices}
            if _key(choices) not in tried:
                return choices
        return None

    def _study(self, number: int, sampler: str = "random", seed: int = 0) -> Any:
        """What is known before a trial, as Optuna takes it: of its own part of the search alone."""
        optuna = optuna_package()
        spread = self._distributions()
        known = [t for t in self.of("done") if self._warm(t.number) == self._warm(number)]
        chosen = optuna.samplers.RandomSampler(seed)
        if sampler == "tpe":
            chosen = optuna.samplers.TPESampler(n_startup_trials=self.spec.startup, seed=seed)
        study = optuna.create_study(direction="maximize" if self.maximise else "minimize", sampler=chosen)
        for trial in known:
            params = {key: param_of(self.spec.choices[key], value) for key, value in trial.choices.items()}
            study.add_trial(optuna.trial.create_trial(params=params, distributions=spread, value=trial.value))
        return study

    def _distributions(self) -> dict[str, Any]:
        return {key: distribution(values) for key, values in self.spec.choices.items()}

    # --- what it leaves --------------------------------------------------------------------

    def importance(self) -> dict[str, float]:
        """The share of the values' variance that each choice explains: fANOVA, Hutter et al. 2014."""
        study = self._study(len(self.trials))
        values = {trial.value for trial in study.trials}
        if len(study.trials) < ENOUGH or len(values) < 2 or not self.spec.choices:
            return {}
        optuna = optuna_package()
        judge = optuna.importance.FanovaImportanceEvaluator(seed=derive(self.recipe.seed, "importance") % 2**32)
        found = optuna.importance.get_param_importances(study, evaluator=judge)
        return {key: float(found[key]) for key in self.spec.choices}

    def _save(self, importance: Mapping[str, float] | None = None) -> None:
        told = {
            "name": self.recipe.name,
            "seed": self.recipe.seed,
            "metric": self.spec.metric,
            "direction": "maximise" if self.maximise else "minimise",
            "split": "validation",
            "choices": self.spec.model_dump(mode="json")["choices"],
            "best": None if self.best is None else self.best.number,
            "importance": dict(importance or {}),
            "trials": [asdict(trial) for trial in self.trials],
            "cost": {"seconds": sum(trial.seconds for trial in self.trials)},
            "environment": environment(Process(self.device).device),
        }
        write_json(self.folder / "search.json", told)

    def _conclude(self) -> None:
        """The importance of the choices, the best recipe and the page."""
        from stillhouse.report.search import write_search_report

        self._save(self.importance())
        if self.best is not None:
            write_text(self.folder / "best.yaml", dump(self._best_recipe(self.best)))
        write_search_report(self.folder)

    def _best_recipe(self, best: Trial) -> Recipe:
        """The recipe with the best choices, at its own budget, measured on the test split."""
        whole = trial_recipe(self.recipe, best.choices, whole=True)
        return whole if best.starts_from is None else self._warmed(whole, best)


def _stage_keys(recipe: Recipe) -> Iterable[tuple[str, str]]:
    """Each stage's name, and a text that is the same for stages that end with the same weights.

    A stage may build on those before it, so theirs are part of it. The recipe's data is not, where a stage has its
    own: a network of another shape does not load the weights.
    """
    key = str(recipe.seed)
    for stage in planned(recipe):
        words = {name: value for name, value in vars(stage).items() if name != "recipe"}
        told = [f"{n}={v.model_dump_json() if isinstance(v, BaseModel) else v!r}" for n, v in sorted(words.items())]
        key = "\n".join([key, *told])
        yield stage.name, key


def _direction(metric: str) -> str:
    return "maximise" if measures()[metric].better == "higher" else "minimise"


def _key(choices: Mapping[str, Any]) -> str:
    return json.dumps(choices, sort_keys=True)
