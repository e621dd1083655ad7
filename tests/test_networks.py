"""The classifier networks: their published shape, their names, and what they compute."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from stillhouse.engine.contracts import Facts
from stillhouse.errors import StillhouseError
from stillhouse.networks.kinds import ConvNet, ResNet
from stillhouse.recipe.builder import Builder
from stillhouse.recipe.plan import planned
from stillhouse.recipe.schema import Recipe
from stillhouse.taps import Taps

CIFAR = Facts(task="classification", shape=(3, 32, 32), classes=10)
DIGITS = Facts(task="classification", shape=(1, 8, 8), classes=10)


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_resnets_have_the_sizes_of_table_6(depth: int, millions: float) -> None:
    """He et al. 2015, table 6."""
    assert size(ResNet(depth=depth).build(CIFAR)) / 1e6 == pytest.approx(millions, abs=0.035)


def test_resnet_20_has_the_usual_names() -> None:
    state = ResNet().build(CIFAR).state_dict()
    expected = {"conv1.weight", "linear.weight", "linear.bias"}
    batch_norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected |= {f"bn1.{name}" for name in batch_norm}
    for stage, block in ((s, b) for s in (1, 2, 3) for b in (0, 1, 2)):
        for part in (1, 2):
            expected.add(f"layer{stage}.{block}.conv{part}.weight")
            expected |= {f"layer{stage}.{block}.bn{part}.{name}" for name in batch_norm}
    assert set(state) == expected
    assert state["layer3.0.conv1.weight"].shape == (64, 32, 3, 3)
    assert state["linear.weight"].shape == (10, 64)


@pytest.mark.parametrize("kind", [ResNet(depth=8), ConvNet()])
def test_the_pooled_features_are_what_the_head_sees(kind: ConvNet | ResNet) -> None:
    network = kind.build(CIFAR)
    with Taps(network, ["pool"]) as kept:
        logits = network(torch.randn(2, 3, 32, 32))
    assert kept["pool"].shape == (2, network.linear.in_features)
    torch.testing.assert_close(network.linear(kept["pool"]), logits)


def test_a_depth_that_is_no_resnet_is_refused_with_its_neighbours() -> None:
    with pytest.raises(ValidationError, match="20 or 26, not 25"):
        ResNet(depth=25)


def reference(state: dict[str, Tensor], image: Tensor) -> Tensor:
    """ResNet-8 of one block a stage in evaluation mode, written from the paper with bare operations."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        scale = state[f"{name}.weight"] / (var + 1e-5).sqrt()
        return x * scale[:, None, None] + (state[f"{name}.bias"] - mean * scale)[:, None, None]

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        return functional.conv2d(x, state[f"{name}.weight"], stride=stride, padding=1)

    x = norm(conv(image, "conv1"), "bn1").clamp(min=0)
    for stage in (1, 2, 3):
        name, stride = f"layer{stage}.0", 1 if stage == 1 else 2
        y = norm(conv(x, f"{name}.conv1", stride), f"{name}.bn1").clamp(min=0)
        y = norm(conv(y, f"{name}.conv2"), f"{name}.bn2")
        if stage > 1:  # option A: every second pixel, a quarter of the new width of zeros on either side
            x = x[:, :, ::2, ::2]
            zeros = torch.zeros(x.shape[0], x.shape[1] // 2, *x.shape[2:])
            x = torch.cat([zeros, x, zeros], 1)
        x = (x + y).clamp(min=0)
    return x.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"]


@pytest.mark.parametrize("facts", [CIFAR, DIGITS], ids=["cifar", "digits"])
def test_resnet_computes_what_the_paper_says(facts: Facts) -> None:
    torch.manual_seed(0)
    network = ResNet(depth=8, width=8).build(facts)
    with torch.no_grad():
        for module in network.modules():  # statistics and affine parts that an error would show in
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 2)
                module.bias.normal_()
    image = torch.rand(4, *facts.shape)
    expected = reference(network.state_dict(), image)
    assert expected.std() > 0.1
    torch.testing.assert_close(network.eval()(image), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [ConvNet(), ConvNet(width=4), ResNet(depth=8, width=4)])
@pytest.mark.parametrize("facts", [CIFAR, DIGITS, Facts(task="classification", shape=(3, 9, 7), classes=4)])
def test_every_parameter_learns_on_any_shape(kind: ConvNet | ResNet, facts: Facts) -> None:
    torch.manual_seed(0)
    network = kind.build(facts)
    logits = network(torch.rand(5, *facts.shape))
    assert logits.shape == (5, facts.classes)
    functional.cross_entropy(logits, torch.arange(5) % facts.classes).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_convnet_of_width_8_is_small() -> None:
    assert size(ConvNet(width=8).build(DIGITS)) == 72 + 1152 + 4608 + 2 * (8 + 16 + 32) + 330


def test_resnet_convolutions_start_at_he_scale() -> None:
    torch.manual_seed(0)
    network = ResNet(depth=20, width=16).build(CIFAR)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            expected = (2 / (9 * module.in_channels)) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.15), name


def started(recipe: Recipe) -> dict[str, torch.Tensor]:
    """The weights that a recipe's student starts from."""
    builder, stage = Builder(recipe), planned(recipe)[-1]
    player = builder.stage(stage).method.players()["student"]
    return player.module.network.state_dict()


def test_weights_from_before_batch_counters_load(tmp_path: Path) -> None:
    """The pretrained CIFAR weights in circulation have no num_batches_tracked; anything else must still fit."""
    state = ResNet(depth=8, width=4).build(DIGITS).state_dict()
    state = {name: value + 1 for name, value in state.items() if "num_batches" not in name}
    save_file(state, tmp_path / "old.safetensors")
    spec = {"network": {"kind": "resnet", "depth": 8, "width": 4}}
    weights = {"kind": "file", "path": str(tmp_path / "old.safetensors")}
    method = {"kind": "match", "terms": [{"signal": "labels", "by": "cross_entropy"}]}
    recipe = {"name": "old", "data": "digits", "method": method, "train": {"steps": 1}, "control": False}
    chosen = Recipe.model_validate(recipe | {"student": spec | {"weights": weights}})
    loaded = started(chosen)
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    del state["linear.bias"]
    save_file(state, tmp_path / "old.safetensors")
    with pytest.raises(StillhouseError, match=r"missing: linear\.bias"):
        started(chosen)
