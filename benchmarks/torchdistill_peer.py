"""The other side of benchmarks/torchdistill.py, run by it in torchdistill's own environment.

Reads one JSON command a line from standard input and answers each with one line of JSON: `losses` computes
torchdistill's losses and their gradients on given tensors; `build` makes a `DistillationBox` from a case;
`precision` sets the type of what is made after it;
`steps` takes training steps with it, as torchdistill's image-classification example does; `finish` writes the weights.
Tensors travel in files. Python must be started with -P, or `torchdistill` is the file beside this one.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.library import Library

OPERATORS = Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    # Where torchvision's compiled part does not fit the torch that is installed, its import stops at these two
    # operators of object detection. Their names are declared here; nothing of what is compared calls them.
    if not hasattr(torch.ops.torchvision, name):
        OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from torchdistill.core.distillation import DistillationBox  # noqa: E402
from torchdistill.datasets.wrapper import CRDDatasetWrapper  # noqa: E402
from torchdistill.losses.registry import get_mid_level_loss  # noqa: E402
from torchdistill.models.adaptation import ConvReg  # noqa: E402
from torchdistill.models.registry import register_auxiliary_model_wrapper  # noqa: E402
from torchdistill.models.wrapper import AuxiliaryModelWrapper, Normalizer4CRD  # noqa: E402

from stillhouse.engine.contracts import Facts  # noqa: E402
from stillhouse.networks.kinds import ResNet  # noqa: E402

CIFAR = Facts("classification", (3, 32, 32), 10)


@register_auxiliary_model_wrapper
class Student4FitNets(AuxiliaryModelWrapper):
    """torchdistill's regressor of FitNets beside a student that is trained on the labels at the same time.

    Its own example of FitNets builds a student of the first layers alone, for a stage without labels.
    """

    def __init__(self, student_model: nn.Module, path: str, regressor: dict[str, Any], **kwargs: Any) -> None:
        super().__init__()
        self.student_model, self.path, self.convreg = student_model, path, ConvReg(**regressor)

    def forward(self, *args: Any) -> Any:
        return self.student_model(*args)

    def secondary_forward(self, io_dict: dict[str, dict[str, Tensor]]) -> None:
        self.convreg(io_dict[self.path]["output"])


class Labels:
    """What `CRDDatasetWrapper` asks of a data set."""

    def __init__(self, labels: Tensor) -> None:
        self.targets, self.classes = labels.tolist(), range(int(labels.max()) + 1)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[int, int]:
        return index, self.targets[index]


def losses(*, tensors: str, out: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Every row's loss on the same tensors; the gradients, by row and student tensor, go to `out`."""
    given = torch.load(tensors)
    values, slopes = {}, {}
    for row in rows:
        student = {key: given[key].clone().requires_grad_() for key in row["student"].values()}
        io = {path: {"output": student[key]} for path, key in row["student"].items()}
        targets = {path: {"output": given[key]} for path, key in row["teacher"].items()}
        criterion = get_mid_level_loss(row["criterion"], row.get("wrapper"))
        if row["criterion"]["key"] == "CRDLoss":
            io, targets = with_banks(criterion, given, io["pool"]["output"], targets["pool"]["output"])
        if row["criterion"]["key"] == "HierarchicalContextLoss":
            io = {path: {"output": (entry["output"], None)} for path, entry in io.items()}
        value = criterion(io, targets, given["labels"])
        value.sum().backward()
        values[row["name"]] = value.item()
        slopes |= {f"{row['name']}/{key}": tensor.grad for key, tensor in student.items()}
    torch.save(slopes, out)
    return {"values": values}


