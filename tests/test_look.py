"""The report points at copied answers, and leaves those alone that merely look as they must."""

import inspect
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell

from mechlib import exercises
from mechlib.grading import look

NAME = "superposition.feature_dimensionality"
EXERCISE = exercises.get(NAME)
TEXT = inspect.getsource(EXERCISE.reference)


def remarks(source, **metadata):
    cells = [new_code_cell(source, metadata=metadata or {"exercise": NAME})]
    return look.remarks(nbformat.v4.new_notebook(cells=cells), {NAME: EXERCISE})


def test_a_copy_is_pointed_at_also_with_other_names():
    said = [f"the answer to {NAME} has the library's own text"]
    assert remarks(TEXT) == said
    assert remarks(re.sub(r"\bW\b", "weights", TEXT)) == said
    assert remarks("import torch\n" + TEXT.replace('"""', '"""Mine. ', 1)) == said


@pytest.mark.parametrize("number", range(len(EXERCISE.equivalents)))
def test_an_answer_of_ones_own_is_not(number):
    assert not look.has_text_of(inspect.getsource(EXERCISE.equivalents[number]), EXERCISE.reference)


def test_a_short_answer_is_not():
    short = exercises.get("superposition.feature_norms")
    assert not look.has_text_of(inspect.getsource(short.reference), short.reference)


@pytest.mark.parametrize("source", ["def broken(:", "", "\0", "(" * 5000])
def test_what_is_no_code_is_not(source):
    assert remarks(source) == []


@pytest.mark.parametrize(
    "source",
    ["import mechlib.exercises", "answer = e.equivalents[0]", "f.__code__ = g", "print(inspect.getsource(f))"],
)
def test_reaching_into_the_machinery_is_pointed_at(source):
    assert len(remarks(source)) == 1 and len(remarks(source, tags=["extra"])) == 1
    assert remarks(source, check=NAME) == []
