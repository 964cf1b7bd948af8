"""The chapters' notebooks: untouched, they stop at the first check; their solutions pass every check.

That every solved notebook runs to its end, and still prints its findings, is what pytest shows by collecting
`solutions/` itself, cell by cell (see conftest.py).
"""

from pathlib import Path

import nbformat
import pytest
import torch
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from mechlib import exercises
from mechlib.checker import run
from mechlib.grading.quiet import QUIET_KERNEL
from mechlib.grading.source import read_source

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted(path.stem for path in (ROOT / "solutions").glob("[0-9]*_*/*.py"))
SEEDS = [0, 1, 2026]


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    for name in ("NBGRADER_EXECUTION", "MECHLIB_SEED", "MECHLIB_SOLUTIONS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def threads():
    """A chapter's set-up cell sets the number of threads and turns gradients off; what runs next is not to notice."""
    before, state, gradients = torch.get_num_threads(), torch.get_rng_state(), torch.is_grad_enabled()
    yield
    torch.set_num_threads(before)
    torch.set_grad_enabled(gradients)
    torch.set_rng_state(state)


def test_there_is_a_solved_and_a_students_notebook_for_every_source():
    assert CHAPTERS
    for folder in ("solutions", "chapters"):
        assert sorted(path.stem for path in (ROOT / folder).glob("*/*.ipynb")) == CHAPTERS


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_students_notebook_stops_at_the_first_check(chapter, empty_folder):
    notebook = nbformat.read(ROOT / "chapters" / chapter / f"{chapter}.ipynb", as_version=4)
    client = NotebookClient(
        notebook,
        timeout=120,
        extra_arguments=QUIET_KERNEL,
        resources={"metadata": {"path": str(empty_folder)}},
    )
    with pytest.raises(CellExecutionError) as caught:
        client.execute()
    assert caught.value.ename == "CheckFailed"
    first = next(index for index, cell in enumerate(notebook.cells) if "check" in cell.metadata)
    ran = [index for index, cell in enumerate(notebook.cells) if cell.get("outputs")]
    assert ran[-1] == first, "a cell ran behind the first check"
    card, error = notebook.cells[first].outputs
    name = notebook.cells[first].metadata["check"].split(".")[1]
    assert f"`{name}` is not written yet. Replace `raise NotImplementedError`" in card.data["text/plain"]
    assert error.output_type == "error" and len(error.traceback) == 1


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_solutions_of_a_chapter_pass_every_check(chapter, threads):
    cells = read_source(ROOT / "solutions" / chapter / f"{chapter}.py").cells
    namespace: dict = {"__name__": "__main__"}
    solved = []
    for cell in cells:
        if "setup" in cell.metadata["tags"]:
            exec(TransformerManager().transform_cell(cell.source), namespace)
        elif "exercise" in cell.metadata:
            exec(cell.source, namespace)
            exercise = exercises.get(cell.metadata["exercise"])
            for seed in SEEDS:
                report = run(exercise, namespace[exercise.name], seed)
                assert report.status == "pass", (exercise.id, seed, report.verdict, report.parts)
            solved.append(exercise.id)
    expected = [exercise.id for exercise in exercises.all_exercises() if exercise.chapter == chapter]
    assert sorted(solved) == sorted(expected)
