"""The machinery of checking: what an exercise is, and the two sides that judge an answer to it.

`observe` runs beside student code and returns plain data; `judge` reads that data and never sees the answer.
"""

from mechlib.checker.exercise import Case, Exercise, Mistake, Recipe
from mechlib.checker.judge import Verdict, judge
from mechlib.checker.observe import Outcome, observe
from mechlib.checker.run import Report, run

__all__ = ["Case", "Exercise", "Mistake", "Outcome", "Recipe", "Report", "Verdict", "judge", "observe", "run"]
