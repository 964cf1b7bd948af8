"""The judging side of a check: reads an outcome, never the answer, and says what is wrong and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch

from mechlib.checker.compare import WRONG_DEVICE, Difference, close, describe, numbers
from mechlib.checker.exercise import Case, Exercise, Mistake, Recipe
from mechlib.checker.observe import Failure, Outcome, observe, request

KEPT = 512  # outcomes of our own answers, which are small: cases are


@dataclass(frozen=True)
class Verdict:
    """The judgement on one case.

    `kind` is "pass"; "mistake" when a named mistake gives the same result; else what went wrong: one of the kinds
    of `Failure` or of `Difference`, or "changed_inputs".

    `mistakes` names every mistake that would have given this outcome; `run` chooses among them. `plain` is the
    sentence without them: what differs.
    """

    kind: str
    sentence: str = ""
    details: list[tuple[str, str]] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)
    part: str = ""
    plain: str = ""

    @property
    def passed(self) -> bool:
        return self.kind == "pass"


def judge(exercise: Exercise, case: Case, outcome: Outcome, suspects: Sequence[Mistake] | None = None) -> Verdict:
    """Judges what an answer did on one case.

    Args:
        suspects: the named mistakes to compare a wrong outcome with; all of the exercise's unless told.
    """
    if outcome.failure and _lacks_bfloat16(case, outcome.failure):
        return Verdict("pass", part=case.part)
    if outcome.failure:
        return Verdict(outcome.failure.kind, *_explain_failure(exercise, case, outcome.failure), part=case.part)
    expected = _run_own(exercise.reference, case)
    difference = compare_outcomes(exercise, case, expected, outcome)
    if difference is None:
        return Verdict("pass", part=case.part)
    suspects = exercise.mistakes if suspects is None else suspects
    mistakes = [mistake for mistake in suspects if is_mistake(exercise, case, mistake, outcome)]
    details = _details(case, difference, outcome)
    if mistakes:
        names = [mistake.name for mistake in mistakes]
        return Verdict("mistake", mistakes[0].sentence, details, names, case.part, difference.sentence)
    return Verdict(difference.kind, difference.sentence, details, part=case.part)


def _lacks_bfloat16(case: Case, failure: Failure) -> bool:
    """Whether PyTorch lacks an operation that the answer uses, for a case in bfloat16: no fault of the student's."""
    asked = any(isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16 for value in case.inputs.values())
    return asked and failure.kind == "raised" and "not implemented for 'BFloat16'" in failure.message


def compare_outcomes(exercise: Exercise, case: Case, expected: Outcome, got: Outcome) -> Difference | None:
    """The first difference in outputs, devices, facts known independently, or what happened to the inputs."""
    compare = case.compare or exercise.compare
    if difference := compare(expected.outputs, got.outputs):
        return difference
    if expected.devices != got.devices:
        sentence = f"The result should be on {' and '.join(expected.devices)}, where the inputs are."
        return Difference("device", sentence, " and ".join(expected.devices), " and ".join(got.devices))
    if case.truth and (violated := case.truth(got.outputs)):
        return Difference("truth", violated)
    if changed := close(expected.inputs_after, got.inputs_after):
        sentence = _LEFT_HOOKS if _left_hooks(got.inputs_after) else _CHANGED
        return Difference("changed_inputs", sentence, where=changed.where)
    return None


_CHANGED = "Your answer changes its inputs. Work on a copy: the caller may still need them."
_LEFT_HOOKS = (
    "Your answer leaves a hook on the model, which would act on everything that runs later. Use "
    "model.run_with_hooks(...) or `with model.hooks(...):`, which take theirs away."
)


def _left_hooks(inputs_after: Mapping[str, Any]) -> bool:
    return any(isinstance(value, dict) and value.get("hooks left") for value in inputs_after.values())


def _run_own(answer: Any, case: Case) -> Outcome:
    """What code of ours does on a case, sent through the same encoding as a student's."""
    return Outcome.decode(_own_outcome(answer, request(case)))


@lru_cache(maxsize=KEPT)
def _own_outcome(answer: Any, asked: bytes) -> bytes:
    """Same answer, same case, same bytes: what was run for one comparison is there for the next one."""
    return observe(answer, asked).encode()


def is_mistake(exercise: Exercise, case: Case, mistake: Mistake, outcome: Outcome) -> bool:
    """Whether a named mistake does on this case what the answer did."""
    if outcome.failure:
        return False
    wrong = _run_own(mistake.answer, case)
    if wrong.failure:
        return False
    try:
        return compare_outcomes(exercise, _without_truth(case), wrong, outcome) is None
    except (TypeError, KeyError, ValueError, RuntimeError):  # a comparison that expects a right answer's form
        return False


def _without_truth(case: Case) -> Case:
    return Case(case.inputs, case.drive, case.settings, case.part, case.note, case.compare)


def _explain_failure(exercise: Exercise, case: Case, failure: Failure) -> tuple[str, list[tuple[str, str]]]:
    name = exercise.name
    sentence = {
        "not_written": f"`{failure.message or name}` is not written yet. Replace `raise NotImplementedError` by your "
        f'code, run its cell, and run this one again. Stuck? hint("{exercise.id}")',
        "used_reference": f"Your answer calls the library's own `{name}`, which is what you are asked to write. "
        f'If you are stuck, borrow("{exercise.id}") hands it over openly, for no points.',
        "device": WRONG_DEVICE,
        "raised": "Your code raised an exception.",
    }.get(failure.kind, failure.message)
    details = [("exception", failure.message)] if failure.kind == "raised" else []
    if failure.line and failure.kind in ("raised", "device", "used_reference"):
        details.append(("your code", failure.line))
    if failure.kind == "raised":
        details.append(("called with", describe_inputs(case.inputs)))
    return sentence, details


def _details(case: Case, difference: Difference, outcome: Outcome) -> list[tuple[str, str]]:
    rows = [
        ("this case", case.note),
        ("called with", describe_inputs(case.inputs)),
        ("expected", difference.expected),
        ("got", difference.got),
        ("", difference.where),
        ("warning", "; ".join(outcome.warnings)),
        ("printed", outcome.printed.strip()),
    ]
    return [(label, text) for label, text in rows if text]


def describe_inputs(inputs: Mapping[str, Any]) -> str:
    """One line for what an answer was called with."""
    return ", ".join(f"{name} = {_short(value)}" for name, value in inputs.items())


def _short(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        if value.numel() <= 4 and value.ndim <= 1:
            return f"tensor([{numbers(value)}])" if value.ndim else f"tensor({numbers(value)})"
        return f"{str(value.dtype).removeprefix('torch.')} tensor {tuple(value.shape)}"
    if isinstance(value, Recipe):
        return f"{value.builder}({', '.join(f'{k}={_argument(v)}' for k, v in value.arguments.items())})"
    if isinstance(value, dict):
        return "{" + describe_inputs(value) + "}"
    return describe(value)


def _argument(value: Any) -> str:
    return str(value) if isinstance(value, str | int | float) else _short(value)
