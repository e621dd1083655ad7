"""The pages written from the catalogue and the evidence: docs/catalogue.md, docs/evidence.md, the README's table.

python -m stillhouse.catalog.page            # rewrites them
python -m stillhouse.catalog.page --check    # exit code 1 where one of them is out of date
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from stillhouse.catalog import papers, shipped
from stillhouse.catalog.evidence import Evidence, Finding
from stillhouse.catalog.papers import Paper
from stillhouse.catalog.shipped import Shipped
from stillhouse.catalog.state import WORDS, State, paper_states, recipe_state
from stillhouse.engine.folder import write_text
from stillhouse.errors import StillhouseError

ROOT = Path(__file__).parents[3]
BEGIN, END = "<!-- evidence:begin -->", "<!-- evidence:end -->"


def pages(root: Path = ROOT) -> dict[Path, str]:
    """What the generated files of a source checkout should hold, by path.

    Raises: StillhouseError where the README lacks the markers.
    """
    return {
        root / "docs" / "catalogue.md": catalogue(),
        root / "docs" / "evidence.md": measured(),
        root / "README.md": with_table(root / "README.md"),
    }


def with_table(path: Path) -> str:
    """The text of a file with the table of recipes between its markers."""
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise StillhouseError(f"{path} has no line {BEGIN} with a line {END} after it; the table goes between them")
    return f"{before}{BEGIN}\n{recipe_table()}{END}{after}"


def recipe_table() -> str:
    """The shipped recipes by family, which of them were proved and which fell short; then what of the catalogue is."""
    judged = _judged()
    lines = ["| family | proved | fell short |", "|---|---|---|"]
    for family in sorted({recipe.family for recipe, *_ in judged}):
        of = [one for one in judged if one[0].family == family]
        proved, short = ([_linked(one[0]) for one in of if one[1].word == word] for word in ("proved", "fell short"))
        lines.append(f"| {family} | {', '.join(proved)} | {', '.join(short)} |")
    waiting = [
        f"`{recipe.name}` ({state.note})"
        for recipe in shipped.recipes().values()
        if (state := recipe_state(recipe)).evidence is None or state.word == "recipe"
    ]
    if waiting:
        lines += ["", f"Shipped without evidence that fits: {', '.join(waiting)}."]
    lines += ["", *_beside_the_catalogue(), ""]
    lines += ["`stillhouse prove NAME` runs a row again. Written by `python -m stillhouse.catalog.page`."]
    return "\n".join(lines) + "\n"


def _linked(recipe: Shipped) -> str:
    return f"[`{recipe.name}`](docs/evidence.md#{recipe.name})"


def measured() -> str:
    """docs/evidence.md: every recipe with evidence, what it expects and what was measured."""
    lines = [
        "# The evidence",
        "",
        "<!-- Written by `python -m stillhouse.catalog.page`; do not edit. -->",
        "",
        "What `stillhouse prove` measured, by recipe: each comparison that a recipe expects, with the means over its",
        "seeds. `by 2 se` asks for a margin of two standard errors of the differences between seeds. A proof that fell",
        "short stays here as it is. The files in `evidence/` hold every arm's numbers for every seed.",
        "",
        "What these numbers are not: recipes were tuned on validation splits, on other seeds, before they were proved,",
        "and several rows were tried on 8x8 digits first, fell short there, and were proved on other data later. Such",
        "a recipe says so, with the earlier numbers. A proof is of one small setting, not of the paper's own scale.",
    ]
    family = ""
    for recipe, state, found in _judged():
        if recipe.family != family:
            family = recipe.family
            lines += ["", f"## {family}"]
        shows = ", ".join(f"`{key}`" for key in recipe.papers) or "none of the catalogue"
        lines += ["", f"### {recipe.name}", "", recipe.about.strip(), ""]
        lines += [f"- {_measured(finding)}" for finding in found.expectations]
        told = f"**{state.word}**, {found.date}, version {found.version}, {_effort(found)}"
        lines += ["", f"{told}. Papers: {shows}."]
    return "\n".join(lines) + "\n"


def _judged() -> list[tuple[Shipped, State, Evidence]]:
    """The recipes that have evidence which fits them, by family and name."""
    found = [(recipe, recipe_state(recipe)) for recipe in shipped.recipes().values()]
    judged = [(recipe, state, state.evidence) for recipe, state in found if state.evidence and state.word != "recipe"]
    return sorted(judged, key=lambda one: (one[0].family, one[0].name))


def _beside_the_catalogue() -> list[str]:
    """How far the recipes reach into the catalogue, and which show none of its papers."""
    words = [found[0].word for paper in papers.papers() if (found := paper_states(paper.key))]
    count = Counter(words)
    told = ", ".join(f"{count[word]} {_PHRASES[word]}" for word in reversed(WORDS[1:]) if count[word]) or "none"
    total = len(papers.papers())
    lines = [
        f"The [catalogue](docs/catalogue.md) lists {total} papers of the field and says of each whether a recipe shows",
        f"it; {total - len(words)} have none yet. Those that have one: {told}.",
    ]
    outside = [f"`{recipe.name}`" for recipe in shipped.recipes().values() if not recipe.papers]
    if outside:
        lines.append(f"Recipes that show no paper of it: {', '.join(outside)}.")
    return lines


def catalogue() -> str:
    """docs/catalogue.md: every paper by family, with its state."""
    everything = papers.papers()
    states = {paper.key: paper_states(paper.key) for paper in everything}
    words = {key: found[0].word if found else "no recipe" for key, found in states.items()}
    count = Counter(words.values())
    lines = [
        "# The catalogue",
        "",
        "<!-- Written by `python -m stillhouse.catalog.page`; do not edit. -->",
        "",
        f"{len(everything)} papers in {len(papers.families())} families: "
        + ", ".join(f"{count[word]} {_PHRASES[word]}" for word in reversed(WORDS))
        + ".",
        "",
        "A paper's state follows from the recipes that name it and from what their proofs measured (`evidence/`).",
        "`stillhouse show KEY` tells a paper's mechanism, what it needs and the experiment that would show it;",
        "`stillhouse prove KEY` runs its proof.",
        "",
        "| family | papers | proved | fell short | recipe |",
        "|---|---|---|---|---|",
    ]
    for family, size in papers.families().items():
        of = Counter(words[paper.key] for paper in everything if paper.family == family)
        told = " | ".join(str(of[word] or "") for word in ("proved", "fell short", "recipe"))
        lines.append(f"| [{family}](#{family}) | {size} | {told} |")
    for family in papers.families():
        lines += ["", f"## {family}", "", "| key | paper | kind | state |", "|---|---|---|---|"]
        lines += [_row(paper, states[paper.key]) for paper in everything if paper.family == family]
    return "\n".join(lines) + "\n"


_PHRASES = {
    "proved": "proved",
    "fell short": "whose proof fell short",
    "recipe": "with a recipe not proved yet",
    "no recipe": "without a recipe",
}


def _row(paper: Paper, states: list[State]) -> str:
    told = "; ".join(f"**{state.word}**: `{state.recipe}` ({state.note})" for state in states)
    return f"| `{paper.key}` | {_cell(paper.title)} | {paper.kind} | {told} |"


def _measured(finding: Finding) -> str:
    text = f"`{_cell(finding.text)}`: {_cell(finding.why)}"
    return text if finding.holds else f"{text} (**fell short**)"


def _effort(found: Evidence) -> str:
    return f"seeds {', '.join(map(str, found.seeds))}, {found.seconds / 60:.1f} min"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main(arguments: list[str]) -> int:
    """Rewrite the pages, or with --check only say which are out of date. Returns the exit code."""
    stale = [path for path, text in pages().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{path.relative_to(ROOT)} {'is out of date' if arguments == ['--check'] else 'rewritten'}")
    if arguments == ["--check"]:
        return 1 if stale else 0
    for path in stale:
        write_text(path, pages()[path])
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except StillhouseError as error:
        sys.exit(str(error))
