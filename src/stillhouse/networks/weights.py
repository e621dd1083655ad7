"""Weights from files (safetensors, or a foreign state dict when the user allows it by name) and of fewer layers."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stillhouse.engine.paths import resolve_file
from stillhouse.errors import StillhouseError
from stillhouse.networks.encoder_kinds import LayersOf
from stillhouse.networks.kinds import File


def load_weights(kind: File, key: str = "weights.path") -> dict[str, Tensor]:
    """The state dict in a file, on the CPU. `key` is the recipe's for the path, for messages.

    Raises StillhouseError when the file is missing, is no safetensors file, or is a pickle
    that the recipe does not allow.
    """
    path = resolve_file(kind.path, key)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise StillhouseError(f"{path} is not a whole safetensors file: {error}") from error
    if kind.pickle != "allow":
        raise StillhouseError(
            f"{path} is not a safetensors file. Convert it, or, if you trust where it comes from, "
            "set `pickle: allow` beside its path: it is then read with torch.load(weights_only=True)"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file may fail in any way
        raise StillhouseError(f"{path} cannot be read as tensors alone: {str(error).splitlines()[0]}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise StillhouseError(f"{path} holds no state dict (names to tensors)")
    return state


def layers_of(kind: LayersOf, deeper: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict `own` with what `deeper` has of it, the kept layers numbered anew from 0.

    Raises StillhouseError where `deeper` lacks one of those layers, or `own` has not as many.
    """
    number = re.compile(rf"(?:^|(?<=\.)){re.escape(kind.stack)}\.(\d+)\.")
    there, here = ({int(found[1]) for name in state if (found := number.search(name))} for state in (deeper, own))
    kept = sorted(there) if kind.layers is None else kind.layers
    if not there or not set(kept) <= there or here != set(range(len(kept))):
        raise StillhouseError(
            f"weights 'layers-of': layers {kept} of {kind.stack!r} are to fill {len(here)} layers, and the deeper "
            f"network has {len(there)}: name as many as the network has, each one that is there"
        )
    state = dict(own)
    for new, old in enumerate(kept):
        for name in own:
            found = number.search(name)
            if found and int(found[1]) == new:
                source = name[: found.start(1)] + str(old) + name[found.end(1) :]
                state[name] = deeper[source] if source in deeper else own[name]
    return state | {name: deeper[name] for name in own if name in deeper and not number.search(name)}
