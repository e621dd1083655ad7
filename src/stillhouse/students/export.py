"""The student alone, in a form that loads without Stillhouse."""

from __future__ import annotations

import os
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.engine.folder import disk_errors, read_json, sync
from stillhouse.errors import StillhouseError, nearest
from stillhouse.students.load import load_student
from stillhouse.students.readme import readme
from stillhouse.views.model import Model

FORMATS = ("hf", "onnx", "safetensors")


def export(run: str | Path, to: str, out: str | Path) -> Path:
    """Write the student of a finished run to a new folder, which appears whole or not at all.

    `safetensors` gives model.safetensors and config.json, and says in a README what the inputs are;
    `onnx` gives a graph from images in [0, 1] to logits, with the view's normalisation inside; `hf`
    gives the Hugging Face folder of a student that is a Hugging Face model.

    Raises:
        StillhouseError: no such format, no finished run, a folder that holds something, a student
            that cannot take the format, or a missing extra.
    """
    run, out = Path(run), Path(out)
    if to not in FORMATS:
        raise StillhouseError(f"--to {to[:40]!r} is no format; {nearest(to, FORMATS)}")
    student = run / "student"
    if not (student / "config.json").is_file():
        raise StillhouseError(f"{run} holds no student ({student / 'config.json'} is missing): is the run finished?")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StillhouseError(f"{out} exists already; choose another --out, or remove it")
    config = read_json(student / "config.json")
    foreign = "network" not in config
    if to == "hf" and not foreign:
        raise StillhouseError(
            f"this student is a {config['network']['kind']}, which Hugging Face does not know: "
            "export it --to safetensors or --to onnx"
        )
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            if to == "onnx":
                temporary.mkdir()
                _write_onnx(run, config, temporary / "model.onnx")
            else:
                shutil.copytree(student, temporary)
            if not foreign:
                of_text = (student / "tokenizer.json").is_file()
                told = readme(run.resolve().name, config, to, of_text=of_text)
                (temporary / "README.md").write_text(told, encoding="utf-8")
            for file in temporary.iterdir():
                sync(file)
            if out.exists():
                out.rmdir()
            os.replace(temporary, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return out


class _Whole(nn.Module):
    """View and network in one: images [B, C, H, W] in [0, 1] to logits [B, classes]."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.signals({"image": image})["logits"]


def _write_onnx(run: Path, config: dict[str, Any], path: Path) -> None:
    facts = config.get("facts", {})
    if facts.get("task") != "classification" or len(facts["shape"]) != 3 or config.get("sampler"):
        raise StillhouseError(
            "only classifiers of images are exported to ONNX; a language model goes --to hf, the others (a generator, "
            "a restorer, what reads tables) go --to safetensors"
        )
    try:
        for package in ("onnx", "onnxscript"):
            import_module(package)
    except ModuleNotFoundError as error:
        raise StillhouseError(
            f"ONNX needs the package {error.name!r}, which is not installed: pip install 'stillhouse[onnx]'"
        ) from error
    whole = _Whole(load_student(run, _plugins(run))).eval()
    image = torch.zeros(2, *config["facts"]["shape"])
    torch.onnx.export(
        whole,
        (image,),
        path,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _plugins(run: Path) -> list[str]:
    path = run / "launch.json"
    return read_json(path).get("plugins", []) if path.exists() else []
