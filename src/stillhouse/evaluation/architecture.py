"""What an architecture is like before it is trained.

Paper: Dong, Li & Wei 2023, "DisWOT: Student Architecture Search for Distillation WithOut Training", arXiv:2303.15678.
Deviations: semantic relations are those of classes, [C, C], in place of channels, whose number would have to be the
    teacher's; weights are drawn as each layer draws its own at the start, not from N(0, 1).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.engine.contracts import Batch
from stillhouse.engine.seeds import derive
from stillhouse.errors import StillhouseError
from stillhouse.evaluation.architecture_kinds import DisWOT
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.views.model import Model


def diswot(kind: DisWOT, arm: Arm, context: Context) -> Findings:
    """`diswot_score`: minus the distances between both sides' relations of classes and of examples, at random weights.

    The relations of classes are the cosines of the rows of the gradient of the cross-entropy by the last layer's
    weights, softmax minus label times features; those of examples the Gram matrix of the features, each row of norm
    one. Higher is better; 0 is an architecture that cannot be told from the teacher's. Nothing for the teacher itself.
    Raises StillhouseError without a teacher, or where the features are not vectors.
    """
    if arm.name == "teacher":
        return Findings()
    if "teacher" not in context.arms:
        raise StillhouseError("diswot holds an architecture against a teacher's, and this run has none: leave it out")
    rows = torch.arange(min(kind.examples, len(context.source)))
    batch = {name: value.to(context.device) for name, value in context.source.fetch(rows, None).items()}
    total = 0.0
    for draw in range(kind.draws):
        ours = relations(arm.model, kind.features, batch, derive(context.seed, "diswot", arm.name, draw))
        theirs = relations(
            context.arms["teacher"].model, kind.teacher_features, batch, derive(context.seed, "diswot", draw)
        )
        total -= sum((one - other).square().mean().item() for one, other in zip(ours, theirs, strict=True))
    return Findings(metrics={"diswot_score": total / kind.draws})


def relations(model: Model, features: str, batch: Batch, seed: int) -> tuple[Tensor, Tensor]:
    """Of classes [C, C] and of examples [B, B], in float64, of a copy with weights drawn anew."""
    if isinstance(model.network, nn.ModuleDict):
        raise StillhouseError("diswot is for one network as the teacher, and this teacher is several: leave it out")
    fresh = Model(copy.deepcopy(model.network), model.view).train()  # a frozen teacher too: both in training mode
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for module in fresh.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        signals = fresh.signals(batch, ["logits", features])
    read, logits = signals[features].double(), signals["logits"].double()
    if read.dim() != 2:
        raise StillhouseError(f"diswot takes what the last linear layer reads, [B, D]; {features} is {read.dim()}-D")
    wrong = logits.softmax(-1) - functional.one_hot(batch["labels"], logits.shape[-1])
    by_class = functional.normalize(wrong.T @ read, dim=1)  # the gradient [C, D], up to 1 / B
    return by_class @ by_class.T, functional.normalize(read @ read.T, dim=1)
