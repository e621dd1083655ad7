"""The methods between denoisers of one size that a recipe may name. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stillhouse.engine.settings import Positive
from stillhouse.kinds import AnyKind
from stillhouse.methods.kinds import Denoise, MethodKind
from stillhouse.networks.kinds import Heun, SamplerKind

Weight = Annotated[float, Field(ge=0)]


class SharedNoise(MethodKind):
    """Teacher and student denoise the same noised images, and the student is held to what the teacher makes of them.

    Ma et al. 2023 (PEA-Diffusion, arXiv:2311.17086), for a student that is prompted in another language.
    """

    kind: Literal["shared-noise"] = "shared-noise"
    builds = "stillhouse.methods.shared_noise:SharedNoise"
    taps: list[str] = []
    """Module paths, the same in both, whose outputs are compared beside the denoised images."""
    feature_weight: Weight = 1.0
    """Of the taps' mean squared difference."""
    data_weight: Weight = 0.0
    """Of the denoising loss on the data, which needs no teacher."""
    log_mean: float = -1.2
    """Of the logarithm of the noise levels: P_mean of Karras et al. 2022."""
    log_std: Positive = 1.2
    """Of the same: P_std."""

    def without_teacher(self) -> Denoise:
        return Denoise(log_mean=self.log_mean, log_std=self.log_std)


class OwnPairs(MethodKind):
    """A model of pairs draws pairs, and on those of one domain it learns to draw the second image beside a given first.

    Cai et al. 2024 (Diffusion Self-Distillation, arXiv:2411.18616). The teacher is the student before this training:
    `student.weights: teacher`.
    """

    kind: Literal["own-pairs"] = "own-pairs"
    builds = "stillhouse.methods.own_pairs:OwnPairs"
    pairs: Annotated[int, Field(gt=0)] = 4096
    """Drawn by the teacher before the first step."""
    curated: bool = True
    """Keep those alone whose two images a judge, trained on real images, takes for one domain's."""
    sampler: Annotated[SamplerKind, AnyKind("sampler")] = Heun()
    """How the teacher draws them."""
    log_mean: float = -1.2
    """Of the logarithm of the noise levels: P_mean of Karras et al. 2022."""
    log_std: Positive = 1.2
    """Of the same: P_std."""
