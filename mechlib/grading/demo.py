"""`make grade-demo`: a small class with every kind of mishap, graded and compared with what it should get."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from mechlib.grading import report
from mechlib.grading.grade import Options, grade
from mechlib.grading.graft import defined_names
from mechlib.grading.limits import Limits
from mechlib.grading.namespaces import NoSandbox
from mechlib.grading.release import all_chapters, chapter_path, chosen_chapter, solved_path
from mechlib.grading.sandbox import KINDS
from mechlib.grading.source import SourceError

MARKER = ".demo"


@dataclass
class Student:
    """What one student hands in, and what grading should make of it."""

    name: str
    content: NotebookNode | str | None  # a notebook, the text of a file, or nothing
    status: str
    score: float
    remark: str = ""  # words that have to stand in the remarks
    file: str = ""  # another file name than the chapter's


def main(argv: list[str] | None = None) -> int:
    """Build a small class from a chapter's solved notebook and grade it; exit 1 if a grade is unexpected."""
    parser = argparse.ArgumentParser(prog="python -m mechlib.grading.demo", description=main.__doc__)
    parser.add_argument("chapter", nargs="?", default="", help="the first chapter if none is given")
    parser.add_argument("--root", type=Path, default=Path(), help="the folder that holds solutions/ and chapters/")
    parser.add_argument("--folder", type=Path, default=Path("grade-demo"), help="where the class is built")
    parser.add_argument("--timeout", type=float, default=30, metavar="SECONDS", help="for each cell")
    parser.add_argument("--seed", type=int, default=0, help="what the checks draw their cases from")
    parser.add_argument("--sandbox", choices=("auto", *KINDS), default="auto", help="where students' code runs")
    options = parser.parse_args(argv)
    try:
        root = options.root.resolve()
        chapter = chosen_chapter(root, options.chapter) if options.chapter else all_chapters(root)[0]
        students = build_class(root, chapter, options.folder)
        limits = Limits(cell=options.timeout)
        rows = grade(options.folder, chapter, Options(limits, options.seed, sandbox=options.sandbox))
    except (SourceError, NoSandbox, OSError) as error:
        print(f"grade-demo: {error}", file=sys.stderr)
        return 1
    return compare(students, rows, options.folder)


def build_class(root: Path, chapter: str, folder: Path) -> list[Student]:
    """Make the course `folder` with the released chapter and what every student handed in."""
    if folder.exists() and not (folder / MARKER).exists():
        raise FileExistsError(f"{folder} exists and was not made by this demo: choose another --folder.")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARKER).touch()
    released = nbformat.read(chapter_path(root, chapter), as_version=4)
    solved = nbformat.read(solved_path(root, chapter), as_version=4)
    students = the_class(released, solved)
    write_class(folder, chapter, chapter_path(root, chapter), students)
    return students


def write_class(folder: Path, chapter: str, release: Path, students: list[Student]) -> None:
    """Put the released chapter, and what the students hand in, into a course's folder."""
    chapter_path(folder, chapter).parent.mkdir(parents=True)
    shutil.copy(release, chapter_path(folder, chapter))
    for student in students:
        handed_in = folder / "submitted" / student.name / chapter
        handed_in.mkdir(parents=True)
        file = handed_in / (student.file or f"{chapter}.ipynb")
        if isinstance(student.content, str):
            file.write_text(student.content, encoding="utf-8")
        elif student.content is not None:
            nbformat.write(student.content, file)


