"""`mechlib grade CHAPTER`: from submitted/ through sandboxes and nbgrader into its gradebook, grades.csv and feedback/.

This is the driver. It starts a worker for each submission, as many at a time as there are cores (worker.py), and
enters what they find out into the gradebook (book.py). It can be killed at any moment and started again (store.py).
Whatever goes wrong with one student is caught, recorded in that student's row, and does not stop the others.
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import glob
import os
import sys
import time
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from mechlib.grading import worker
from mechlib.grading.book import Book, feedback_page, graded_names, read_by_person
from mechlib.grading.class_report import write_report
from mechlib.grading.clean import clean_remark
from mechlib.grading.course import StepFailed
from mechlib.grading.forkserver import Child, ForkServer, ServerLost, fork
from mechlib.grading.limits import MIB, Limits
from mechlib.grading.live import LiveTable
from mechlib.grading.namespaces import NoSandbox
from mechlib.grading.remote import RETRIES, ClusterLost, settings, slots
from mechlib.grading.report import (
    FAILED,
    GRADED,
    KILLED,
    MANUAL,
    MISSING,
    NOT_STARTED,
    PARTLY,
    SUSPICIOUS,
    TIMED_OUT,
    UNREADABLE,
    Row,
    table,
    write_grades,
    write_page,
)
from mechlib.grading.sandbox import KINDS, Program, Sandbox, choose, start_program
from mechlib.grading.source import nearest
from mechlib.grading.store import InUse, Store, key, read_json

HEAVY = ("torch", "transformer_lens", "transformers", "matplotlib.pyplot", "ipykernel.kernelapp", "nbclient")
OURS = ("mechlib.exercises", "mechlib.grading.worker", "mechlib.grading.kernel")
WARM_UP = "mechlib.grading.judging:warm_up"
TIME_TO_JUDGE = 120  # seconds that a worker has beyond its notebook's


class NothingToGrade(Exception):
    """What is missing before grading can start."""


class Interrupted(Exception):
    """Grading cannot go on; the message says what to do. What is done is kept."""


@dataclass
class Options:
    """How to grade."""

    limits: Limits = field(default_factory=Limits)
    seed: int | None = None  # None: the course's own, which is made up the first time and kept
    students: str = "*"
    jobs: int = field(default_factory=lambda: len(os.sched_getaffinity(0)) if sys.platform == "linux" else 2)
    sandbox: str = "auto"
    regrade: bool = False
    dask: str = ""  # the scheduler's address; "": students' code runs here


def main(argv: list[str] | None = None) -> int:
    """Grade the notebooks in submitted/STUDENT/CHAPTER/; exit 1 if one could not be, by our fault."""
    defaults, limits = Options(), Limits()
    parser = argparse.ArgumentParser(prog="mechlib grade", description=main.__doc__)
    parser.add_argument("chapter", metavar="CHAPTER", help="such as 01_superposition")
    parser.add_argument("--course", type=Path, default=Path(), metavar="DIR", help="holds chapters/ and submitted/")
    parser.add_argument("--students", default="*", metavar="GLOB", help="grade only these students")
    parser.add_argument("--jobs", type=int, default=defaults.jobs, metavar="N", help="at a time; as many as cores")
    parser.add_argument("--sandbox", choices=("auto", *KINDS), default="auto", help="where students' code runs")
    parser.add_argument("--dask", default="", metavar="ADDRESS", help="run students' code on this Dask cluster")
    parser.add_argument("--regrade", action="store_true", help="grade again what has not changed")
    parser.add_argument("--seed", type=int, help="what the checks draw their cases from; kept with the course")
    parser.add_argument("--timeout", type=float, default=limits.cell, metavar="SECONDS", help="for each cell")
    parser.add_argument("--total", type=float, default=limits.notebook, metavar="SECONDS", help="for each notebook")
    parser.add_argument("--memory", type=int, default=limits.memory // MIB, metavar="MIB", help="for each notebook")
    given = parser.parse_args(argv)
    limits = Limits(cell=given.timeout, notebook=given.total, memory=given.memory * MIB)
    options = Options(limits, given.seed, given.students, max(given.jobs, 1), given.sandbox, given.regrade, given.dask)
    try:
        rows = grade(given.course, given.chapter, options)
    except (NothingToGrade, StepFailed, NoSandbox, InUse, ClusterLost, Interrupted) as error:
        print(f"mechlib grade: {error}", file=sys.stderr)
        return 1
    print(table(rows))
    where = f"grades in {given.course / 'grades.csv'}, pages for students in {given.course / 'feedback'}"
    report = f"about the class: {report_page(given.course, rows[0].chapter)}"
    print(f"{len(rows)} student{'s' * (len(rows) != 1)}: {where}; {report}.")
    return 1 if any(row.status == FAILED for row in rows) else 0


def grade(course: Path, chapter: str, options: Options) -> list[Row]:
    """Grade a class and write grades.csv; the rows come back in the order of the students' names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SQLAlchemy's about nbgrader
        course = course.resolve()
        chapter = released_chapter(course, chapter)
        names = submitted_students(course, chapter, options.students)
        try:
            store = Store(course, chapter)
            with store.locked():
                rows = Class(store, options).grade(names)
                write_report(
                    report_page(course, chapter), chapter, store.records() if options.students != "*" else rows
                )
            write_grades(course / "grades.csv", rows, keep_others=options.students != "*")
        except Exception as error:
            stop_for(error)
            raise
    return rows


