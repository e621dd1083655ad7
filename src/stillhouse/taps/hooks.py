"""Forward hooks that keep what chosen modules give."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from stillhouse.errors import StillhouseError, nearest


class Taps:
    """Keeps the outputs of the named submodules of `module` while the block runs.

        with Taps(net, ["layer3"]) as kept:
            logits = net(x)
        kept["layer3"]          # the last output of net.layer3, gradients and all

    Raises StillhouseError for a path that names no submodule. A module that gives a tuple
    is read at its first element.
    """

    def __init__(self, module: nn.Module, paths: Iterable[str]) -> None:
        self.kept: dict[str, Tensor] = {}
        self._targets = {path: tapped(module, path) for path in paths}
        self._handles = []

    def __enter__(self) -> dict[str, Tensor]:
        for path, target in self._targets.items():
            self._handles.append(target.register_forward_hook(self._keep(path)))
        return self.kept

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _keep(self, path: str):
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            value = output[0] if isinstance(output, tuple | list) else output
            if not isinstance(value, Tensor):
                raise StillhouseError(f"the module at tap {path!r} gives a {type(value).__name__}, not a tensor")
            self.kept[path] = value

        return hook


def tapped(module: nn.Module, path: str) -> nn.Module:
    """The submodule at a dotted path, or an error that names the nearest one."""
    known = dict(module.named_modules())
    if not path or path not in known:
        raise StillhouseError(
            f"tap {path!r} matches no module of {type(module).__name__}; {nearest(path, filter(None, known))}"
        )
    return known[path]
