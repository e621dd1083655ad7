"""The vision transformer: what it computes, on which patches, and what it names."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.engine.contracts import Facts
from stillhouse.errors import StillhouseError
from stillhouse.networks.kinds import ViT as Kind
from stillhouse.networks.vit import Block, ViT
from stillhouse.taps import Taps
from stillhouse.views.asis import AsIsView
from stillhouse.views.image import ImageView
from stillhouse.views.kinds import Image
from stillhouse.views.model import Model

DIGITS = Facts(task="classification", shape=(1, 8, 8), classes=10)


def made(*, distillation: bool = False) -> ViT:
    torch.manual_seed(0)
    network = ViT(Kind(width=16, depth=2, heads=2, distillation=distillation), DIGITS)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)  # no zero biases: a forgotten one would show
    return network.eval()


def reference(network: ViT, tokens: Tensor) -> Tensor:
    """The blocks by torch's own encoder layer, from the tokens with their positions to the last norm."""
    for block in network.blocks:
        assert isinstance(block, Block)
        width, heads = tokens.shape[-1], block.attention.heads
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, activation="gelu", norm_first=True, batch_first=True
        )
        inside = [block.attention.query, block.attention.key, block.attention.value]
        layer.self_attn.in_proj_weight.data = torch.cat([project.weight for project in inside])
        layer.self_attn.in_proj_bias.data = torch.cat([project.bias for project in inside])
        layer.self_attn.out_proj.load_state_dict(block.attention.output.state_dict())
        layer.norm1.load_state_dict(block.norm1.state_dict())
        layer.norm2.load_state_dict(block.norm2.state_dict())
        layer.linear1.load_state_dict(block.mlp[0].state_dict())
        layer.linear2.load_state_dict(block.mlp[2].state_dict())
        tokens = layer.eval()(tokens)
    return network.norm(tokens)


def test_it_computes_what_torchs_own_encoder_computes() -> None:
    network, image = made(), torch.rand(3, 1, 8, 8)
    rows = [image[:, 0, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].flatten(1) for y in range(4) for x in range(4)]
    patches = functional.linear(torch.stack(rows, 1), network.embed.weight.flatten(1), network.embed.bias)
    tokens = torch.cat([network.prefix_tokens.expand(3, -1, -1), patches], 1) + network.positions
    expected = reference(network, tokens)
    found = network(image)
    torch.testing.assert_close(found["tokens"], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["logits"], network.head(expected[:, 0]), rtol=1e-4, atol=1e-5)
    assert torch.equal(found["embedding"], found["tokens"][:, 0])
    assert torch.equal(found["map"][:, :, 2, 1], found["tokens"][:, 1 + 2 * 4 + 1])


def test_left_out_patches_have_no_influence_and_the_visible_keep_their_positions() -> None:
    network, image = made(), torch.rand(2, 1, 8, 8)
    visible = torch.tensor([[0, 5, 9], [14, 3, 7]])
    found = network(image, visible=visible)
    assert found["tokens"].shape == (2, 4, 16)
    other = torch.rand(2, 1, 8, 8)
    for row, shown in enumerate(visible.tolist()):
        for patch in shown:
            y, x = 2 * (patch // 4), 2 * (patch % 4)
            other[row, :, y : y + 2, x : x + 2] = image[row, :, y : y + 2, x : x + 2]
    torch.testing.assert_close(network(other, visible=visible)["tokens"], found["tokens"])
    order = torch.tensor([2, 0, 1])
    turned = network(image, visible=visible[:, order])["tokens"]
    torch.testing.assert_close(turned[:, 1:], found["tokens"][:, 1:][:, order], rtol=1e-4, atol=1e-5)
    everything = network(image, visible=torch.arange(16).expand(2, -1))["tokens"]
    torch.testing.assert_close(everything, network(image)["tokens"])
    moved = network(image, visible=torch.tensor([[1, 5, 9], [14, 3, 7]]))["tokens"]
    assert not torch.allclose(moved[0], found["tokens"][0])


def test_of_a_hidden_patch_only_the_position_is_seen() -> None:
    network, image = made(), torch.rand(2, 1, 8, 8)
    hidden = torch.zeros(2, 16, dtype=torch.bool)
    hidden[0, 3] = True
    blank = image.clone()
    blank[0, :, 0:2, 6:8] = torch.rand(2, 2)
    found = network(image, hidden=hidden)["tokens"]
    torch.testing.assert_close(network(blank, hidden=hidden)["tokens"], found)
    assert not torch.allclose(found[0], network(image)["tokens"][0])
    torch.testing.assert_close(found[1], network(image)["tokens"][1])
    moved = network(image, hidden=hidden.roll(1, 1))["tokens"]
    assert not torch.allclose(moved[0], found[0])


def test_two_heads_are_trained_apart_and_answer_together() -> None:
    network, image = made(distillation=True), torch.rand(2, 1, 8, 8)
    learning = network.train()(image)
    answers = network.eval()(image)
    assert network.distillation_head is not None
    tokens = learning["tokens"]
    assert tokens.shape == (2, 18, 16)
    torch.testing.assert_close(learning["logits"], network.head(tokens[:, 0]))
    torch.testing.assert_close(learning["distillation_logits"], network.distillation_head(tokens[:, 1]))
    torch.testing.assert_close(answers["logits"], (learning["logits"] + learning["distillation_logits"]) / 2)
    assert not torch.allclose(learning["logits"], learning["distillation_logits"])


def test_taps_reach_projections_and_attention_maps() -> None:
    network, image = made(), torch.rand(2, 1, 8, 8)
    model = Model(network, ImageView(Image(), DIGITS))
    wants = [f"features.blocks.1.attention.{name}" for name in ("query", "key", "softmax")]
    found = model.signals({"image": image}, [*wants, "tokens", "embedding"])
    query, key, maps = (found[want] for want in wants)
    heads = [slice(0, 8), slice(8, 16)]
    expected = torch.stack([(query[..., h] @ key[..., h].mT / 8**0.5).softmax(-1) for h in heads], 1)
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-6)
    with Taps(network, ["blocks.0"]) as kept:
        network(image)
    assert kept["blocks.0"].shape == (2, 17, 16)


def test_a_view_reads_a_mapping_by_its_names() -> None:
    found = {"logits": torch.ones(2, 3), "distillation_logits": torch.zeros(2, 3), "cache": None}
    for view in (AsIsView(), ImageView(Image())):
        assert view.read(found, {}).keys() == {"logits", "distillation_logits"}


def test_misfits_are_told() -> None:
    with pytest.raises(StillhouseError, match="do not split into patches of 3 x 3"):
        ViT(Kind(patch=3), DIGITS)
    with pytest.raises(ValidationError, match="does not split into 5 heads"):
        Kind(width=48, heads=5)
