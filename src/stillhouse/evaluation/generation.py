"""How good generated images are, and how long one takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stillhouse.engine.contracts import Data, Source
from stillhouse.engine.seeds import derive
from stillhouse.errors import StillhouseError
from stillhouse.evaluation.answers import batches, measuring
from stillhouse.evaluation.cost import median_seconds
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.generation_kinds import Frechet, SamplingCost
from stillhouse.evaluation.pictures import sheet
from stillhouse.networks.convnet import ConvNet
from stillhouse.networks.judge import trained_judge
from stillhouse.networks.kinds import ConvNet as ConvNetKind

JUDGE = ConvNetKind(width=16)
"""The classifier whose features are compared: 64 of them."""
JUDGE_STEPS, JUDGE_BATCH = 800, 64
RESAMPLES = 200
SHOWN = 4
"""Images of each class in the report."""


@dataclass(frozen=True)
class Judge:
    """A classifier trained on real images, and what it sees in the measured split and in the training split."""

    network: ConvNet
    real: Tensor
    """Features of the measured split, [N, F] float64."""
    labels: Tensor
    """Its labels, [N]."""
    floor: float
    """The Fréchet distance of the training split's own features from `real`."""


def frechet(kind: Frechet, arm: Arm, context: Context) -> Findings:
    """The Fréchet distance between generated and real images, in the features of a fixed classifier.

    The classifier is trained once a run on the real training split, from a seed that is the same in every run:
    the judge never depends on what it judges. The real images are those of the measured split, and as many
    samples are asked for of each class as it holds, in proportion. A distance from few real images is larger
    than from all there could be, for every arm alike: the training split's own distance, the floor, is told
    beside it.

    `frechet`, with `frechet_low` and `frechet_high`: a 95 % bootstrap interval over both sets of images. Drawing
    again from a sample adds distance of its own; the interval is moved back by that, so it tells how far the
    number scatters and leaves the bias of few images where it is.
    `asked_class`: the share of samples that the classifier takes for the class they were asked for.

    Raises StillhouseError for data without labelled images, and for an arm that cannot sample.
    """
    sample = sampler(arm, "frechet")
    judge = judge_of(context)
    rng = torch.Generator(context.device).manual_seed(derive(context.seed, "frechet"))
    asked = judge.labels.repeat(-(-kind.samples // len(judge.labels)))[: kind.samples]
    seen, answers = [], []
    with measuring(arm.model), measuring(judge.network):
        for labels in asked.split(context.batch_size):
            features, logits = read(judge.network, sample(labels, rng))
            seen.append(features)
            answers.append(logits.argmax(-1) == labels)
        facts = context.data.facts
        shown = torch.arange(facts.classes, device=asked.device).repeat(SHOWN)
        grid = sample(shown, rng)
    names = [*(facts.names or map(str, range(facts.classes)))] * SHOWN
    fake = torch.cat(seen)
    distance = frechet_distance(fake, judge.real)
    low, high = _interval(fake, judge.real, seed=derive(context.seed, "frechet-bootstrap"))
    return Findings(
        metrics={
            "frechet": distance,
            "frechet_low": distance + low,
            "frechet_high": distance + high,
            "asked_class": torch.cat(answers).double().mean().item(),
        },
        figures=[
            sheet("Samples", grid, columns=facts.classes, labels=names),
            {
                "kind": "table",
                "title": "Fréchet distance from the real images (floor: that of the training images)",
                "columns": ["distance", "95 % low", "95 % high", "floor", "samples", "real images"],
                "rows": [[distance, distance + low, distance + high, judge.floor, len(fake), len(judge.real)]],
            },
        ],
    )


def sampling_cost(kind: SamplingCost, arm: Arm, context: Context) -> Findings:
    """`network_calls` a sample, and `ms_per_image`: the median time of a batch of samples, divided by its images."""
    sample = sampler(arm, "sampling-cost")
    labels = torch.arange(kind.batch_size, device=context.device) % max(context.data.facts.classes, 1)
    rng = torch.Generator(context.device).manual_seed(derive(context.seed, "sampling-cost"))
    with measuring(arm.model):
        seconds = median_seconds(lambda: sample(labels, rng), context.device)
    return Findings(
        metrics={"network_calls": float(arm.sampler.calls), "ms_per_image": 1000 * seconds / kind.batch_size}
    )


def sampler(arm: Arm, metric: str) -> Callable[..., Tensor]:
    """A function from labels [B], a generator, and by name what else the network is shown, to the arm's images.

    They are [B, C, H, W], in [0, 1].

    Raises StillhouseError where the arm has no sampler, or its view does not lead back to images.
    """
    back = getattr(arm.model.view, "image", None)
    shape = getattr(arm.model.network, "shape", None)
    if arm.sampler is None or back is None or shape is None:
        raise StillhouseError(
            f"{metric} is for generators of images, and the arm {arm.name!r} is not one: give it a network that "
            f"denoises, an image view and a sampler (sampler: heun, say), or leave {metric} out of 'evaluate'"
        )

    def sample(labels: Tensor, rng: torch.Generator, **shown: Tensor) -> Tensor:
        noise = torch.randn(len(labels), *shape, generator=rng, device=rng.device)
        return back(arm.sampler(noise, labels, rng, **shown))

    return sample


def read(network: ConvNet, images: Tensor) -> tuple[Tensor, Tensor]:
    """What a classifier's last layer reads and says: images [B, C, H, W] in [0, 1] -> [B, F] float64, logits."""
    kept: list[Tensor] = []
    handle = network.linear.register_forward_pre_hook(lambda module, given: kept.append(given[0]))
    try:
        logits = network(images)
    finally:
        handle.remove()
    return kept[0].double(), logits


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), Heusel et al. 2017 (arXiv:1706.08500), eq. 6.

    mu and S are means and (n - 1) covariances. Args: features [n, F] and [m, F], at least two of each.
    Computed in float64: the trace of the root is the sum of the roots of the eigenvalues of
    S_a^(1/2) S_b S_a^(1/2), which has the same ones and is symmetric.
    """
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T).view(a.shape[1], -1), torch.cov(b.T).view(b.shape[1], -1)
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    means = (a.mean(0) - b.mean(0)).square().sum()
    return max(0.0, (means + cov_a.trace() + cov_b.trace() - 2 * shared).item())


def _interval(a: Tensor, b: Tensor, *, seed: int) -> tuple[float, float]:
    """How far the 2.5 % and 97.5 % quantiles of the bootstrapped distance lie from its mean."""
    rng = torch.Generator().manual_seed(seed)
    a, b = a.cpu(), b.cpu()
    draws = torch.tensor([frechet_distance(_again(a, rng), _again(b, rng)) for _ in range(RESAMPLES)])
    low, high = (draws - draws.mean()).quantile(torch.tensor([0.025, 0.975])).tolist()
    return low, high


def _again(rows: Tensor, rng: torch.Generator) -> Tensor:
    return rows[torch.randint(len(rows), (len(rows),), generator=rng)]


def judge_of(context: Context) -> Judge:
    """The classifier, trained on the first call of a run and shared by its arms."""
    facts = context.data.facts
    if facts.task != "classification" or len(facts.shape) != 3:
        raise StillhouseError(f"frechet needs labelled images to train its judge on; this data is for {facts.task}")
    key = ("frechet judge", context.source.fingerprint)
    if key not in context.memo:
        network = _train(context.data, context.device)
        with measuring(network):
            train, _ = _look(network, context.data.train, context)
            real, labels = _look(network, context.source, context)
        context.memo[key] = Judge(network, real, labels, frechet_distance(train, real))
    return context.memo[key]


def _look(network: ConvNet, source: Source, context: Context) -> tuple[Tensor, Tensor]:
    """Features and labels of a whole split."""
    whole = list(batches(source, context.batch_size, context.device))
    return torch.cat([read(network, b["image"])[0] for b in whole]), torch.cat([b["labels"] for b in whole])


def _train(data: Data, device: Any) -> ConvNet:
    """The classifier, fitted to the training split as it is, from a seed of its own."""

    def examples(rows: Tensor) -> tuple[Tensor, Tensor]:
        batch = data.train.fetch(rows, None)
        return batch["image"].to(device), batch["labels"].to(device)

    return trained_judge(
        "frechet judge",
        JUDGE,
        examples,
        len(data.train),
        data.facts,
        steps=JUDGE_STEPS,
        batch_size=JUDGE_BATCH,
        device=device,
    )
