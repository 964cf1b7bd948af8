"""A class with every mishap gets the right numbers, and nobody's mistake stops the others."""

import csv
import shutil

import gradable
import nbformat
import pytest
from gradable import CHAPTER, DIMENSIONS, MODEL, NORMS, WHY
from nbformat.v4 import new_code_cell, new_output

from mechlib.checker.judge import Verdict
from mechlib.checker.run import Report
from mechlib.grading import class_report, demo, grade, judging, report, worker
from mechlib.grading.course import grading_config, open_api
from mechlib.grading.judging import Verdicts
from mechlib.grading.limits import Limits
from mechlib.grading.run import Run, explained_error

SEED = 98765432


@pytest.fixture(scope="module")
def sandbox():
    with pytest.MonkeyPatch.context() as monkeypatch:
        gradable.share_server(monkeypatch)
        yield gradable.sandbox()


@pytest.fixture(scope="module")
def course(tmp_path_factory, sandbox):
    """A released course whose demonstration class has been graded by `make grade-demo`."""
    root = tmp_path_factory.mktemp("graded")
    options = ["--root", str(gradable.repository()), "--folder", str(root / "demo"), "--timeout", "4"]
    assert demo.main([*options, "--seed", str(SEED), "--sandbox", sandbox, CHAPTER]) == 0
    return root


@pytest.fixture(scope="module")
def grades(course):
    with (course / "demo" / "grades.csv").open(encoding="utf-8") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


SCORES = {
    "all-right": 5,
    "nothing-done": 0,
    "half-right": 1,
    "syntax-error": 4,
    "endless-loop": 4,
    "not-a-notebook": 0,
    "check-deleted": 5,
    "check-edited": 4,
    "clumsy": 5,
    "ends-python": 4,
    "handed-in-nothing": 0,
}


def test_every_student_has_a_row_with_the_right_number(grades):
    assert {student: float(row["score"]) for student, row in grades.items()} == SCORES
    assert {row["max_score"] for row in grades.values()} == {"7"}


def test_every_exercise_has_a_column(grades):
    row = grades["endless-loop"]
    columns = [
        "student",
        "chapter",
        "status",
        "score",
        "max_score",
        NORMS,
        MODEL,
        WHY,
        DIMENSIONS,
    ]
    assert list(row) == [*columns, "remarks"]
    assert [row[name] for name in (NORMS, MODEL, DIMENSIONS, WHY)] == ["1", "3", "0", ""]


def test_statuses(grades):
    found = {student: row["status"] for student, row in grades.items()}
    assert found["all-right"] == found["clumsy"] == found["check-edited"] == report.MANUAL
    assert found["half-right"] == report.PARTLY
    assert found["nothing-done"] == report.NOT_STARTED
    assert found["not-a-notebook"] == report.UNREADABLE
    assert found["handed-in-nothing"] == report.MISSING


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ("all-right", "5.0 / 7.0"),
        ("syntax-error", "SyntaxError"),
        ("endless-loop", "was stopped after 4 s"),
        ("not-a-notebook", "not JSON"),
        ("check-edited", "had been edited; the original was used"),
        ("check-deleted", "was missing; the original was used"),
        ("ends-python", "ended Python"),
        ("handed-in-nothing", "no notebook was handed in"),
        ("half-right", "is not written yet"),
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
    with open_api(course / "demo", grading_config(course / "demo")).gradebook as gradebook:
        for student, score in SCORES.items():
            if grades[student]["status"] != report.MISSING:
                assert gradebook.find_submission(CHAPTER, student).score == score


def test_experiments_do_not_run(course):
    notebook = nbformat.read(course / "demo" / "autograded" / "all-right" / CHAPTER / f"{CHAPTER}.ipynb", 4)
    experiments = [cell for cell in notebook.cells if "experiment" in cell.metadata.get("tags", [])]
    assert experiments and not any(cell.outputs for cell in experiments)


def regrade(course, sandbox, *options):
    return grade.main([CHAPTER, "--course", str(course), "--timeout", "4", "--sandbox", sandbox, *options])


def test_grading_again_keeps_what_a_person_gave_and_the_other_rows(course, tmp_path, sandbox):
    again = shutil.copytree(course / "demo", tmp_path / "again")
    with open_api(again, grading_config(again)).gradebook as gradebook:
        entry = gradebook.find_grade("toy-why", CHAPTER, CHAPTER, "all-right")
        entry.manual_score, entry.needs_manual_grade = 2, False
        gradebook.db.commit()
    assert regrade(again, sandbox, "--students", "all-*", "--regrade") == 0
    rows = {row["student"]: row for row in report.read_grades(again / "grades.csv")}
    assert rows["all-right"]["score"] == "7"
    assert {student: float(row["score"]) for student, row in rows.items()} == SCORES | {"all-right": 7}
    assert rows["all-right"]["status"] == report.GRADED and "read by a person" not in rows["all-right"]["remarks"]
    page = (again / "feedback" / "all-right" / CHAPTER / f"{CHAPTER}.html").read_text(encoding="utf-8")
    assert "7.0 / 7.0" in page and "read by a person" not in page

    # Another answer has to be read again; until then it keeps its points.
    path = again / "submitted" / "all-right" / CHAPTER / f"{CHAPTER}.ipynb"
    notebook = nbformat.read(path, 4)
    next(cell for cell in notebook.cells if "question" in cell.metadata).source = "I have thought again."
    nbformat.write(notebook, path)
    assert regrade(again, sandbox, "--students", "all-right") == 0
    row = next(row for row in report.read_grades(again / "grades.csv") if row["student"] == "all-right")
    assert row["status"] == report.MANUAL and row["score"] == "7"


