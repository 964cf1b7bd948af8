"""What a notebook calls: `check` an answer, ask for a `hint`, `reveal` or `borrow` the solution, see your `progress`.

>>> from mechlib.check import check, hint
>>> check("superposition.feature_norms", feature_norms)
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

from mechlib import exercises
from mechlib.checker import card, record, settings, wire
from mechlib.checker.card import Card
from mechlib.checker.run import Report, run

__all__ = ["CheckFailed", "SolutionsHidden", "borrow", "check", "hint", "progress", "reveal"]


class CheckFailed(AssertionError):
    """An answer did not pass its check. `report` says why."""

    def __init__(self, report: Report):
        self.report = report
        super().__init__(str(card.card(report)))

    def _render_traceback_(self) -> list[str]:
        # The card says it all; a traceback through our code would only bury it.
        return [str(self) if _graded() else f"CheckFailed: {self.report.id}"]


class SolutionsHidden(RuntimeError):
    """The instructor has switched `reveal` and `borrow` off."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def check(id: str, answer: Callable) -> float | None:
    """Checks an answer to an exercise.

    Shows one line if it is right. If not, shows what is wrong and raises `CheckFailed`, so that "Run All" stops here.
    Under nbgrader it returns the points earned, and raises when there are none.

    Args:
        id: the exercise, as in "superposition.feature_norms".
        answer: your function or class itself, not the result of calling it.
    """
    exercise = exercises.get(id)
    if wire.VARIABLE in os.environ:  # graded: another process judges, see `wire`
        wire.deliver(exercise, answer, wire.desk())
        return None
    report = run(exercise, answer, seed=int(os.environ.get("MECHLIB_SEED", "0")))
    if _graded():
        return _to_nbgrader(report)
    _remember(report)
    if report.status in ("pass", "borrowed"):
        _show(card.card(report))
        return None
    if _in_ipython():  # elsewhere the exception itself is the text
        _show(card.card(report))
    raise CheckFailed(report)


def hint(id: str) -> None:
    """Shows the next hint for an exercise: first where to look, then what to compute, then nearly the line itself."""
    exercise = exercises.get(id)
    given = record.load().get(id, {}).get("hints", 0)
    number = min(given + 1, len(exercise.hints))
    record.update(id, hints=number)
    last = f'That was the last hint. borrow("{id}") lets you go on without it.' if number == len(exercise.hints) else ""
    _show(Card("?", f"{id}   hint {number} of {len(exercise.hints)}", exercise.hints[number - 1], footer=last))


def reveal(id: str) -> None:
    """Shows the library's own solution of an exercise."""
    _solutions_allowed()
    exercise = exercises.get(id)
    print(inspect.getsource(exercise.reference))


def borrow(id: str) -> Any:
    """Hands over the library's own solution, so that you can go on. It earns no points.

    >>> feature_norms = borrow("superposition.feature_norms")
    """
    _solutions_allowed()
    return exercises.get(id).reference


def progress() -> None:
    """Shows what you have done so far in every chapter that you have begun."""
    entries = record.load()
    begun = {id.split(".")[0] for id in entries}
    chosen = [exercise for exercise in exercises.all_exercises() if exercise.id.split(".")[0] in begun or not begun]
    for chapter in dict.fromkeys(exercise.chapter for exercise in chosen):
        mine = [exercise for exercise in chosen if exercise.chapter == chapter]
        earned = sum(entries.get(exercise.id, {}).get("earned", 0) for exercise in mine)
        done = sum(entries.get(exercise.id, {}).get("status") == "pass" for exercise in mine)
        rows = [_progress_row(exercise, entries.get(exercise.id, {})) for exercise in mine]
        points = sum(exercise.points for exercise in mine)
        sentence = f"{done} of {len(mine)} exercises, {earned:g} of {points} points"
        _show(Card("▤", chapter, sentence, rows))


def _progress_row(exercise: Any, entry: dict[str, Any]) -> tuple[str, str]:
    status = entry.get("status", "untried")
    mark = card.MARKS.get(status, ("·" if status == "untried" else "✗", ""))[0]
    extras = [f"{entry.get('earned', 0):g}/{exercise.points}"]
    extras += [f"{entry['tries']} tries"] if entry.get("tries", 0) > 1 else []
    extras += [f"{n} hint{'s' * (n > 1)}"] if (n := entry.get("hints", 0)) else []
    extras += ["borrowed"] if status == "borrowed" else []
    extras += ["optional"] if exercise.optional else []
    return f"{mark} {exercise.name}", ", ".join(extras)


def _remember(report: Report) -> None:
    entry = record.load().get(report.id, {})
    if entry.get("status") == "pass" and report.status != "pass":
        # Once solved stays solved: running a cell again with half an edit takes nothing away.
        record.update(report.id, tries=entry["tries"] + 1)
        return
    record.update(report.id, status=report.status, earned=report.earned, tries=entry.get("tries", 0) + 1)


def _to_nbgrader(report: Report) -> float:
    """nbgrader reads the cell's result: a number is the points, an exception is zero. The print is the feedback."""
    if report.earned == 0 and report.status != "borrowed":
        raise CheckFailed(report)
    print(card.card(report))
    return report.earned


def _solutions_allowed() -> None:
    if not settings.solutions_allowed():
        raise SolutionsHidden("Solutions are switched off in this course; hint(...) still helps.")


def _graded() -> bool:
    return bool(os.environ.get("NBGRADER_EXECUTION"))


def _in_ipython() -> bool:
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return get_ipython() is not None


def _show(shown: Card) -> None:
    if _in_ipython():
        from IPython.display import display

        display(shown)
    else:
        print(shown)
