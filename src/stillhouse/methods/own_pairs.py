"""OwnPairs: a model of pairs draws its own pairs, and learns from them to draw an image beside one it is given.

Paper: Cai et al. 2024, "Diffusion Self-Distillation for Zero-Shot Customized Image Generation", arXiv:2411.18616,
    section 3; that both frames are noised and denoised while the given image stands beside them, as in the authors'
    code.
Algorithm: before the first step, for the labels of pairs of the data, the seed model draws pairs of images;
    a judge looks at both images of a pair, and the pair is kept where they show one subject (one domain).
    For each batch of kept pairs x = (r, t) with the label y of t: draw sigma and eps; step on
    lambda(sigma) mean((D(x + sigma eps, sigma, y, r) - x)^2), over both images: r becomes itself, t what was asked.
Roles: student, a pair-denoiser; teacher, the seed model: the student before this stage, asked before the first step
    alone. The judge is none of them.
Deviations: noise levels and weights are those of Karras et al. 2022 (arXiv:2206.00364). Panels of two stand for grids,
    labels of the data for prompts that a language model writes, and a small classifier of real images' domains for the
    vision-language model that judges. All weights are trained, without guidance. Pairs are kept in the checkpoint;
    batches of the data tell only how many of them a step takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from stillhouse.engine.contracts import Batch, Losses, Method, Player, Turn
from stillhouse.errors import StillhouseError
from stillhouse.methods.denoise import data_deviation, noise_levels, noised
from stillhouse.methods.diffusion_kinds import OwnPairs as Kind
from stillhouse.methods.roles import Roles
from stillhouse.networks.judge import Expert
from stillhouse.networks.pair_denoiser import PairDenoiser
from stillhouse.objectives.scores import denoising
from stillhouse.teachers.frozen import one_network

CHUNK = 512


class OwnPairs(Method):
    def __init__(self, kind: Kind, roles: Roles) -> None:
        self.kind, self.roles = kind, roles
        self.teacher = one_network(roles.teacher, kind.word)
        for model in (self.teacher, roles.student):
            if not isinstance(model.network, PairDenoiser):
                raise StillhouseError(
                    f"method {kind.word!r} needs networks that can be shown the first image of a pair, and "
                    f"{type(model.network).__name__} cannot: choose network: pair-denoiser, on data of kind panels"
                )
        self.student = Player(roles.student)
        self.sigma_data = data_deviation(roles.student, kind.word)
        self.seed = int(torch.randint(2**31, ()))
        self.pairs: Batch = {}

    def schedule(self) -> Iterator[Turn]:
        if not self.pairs:
            drawn = self.drawn()
            kept = self.agreeing(drawn["image"]) if self.kind.curated else torch.ones_like(drawn["labels"]).bool()
            if not kept.any():
                raise StillhouseError(
                    f"method {self.kind.word!r}: the judge finds no pair of one domain among "
                    f"{len(kept)} that the teacher drew: train it longer, or draw more 'pairs'"
                )
            self.pairs = {name: value[kept] for name, value in drawn.items()}
        yield Turn("student", self.update_student)

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        rows = torch.randint(len(self.pairs["labels"]), (len(batch["labels"]),), generator=rng, device=rng.device)
        own = {name: value[rows] for name, value in self.pairs.items()}
        x = self.student.module.view.inputs(own)[""]  # [B, C, H, 2 W], as the view shows it
        sigma = noise_levels(x, rng, self.kind.log_mean, self.kind.log_std)
        denoised = self.student(noised(x, sigma, rng), sigma, own["labels"], reference=x.chunk(2, -1)[0])
        return Losses(denoising=denoising(denoised, x, sigma, sigma_data=self.sigma_data))

    def drawn(self) -> Batch:
        """The teacher's pairs, for labels of the data: `image` [N, C, H, 2 W] in [0, 1], `labels` [N]."""
        device = self.roles.example["labels"].device
        rng = torch.Generator(device).manual_seed(self.seed)
        source, back = self.roles.source, getattr(self.teacher.view, "image", None)
        assert source is not None, "the builder gives the source"
        if back is None:
            raise StillhouseError(
                f"method {self.kind.word!r}: the teacher's view does not lead back to images; give it view: image"
            )
        sample, found = self.kind.sampler.build(self.teacher), []
        rows = torch.randint(len(source), (self.kind.pairs,), generator=torch.Generator().manual_seed(self.seed))
        labels = source.fetch(rows, None)["labels"].to(device)
        with torch.no_grad():
            for some in labels.split(CHUNK):
                noise = torch.randn(len(some), *self.roles.facts.shape, generator=rng, device=device)
                found.append(back(sample(noise, some, rng)))
        return {"image": torch.cat(found), "labels": labels}

    def agreeing(self, images: Tensor) -> Tensor:
        """Whether a judge takes both images of a pair for one domain's: [N, C, H, 2 W] -> [N] bool."""
        source = self.roles.source
        assert source is not None, "the builder gives the source"
        judge = Expert(source, self.roles.facts, half=0, device=images.device)
        first, second = images.chunk(2, -1)
        return judge(first)[1] == judge(second)[1]

    def told(self) -> dict[str, float]:
        return {"pairs_kept": len(self.pairs.get("labels", ())) / self.kind.pairs}

    def state_dict(self) -> dict[str, Any]:
        return dict(self.pairs)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.pairs = {name: value.to(self.roles.example["labels"].device) for name, value in state.items()}
