"""StableKD: blocks distilled each on its own, then put together again until the student is trained as a whole.

Paper: Kao, Chen & Chan 2023, "StableKD: Breaking Inter-block Optimization Entanglement for Stable Knowledge
    Distillation", arXiv:2312.13223.
Algorithm: decomposition: the student is cut after the blocks named, and so is the teacher. Every block but the first
    reads what the teacher's block before it gives, and is stepped on its squared distance to what the teacher's own
    block gives; the last one on the terms of the whole answer.
    Recomposition: the cuts are mended one by one, the first one first. A mended cut passes the student's own
    features on, and has no loss. When none is left, this is distillation from end to end.
Roles: student; teacher, frozen.
Deviations: where the widths differ, a 1 x 1 convolution (or linear map) brings the teacher's features to the
    student's width, with a rectifier behind it where the student's block ends in one; it is trained by the block that
    reads them, and is gone at export. The moments of mending are evenly spaced.
Limits: at a cut, the two feature maps have one resolution. Terms with parts of their own are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from stillhouse.engine.contracts import Batch, Loss, Losses, Method, Player, Turn
from stillhouse.errors import StillhouseError
from stillhouse.methods.online_kinds import StableKD as StableKDKind
from stillhouse.methods.roles import Roles
from stillhouse.objectives.divergences import mse
from stillhouse.objectives.projectors import projector
from stillhouse.objectives.terms import Terms
from stillhouse.taps.hooks import tapped
from stillhouse.views.model import FEATURES


class StableKD(Method):
    def __init__(self, kind: StableKDKind, roles: Roles) -> None:
        if roles.teacher is None:
            raise StillhouseError("method 'stable' needs a teacher, and the recipe has none: add one under 'teacher'")
        self.kind, self.teacher = kind, roles.teacher
        self.terms = Terms(kind.terms)
        self.cuts = dict(zip(kind.blocks, kind.teacher_blocks or kind.blocks, strict=True))
        self.student = Player(roles.student, parts=self._adapters(roles))

    def schedule(self) -> Iterator[Turn]:
        yield Turn("student", self.update_student)

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        cuts = self.open_cuts()
        theirs = self.teacher.signals(batch, [*self.terms.asks, *(FEATURES + self.cuts[path] for path in cuts)])
        read = {path: self._adapted(path, theirs[FEATURES + self.cuts[path]]) for path in cuts}
        with replaced(self.student.module.network, read) as given:
            own = self.student.module.signals(batch, self.terms.wants)
        labels, where = self.student.module.view.targets(batch)
        losses = self.terms.losses(own, theirs, labels, where, progress=self.progress, batch=batch)
        for path in cuts:
            losses[f"block/{path}"] = Loss(mse(given[path], read[path].detach()), weight=self.kind.block_weight)
        losses.note("cuts", float(len(cuts)))
        return losses

    def open_cuts(self) -> list[str]:
        """The cuts that are not mended yet: all at first, none from the share `whole` of the stage on."""
        if not self.kind.whole:
            return []
        paths = list(self.cuts)
        return paths[int(self.progress / self.kind.whole * len(paths)) :]

    def _adapted(self, path: str, feature: Tensor) -> Tensor:
        part = _name(path)
        return self.student.parts[part](feature) if part in self.student.parts else feature

    def _adapters(self, roles: Roles) -> dict[str, nn.Module]:
        """From the teacher's width to the student's at each cut where they differ; misfits are told here."""
        mode = roles.student.training
        roles.student.eval()
        with torch.no_grad():
            own = roles.student.signals(roles.example, [*self.terms.wants, *(FEATURES + path for path in self.cuts)])
        roles.student.train(mode)
        theirs = self.teacher.signals(
            roles.example, [*self.terms.asks, *(FEATURES + path for path in self.cuts.values())]
        )
        for name in self.terms.parts(own, theirs):
            raise StillhouseError(f"method 'stable' takes terms with nothing to train, and {name!r} has parts")
        adapters = {}
        for path, other in self.cuts.items():
            ours, target = own[FEATURES + path], theirs[FEATURES + other]
            if ours.shape != target.shape:
                adapter = projector("conv" if ours.dim() == 4 else "linear", target, ours)
                rectified = bool((ours >= 0).all())
                adapters[_name(path)] = nn.Sequential(adapter, nn.ReLU()) if rectified else adapter
        return adapters


@contextmanager
def replaced(network: nn.Module, read: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """While the block runs, what follows each named module reads this in place of its output, which is kept."""
    given: dict[str, Tensor] = {}

    def at(path: str):
        def hook(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            given[path] = output
            return read[path]

        return hook

    with ExitStack() as stack:
        for path in read:
            stack.callback(tapped(network, path).register_forward_hook(at(path)).remove)
        yield given


def _name(path: str) -> str:
    """A module path as a part's name, which has no dots."""
    return path.replace(".", "/")
