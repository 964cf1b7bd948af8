"""The checked exercise library: one file a chapter, one `Exercise` value an exercise."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator

from mechlib.checker.exercise import Exercise

TOPICS = [
    "residual_stream",
    "superposition",
    "induction",
    "logit_lens",
    "patching",
    "ioi",
    "sae",
]  # in the order of the chapters; each names a module here and the first half of its exercises' ids


class UnknownExercise(KeyError):
    """There is no exercise of that id."""

    def __str__(self) -> str:
        return str(self.args[0])

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def all_exercises() -> Iterator[Exercise]:
    """Every exercise of the course, in the order in which a student meets them."""
    for topic in TOPICS:
        yield from importlib.import_module(f"mechlib.exercises.{topic}").EXERCISES


def get(id: str) -> Exercise:
    """The exercise of an id.

    Raises:
        UnknownExercise: with the nearest ids.
    """
    if not isinstance(id, str):
        raise UnknownExercise(
            'The exercise\'s id comes first, in quotes: check("superposition.feature_norms", feature_norms)'
        )
    known = {exercise.id: exercise for exercise in all_exercises()}
    if id not in known:
        near = difflib.get_close_matches(id, known, n=3, cutoff=0.4) or list(known)[:3]
        raise UnknownExercise(f"There is no exercise {id!r}. Did you mean {' or '.join(map(repr, near))}?")
    return known[id]
