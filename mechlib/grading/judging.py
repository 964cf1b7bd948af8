"""From what the checks observed to verdicts: judge each exercise's outcomes, write the verdict into its check cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nbformat import NotebookNode
from nbformat.v4 import new_output

from mechlib import exercises
from mechlib.checker.card import card
from mechlib.checker.encoding import Unreadable
from mechlib.checker.exercise import Case, Exercise
from mechlib.checker.judge import Verdict
from mechlib.checker.observe import Outcome, observe, request
from mechlib.checker.run import Report, borrowed, judge_all, judging
from mechlib.grading.run import Run, explained_error

LONGEST_SENTENCE = 10_000  # characters; details quote what a student's code has returned


@dataclass(frozen=True)
class Verdicts:
    """What grading says about each exercise, in plain data that can be stored.

    status: pass, partly, fail, borrowed, not_written, stopped or no_answer.
    mistake: the name of the mistake, where it is a known one.
    """

    earned: dict[str, float] = field(default_factory=dict)
    status: dict[str, str] = field(default_factory=dict)
    mistake: dict[str, str] = field(default_factory=dict)


class Judge:
    """The exercises of a chapter with the cases that a seed gives, made once."""

    def __init__(self, names: Sequence[str], seed: int):
        self.exercises: dict[str, Exercise] = {name: exercises.get(name) for name in names}
        with judging():
            self.cases: dict[str, list[Case]] = {
                name: list(exercise.cases(seed)) for name, exercise in self.exercises.items()
            }

    def requests(self) -> dict[str, list[bytes]]:
        """The part of the cases that goes to the student's side."""
        return {name: [request(case) for case in cases] for name, cases in self.cases.items()}

    def settle(self, notebook: NotebookNode, run: Run) -> Verdicts:
        """Judge every exercise, and leave the verdict in its check cell as nbgrader reads it."""
        verdicts = Verdicts()
        for cell in notebook.cells:
            name = cell.metadata.get("check")
            if name is None:
                continue
            report = self.report(name, run)
            if report is None:
                earned, verdicts.status[name] = 0.0, "stopped" if cell.id in (run.died, *run.timed_out) else "no_answer"
                write_missing(cell, run)
            else:
                earned, verdicts.status[name] = report.earned, report.status
                write_report(cell, report)
            verdicts.earned[name] = earned
            if report and report.mistake:
                verdicts.mistake[name] = report.mistake
        return verdicts

    def report(self, name: str, run: Run) -> Report | None:
        """The judgement on an exercise; None if its check has not answered every case."""
        exercise, cases = self.exercises[name], self.cases[name]
        if name in run.borrowed:
            return borrowed(exercise)
        if len(run.outcomes.get(name, ())) != len(cases):
            return None
        try:
            outcomes = [Outcome.decode(data) for data in run.outcomes[name]]
            with judging():
                return judge_all(exercise, cases, outcomes)
        except Unreadable:
            run.forged.append(f"an outcome of {name} that no check sends")
        except Exception:  # a comparison that expects a right answer's form
            pass
        sentence = "Your answer gives something that cannot be compared with what it should give."
        return Report(name, "fail", 0.0, exercise.points, Verdict("unusable", sentence))


def warm_up(names: Sequence[str]) -> None:
    """Check an answer to each exercise once, in the fork server: PyTorch imports much when it is first used, and the
    models that cases are about stay in memory."""
    for name in names:
        exercise = exercises.get(name)
        for case in exercise.cases(0):
            observe(exercise.equivalents[0], request(case))


# ---- in the notebook


def write_report(cell: NotebookNode, report: Report) -> None:
    """The points as the cell's result, and the sentence that the student would have read.

    nbgrader gives the points that a cell's result names, 0 for an error, and full marks for nothing at all.
    """
    text = str(card(report))[:LONGEST_SENTENCE]
    if report.earned > 0 or report.status == "borrowed":
        verdict = [new_output("stream", name="stdout", text=f"{text}\n"), points(report.earned)]
    else:
        verdict = [new_output("error", ename="CheckFailed", evalue=report.verdict.sentence, traceback=[text])]
    cell.outputs = prints(cell) + verdict


def write_missing(cell: NotebookNode, run: Run) -> None:
    """Say why there is no verdict; what the cell itself has said about it stays, if it is an error."""
    errors = [output for output in cell.outputs if output.output_type == "error"][:1]
    if not errors:
        reason = "Python ended before this check ran" if run.died else "this check has not answered"
        errors = [explained_error("NoVerdict", f"{reason}; it counts as 0.")]
    cell.outputs = prints(cell) + errors


def prints(cell: NotebookNode) -> list[NotebookNode]:
    """What a cell printed. nbgrader takes anything on standard error for a failure, so a warning goes elsewhere."""
    kept = [output for output in cell.outputs if output.output_type == "stream"]
    for output in kept:
        output["name"] = "stdout"
    return kept


def points(earned: float) -> NotebookNode:
    return new_output("execute_result", data={"text/plain": repr(float(earned))}, execution_count=None)
