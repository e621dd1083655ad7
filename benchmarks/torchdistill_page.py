"""Writes docs/torchdistill.md from benchmarks/results/torchdistill.json.

python benchmarks/torchdistill_page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from side_by_side import RESULTS

PAGE = Path(__file__).parent.parent / "docs" / "torchdistill.md"
TOLERANCE = 1e-5
NAMES = {
    "kd": "plain KD",
    "at": "attention transfer",
    "fitnets": "FitNets",
    "pkt": "PKT",
    "rkd": "RKD",
    "spkd": "SPKD",
    "spkd-scaled": "SPKD, ours at 1/24 of the weight",
    "crd": "CRD",
    "dist": "DIST",
    "logit-std": "standardised-logit KD",
    "review": "knowledge review",
}

HEAD = """# Side by side with torchdistill

Made by `python benchmarks/torchdistill_page.py` from what `python benchmarks/torchdistill.py` measured against
torchdistill 1.1.5: ResNet-56 to ResNet-20 on CIFAR-10, both networks this project's own classes on both sides.
torchdistill is no dependency. It runs in a process and an environment of its own, `benchmarks/peers/torchdistill`
(not in the repository), with the same PyTorch; the head of the script says how that environment is made.
Where torchvision's compiled part does not fit the PyTorch that is installed (a CPU build), its import stops at two
operators of object detection: the peer process declares their names, and nothing compared here calls them. All else
is torchdistill's own code: its losses, hooks, wrappers and `DistillationBox`. Two classes are added to it: one
that puts its regressor of FitNets beside a student trained on labels, which its own example does in two stages, and a
data set without images that its CRD wrapper draws negatives from.
"""

VALUES = """## Loss values

On the same signals of the two pretrained networks on {batch} training images. The differences are relative, in single
precision and in double precision, where rounding is out of the way; that of the gradient is of its 2-norm, with
respect to the student's signals. Equal: both at most 1e-5 in single precision.
"""

WHY = {
    "KD without labels": "With `alpha` 0, torchdistill's `KDLoss` (and `LogitStdKDLoss`) leaves out T^2, and `beta` "
    "with it, so that the loss jumps where alpha goes to 0. The paper (section 2) multiplies by T^2: ours is the "
    "paper's.",
    "SPKD": "torchdistill's `SPKDLoss` calls `normalize(G, 1)`, and the second argument of that function is the norm's "
    "p: rows are divided by their 1-norm. The paper divides by the 2-norm, and so does the version in "
    "Tian et al.'s benchmark, which the author verified: ours is the paper's.",
    "CRD": "The paper's h (eq. 19) has no epsilon. The authors' code, and torchdistill's, add 1e-7 to its denominator: "
    "this adds a constant of some 1e-7 times the number of examples to each side; the gradient agrees. With `eps` 0 "
    "torchdistill's values are ours: ours is the paper's.",
    "standardised logits, V": "The paper's algorithm 1 divides the variance by the number of classes V: our default. "
    "The authors' code and torchdistill divide by V - 1: `unbiased: true`.",
}
NOTES = """Beside the table:

- FitNets are compared on the same regressed features. torchdistill's regressor is a 1 x 1 convolution with batch norm
  and ReLU, ours (`project: conv`) a 1 x 1 convolution alone; the paper's has the non-linearity of the teacher's layer.
  The paper's factor 1/2 and its sum over entries are left to the weight on both sides.
- PKT: our values are rows of the paper's KL; their mean, divided by the batch size, is the authors' and torchdistill's.
- RKD: the sum of squares is expanded in torchdistill's distances, as in the authors' code; ours is not, so that
  examples that lie close together do not cancel.
- Knowledge review: the table has one stage's loss; the fusions before it are compared by the first step below.
- torchdistill's `CRDLoss` cannot draw negatives itself (`draw` reads `self.prob`, which is never set): it needs its
  data set wrapper, which is what is used here.
"""

SPEED = """## A step

