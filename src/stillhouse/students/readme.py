"""The page beside an exported student: what it takes, what it gives, how it is called."""

from __future__ import annotations

from typing import Any


def readme(name: str, config: dict[str, Any], to: str, *, of_text: bool) -> str:
    """The page, from a student's config.json.

    Args:
        name: of the run.
        to: the format it lies beside.
        of_text: whether a tokenizer lies beside it too.
    """
    facts = config["facts"]
    lines = [f"# {name}: the student", ""]
    if to == "onnx":
        shape = ", ".join(map(str, facts["shape"]))
        lines += [
            f"Network: {_words(config['network'])}. Task: {facts['task']}.",
            f"Input `image`: float32 [batch, {shape}] in [0, 1]; the graph normalises it.",
            f"Output `logits`: float32 [batch, {facts['classes']}].",
            "",
            '    onnxruntime.InferenceSession("model.onnx").run(["logits"], {"image": images})',
        ]
        return "\n".join(lines) + "\n"
    lines += [
        *(_generator(config) if config.get("sampler") else _reader(config, of_text)),
        "",
        "With Stillhouse:",
        "",
        "    from stillhouse import load_student",
        "",
        '    student = load_student(".")  # this folder',
        *([] if config.get("sampler") else [f"    {_called(config, of_text)}"]),
        "",
        "Without it, model.safetensors holds the parameters by the names of the network's layers, and config.json its",
        "sizes:",
        "",
        "    from safetensors.torch import load_file",
        "",
        '    state = load_file("model.safetensors")',
    ]
    return "\n".join(lines) + "\n"


def _generator(config: dict[str, Any]) -> list[str]:
    facts, (mean, std) = config["facts"], _normalised(config)
    beside = ", and `reference`, the first image of each pair" if config["network"]["kind"] == "pair-denoiser" else ""
    return [
        f"Network: {_words(config['network'])}, a generator of images [{_shape(facts)}] of {facts['classes']} classes.",
        f"Sampler: {_words(config['sampler'])}. Called with noise or noisy images, noise levels and classes{beside}.",
        f"What it gives is an image as {std} * output + {mean}, by channel, in [0, 1].",
    ]


def _reader(config: dict[str, Any], of_text: bool) -> list[str]:
    """Of a student that reads: the network, its input and its output."""
    facts, (mean, std) = config["facts"], _normalised(config)
    if of_text:
        taken = "`input_ids` and `attention_mask` [batch, tokens] of the tokenizer beside it"
    elif field := _field(config):
        taken = f"`{field}` [batch, {', '.join(map(str, facts['shape']))}], as the data gives it"
    else:
        taken = f"[{_shape(facts)}] in [0, 1], given to the network as (image - {mean}) / {std}, by channel"
    given = "the mean of its states over the tokens that are no padding, scaled to length one"
    if not _is_sentence(config):
        given = _output(facts)
    return [f"Network: {_words(config['network'])}. Task: {facts['task']}.", f"Input: {taken}.", f"Output: {given}."]


def _output(facts: dict[str, Any]) -> str:
    classes = f"{facts['classes']} classes {', '.join(facts['names'])}".rstrip()
    by_task = {
        "classification": f"logits of {classes}",
        "restoration": "the restored image, its pixels meant for [0, 1]",
        "regression": "the predicted number",
        "multi-label": f"a logit for each of {classes}; above 0 it is likelier there than not",
        "segmentation": f"logits of {classes} at every pixel",
        "detection": f"logits of {classes} and a box, its corners in shares of the image, at every place",
        "tagging": f"logits of {classes} at every token",
        "language": f"logits of the next token, of {facts['classes']}",
        "masked-language": f"logits of each token, of {facts['classes']}",
    }
    return by_task.get(facts["task"], "`logits`, or tensors by the names that the network gives them")


def _called(config: dict[str, Any], of_text: bool) -> str:
    """A line of Python that asks the student."""
    if _is_sentence(config):
        return 'embeddings = student.signals(tokenizer(texts, padding=True, return_tensors="pt"), ["embedding"])'
    if of_text:
        return 'logits = student.signals(tokenizer(text, return_tensors="pt"))["logits"]'
    if field := _field(config):
        return f'signals = student.signals({{"{field}": batch}}, ())'
    if config["facts"]["task"] == "detection":
        return 'signals = student.signals({"image": images}, ())'
    given = "restored" if config["facts"]["task"] == "restoration" else "logits"
    return f'{given} = student.signals({{"image": images}})["logits"]'


def _is_sentence(config: dict[str, Any]) -> bool:
    return (config.get("view") or {}).get("kind") == "sentence"


def _field(config: dict[str, Any]) -> str | None:
    """The field of a batch that a student reads, where it is no image: what its view names, or a table's rows."""
    view = config.get("view") or {}
    if view.get("kind") == "field":
        return view["field"]
    return "features" if len(config["facts"]["shape"]) == 1 else None


def _normalised(config: dict[str, Any]) -> tuple[list[float], list[float]]:
    view = config.get("view") or {}
    return view.get("mean", [0.0]), view.get("std", [1.0])


def _shape(facts: dict[str, Any]) -> str:
    return " x ".join(map(str, facts["shape"]))


def _words(kind: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in kind.items())
