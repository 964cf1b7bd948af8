"""What an exercise is: a value that says what is asked, what is right, and which mistakes people make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mechlib.checker import compare as comparing


@dataclass(frozen=True)
class Recipe:
    """An input that cannot travel as data: both sides build it by name (see `recipes`).

    >>> Recipe("generator", {"seed": 3})
    """

    builder: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One situation in which an answer is tried.

    Args:
        inputs: name -> plain data (tensors, numbers, strings, lists, dicts) or a `Recipe`, in the order of the
            answer's parameters.
        drive: the name of the trusted routine that exercises the answer (see `drives`); "call" calls it once.
        settings: further arguments of the drive.
        part: which part of the exercise this case decides (see `Exercise.parts`).
        note: what is special about this case, shown to a student whom it catches ("a batch of one").
        compare: overrules the exercise's way of comparing two outcomes for this case.
        truth: a fact that is known without our reference. It gets the outputs of a right-looking answer and
            returns None, or a sentence that says which fact is violated.

    Only inputs, drive and settings travel to the side where student code runs.
    """

    inputs: Mapping[str, Any]
    drive: str = "call"
    settings: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""
    note: str = ""
    compare: comparing.Compare | None = None
    truth: Callable[[Any], str | None] | None = None


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that students really write, and the sentence that would have helped."""

    name: str
    answer: Callable
    sentence: str


@dataclass(frozen=True)
class Exercise:
    """One checked exercise.

    Args:
        id: "topic.name", as in `check("superposition.feature_norms", ...)`.
        chapter: the chapter's folder, "01_superposition".
        reference: the library's own function or class: the right answer.
        cases: makes the cases from a seed. Same seed, same cases.
        mistakes: named wrong answers; they must not call the reference.
        equivalents: right answers that are written differently.
        hints: from gentle to nearly the line itself.
        parts: part name -> points, where an answer can be partly right; empty for all or nothing.
        compare: how two outcomes are compared; the default asks for the same structure, shapes, dtypes and
            values within float tolerance.
    """

    id: str
    chapter: str
    title: str
    points: int
    minutes: int
    difficulty: int
    reference: Callable
    cases: Callable[[int], Iterable[Case]]
    mistakes: Sequence[Mistake]
    equivalents: Sequence[Callable]
    hints: Sequence[str]
    parts: Mapping[str, int] = field(default_factory=dict)
    compare: comparing.Compare = comparing.close
    optional: bool = False

    def __post_init__(self) -> None:
        if self.parts and sum(self.parts.values()) != self.points:
            raise ValueError(f"{self.id}: the parts {dict(self.parts)} do not add up to {self.points} points.")

    @property
    def name(self) -> str:
        """The name of the function or class that the student writes."""
        return self.id.split(".", 1)[1]

    def points_by_part(self) -> dict[str, int]:
        """Part name -> points; one nameless part where the exercise has no parts."""
        return dict(self.parts) or {"": self.points}
