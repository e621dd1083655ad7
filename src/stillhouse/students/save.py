"""The student as it is left behind: weights and config, without train-only parts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from stillhouse.engine.contracts import Facts
from stillhouse.engine.folder import disk_errors, sync, write_json
from stillhouse.networks.kinds import NetworkKind


def save_student(network: nn.Module, kind: NetworkKind, facts: Facts, folder: Path) -> None:
    """Write the network to a folder that appears whole or not at all.

    A Hugging Face model is saved in its own layout, with its tokenizer; any other as
    model.safetensors and config.json (`{"network": ..., "facts": ...}`).
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with disk_errors(folder):
        temporary.mkdir(parents=True)
        if hasattr(network, "save_pretrained"):
            network.save_pretrained(temporary)  # type: ignore[operator]
            if facts.tokenizer is not None:
                facts.tokenizer.save_pretrained(temporary)
        else:
            state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
            save_file(state, temporary / "model.safetensors")
            shape = {"task": facts.task, "shape": facts.shape, "classes": facts.classes, "names": facts.names}
            write_json(temporary / "config.json", {"network": kind.model_dump(mode="json"), "facts": shape})
        for file in temporary.rglob("*"):
            if file.is_file():
                sync(file)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