Time of a training step, batch {batch}, one thread, one method after the other, {blocks} blocks of 5 steps a side in
turn (medians, and the median and middle half of the ratios of neighbouring blocks, ours / theirs). Ours includes
drawing and augmenting the batch, the check for numbers that are not finite, logging and the ledger; theirs is handed
finished batches (and CRD's negatives). Target: at most 1. By the processor's clock: other work ran on the machine at
the time (`load` processes on average), and disturbs this clock less than the wall's, which stands beside it. The
teacher is in eval mode on both sides.
"""

ACCURACY = """## After {steps} steps: a reduced budget

This is no training to the end: {steps} steps of batch {batch} of SGD (learning rate {lr}, cosine) from the given
weights, one seed, the first {tested} test images. The student starts at {student:.1%}, the teacher is at {teacher:.1%}
(these images are coarser JPEG than those the weights were trained on). Weights, order of the data, augmented images
and train-only parts start alike, so where the formulas agree the first loss is the same and the runs
part by rounding alone. The interval of the difference is over test images (95 %, paired); it leaves out the luck of
training. Target: ours within it or better.
"""

WHOLE = """## A training from random weights: {steps} steps

The student starts from random weights, the same on both sides: {steps} steps of batch {batch} of SGD (learning rate
{lr}, cosine), {images:,} images with the weights of terms as above, one seed, {tested:,} test images. It is short of
convergence by far, and long enough for what differs to show. The interval leaves out the luck of training, which parts
even equal sides (above): it is too narrow. The methods whose formulas or parts differ were run first. Target: ours
within noise or better.
"""

DOUBLE = """## The same training in double precision

From random weights in single precision the two sides part by rounding within some dozen steps, and end at different
students even where nothing else differs. In double precision rounding is out of the way: below, how far apart the
students are after {steps} such steps (learning rate {lr}), as a share of the way they went. Where that is next to
nothing the two sides do the same, and what differs at the end of a longer training is luck. Beside it, how far ours
comes from itself where its first weights are moved by one part in 10^8: what a training makes of a difference that
small. PKT's epsilons differ by less (ours, as PyTorch's `normalize`, takes the larger of norm and epsilon, theirs adds
it to the norm), and at this weight that is enough.
"""

SCALED = """torchdistill's SPKD is some 24 times smaller than the paper's (the norm, above), so at one weight it counts
that much less beside the labels. The row with the scaled weight evens that out."""

TEACHER = """## The teacher

In all runs above the teacher's parameters and buffers were compared bit for bit before and after:
{unchanged}.

