"""The third of the three numbers: answers by somebody who has not seen the cases."""

import importlib
from pathlib import Path

import pytest

from mechlib import exercises
from mechlib.checker import run

pytestmark = pytest.mark.student

TOPICS = sorted(path.stem for path in (Path(__file__).parent / "blind").glob("*.py"))
BLIND = {topic: importlib.import_module(f"blind.{topic}") for topic in TOPICS}
WRONG = [row for topic in TOPICS for row in BLIND[topic].WRONG]
RIGHT = [row for topic in TOPICS for row in BLIND[topic].RIGHT]


def answers(rows):
    return [pytest.param(row[0], row[2], id=f"{row[0]}-{row[1]}") for row in rows]


@pytest.mark.parametrize("id, answer", answers(WRONG))
def test_wrong_answers_are_rejected(id, answer):
    report = run(exercises.get(id), answer)
    assert report.status in ("fail", "partly")
    assert report.verdict.sentence


@pytest.mark.parametrize("id, answer", answers(RIGHT))
def test_right_answers_are_accepted(id, answer):
    assert run(exercises.get(id), answer).status == "pass"


@pytest.mark.parametrize("topic", TOPICS)
def test_the_ten_typical_ones_are_told_by_their_own_sentence(topic):
    typical, untold = BLIND[topic].WRONG[:10], getattr(BLIND[topic], "UNTOLD", set())
    assert {name for id, name, answer, _ in typical if run(exercises.get(id), answer).mistake is None} == untold
