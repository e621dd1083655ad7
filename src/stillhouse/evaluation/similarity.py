"""How alike the features of an arm and of its teacher are, layer by layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stillhouse.engine.contracts import Batch
from stillhouse.errors import StillhouseError
from stillhouse.evaluation.answers import batches, measuring
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.kinds import FeatureSimilarity
from stillhouse.views.model import FEATURES, Model

MOST_LAYERS = 16
"""Layers found by themselves are thinned to this many, evenly."""


def feature_similarity(kind: FeatureSimilarity, arm: Arm, context: Context) -> Findings:
    """Linear CKA of every layer of the arm with every layer of the teacher, as a figure.

    `cka`: the mean over the arm's layers of the largest with any layer of the teacher. Nothing for the teacher
    itself. Features are flattened, an example a row; of text, a position is not told from another.
    Raises StillhouseError without a teacher, and where a layer does not give a tensor of one entry an example.
    """
    if arm.name == "teacher":
        return Findings()
    if "teacher" not in context.arms:
        raise StillhouseError("feature-similarity compares with a teacher, and this run has none: leave it out")
    theirs = _grams(context.arms["teacher"], kind.teacher_layers, kind, context)
    ours = _grams(arm, kind.layers, kind, context)
    table = [[similarity(own, other) for other in theirs.values()] for own in ours.values()]
    best = [max((v for v in row if v is not None), default=None) for row in table]
    known = [value for value in best if value is not None]
    if not known:
        return Findings()
    figure = {
        "kind": "heatmap",
        "title": "Likeness to the teacher's features (CKA)",
        "rows": list(ours),
        "columns": list(theirs),
        "values": table,
        "ylabel": "layer",
        "xlabel": "layer of the teacher",
        "about": "Linear CKA: 1 for features equal up to rotation and scale, 0 for unrelated ones.",
    }
    return Findings(metrics={"cka": sum(known) / len(known)}, figures=[figure])


def gram(features: Tensor) -> Tensor:
    """X X^T of features [n, ...], the diagonal left out: [n, n] float64."""
    rows = features.flatten(1).double()
    return (rows @ rows.T).fill_diagonal_(0)


def similarity(a: Tensor, b: Tensor) -> float | None:
    """Linear CKA (Kornblith et al. 2019, eq. 2) from two Gram matrices without their diagonals; None for constants.

    HSIC is estimated without bias (Song et al. 2012, "Feature Selection via Dependence Maximization", eq. 5): the
    plain estimate is near sqrt(p q / ((n + p)(n + q))) for unrelated features of p and q dimensions, which is
    almost 1 where n examples are fewer. Features equal up to rotation and scale have 1, unrelated ones 0 on
    average, so that it may be slightly negative.
    """
    norm = _hsic(a, a) * _hsic(b, b)
    return _hsic(a, b) / math.sqrt(norm) if norm > 0 and math.isfinite(norm) else None


def _hsic(a: Tensor, b: Tensor) -> float:
    n = len(a)
    crossed = (a * b).sum() + a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 * (a.sum(0) @ b.sum(0)) / (n - 2)
    return (crossed / (n * (n - 3))).item()


def layers(model: Model, batch: Batch) -> list[str]:
    """The outermost modules with parameters that give a tensor with an entry an example, in order, by path.

    Normalisation is left out. A module that gives none (a list of blocks, or one whose output is a record), and one
    that holds all the parameters of its parent, is replaced by what is in it.
    """
    found: list[str] = []
    _descend(model.network, "", _shapes(model, batch), len(next(iter(batch.values()))), found)
    if len(found) <= MOST_LAYERS:
        return found
    return [found[round(place * (len(found) - 1) / (MOST_LAYERS - 1))] for place in range(MOST_LAYERS)]


def _descend(module: nn.Module, path: str, shapes: dict[str, tuple[int, ...]], size: int, found: list[str]) -> None:
    children = [(name, child) for name, child in module.named_children() if any(True for _ in child.parameters())]
    for name, child in children:
        here = f"{path}.{name}" if path else name
        shape = shapes.get(here, ())
        wraps = len(children) == 1 and any(True for _ in child.children())
        if "norm" in type(child).__name__.lower():
            continue
        if len(shape) >= 2 and shape[0] == size and not wraps:
            found.append(here)
        else:
            _descend(child, here, shapes, size, found)


def _grams(arm: Arm, asked: list[str] | None, kind: FeatureSimilarity, context: Context) -> dict[str, Tensor]:
    """The Gram matrix of each layer over the first examples, by module path; from the memo where they are there."""
    key = ("grams", arm.name, context.source.fingerprint, kind.model_dump_json())
    if key not in context.memo:
        context.memo[key] = _look(arm, asked, kind, context)
    return context.memo[key]


def _look(arm: Arm, asked: list[str] | None, kind: FeatureSimilarity, context: Context) -> dict[str, Tensor]:
    kept: dict[str, list[Tensor]] = {}
    seen = 0
    with measuring(arm.model):
        for batch in batches(context.source, context.batch_size, context.device):
            size = len(next(iter(batch.values())))
            part = {name: value[: kind.examples - seen] for name, value in batch.items()}
            paths = asked or layers(arm.model, part)
            signals = arm.model.signals(part, [FEATURES + path for path in paths])
            for path in paths:
                kept.setdefault(path, []).append(signals[FEATURES + path].flatten(1).float().cpu())
            seen += size
            if seen >= kind.examples:
                break
    if seen < 4 or not kept:
        raise StillhouseError(f"feature-similarity needs four examples and one layer at least of {arm.name}")
    return {path: gram(torch.cat(parts)) for path, parts in kept.items()}


def _shapes(model: Model, batch: Batch) -> dict[str, tuple[int, ...]]:
    """The shape of what each module gave for this batch, of those that gave a tensor (or one first of several)."""
    shapes: dict[str, tuple[int, ...]] = {}

    def keep(path: str):
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            value = output[0] if isinstance(output, tuple | list) and output else output
            if isinstance(value, Tensor):
                shapes[path] = tuple(value.shape)

        return hook

    handles = [module.register_forward_hook(keep(path)) for path, module in model.network.named_modules() if path]
    try:
        model.signals(batch)
    finally:
        for handle in handles:
            handle.remove()
    return shapes
