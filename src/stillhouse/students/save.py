"""The student as it is left behind: weights and config, without train-only parts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from stillhouse.engine.contracts import Facts
from stillhouse.engine.folder import disk_errors, sync, write_json
from stillhouse.kinds import Kind
from stillhouse.networks.kinds import NetworkKind


def save_student(
    network: nn.Module, kind: NetworkKind, facts: Facts, folder: Path, *, view: Kind | None, sampler: Kind | None
) -> None:
    """Write the network to a folder that appears whole or not at all.

    A Hugging Face model is saved in its own layout, any other as model.safetensors and
    config.json: `network`, `view` and `sampler` in a recipe's words (null: the plain view, no sampler), and `facts`
    of the data. The tokenizer of a model of text lies beside it.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with disk_errors(folder):
        temporary.mkdir(parents=True)
        if hasattr(network, "save_pretrained"):
            network.save_pretrained(temporary)  # type: ignore[operator]
        else:
            state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
            save_file(state, temporary / "model.safetensors")
            shape = {"task": facts.task, "shape": facts.shape, "classes": facts.classes, "names": facts.names}
            words = {"network": kind, "view": view, "sampler": sampler}
            told = {name: None if own is None else own.model_dump(mode="json") for name, own in words.items()}
            write_json(temporary / "config.json", told | {"facts": shape})
        if facts.tokenizer is not None:
            facts.tokenizer.save_pretrained(temporary)
        for weights in temporary.glob("*.safetensors"):
            shutil.copymode(temporary / "config.json", weights)  # safetensors leaves its files to the owner alone
        for file in temporary.rglob("*"):
            if file.is_file():
                sync(file)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
