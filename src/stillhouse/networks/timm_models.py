"""Models of timm (PyTorch Image Models)."""

from __future__ import annotations

from typing import Any

import timm  # type: ignore[import-not-found]
from torch import nn

from stillhouse.engine.contracts import Facts
from stillhouse.errors import StillhouseError, nearest
from stillhouse.networks.pretrained_kinds import Timm


def timm_model(kind: Timm, facts: Facts) -> nn.Module:
    """The model named, for the data's channels and classes. Input [B, C, H, W].

    Raises StillhouseError for a name timm does not know, or weights it cannot get.
    """
    names: list[str] = timm.list_models()
    if kind.name.split(".")[0] not in names:
        raise StillhouseError(f"timm has no model named {kind.name!r}; {nearest(kind.name, names)}")
    options: dict[str, Any] = {"num_classes": facts.classes, "in_chans": facts.shape[0]}
    try:
        return timm.create_model(kind.name, pretrained=kind.pretrained, **options)
    except (OSError, RuntimeError) as error:
        raise StillhouseError(f"timm cannot make {kind.name!r}: {error}") from error
