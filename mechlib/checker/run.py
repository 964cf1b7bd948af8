"""A whole check: every case of an exercise, through both sides, into one report."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import torch

from mechlib.checker.encoding import TooLarge
from mechlib.checker.exercise import Case, Exercise, Mistake
from mechlib.checker.judge import Verdict, is_mistake, judge
from mechlib.checker.observe import Failure, Outcome, observe, request, usual_torch


@dataclass(frozen=True)
class Report:
    """What a check found out.

    `status` is "pass", "partly", "fail", "borrowed" or "not_written". `verdict` is the one to show: the first that did
    not pass. `mistake` is the name of the mistake, where it is a known one.
    """

    id: str
    status: str
    earned: float
    points: int
    verdict: Verdict
    mistake: str | None = None
    parts: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """One case, what the answer did on it, and the judgement."""

    case: Case
    outcome: Outcome
    verdict: Verdict


def run(exercise: Exercise, answer: Callable, seed: int = 0) -> Report:
    """Checks an answer on every case that the seed gives."""
    if answer is exercise.reference:
        return borrowed(exercise)
    with judging():
        cases = list(exercise.cases(seed))
        return judge_all(exercise, cases, (observe_encoded(answer, case, exercise.reference) for case in cases))


@contextlib.contextmanager
def judging() -> Iterator[None]:
    """PyTorch as checks need it, whatever the caller has made of it."""
    # Cases are small: one thread is quickest, and on a busy machine many threads are very slow.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with usual_torch():
            yield
    finally:
        torch.set_num_threads(threads)


def judge_all(exercise: Exercise, cases: Iterable[Case], outcomes: Iterable[Outcome]) -> Report:
    """Judges the outcomes of an answer, one for each case, in order."""
    trials: list[Trial] = []
    for case, outcome in zip(cases, outcomes, strict=True):
        verdict = judge(exercise, case, outcome, _suspects(exercise, trials, case.part))
        trials.append(Trial(case, outcome, verdict))
    return report(exercise, trials)


def borrowed(exercise: Exercise) -> Report:
    """The report of an answer that is the library's own."""
    return Report(exercise.id, "borrowed", 0.0, exercise.points, Verdict("borrowed", _BORROWED))


_BORROWED = "This is the library's own function: use it to go on. It earns no points."


def observe_encoded(answer: Callable, case: Case, reference: Callable | None) -> Outcome:
    """Observes an answer the way that a grader in another process does: bytes in, bytes out."""
    return Outcome.decode(encode_outcome(observe(answer, request(case), reference)))


def encode_outcome(outcome: Outcome) -> bytes:
    """The bytes of an outcome; one that cannot travel becomes a failure that can."""
    try:
        data = outcome.encode()
        Outcome.decode(data)
        return data
    except TooLarge as error:
        return Outcome(failure=Failure("unusable", f"Your answer returns too much data: {error}.")).encode()
    except Exception as error:  # an object that only looks like a list or a number
        reason = f"Your answer returns something that cannot be read: {error!r}."[:1000]
        return Outcome(failure=Failure("unusable", reason)).encode()


def report(exercise: Exercise, trials: list[Trial]) -> Report:
    """Adds up the verdicts: a part is earned when all of its cases pass."""
    parts = {
        part: all(trial.verdict.passed for trial in trials if trial.case.part == part)
        for part in exercise.points_by_part()
    }
    earned = float(sum(points for part, points in exercise.points_by_part().items() if parts[part]))
    failed = next((trial.verdict for trial in trials if not trial.verdict.passed), None)
    if failed is None:
        return Report(exercise.id, "pass", earned, exercise.points, Verdict("pass"), parts=parts)
    shown, mistake = _explain(exercise, trials, failed)
    status = "not_written" if shown.kind == "not_written" else "partly" if earned else "fail"
    return Report(exercise.id, status, earned, exercise.points, shown, mistake, parts)


def _suspects(exercise: Exercise, trials: list[Trial], part: str) -> list[Mistake]:
    """The mistakes worth comparing with on the next case, so that a check of a wrong answer stays quick.

    All of them until a case of this part has named some, but not after three cases that named none.
    """
    failed = [trial.verdict for trial in trials if trial.case.part == part and not trial.verdict.passed]
    named = any(verdict.mistakes for verdict in failed)
    return [] if named or len(failed) >= 3 else list(exercise.mistakes)


def _explain(exercise: Exercise, trials: list[Trial], failed: Verdict) -> tuple[Verdict, str | None]:
    """The verdict to show for an answer that failed, and the name of its mistake, if it is a known one.

    One case may look like a mistake by coincidence. A mistake that was really made does what the answer does on
    nearly every case of the part, also on those that pass; so the one that agrees most is chosen, and
    if that is no more than two thirds of the cases, none is claimed.
    """
    part = [trial for trial in trials if trial.case.part == failed.part]
    named = {name for trial in part for name in trial.verdict.mistakes}
    suspects = [mistake for mistake in exercise.mistakes if mistake.name in named]

    agreement = {mistake.name: _agreement(exercise, mistake, trials, failed.part) for mistake in suspects}
    chosen = max(suspects, key=lambda mistake: agreement[mistake.name], default=None)
    if chosen is None or agreement[chosen.name][0] <= 2 / 3:
        plain = failed.kind != "mistake"
        return failed if plain else replace(failed, kind="value", sentence=failed.plain), None
    shown = next(trial.verdict for trial in part if chosen.name in trial.verdict.mistakes)
    return replace(shown, sentence=chosen.sentence), chosen.name


def _agreement(exercise: Exercise, mistake: Mistake, trials: list[Trial], part: str) -> tuple[float, float]:
    """The share of cases on which the mistake does what the answer did: of those of one part, and of all. Where it runs
    (the device) does not count."""
    tried = [trial for trial in trials if trial.case.drive != "other_device"]
    told = [is_mistake(exercise, trial.case, mistake, trial.outcome) for trial in tried]
    of_part = [same for trial, same in zip(tried, told, strict=True) if trial.case.part == part]
    return _share(of_part), _share(told)


def _share(told: list[bool]) -> float:
    return sum(told) / len(told) if told else 0.0