def with_banks(criterion: Any, given: dict[str, Tensor], student: Tensor, teacher: Tensor) -> tuple[dict, dict]:
    """The banks, rows and embeddings of the other side."""
    criterion.to(student.dtype)
    criterion.memory_v1.copy_(given["student_bank"])
    criterion.memory_v2.copy_(given["teacher_bank"])
    embedded = []
    for side, features in (("student", student), ("teacher", teacher)):
        linear = nn.Linear(features.shape[1], len(given[f"{side}_bias"])).to(features.dtype)
        linear.load_state_dict({"weight": given[f"{side}_weight"], "bias": given[f"{side}_bias"]})
        embedded.append(Normalizer4CRD(linear)(features))
    supplied = {"pos_idx": given["index"], "contrast_idx": given["rows"]}
    return {"normalizer": {"output": embedded[0]}, "empty": {"input": supplied}}, {
        "normalizer": {"output": embedded[1]}
    }


class Training:
    """A box, the batches it is to see, and how far it has got."""

    def __init__(self, weights: str, batches: str, case: dict[str, Any], config: dict[str, Any]) -> None:
        state = torch.load(weights)
        self.student, self.teacher = (ResNet(depth=depth).build(CIFAR) for depth in (20, 56))
        self.student.load_state_dict(state["student"])
        self.teacher.load_state_dict(state["teacher"])
        if not case.get("as_documented"):
            self.teacher.eval()  # the documented example leaves it in the mode in which it was built
        training = config | {key: case[key] for key in ("teacher", "student", "criterion")}
        self.box = DistillationBox(self.teacher, self.student, {}, training, torch.device("cpu"), None, False, 1)
        self.load_parts(state["parts"])
        self.batches = batches_of(torch.load(batches), case.get("negatives"))
        self.position = 0
        self.box.pre_epoch_process(epoch=0)

    def load_parts(self, parts: dict[str, Tensor]) -> None:
        """What the terms train starts where it starts on the other side."""
        criteria = {name: criterion for name, (criterion, _) in self.box.criterion.term_dict.items()}
        owners = {"student": self.box.student_model, "teacher": self.box.teacher_model} | criteria
        for name, value in parts.items():
            owner, path = name.split(".", 1)
            held = owners[owner].state_dict()[path]
            assert held.shape == value.shape, name
            held.copy_(value)

    def steps(self, count: int) -> dict[str, Any]:
        """As `train_one_epoch` of the example does, without its meters."""
        box, told = self.box, []
        began, busy = time.perf_counter(), time.process_time()
        for image, labels, supplied in self.batches[self.position : self.position + count]:
            loss = box.forward_process(image, labels, supplied)
            box.post_forward_process(loss=loss)
            told.append(loss.item())
        spent = {"seconds": time.perf_counter() - began, "processor": time.process_time() - busy}
        self.position += count
        return {**spent, "losses": told}

    def finish(self, out: str) -> dict[str, Any]:
        torch.save({"student": self.student.state_dict(), "teacher": self.teacher.state_dict()}, out)
        return {}


def batches_of(saved: dict[str, Tensor], negatives: int | None) -> list[tuple[Tensor, Tensor, dict[str, Tensor]]]:
    """What a loader would give: normalised images, labels and, for CRD, indices of negatives."""
    wrapper = negatives and CRDDatasetWrapper(Labels(saved["all_labels"]), negatives, mode="exact", ratio=1.0)
    found = []
    for images, labels, index in zip(saved["images"], saved["labels"], saved["index"], strict=True):
        supplied: dict[str, Tensor] = {}
        if wrapper:
            drawn = [wrapper[int(i)][2]["contrast_idx"] for i in index]
            supplied = {"pos_idx": index, "contrast_idx": torch.from_numpy(np.stack(drawn))}
        found.append(((images.float() / 255 - saved["mean"]) / saved["std"], labels, supplied))
    return found


def main() -> None:
    logging.disable(logging.INFO)
    torch.set_num_threads(int(sys.argv[1]))
    training: Training | None = None
    for line in sys.stdin:
        command = json.loads(line)
        do, options = command.pop("do"), command
        if do == "seed":
            torch.manual_seed(options["seed"])
            np.random.seed(options["seed"])
            answer = {}
        elif do == "precision":
            torch.set_default_dtype(getattr(torch, options["name"]))
            answer = {}
        elif do == "losses":
            answer = losses(**options)
        elif do == "build":
            training, answer = Training(**options), {}
        else:
            assert training is not None
            answer = getattr(training, do)(**options)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