torchdistill's documented example never calls `eval()` on the teacher. Left so, {steps} steps of plain KD changed
{tensors_changed} of the {tensors} tensors of its state (batch norm's statistics; {parameters_changed} parameters), and
its accuracy on the test images from {teacher_accuracy_before:.1%} to {teacher_accuracy_after:.1%}: here they happen to
fit these images better, but it is no longer the teacher that was given, and what it says of an image depends on the
rest of the batch. Ours, `Frozen`, is asked in eval mode whatever mode the network was put into
(`tests/test_frozen_teacher.py`).
"""


def table(columns: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---|" * (len(columns) - 1)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def agrees(row: dict[str, dict[str, float]]) -> bool:
    """Value and gradient, in single precision."""
    return max(row["float32"]["difference"], row["float32"]["gradient_difference"]) <= TOLERANCE


def values(found: dict[str, Any], batch: int) -> list[str]:
    rows = [
        [
            name,
            f"{row['float32']['ours']:.6g}",
            f"{row['float32']['theirs']:.6g}",
            f"{row['float32']['difference']:.0e}",
            f"{row['float32']['gradient_difference']:.0e}",
            f"{row['float64']['difference']:.0e}",
            "yes" if agrees(row) else "**no**",
        ]
        for name, row in found.items()
    ]
    columns = ["loss", "ours", "theirs", "difference", "of the gradient", "in double", "equal"]
    unequal = [name for name, row in found.items() if not agrees(row)]
    told = [f"- {name}: {WHY.get(name, 'no reason is known.')}" for name in unequal]
    return [VALUES.format(batch=batch), *table(columns, rows), "Where they differ:", "", *told, "", NOTES]


def speed(found: dict[str, Any], batch: int) -> list[str]:
    rows = [
        [
            NAMES[name],
            *(f"{1000 * row['processor'][side]:.0f}" for side in ("ours", "theirs")),
            ratio(row["processor"]),
            *(f"{1000 * row['seconds'][side]:.0f}" for side in ("ours", "theirs")),
            ratio(row["seconds"]),
            f"{row['load']:.0f}",
        ]
        for name, row in found.items()
    ]
    columns = ["method", "ours, ms", "theirs, ms", "ratio", "wall, ours", "wall, theirs", "wall ratio", "load"]
    clear = [NAMES[name] for name, row in found.items() if row["processor"]["ratio_low"] > 1]
    above = [NAMES[name] for name, row in found.items() if row["processor"]["ratio"] > 1]
    verdict = f"**Slower beyond the middle half: {', '.join(clear)}.**" if clear else "None is slower beyond it."
    missed = f"Ratios above 1 by the processor's clock: {', '.join(above) or 'none'}. {verdict}"
    blocks = next(iter(found.values()))["steps"] // 5 - 1
    return [SPEED.format(batch=batch, blocks=blocks), *table(columns, rows), missed, ""]


def ratio(clock: dict[str, float]) -> str:
    """The median with the middle half."""
    return f"{clock['ratio']:.2f} ({clock['ratio_low']:.2f} to {clock['ratio_high']:.2f})"


def accuracy(found: dict[str, Any], start: dict[str, Any]) -> list[str]:
    columns = ["method", "ours", "theirs", "binomial error", "difference, points"]
    columns += ["first loss apart", "in ten steps", "mean of the last ten losses"]
    rows = [
        [*ended(name, row), f"{row['first_step_apart']:.0e}", f"{row['ten_steps_apart']:.0e}", last_losses(row)]
        for name, row in found.items()
    ]
    why = (
        "Losses are apart from the first step on where the formulas or the parts differ: FitNets (the regressor), "
        "SPKD (the norm), CRD (its epsilon, and negatives of one's own)."
    )
    steps = next(iter(found.values()))["steps"]
    text = ACCURACY.format(
        steps=steps, student=start["student_accuracy"], teacher=start["teacher_accuracy"], **settings(start)
    )
    return [text, *table(columns, rows), verdict(found), "", why, ""]


def whole(found: dict[str, Any], start: dict[str, Any], luck: dict[str, dict[str, list[float]]]) -> list[str]:
    if not found:
        return []
    columns = ["method", "ours", "theirs", "binomial error", "difference, points", "mean of the last ten losses"]
    rows = [[*ended(name, row), last_losses(row)] for name, row in found.items()]
    steps = next(iter(found.values()))["steps"]
    text = WHOLE.format(steps=steps, images=steps * start["batch"], **settings(start))
    missing = [NAMES[name] for name in NAMES if name not in found]
    told = [f"Not run: {', '.join(missing)}.", ""] if missing else []
    for name, sides in luck.items():
        each = "; ".join(f"{side} {', '.join(f'{value:.1%}' for value in row)}" for side, row in sides.items() if row)
        told += [f"{NAMES[name]} again, from weights moved by one part in 10^5: {each}.", ""]
    if "spkd-scaled" in found:
        told += [SCALED, ""]
    return [text, *table(columns, rows), verdict(found), "", *told]


def double(found: dict[str, Any], start: dict[str, Any]) -> list[str]:
    if not found:
        return []
    rows = [
        [
            NAMES[name],
            f"{row['first_step_apart']:.0e}",
            f"{row['students_apart']:.0e}",
            f"{row['moved_apart']:.0e}",
            _same(row),
        ]
        for name, row in found.items()
    ]
    text = DOUBLE.format(steps=next(iter(found.values()))["steps"], lr=start["lr"])
    return [text, *table(["method", "first loss apart", "students apart", "ours from itself", "the same"], rows)]


def _same(row: dict[str, Any]) -> str:
    return "yes" if row["students_apart"] <= TOLERANCE else "**no**"


def settings(start: dict[str, Any]) -> dict[str, Any]:
    return {key: start[key] for key in ("batch", "lr", "tested")}


def ended(name: str, row: dict[str, Any]) -> list[str]:
    """The method and how accurate both sides are."""
    difference = "{:+.2f} ({:+.2f} to {:+.2f})".format(
        *(100 * row[f"difference{end}"] for end in ("", "_low", "_high"))
    )
    sides = (f"{row[f'{side}_accuracy']:.1%}" for side in ("ours", "theirs"))
    return [NAMES[name], *sides, f"{100 * row['binomial_error']:.1f}", difference]


def last_losses(row: dict[str, Any]) -> str:
    return f"{row['last_loss_ours']:.4g}, {row['last_loss_theirs']:.4g}"


def verdict(found: dict[str, Any]) -> str:
    worse = [NAMES[name] for name, row in found.items() if row["difference_high"] < 0]
    return f"**Worse beyond the interval: {', '.join(worse)}.**" if worse else "None is worse beyond its interval."


def main() -> None:
    results = json.loads((RESULTS / "torchdistill.json").read_text())
    held = {part: results.get(part, {}) for part in ("training", "double", "whole")}
    found, exact, long = ({name: part[name] for name in NAMES if name in part} for part in held.values())
    start, machine = results["start"], results["machine"]
    every = [*found.values(), *long.values()]
    sides = {side: [row[f"teacher_unchanged_{side}"] for row in every] for side in ("ours", "theirs")}
    told = "unchanged on both sides in every one" if all(map(all, sides.values())) else f"unchanged: {sides}"
    lines = [
        HEAD,
        *values(results["values"], start["training"]["batch"]),
        *speed(found, start["training"]["batch"]),
        *accuracy(found, start["training"]),
        *double(exact, start["whole"]),
        *whole(long, start.get("whole", {}), results.get("luck", {})),
        TEACHER.format(unchanged=told, **results["documented"]),
        "Machine: " + ", ".join(f"{key} {value}" for key, value in machine.items() if key != "load") + ".",
        "",
    ]
    PAGE.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
