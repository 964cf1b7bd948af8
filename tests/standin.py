"""A small chapter with a checker of its own, so that releasing and grading are tested without torch."""

from pathlib import Path
from types import SimpleNamespace

CHAPTER = "01_toy"

SOURCE = '''\
# %% [markdown]
# # A toy
# The course lives at {{repository}}.

# %% tags=["setup"]
from standin_check import check

# %% [markdown]
# Add two numbers.

# %% exercise="toy.add"
def add(first, second):
    """The sum of two numbers."""
    ### BEGIN SOLUTION
    sum_of_both = first + second
    return sum_of_both
    ### END SOLUTION

# %% check="toy.add"
check("toy.add", add)

# %% tags=["experiment", "finding"]
print("two and three make", add(2, 3))

# %% exercise="toy.counter"
class Counter:
    """Counts how often it was told to."""

    def __init__(self, start):
        ### BEGIN SOLUTION
        self.value_so_far = start
        ### END SOLUTION

    def count(self):
        ### BEGIN SOLUTION
        self.value_so_far = add(self.value_so_far, 1)
        return self.value_so_far
        ### END SOLUTION

# %% check="toy.counter"
check("toy.counter", Counter)

# %% [markdown]
# Why does it not matter which number comes first?

# %% [markdown] question="toy.why" points=2
# Because addition is commutative.
#
# Rubric: 2 points for the word or for an example in both orders.

# %% exercise="toy.mean"
def mean(numbers):
    """The mean of a list of numbers."""
    ### BEGIN SOLUTION
    return sum(numbers) / len(numbers)
    ### END SOLUTION

# %% check="toy.mean"
check("toy.mean", mean)
'''

CHECKER = '''\
"""What mechlib.check promises to nbgrader, for three exercises: a float for points, CheckFailed for none."""

import os

POINTS = {"toy.add": 2, "toy.counter": 5, "toy.mean": 3}


class CheckFailed(Exception):
    pass


def check(name, answer):
    try:
        right = globals()[name.replace(".", "_")](answer)
    except Exception as error:
        raise CheckFailed(f"{name}: {type(error).__name__}: {error}") from error
    if not right:
        raise CheckFailed(f"{name}: not yet")
    if os.environ.get("NBGRADER_EXECUTION"):
        return float(POINTS[name]) * right
    print(f"{name}: right")


def toy_add(add):
    seed = int(os.environ.get("MECHLIB_SEED", "7"))
    return (add(seed, 2) == seed + 2) * 0.5 + (add(-1, -2) == -3) * 0.5


def toy_counter(Counter):
    counter = Counter(3)
    return [counter.count(), counter.count()] == [4, 5]


def toy_mean(mean):
    return mean([1, 2, 6]) == 3
'''

EXERCISES = [SimpleNamespace(id=name, points=points, title=name) for name, points in
             (("toy.add", 2), ("toy.counter", 5), ("toy.mean", 3))]  # fmt: skip


def exercise(name: str) -> SimpleNamespace:
    """What mechlib.exercises.get does."""
    for each in EXERCISES:
        if each.id == name:
            return each
    raise KeyError(name)


def write_course(root: Path) -> Path:
    """A repository with this one chapter; the checker lies in lib/, which belongs on PYTHONPATH."""
    (root / "lib").mkdir(parents=True)
    (root / "lib" / "standin_check.py").write_text(CHECKER, encoding="utf-8")
    (root / "pyproject.toml").write_text('[project.urls]\nRepository = "https://example.org/toy"\n', encoding="utf-8")
    source = root / "solutions" / CHAPTER / f"{CHAPTER}.py"
    source.parent.mkdir(parents=True)
    source.write_text(SOURCE, encoding="utf-8")
    return source


def install(monkeypatch, root: Path) -> None:
    """Let the chapter's kernel find its checker, and `release` its exercises, whatever mechlib itself has."""
    import os
    import sys
    from types import ModuleType

    import mechlib

    registry = ModuleType("mechlib.exercises")
    registry.get = exercise  # type: ignore[attr-defined]
    registry.all_exercises = lambda: EXERCISES  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mechlib.exercises", registry)
    monkeypatch.setattr(mechlib, "exercises", registry, raising=False)
    path = os.pathsep.join([str(root / "lib"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    monkeypatch.setenv("PYTHONPATH", path)