def report_page(course: Path, chapter: str) -> Path:
    return course / "reports" / f"{chapter}.html"


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
        expected = f"expected submitted/STUDENT/{chapter}/{chapter}.ipynb. `mechlib collect` makes them."
        raise NothingToGrade(f"there are no students' folders in submitted/: {expected}")
    everybody = sorted(path.name for path in folders)
    names = [name for name in everybody if fnmatch.fnmatch(name, pattern)]
    if not names:
        raise NothingToGrade(f"no student in submitted/ fits --students {pattern!r}.{nearest(pattern, everybody)}")
    return names


class Class:
    """A chapter of a course, ready to be graded."""

    def __init__(self, store: Store, options: Options):
        self.store, self.options = store, options
        self.course, self.chapter = store.course, store.chapter
        self.release_path = self.course / "chapters" / self.chapter / f"{self.chapter}.ipynb"
        self.release = nbformat.read(self.release_path, as_version=4)
        self.max_score = sum(
            cell.metadata["nbgrader"]["points"]
            for cell in self.release.cells
            if cell.metadata.get("nbgrader", {}).get("grade")
        )
        self.seed = store.seed(options.seed)
        self.keys: dict[str, str] = {}
        self.read = read_by_person(self.course, self.chapter)  # who is read meanwhile is scored again the next time
        self.book: Book | None = None
        self.jobs = options.jobs

    def grade(self, names: list[str]) -> list[Row]:
        """Grade what is not done yet; the rows of all come back."""
        rows = {name: row for name in names if (row := self.done(name))}
        waiting = [name for name in names if name not in rows]
        if not waiting:
            return [rows[name] for name in names]
        with fork_server(self.release) as server, LiveTable(self.chapter, names) as live:
            for row in rows.values():
                live.show(row, known=True)
            kind, warning = self.options.sandbox, ""
            if self.options.dask:
                self.jobs = slots(self.options.dask)
            else:
                kind, warning = choose(kind, server)
            if warning:
                live.warn(warning)
            sandbox = Sandbox(kind, server, [str(self.course)])
            self.book = Book(self.store, self.release)
            running: dict[str, tuple[Child | Program, float]] = {}
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    name = waiting.pop(0)
                    live.begin(name)
                    if process := self.start(name, sandbox):
                        tries = RETRIES + 1 if self.options.dask else 1
                        patience = tries * (self.options.limits.notebook + TIME_TO_JUDGE)
                        running[name] = process, time.monotonic() + patience
                    else:
                        rows[name] = self.finish(name, 0)
                        live.show(rows[name])
                for name, (process, deadline) in list(running.items()):
                    if time.monotonic() > deadline:
                        process.kill()
                    if process.wait(0) is not None:
                        del running[name]
                        rows[name] = self.finish(name, process.wait())
                        live.show(rows[name])
                        break  # and start the next one before scoring another
                else:
                    time.sleep(0.02)
        return [rows[name] for name in names]

    def done(self, student: str) -> Row | None:
        """The row of a student whose grade is as it would be again; also notes the student's key."""
        conditions = [self.chapter, self.options.limits.as_dict()]
        self.keys[student] = key(self.submission(student), self.release_path.read_bytes(), self.seed, conditions)
        if self.options.regrade:
            return None
        row = self.store.record(student, self.keys[student], self.read.get(student, []))
        return (
            row
            if row and (row.status == MISSING or feedback_page(self.course, self.chapter, student).is_file())
            else None
        )

    def submission(self, student: str) -> Path:
        return self.course / "submitted" / student / self.chapter

    def start(self, student: str, sandbox: Sandbox) -> Child | Program | None:
        """Start a worker on a submission; None if there is a result of an earlier one, or nothing can be done."""
        if glob.escape(student) != student:
            return None
        if self.store.result(student, self.keys[student]) and not self.options.regrade:
            return None
        self.store.forget(student)
        job = {
            "key": self.keys[student],
            "chapter": self.chapter,
            "submission": str(self.submission(student)),
            "release": str(self.release_path),
            "folder": str(self.store.new_job(student)),
            "seed": str(self.store.root / "seed.json"),
            "limits": self.options.limits.as_dict(),
            "sandbox": vars(sandbox),
            "dask": self.options.dask,
            "environment": settings() if self.options.dask else {},
        }
        try:
            return (
                fork(sandbox.server, "mechlib.grading.worker:main", job)
                if sandbox.server
                else start_program("mechlib.grading.worker", job)
            )
        except ServerLost as error:
            raise Interrupted(f"{error}. Start again: what is done stays done.") from None

    def finish(self, student: str, exit_status: int | None) -> Row:
        """Enter what a worker has found out. This never raises for a student: what went wrong is in the row."""
        names = graded_names(self.release).values()
        row = Row(student, self.chapter, self.max_score, scores=dict.fromkeys(names, 0.0))
        if exit_status == worker.FULL_DISK:
            raise Interrupted(FULL_DISK)
        if exit_status == worker.CLUSTER_LOST:
            reason = read_json(self.store.job(student) / "result.json")["lost"]
            raise Interrupted(f"{reason}. Start again: what is done stays done.")
        try:
            if glob.escape(student) != student:
                raise ValueError("nbgrader cannot find folders with *, ? or [ in their names: rename this one")
            result = self.store.result(student, self.keys[student])
            self.enter(row, result or {"state": "killed", "remarks": [ended(exit_status)]})
            self.store.write_record(row, self.keys[student], self.read.get(student, []))
            self.store.drop_read(student)
        except Exception as error:
            stop_for(error)
            row.status, row.score = FAILED, 0.0
            row.remarks.append(f"could not be graded: {type(error).__name__}: {error}")
            self.page(row, "Your notebook could not be graded, which is not your fault.")
        return row

    def enter(self, row: Row, result: dict[str, Any]) -> None:
        """Fill in the row, and put it into the gradebook and the feedback."""
        assert self.book
        row.remarks += map(clean_remark, result["remarks"])
        state = result["state"]
        if state == "ran":
            row.verdicts, row.mistakes = result["verdicts"]["status"], result["verdicts"]["mistake"]
            row.scores |= result["verdicts"]["earned"]
            notebook = nbformat.read(self.store.job(row.student) / "notebook.ipynb", as_version=4)
            unread = self.book.score(row, notebook)
            if unread:
                row.remarks.append(f"to be read by a person: {', '.join(unread)}")
            row.status = status(result, unread)
        elif state == "missing":
            row.status = MISSING
            self.page(row, "There is no notebook to grade.")
        else:
            row.status = UNREADABLE if state == "unreadable" else KILLED
            self.book.enter_zero(row.student)
            self.page(row, "The notebook that you handed in could not be opened. Please hand it in again.")

    def page(self, row: Row, message: str) -> None:
        write_page(feedback_page(self.course, self.chapter, row.student), row, message)