# ---- a second class, of stranger submissions


def test_stranger_submissions(course, tmp_path, sandbox):
    root = tmp_path / "strange"

    def in_model(line):
        return demo.in_answer(MODEL, line)

    def bare(notebook):
        for cell in notebook.cells:
            cell.metadata = {}
            del cell["id"]

    deaf = "class ToyModel:\n    def __init__(*a): import signal as s; s.signal(s.SIGINT, s.SIG_IGN)\n"
    deaf += "    def __new__(*a):\n        import signal as s; s.signal(s.SIGINT, s.SIG_IGN)\n        while True: pass"
    ending = "ToyModel.forward = lambda self, x: x"
    scores = {
        "silent": (in_model("check = lambda *arguments: print('all right')"), 1),
        "half-points": (in_model(ending), 3),
        "prints-for-ever": (in_model("def dimensions(W):\n    while True: print('again')\ndimensions(1)"), 5),
        "cannot-be-stopped": (in_model(deaf), 1),
        "bare-of-everything": (bare, 5),
    }
    for student, (change, _) in scores.items():
        gradable.hand_in(root, student, change)
    (root / "submitted" / "half-points" / CHAPTER / "timestamp.txt").write_text("yesterday, I think")
    (root / "submitted" / "odd[name]").mkdir()
    graded = grade.grade(root, CHAPTER, grade.Options(Limits(cell=4), SEED, sandbox=sandbox))
    rows = {row.student: row for row in graded}
    assert rows.pop("odd[name]").status == report.FAILED
    assert {student: row.score for student, row in rows.items()} == {
        student: score for student, (_, score) in scores.items()
    }
    assert rows["half-points"].scores[MODEL] == 1 and rows["half-points"].verdicts[MODEL] == "partly"
    assert "timestamp.txt holds no time and was ignored" in rows["half-points"].remarks
    assert rows["cannot-be-stopped"].status == rows["prints-for-ever"].status == report.TIMED_OUT
    assert rows["bare-of-everything"].remarks == [f"to be read by a person: {WHY}"]


# ---- verdicts


def check_cell(*outputs, points=2):
    metadata = {"check": NORMS, "nbgrader": {"points": points, "grade": True, "solution": False}}
    return new_code_cell("check()", metadata=metadata, outputs=list(outputs))


FORGED = new_output("execute_result", data={"text/plain": "2.0"})
WARNED = new_output("stream", name="stderr", text="a warning")


@pytest.mark.parametrize(
    ("status", "earned"), [("pass", 2.0), ("partly", 0.5), ("fail", 0.0), ("borrowed", 0.0), ("not_written", 0.0)]
)
def test_nbgrader_reads_the_judgement_and_nothing_that_the_kernel_has_sent(status, earned):
    from nbgrader.utils import determine_grade

    cell = check_cell(FORGED, WARNED)
    judging.write_report(cell, Report(NORMS, status, earned, 2, Verdict(status, "A sentence.")))
    assert determine_grade(cell) == (earned, 2)
    assert status == "pass" or "A sentence." in str(cell.outputs)


@pytest.mark.parametrize("outputs", [[], [FORGED], [WARNED, FORGED], [explained_error("KernelLost", "gone")]])
def test_no_verdict_is_no_points(outputs):
    from nbgrader.utils import determine_grade

    cell = check_cell(*outputs)
    judging.write_missing(cell, Run())
    assert determine_grade(cell) == (0, 2)


def test_a_borrowed_answer_is_reported():
    notebook = nbformat.v4.new_notebook(cells=[new_code_cell(f'norms = borrow("{NORMS}")'), check_cell()])
    verdicts = Verdicts(earned={NORMS: 0.0}, status={NORMS: "fail"})
    assert worker.happenings(notebook, Run(), verdicts, Limits()) == [f"{NORMS} was borrowed"]


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
    assert demo.main(["--root", str(gradable.repository()), "--folder", str(tmp_path / "mine"), CHAPTER]) == 1
    assert "was not made by this demo" in capsys.readouterr().err


# ---- the class report


def test_the_class_report_counts_what_went_wrong(course):
    html = (course / "demo" / "reports" / f"{CHAPTER}.html").read_text(encoding="utf-8")
    assert "11 students: " in html
    assert all(name in html for name in (NORMS, MODEL, DIMENSIONS, "ends-python", "endless-loop"))


def test_the_mistakes_most_often_made_are_named(tmp_path):
    rows = [
        report.Row("ann", CHAPTER, 7, "graded", 0, {NORMS: 0.0}, [], {NORMS: "fail"}, {NORMS: "over_features"}),
        report.Row("bob", CHAPTER, 7, "graded", 7, {NORMS: 1.0}, [], {NORMS: "pass"}, {}),
        report.Row("cem", CHAPTER, 7, "graded", 0, {NORMS: 0.0}, [], {NORMS: "fail"}, {NORMS: "over_features"}),
        report.Row("dan", CHAPTER, 7, "missing"),
    ]
    (mistake,) = class_report.mistake_counts(rows)
    assert (mistake.name, mistake.students) == ("over_features", ["ann", "cem"]) and mistake.sentence
    (exercise,) = class_report.exercise_counts(rows)
    assert exercise.failed == 2 and exercise.counts["pass"] == 1 and exercise.mean == pytest.approx(1 / 3)
    assert [count for _, count in class_report.histogram(rows[:3])] == [2, *[0] * 8, 1]
    class_report.write_report(tmp_path / "page.html", CHAPTER, rows)
    assert mistake.sentence.split("`")[0].split("'")[0] in (tmp_path / "page.html").read_text(encoding="utf-8")
