"""`mechlib grade` against stock `nbgrader autograde`, in one run, on the same honest submissions.

    python benchmarks/grading.py [CHAPTER] [STUDENTS] > benchmarks/grading.md

Both have the machine to themselves, one after the other, and get the same notebooks with the same cases (the seed of
the checks in a notebook). Stock nbgrader runs with its defaults but for the time limit, which slow cells of ours would
hit: one notebook after the other, every cell of it, in the account that it is started from. Ours include the feedback
pages and the class report; nbgrader's pages are timed apart.
"""

import csv
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import nbformat

from mechlib.grading import demo
from mechlib.grading.release import chapter_path, solved_path

ROOT = Path(__file__).resolve().parents[1]
SEED = 0  # what `check` uses in a notebook
CONFIG = """
c = get_config()
c.CourseDirectory.source_directory = "chapters"  # the released notebooks: nothing has to be stripped from them
c.Execute.timeout = 600
"""


def main() -> None:
    chapter = sys.argv[1] if len(sys.argv) > 1 else "01_superposition"
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    with tempfile.TemporaryDirectory() as folder:
        course = Path(folder)
        hand_in_all(course, chapter, count)
        load = os.getloadavg()[0]
        stock, pages = grade_stock(course, chapter)
        expected = stock_scores(course, chapter)
        (course / "gradebook.db").unlink()
        ours = timed(
            [sys.executable, "-m", "mechlib.grading.grade", chapter, "--course", str(course), "--seed", str(SEED)],
            course,
        )
        with (course / "grades.csv").open(encoding="utf-8") as file:
            scores = {row["student"]: float(row["score"]) for row in csv.DictReader(file)}
    same = sum(scores[student] == expected[student] for student in expected)
    both = Seconds(stock.clock + pages.clock, stock.processor + pages.processor)
    print(f"""# Grading: stock nbgrader against mechlib

{date.today().isoformat()}, {platform.machine()}, {len(os.sched_getaffinity(0))} cores,
Python {platform.python_version()}, nbgrader {version("nbgrader")}, torch {version("torch")}.
Made by `python benchmarks/grading.py`; other programs used the machine too: its load was {load:.1f} before.

{count} honest submissions of {chapter}: {", ".join(KINDS)}, in turns.
Seconds of the clock, and of all processors together.

| | clock | processors | ratio of the clock | ratio of the processors |
|---|---|---|---|---|
| `nbgrader autograde` | {stock.clock:.0f} | {stock.processor:.0f} | | |
| the same and `nbgrader generate_feedback` | {both.clock:.0f} | {both.processor:.0f} | | |
| `mechlib grade`, sandboxed, with feedback | {ours.clock:.0f} | {ours.processor:.0f} |\
 **{stock.clock / ours.clock:.1f}** | {stock.processor / ours.processor:.1f} |

The scores are the same for {same} of {len(expected)}.""")
    for student in expected:
        if scores[student] != expected[student]:
            print(f"- {student}: nbgrader {expected[student]:g}, mechlib {scores[student]:g}")


KINDS = ("all-right", "half-right", "syntax-error", "wrong", "nothing-done")


def hand_in_all(course: Path, chapter: str, count: int) -> None:
    """A course whose students take turns in being of one of the kinds."""
    released = nbformat.read(chapter_path(ROOT, chapter), as_version=4)
    solved = nbformat.read(solved_path(ROOT, chapter), as_version=4)
    kinds = {student.name: student.content for student in demo.the_class(released, solved)}
    last = [cell.metadata["check"] for cell in released.cells if "check" in cell.metadata][-1]
    names = {cell.metadata.get("exercise") or cell.metadata.get("question") for cell in released.cells}
    wrong = demo.in_answer(last, f"{last.split('.')[1]} = lambda *arguments: None")
    kinds["wrong"] = demo.hand_in(released, solved, names, (wrong,))
    files = {chapter_path(course, chapter): released}
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        files[course / "submitted" / f"{number:02d}-{kind}" / chapter / f"{chapter}.ipynb"] = kinds[kind]
    for path, notebook in files.items():
        path.parent.mkdir(parents=True)
        nbformat.write(notebook, path)
    (course / "nbgrader_config.py").write_text(CONFIG, encoding="utf-8")


class Seconds(NamedTuple):
    clock: float
    processor: float


def grade_stock(course: Path, chapter: str) -> tuple[Seconds, Seconds]:
    """The seconds of `nbgrader autograde`, and of `generate_feedback`."""
    nbgrader = [sys.executable, "-m", "nbgrader"]
    timed([*nbgrader, "generate_assignment", chapter], course)
    return timed([*nbgrader, "autograde", chapter], course), timed([*nbgrader, "generate_feedback", chapter], course)


def timed(command: list[str], course: Path) -> Seconds:
    """Run a command in the course and take its time."""
    scripts = str(Path(sys.executable).parent)  # nbgrader calls alembic by its bare name
    environment = os.environ | {"PATH": os.pathsep.join([scripts, os.environ["PATH"]])}
    start, used = time.monotonic(), processor_time()
    done = subprocess.run(command, cwd=course, env=environment, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr[-3000:], file=sys.stderr)
    return Seconds(time.monotonic() - start, processor_time() - used)


def processor_time() -> float:
    """Seconds that all ended children, and theirs, have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def stock_scores(course: Path, chapter: str) -> dict[str, float]:
    """What nbgrader has entered; a submission that it could not grade has no score."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as gradebook:
        return {one.student.id: one.score for one in gradebook.assignment_submissions(chapter)}


if __name__ == "__main__":
    main()
