"""The class from hell: hostile answers (attacks.py), broken and crooked files, and honest students who are clumsy."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gradable
import nbformat
from gradable import CHAPTER, DIMENSIONS, MODEL, NORMS, WHY
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output, new_raw_cell

from mechlib.grading import demo, report
from mechlib.grading.limits import MIB, Limits
from mechlib.grading.release import chapter_path, solved_path

LIMITS = Limits(cell=8, notebook=60, memory=1536 * MIB, processes=60, disk=32 * MIB)
MOST = 5  # points that are to be had without a person's reading
RIGHT = "W.shape[1] / W.pow(2).sum(dim=(1, 2))"
PRELUDE = f"""\
import json, os, torch
from pathlib import Path
COURSE, MARK, PORT = {{course!r}}, {{mark!r}}, {{port}}
def right(W): return {RIGHT}
def dimensions_per_feature(W): return 0 * W.sum(dim=(1, 2))

"""


@dataclass
class Submission:
    """What somebody hands in, and what it is to get.

    score and statuses: in a sandbox; the score may be less where it is an attack that can harm itself.
    open_score: the score without walls, where the attack would gain it.
    write: puts the files into submitted/STUDENT/CHAPTER/, which exists.
    """

    name: str
    score: float
    statuses: list[str]
    write: Callable[[Path], None]
    open_score: float | None = None


# ---- hostile answers


def attacks(root: Path, mark: str, port: int) -> list[Submission]:
    """The answers of attacks.py."""
    text = Path(__file__).with_name("attacks.py").read_text(encoding="utf-8")
    header = re.compile(r"^# %% (\S+) = (\d) ([a-z |]+?)(?: / (\d))?$", re.MULTILINE)
    _, *parts = header.split(text)
    found = []
    for name, score, statuses, open_score, code in zip(*[iter(parts)] * 5):
        code = re.split(r"^# ----", code, flags=re.MULTILINE)[0].strip()
        answer = PRELUDE.format(course=str(root), mark=mark, port=port) + code
        write = notebook_writer(root, answers({DIMENSIONS: answer}), answered={NORMS, MODEL})
        won = float(open_score) if open_score else None
        found.append(Submission(name, float(score), statuses.split(" | "), write, won))
    return found


# ---- crooked notebooks and files


def crooked(root: Path, mark: str) -> list[Submission]:
    """Notebooks and files that are not what they should be; most of these students have solved two of three."""
    manual, graded, unreadable, missing = report.MANUAL, report.GRADED, report.UNREADABLE, report.MISSING
    secret = root / "secret.txt"
    secret.write_text(f"{mark} secret", encoding="utf-8")

    def tampered(name: str, change: Callable, score: float = 4, status: str = report.PARTLY) -> Submission:
        return Submission(name, score, [status], notebook_writer(root, change, answered={NORMS, MODEL}))

    def raw(name: str, content: str | bytes, status: str = unreadable) -> Submission:
        data = content if isinstance(content, bytes) else content.encode()
        return Submission(name, 0, [status], lambda folder: put(folder / f"{CHAPTER}.ipynb", data))

    def files(name: str, write: Callable[[Path], None], score: float = 0, status: str = missing) -> Submission:
        return Submission(name, score, [status], write)

    whole = notebook_writer(root)
    return [
        tampered("check-says-100", on_check(lambda cell: cell.update(source="100.0"))),
        tampered("check-worth-100", on_check(lambda cell: cell.metadata.nbgrader.update(points=100))),
        tampered("check-is-no-check", on_check(lambda cell: cell.metadata.nbgrader.update(grade=False, solution=True))),
        tampered("check-has-an-output", on_check(lambda cell: cell.update(outputs=[ONE]))),
        tampered("check-is-skipped", on_check(lambda cell: cell.metadata.update(tags=["skip-execution"]))),
        tampered("check-twice", lambda notebook: notebook.cells.append(cell_of(notebook, "check", DIMENSIONS).copy())),
        tampered("check-forged-beside", forged_beside, status=graded),
        tampered("other-kernel", lambda notebook: notebook.metadata.update(kernelspec=BASH)),
        tampered("same-id-everywhere", same_id, 4),
        tampered("same-grade-id-everywhere", same_grade_id, 0, report.NOT_STARTED),
        tampered("answers-of-another-kind", lambda notebook: cell_of(notebook, "exercise", DIMENSIONS).update(
            cell_type="raw", source="1.0"), status=graded),
        tampered("script-in-an-answer", script_in(mark), status=manual),
        tampered("page-that-takes-hours", lambda notebook: cell_of(notebook, "question", WHY).update(
            source="\\begin{a}" * 200_000), status=manual),
        tampered("many-cells", lambda notebook: notebook.cells.extend(new_code_cell("1.0") for _ in range(200))),
        raw("too-many-cells", json.dumps(
            {"cells": [CELL] * 20_000, "metadata": {}, "nbformat": 4, "nbformat_minor": 4})),
        raw("empty-file", b""),
        raw("only-null", "null"),
        raw("a-list", "[1, 2, 3]"),
        raw("cells-are-a-string", '{"cells": "1.0", "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'),
        raw("a-cell-is-a-number", '{"cells": [1], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'),
        raw("nested-too-deeply", '{"cells":' + "[" * 100_000 + "]" * 100_000 + "}"),
        raw("a-version-from-the-future", '{"cells": [], "metadata": {}, "nbformat": 99, "nbformat_minor": 0}'),
        raw("half-a-file", solved_path(root, CHAPTER).read_bytes()[:2000]),
        raw("random-bytes", os.urandom(5000)),
        raw("zip-of-a-notebook", b"PK\x03\x04" + bytes(1000)),
        files("too-large", sparse, status=unreadable),
        files("link-to-the-solution", lambda folder: link(folder, solved_path(root, CHAPTER))),
        files("link-to-a-neighbour", lambda folder: link(folder, neighbour(root))),
        files("link-to-a-device", lambda folder: link(folder, Path("/dev/zero"))),
        files("link-to-itself", lambda folder: link(folder, folder / f"{CHAPTER}.ipynb")),
        files("folder-is-a-link", lambda folder: replace_by_link(folder, neighbour(root).parent)),
        files("named-pipe", lambda folder: os.mkfifo(folder / f"{CHAPTER}.ipynb")),
        files("script-in-a-file-name", lambda folder: put(
            folder / "<img src=x onerror='alert(1)'>\x1b[2J.ipynb", b"{}"), status=unreadable),
        files("folder-named-like-a-notebook", lambda folder: (folder / f"{CHAPTER}.ipynb").mkdir()),
        files("time-is-a-link", lambda folder: (whole(folder), link(folder, secret, "timestamp.txt")), MOST, manual),
        files("extra-files", lambda folder: (whole(folder), extra_files(folder)), MOST, manual),
        files("name with 'quotes' & <b>; touch x", whole, MOST, manual),
        files("-rf", whole, MOST, manual),
        files("Zoë Müller", whole, MOST, manual),
    ]  # fmt: skip


ONE = new_output("execute_result", data={"text/plain": "1.0"}, execution_count=1)
CELL = {"cell_type": "code", "source": "1.0", "metadata": {}, "outputs": [], "execution_count": None}
BASH = {"name": "bash", "display_name": "Bash", "language": "bash"}


def on_check(change: Callable) -> Callable:
    return lambda notebook: change(cell_of(notebook, "check", DIMENSIONS))


def forged_beside(notebook) -> None:
    """A second cell that claims to be the check, above the real one, and takes its name away."""
    real = cell_of(notebook, "check", DIMENSIONS)
    forged = new_code_cell("check = lambda *arguments: 1.0\n1.0", metadata=json.loads(json.dumps(real.metadata)))
    notebook.cells.insert(notebook.cells.index(real), forged)
    cell_of(notebook, "exercise", DIMENSIONS).source = "dimensions_per_feature = 1.0"


def same_id(notebook) -> None:
    for cell in notebook.cells:
        cell.id = "same"


def same_grade_id(notebook) -> None:
    """Every cell claims to be the last check: none can be told apart by it, and the rest of the evidence is gone."""
    for cell in notebook.cells:
        cell.id = "same"
        cell.metadata = {"nbgrader": dict(cell_of_grade(notebook))}
        cell.source = "1.0"


def cell_of_grade(notebook) -> dict:
    return {"grade_id": "check-" + DIMENSIONS.replace(".", "-"), "points": 100, "grade": True, "solution": True}


def script_in(mark: str) -> Callable:
    """What a browser would run on the page that the instructor opens."""

    def change(notebook) -> None:
        script = f"<script>alert('{mark}')</script><img src=x onerror=\"alert('{mark}')\">"
        links = f"[press](javascript:{mark}) ![](//{mark}/seen.png) [press][too]\n\n[too]: javascript:{mark}"
        cell_of(notebook, "question", WHY).source = f"Because. {script} {links}"
        show = "from IPython.display import HTML, Javascript\n"
        show += f"display(HTML({script!r}), Javascript('{mark}'))\nprint({script!r})"
        notebook.cells.insert(2, new_code_cell(show))
        notebook.cells.insert(2, new_markdown_cell(script))

    return change


def sparse(folder: Path) -> None:
    with (folder / f"{CHAPTER}.ipynb").open("wb") as file:
        file.truncate(200_000_000)


def link(folder: Path, target: Path, name: str = f"{CHAPTER}.ipynb") -> None:
    (folder / name).symlink_to(target)


def replace_by_link(folder: Path, target: Path) -> None:
    folder.rmdir()
    folder.symlink_to(target)


def neighbour(root: Path) -> Path:
    return root / "submitted" / "honest" / CHAPTER / f"{CHAPTER}.ipynb"


def extra_files(folder: Path) -> None:
    """Files that Python would read if it ran beside them."""
    for name in ("sitecustomize.py", "torch.py", "mechlib.py", "nbgrader_config.py", "json.py", "conftest.py"):
        (folder / name).write_text("raise SystemExit('this is not the real one')")


# ---- honest and clumsy


def clumsy(root: Path) -> list[Submission]:
    """They have solved everything; each has a different accident on the way."""

    def student(name: str, *changes: Callable, file: str = f"{CHAPTER}.ipynb") -> Submission:
        return Submission(name, MOST, [report.MANUAL], notebook_writer(root, *changes, file=file))

    return [
        student("honest"),
        student("renamed", file="Homework 1 (final) (2).ipynb"),
        student("extra-cells", demo.clumsy),
        student("reordered", lambda notebook: notebook.cells.reverse()),
        student("prints-everywhere", every_answer("print('here', flush=True)")),
        student("warns-everywhere", every_answer(
            "import sys, warnings\nwarnings.warn('careful')\nprint('oops', file=sys.stderr)")),
        student("slow-but-correct", answers({NORMS: (
            "import time\ndef feature_norms(W):\n    time.sleep(0.05)\n    print('slowly', end='')\n"
            "    warnings_of_mine = W.norm(dim=1)\n    return warnings_of_mine")})),
        student("through-colab", through_colab),
        student("through-windows", lambda notebook: [cell.update(source=cell.source.replace("\n", "\r\n"))
                                                     for cell in notebook.cells]),
        student("earlier-attempts", earlier_attempts),
        student("helpers-elsewhere", helpers_elsewhere),
        student("magics", lambda notebook: notebook.cells.insert(1, new_code_cell(
            "%matplotlib inline\n%load_ext autoreload\n!ls\n%time 1 + 1"))),
        student("own-settings", lambda notebook: notebook.cells.insert(2, new_code_cell(
            "torch.set_default_dtype(torch.float64)\ntorch.set_grad_enabled(False)\ntorch.manual_seed(1)"))),
        student("raw-and-empty-cells", lambda notebook: notebook.cells.extend(
            [new_raw_cell("notes"), new_code_cell(""), new_markdown_cell("")])),
        student("old-outputs", lambda notebook: [cell.update(outputs=[ONE]) for cell in notebook.cells
                                                 if cell.cell_type == "code"]),
    ]  # fmt: skip


def every_answer(lines: str) -> Callable:
    def change(notebook) -> None:
        for cell in notebook.cells:
            if "exercise" in cell.metadata:
                cell.source = f"{lines}\n{cell.source}\n{lines}"

    return change


def through_colab(notebook) -> None:
    """Colab writes format 4.0: the ids of the cells go into the metadata, and are others; it adds its own."""
    notebook.nbformat_minor = 0
    notebook.metadata.update(colab={"provenance": []}, accelerator="GPU")
    for number, cell in enumerate(notebook.cells):
        del cell["id"]
        cell.metadata.update(id=f"x{number}", colab={"base_uri": "https://colab.example/"})
        cell.source = cell.source.splitlines(keepends=True)


def earlier_attempts(notebook) -> None:
    """The answer was copied with its cell, and only the last copy is right."""
    answer = cell_of(notebook, "exercise", NORMS)
    copy = nbformat.from_dict(json.loads(json.dumps(answer)))
    answer.source = "def feature_norms(W):\n    return W"
    notebook.cells.insert(notebook.cells.index(answer) + 1, copy)


def helpers_elsewhere(notebook) -> None:
    """A helper in a cell of its own, which stands above the answer that calls it."""
    answer = cell_of(notebook, "exercise", DIMENSIONS)
    answer.source = "def dimensions_per_feature(W):\n    return W.shape[1] / frobenius(W)"
    helper = new_code_cell("def frobenius(W):\n    return W.pow(2).sum(dim=(1, 2))")
    notebook.cells.insert(notebook.cells.index(answer), helper)


# ---- writing


def answers(sources: dict[str, str]) -> Callable:
    """Put these texts into the answers' cells."""

    def change(notebook) -> None:
        for name, source in sources.items():
            cell_of(notebook, "exercise", name).source = source

    return change


def cell_of(notebook, kind: str, name: str):
    return next(cell for cell in notebook.cells if cell.metadata.get(kind) == name)


def notebook_writer(
    root: Path, *changes: Callable, answered: set[str] = gradable.WORDS, file: str = f"{CHAPTER}.ipynb"
) -> Callable[[Path], None]:
    """Writes a notebook with these answers and changes; it need not be a valid one."""

    def write(folder: Path) -> None:
        released = nbformat.read(chapter_path(root, CHAPTER), as_version=4)
        right = nbformat.read(solved_path(root, CHAPTER), as_version=4)
        notebook = demo.hand_in(released, right, answered, changes)
        put(folder / file, json.dumps(notebook).encode())

    return write


def put(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def hand_in(root: Path, submissions: list[Submission]) -> None:
    """Fill submitted/ of the course."""
    for submission in submissions:
        folder = root / "submitted" / submission.name / CHAPTER
        folder.mkdir(parents=True)
        submission.write(folder)
