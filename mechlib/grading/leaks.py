"""Does an answer stand in what students get? A plain search, so that it sees what we did not think of."""

from __future__ import annotations

import json
from pathlib import Path

from nbformat import NotebookNode

from mechlib.grading.source import BEGIN, END, solution_lines

SHORTEST_LINE = 20  # shorter lines ("return x", "else:") say nothing about where they come from
IGNORED = {".ipynb_checkpoints", ".mechlib"}
ALLOWED = "shows-answer"  # the tag of a cell that may show a line of an answer, for instance a given helper


def secrets(source: NotebookNode) -> dict[str, str]:
    """The lines of the answers, with white space made plain, and the exercise that each belongs to.

    A line that the exercise's own stub shows as well, in its docstring say, is no secret.
    """
    found: dict[str, str] = {}
    for cell in source.cells:
        name = cell.metadata.get("exercise") or cell.metadata.get("question")
        hidden = solution_lines(cell) if name else []
        shown = _plain("\n".join(line for line in cell.source.splitlines() if line not in hidden))
        for plain in map(_plain, hidden):
            if len(plain) >= SHORTEST_LINE and any(map(str.isalpha, plain)) and plain not in shown:
                found.setdefault(plain, name)
    return found


def find_leaks(source: NotebookNode, folder: Path) -> list[str]:
    """One sentence for each answer's line, or solution marker, that a file under `folder` contains."""
    lines, messages = secrets(source), []
    for path in released_files(folder):
        for place, text in _texts(path):
            where = f"{path.relative_to(folder)}{place}"
            plain = _plain(text)
            if BEGIN in text or END in text:
                messages.append(f"{where} contains a solution marker.")
            messages += [f"{where} shows a line of the answer to {name}: {line!r}."
                         for line, name in lines.items() if line in plain]  # fmt: skip
    return messages


def released_files(folder: Path) -> list[Path]:
    """Every file under `folder` but what Jupyter and a student's own work leave there (git ignores it)."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path for path in files if not IGNORED & set(path.relative_to(folder).parts)]


def _texts(path: Path) -> list[tuple[str, str]]:
    """A notebook cell by cell, but for those that may show an answer; any other file as a whole."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix != ".ipynb":
        return [("", text)]
    try:
        notebook = json.loads(text)
        return [
            (f", cell {number}", "".join(cell["source"]) + json.dumps(cell.get("outputs", [])))
            for number, cell in enumerate(notebook["cells"], start=1)
            if ALLOWED not in cell["metadata"].get("tags", [])
        ]
    except (ValueError, KeyError, TypeError):
        return [("", text)]


def _plain(text: str) -> str:
    return " ".join(text.split())
