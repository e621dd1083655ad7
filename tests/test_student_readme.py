"""What the page beside an exported student says is so."""

from __future__ import annotations

from typing import Any

import pytest

from stillhouse.students.readme import readme

NETWORK = {"kind": "mlp", "hidden": [8]}


def page(task: str, shape: list[int] | None = None, **more: Any) -> str:
    facts = {"task": task, "shape": shape or [1, 8, 8], "classes": 3, "names": ["a", "b", "c"]}
    return readme("run", {"network": NETWORK, "facts": facts} | more, "safetensors", of_text="text" in more)


@pytest.mark.parametrize(
    ("task", "output"),
    [
        ("classification", "Output: logits of 3 classes a, b, c."),
        ("multi-label", "Output: a logit for each of 3 classes a, b, c; above 0 it is likelier there than not."),
        ("segmentation", "Output: logits of 3 classes a, b, c at every pixel."),
        ("restoration", "Output: the restored image, its pixels meant for [0, 1]."),
        ("regression", "Output: the predicted number."),
    ],
)
def test_what_a_student_gives_is_told_by_its_task(task: str, output: str):
    assert output in page(task).splitlines()


def test_a_generator_of_pairs_says_that_it_is_shown_the_first_image():
    sampler, pairs = {"kind": "heun", "steps": 3}, {"kind": "pair-denoiser", "width": 8}
    called = "Called with noise or noisy images, noise levels and classes"
    assert f"{called}, and `reference`, the first image of each pair." in page(
        "classification", sampler=sampler, network=pairs
    )
    assert f"{called}." in page("classification", sampler=sampler)


def test_what_a_student_takes_is_told_and_called_so():
    images = page("restoration", view={"kind": "image", "mean": [0.5], "std": [0.2]})
    assert "Input: [1 x 8 x 8] in [0, 1], given to the network as (image - [0.5]) / [0.2], by channel." in images
    assert 'restored = student.signals({"image": images})["logits"]' in images
    table = page("classification", shape=[7])
    assert "Input: `features` [batch, 7], as the data gives it." in table
    assert 'signals = student.signals({"features": batch}, ())' in table
    parser = page("parsing", shape=[9], view={"kind": "field", "field": "input_ids", "truth": "tree"})
    assert 'signals = student.signals({"input_ids": batch}, ())' in parser
    assert "Output: `logits`, or tensors by the names that the network gives them." in parser
    sentences = page("classification", view={"kind": "sentence"}, text=True)
    assert "scaled to length one" in sentences
    assert "classes" not in sentences
