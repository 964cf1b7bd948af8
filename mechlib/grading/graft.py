"""Graft a submission onto the released notebook.

What students hand in has lost cells, copied cells, edited checks, stripped metadata, another file name. So
the released notebook is taken as it is, and only what a student contributes is put into it: the answers, and
the cells that the student added. What had to be mended is said in remarks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

LARGEST_SUBMISSION, MOST_CELLS = 50_000_000, 2000  # bytes, cells
EXTRA, SKIPPED = "extra", "skip-execution"  # tags; nbclient skips cells that have the second


class UnreadableNotebook(Exception):
    """The file is not a notebook; the message says why, in words for the student."""


@dataclass
class Graft:
    """A released notebook with a student's answers in it."""

    notebook: NotebookNode
    remarks: list[str] = field(default_factory=list)
    started: bool = False  # whether anything of the student's is in it


def read_submission(path: Path) -> list[NotebookNode]:
    """The cells of a submitted notebook, of any version of the format, reduced to what matters."""
    if path.stat().st_size > LARGEST_SUBMISSION:
        raise UnreadableNotebook(f"The file has {path.stat().st_size / 1e6:.0f} MB: clear its outputs first.")
    try:
        notebook = nbformat.reads(path.read_text(encoding="utf-8-sig"), as_version=4)
        cells = [_clean(cell) for cell in notebook.cells]
    except RecursionError:
        raise UnreadableNotebook("The file is not a notebook: it is nested too deeply.") from None
    except UnicodeDecodeError:
        raise UnreadableNotebook("The file is not a notebook: it is not text.") from None
    except nbformat.reader.NotJSONError:
        raise UnreadableNotebook("The file is not a notebook: it is not JSON.") from None
    except Exception as error:
        reason = f"it has not the form of one ({type(error).__name__})"
        raise UnreadableNotebook(f"The file is not a notebook: {reason}.") from None
    if len(cells) > MOST_CELLS:
        raise UnreadableNotebook(f"The notebook has {len(cells)} cells: keep those of the chapter and your answers.")
    return cells


def _clean(cell: NotebookNode) -> NotebookNode:
    """The parts of a cell that matter, with the types that they should have."""
    source = cell.get("source", "")
    source = "".join(map(str, source)) if isinstance(source, list) else str(source)
    metadata = cell.get("metadata")
    return NotebookNode(
        cell_type=str(cell["cell_type"]),
        source=source.replace("\r\n", "\n"),
        id=str(cell.get("id", "")),
        metadata=metadata if isinstance(metadata, dict) else {},
    )


def graft(release: NotebookNode, submitted: list[NotebookNode]) -> Graft:
    """`release` with the submitted answers and added cells; experiments are tagged to be skipped."""
    result = Graft(nbformat.from_dict(release))
    targets = result.notebook.cells
    matches = match_cells(targets, submitted)
    added = _added_cells(targets, submitted, matches)
    for index, cell in enumerate(targets):
        _fill(cell, [submitted[position] for position in matches[index]], result)
        if "experiment" in cell.metadata.get("tags", []):
            cell.metadata["tags"].append(SKIPPED)
    result.started = result.started or any(cell.cell_type == "code" for cells in added.values() for cell in cells)
    result.notebook.cells = list(added[-1])
    for index, cell in enumerate(targets):
        result.notebook.cells += [cell, *added[index]]
    return result


# ---- which submitted cell is which


