"""nbgrader's gradebook: enter the verdicts, keep what a person has given, write the feedback.

Only the driver does this.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from mechlib.grading.course import ANSWER_STUB, WORK, StepFailed, grading_config, open_api, parse_utc
from mechlib.grading.report import Row
from mechlib.grading.store import Store, write_whole


class Book:
    """The gradebook of a course, open for one chapter."""

    def __init__(self, store: Store, release: NotebookNode):
        self.store, self.course, self.chapter = store, store.course, store.chapter
        self.names = graded_names(release)
        self.api = open_api(self.course, grading_config(self.course))
        self._step("enter the chapter into gradebook.db", self.api.generate_assignment(self.chapter, force=True))

    def score(self, row: Row, notebook: NotebookNode) -> list[str]:
        """Score an executed notebook and write its feedback; fill in the row; what waits for a person comes back.

        May be killed anywhere and called again: nbgrader overwrites, and the manual marks are written down first.
        """
        student = row.student
        read = self.store.kept_read(student)
        if read is None:
            read = self.read_before(student, notebook)
            self.store.keep_read(student, read)
        notebook.cells.insert(0, new_markdown_cell(summary(notebook, row, read), id="summary"))
        self.hand_over(student, notebook, row)
        self._step("score the notebook", self.api.autograde(self.chapter, student, force=True))
        self.take_back(student, read)
        self._step("write the feedback", self.api.generate_feedback(self.chapter, student, force=True))
        return self.read_scores(student, row)

    def _step(self, name: str, result: dict) -> None:
        if not result["success"]:
            raise StepFailed(name, result)

    def hand_over(self, student: str, notebook: NotebookNode, row: Row) -> None:
        """Put the executed notebook where nbgrader looks for it, with the time it was handed in, if known."""
        folder = self.course / WORK / "submitted" / student / self.chapter
        shutil.rmtree(folder, ignore_errors=True)
        write_whole(folder / f"{self.chapter}.ipynb", nbformat.writes(notebook).encode())
        stamp = self.course / "submitted" / student / self.chapter / "timestamp.txt"
        if stamp.is_file() and not stamp.is_symlink():
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
        before, now = answers(nbformat.read(path, as_version=4)), answers(notebook)
        with self.api.gradebook as gradebook:
            return {
                entry.name: entry.manual_score
                for entry in entries(gradebook, self.chapter, student)
                if entry.name in now and before.get(entry.name) == now[entry.name]
                if entry.manual_score is not None and not entry.needs_manual_grade
            }

    def take_back(self, student: str, read: dict[str, float]) -> None:
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


def read_by_person(course: Path, chapter: str) -> dict[str, list]:
    """What a person has entered in formgrader for each student: points, extra credit, comments."""
    if not (course / "gradebook.db").is_file():
        return {}
    with open_api(course, grading_config(course)).gradebook as gradebook:
        return {
            submission.student.id: sorted(
                [
                    *([one.name, one.manual_score, one.extra_credit] for one in entered(submission, "grades")),
                    *([one.name, one.manual_comment] for one in entered(submission, "comments")),
                ],
                key=str,
            )
            for submission in gradebook.assignment_submissions(chapter)
        }


def entered(submission, kind: str) -> list:
    """The grades or the comments of a submission in which a person has written something."""
    fields = {"grades": ("manual_score", "extra_credit"), "comments": ("manual_comment",)}[kind]
    entries = [entry for notebook in submission.notebooks for entry in getattr(notebook, kind)]
    return [entry for entry in entries if any(getattr(entry, field) is not None for field in fields)]


def graded_names(release: NotebookNode) -> dict[str, str]:
    """From nbgrader's id of each graded cell to the name of its exercise or question, in order."""
    return {
        cell.metadata["nbgrader"]["grade_id"]: cell.metadata.get("check") or cell.metadata.get("question")
        for cell in release.cells
        if cell.metadata.get("nbgrader", {}).get("grade")
    }


def answers(notebook: NotebookNode) -> dict[str, str]:
    """What the student wrote, by nbgrader's id of the cell that is graded for it."""
    written = {cell.metadata["exercise"]: cell.source for cell in notebook.cells if "exercise" in cell.metadata}
    return {
        cell.metadata["nbgrader"]["grade_id"]: written.get(cell.metadata.get("check"), cell.source).strip()
        for cell in notebook.cells
        if "check" in cell.metadata or "question" in cell.metadata
    }


def summary(notebook: NotebookNode, row: Row, read: dict[str, float]) -> str:
    """The first cell of the feedback: the points of each exercise, and what happened.

    read: what a person has given already, by nbgrader's id.
    """
    lines = ["| exercise | &emsp;points |", "|---|---|"]
    for cell in notebook.cells:
        name = cell.metadata.get("check") or cell.metadata.get("question")
        if not name:
            continue
        most, grade_id = cell.metadata["nbgrader"]["points"], cell.metadata["nbgrader"]["grade_id"]
        given = f"{row.scores.get(name) or 0:g} of"
        if "question" in cell.metadata and cell.source.strip() != ANSWER_STUB:
            given = "read by a person: up to"
        given = f"{read[grade_id]:g} of" if grade_id in read else given
        lines.append(f"| {name} | &emsp;{given} {most:g} |")  # nbgrader's tables have no margins
    return "\n".join([*lines, "", *(f"- {remark}" for remark in row.remarks)]).strip()


def feedback_page(course: Path, chapter: str, student: str) -> Path:
    return course / "feedback" / student / chapter / f"{chapter}.html"
