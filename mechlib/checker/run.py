"""A whole check: every case of an exercise, through both sides, into one report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from mechlib.checker.encoding import TooLarge
from mechlib.checker.exercise import Case, Exercise, Mistake
from mechlib.checker.judge import Verdict, judge
from mechlib.checker.observe import Failure, Outcome, observe, request, usual_torch


@dataclass(frozen=True)
class Report:
    """What a check found out.

    `status` is "pass", "partly", "fail", "borrowed" or "not_written". `verdict` is the one to show: the first that did not pass.
    `mistake` is the name of the mistake, where it is a known one.
    """

    id: str
    status: str
    earned: float
    points: int
    verdict: Verdict
    mistake: str | None = None
    parts: dict[str, bool] = field(default_factory=dict)


def run(exercise: Exercise, answer: Callable, seed: int = 0) -> Report:
    """Checks an answer on every case that the seed gives."""
    if answer is exercise.reference:
        return Report(exercise.id, "borrowed", 0.0, exercise.points, Verdict("borrowed", _BORROWED))
    verdicts: list[Verdict] = []
    # Cases are small: one thread is quickest, and on a busy machine many threads are very slow.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with usual_torch():
            for case in exercise.cases(seed):
                outcome = observe_encoded(answer, case, exercise.reference)
                verdicts.append(judge(exercise, case, outcome, _suspects(exercise, verdicts)))
    finally:
        torch.set_num_threads(threads)
    return report(exercise, verdicts)


def _suspects(exercise: Exercise, verdicts: list[Verdict]) -> list[Mistake]:
    """The mistakes still worth comparing with, so that a check of a wrong answer stays quick.

    Once a case has named some, the later ones only choose among these; after three unexplained cases none is tried.
    """
    failed = [verdict for verdict in verdicts if not verdict.passed]
    named = next((set(verdict.mistakes) for verdict in failed if verdict.mistakes), None)
    if named is not None:
        return [mistake for mistake in exercise.mistakes if mistake.name in named] if len(named) > 1 else []
    return list(exercise.mistakes) if len(failed) < 3 else []


_NOT_ALL = "(That explains the case below. Others fail for another reason.)"
_BORROWED = "This is the library's own function: use it to go on. It earns no points."


def observe_encoded(answer: Callable, case: Case, reference: Callable | None) -> Outcome:
    """Observes an answer the way that a grader in another process does: bytes in, bytes out."""
    outcome = observe(answer, request(case), reference)
    try:
        return Outcome.decode(outcome.encode())
    except TooLarge as error:
        return Outcome(failure=Failure("unusable", f"Your answer returns too much data: {error}."))
    except Exception as error:  # an object that only looks like a list or a number
        return Outcome(failure=Failure("unusable", f"Your answer returns something that cannot be read: {error!r}."))


def report(exercise: Exercise, verdicts: list[Verdict]) -> Report:
    """Adds up the verdicts: a part is earned when all of its cases pass."""
    parts = {
        part: all(verdict.passed for verdict in verdicts if verdict.part == part) for part in exercise.points_by_part()
    }
    earned = sum(points for part, points in exercise.points_by_part().items() if parts[part])
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if not failed:
        return Report(exercise.id, "pass", float(earned), exercise.points, Verdict("pass"), parts=parts)
    shown, mistake = _explain(exercise, failed)
    status = "not_written" if shown.kind == "not_written" else "partly" if earned else "fail"
    return Report(exercise.id, status, float(earned), exercise.points, shown, mistake, parts)


def _explain(exercise: Exercise, failed: list[Verdict]) -> tuple[Verdict, str | None]:
    """The verdict to show, and the mistake that explains most of the failed cases.

    One case may not tell two mistakes apart (without negative weights, a forgotten absolute value does not show); all cases
    together usually do.
    """
    votes = Counter(name for verdict in failed for name in verdict.mistakes)
    if not votes:
        return failed[0], None
    most = max(votes.values())
    chosen = next(mistake for mistake in exercise.mistakes if votes[mistake.name] == most)
    shown = next(verdict for verdict in failed if chosen.name in verdict.mistakes)
    first = next(verdict for verdict in failed if verdict.part == shown.part)
    sentence = chosen.sentence if shown is first else f"{chosen.sentence} {_NOT_ALL}"
    return Verdict("mistake", sentence, shown.details, shown.mistakes, shown.part), chosen.name
