"""A network together with what it gets to see and the signals it yields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from stillhouse.engine.contracts import Batch, Signals
from stillhouse.errors import StillhouseError
from stillhouse.taps import Taps

FEATURES = "features."


class View(Protocol):
    """What a model gets to see of one batch, and how its output is read."""

    fingerprint: str
    """A word for everything that changes what the model sees."""

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """The arguments of the network's forward by name; under "" the positional one, where there is one."""
        ...

    def read(self, output: Any, batch: Batch) -> Signals:
        """The signals in the network's output; `logits` at least, aligned with `targets`."""
        ...

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The labels that `logits` are to predict, and where they count (None: everywhere)."""
        ...


def named_tensors(output: Any) -> Signals:
    """What a network gives, as signals: a tensor is the logits, of a mapping every tensor counts by its name, and of
    anything else its attribute `logits`."""
    if isinstance(output, Tensor):
        return {"logits": output}
    if isinstance(output, Mapping):
        return {name: value for name, value in output.items() if isinstance(value, Tensor)}
    return {"logits": output.logits}


class Model(nn.Module):
    """A network and its view. `network` alone is what gets exported."""

    def __init__(self, network: nn.Module, view: View) -> None:
        super().__init__()
        self.network = network
        self.view = view

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.network(*args, **kwargs)

    def signals(self, batch: Batch, wants: Iterable[str] = ("logits",)) -> Signals:
        """The wanted signals on a batch: `logits`, what else the network names, `features.<module path>`.

        Raises StillhouseError for a signal this model does not yield.
        """
        paths = [want.removeprefix(FEATURES) for want in wants if want.startswith(FEATURES)]
        if paths:
            with Taps(self.network, paths) as kept:
                signals = self._look(batch)
            signals |= {FEATURES + path: value for path, value in kept.items()}
        else:
            signals = self._look(batch)
        for want in wants:
            if want not in signals:
                raise StillhouseError(
                    f"{type(self.network).__name__} yields no signal {want!r}; it yields {', '.join(sorted(signals))} "
                    f"and {FEATURES}<module path>"
                )
        return signals

    def _look(self, batch: Batch) -> Signals:
        inputs = self.view.inputs(batch)
        positional = [inputs.pop("")] if "" in inputs else []
        return self.view.read(self(*positional, **inputs), batch)
