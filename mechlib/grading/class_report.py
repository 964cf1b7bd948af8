"""One page about a class: how the scores are spread, which exercises failed, and which mistakes were made, by name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from jinja2 import Environment

from mechlib import exercises
from mechlib.grading.report import CALM, MISSING, Row
from mechlib.grading.store import write_whole

BINS = 10
EXAMPLES = 5  # students named beside a mistake


@dataclass(frozen=True)
class ExerciseCount:
    """How often an exercise got each verdict."""

    name: str
    counts: Counter[str]
    mean: float  # points earned, over those who handed in

    @property
    def failed(self) -> int:
        return sum(count for verdict, count in self.counts.items() if verdict not in ("pass", "borrowed"))


@dataclass
class MistakeCount:
    """Who made a named mistake."""

    exercise: str
    name: str
    sentence: str
    students: list[str] = field(default_factory=list)


def exercise_counts(rows: Sequence[Row]) -> list[ExerciseCount]:
    """Every exercise and question, the one that failed most often first."""
    handed_in = [row for row in rows if row.status != MISSING]
    names = dict.fromkeys(name for row in handed_in for name in row.verdicts)
    counts = []
    for name in names:
        earned = [row.scores.get(name) or 0.0 for row in handed_in]
        verdicts = Counter(row.verdicts.get(name, "no_answer") for row in handed_in)
        counts.append(ExerciseCount(name, verdicts, math.fsum(earned) / len(earned)))
    return sorted(counts, key=lambda count: -count.failed)


def mistake_counts(rows: Sequence[Row]) -> list[MistakeCount]:
    """Every named mistake that somebody made, the most frequent first."""
    found: dict[tuple[str, str], MistakeCount] = {}
    for row in rows:
        for exercise, name in row.mistakes.items():
            if (exercise, name) not in found:
                sentence = next(
                    (known.sentence for known in exercises.get(exercise).mistakes if known.name == name), ""
                )
                found[exercise, name] = MistakeCount(exercise, name, sentence)
            found[exercise, name].students.append(row.student)
    return sorted(found.values(), key=lambda mistake: -len(mistake.students))


def histogram(rows: Sequence[Row]) -> list[tuple[str, int]]:
    """How many scores lie in each tenth of what can be reached; the last one has both its ends."""
    bins = [0] * BINS
    top = max((row.max_score for row in rows), default=0) or 1
    for row in rows:
        bins[min(int(BINS * row.score / top), BINS - 1)] += 1
    edges = [top * number / BINS for number in range(BINS + 1)]
    return [(f"{low:g} to {high:g}", count) for (low, high), count in zip(pairwise(edges), bins, strict=True)]


def write_report(path: Path, chapter: str, rows: Sequence[Row]) -> None:
    """Write the page."""
    graded = [row for row in rows if row.status != MISSING]
    page = Environment(autoescape=True).from_string(PAGE)
    html = page.render(
        chapter=chapter,
        rows=rows,
        statuses=Counter(row.status for row in rows).most_common(),
        mean=math.fsum(row.score for row in graded) / len(graded) if graded else 0,
        top=max((row.max_score for row in rows), default=0),
        histogram=histogram(graded),
        exercises=exercise_counts(rows),
        mistakes=mistake_counts(rows),
        attention=[row for row in rows if row.status not in CALM],
        borrowed=[row for row in rows if row.borrowed],
        examples=EXAMPLES,
    )
    write_whole(path, html.encode())


PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{ chapter }}: the class</title>
<style>
body { font-family: sans-serif; max-width: 56em; margin: 2em auto; padding: 0 1em; line-height: 1.45 }
table { border-collapse: collapse } td, th { padding: .2em .8em .2em 0; text-align: left; vertical-align: top }
.bar { background: #3a7fc4; height: 1em; display: inline-block } .few { color: #777 } td.n { text-align: right }
</style></head><body>
<h1>{{ chapter }}</h1>
<p>{{ rows|length }} students: {% for status, count in statuses %}{{ count }} {{ status }}{{ ", " if not loop.last }}
{%- endfor %}. Mean score of those who handed in: {{ "%.1f"|format(mean) }} of {{ "%g"|format(top) }}.</p>
<h2>Scores</h2>
<table>{% for label, count in histogram %}
<tr><td class="n">{{ label }}</td><td><span class="bar" style="width: {{ count * 300 // (rows|length) }}px"></span>
{{ count or "" }}</td></tr>{% endfor %}</table>
<h2>The exercises, most often failed first</h2>
<table><tr><th>exercise</th><th>passed</th><th>partly</th><th>failed</th><th>not written</th><th>stopped or silent</th>
<th>borrowed</th><th>mean points</th></tr>{% for one in exercises %}
<tr><td>{{ one.name }}</td>{% for verdict in ("pass", "partly", "fail", "not_written") -%}
<td class="n">{{ one.counts[verdict] or "" }}</td>{% endfor -%}
<td class="n">{{ (one.counts["stopped"] + one.counts["no_answer"]) or "" }}</td>
<td class="n">{{ one.counts["borrowed"] or "" }}</td><td class="n">{{ "%.2f"|format(one.mean) }}</td></tr>{% endfor %}
</table>
<h2>The mistakes most often made</h2>
{% if mistakes %}<table><tr><th>students</th><th>exercise</th><th>mistake</th><th>what they read</th></tr>
{% for one in mistakes %}<tr>
<td class="n">{{ one.students|length }}</td><td>{{ one.exercise }}</td><td>{{ one.name }}</td>
<td>{{ one.sentence }}<br><span class="few">{{ one.students[:examples]|join(", ") }}
{%- if one.students|length > examples %} and others{% endif %}</span></td></tr>{% endfor %}</table>
{% else %}<p>None that the checks know by name.</p>{% endif %}
<h2>To look at</h2>
{% if attention or borrowed %}<table>
{% for row in attention %}<tr><td>{{ row.student }}</td><td>{{ row.status }}</td>
<td>{{ row.remarks|join("; ") }}</td></tr>{% endfor %}
{% for row in borrowed %}<tr><td>{{ row.student }}</td><td>borrowed</td>
<td>{{ row.borrowed|join(", ") }}</td></tr>{% endfor %}</table>{% else %}<p>Nothing.</p>{% endif %}
</body></html>
"""
