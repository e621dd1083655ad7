"""Whether an image drawn beside another one shares its domain, and is of the class asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.engine.seeds import derive
from stillhouse.errors import StillhouseError
from stillhouse.evaluation.answers import batches, measuring
from stillhouse.evaluation.findings import Arm, Context, Findings
from stillhouse.evaluation.generation import sampler
from stillhouse.evaluation.generation_kinds import Reference
from stillhouse.evaluation.pictures import sheet
from stillhouse.networks.judge import Expert
from stillhouse.networks.pair_denoiser import PairDenoiser

SHOWN = 10
"""References in the report."""


def reference(kind: Reference, arm: Arm, context: Context) -> Findings:
    """One pair for each of the measured split, drawn beside its first image and with its second one's class.

    `identity` is the share of second images that the judge takes for the reference's own domain, which is known;
    `context` that of the class asked for. `consistency`: of as many pairs drawn without a reference, the share whose
    two images the judge takes for one domain's.

    Raises StillhouseError for arms that cannot be shown a reference, and for images without a domain.
    """
    del kind
    sample, network = sampler(arm, "reference"), arm.model.network
    if not isinstance(network, PairDenoiser):
        raise StillhouseError(
            f"reference is for models that are shown an image, and the arm {arm.name!r} cannot be: give it network: "
            "pair-denoiser on data of kind panels, or leave reference out of 'evaluate'"
        )
    judge = _judge(context)
    rng = torch.Generator(context.device).manual_seed(derive(context.seed, "reference"))
    identity, asked, alike, shown = [], [], [], []
    with measuring(arm.model):
        for batch in batches(context.source, context.batch_size, context.device):
            given = arm.model.view.inputs(batch)[""].chunk(2, -1)[0]
            pair = sample(batch["labels"], rng, reference=given)
            found, domain = judge(pair.chunk(2, -1)[1])
            identity.append(domain == batch["domain"])
            asked.append(found == batch["labels"] % network.classes)
            domains = [judge(image)[1] for image in sample(batch["labels"], rng).chunk(2, -1)]
            alike.append(domains[0] == domains[1])
            shown += [batch["image"], pair] if not shown else []
    values = {"identity": _floats(identity), "context": _floats(asked), "consistency": _floats(alike)}
    real, drawn = (images[:SHOWN] for images in shown)
    return Findings(
        metrics={name: sum(own) / len(own) for name, own in values.items()},
        per_example=values,
        figures=[
            sheet(
                "Real pairs, and below them what is drawn beside their first image",
                torch.cat([real, drawn]),
                columns=len(real),
            )
        ],
    )


def _floats(answers: list[Tensor]) -> list[float]:
    return torch.cat(answers).double().tolist()


def _judge(context: Context) -> Expert:
    """Trained on the first call of a run and shared by its arms."""
    data = context.data
    key = ("reference judge", data.train.fingerprint)
    if key not in context.memo:
        context.memo[key] = Expert(data.train, data.facts, half=1, device=context.device)
    return context.memo[key]
