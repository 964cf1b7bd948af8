"""What grading leaves behind: grades.csv, the table in the terminal, a page for who handed in no notebook."""

from __future__ import annotations

import csv
import html
import os
from dataclasses import dataclass, field
from pathlib import Path

GRADED, MANUAL = "graded", "needs manual grading"
PARTLY, NOT_STARTED = "partly", "not started"  # some exercises, or all, are as they were released
TIMED_OUT, KILLED, SUSPICIOUS = "timed out", "killed", "suspicious"
UNREADABLE, MISSING = "unreadable", "missing"
FAILED = "failed"  # by our own fault; the next run tries again

CALM = {GRADED: "green", MANUAL: "cyan", PARTLY: "yellow", NOT_STARTED: "yellow", MISSING: "dim"}  # the others are red


@dataclass
class Row:
    """One student's line in grades.csv."""

    student: str
    chapter: str
    max_score: float
    status: str = FAILED
    score: float = 0.0
    scores: dict[str, float | None] = field(default_factory=dict)  # by exercise or question; None: not yet read
    remarks: list[str] = field(default_factory=list)
    verdicts: dict[str, str] = field(default_factory=dict)  # by exercise: pass, partly, fail, borrowed, ...
    mistakes: dict[str, str] = field(default_factory=dict)  # by exercise: the name of the mistake, if it is a known one

    @property
    def borrowed(self) -> list[str]:
        return [name for name, verdict in self.verdicts.items() if verdict == "borrowed"]

    def as_dict(self) -> dict[str, str]:
        """The line as it stands in the file."""
        return {
            "student": self.student,
            "chapter": self.chapter,
            "status": self.status,
            "score": f"{self.score:g}",
            "max_score": f"{self.max_score:g}",
            **{name: "" if score is None else f"{score:g}" for name, score in self.scores.items()},
            "remarks": "; ".join(self.remarks),
        }


def write_grades(path: Path, rows: list[Row], keep_others: bool) -> None:
    """Put the rows into grades.csv. The rows of other chapters stay, and with `keep_others` those of other
    students of this chapter too."""
    new = [row.as_dict() for row in rows]
    replaced = {(row.student, row.chapter) for row in rows}
    chapters = {row.chapter for row in rows}
    kept = [
        row
        for row in read_grades(path)
        if (row["student"], row["chapter"]) not in replaced and (keep_others or row["chapter"] not in chapters)
    ]
    table = sorted(kept + new, key=lambda row: (row["chapter"], row["student"]))
    columns = list(dict.fromkeys(column for row in table for column in row if column != "remarks")) + ["remarks"]
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(table)
    os.replace(partial, path)


def read_grades(path: Path) -> list[dict[str, str]]:
    """The rows of an earlier grades.csv, if there is one that we wrote."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [dict(row) for row in csv.DictReader(file)]
    return rows if all("chapter" in row and "student" in row for row in rows) else []


def write_page(path: Path, row: Row, message: str) -> None:
    """A feedback page for a submission that could not be run: what happened and what to do."""
    remarks = "".join(f"<li>{html.escape(remark)}</li>" for remark in row.remarks)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(
        f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(row.chapter)}</title></head>
<body style="font-family: sans-serif; max-width: 40em; margin: 3em auto">
<h1>{html.escape(row.chapter)}: 0 / {row.max_score:g}</h1>
<p>{html.escape(message)}</p>
<ul>{remarks}</ul>
</body></html>
""",
        encoding="utf-8",
    )


def table(rows: list[Row]) -> str:
    """The rows for the terminal, the first remark of each only."""
    lines = [("student", "status", "score", "remarks")]
    for row in rows:
        more = f" (and {len(row.remarks) - 1} more)" if len(row.remarks) > 1 else ""
        remark = (row.remarks[0] if row.remarks else "") + more
        lines.append((row.student, row.status, f"{row.score:g}/{row.max_score:g}", remark))
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    return "\n".join(
        "  ".join([*(text.ljust(width) for text, width in zip(line, widths)), line[3]]).rstrip() for line in lines
    )
