"""A teacher for a Hugging Face `Trainer`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from stillhouse.engine.contracts import IGNORED
from stillhouse.errors import StillhouseError
from stillhouse.objectives.divergences import cross_entropy, forward_kl


class Taught:
    """Gives a `Trainer` of causal language models a teacher; name it first among the bases.

        class TaughtTrainer(Taught, Trainer): ...

        TaughtTrainer(model=student, args=args, train_dataset=data, teacher=Frozen(network))

    A token's loss is `share` T^2 KL(teacher || student) + (1 - share) cross-entropy (Hinton et al. 2015,
    arXiv:1503.02531), T the temperature. A token counts where its label is not -100, and is held
    against the logits one position before it. The sum is divided by the Trainer's own count of the
    tokens of all accumulated batches and, where it says so, of all devices.

    The teacher takes the batch without its labels and returns `.logits` over the student's vocabulary.

    Raises StillhouseError for a model that is no causal language model.
    """

    def __init__(
        self, *args: Any, teacher: nn.Module, share: float = 0.5, temperature: float = 1.0, **kwargs: Any
    ) -> None:
        parent: Any = super()
        parent.__init__(*args, compute_loss_func=self._taught_loss, **kwargs)
        trainer: Any = self
        if getattr(trainer.model, "loss_type", None) != "ForCausalLM":
            raise StillhouseError(
                f"Taught shifts logits as causal language models do, and {type(trainer.model).__name__} is none: "
                "override compute_loss and call a divergence of stillhouse in it"
            )
        self.teacher = teacher.to(trainer.args.device)
        self.share, self.temperature = share, temperature
        self._target: Tensor | None = None

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The Trainer's own, with the teacher's answer at hand."""
        self._target = self.teacher(**{name: value for name, value in inputs.items() if name != "labels"}).logits
        parent: Any = super()
        return parent.compute_loss(model, inputs, *args, **kwargs)

    def _taught_loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The loss of one batch, to be summed over the batches that are accumulated."""
        target, self._target = self._target, None
        assert target is not None, "compute_loss asks the teacher first"
        student, labels = outputs.logits[:, :-1], labels[:, 1:]
        where = labels != IGNORED
        student, target, labels = student[where], target[:, :-1][where], labels[where]
        values = self.share * forward_kl(student, target, temperature=self.temperature)
        values = values + (1 - self.share) * cross_entropy(student, labels)
        return values.sum() / (len(values) if num_items_in_batch is None else num_items_in_batch)
