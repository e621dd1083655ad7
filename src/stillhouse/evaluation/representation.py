"""How good a network's features are: what a simple classifier, fitted on the training split, makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stillhouse.engine.contracts import Source
from stillhouse.errors import NothingToMeasure, StillhouseError
from stillhouse.evaluation.answers import batches, measuring
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.kinds import KNN, AttentionDistance, LinearProbe, ProbeTasks
from stillhouse.networks.vit import ViT
from stillhouse.sources.splits import some_of_each
from stillhouse.teachers.ensemble import Ensemble

SEED = 0
"""Of the choice of labelled examples: the same in every run."""


def knn(kind: KNN, arm: Arm, context: Context) -> Findings:
    """Accuracy of weighted nearest neighbours, as DINO's (Caron et al. 2021, arXiv:2104.14294) and iBOT's evaluation.

    A training example counts exp(cos / temperature) for its class; `neighbours` of them vote. Nothing for an ensemble,
    which has no features of its own.
    """
    from sklearn.neighbors import KNeighborsClassifier

    if isinstance(arm.model, Ensemble):
        return Findings()

    def weights(distances: Any) -> Any:  # of cosine: 1 - cos
        return torch.from_numpy((1 - distances) / kind.temperature).exp().numpy()

    seen, labels = _labelled(arm, context, kind.signal, kind.examples)
    votes: Any = weights  # the stubs know words alone
    voters = KNeighborsClassifier(min(kind.neighbours, len(labels)), metric="cosine", weights=votes)
    return _scored("knn_accuracy", voters.fit(seen.numpy(), labels.numpy()), arm, context, kind.signal)


def linear_probe(kind: LinearProbe, arm: Arm, context: Context) -> Findings:
    """Accuracy of a logistic regression on the features, each of mean 0 and deviation 1 over what it is fitted on.

    The regression minimises the summed cross-entropy plus |weights|^2 / (2 inverse_penalty). Nothing for an ensemble,
    which has no features of its own.
    """
    if isinstance(arm.model, Ensemble):
        return Findings()
    seen, labels = _labelled(arm, context, kind.signal, kind.examples)
    return _scored("probe_accuracy", logistic(seen, labels, kind.inverse_penalty), arm, context, kind.signal)


def probe_tasks(kind: ProbeTasks, arm: Arm, context: Context) -> Findings:
    """As `linear_probe`, with a regression of its own for the classes of each task, measured on these alone."""
    seen, labels = _labelled(arm, context, kind.signal, kind.examples)
    found, true = features(arm, context, kind.signal, context.source)
    shares = []
    for task in kind.tasks:
        known, asked = torch.isin(labels, torch.tensor(task)), torch.isin(true, torch.tensor(task))
        if labels[known].unique().numel() < 2 or not asked.any():
            raise NothingToMeasure(f"probe-tasks: the data has too few examples of the classes {task}")
        probe = logistic(seen[known], labels[known], kind.inverse_penalty)
        shares.append((torch.from_numpy(probe.predict(found[asked].numpy())) == true[asked]).double().mean().item())
    return Findings(metrics={"probe_mean": sum(shares) / len(shares), "probe_worst": min(shares)})


def attention_distance(kind: AttentionDistance, arm: Arm, context: Context) -> Findings:
    """sum_j A_ij |i - j| over patches, A made to sum to one over them; the mean over patches i, heads and examples.

    Distances are Euclidean, between the patches' places in their grid. Nothing for an arm of another network.
    """
    network = arm.model.network
    if not isinstance(network, ViT):
        return Findings()
    block = len(network.blocks) - 1 if kind.block is None else kind.block
    signal = f"features.blocks.{block}.attention.softmax"
    rows, columns = torch.meshgrid(*(torch.arange(size) for size in network.grid), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], 1).double()
    apart = torch.cdist(places, places)  # [N, N]
    values = []
    with measuring(arm.model):
        for batch in batches(context.source, context.batch_size, context.device):
            maps = arm.model.signals(batch, [signal])[signal][..., network.prefix :, network.prefix :].double().cpu()
            values.append((maps / maps.sum(-1, keepdim=True) * apart).sum(-1).mean((1, 2)))
    found = torch.cat(values)
    return Findings(
        metrics={"attention_distance": found.mean().item()}, per_example={"attention_distance": found.tolist()}
    )


def features(arm: Arm, context: Context, signal: str, source: Source) -> tuple[Tensor, Tensor]:
    """A signal [N, D] (fp64) of a whole split without augmentation, and the labels [N], on the CPU.

    Maps [B, C, H, W] are averaged over positions, tokens [B, T, D] over tokens. Of an ensemble, its members' side by
    side.
    """
    wants = [f"{member}.{signal}" for member in getattr(arm.model, "members", ())] or [signal]
    key = ("features", arm.name, signal, source.fingerprint)
    if key not in context.memo:
        found, labels = [], []
        with measuring(arm.model):
            for batch in batches(source, context.batch_size, context.device):
                signals = arm.model.signals(batch, wants)
                found.append(torch.cat([_pooled(signals[want]) for want in wants], 1).double().cpu())
                labels.append(batch["labels"].cpu())
        context.memo[key] = torch.cat(found), torch.cat(labels)
    return context.memo[key]


def _labelled(arm: Arm, context: Context, signal: str, examples: int | None) -> tuple[Tensor, Tensor]:
    seen, labels = features(arm, context, signal, context.data.train)
    if labels.dim() != 1:
        raise StillhouseError(f"a probe needs one class an example, and the labels have shape {list(labels.shape)}")
    if examples is None or examples >= len(labels):
        return seen, labels
    rows = some_of_each(labels, examples, seed=SEED)
    return seen[rows], labels[rows]


def logistic(seen: Tensor, labels: Tensor, inverse_penalty: float) -> Any:
    """The regression of `linear_probe`, fitted on features [N, D] and classes [N]."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=2000))
    return probe.fit(seen.numpy(), labels.numpy())


def _scored(name: str, classifier: Any, arm: Arm, context: Context, signal: str) -> Findings:
    found, labels = features(arm, context, signal, context.source)
    right: Sequence[float] = (torch.from_numpy(classifier.predict(found.numpy())) == labels).double().tolist()
    return Findings(metrics={name: sum(right) / len(right)}, per_example={name: list(right)})


def _pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3)) if x.dim() == 4 else x.mean(1) if x.dim() == 3 else x