def match_cells(targets: list[NotebookNode], submitted: list[NotebookNode]) -> dict[int, list[int]]:
    """For each released cell the positions of the submitted cells that are it, the best evidence first.

    The evidence: nbgrader's id, the cell's id, the same text, and, for an answer that has lost all three,
    that it defines what the stub defines. A question that has lost them is the cell below the one above it.
    """
    evidence = [
        lambda target, cell: bool(_grade_id(target)) and _grade_id(target) == _grade_id(cell),
        lambda target, cell: target.id == cell.id,
        lambda target, cell: target.source.strip() == cell.source.strip() != "",
        lambda target, cell: _is_exercise(target) and bool(defined_names(target) & defined_names(cell)),
    ]
    matches: dict[int, list[int]] = {index: [] for index in range(len(targets))}
    taken: set[int] = set()
    for same in evidence:
        for index, target in enumerate(targets):
            if not matches[index]:
                matches[index] = [i for i, cell in enumerate(submitted) if i not in taken and same(target, cell)]
                taken.update(matches[index])
    for index, target in enumerate(targets):
        below = matches[index - 1][-1] + 1 if index and matches[index - 1] else len(submitted)
        if "question" in target.metadata and not matches[index] and below not in taken:
            matches[index] = [i for i in (below,) if i < len(submitted) and submitted[i].cell_type == "markdown"]
            taken.update(matches[index])
    return matches


def _grade_id(cell: NotebookNode) -> str:
    metadata = cell.metadata.get("nbgrader")
    return str(metadata.get("grade_id", "")) if isinstance(metadata, dict) else ""


def _is_exercise(cell: NotebookNode) -> bool:
    return "exercise" in cell.metadata


def defined_names(cell: NotebookNode) -> set[str]:
    """The functions and classes that a cell defines at its top level, also where it does not parse."""
    if cell.cell_type != "code":
        return set()
    return set(re.findall(r"^(?:async )?(?:def|class) (\w+)", cell.source, flags=re.MULTILINE))


# ---- what is put in


def _fill(target: NotebookNode, candidates: list[NotebookNode], result: Graft) -> None:
    """Put the student's answer into an answer cell; of the other cells only say what had been changed."""
    metadata = target.metadata
    name = metadata.get("exercise") or metadata.get("check") or metadata.get("question")
    edited = [cell for cell in candidates if cell.source.strip() != target.source.strip()]
    if "check" in metadata:
        if not candidates:
            result.remarks.append(f"the check of {name} was missing; the original was used")
        elif edited:
            result.remarks.append(f"the check of {name} had been edited; the original was used")
    elif "exercise" in metadata or "question" in metadata:
        if not candidates:
            result.remarks.append(f"the cell of {name} is missing")
        if len(edited) > 1:
            result.remarks.append(f"there were {len(edited)} answers to {name}; the last one was used")
        if edited:
            result.started = True
            target.source = edited[-1].source
    elif "setup" in metadata.get("tags", []):
        if not candidates:
            result.remarks.append("a set-up cell was missing; the original was used")
        elif edited:
            result.remarks.append("a set-up cell had been edited; the original ran first, then the edited one")


def _added_cells(
    targets: list[NotebookNode], submitted: list[NotebookNode], matches: dict[int, list[int]]
) -> dict[int, list[NotebookNode]]:
    """The student's own cells by the released cell that they follow (-1: they come before all).

    Also added are earlier answers to the same exercise, because the last one may build on them, and set-up
    cells that were edited, because students add their imports there.
    """
    owner = {position: index for index, positions in matches.items() for position in positions}
    added: dict[int, list[NotebookNode]] = {index: [] for index in range(-1, len(targets))}
    anchor, number = -1, 0
    for position, cell in enumerate(submitted):
        index = owner.get(position)
        if index is not None and not _is_kept_beside(targets[index], position, matches[index], submitted):
            anchor = index
            continue
        if index is not None and "setup" in targets[index].metadata.get("tags", []):
            anchor = index
        if cell.source.strip() and cell.cell_type in ("code", "markdown"):
            number += 1
            new = new_code_cell if cell.cell_type == "code" else new_markdown_cell
            added[anchor].append(new(cell.source, id=f"extra-{number}", metadata={"tags": [EXTRA]}))
    return added


def _is_kept_beside(target: NotebookNode, position: int, positions: list[int], submitted: list[NotebookNode]) -> bool:
    """Whether a submitted cell that stands for a released one is run as well as that one."""
    edited = [i for i in positions if submitted[i].source.strip() != target.source.strip()]
    if position not in edited or submitted[position].cell_type != "code":
        return False
    if "setup" in target.metadata.get("tags", []):
        return True
    return _is_exercise(target) and position != edited[-1]
