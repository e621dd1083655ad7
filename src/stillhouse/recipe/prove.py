"""Proofs: run a recipe over its seeds, judge what it expects, and leave the numbers in `evidence/`."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stillhouse.catalog import evidence, papers
from stillhouse.catalog.evidence import Arms, Evidence, SeedRun, home
from stillhouse.catalog.shipped import Shipped, read, recipes
from stillhouse.errors import Interrupted, ProofFellShort, StillhouseError, nearest
from stillhouse.recipe.execute import distill, resume
from stillhouse.recipe.expect import parse
from stillhouse.recipe.provenance import code_fingerprint
from stillhouse.recipe.schema import Recipe
from stillhouse.recipe.search_proof import judged
from stillhouse.recipe.text import load

Execute = Callable[[Recipe, Path], dict[str, Any]]
"""Runs a recipe in a folder, or goes on with what lies there, and returns the run's summary."""


def prove(
    name: str,
    *,
    seeds: Sequence[int] | None = None,
    overrides: Iterable[str] = (),
    out: str | Path | None = None,
    keep_runs: bool = False,
    device: str | None = None,
    progress: bool | None = None,
    plugins: Sequence[str | Path] = (),
    execute: Execute | None = None,
) -> list[Evidence]:
    """Prove a recipe, or every shipped recipe that names a paper, and write `<recipe>.json` for each.

    A proof that was stopped or killed goes on where it was when the same recipe is proved again with
    the same code: its runs lie under `runs/proofs` until the proof holds.

    Args:
        name: a shipped recipe, a recipe file, or a paper's key.
        seeds: in place of the proof's own.
        overrides: changes to the recipe. What they prove is not the recipe as it stands, and says so.
        out: the folder for the evidence; by default `evidence/` (stillhouse.catalog.evidence.home).
        keep_runs: leave the run folders of a proof that holds, too.
        device, progress, plugins: as for `distill`.
        execute: what runs one seed; by default `distill`, or `resume` where a run was begun.

    Raises:
        ProofFellShort: an expectation did not hold; all evidence is written by then, and is in `.evidence`.
        StillhouseError: there is no such recipe, it has no proof, or a seed is given twice.
        RunFailed, Interrupted: a run did; proving again goes on from there.
    """
    changes = tuple(overrides)
    proofs = [_prepared(recipe, seeds, changes, plugins) for recipe in _named(name, plugins)]
    run = execute or _runner(device, progress, plugins)
    folder = home() if out is None else Path(out)
    for proof in proofs:
        _refuse_to_lose(proof, folder)
    found = [_proved(proof, run, folder, keep_runs) for proof in proofs]
    short = [outcome for outcome in found if outcome.verdict != "proved"]
    if short:
        raise ProofFellShort("\n".join(map(_shortfall, short)), evidence=tuple(found))
    return found


@dataclass(frozen=True, slots=True)
class _Proof:
    """What is to be run."""

    file: Shipped
    recipe: Recipe
    """With the proof's overrides and the user's, on the test split."""
    seeds: tuple[int, ...]
    changes: tuple[str, ...]
    command: str

    @property
    def expect(self) -> list[str]:
        assert self.recipe.proof is not None, "a recipe without a proof is refused before"
        return self.recipe.proof.expect

    @property
    def folder(self) -> Path:
        """Where its runs lie: another recipe or other code gets another folder."""
        anyhow = self.recipe.model_copy(update={"seed": 0})
        identity = hashlib.sha256(f"{anyhow.model_dump_json()} {code_fingerprint()}".encode()).hexdigest()
        return Path("runs") / "proofs" / f"{self.recipe.name}-{identity[:12]}"


def _named(name: str, plugins: Sequence[str | Path]) -> list[Shipped]:
    """The recipes that a recipe's name, a file or a paper's key stands for."""
    shipped = recipes()
    if name in shipped:
        return [shipped[name]]
    if name.endswith((".yaml", ".yml")) or Path(name).is_file():
        load(Path(name), plugins=plugins)  # refuses hostile text before it is read again
        return [read(Path(name))]
    keys = [paper.key for paper in papers.papers()]
    if name not in keys:
        clause = nearest(name, [*shipped, *keys])
        hint = clause if clause.startswith("did you mean") else f"recipes: {', '.join(shipped)}"
        raise StillhouseError(f"no recipe and no paper is named {name[:100]!r}; {hint}")
    showing = [recipe for recipe in shipped.values() if name in recipe.papers and recipe.seeds]
    if not showing:
        raise StillhouseError(
            f"no recipe with a proof shows {name!r} yet; `stillhouse show {name}` tells what it needs"
        )
    return showing


