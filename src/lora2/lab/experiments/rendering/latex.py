"""A table as LaTeX."""

from __future__ import annotations

from collections.abc import Iterable

from lora2.lab.experiments.rendering.printout import Printout

_PACKAGES = "% needs \\usepackage{booktabs} and \\usepackage{graphicx}"
_ESCAPED = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "²": r"\textsuperscript{2}",
        "±": r"$\pm$",
        "×": r"$\times$",
        "−": "$-$",
        "–": "--",
        "—": "---",
        "→": r"$\rightarrow$",
        "Λ": r"$\Lambda$",
        "Δ": r"$\Delta$",
        "α": r"$\alpha$",
        "β": r"$\beta$",
        "λ": r"$\lambda$",
        "σ": r"$\sigma$",
        "𝒰": r"$\mathcal{U}$",
        "𝒱": r"$\mathcal{V}$",
    }
)


def render(table: Printout) -> str:
    """Return a table environment with caption, label and notes."""
    alignment = "l" * table.texts + "r" * (len(table.heading) - table.texts)
    parts = [
        _PACKAGES,
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{_escaped(table.title)}}}",
        rf"\label{{tab:{table.name}}}",
        r"\resizebox{\textwidth}{!}{%",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        _line(table.heading),
    ]
    for group in table.groups:
        parts += [r"\midrule", *map(_line, group)]
    parts += [r"\bottomrule", r"\end{tabular}}"]
    parts += [rf"\par\smallskip\footnotesize {_escaped(note)}" for note in table.notes]
    return "\n".join((*parts, r"\end{table*}")) + "\n"


def _line(cells: Iterable[str]) -> str:
    return " & ".join(map(_escaped, cells)) + r" \\"


def _escaped(text: str) -> str:
    # An empty line would end the paragraph.
    return " ".join(text.split()).translate(_ESCAPED)