def the_class(released: NotebookNode, solved: NotebookNode) -> list[Student]:
    """Every kind of submission. Mistakes are made in the last exercise, on which no other builds."""
    points = {cell.metadata["check"]: cell.metadata["nbgrader"]["points"] for cell in released.cells
              if "check" in cell.metadata}  # fmt: skip
    names = list(points)
    last, full, rest = names[-1], sum(points.values()), sum(points[name] for name in names[:-1])
    half = names[: len(names) // 2]
    questions = any("question" in cell.metadata for cell in released.cells)
    done = report.MANUAL if questions else report.GRADED
    words = set(names) | {cell.metadata["question"] for cell in released.cells if "question" in cell.metadata}

    def submission(*changes: Callable[[NotebookNode], None], answered: set[str] = words) -> NotebookNode:
        return hand_in(released, solved, answered, changes)

    return [
        Student("all-right", submission(), done, full),
        Student("nothing-done", submission(answered=set()), report.NOT_STARTED, 0),
        Student("half-right", submission(answered=set(half)), report.PARTLY, sum(points[n] for n in half)),
        Student("syntax-error", submission(in_answer(last, "def broken(:")), done, rest, "SyntaxError"),
        Student("endless-loop", submission(loop_in(last)), report.TIMED_OUT, rest, "stopped after"),
        Student("not-a-notebook", "I solved it on paper.", report.UNREADABLE, 0, "not a notebook"),
        Student("check-deleted", submission(without_check(last)), done, full, "missing"),
        Student("check-edited", submission(edited_check(last, points[last]), answered=words - {last}),
                report.MANUAL if questions else report.PARTLY, rest, "edited"),
        Student("clumsy", submission(clumsy), done, full, "called", file="my work (final).ipynb"),
        Student("ends-python", submission(in_answer(last, "__import__('os')._exit(1)")),
                report.KILLED, rest, "ended Python"),
        Student("handed-in-nothing", None, report.MISSING, 0),
    ]  # fmt: skip


def compare(students: list[Student], rows: list[report.Row], folder: Path) -> int:
    """Print what each student should get beside what each got."""
    got = {row.student: row for row in rows}
    wrong = 0
    print(f"{'student':<18} {'expected':<27} {'got':<27} remarks")
    for student in students:
        row = got[student.name]
        remarks = "; ".join(row.remarks)
        right = (
            row.status == student.status
            and abs(row.score - student.score) < 1e-9
            and student.remark in remarks
            and any((folder / "feedback" / student.name).rglob("*.html"))
        )
        wrong += not right
        expected, actual = f"{student.score:g} {student.status}", f"{row.score:g} {row.status}"
        print(f"{student.name:<18} {expected:<27} {actual:<27} {remarks}{'' if right else '   <-- WRONG'}")
    print(f"{len(students) - wrong} of {len(students)} as expected; grades.csv and feedback/ are in {folder}/.")
    return 1 if wrong else 0


# ---- how students hand in


def hand_in(
    released: NotebookNode, solved: NotebookNode, answered: set[str], changes: tuple[Callable, ...]
) -> NotebookNode:
    """The released notebook with the answers to some exercises and questions, and then some changes."""
    notebook = nbformat.from_dict(json.loads(json.dumps(released)))
    answers = {cell.id: cell.source for cell in solved.cells}
    for cell in notebook.cells:
        name = cell.metadata.get("exercise") or cell.metadata.get("question")
        if name in answered:
            cell.source = "\n".join(line for line in answers[cell.id].splitlines() if "SOLUTION" not in line)
    for change in changes:
        change(notebook)
    return notebook


def _cell(notebook: NotebookNode, kind: str, name: str) -> NotebookNode:
    return next(cell for cell in notebook.cells if cell.metadata.get(kind) == name)


def in_answer(name: str, line: str) -> Callable[[NotebookNode], None]:
    """Add a line at the end of an answer."""

    def change(notebook: NotebookNode) -> None:
        _cell(notebook, "exercise", name).source += f"\n{line}"

    return change


def loop_in(name: str) -> Callable[[NotebookNode], None]:
    """Make what the answer defines loop for ever when it is called."""

    def change(notebook: NotebookNode) -> None:
        cell = _cell(notebook, "exercise", name)
        for defined in sorted(defined_names(cell)):
            cell.source += f"\ndef {defined}(*arguments, **options):\n    while True:\n        pass"

    return change


def without_check(name: str) -> Callable[[NotebookNode], None]:
    """Delete a check."""

    def change(notebook: NotebookNode) -> None:
        notebook.cells.remove(_cell(notebook, "check", name))

    return change


def edited_check(name: str, points: float) -> Callable[[NotebookNode], None]:
    """Write the full marks into a check."""

    def change(notebook: NotebookNode) -> None:
        _cell(notebook, "check", name).source = f"{float(points)}"

    return change


def clumsy(notebook: NotebookNode) -> None:
    """Lose the cells' ids, add cells that print, warn and fail, put an import into the set-up cell."""
    for number, cell in enumerate(notebook.cells):
        cell.id = f"lost-{number}"
    setup = next(cell for cell in notebook.cells if "setup" in cell.metadata.get("tags", []))
    setup.source += "\nimport statistics"
    first = next(position for position, cell in enumerate(notebook.cells) if "exercise" in cell.metadata)
    talk = "import sys, warnings\nprint('hello')\nprint('oops', file=sys.stderr)\nwarnings.warn('careful')"
    notebook.cells.insert(first, new_code_cell(talk))
    notebook.cells.insert(first + 2, new_code_cell("nothing_of_that_name"))


if __name__ == "__main__":
    sys.exit(main())