def _prepared(
    file: Shipped, seeds: Sequence[int] | None, changes: tuple[str, ...], plugins: Sequence[str | Path]
) -> _Proof:
    proof = load(file.path, plugins=plugins).proof
    if proof is None:
        raise StillhouseError(f"the recipe {file.name!r} has no 'proof' section: it says nowhere what it should show")
    chosen = tuple(proof.seeds if seeds is None else seeds)
    if not chosen or len(set(chosen)) < len(chosen) or not all(0 <= seed < 2**31 for seed in chosen):
        raise StillhouseError(f"seeds are whole numbers from 0 to 2^31 - 1, each once; these are {list(chosen)}")
    scaled = [f"{key}={json.dumps(value)}" for key, value in proof.overrides.items()]
    recipe = load(file.path, [*scaled, *changes, "evaluate_on=test"], plugins=plugins)
    shipped = recipes().get(file.name)
    target = file.name if shipped is not None and shipped.path == file.path else file.path.name
    words = ["stillhouse", "prove", target, *changes, "--seeds", ",".join(map(str, chosen))]
    return _Proof(file, recipe, chosen, changes, shlex.join(words))


def _refuse_to_lose(proof: _Proof, folder: Path) -> None:
    """Raise where evidence for the recipe as it stands would give way to that of a changed or smaller proof."""
    path = folder / f"{proof.file.name}.json"
    if not path.is_file():
        return
    there = evidence.read(path)
    if not there.overrides and (proof.changes or len(proof.seeds) < len(there.seeds)):
        raise StillhouseError(
            f"{path} holds the proof of {proof.file.name!r} as it stands, over seeds "
            f"{', '.join(map(str, there.seeds))}: name another folder with --out for one with changes or fewer seeds"
        )


def _proved(proof: _Proof, run: Execute, folder: Path, keep_runs: bool) -> Evidence:
    """Run every seed, judge, and write the evidence."""
    summaries = {}
    for seed in proof.seeds:
        try:
            summaries[seed] = run(proof.recipe.model_copy(update={"seed": seed}), proof.folder / f"seed-{seed}")
        except Interrupted as stopped:
            raise Interrupted(f"{stopped}\nThe proof goes on with: {proof.command}") from None
    outcome = _evidence(proof, summaries)
    outcome.write(folder)
    if outcome.verdict == "proved" and not keep_runs:
        shutil.rmtree(proof.folder, ignore_errors=True)
    return outcome


def _evidence(proof: _Proof, summaries: dict[int, dict[str, Any]]) -> Evidence:
    runs = [SeedRun(seed, summary["cost"]["seconds"], _finite(summary["arms"])) for seed, summary in summaries.items()]
    judged = [parse(text).judge([run.arms for run in runs]) for text in proof.expect]
    environment = next(iter(summaries.values()))["environment"]
    return Evidence(
        recipe=proof.file.name,
        papers=proof.file.papers,
        fingerprint=proof.file.fingerprint,
        overrides=proof.changes,
        version=environment["stillhouse"],
        code=code_fingerprint(),
        date=datetime.now(UTC).date().isoformat(),
        seeds=proof.seeds,
        runs=tuple(runs),
        expectations=tuple(judged),
        environment=environment,
        command=proof.command,
    )


def _finite(arms: Arms) -> Arms:
    """The arms with None for every number that is not finite, which JSON cannot say."""
    return {
        arm: {name: value if value is not None and math.isfinite(value) else None for name, value in metrics.items()}
        for arm, metrics in arms.items()
    }


def _runner(device: str | None, progress: bool | None, plugins: Sequence[str | Path]) -> Execute:
    def run(recipe: Recipe, folder: Path) -> dict[str, Any]:
        if recipe.search is not None:
            return judged(recipe, folder, device=device, progress=progress, plugins=plugins)
        if (folder / "recipe.yaml").is_file():
            return resume(folder, progress=progress).summary
        return distill(recipe, out=folder, device=device, progress=progress, plugins=plugins).summary

    return run


def _shortfall(evidence: Evidence) -> str:
    missed = [f"  {finding.text}: {finding.why}" for finding in evidence.expectations if not finding.holds]
    return "\n".join(
        [f"the proof of {evidence.recipe} fell short on seeds {', '.join(map(str, evidence.seeds))}:", *missed]
    )
