"""Sentences that cannot say what was not measured.

A finding is written twice: as it was found, and for the case that the numbers do not bear it out. The numbers choose.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Numbers = Mapping[str, Any]  # of one task: {model: what `measure` returned}


class Page:
    """Collects paragraphs, and counts the findings that did not hold."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.findings = 0
        self.failed: list[str] = []

    def add(self, *sentences: str) -> None:
        """A paragraph."""
        self.lines.append(" ".join(sentences))

    def finding(self, holds: bool, sentence: str, otherwise: str) -> str:
        """The sentence if it holds; else the other one, marked."""
        self.findings += 1
        if holds:
            return sentence
        self.failed.append(sentence)
        return f"*Not as expected:* {otherwise}"

    def text(self) -> str:
        return "\n\n".join(self.lines) + "\n"


def each(numbers: Numbers, read: Callable[[Any], float | str], spec: str = ".2f") -> str:
    """ "0.97 / 0.94": a number of every model, in their order."""
    values = [read(found) for found in numbers.values()]
    return " / ".join(value if isinstance(value, str) else number(value, spec) for value in values)


def number(value: float, spec: str = ".2f") -> str:
    """Without the minus of a zero."""
    text = format(value, spec)
    return text if float(text) else text.removeprefix("-")


def listing(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def in_all(numbers: Numbers, holds: Callable[[Any], bool]) -> bool:
    return all(holds(found) for found in numbers.values())


def head(place: Sequence[int]) -> str:
    return f"{place[0]}.{place[1]}"
