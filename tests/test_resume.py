"""A grader that is killed, locked out or short of disk goes on later, and the gradebook shows nothing of it."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import gradable
import psutil
import pytest
from gradable import CHAPTER, MODEL, WHY

from mechlib.grading import book, demo, grade, report, store
from mechlib.grading.course import StepFailed, grading_config, open_api
from mechlib.grading.limits import Limits

SEED = 4711


@pytest.fixture(scope="module")
def sandbox():
    with pytest.MonkeyPatch.context() as monkeypatch:
        gradable.share_server(monkeypatch)
        yield gradable.sandbox()


@pytest.fixture(scope="module")
def course(tmp_path_factory, sandbox):
    """Four students, graded without disturbance; a person has read one of the answers."""
    course = tmp_path_factory.mktemp("resume") / "course"
    gradable.hand_in(course, "ann")
    gradable.hand_in(course, "bob", demo.in_answer(MODEL, "def broken(:"))
    gradable.hand_in(course, "cem", answered={WHY})
    (course / "submitted" / "dan" / CHAPTER).mkdir(parents=True)
    (course / "submitted" / "dan" / CHAPTER / f"{CHAPTER}.ipynb").write_text("on paper")
    run(course, sandbox)
    with open_api(course, grading_config(course)).gradebook as gradebook:
        for name, points in (("toy-why", 1.5), (f"check-{MODEL.replace('.', '-')}", 2)):
            entry = gradebook.find_grade(name, CHAPTER, CHAPTER, "ann")
            entry.manual_score, entry.needs_manual_grade = points, False
        gradebook.db.commit()
    run(course, sandbox, regrade=True)
    return course


def run(course, sandbox, **options):
    return grade.grade(course, CHAPTER, grade.Options(Limits(cell=20), SEED, sandbox=sandbox, **options))


def contents(course):
    """Everything in the gradebook that is not a time."""
    with open_api(course, grading_config(course)).gradebook as gradebook:
        return {
            submission.student.id: sorted(
                (entry.name, entry.auto_score, entry.manual_score, entry.needs_manual_grade, entry.score)
                for notebook in submission.notebooks
                for entry in notebook.grades
            )
            for submission in gradebook.assignment_submissions(CHAPTER)
        }


def test_what_a_person_gave_is_there(course):
    found = {entry[0]: entry[2:4] for entry in contents(course)["ann"]}
    assert found["toy-why"] == (1.5, False)
    assert found[f"check-{MODEL.replace('.', '-')}"] == (2, False)
    row = next(row for row in report.read_grades(course / "grades.csv") if row["student"] == "ann")
    assert float(row["score"]) == 1 + 2 + 1.5 + 1


def test_nothing_is_graded_again_that_has_not_changed(course, tmp_path, sandbox, monkeypatch):
    again = shutil.copytree(course, tmp_path / "again")
    monkeypatch.setattr(grade, "fork_server", None)  # it would be needed for whatever is graded
    rows = run(again, sandbox)
    assert [row.student for row in rows] == ["ann", "bob", "cem", "dan"]


def test_what_a_person_enters_afterwards_counts_the_next_time(course, tmp_path, sandbox, monkeypatch):
    copy = shutil.copytree(course, tmp_path / "copy")
    with open_api(copy, grading_config(copy)).gradebook as gradebook:
        entry = gradebook.find_grade("toy-why", CHAPTER, CHAPTER, "bob")
        entry.manual_score, entry.needs_manual_grade = 2, False
        for student in ("bob", "cem"):
            comment = gradebook.find_comment("toy-why", CHAPTER, CHAPTER, student)
            comment.manual_comment = "Say it in one sentence."
        gradebook.db.commit()
    monkeypatch.setattr(grade.Class, "start", lambda *_: None)  # it is scored again, not run again
    before = {row["student"]: row for row in report.read_grades(copy / "grades.csv")}
    rows = {row.student: row for row in run(copy, sandbox)}
    assert rows["bob"].score == float(before["bob"]["score"]) + 2 and rows["bob"].status == report.GRADED
    assert "Say it in one sentence." in book.feedback_page(copy, CHAPTER, "cem").read_text(encoding="utf-8")
    monkeypatch.setattr(grade, "fork_server", None)
    assert {row.student: row for row in run(copy, sandbox)} == rows


def test_what_has_changed_is_graded_again(course, tmp_path):
    again = shutil.copytree(course, tmp_path / "again")
    options = grade.Options(Limits(cell=20), SEED)

    def waiting(**changes):
        chosen = grade.Options(**(vars(options) | changes))
        class_ = grade.Class(store.Store(again, CHAPTER), chosen)
        return [name for name in ("ann", "bob", "cem", "dan") if not class_.done(name)]

    everybody = ["ann", "bob", "cem", "dan"]
    assert waiting() == []
    assert waiting(regrade=True) == everybody
    assert waiting(limits=Limits(cell=21)) == everybody
    assert waiting(seed=SEED + 1) == everybody
    assert waiting(seed=SEED) == []
    (again / "submitted" / "bob" / CHAPTER / "timestamp.txt").write_text("2026-11-21 12:00:00 UTC")
    assert waiting() == ["bob"]
    (again / "feedback" / "cem" / CHAPTER / f"{CHAPTER}.html").unlink()
    assert waiting() == ["bob", "cem"]
    release = again / "chapters" / CHAPTER / f"{CHAPTER}.ipynb"
    release.write_text(release.read_text() + "\n")
    assert waiting() == everybody


def test_a_new_version_of_a_check_grades_again(course, monkeypatch):
    before = store.key(course / "submitted" / "ann" / CHAPTER, b"", 1, [])
    monkeypatch.setattr(store, "version", lambda: "another")
    assert store.key(course / "submitted" / "ann" / CHAPTER, b"", 1, []) != before


def test_one_grader_at_a_time(course, sandbox):
    with store.Store(course, CHAPTER).locked(), pytest.raises(store.InUse):
        run(course, sandbox)


# ---- kill -9


def disturbed(course, folder, sandbox, kills, longest):
    """Grade a fresh copy of the course, killing the grader that often; then let it finish."""
    random.seed(kills)
    copy = shutil.copytree(course, folder)
    command = [sys.executable, "-m", "mechlib.grading.grade", CHAPTER, "--course", str(copy), "--timeout", "20"]
    command += ["--sandbox", sandbox, "--seed", str(SEED)]
    for _ in range(kills):
        process = subprocess.Popen([*command, "--regrade"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(random.uniform(1, longest))
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not psutil.wait_procs(family, timeout=20)[1], "something outlives the grader"
        with sqlite3.connect(copy / "gradebook.db") as database:
            assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return copy


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_killed_it_goes_on(course, tmp_path, sandbox, kills):
    start = time.monotonic()
    run(course, sandbox, regrade=True)
    copy = disturbed(course, tmp_path / "copy", sandbox, kills, longest=1.5 * (time.monotonic() - start))
    assert contents(copy) == contents(course)
    assert (copy / "grades.csv").read_text() == (course / "grades.csv").read_text()
    assert not list((copy / ".mechlib").rglob("*.partial")) and not list((copy / ".mechlib/grading/read").rglob("*.*"))


def test_killed_between_nbgraders_score_and_ours_a_manual_mark_stays(course, tmp_path, sandbox, monkeypatch):
    """nbgrader asks for everything to be read again when it scores; that it needs not be is entered right after."""
    copy = shutil.copytree(course, tmp_path / "copy")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(book.Book, "take_back", killed)
        with pytest.raises(KeyboardInterrupt):
            run(copy, sandbox, regrade=True, jobs=1)
    assert contents(copy) != contents(course)
    run(copy, sandbox)
    assert contents(copy) == contents(course)


# ---- a machine that does not play along


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(28, "No space left on device"), grade.FULL_DISK),
        (StepFailed("score", {"log": "sqlalchemy.exc.OperationalError: database or disk is full"}), grade.FULL_DISK),
        (StepFailed("score", {"log": "sqlite3.OperationalError: database is locked"}), grade.LOCKED),
    ],
)
def test_trouble_with_the_machine_is_told_from_trouble_with_a_student(error, sentence):
    with pytest.raises(grade.Interrupted) as raised:
        grade.stop_for(error)
    assert str(raised.value) == sentence
    grade.stop_for(StepFailed("score", {"log": "KeyError: 'nbgrader'"}))


def test_a_locked_gradebook_stops_the_grader_with_one_sentence(course, tmp_path, sandbox, monkeypatch, capsys):
    copy = shutil.copytree(course, tmp_path / "copy")
    monkeypatch.setattr("mechlib.grading.course.PATIENCE", 1)
    options = ["--course", str(copy), "--students", "dan", "--regrade", "--seed", str(SEED), "--timeout", "20"]
    with sqlite3.connect(copy / "gradebook.db") as database:
        database.execute("begin exclusive")
        assert grade.main([CHAPTER, *options, "--sandbox", sandbox]) == 1
        database.rollback()
    assert capsys.readouterr().err.strip() == f"mechlib grade: {grade.LOCKED}"
    run(copy, sandbox)
    assert contents(copy) == contents(course)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_loses_nothing(course, tmp_path, sandbox):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(disk)], check=True)
    try:
        copy = shutil.copytree(course, disk / "course")
        shutil.rmtree(copy / "feedback")  # so that room is needed
        fill = disk / "fill"
        with fill.open("wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(b"0" * 1000)
        os.truncate(fill, fill.stat().st_size - 100_000)
        with pytest.raises(grade.Interrupted, match="the disk is full"):
            run(copy, sandbox, regrade=True)
        fill.unlink()
        run(copy, sandbox)
        assert contents(copy) == contents(course)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
