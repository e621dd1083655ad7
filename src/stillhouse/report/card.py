"""The card a run leaves beside its student: README.md, for whoever finds the weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from stillhouse.engine.folder import read_json, write_text
from stillhouse.report import numbers, repeat
from stillhouse.report.files import RunFiles, read_run
from stillhouse.report.table import difference, metric_names, value_text
from stillhouse.report.verdict import interval_of, verdict

BREAKS = re.compile(r"[ \t\r\n\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+")
LISTED = 40
"""Most tensors named one by one."""
LONGEST_HEADER = 100_000_000
"""Bytes; safetensors itself refuses a longer one."""


def write_card(folder: Path) -> Path:
    """Write README.md into a run folder, from the files that are there, and return its path.

    Raises StillhouseError where the folder is no run folder.
    """
    run = read_run(Path(folder))
    target = run.folder / "README.md"
    write_text(target, card(run))
    return target


def card(run: RunFiles) -> str:
    """The card's Markdown."""
    plan = run.plan
    parts = [
        f"# {line(run.name)}",
        line(plan.get("about", "")),
        f"**{line(verdict(run).headline)}** {line(verdict(run).detail)}",
        _metrics(run),
        "## What it is",
        _what(run, plan),
        "## Loading the student without Stillhouse",
        _loading(run),
        "## Limits",
        _limits(run, plan),
        "## Made by",
        _made_by(run),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def line(text: object) -> str:
    """Text on one line that Markdown leaves alone."""
    flat = BREAKS.sub(" ", str(text)).strip()
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in flat)


def code(text: str) -> str:
    """Text on one line as Markdown's code, whatever is in it."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{BREAKS.sub(' ', text)}{fence}"


def _metrics(run: RunFiles) -> str:
    arms, effect = run.arms, run.effect
    if not arms:
        return ""
    head = ["metric", *arms, *([f"student {numbers.MINUS} control, 95 % interval"] if effect else [])]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name in metric_names(arms):
        row = [numbers.heading(name), *(value_text(name, of) for of in arms.values())]
        if effect:
            row.append(difference(name, interval_of(effect[name])) if name in effect else "")
        rows.append(row)
    return "\n".join("| " + " | ".join(c if c.startswith("---") else line(c) for c in row) + " |" for row in rows)


def _what(run: RunFiles, plan: dict[str, Any]) -> str:
    data = run.provenance.get("data") or {}
    facts = [
        ("Student", _model(plan.get("student"))),
        ("Teacher", _model(plan.get("teacher")) if plan.get("teacher") else "none"),
        ("Method", _method(plan.get("method"))),
        ("Data", f"{_words(plan.get('data'))}; licence: {data.get('licence', 'unknown')}"),
        ("Papers", ", ".join(plan["paper"]) if isinstance(plan.get("paper"), list) else plan.get("paper")),
    ]
    return "\n".join(f"- {name}: {line(value)}" for name, value in facts if value)


def _model(spec: Any) -> str:
    """A network and where its weights come from."""
    if not isinstance(spec, dict):
        return ""
    weights = spec.get("weights") or {}
    origin = {"trained": "trained on the data itself by this run", "file": f"from {weights.get('path')}"}
    start = origin.get(str(weights.get("kind")), f"{weights.get('kind', 'random')} weights")
    return f"{_words(spec.get('network')) or 'the same network as the teacher'}, {start}"


def _words(kind: Any) -> str:
    """A kind with its plain options: "convnet (width 8)"."""
    if not isinstance(kind, dict):
        return str(kind or "")
    options = [f"{key} {value}" for key, value in kind.items() if key != "kind" and _is_plain(value)]
    options += [f"{key} {_loss(value)}" for key, value in kind.items() if isinstance(value, dict) and "by" in value]
    return f"{kind.get('kind', '')} ({', '.join(options)})" if options else str(kind.get("kind", ""))


def _method(method: Any) -> str:
    """A method, and the terms of its objective where it has any."""
    terms = method.get("terms") if isinstance(method, dict) else None
    listed = [t for t in terms if isinstance(t, dict)] if isinstance(terms, list) else []
    told = (f"{t.get('weight', 1)} x {_loss(t)}" for t in listed)
    return f"{_words(method)}: {' + '.join(told)}" if listed else _words(method)


def _loss(term: dict[str, Any]) -> str:
    """A loss with what it compares: "kl of the logits (temperature 4.0)"."""
    signal = term.get("signal")
    compared = ", ".join(map(str, signal)) if isinstance(signal, list) else signal
    return f"{term.get('by')} of the {compared}" + _options(term)


def _options(term: dict[str, Any]) -> str:
    rest = {
        key: value
        for key, value in term.items()
        if key not in ("weight", "by", "signal") and value and _is_plain(value)
    }
    return f" ({', '.join(f'{key} {value}' for key, value in rest.items())})" if rest else ""


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str) and not isinstance(value, bool)


def _loading(run: RunFiles) -> str:
    folder = run.folder / "student"
    if not (folder / "config.json").is_file():
        return "The weights are not in this folder: the run has not come to its end, or they were moved."
    config = read_json(folder / "config.json")
    if "model_type" in config:
        named = str(next(iter(config.get("architectures") or []), ""))
        loader = named if named.isidentifier() else "AutoModel"
        code = f'from transformers import {loader}\n\nstudent = {loader}.from_pretrained("student")'
        return f"The folder `student/` has the layout of a Hugging Face model.\n\n```python\n{code}\n```"
    code = (
        "from safetensors.torch import load_file\n\n"
        'weights = load_file("student/model.safetensors")  # parameter name -> tensor\n'
        "network.load_state_dict(weights)  # any module with these names and shapes"
    )
    network = _words(config.get("network"))
    said = f"The weights are one safetensors file; `student/config.json` names the network: {line(network)}."
    return f"{said}\n\n```python\n{code}\n```\n\n{_tensors(folder / 'model.safetensors')}".rstrip()


def _tensors(path: Path) -> str:
    """Names, types and shapes of the tensors in a safetensors file, from its header."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size)) if size <= LONGEST_HEADER else {}
    tensors = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
    if not tensors:
        return ""
    rows = [f"| {line(name)} | {entry['dtype']} | {entry['shape']} |" for name, entry in tensors[:LISTED]]
    rest = f"\n\nand {len(tensors) - LISTED} more." if len(tensors) > LISTED else ""
    return "\n".join(["| tensor | type | shape |", "| --- | --- | --- |", *rows]) + rest


def _limits(run: RunFiles, plan: dict[str, Any]) -> str:
    split = plan.get("evaluate_on", "test")
    points = [
        f"Measured on the {split} split of the data named above, and on nothing else.",
        "One run with one seed: its intervals cover the draw of the test examples, not the luck of training.",
    ]
    if "teacher" in run.arms:
        points.append("The student inherits the teacher's mistakes, and what the teacher learned them from.")
    if "control" not in run.arms:
        points.append("Without a control arm, nothing here shows that the teacher was needed.")
    if str((run.provenance.get("data") or {}).get("licence", "unknown")) == "unknown":
        points.append("The licence of the data is not known to Stillhouse: look it up before you pass this model on.")
    return "\n".join(f"- {point}" for point in points)


def _made_by(run: RunFiles) -> str:
    environment = run.summary.get("environment") or {}
    versions = ", ".join(
        f"{name} {environment[name]}" for name in ("stillhouse", "torch", "python") if name in environment
    )
    command = f"{code(repeat.again(run))}, called in this folder, gives it again."
    return f"{line(versions)}. {command} `report.html` shows the curves and figures." if versions else command
