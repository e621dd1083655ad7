"""A network that scores the spans of a sentence."""

from __future__ import annotations

from torch import Tensor, nn

from stillhouse.engine.contracts import Facts
from stillhouse.networks.task_kinds import SpanParser as Kind


class SpanParser(nn.Module):
    """Word embeddings, a bidirectional LSTM, and a biaffine score of each pair of first and last word.

    Input token ids [B, T]; output scores [B, T, T], [i, j] of the span from word i to word j.
    """

    def __init__(self, kind: Kind, facts: Facts) -> None:
        super().__init__()
        self.embed = nn.Embedding(facts.classes, kind.width, padding_idx=0)
        self.read = nn.LSTM(kind.width, kind.width, batch_first=True, bidirectional=True)
        self.first, self.last = (nn.Sequential(nn.Linear(2 * kind.width, kind.width), nn.ReLU()) for _ in range(2))
        self.pair = nn.Linear(kind.width, kind.width, bias=False)
        self.each = nn.Linear(2 * kind.width, 1)

    def forward(self, words: Tensor) -> Tensor:
        seen, _ = self.read(self.embed(words))  # [B, T, 2 width]
        scores = self.pair(self.first(seen)) @ self.last(seen).mT
        alone = self.each(seen)
        return scores + alone + alone.mT
