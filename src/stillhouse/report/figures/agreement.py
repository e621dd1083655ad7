"""Who is right: an arm against the teacher."""

from __future__ import annotations

from collections.abc import Sequence

from stillhouse.report.figures.frame import Figure, card
from stillhouse.report.svg import breakable, escape, tag


def who_is_right(title: str, together: Sequence[Figure]) -> list[str]:
    """Two by two: is the arm right, is the teacher right."""
    return [_who_is_right(title, figure) for figure in together]


def _who_is_right(title: str, figure: Figure) -> str:
    arm = str(figure.get("arm", "arm"))
    counts = {key: int(figure[key]) for key in ("both", "arm_only", "teacher_only", "neither")}
    total = sum(counts.values()) or 1

    def cell(key: str) -> str:
        share = counts[key] / total
        shown = tag("b", f"{counts[key]:,}") + tag("span", f"{100 * share:.1f}\u202f%")
        return tag("td", shown, class_=f"{key} {figure['colour']}", style=f"--share:{max(0.08, share) ** 0.5:.2f}")

    head = tag("tr", "<td></td>" + "".join(tag("th", t, scope="col") for t in ("teacher right", "teacher wrong")))
    right = tag("tr", tag("th", breakable(f"{arm} right"), scope="row") + cell("both") + cell("arm_only"))
    wrong = tag("tr", tag("th", breakable(f"{arm} wrong"), scope="row") + cell("teacher_only") + cell("neither"))
    caption = tag("caption", escape(f"{title}: {arm} and teacher"), class_="hidden")
    table = tag("table", caption + head + right + wrong, class_="square")
    mistakes = ""
    if counts["neither"] and "same_mistake" in figure:
        same = f"{figure['same_mistake']} of {counts['neither']}"
        mistakes = tag("p", escape(f"Where both are wrong, they make the same mistake {same} times."), class_="small")
    return card(f"{title}: {arm}", table + mistakes)
