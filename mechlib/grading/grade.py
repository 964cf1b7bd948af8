"""`mechlib grade CHAPTER`: from submitted/ through nbgrader into its gradebook, grades.csv and feedback/.

One student after the other: graft (graft.py), execute (run.py), score and write feedback (nbgrader). Whatever
goes wrong with one is caught, recorded in that student's row, and does not stop the others.
"""

from __future__ import annotations

import argparse
import fnmatch
import glob
import re
import secrets
import shutil
import sys
import warnings
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from mechlib.grading.course import ANSWER_STUB, WORK, StepFailed, grading_config, open_api, parse_utc
from mechlib.grading.graft import EXTRA, Graft, UnreadableNotebook, graft, match_cells, read_submission
from mechlib.grading.report import (
    FAILED,
    GRADED,
    KERNEL_LOST,
    MANUAL,
    MISSING,
    NOT_STARTED,
    TIMED_OUT,
    UNREADABLE,
    Row,
    table,
    write_grades,
    write_page,
)
from mechlib.grading.run import Run, earned, run_submission
from mechlib.grading.source import nearest

DEFAULT_TIMEOUT = 60


class NothingToGrade(Exception):
    """What is missing before grading can start."""


def main(argv: list[str] | None = None) -> int:
    """Grade the notebooks in submitted/STUDENT/CHAPTER/; exit 1 if one could not be, by our fault."""
    parser = argparse.ArgumentParser(prog="mechlib grade", description=main.__doc__)
    parser.add_argument("chapter", metavar="CHAPTER", help="such as 01_superposition")
    parser.add_argument("--course", type=Path, default=Path(), metavar="DIR", help="holds chapters/ and submitted/")
    parser.add_argument("--timeout", type=int, default=DEFAULT_TIMEOUT, metavar="SECONDS", help="for each cell")
    parser.add_argument("--seed", type=int, help="what the checks draw their cases from; new each time if not given")
    parser.add_argument("--students", default="*", metavar="GLOB", help="grade only these students")
    options = parser.parse_args(argv)
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    try:
        rows = grade(options.course, options.chapter, options.timeout, seed, options.students)
    except (NothingToGrade, StepFailed) as error:
        print(f"mechlib grade: {error}", file=sys.stderr)
        return 1
    print(table(rows))
    print(f"{len(rows)} student{'s' * (len(rows) != 1)}; --seed {seed} grades them on the same cases again.")
    return 1 if any(row.status == FAILED for row in rows) else 0


def grade(course: Path, chapter: str, timeout: int, seed: int, students: str = "*") -> list[Row]:
    """Grade a class and write grades.csv; the rows come back in the order of the students' names."""
    from tqdm import tqdm

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SQLAlchemy's about nbgrader
        course = course.resolve()
        chapter = released_chapter(course, chapter)
        names = submitted_students(course, chapter, students)
        grader = Grader(course, chapter, timeout, seed)
        rows: list[Row] = []
        try:
            for name in (bar := tqdm(names, desc=chapter, unit="student")):
                bar.set_postfix_str(name)
                rows.append(grader.grade_student(name))
        finally:
            if rows:
                write_grades(course / "grades.csv", rows, keep_others=len(rows) < len(names) or students != "*")
    return rows


def released_chapter(course: Path, name: str) -> str:
    """The chapter of that name in chapters/; it may be given as a path or by its number."""
    name = Path(name).name.removesuffix(".ipynb")
    chapters = sorted(path.stem for path in course.glob("chapters/*/*.ipynb") if path.stem == path.parent.name)
    if not chapters:
        where = f"there is no chapters/NN_topic/NN_topic.ipynb in {course}"
        raise NothingToGrade(f"{where}: run this in the course's folder, or name it with --course DIR.")
    matches = [chapter for chapter in chapters if chapter == name or chapter.split("_")[0] == name]
    if not matches:
        meant = nearest(name, chapters) or f" There is {', '.join(chapters)}."
        raise NothingToGrade(f"there is no chapter {name!r} in chapters/.{meant}")
    return matches[0]


def submitted_students(course: Path, chapter: str, pattern: str) -> list[str]:
    """The students with a folder in submitted/ whose name fits the pattern."""
    folders = [path for path in course.glob("submitted/*") if path.is_dir() and not path.name.startswith(".")]
    if not folders:
        expected = f"submitted/STUDENT/{chapter}/{chapter}.ipynb"
        raise NothingToGrade(f"there are no students' folders in submitted/: expected {expected}.")
    everybody = sorted(path.name for path in folders)
    names = [name for name in everybody if fnmatch.fnmatch(name, pattern)]
    if not names:
        raise NothingToGrade(f"no student in submitted/ fits --students {pattern!r}.{nearest(pattern, everybody)}")
    return names


