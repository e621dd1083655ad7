"""What the proof of a search measures: what it chose on the validation split, on the test split."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stillhouse.recipe.execute import measured_on
from stillhouse.recipe.schema import Recipe
from stillhouse.recipe.search import Searched, search
from stillhouse.recipe.text import load, written


def judged(
    recipe: Recipe,
    folder: Path,
    *,
    device: str | None = None,
    progress: bool | None = None,
    plugins: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Run a recipe's search and those of its `search.arms` in a folder, or go on with them; as a run's summary.

    Each search chooses on the validation split. Its chosen student, as that trial left it, is then measured on the
    test split. Arms: `search`, and each other search by its name: the metrics of the chosen student; `average`: the
    mean over the students of all trials of `search`, which is what a trial picked at random gives; `importance`: the
    share of each choice.

    Raises: as `search`.
    """
    assert recipe.search is not None, "only a recipe with a search is judged so"
    done: dict[str, Searched] = {}
    for name, sets in {"search": {}, **recipe.search.arms}.items():
        other = load(recipe, ["proof=null", *(written(*item) for item in sets.items())])
        done[name] = search(other, out=folder / name, device=device, progress=progress, plugins=plugins)
    arms = {name: _tested(found, found.outcome["best"]) for name, found in done.items()}
    trials = [trial["number"] for trial in done["search"].outcome["trials"] if trial["state"] == "done"]
    arms["average"] = _mean(_tested(done["search"], number) for number in trials)
    arms["importance"] = done["search"].outcome["importance"]
    seconds = sum(found.outcome["cost"]["seconds"] for found in done.values())
    return {"arms": arms, "cost": {"seconds": seconds}, "environment": done["search"].outcome["environment"]}


def _tested(found: Searched, number: int) -> dict[str, float]:
    return measured_on(found.trial_folder(number), "test")["student"]


def _mean(measured: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Metric by metric, over those that have it."""
    rows = list(measured)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: math.fsum(own) / len(own) for name in names if (own := [row[name] for row in rows if name in row])}
