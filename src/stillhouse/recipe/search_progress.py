"""How a search shows itself: a bar over its trials on a terminal, a line a trial elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from stillhouse.engine.events import Event, Listener, Progress
from stillhouse.recipe.choices import SearchSpec
from stillhouse.recipe.problems import shorten
from stillhouse.report import numbers
from stillhouse.report.search import in_short


class SearchProgress(Listener):
    """Shows nothing. It listens to the run of each trial, too."""

    def begins(self, number: int, choices: Mapping[str, Any]) -> None:
        """A trial starts, or goes on."""

    def ends(self, trial: Mapping[str, Any], best: Mapping[str, Any] | None) -> None:
        """A trial is done or has failed."""


class PlainSearch(SearchProgress):
    """A line on stderr when a trial ends."""

    def __init__(self, spec: SearchSpec) -> None:
        self.spec = spec

    def ends(self, trial: Mapping[str, Any], best: Mapping[str, Any] | None) -> None:
        print(self.line(trial, best), file=sys.stderr, flush=True)

    def line(self, trial: Mapping[str, Any], best: Mapping[str, Any] | None) -> str:
        said = f"trial {trial['number']} of {self.spec.trials}: {in_words(trial['choices'])}"
        if trial["state"] == "failed":
            return f"{said}: failed: {shorten(' '.join(trial['error'].split()), 200)}"
        said += f": {self.spec.metric} {numbers.metric(self.spec.metric, trial['value'])}"
        assert best is not None, "a finished trial makes a best one"
        return said + (", the best so far" if best["number"] == trial["number"] else "")


class LiveSearch(PlainSearch):
    """Rich's bar over the trials, with the step of the running one, and a line above it for each that ended."""

    def __init__(self, spec: SearchSpec) -> None:
        super().__init__(spec)
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        columns = (TextColumn("[bold]trials"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
        told = TextColumn("{task.fields[told]}", style="dim")
        self.bars = Bars(*columns, told, console=Console(stderr=True), refresh_per_second=5)
        self.task = self.bars.add_task("trials", total=spec.trials, told="")
        self.bars.start()

    def begins(self, number: int, choices: Mapping[str, Any]) -> None:
        self.bars.update(self.task, completed=number - 1, told=in_words(choices))

    def heard(self, event: Event) -> None:
        if isinstance(event, Progress):
            self.bars.update(self.task, told=f"{event.stage}: step {event.step} of {event.steps}")

    def ends(self, trial: Mapping[str, Any], best: Mapping[str, Any] | None) -> None:
        self.bars.console.print(self.line(trial, best), markup=False)
        self.bars.update(self.task, completed=trial["number"], told="")

    def close(self) -> None:
        self.bars.stop()


def in_words(choices: Mapping[str, Any]) -> str:
    """Choices in a line."""
    return ", ".join(f"{key} {shorten(in_short(value), 60)}" for key, value in choices.items())


def search_progress(show: bool | None, spec: SearchSpec) -> SearchProgress:
    """The view for this terminal."""
    if show is False:
        return SearchProgress()
    return LiveSearch(spec) if sys.stderr.isatty() else PlainSearch(spec)
