"""Gaussian: self-distillation of Gaussian process regression, in closed form.

Paper: Borup & Andersen 2023, "Self-Distillation for Gaussian Process Regression and Classification",
    arXiv:2304.02641; data-centric self-distillation of kernel ridge regression is Mobahi et al. 2020,
    arXiv:2002.05715.
Algorithm: data-centric (targets: teacher): fit the kernel's own prior to the teacher's mean at the training points,
    y_(t+1) = K (K + noise_t I)^-1 y_t. In the kernel's eigenbasis every generation shrinks direction j by
    d_j / (d_j + noise_t).
    Distribution-centric (prior: teacher): the teacher's posterior is the prior, and the labels are seen again. After
    generations with noise_1, ..., noise_t this is one fit with noise 1 / (1 / noise_1 + ... + 1 / noise_t).
Roles: student, a network of kind gp; teacher, another one, or for data-centric distillation any model of numbers.
Deviations: regression alone; the paper's classification (a Laplace approximation) is not here. The engine takes
    gradient steps, so the weights w are moved by one of rate 1 down |w - w*|^2 / 2, which lands on the solution w*.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from stillhouse.engine.contracts import Batch, Loss, Losses, Method, Player, Turn
from stillhouse.errors import StillhouseError
from stillhouse.methods.online_kinds import Gaussian as GaussianKind
from stillhouse.methods.roles import Roles
from stillhouse.networks.gp import GaussianProcess, Process


class Gaussian(Method):
    def __init__(self, kind: GaussianKind, roles: Roles) -> None:
        if not isinstance(roles.student.network, GaussianProcess):
            raise StillhouseError("method 'gaussian' fits networks of kind gp: name one under student.network")
        self.kind, self.network, self.teacher = kind, roles.student.network, roles.teacher
        if kind.asks_teacher and self.teacher is None:
            raise StillhouseError("'gaussian' is to learn from a teacher, and there is none: add one under 'teacher'")
        if kind.prior == "teacher" and not isinstance(getattr(self.teacher, "network", None), GaussianProcess):
            raise StillhouseError("'prior: teacher' needs a teacher of kind gp, whose posterior is known")
        self.solution: Tensor | None = None
        self.student = Player(roles.student)

    def schedule(self) -> Iterator[Turn]:
        yield Turn("student", self.update_student)

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        points = self.student.module.view.inputs(batch)[""].double()  # [N, D]
        values = self._values(batch)
        prior = self.network.prior() if self.kind.prior == "own" else self._known()
        with torch.no_grad():
            found = self._padded(self.network.posterior(prior, points, values, self.network.noise))
            self.network.points.copy_(found.points)
            self.network.shrink.copy_(found.shrink)
        self.solution = found.weights
        gap = (self.network.weights - found.weights).square() / 2  # [P, 1]
        return Losses(closed_form=Loss(gap, weight=float(gap.numel())))  # a sum: its gradient is w - w*

    def told(self) -> dict[str, float]:
        """How far the weights are from the solution. Raises StillhouseError where one step did not reach it."""
        if self.solution is None:  # taken up after its only step
            return {}
        far = (self.network.weights.detach() - self.solution).abs().max().item()
        if far > 1e-9 * max(1.0, self.solution.abs().max().item()) or self.student.average is not None:
            raise StillhouseError(
                "the closed form was not reached: train it with steps: 1, schedule: constant and "
                "optimizer: {kind: sgd, lr: 1, momentum: 0}, and without an average of the weights"
            )
        return {"from_solution": far}

    def _values(self, batch: Batch) -> Tensor:
        """What is fitted, [N, 1]."""
        if self.kind.targets == "teacher":
            return self.teacher.signals(batch)["logits"].double()
        return self.student.module.view.targets(batch)[0].double()

    def _known(self) -> Process:
        theirs = self.teacher.network
        if (theirs.lengthscale, theirs.amplitude) != (self.network.lengthscale, self.network.amplitude):
            raise StillhouseError("'prior: teacher' needs the student's kernel: the same lengthscale and amplitude")
        return theirs.process()

    def _padded(self, found: Process) -> Process:
        """With as many points as there is room for; those not in use have no weight."""
        room, used = len(self.network.points), len(found.points)
        if used > room:
            raise StillhouseError(
                f"the process has {used} points, and the network room for {room}: set network.points to {used}"
            )
        roomy = (self.network.points, self.network.weights.detach(), self.network.shrink)
        return Process(*(_within(own, values) for own, values in zip(roomy, found, strict=True)))


def _within(room: Tensor, values: Tensor) -> Tensor:
    """Zeros of the shape of `room`, with `values` in their first rows and columns."""
    padded = torch.zeros_like(room)
    padded[: values.shape[0], : values.shape[1]] = values
    return padded
