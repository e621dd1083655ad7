"""Text that a language model writes itself, as a batch to train or measure it on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from stillhouse.engine.contracts import IGNORED, Batch
from stillhouse.engine.process import anywhere
from stillhouse.engine.sharding import is_sharded
from stillhouse.errors import StillhouseError


def prompts(batch: Batch, length: int) -> Tensor:
    """The first tokens of each text, [B, length].

    Raises StillhouseError where a text is shorter than that.
    """
    ids = batch["input_ids"]
    shortest = ids.shape[1]
    if "attention_mask" in batch:
        shortest = int(batch["attention_mask"].sum(1).min())
    if shortest < length:
        raise StillhouseError(
            f"prompts are to have {length} tokens, and a text has only {shortest}: "
            "make 'prompt' smaller or the data's 'block' larger"
        )
    return ids[:, :length]


@torch.no_grad()
def rollouts(
    network: nn.Module,
    prompts: Tensor,
    length: int,
    rng: torch.Generator,
    *,
    temperature: float = 1.0,
    ends: Iterable[int] = (),
) -> Batch:
    """What the model writes after each prompt, sampled token by token, in eval mode and without gradients.

    Args:
        network: called with `input_ids`, `past_key_values` and `use_cache`, as Hugging Face models are.
        prompts: [B, P] token ids, without padding.
        length: L, the most tokens to write.
        rng: where the samples are drawn from, on the prompts' device.
        temperature: divides the logits.
        ends: the tokens that end a text. They belong to it; what comes after is padding.

    Returns `input_ids`, `attention_mask` and `labels`, each [B, T] with T at most P + L. A label is the
    token itself where the model wrote it, and -100 on the prompt and on padding.
    """
    stops = torch.tensor(sorted(ends), dtype=torch.long, device=prompts.device)
    written, masks = [prompts], [torch.ones_like(prompts)]
    going = torch.ones(len(prompts), dtype=torch.long, device=prompts.device)  # [B] 1 until a text has ended
    seen, past = prompts, None
    sharded = is_sharded(next(network.parameters(), None))  # then every process has to call the network equally often
    with _evaluating(network):
        for _ in range(length):
            output = network(input_ids=seen, past_key_values=past, use_cache=True)
            past = output.past_key_values
            chances = (output.logits[:, -1].float() / temperature).softmax(-1)  # [B, V]
            seen = torch.multinomial(chances, 1, generator=rng)  # [B, 1]
            written.append(seen)
            masks.append(going[:, None])
            if len(stops):
                going = going * ~torch.isin(seen[:, 0], stops)
                if not (anywhere(going.any()) if sharded else going.any()):
                    break
    ids, mask = torch.cat(written, 1), torch.cat(masks, 1)
    labels = ids.masked_fill(mask == 0, IGNORED)
    labels[:, : prompts.shape[1]] = IGNORED
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def end_tokens(network: nn.Module) -> tuple[int, ...]:
    """The tokens that end a text, by the network's own generation settings or config."""
    for settings in (getattr(network, "generation_config", None), getattr(network, "config", None)):
        ends = getattr(settings, "eos_token_id", None)
        if ends is not None:
            return (ends,) if isinstance(ends, int) else tuple(ends)
    return ()


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Eval mode, and afterwards every submodule in the mode it was in."""
    modes = {part: part.training for part in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
