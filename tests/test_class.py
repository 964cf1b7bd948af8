"""A class of a hundred, every kind of submission among them, in the time of a coffee.

2026-11-21, two cores, torch 2.13.0, namespaces: every status and score as expected, 130 s of the clock, 96 s of the
processors.
"""

import dataclasses
import os
import resource
import time
from collections import Counter
from pathlib import Path

import nbformat
import pytest

from mechlib.grading import demo
from mechlib.grading.grade import Options, grade
from mechlib.grading.limits import Limits
from mechlib.grading.release import chapter_path, solved_path

ROOT = Path(__file__).resolve().parents[1]
CHAPTER = "01_superposition"
STUDENTS, MINUTES, CORES = 100, 4, 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_in_four_minutes(tmp_path):
    released = nbformat.read(chapter_path(ROOT, CHAPTER), as_version=4)
    solved = nbformat.read(solved_path(ROOT, CHAPTER), as_version=4)
    kinds = demo.the_class(released, solved)
    students = [
        dataclasses.replace(kinds[number % len(kinds)], name=f"{number:02d}-{kinds[number % len(kinds)].name}")
        for number in range(STUDENTS)
    ]
    course = tmp_path / "class"
    demo.write_class(course, CHAPTER, chapter_path(ROOT, CHAPTER), students)
    start, before = time.monotonic(), processor_time()
    rows = grade(course, CHAPTER, Options(Limits(cell=10), seed=1, jobs=CORES))
    seconds, used = time.monotonic() - start, processor_time() - before
    load = os.getloadavg()[0]
    print(f"\n{STUDENTS} students: {seconds:.0f} s of the clock, {used:.0f} s of the processors, load {load:.1f}")
    expected = {student.name: (student.status, student.score) for student in students}
    assert {row.student: (row.status, row.score) for row in rows} == expected
    assert Counter(row.status for row in rows).total() == STUDENTS
    assert seconds < 60 * MINUTES


def processor_time() -> float:
    """Seconds that we and all ended children, and theirs, have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
