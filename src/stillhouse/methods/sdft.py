"""SDFT: a model is fine-tuned on gold answers that it rewrote in its own words before.

Paper: Yang et al. 2024, "Self-Distillation Bridges Distribution Gap in Language Model Fine-Tuning",
    arXiv:2402.13669, section 3.
Algorithm: before the first step, for each instruction c with its gold answer y,
    the seed model, shown c and y as a reference, writes the answer in its own words, y~ ~ f_seed(. | c, y);
    y' = y~ where it passes a check (it ends, and says the same as y), else y.
    For each batch, step on -log f(y' | c), the mean over the tokens of y'.
Roles: student; teacher, the seed model: the student before this stage, asked before the first step alone.
Deviations: all weights are trained where the paper trains LoRA. The check compares what a regular expression finds
    in the two answers; the authors' has one a data set, and a list of phrases that give a rewriting away.
    Rewritings stand in memory, and are made again when a killed run goes on, as they depend on seed, data and the
    seed model alone.
Limits: prompts of the data have one length, and so have requests to rewrite (`rewrite_ids`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from stillhouse.engine.contracts import Batch, Losses, Method, Player, Turn
from stillhouse.methods.roles import Roles
from stillhouse.methods.self_kinds import SDFT as SDFTKind
from stillhouse.objectives.kinds import CrossEntropy
from stillhouse.objectives.terms import Terms
from stillhouse.sources.rewriting import rewritten
from stillhouse.teachers.frozen import Frozen, one_network


class SDFT(Method):
    def __init__(self, kind: SDFTKind, roles: Roles) -> None:
        self.terms = Terms([CrossEntropy()])
        self.student = Player(roles.student)
        self.texts, self.kept = _rewritten(kind, one_network(roles.teacher, kind.word), roles)

    def schedule(self) -> Iterator[Turn]:
        yield Turn("student", self.update_student)

    def update_student(self, batch: Batch, rng: torch.Generator) -> Losses:
        own = batch | {name: value[batch["index"]] for name, value in self.texts.items()}
        student = self.student.module.signals(own)
        labels, where = self.student.module.view.targets(own)
        return self.terms.losses(student, {}, labels, where, progress=self.progress)

    def told(self) -> dict[str, float]:
        return {"rewritten": self.kept.float().mean().item()}


def _rewritten(kind: SDFTKind, seed: Frozen, roles: Roles) -> tuple[Batch, Tensor]:
    """What the student trains on, and whether each answer was rewritten: the whole source in order."""
    found, kept = [], []
    for batch in roles.everything():
        rng = torch.Generator(batch["index"].device).manual_seed(int(torch.randint(2**31, ())))
        texts, own = rewritten(
            seed.network,
            batch,
            roles.facts.tokenizer,
            rng,
            answer=kind.answer,
            length=kind.length,
            temperature=kind.temperature,
        )
        found.append(texts)
        kept.append(own)
    return {name: torch.cat([texts[name] for texts in found]) for name in found[0]}, torch.cat(kept)