class Grader:
    """A chapter of a course, ready to grade one student after the other."""

    def __init__(self, course: Path, chapter: str, timeout: int, seed: int):
        self.course, self.chapter, self.timeout, self.seed = course, chapter, timeout, seed
        self.release = nbformat.read(course / "chapters" / chapter / f"{chapter}.ipynb", as_version=4)
        self.names = graded_names(self.release)
        self.max_score = sum(
            cell.metadata["nbgrader"]["points"]
            for cell in self.release.cells
            if cell.metadata.get("nbgrader", {}).get("grade")
        )
        self.api = open_api(course, grading_config())
        result = self.api.generate_assignment(chapter, force=True)
        if not result["success"]:
            raise StepFailed("enter the chapter into gradebook.db", result)

    def grade_student(self, student: str) -> Row:
        """Grade one student. This never raises: what went wrong is in the row."""
        row = Row(student, self.chapter, self.max_score, scores=dict.fromkeys(self.names.values(), 0.0))
        page = self.course / "feedback" / student / self.chapter / f"{self.chapter}.html"
        try:
            if glob.escape(student) != student:
                raise ValueError("nbgrader cannot find folders with *, ? or [ in their names: rename this one")
            path = self.find_notebook(student, row)
            self.grade_notebook(student, graft(self.release, read_submission(path)), row)
        except FileNotFoundError as error:
            row.status = MISSING
            row.remarks.append(str(error))
            write_page(page, row, "There is no notebook to grade.")
        except UnreadableNotebook as error:
            row.status = UNREADABLE
            row.remarks.append(str(error))
            self.enter_zero(student)
            write_page(page, row, "The notebook that you handed in could not be opened. Please hand it in again.")
        except Exception as error:
            row.status, row.score = FAILED, 0.0
            row.remarks.append(f"could not be graded: {type(error).__name__}: {error}")
            write_page(page, row, "Your notebook could not be graded, which is not your fault.")
        return row

    def find_notebook(self, student: str, row: Row) -> Path:
        """The student's notebook, also under another name; FileNotFoundError says what was found instead."""
        folder = self.course / "submitted" / student / self.chapter
        expected = folder / f"{self.chapter}.ipynb"
        if expected.is_file():
            return expected
        found = [path for path in sorted(folder.rglob("*.ipynb")) if path.is_file()]
        found = [path for path in found if ".ipynb_checkpoints" not in path.parts]
        if not found:
            others = sorted(path.name for path in folder.glob("*"))
            raise FileNotFoundError(f"no notebook was handed in{', only ' + ', '.join(others) if others else ''}")
        best = max(found, key=self.resemblance)
        row.remarks.append(f"the notebook was called {best.name}")
        return best

    def resemblance(self, path: Path) -> int:
        """How many of the released cells a notebook has."""
        try:
            return sum(map(bool, match_cells(self.release.cells, read_submission(path)).values()))
        except UnreadableNotebook:
            return -1

    def grade_notebook(self, student: str, grafted: Graft, row: Row) -> None:
        """Execute, score and give feedback; fill in the row."""
        notebook = grafted.notebook
        run = run_submission(notebook, self.timeout, self.seed)
        row.remarks += grafted.remarks + happenings(notebook, run, self.timeout)
        read = self.read_before(student, notebook)
        notebook.cells.insert(0, new_markdown_cell(summary(notebook, row.remarks, read), id="summary"))
        self.hand_over(student, notebook, row)
        for step, action in (
            ("score the notebook", self.api.autograde),
            ("write the feedback", self.api.generate_feedback),
        ):
            result = action(self.chapter, student, force=True)
            if not result["success"]:
                raise StepFailed(step, result)
            if action == self.api.autograde:
                self.keep_read(student, read)
        unread = self.read_scores(student, row)
        if unread:
            row.remarks.append(f"to be read by a person: {', '.join(unread)}")
        row.status = status(notebook, run, grafted.started, bool(unread))

    def hand_over(self, student: str, notebook: NotebookNode, row: Row) -> None:
        """Put the executed notebook where nbgrader looks for it, with the time it was handed in, if known."""
        folder = self.course / WORK / "submitted" / student / self.chapter
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        nbformat.write(notebook, folder / f"{self.chapter}.ipynb")
        stamp = self.course / "submitted" / student / self.chapter / "timestamp.txt"
        if stamp.is_file():
            try:
                parse_utc(stamp.read_text(encoding="utf-8").strip())
                shutil.copy(stamp, folder)
            except (ValueError, OverflowError):
                row.remarks.append("timestamp.txt holds no time and was ignored")

    def read_before(self, student: str, notebook: NotebookNode) -> dict[str, float]:
        """The points that a person gave to answers which still say the same, by nbgrader's id."""
        path = self.course / "autograded" / student / self.chapter / f"{self.chapter}.ipynb"
        if not path.is_file():
            return {}
        answers = [
            {
                cell.metadata["nbgrader"]["grade_id"]: cell.source.strip()
                for cell in version.cells
                if "question" in cell.metadata
            }
            for version in (nbformat.read(path, as_version=4), notebook)
        ]
        same = {name for name, text in answers[0].items() if answers[1].get(name) == text}
        with self.api.gradebook as gradebook:
            return {
                entry.name: entry.manual_score
                for entry in entries(gradebook, self.chapter, student)
                if entry.name in same and entry.manual_score is not None and not entry.needs_manual_grade
            }

    def keep_read(self, student: str, read: dict[str, float]) -> None:
        """Take back that nbgrader asks for an unchanged answer to be read again whenever it scores."""
        with self.api.gradebook as gradebook:
            for entry in entries(gradebook, self.chapter, student):
                if entry.name in read:
                    entry.needs_manual_grade = False
            gradebook.db.commit()

    def read_scores(self, student: str, row: Row) -> list[str]:
        """Fill in the scores from the gradebook; the answers that wait for a person come back."""
        unread = []
        with self.api.gradebook as gradebook:
            submission = gradebook.find_submission(self.chapter, student)
            row.score = submission.score
            for notebook in submission.notebooks:
                for entry in notebook.grades:
                    waits = entry.needs_manual_grade and entry.manual_score is None
                    row.scores[self.names[entry.name]] = None if waits else entry.score
                    if entry.needs_manual_grade:
                        unread.append(self.names[entry.name])
        return unread

    def enter_zero(self, student: str) -> None:
        """Enter a submission that cannot be read into the gradebook, with 0 for everything."""
        with self.api.gradebook as gradebook:
            gradebook.update_or_create_student(student)
            submission = gradebook.update_or_create_submission(self.chapter, student)
            for notebook in submission.notebooks:
                for entry in notebook.grades:
                    entry.auto_score, entry.needs_manual_grade = 0, False
            gradebook.db.commit()


