"""A student that a run left behind, ready to be asked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from stillhouse.engine.contracts import Facts
from stillhouse.engine.folder import read_json
from stillhouse.errors import StillhouseError
from stillhouse.kinds import load_plugin, lookup
from stillhouse.networks import encoder_kinds as _encoders  # noqa: F401  (registers the networks)
from stillhouse.networks import kinds as _networks  # noqa: F401  (registers the networks)
from stillhouse.networks import pretrained_kinds as _pretrained  # noqa: F401  (registers the networks)
from stillhouse.networks import task_kinds as _tasks  # noqa: F401  (registers the networks)
from stillhouse.views.kinds import plain_view
from stillhouse.views.model import Model


def load_student(folder: str | Path, plugins: Iterable[str | Path] = ()) -> Model:
    """The student of a finished run, or of an export to safetensors, in eval mode on the CPU.

        student = load_student("runs/kd-digits")
        logits = student.signals({"image": images})["logits"]  # images [B, C, H, W] in [0, 1]
        # a student of texts takes what the tokenizer beside it gives: input_ids and attention_mask [B, T]

    Args: plugins: files whose kinds the student's network or view is of; they run.
    Raises StillhouseError where the folder holds no student, or one that Hugging Face loads.
    """
    folder = Path(folder)
    folder = folder / "student" if (folder / "student").is_dir() else folder
    if not (folder / "config.json").is_file():
        raise StillhouseError(f"{folder} holds no student (there is no config.json in it): is the run finished?")
    config = read_json(folder / "config.json")
    if "network" not in config:
        raise StillhouseError(
            f"{folder} holds a Hugging Face model: "
            f"transformers.{config['architectures'][0]}.from_pretrained({str(folder)!r}) loads it"
        )
    for plugin in plugins:
        load_plugin(plugin)
    given = config["facts"]
    tokenizer = _tokenizer(folder)
    facts = Facts(given["task"], tuple(given["shape"]), given["classes"], tuple(given["names"]), tokenizer)
    network = _kind("network", config["network"]).build(facts)
    network.load_state_dict(load_file(folder / "model.safetensors"))
    view = _kind("view", config["view"]) if config.get("view") else plain_view(facts)
    return Model(network, view.build(facts)).eval()


def _tokenizer(folder: Path) -> Any:
    """The tokenizer beside a model of text; None where there is none."""
    if not (folder / "tokenizer.json").is_file():
        return None
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder)


def _kind(family: str, options: dict[str, Any]) -> Any:
    return lookup(family, options["kind"]).model_validate(options)
