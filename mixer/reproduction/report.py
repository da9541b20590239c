"""Writes tables as Markdown, CSV and LaTeX: the paper's numbers beside those of the runs."""

import csv
import dataclasses
import io
import pathlib
import re
from collections.abc import Sequence

from mixer.paper.graph import Absent, Cell, Item, Picture, Setting, Size
from mixer.reproduction.figures import draw
from mixer.reproduction.study import Study
from mixer.reproduction.values import Value, value_of
from mixer.runtime.naming import naming

_FIELDS = (
    *("item", "row", "column", "paper", "ours", "deviation", "difference"),
    *("seeds", "state", "hardware", "commit", "date"),
)
_NO_ACCURACIES = ("images/s/core", "core-days")
_NOTE = "Miniature: tiny models on the digits. Its numbers cannot be compared with the paper's."


@dataclasses.dataclass(frozen=True)
class Entry:
    """A cell with its value."""

    row: str
    column: str
    cell: Cell
    value: Value | None

    @property
    def state(self) -> str:
        """Returns "done", "not run", or why there is nothing to run."""
        if isinstance(self.cell.source, Absent):
            return self.cell.source.why
        return "done" if self.value else "not run"

    @property
    def difference(self) -> float | None:
        if self.value is None or self.cell.paper is None:
            return None
        return self.value.mean - self.cell.paper

    def number(self, value: float | None, form: str = "") -> str:
        """Returns a number as it is shown: an accuracy with two decimals."""
        if value is None:
            return ""
        is_other = isinstance(self.cell.source, Size | Setting) or self.column in _NO_ACCURACIES
        return format(value, f"{form},.4g" if is_other else f"{form},.2f")

    def ours(self) -> str:
        """Returns our number with its deviation, or the state of the cell."""
        if self.value is None:
            return self.state
        if isinstance(self.cell.source, Picture):
            return "drawn"
        deviation = self.value.deviation
        spread = "" if deviation is None else f" ± {self.number(deviation)}"
        return self.number(self.value.mean) + spread


def write_report(study: Study, items: Sequence[Item]) -> list[pathlib.Path]:
    """Writes the files of each item into WORKDIR/report and returns their paths.

    Raises:
      ValueError: a folder of the study holds runs of another config.
      OSError: a file cannot be written.
    """
    folder = study.workdir / "report"
    written = []
    for item in items:
        entries = [Entry(*place, value_of(study, place[2].source)) for place in item.cells()]
        note = _NOTE if study.miniature else ""
        texts = {
            "md": markdown(item, entries, note),
            "csv": as_csv(item, entries),
            "tex": latex(item, entries, note),
        }
        with naming(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for suffix, text in texts.items():
                written.append(folder / f"{item.name}.{suffix}")
                written[-1].write_text(text, encoding="utf-8")
            values = {(entry.row, entry.column): entry.value for entry in entries}
            for name, figure in draw(study, item, values) if item.is_figure else ():
                for suffix in ("png", "pdf"):
                    written.append(folder / f"{name}.{suffix}")
                    metadata = {"CreationDate": None} if suffix == "pdf" else {}
                    figure.savefig(written[-1], dpi=300, metadata=metadata)
    return written


def markdown(item: Item, entries: Sequence[Entry], note: str) -> str:
    """Returns the table with "paper; ours (difference)" in each cell, and where ours comes from."""
    lines = [f"# {item.name}: {item.title}", ""] + [note, ""] * bool(note)
    lines += [_row(["", *item.columns]), "|" + "---|" * (len(item.columns) + 1)]
    for row in item.rows:
        cells = [_markdown_cell(entry) for entry in entries if entry.row == row]
        lines.append(_row([row, *cells]))
    lines += ["", "In each cell: the paper's number; ours ± standard deviation (difference)."]
    values = [entry.value for entry in entries if entry.value]
    seeds = sorted({len(value.of_seeds) for value in values if value.origins})
    origins = sorted({origin for value in values for origin in value.origins})
    if seeds:
        lines.append(f"Seeds: {', '.join(map(str, seeds))}.")
    for hardware, commit, date in origins:
        lines.append(f"* {hardware or 'unknown hardware'}, commit {commit or 'unknown'}, {date}")
    return "\n".join(lines) + "\n"


def _markdown_cell(entry: Entry) -> str:
    paper = entry.number(entry.cell.paper)
    if entry.state == "not printed":
        return "-"
    if entry.state == "quoted":
        return f"*{paper}* (quoted)"
    difference = entry.number(entry.difference, "+")
    return "; ".join(filter(None, [paper, entry.ours()])) + (difference and f" ({difference})")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def as_csv(item: Item, entries: Sequence[Entry]) -> str:
    """Returns a line per cell, with unrounded numbers."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _FIELDS, lineterminator="\n")
    writer.writeheader()
    for entry in entries:
        value = entry.value
        line = {
            "item": item.name,
            "row": entry.row,
            "column": entry.column,
            "paper": entry.cell.paper,
            "difference": entry.difference,
            "state": entry.state,
        }
        if value:
            names = ("hardware", "commit", "date")
            if not isinstance(entry.cell.source, Picture):
                line |= {"ours": value.mean, "deviation": value.deviation}
            line["seeds"] = len(value.of_seeds)
            for name, found in zip(names, zip(*value.origins, strict=True), strict=False):
                line[name] = "; ".join(dict.fromkeys(found))
        writer.writerow(line)
    return text.getvalue()


def latex(item: Item, entries: Sequence[Entry], note: str) -> str:
    """Returns a `tabular` with booktabs rules; each cell has the paper's number over ours."""
    lines = [f"% {item.title}. {note}".strip(), rf"\begin{{tabular}}{{l{'r' * len(item.columns)}}}"]
    lines += [r"\toprule", _latex_row(["", *map(_escaped, item.columns)]), r"\midrule"]
    for row in item.rows:
        cells = [_latex_cell(entry) for entry in entries if entry.row == row]
        lines.append(_latex_row([_escaped(row), *cells]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _latex_cell(entry: Entry) -> str:
    if entry.state == "not printed":
        return "--"
    paper = entry.number(entry.cell.paper)
    if entry.state == "quoted":
        return rf"\textit{{{paper}}}"
    ours = _escaped(entry.ours()).replace("±", r"$\pm$")
    return rf"\shortstack[r]{{{paper}\\{ours}}}" if paper else ours


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _escaped(text: str) -> str:
    return re.sub(r"([&%$#_{}])", r"\\\1", text)