FULL_DISK = "the disk is full: make room and start again; what is done stays done."
LOCKED = "another program has locked gradebook.db: close it and start again; what is done stays done."


def stop_for(error: Exception) -> None:
    """Raise `Interrupted` for what is wrong with the machine and would hit every other student too."""
    text = f"{error} {getattr(error, 'log', '')}"
    if "No space left" in text or "disk is full" in text or "quota exceeded" in text:
        raise Interrupted(FULL_DISK) from error
    if "database is locked" in text:
        raise Interrupted(LOCKED) from error


def ended(exit_status: int | None) -> str:
    """Why a worker has left no result."""
    return f"the grader's own process for this notebook was ended (exit status {exit_status}): too much memory or time"


def status(result: dict[str, Any], unread: list[str]) -> str:
    """The one word for how a submission that could be run went."""
    verdicts = result["verdicts"]["status"].values()
    for word, applies in (
        (SUSPICIOUS, result["forged"]),
        (TIMED_OUT, result["timed_out"]),
        (KILLED, result["killed"]),
        (NOT_STARTED, not result["started"]),
        (MANUAL, unread),
        (PARTLY, "not_written" in verdicts),
    ):
        if applies:
            return word
    return GRADED


def fork_server(release: NotebookNode) -> Any:
    """The fork server with the chapter's imports behind it; its address is what `with` gives."""
    if not sys.platform.startswith("linux"):
        return nullcontext("")
    checks = [cell.metadata["check"] for cell in release.cells if "check" in cell.metadata]
    return ForkServer([*HEAVY, *OURS, *imported(release)], (WARM_UP, checks))


def imported(notebook: NotebookNode) -> list[str]:
    """The modules that a released notebook's own code imports."""
    modules: dict[str, None] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and "exercise" not in cell.metadata:
            try:
                statements = list(ast.walk(ast.parse(cell.source)))
            except SyntaxError:  # a line for IPython
                continue
            for statement in statements:
                if isinstance(statement, ast.Import):
                    modules |= dict.fromkeys(alias.name for alias in statement.names)
                elif isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
                    modules[statement.module] = None
    return list(modules)


if __name__ == "__main__":
    sys.exit(main())
