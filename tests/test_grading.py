"""A class with every mishap gets the right numbers, and nobody's mistake stops the others."""

import csv
import json
import shutil

import nbformat
import pytest
import standin
from nbformat.v4 import new_code_cell, new_output

from mechlib.grading import demo, grade, release, report
from mechlib.grading.run import Run, earned, settle

CHAPTER = standin.CHAPTER
SEED = 98765432
WORDS = {"toy.add", "toy.counter", "toy.mean", "toy.why"}


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A released course whose demonstration class has been graded by `make grade-demo`."""
    root = tmp_path_factory.mktemp("graded") / "course"
    standin.write_course(root)
    with pytest.MonkeyPatch.context() as monkeypatch:
        standin.install(monkeypatch, root)
        assert release.main(["--root", str(root)]) == 0
        options = ["--root", str(root), "--folder", str(root / "demo"), "--timeout", "2", "--seed", str(SEED)]
        assert demo.main([*options, CHAPTER]) == 0
        yield root


@pytest.fixture(scope="module")
def grades(course):
    with (course / "demo" / "grades.csv").open(encoding="utf-8") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


SCORES = {
    "all-right": 10,
    "nothing-done": 0,
    "half-right": 2,
    "syntax-error": 7,
    "endless-loop": 7,
    "not-a-notebook": 0,
    "check-deleted": 10,
    "check-edited": 7,
    "clumsy": 10,
    "ends-python": 7,
    "handed-in-nothing": 0,
}


def test_every_student_has_a_row_with_the_right_number(grades):
    assert {student: float(row["score"]) for student, row in grades.items()} == SCORES
    assert {row["max_score"] for row in grades.values()} == {"12"}


def test_every_exercise_has_a_column(grades):
    row = grades["endless-loop"]
    columns = [
        "student",
        "chapter",
        "status",
        "score",
        "max_score",
        "toy.add",
        "toy.counter",
        "toy.why",
        "toy.mean",
    ]
    assert list(row) == [*columns, "remarks"]
    assert [row[name] for name in ("toy.add", "toy.counter", "toy.mean", "toy.why")] == ["2", "5", "0", ""]


def test_statuses(grades):
    found = {student: row["status"] for student, row in grades.items()}
    assert found["all-right"] == found["clumsy"] == found["check-edited"] == report.MANUAL
    assert found["half-right"] == report.GRADED
    assert found["nothing-done"] == report.NOT_STARTED
    assert found["not-a-notebook"] == report.UNREADABLE
    assert found["handed-in-nothing"] == report.MISSING


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ("all-right", "10.0 / 12.0"),
        ("syntax-error", "SyntaxError"),
        ("endless-loop", "was stopped after 2 s"),
        ("not-a-notebook", "not JSON"),
        ("check-edited", "had been edited; the original was used"),
        ("check-deleted", "was missing; the original was used"),
        ("ends-python", "ended Python"),
        ("handed-in-nothing", "no notebook was handed in"),
        ("half-right", "toy.counter: NotImplementedError"),
        ("clumsy", "the notebook was called my work (final).ipynb"),
    ],
)
def test_each_report_says_what_happened(course, student, words):
    page = course / "demo" / "feedback" / student / CHAPTER / f"{CHAPTER}.html"
    assert words in page.read_text(encoding="utf-8")


def test_no_report_tells_the_seed(course):
    for page in (course / "demo" / "feedback").rglob("*.html"):
        assert str(SEED) not in page.read_text(encoding="utf-8")


def test_the_gradebook_agrees(course, grades):
    from mechlib.grading.course import grading_config, open_api

    with open_api(course / "demo", grading_config()).gradebook as gradebook:
        for student, score in SCORES.items():
            if grades[student]["status"] != report.MISSING:
                assert gradebook.find_submission(CHAPTER, student).score == score


def test_experiments_do_not_run(course):
    notebook = nbformat.read(course / "demo" / "autograded" / "all-right" / CHAPTER / f"{CHAPTER}.ipynb", 4)
    experiments = [cell for cell in notebook.cells if "experiment" in cell.metadata.get("tags", [])]
    assert experiments and not any(cell.outputs for cell in experiments)


def test_grading_again_keeps_what_a_person_gave_and_the_other_rows(course, tmp_path):
    from mechlib.grading.course import grading_config, open_api

    again = shutil.copytree(course / "demo", tmp_path / "again")
    with open_api(again, grading_config()).gradebook as gradebook:
        entry = gradebook.find_grade("toy-why", CHAPTER, CHAPTER, "all-right")
        entry.manual_score, entry.needs_manual_grade = 2, False
        gradebook.db.commit()
    assert grade.main([CHAPTER, "--course", str(again), "--students", "all-*", "--timeout", "5"]) == 0
    rows = {row["student"]: row for row in report.read_grades(again / "grades.csv")}
    assert rows["all-right"]["score"] == "12"
    assert {student: float(row["score"]) for student, row in rows.items()} == SCORES | {"all-right": 12}
    assert rows["all-right"]["status"] == report.GRADED and "read by a person" not in rows["all-right"]["remarks"]
    page = (again / "feedback" / "all-right" / CHAPTER / f"{CHAPTER}.html").read_text(encoding="utf-8")
    assert "12.0 / 12.0" in page and "read by a person" not in page

    # Another answer has to be read again; until then it keeps its points.
    path = again / "submitted" / "all-right" / CHAPTER / f"{CHAPTER}.ipynb"
    notebook = nbformat.read(path, 4)
    next(cell for cell in notebook.cells if "question" in cell.metadata).source = "I have thought again."
    nbformat.write(notebook, path)
    assert grade.main([CHAPTER, "--course", str(again), "--students", "all-right", "--timeout", "5"]) == 0
    row = next(row for row in report.read_grades(again / "grades.csv") if row["student"] == "all-right")
    assert row["status"] == report.MANUAL and row["score"] == "12"


# ---- a second class, of stranger submissions


def stranger_class(root):
    """Name -> (notebook, score of the four exercises and questions together)."""
    released = nbformat.read(release.chapter_path(root, CHAPTER), as_version=4)
    solved = nbformat.read(release.solved_path(root, CHAPTER), as_version=4)

    def submission(*changes):
        return demo.hand_in(released, solved, WORDS, changes)

    def in_counter(line):
        return submission(demo.in_answer("toy.counter", line))

    bare = submission()
    for cell in bare.cells:
        cell.metadata = {}
        del cell["id"]
    deaf = "def Counter(start):\n    import signal as s; s.signal(s.SIGINT, s.SIG_IGN)\n    while True: pass"
    return {
        "silent": (in_counter("check = lambda *arguments: print('all right')"), 2),
        "too-many-points": (in_counter("import standin_check as s; s.POINTS['toy.counter'] = 500"), 5),
        "half-points": (submission(demo.in_answer("toy.add", "add = lambda a, b: a + b if a < 0 else 0")), 4),
        "prints-for-ever": (in_counter("def Counter(start):\n    while True: print('again')"), 5),
        "cannot-be-stopped": (in_counter(deaf), 2),
        "bare-of-everything": (bare, 10),
    }


def test_stranger_submissions(course, tmp_path):
    root = tmp_path / "strange"
    target = release.chapter_path(root, CHAPTER)
    target.parent.mkdir(parents=True)
    target.write_bytes(release.chapter_path(course, CHAPTER).read_bytes())
    students = stranger_class(course)
    for student, (notebook, _) in students.items():
        folder = root / "submitted" / student / CHAPTER
        folder.mkdir(parents=True)
        (folder / f"{CHAPTER}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    (root / "submitted" / "half-points" / CHAPTER / "timestamp.txt").write_text("yesterday, I think")
    (root / "submitted" / "odd[name]").mkdir()
    rows = {row.student: row for row in grade.grade(root, CHAPTER, timeout=2, seed=SEED)}
    assert rows.pop("odd[name]").status == report.FAILED
    assert {student: row.score for student, row in rows.items()} == {
        student: score for student, (_, score) in students.items()
    }
    assert rows["half-points"].scores["toy.add"] == 1
    assert rows["cannot-be-stopped"].status == report.TIMED_OUT
    assert rows["bare-of-everything"].remarks == ["to be read by a person: toy.why"]


# ---- verdicts


def check_cell(*outputs):
    metadata = {"check": "toy.add", "nbgrader": {"points": 2}}
    return new_code_cell("check()", metadata=metadata, outputs=list(outputs))


def result(text):
    return new_output("execute_result", data={"text/plain": text})


@pytest.mark.parametrize(
    ("outputs", "points"),
    [
        ([result("2.0")], 2),
        ([result("0.5")], 0.5),
        ([new_output("stream", name="stderr", text="a warning"), result("2.0")], 2),
        ([], None),
        ([new_output("stream", name="stdout", text="2.0")], None),
        ([result("2.5")], None),
        ([result("nan")], None),
        ([result("-1")], None),
        ([result("True")], None),
        ([result("2.0"), result("2.0")], None),
        ([result("2.0"), new_output("error", ename="E", evalue="", traceback=[])], None),
    ],
)
def test_only_one_number_within_bounds_earns_points(outputs, points):
    from nbgrader.utils import determine_grade

    cell = check_cell(*outputs)
    assert earned(cell) == points
    settle(cell, Run())
    cell.metadata["nbgrader"] |= {"grade": True, "solution": False}
    assert determine_grade(cell) == (points or 0, 2)


def test_a_failed_check_shows_its_message_alone():
    cell = check_cell(new_output("error", ename="CheckFailed", evalue="Swap them.", traceback=["a", "long", "way"]))
    settle(cell, Run())
    assert cell.outputs[0].traceback == ["Swap them."]


def test_a_borrowed_answer_is_reported():
    notebook = nbformat.v4.new_notebook(cells=[new_code_cell('add = borrow("toy.add")'), check_cell(result("0.0"))])
    assert grade.happenings(notebook, Run(), 2) == ["toy.add was borrowed"]


# ---- grades.csv and the command


def test_grades_of_other_students_and_chapters_stay(tmp_path):
    path = tmp_path / "grades.csv"
    report.write_grades(path, [report.Row("ann", "01_a", 2, scores={"a.x": 1.0}), report.Row("bob", "01_a", 2)], False)
    report.write_grades(path, [report.Row("ann", "02_b", 3, scores={"b.y": 2.0})], False)
    report.write_grades(path, [report.Row("bob", "01_a", 2, scores={"a.x": 2.0})], True)
    rows = report.read_grades(path)
    assert [(row["student"], row["chapter"], row["a.x"], row["b.y"]) for row in rows] == [
        ("ann", "01_a", "1", ""),
        ("bob", "01_a", "2", ""),
        ("ann", "02_b", "", "2"),
    ]


def test_what_is_missing_is_said(tmp_path, capsys):
    assert grade.main([CHAPTER, "--course", str(tmp_path)]) == 1
    assert "there is no chapters/NN_topic/NN_topic.ipynb in" in capsys.readouterr().err
    chapter = tmp_path / "chapters" / CHAPTER / f"{CHAPTER}.ipynb"
    chapter.parent.mkdir(parents=True)
    chapter.touch()
    assert [grade.released_chapter(tmp_path, name) for name in (CHAPTER, "01", str(chapter))] == [CHAPTER] * 3
    assert grade.main(["01_tyo", "--course", str(tmp_path)]) == 1
    assert "no chapter '01_tyo' in chapters/. Did you mean 01_toy?" in capsys.readouterr().err
    assert grade.main(["99", "--course", str(tmp_path)]) == 1
    assert "There is 01_toy." in capsys.readouterr().err
    assert grade.main(["01", "--course", str(tmp_path)]) == 1
    assert "expected submitted/STUDENT/01_toy/01_toy.ipynb" in capsys.readouterr().err
    (tmp_path / "submitted" / "ann").mkdir(parents=True)
    assert grade.main(["01", "--course", str(tmp_path), "--students", "anne"]) == 1
    assert "no student in submitted/ fits --students 'anne'. Did you mean ann?" in capsys.readouterr().err
    assert not (tmp_path / "gradebook.db").exists()


def test_the_demo_does_not_overwrite_a_folder_of_yours(course, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    assert demo.main(["--root", str(course), "--folder", str(tmp_path / "mine"), CHAPTER]) == 1
    assert "was not made by this demo" in capsys.readouterr().err
