"""What a running stage tells whoever listens."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class StageBegins:
    """A stage starts, or goes on from `step`."""

    stage: str
    step: int
    steps: int


@dataclass
class Progress:
    """Sent a few times a second."""

    stage: str
    step: int
    steps: int
    losses: dict[str, float]
    examples_per_second: float


@dataclass
class Logged:
    """A window of steps is over: means of its losses."""

    stage: str
    step: int
    line: dict


@dataclass
class StageEnds:
    stage: str
    steps: int
    seconds: float


@dataclass
class Saved:
    """A checkpoint is on the disk."""

    stage: str
    step: int
    path: Path


@dataclass
class Said:
    """A message for the user."""

    text: str


Event = StageBegins | Progress | Logged | StageEnds | Saved | Said


class Listener:
    """Takes events. Override `heard`."""

    def heard(self, event: Event) -> None:
        """Called in the training process, between steps: be quick."""

    def close(self) -> None:
        """The run is over, or stopped."""


@dataclass
class Events:
    """Passes events on to every listener."""

    listeners: list[Listener] = field(default_factory=list)

    def send(self, event: Event) -> None:
        for listener in self.listeners:
            listener.heard(event)

    def say(self, text: str) -> None:
        self.send(Said(text))

    def close(self) -> None:
        for listener in self.listeners:
            listener.close()