def entries(gradebook, chapter: str, student: str) -> list:
    """A student's entries in the gradebook, one for each graded cell; none if the student has handed in nothing yet."""
    submissions = [one for one in gradebook.assignment_submissions(chapter) if one.student.id == student]
    return [entry for one in submissions for notebook in one.notebooks for entry in notebook.grades]


# ---- what happened, in words


def graded_names(release: NotebookNode) -> dict[str, str]:
    """From nbgrader's id of each graded cell to the name of its exercise or question, in order."""
    return {
        cell.metadata["nbgrader"]["grade_id"]: cell.metadata.get("check") or cell.metadata.get("question")
        for cell in release.cells
        if cell.metadata.get("nbgrader", {}).get("grade")
    }


def happenings(notebook: NotebookNode, run: Run, timeout: int) -> list[str]:
    """A remark for each cell that was stopped, ended Python, does not run, or checks a borrowed answer."""
    remarks = []
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    borrowed = re.findall(r"""^[^#\n]*borrow\(\s*["']([\w.-]+)["']""", code, flags=re.MULTILINE)
    for cell in notebook.cells:
        if cell.id == run.died:
            reason = "could not be stopped" if cell.id in run.timed_out else "ended Python"
            remarks.append(f"{place(cell)} {reason}, so nothing after it ran")
        elif cell.id in run.timed_out:
            remarks.append(f"{place(cell)} was stopped after {timeout} s")
        elif "exercise" in cell.metadata:
            errors = [output.ename for output in cell.outputs if output.output_type == "error"]
            remarks += [f"{place(cell)} does not run: {name}" for name in errors[:1]]
        elif "check" in cell.metadata and not earned(cell) and cell.metadata["check"] in borrowed:
            remarks.append(f"{cell.metadata['check']} was borrowed")
    return remarks


def summary(notebook: NotebookNode, remarks: list[str], read: dict[str, float]) -> str:
    """The first cell of the feedback: the points of each exercise, and what happened.

    read: what a person has given already, by nbgrader's id.
    """
    lines = ["| exercise | points |", "|---|---|"]
    for cell in notebook.cells:
        if "check" in cell.metadata:
            points = cell.metadata["nbgrader"]["points"]
            lines.append(f"| {cell.metadata['check']} | {earned(cell) or 0:g} of {points:g} |")
        elif "question" in cell.metadata:
            points = cell.metadata["nbgrader"]["points"]
            given = "0 of" if cell.source.strip() == ANSWER_STUB else "read by a person: up to"
            grade_id = cell.metadata["nbgrader"]["grade_id"]
            given = f"{read[grade_id]:g} of" if grade_id in read else given
            lines.append(f"| {cell.metadata['question']} | {given} {points:g} |")
    return "\n".join([*lines, "", *(f"- {remark}" for remark in remarks)]).strip()


def place(cell: NotebookNode) -> str:
    """Which cell, in words."""
    for kind, words in (("exercise", "the cell of"), ("check", "the check of")):
        if kind in cell.metadata:
            return f"{words} {cell.metadata[kind]}"
    return "an added cell" if EXTRA in cell.metadata.get("tags", []) else "a set-up cell"


def status(notebook: NotebookNode, run: Run, started: bool, unread: bool) -> str:
    """The one word for how a submission that could be run went."""
    added = {cell.id for cell in notebook.cells if EXTRA in cell.metadata.get("tags", [])}
    if set(run.timed_out) - added:
        return TIMED_OUT
    if run.died:
        return KERNEL_LOST
    if not started:
        return NOT_STARTED
    return MANUAL if unread else GRADED


if __name__ == "__main__":
    sys.exit(main())
