"""Whatever has become of a submission's cells, the released notebook gets the answers that are in it."""

import copy

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from mechlib.grading.graft import SKIPPED, UnreadableNotebook, graft, read_submission


def named(kind, name, source, new=new_code_cell):
    slug = ("check-" if kind == "check" else "") + name.replace(".", "-")
    nbgrader = {
        "grade_id": slug,
        "grade": kind != "exercise",
        "solution": kind != "check",
        "schema_version": 3,
    }
    return new(source, id=slug, metadata={kind: name, "tags": [kind], "nbgrader": nbgrader})


def chapter():
    """Set-up, two exercises with their checks, an experiment and a question."""
    return new_notebook(
        cells=[
            new_code_cell("import math", id="setup-1", metadata={"tags": ["setup"]}),
            named("exercise", "toy.add", "def add(a, b):\n    raise NotImplementedError"),
            named("check", "toy.add", 'check("toy.add", add)'),
            new_code_cell("print(add(1, 2))", id="experiment-1", metadata={"tags": ["experiment"]}),
            named("exercise", "toy.mean", "def mean(x):\n    raise NotImplementedError"),
            named("check", "toy.mean", 'check("toy.mean", mean)'),
            new_markdown_cell("Why?", id="prose-1", metadata={"tags": ["prose"]}),
            named("question", "toy.why", "YOUR ANSWER HERE", new_markdown_cell),
        ]
    )


ADD, MEAN, WHY = "def add(a, b):\n    return a + b", "def mean(x):\n    return sum(x) / len(x)", "Because."


@pytest.fixture
def work():
    """A submission in which everything is answered, and its cells by id."""
    notebook = chapter()
    cells = {cell.id: cell for cell in notebook.cells}
    cells["toy-add"].source, cells["toy-mean"].source, cells["toy-why"].source = ADD, MEAN, WHY
    return notebook, cells


def sources(result):
    return [cell.source for cell in result.notebook.cells]


def expected():
    return ["import math", ADD, 'check("toy.add", add)', "print(add(1, 2))", MEAN, 'check("toy.mean", mean)',
            "Why?", WHY]  # fmt: skip


def test_answers_come_over_and_experiments_are_skipped(work):
    result = graft(chapter(), work[0].cells)
    assert sources(result) == expected()
    assert result.started and result.remarks == []
    assert [SKIPPED in cell.metadata["tags"] for cell in result.notebook.cells].index(True) == 3


def test_an_untouched_notebook_is_not_started():
    result = graft(chapter(), chapter().cells)
    assert not result.started and result.remarks == []
    assert sources(result) == sources(type(result)(chapter()))


def test_the_release_itself_is_left_alone(work):
    release = chapter()
    before = copy.deepcopy(release)
    graft(release, work[0].cells)
    assert release == before


def test_edited_and_deleted_checks_are_the_original_again(work):
    notebook, cells = work
    cells["check-toy-add"].source = "100.0"
    notebook.cells.remove(cells["check-toy-mean"])
    result = graft(chapter(), notebook.cells)
    assert sources(result) == expected()
    assert result.remarks == [
        "the check of toy.add had been edited; the original was used",
        "the check of toy.mean was missing; the original was used",
    ]


@pytest.mark.parametrize("lost", ["ids", "metadata", "both"])
def test_lost_ids_and_metadata_lose_no_answer(work, lost):
    notebook, _ = work
    for number, cell in enumerate(notebook.cells):
        cell.id = cell.id if lost == "metadata" else f"other-{number}"
        cell.metadata = cell.metadata if lost == "ids" else {}
    result = graft(chapter(), notebook.cells)
    assert sources(result) == expected()
    assert result.remarks == []


def test_reordered_cells_come_back_in_order(work):
    assert sources(graft(chapter(), work[0].cells[::-1])) == expected()


def test_of_copied_cells_the_last_answer_counts_and_untouched_copies_do_not(work):
    notebook, cells = work
    better = copy.deepcopy(cells["toy-add"])
    better.source = "def add(a, b):\n    return b + a"
    notebook.cells.insert(2, better)
    notebook.cells.insert(3, copy.deepcopy(chapter().cells[1]))
    result = graft(chapter(), notebook.cells)
    assert sources(result) == ["import math", ADD, better.source, *expected()[2:]] or sources(result) == [
        "import math", better.source, ADD, *expected()[2:]]  # fmt: skip
    assert next(cell for cell in result.notebook.cells if cell.id == "toy-add").source == better.source
    assert result.remarks == ["there were 2 answers to toy.add; the last one was used"]


def test_an_earlier_answer_runs_before_the_last_one(work):
    notebook, cells = work
    later = copy.deepcopy(cells["toy-add"])
    later.source = "def add(a, b):\n    return helper(a, b)"
    cells["toy-add"].source = "def helper(a, b):\n    return a + b"
    notebook.cells.insert(2, later)
    order = sources(graft(chapter(), notebook.cells))
    assert order.index(cells["toy-add"].source) < order.index(later.source)


def test_added_cells_stay_where_they_were(work):
    notebook, cells = work
    notebook.cells.insert(1, new_code_cell("import statistics"))
    notebook.cells.insert(6, new_markdown_cell("My thoughts"))
    notebook.cells.insert(0, new_code_cell("first = 1"))
    order = sources(graft(chapter(), notebook.cells))
    assert order[:3] == ["first = 1", "import math", "import statistics"]
    assert order.index("My thoughts") == order.index(MEAN) + 1


def test_an_edited_setup_runs_after_the_original(work):
    notebook, cells = work
    cells["setup-1"].source = "import math\nimport statistics"
    result = graft(chapter(), notebook.cells)
    assert sources(result)[:2] == ["import math", "import math\nimport statistics"]
    assert "set-up cell had been edited" in result.remarks[0]


def test_a_missing_answer_is_the_stub_again(work):
    notebook, cells = work
    notebook.cells.remove(cells["toy-mean"])
    result = graft(chapter(), notebook.cells)
    assert "NotImplementedError" in sources(result)[4]
    assert result.remarks == ["the cell of toy.mean is missing"]


def test_points_and_schema_of_a_submission_do_not_matter(work):
    notebook, _ = work
    for cell in notebook.cells:
        if "nbgrader" in cell.metadata:
            cell.metadata["nbgrader"] |= {"schema_version": 99, "points": 1000, "grade": True}
    result = graft(chapter(), notebook.cells)
    assert [cell.metadata for cell in result.notebook.cells if "nbgrader" in cell.metadata] == [
        cell.metadata for cell in chapter().cells if "nbgrader" in cell.metadata
    ]


def test_older_formats_are_read(work, tmp_path):
    path = tmp_path / "old.ipynb"
    nbformat.write(nbformat.convert(work[0], 3), path)
    answers = sources(graft(chapter(), read_submission(path)))
    assert ADD in answers and MEAN in answers


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"{}", b"I did it on paper", bytes(range(256)), b"[" * 100_000,
     b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [1, null]}',
     b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": {"a": 1}}'],
)  # fmt: skip
def test_what_is_not_a_notebook_is_said_to_be_none(tmp_path, content):
    path = tmp_path / "x.ipynb"
    path.write_bytes(content)
    with pytest.raises(UnreadableNotebook, match="not a notebook"):
        read_submission(path)
